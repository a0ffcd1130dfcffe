"""All that a text config needs before training: its tokenizer, and its corpora as tokens on disk.

Made once, in the cache; later runs, and other processes at the same time, find it there.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

from lm_jax import environment, strict, tokenizers
from lm_jax.data import corpora, sequences, token_store
from lm_jax.data.locks import locked
from lm_jax.data.progress import Progress
from lm_jax.data.token_store import TokenStore
from lm_jax.text_config import Text, TokenizerConfig, special_ids
from lm_jax.tokenizers import Tokenizer

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A text config's data.

  Attributes:
    ids: all special tokens.
    streams: of every corpus, by split.
    digest: of tokenizer and corpora.
  """

  config: Text
  tokenizer: Tokenizer
  ids: dict[str, int]
  streams: dict[str, list[TokenStore]]
  digest: str

  def sequences(self, split: str) -> sequences.Sequences:
    t = self.tokenizer
    return sequences.Sequences(self.config, self.streams[split], self.ids, t.pieces(), t.word_starts())

  def bytes_per_token(self, split: str) -> float:
    """Returns UTF-8 bytes of text a token of the stream, separators included, as corpora are mixed."""
    streams = self.streams[split]
    weights = self.config.weights or [len(stream.tokens) for stream in streams]
    means = [stream.num_bytes / len(stream.tokens) for stream in streams]
    return sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)


@functools.lru_cache(maxsize=4)
def prepare(config: Text, *, quiet: bool = True) -> Prepared:
  """Returns the data of a resolved text config, made if the cache does not hold it.

  Args:
    quiet: without progress on stderr.
  """
  sources = [corpora.open_corpus(name, config.text_field, quiet=quiet) for name in config.corpus]
  for source in sources:
    source.require_splits(*SPLITS)
  tokenizer = make_tokenizer(config.tokenizer, sources, quiet=quiet)
  ids = special_ids(config, tokenizer.specials)
  between = ids[sequences.separator(config)]
  by_corpus = [token_store.prepare(source, tokenizer, between, quiet=quiet) for source in sources]
  streams = {split: [stores[split] for stores in by_corpus] for split in SPLITS}
  digest = strict.digest([tokenizer.digest, *(source.digest for source in sources)], 16)
  return Prepared(config, tokenizer, ids, streams, digest)


def make_tokenizer(
  config: TokenizerConfig, sources: Sequence[corpora.Corpus], *, quiet: bool = True
) -> Tokenizer:
  """Returns the tokenizer of a config, trained on the training split of corpora if it is of that kind."""
  if config.kind in ("bytes", "file"):
    return tokenizers.make(config)
  name = strict.digest([config.kind, config.vocab_size, *(source.digest for source in sources)], 16)
  folder = environment.cache_dir() / "tokenizers" / name
  folder.parent.mkdir(parents=True, exist_ok=True)
  if not folder.is_dir():
    with locked(folder.parent / f"{name}.lock"):
      if not folder.is_dir():
        _train(config, sources, folder, quiet=quiet)
  return tokenizers.load(folder)


def _train(config: TokenizerConfig, sources: Sequence[corpora.Corpus], folder: Path, *, quiet: bool) -> None:
  texts = itertools.chain.from_iterable(source.texts("train") for source in sources)
  total = sum(source.sizes["train"].num_bytes for source in sources)
  unfinished = folder.with_name(f"incomplete.{folder.name}")
  with Progress(f"training a {config.kind} tokenizer", total, quiet=quiet) as progress:
    before = 0

    def read_so_far(characters: int) -> None:
      nonlocal before
      progress.advance(characters - before)
      before = characters

    tokenizers.train(config, texts, on_progress=read_so_far).save(unfinished)
  unfinished.replace(folder)
