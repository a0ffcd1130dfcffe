"""Self-supervised language modeling on corpora: causal, prefix, span corruption, masked, next sentence."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lm_jax import text_config
from lm_jax.data import pipeline, preparation
from lm_jax.strict import require
from lm_jax.tasks.base import Batch, Task


class Text(Task):
  """Sequences of corpora, made on the host by `lm_jax.data`.

  Attributes:
    prepared: the tokenizer and the corpora as tokens.
  """

  is_fed = True

  def __init__(self, config: text_config.Text):
    self.config = config
    self.choices = np.arange(config.vocab_size, dtype=np.int32)
    self.chance = 1 / config.vocab_size
    self.shots = None
    self.answer_length = 1
    self.window = 1
    self.prepared = preparation.prepare(config)
    self.data_digest = self.prepared.digest
    if config.objective == "causal_lm":
      self.bytes_per_token = self.prepared.bytes_per_token("test")
    self._train = self.prepared.sequences("train")

  def save_assets(self, folder: Path) -> None:
    """Writes the tokenizer, which `tokenizers.load` reads, into FOLDER/tokenizer."""
    if not (folder / "tokenizer").exists():
      self.prepared.tokenizer.save(folder / "tokenizer")

  def batches(self, seed: int, batch_size: int, rows: slice, first: int) -> Iterator[Batch]:
    dataset = self._train.dataset(seed)
    for fields in pipeline.batches(dataset, batch_size, rows, first):
      yield Batch(**fields)

  def evaluation(self, num_examples: int, seed: int) -> Batch:
    test = self.prepared.sequences("test")
    there = sum(map(len, test.sources))
    require(num_examples <= there, "config.eval.num_examples", num_examples,
            f"at most {there}, the sequences in the test split")  # fmt: skip
    return Batch(**pipeline.first_batch(test.dataset(seed), num_examples))
