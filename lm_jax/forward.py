"""Logits and last hidden states of whole sequences, by few programs.

Sequences are padded at the end to a power of two, and so is their number; a sequence's numbers do not depend
on what else is given, but for the last bits of float32.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from lm_jax.generate import bucket
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig

MIN_LENGTH = 16  # tokens
MAX_ROWS, MAX_TOKENS, MAX_FLOATS = 64, 2**13, 2**26  # of a dispatch; floats of what it returns


def logits(c: ModelConfig, params: Any, tokens_BT: np.ndarray) -> np.ndarray:
  """Returns float32 [B, T, V]."""
  out_BTV = np.empty((*tokens_BT.shape, c.vocab_size), np.float32)
  _fill(c, params, tokens_BT, out_BTV)
  return out_BTV


def hidden(c: ModelConfig, params: Any, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
  """Returns the last hidden states of every sequence, after the final norm, float32 [T, D] each."""
  bare = dataclasses.replace(c, lm_head=False, next_sentence_head=False)
  out = [np.empty((len(sequence), c.d_model), np.float32) for sequence in sequences]
  _fill(bare, params, sequences, out)
  return out


def _fill(c: ModelConfig, params: Any, sequences: Sequence[Sequence[int]], out: Sequence[np.ndarray]) -> None:
  """Writes what the model gives for every sequence to its array of `out`, [T, X]."""

  def length(i: int) -> int:
    return bucket(len(sequences[i]), MIN_LENGTH, c.context_length)

  width = c.vocab_size if c.lm_head else c.d_model
  order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
  for T, of_length in itertools.groupby(order, key=length):
    most = _power_below(min(MAX_ROWS, MAX_TOKENS // T, MAX_FLOATS // (T * width)))
    same = list(of_length)
    for start in range(0, len(same), most):
      part = same[start : start + most]
      out_BTX = np.asarray(_run(c, params, [sequences[i] for i in part], T, bucket(len(part), 1, most)))
      for i, out_TX in zip(part, out_BTX, strict=False):  # the rest are padding
        out[i][:] = out_TX[: len(sequences[i])]


def _power_below(n: int) -> int:
  return 1 << (max(n, 1).bit_length() - 1)


def _run(c: ModelConfig, params: Any, sequences: Sequence[Sequence[int]], T: int, B: int) -> Array:
  tokens_BT, documents_BT = np.zeros((2, B, T), np.int32)
  for b, sequence in enumerate(sequences):
    tokens_BT[b, : len(sequence)], documents_BT[b, : len(sequence)] = sequence, 1
  # No token of a causal model sees what is after it, so padding there needs no mask.
  return _apply(c, params, tokens_BT, None if c.causal else documents_BT)


@functools.partial(jax.jit, static_argnums=0)
def _apply(
  c: ModelConfig, params: Any, tokens_BT: Array, documents_BT: Array | None
) -> Float[Array, "B T V"] | Float[Array, "B T D"]:
  return Transformer(c).apply({"params": params}, tokens_BT, documents_BT=documents_BT)
