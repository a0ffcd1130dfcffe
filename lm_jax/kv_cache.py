"""Keys and values of tokens already read, so that a token is read once: prefill, then decode.

A cache has S slots in a row, of which the first `length` are taken, by all sequences of a batch alike. A
sequence shorter than others begins later: it is padded on the left, and does not see what is before its
`first` slot. Positions count from there, so it gets the numbers that it would get alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lm_jax import layers
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig


@struct.dataclass
class KVCache:
  """Attributes:
  layers: the "cache" collection of a Transformer: of each block, keys and values [B, K, S, H]; of blocks
    that are scanned, [L, B, K, S, H].
  first_B: the slot of each sequence's first token.
  length: slots taken, an int32 scalar, or an int where it is known when a program is made: then nothing is
    read from an empty cache, and a prompt costs what it costs without one.
  """

  layers: Any
  first_B: Int[Array, "B"]
  length: Int[Array, ""] | int

  @property
  def num_slots(self) -> int:
    return jax.tree.leaves(self.layers)[0].shape[-2]


def empty(c: ModelConfig, first_B: Int[Array, "B"], num_slots: int) -> KVCache:
  """Returns a cache of `num_slots`, none of them taken."""
  shape = (first_B.shape[0], c.num_kv_heads, num_slots, c.head_dim)

  def block(*axes: int) -> dict[str, Any]:
    return {"attention": {name: jnp.zeros((*axes, *shape), c.dtype) for name in ("keys", "values")}}

  names = {"blocks": block(c.num_layers)} if c.scan_layers else {}
  names |= {} if c.scan_layers else {f"block_{i}": block() for i in range(c.num_layers)}
  return KVCache(names, jnp.asarray(first_B, jnp.int32), 0)


def read(
  c: ModelConfig, params: Any, tokens_BT: Int[Array, "B T"], cache: KVCache, **wanted: Any
) -> tuple[Float[Array, "B P V"] | Float[Array, "B P"], KVCache]:
  """Returns what the model says of T more tokens of each sequence, and the cache with them in it.

  Args:
    cache: with at least T free slots. That is not checked: tokens beyond would take the place of others.
    wanted: label_positions, positions_BP (0 is the first of the T tokens) or targets_BP, see Transformer.
  """
  if not c.causal:
    raise ValueError("a KV cache for a model with causal=false, where earlier tokens see later ones")
  fresh, T = isinstance(cache.length, int), tokens_BT.shape[1]
  # Padding is a document of its own.
  documents = (jnp.arange(T)[None] >= cache.first_B[:, None]).astype(jnp.int32) if fresh else None
  slots = layers.Slots(cache.length, cache.first_B, None, None)
  out, new = Transformer(c).apply(
    {"params": params, "cache": cache.layers}, tokens_BT,
    documents_BT=documents, slots=slots, mutable=["cache"], **wanted,
  )  # fmt: skip
  return out, KVCache(new["cache"], cache.first_B, jnp.asarray(cache.length + T, jnp.int32))


def resized(cache: KVCache, num_slots: int) -> KVCache:
  """Returns the cache with more slots, or with fewer, which must not be taken."""

  def change(x: Array) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[-2] = (0, max(0, num_slots - x.shape[-2]))
    return jnp.pad(x[..., :num_slots, :], widths)

  return dataclasses.replace(cache, layers=jax.tree.map(change, cache.layers))


def take(cache: KVCache, rows_B: Int[Array, "B"]) -> KVCache:
  """Returns the cache of these sequences in this order, each of them once, several times, or not at all."""
  kept = jax.tree.map(lambda x: jnp.take(x, rows_B, axis=x.ndim - 4), cache.layers)
  return dataclasses.replace(cache, layers=kept, first_B=cache.first_B[rows_B])
