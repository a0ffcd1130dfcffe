"""Which token comes next, given logits: as pure functions, whose settings are data and not program.

What is left out is left out by a threshold on the probability: that of the k-th most likely token, that at
which a set of total p is complete, or a share of the largest. Thresholds are found by bisection over the
bits of float32, which is exact and takes 31 passes over the vocabulary; a sort of it takes a hundred times
as long on a CPU. A draw takes one random number and the running sum of probabilities, in two levels.

Letters: B sequences, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from lm_jax.generation_config import GenerationConfig

_STEPS = 31  # bits of a float that is not negative
_SEGMENT = 256  # probabilities that a draw sums one by one
_EXCLUDED = -np.inf


@struct.dataclass
class Settings:
  """The numbers of a GenerationConfig; those that are not set have the value that leaves all tokens in."""

  temperature: Float[Array, ""]
  top_k: Int[Array, ""]
  top_p: Float[Array, ""]
  min_p: Float[Array, ""]
  repetition_penalty: Float[Array, ""]


def settings(g: GenerationConfig) -> Settings:
  most = np.iinfo(np.int32).max
  return Settings(
    np.float32(g.temperature), np.int32(most if g.top_k is None else min(g.top_k, most)),
    np.float32(1 if g.top_p is None else g.top_p), np.float32(g.min_p or 0),
    np.float32(g.repetition_penalty),
  )  # fmt: skip


def choose(
  logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], s: Settings, keys_B: Key[Array, "B"]
) -> Int[Array, "B"]:
  """Returns the next token of every sequence.

  Args:
    seen_BV: the tokens that the repetition penalty is for.
    keys_B: of the draws, a fresh one each time.
  """
  logits_BV = penalized(logits_BV, seen_BV, s.repetition_penalty)

  def draw(logits_BV: Array) -> Array:
    p_BV = probabilities(logits_BV, s)
    return jax.vmap(drawn)(p_BV, jax.vmap(jax.random.uniform)(keys_B))

  def most_likely(logits_BV: Array) -> Array:
    return logits_BV.argmax(-1)

  return jax.lax.cond(s.temperature > 0, draw, most_likely, logits_BV).astype(jnp.int32)


def penalized(
  logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty: Float[Array, ""]
) -> Float[Array, "B V"]:
  """Returns logits, those of seen tokens divided by a penalty, or multiplied where they are negative."""
  change = jnp.where(logits_BV > 0, 1 / penalty, penalty)
  return jnp.where(seen_BV, logits_BV * change, logits_BV)


def probabilities(logits_BV: Float[Array, "B V"], s: Settings) -> Float[Array, "B V"]:
  """Returns what a token is drawn from; each filter looks at what the one before it has left."""
  logits_BV = logits_BV / s.temperature
  for is_set, threshold in (
    (s.top_k < logits_BV.shape[-1], lambda p_BV: kth_largest(p_BV, s.top_k)),
    (s.top_p < 1, lambda p_BV: nucleus_edge(p_BV, s.top_p)),
    (s.min_p > 0, lambda p_BV: s.min_p * p_BV.max(-1, keepdims=True)),
  ):
    logits_BV = jax.lax.cond(is_set, lambda x, edge=threshold: _kept(x, edge), lambda x: x, logits_BV)
  return jax.nn.softmax(logits_BV)


def _kept(logits_BV: Array, edge: Callable[[Array], Array]) -> Float[Array, "B V"]:
  p_BV = jax.nn.softmax(logits_BV)
  return jnp.where(p_BV >= edge(p_BV), logits_BV, _EXCLUDED)


def kth_largest(p_BV: Float[Array, "B V"], k: Int[Array, ""]) -> Float[Array, "B 1"]:
  """Returns the largest number that at least k probabilities reach."""
  return _bisect(p_BV, lambda reach_BV: reach_BV.sum(-1) >= k)


def nucleus_edge(p_BV: Float[Array, "B V"], total: Float[Array, ""]) -> Float[Array, "B 1"]:
  """Returns the largest number such that the probabilities that reach it sum to at least `total`."""
  return _bisect(p_BV, lambda reach_BV: jnp.where(reach_BV, p_BV, 0).sum(-1) >= total)


def _bisect(p_BV: Array, holds: Callable[[Array], Array]) -> Float[Array, "B 1"]:
  """Returns the largest float32 x for which holds(p >= x) [B]; it must hold for 0.

  Floats that are not negative are in the order of their bits, read as integers.
  """

  def as_float(bits_B: Array) -> Array:
    return jax.lax.bitcast_convert_type(bits_B, jnp.float32)[:, None]

  def step(i: Array, bits_B: Array) -> Array:
    raised_B = bits_B | (1 << (_STEPS - 1 - i))
    return jnp.where(holds(p_BV >= as_float(raised_B)), raised_B, bits_B)

  return as_float(jax.lax.fori_loop(0, _STEPS, step, jnp.zeros(p_BV.shape[0], jnp.int32)))


def drawn(p_V: Float[Array, "V"], u: Float[Array, ""]) -> Int[Array, ""]:
  """Returns the first token at which the running sum of probabilities exceeds u, in [0, 1), of their total.

  A token of probability 0 is never drawn. Sums are over segments, and then within the one.
  """
  p_SX = jnp.pad(p_V, (0, -len(p_V) % _SEGMENT)).reshape(-1, _SEGMENT)
  sums_S = p_SX.sum(-1)
  segment, before = _first_beyond(sums_S, u * sums_S.sum())
  token, _ = _first_beyond(p_SX[segment], u * sums_S.sum() - before)
  return segment * _SEGMENT + token


def _first_beyond(x_N: Float[Array, "N"], target: Float[Array, ""]) -> tuple[Array, Array]:
  """Returns the index of the first x > 0 at which the running sum exceeds `target`, and the sum before it.

  Rounding may leave none; it is then the last x > 0.
  """
  ends_N = jnp.cumsum(x_N)
  beyond_N = (ends_N > target) & (x_N > 0)
  last = len(x_N) - 1 - (x_N[::-1] > 0).argmax()
  index = jnp.where(beyond_N.any(), beyond_N.argmax(), last)
  return index, ends_N[index] - x_N[index]
