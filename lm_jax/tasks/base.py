"""What a task is: data plus two small functions (sample, score), all pure.

A task's geometry (vocabulary, sequence length, where labels stand) is in its config class; here is how
its sequences are drawn and what an ideal learner would score on them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_jax.task_configs import TaskConfig

Split = Literal["train", "test"]


class Batch(struct.PyTreeNode):
  """Sequences with what is to be predicted at each position.

  Attributes:
    tokens: int32 [B, T], what the model reads.
    targets: int32 [B, T], what it should predict at each position.
    weights: float32 [B, T], 1 where a prediction counts and 0 elsewhere.

  None where a task has no use for them:
    positions: int32 [B, P], ascending, where predictions are made; default: at the task's label positions.
    documents: int32 [B, T], the document of each token; tokens see those of their own only. Padding is one.
    prefix: bool [B, T], tokens that all of their document may see, also those before them (prefix LM).
    segments: int32 [B, T], which segment embedding a token has (BERT's A and B).
    next_sentence: int32 [B], 1 where the second segment followed the first in the text, 0 where not.
  """

  tokens: jax.Array
  targets: jax.Array
  weights: jax.Array
  positions: jax.Array | None = None
  documents: jax.Array | None = None
  prefix: jax.Array | None = None
  segments: jax.Array | None = None
  next_sentence: jax.Array | None = None


class Task(Protocol):
  """A source of sequences and the yardsticks for them; tasks subclass it and take its defaults.

  Labels stand at `config.label_positions` (P of them): `len(shots)` queries with `answer_length`
  consecutive tokens each, P = len(shots) * answer_length.

  Attributes:
    config: the geometry and parameters.
    choices: int32 [C], the tokens an answer token may be; the whole vocabulary for language modelling.
    chance: accuracy of the best guess that looks at nothing, for one answer token; 1/C where all choices are
      equally likely.
    shots: int32 [Q], demonstrations seen before each query; None where the notion has no meaning.
    answer_length: tokens of one answer.
    window: the summary over shots takes the last `window` queries together, and exact match there
      asks that all of them be right.
    arrays: device data that `sample` reads (a corpus), `()` for procedural tasks. Passed to `sample`
      as an argument so that a jitted program does not carry it as a constant.
    data_digest: hash of the data, "" where there are none.
    bytes_per_token: of causal language modeling, by which nats a token become bits a byte; else None.
    is_fed: whether batches are made on the host (`batches`, `evaluation`) and not by `sample`.
  """

  config: TaskConfig
  choices: np.ndarray
  chance: float
  shots: np.ndarray | None
  answer_length: int
  window: int
  arrays: Any = ()
  data_digest: str = ""
  bytes_per_token: float | None = None
  is_fed: bool = False

  def sample(self, key: jax.Array, batch_size: int, arrays: Any = (), split: Split = "train") -> Batch:
    """Draws `batch_size` sequences; a pure function of its arguments. Of a task that is not fed."""
    del key, batch_size, arrays, split
    raise NotImplementedError(f"{type(self).__name__} is fed: its batches are made on the host")

  def batches(self, seed: int, batch_size: int, rows: slice, first: int) -> Iterator[Batch]:
    """Yields rows of the batches of steps `first`, `first` + 1, ... as numpy, without end.

    A pure function of its arguments; of a fed task.
    """
    raise NotImplementedError(f"{type(self).__name__} is not fed")

  def evaluation(self, num_examples: int, seed: int) -> Batch:
    """Returns sequences of the test split."""
    key = jax.random.key(seed)
    return jax.jit(self.sample, static_argnums=(1, 3))(key, num_examples, self.arrays, "test")

  def save_assets(self, folder: Path) -> None:
    """Writes what a trained model needs besides its parameters to be used, into the folder of a run."""
    del folder

  def bayes_predict(self, batch: Batch) -> jax.Array | None:
    """Returns the exact posterior predictive over the choices, float32 [B, P, C], or None."""
    del batch
    return None

  def baseline_predict(self, batch: Batch) -> jax.Array | None:
    """Returns what a simpler, half-right predictor would say, float32 [B, P, C], or None."""
    del batch
    return None

  def parts(self, batch: Batch) -> dict[str, np.ndarray]:
    """Returns {name: bool [B]}, sequences of an evaluation set that are also scored on their own.

    Rows of a part are those of a task `NAME_PART`, and sum up the task's `window`.
    """
    del batch
    return {}

  def bayes_accuracy(self) -> np.ndarray | None:
    """Returns the exact accuracy of the Bayes-optimal predictor, float64 [Q], or None if unknown."""
    return None


def next_token_batch(sequence_BS: jax.Array, positions: Sequence[int]) -> Batch:
  """Returns the batch that reads all but the last of S = T + 1 tokens and predicts all but the first.

  Args:
    sequence_BS: integer [B, T + 1].
    positions: where, of 0..T-1, a prediction counts.
  """
  sequence_BS = sequence_BS.astype(jnp.int32)
  tokens_BT = sequence_BS[:, :-1]
  weights_T = np.zeros(tokens_BT.shape[1], np.float32)
  weights_T[list(positions)] = 1
  return Batch(
    tokens=tokens_BT,
    targets=sequence_BS[:, 1:],
    weights=jnp.broadcast_to(weights_T, tokens_BT.shape),
  )
