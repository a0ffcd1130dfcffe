"""Texts that begin alike, read as one: each common beginning once, and each text as if it were alone.

Of a trie of texts, the tokens stand in a row in the order in which one walks down every branch in turn. A
token sees those above it, from the root to itself, and its position is how many these are.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lm_jax.attention import MASKED
from lm_jax.kernels import multiply, settled
from lm_jax.model_config import window_reach

# Queries a block: enough for fast products, and few blocks, as each is compiled by itself.
MIN_BLOCK, MAX_BLOCKS = 128, 4


@struct.dataclass
class Tree:
  """Where the tokens of a call stand in tries, one a row.

  What is common to all rows may be in the model's "cache" collection, as `kv_cache.read` left it there for
  one sequence.

  Attributes:
    depth_BT: positions, what is in the cache counted too.
    end_BT: index after the last token that is below a token. Padding is below nothing.
    cached: tokens in the cache, its first slots.
    cos_BTX, sin_BTX: rotary angles.
  """

  depth_BT: Int[Array, "B T"]
  end_BT: Int[Array, "B T"]
  cached: Int[Array, ""] | int = 0
  cos_BTX: Float[Array, "B T X"] | None = None
  sin_BTX: Float[Array, "B T X"] | None = None


def attend(
  q_BTNH: Float[Array, "B T N H"],
  k_BTKH: Float[Array, "B T K H"],
  v_BTKH: Float[Array, "B T K H"],
  tree: Tree,
  cache: tuple[Float[Array, "1 K S H"], Float[Array, "1 K S H"]] | None,
  window: int | None,
) -> Float[Array, "B T N H"]:
  """Returns the softmax(q k^T / sqrt(H)) v of tries, over the cache and what a row holds.

  On a CPU one row after another: the weights of one stay in its caches, those of all are written to memory
  and read again several times, which takes two to five times as long.
  """
  rows = (q_BTNH, k_BTKH, v_BTKH, tree.depth_BT, tree.end_BT)
  if jax.default_backend() != "cpu" or q_BTNH.shape[0] == 1:
    return _attend(*rows, tree.cached, cache, window)
  return jax.lax.map(lambda row: _attend(*(x[None] for x in row), tree.cached, cache, window)[0], rows)


def _attend(
  q_BTNH: Array,
  k_BTKH: Array,
  v_BTKH: Array,
  depth_BT: Array,
  end_BT: Array,
  cached: Array | int,
  cache: tuple[Array, Array] | None,
  window: int | None,
) -> Float[Array, "B T N H"]:
  tree = Tree(depth_BT, end_BT, cached)
  B, T, N, H = q_BTNH.shape
  K = k_BTKH.shape[2]
  q_BKGTH = settled((q_BTNH / math.sqrt(H)).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4))
  k_BKTH, v_BKTH = settled(k_BTKH.transpose(0, 2, 1, 3)), settled(v_BTKH.transpose(0, 2, 1, 3))
  # Keys after a block of queries are seen by none of them.
  size = max(MIN_BLOCK, -(-T // MAX_BLOCKS))
  blocks = [slice(start, min(start + size, T)) for start in range(0, T, size)]
  out = [_block(q_BKGTH, k_BKTH, v_BKTH, tree, cache, window, block) for block in blocks]
  return jnp.concatenate(out, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _block(
  q_BKGTH: Array,
  k_BKTH: Array,
  v_BKTH: Array,
  tree: Tree,
  cache: tuple[Array, Array] | None,
  window: int | None,
  block: slice,
) -> Float[Array, "B K G C H"]:
  """Returns what the queries of a block find, in the cache and up to the block's end."""
  q_BKGCH, before = q_BKGTH[:, :, :, block], slice(block.stop)
  v_BKSH = v_BKTH[:, :, before]
  own = multiply("BKGCH,BKSH->BKGCS", q_BKGCH, k_BKTH[:, :, before])
  scores = [jnp.where(visible(tree, window, block)[:, None, None], own, MASKED)]
  if cache is not None:
    k_KSH, v_KSH = cache[0][0], cache[1][0]
    common = multiply("BKGCH,KSH->BKGCS", q_BKGCH, k_KSH)
    seen = visible_cache(tree, k_KSH.shape[1], window, block)[:, None, None]
    scores.append(jnp.where(seen, common, MASKED))
  top = jnp.stack([x.max(-1) for x in scores]).max(0)[..., None]
  weights = [jnp.exp(x - top) for x in scores]
  mixed = multiply("BKGCS,BKSH->BKGCH", weights[0].astype(v_BKSH.dtype), v_BKSH)
  if cache is not None:
    mixed += multiply("BKGCS,KSH->BKGCH", weights[1].astype(v_KSH.dtype), v_KSH)
  total = sum(x.sum(-1, keepdims=True) for x in weights)
  return (mixed / total).astype(q_BKGTH.dtype)


def visible(tree: Tree, window: int | None, block: slice) -> Bool[Array, "B C S"]:
  """Returns which keys, of those up to a block's end, its queries see."""
  query_C, key_S = np.arange(block.start, block.stop)[None, :, None], np.arange(block.stop)[None, None]
  mask_BCS = (key_S <= query_C) & (query_C < tree.end_BT[:, None, : block.stop])
  if window is not None:
    distance_BCS = tree.depth_BT[:, block, None] - tree.depth_BT[:, None, : block.stop]
    mask_BCS &= distance_BCS <= window_reach(window, causal=True)[0]
  return mask_BCS


def visible_cache(tree: Tree, num_slots: int, window: int | None, block: slice) -> Bool[Array, "B C S"]:
  """Returns which slots of the cache a block's queries see."""
  slot_S, depth_BC1 = np.arange(num_slots)[None, None], tree.depth_BT[:, block, None]
  mask_BCS = jnp.broadcast_to(slot_S < tree.cached, (*depth_BC1.shape[:2], num_slots))
  if window is not None:
    mask_BCS &= depth_BC1 - slot_S <= window_reach(window, causal=True)[0]
  return mask_BCS
