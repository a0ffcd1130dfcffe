"""Scores of language modeling on a fixed set of sequences: nats a token, bits a byte, next sentences.

Definitions, over the tokens that are predicted:
  nll             mean -log p(token), nats.
  accuracy        share of tokens that have the largest logit.
  bits_per_byte   nll in bits, over the mean bytes of a token: the same whatever the tokenizer. Causal LM.
  icl_score       mean nll of a sequence's last tenth less that of the tenth around its first tenth (tokens
                  5 % to 15 %): below 0 where a model makes use of context (Olsson et al., arXiv:2209.11895,
                  whose tokens are the 500th and the 50th of 512). Causal LM that fills its sequences.
  next_sentence_accuracy, next_sentence_nll   of whether the second segment followed the first; chance 1/2.
Standard errors are over sequences; a mean over tokens of sequences of unequal length is a ratio, whose error
is the linearized one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import kernels, metrics, objectives
from lm_jax.config import Config
from lm_jax.model import Transformer
from lm_jax.scores import Score
from lm_jax.tasks.base import Batch, Task

NEXT_SENTENCE = ("next_sentence_accuracy", "next_sentence_nll")
_LEAST_FOR_ICL = 40  # predicted tokens; a tenth of fewer is too few


def make_score_batch(config: Config) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  """Returns score(params, batch) -> float32 arrays: nll and accuracy [B, P], of next sentences [B]."""
  model, positions = Transformer(config.model), config.task.label_positions

  def score_batch(params: Any, batch: Batch) -> dict[str, jax.Array]:
    logits, next_sentence = objectives.predict(model, params, batch, positions), None
    if batch.next_sentence is not None:
      logits, next_sentence = logits
    targets = objectives.at_positions(batch.targets, batch, positions)
    scores = {"nll": kernels.token_nll(logits, targets), "accuracy": logits.argmax(-1) == targets}
    if next_sentence is not None:
      right = next_sentence.argmax(-1) == batch.next_sentence
      scores |= zip(
        NEXT_SENTENCE, (right, kernels.token_nll(next_sentence, batch.next_sentence)), strict=True
      )
    return {name: value.astype(jnp.float32) for name, value in scores.items()}

  return score_batch


def aggregate(scores: dict[str, np.ndarray], task: Task) -> list[Score]:
  """Turns scores [N, P] (NaN where nothing is predicted), of next sentences [N, 1], into means."""
  nll = token_mean("nll", scores["nll"])
  means = [nll, token_mean("accuracy", scores["accuracy"])]
  if task.bytes_per_token is not None:
    to_bits = 1 / (np.log(2) * task.bytes_per_token)
    error = None if nll.stderr is None else nll.stderr * to_bits
    means.append(Score("bits_per_byte", nll.value * to_bits, error, nll.n_items))
    means += _icl_score(scores["nll"])
  for name in NEXT_SENTENCE:
    if name in scores:
      chance = 0.5 if name == "next_sentence_accuracy" else None
      means.append(Score(name, *metrics.mean_and_stderr(scores[name].reshape(-1)), chance=chance))
  return means


def token_mean(name: str, value_NP: np.ndarray) -> Score:
  """Returns the mean over all tokens that are there, and its error over sequences."""
  there = ~np.isnan(value_NP)
  count_N, sum_N = there.sum(1), np.where(there, value_NP, 0).sum(1, dtype=np.float64)
  N, mean = len(count_N), sum_N.sum() / count_N.sum()
  residual_N = sum_N - mean * count_N
  stderr = np.sqrt((residual_N**2).sum() / (N - 1) / N) / count_N.mean() if N > 1 else None
  return Score(name, float(mean), None if stderr is None else float(stderr), N)


def _icl_score(nll_NP: np.ndarray) -> list[Score]:
  P = nll_NP.shape[1]
  if np.isnan(nll_NP).any() or P < _LEAST_FOR_ICL:
    return []
  early, late = slice(round(0.05 * P), round(0.15 * P)), slice(round(0.9 * P), P)
  difference_N = nll_NP[:, late].mean(1) - nll_NP[:, early].mean(1)
  return [Score("icl_score", *metrics.mean_and_stderr(difference_N))]
