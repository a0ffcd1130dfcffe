"""Texts that begin alike, read as one: each common beginning once, and each text as if it were alone.

Of a trie of texts, the tokens stand in a row in the order in which one walks down every branch in turn. A
token sees those above it, from the root to itself, and its position is how many these are.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lm_jax.attention import MASKED
from lm_jax.kernels import multiply
from lm_jax.model_config import window_reach


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


def visible(tree: Tree, window: int | None) -> Bool[Array, "B T T"]:
  """Returns which keys of a row its queries see."""
  here_T = np.arange(tree.end_BT.shape[1])
  mask_BTT = (here_T[None, None] <= here_T[None, :, None]) & (here_T[None, :, None] < tree.end_BT[:, None])
  if window is not None:
    distance_BTT = tree.depth_BT[:, :, None] - tree.depth_BT[:, None]
    mask_BTT &= distance_BTT <= window_reach(window, causal=True)[0]
  return mask_BTT


def visible_cache(tree: Tree, num_slots: int, window: int | None) -> Bool[Array, "B T S"]:
  """Returns which slots of the cache queries see."""
  slot_S = np.arange(num_slots)[None, None]
  mask_BTS = jnp.broadcast_to(slot_S < tree.cached, (*tree.depth_BT.shape, num_slots))
  if window is not None:
    mask_BTS &= tree.depth_BT[..., None] - slot_S <= window_reach(window, causal=True)[0]
  return mask_BTS


def attend(
  q_BTNH: Float[Array, "B T N H"],
  k_BTKH: Float[Array, "B T K H"],
  v_BTKH: Float[Array, "B T K H"],
  tree: Tree,
  cache: tuple[Float[Array, "1 K S H"], Float[Array, "1 K S H"]] | None,
  window: int | None,
) -> Float[Array, "B T N H"]:
  """Returns the softmax(q k^T / sqrt(H)) v of tries, over the cache and what a row holds."""
  B, T, N, H = q_BTNH.shape
  K = k_BTKH.shape[2]
  q_BKGTH = (q_BTNH / math.sqrt(H)).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
  k_BKTH, v_BKTH = k_BTKH.transpose(0, 2, 1, 3), v_BTKH.transpose(0, 2, 1, 3)
  own = multiply("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKTH)
  scores = [jnp.where(visible(tree, window)[:, None, None], own, MASKED)]
  if cache is not None:
    k_KSH, v_KSH = cache[0][0], cache[1][0]
    common = multiply("BKGTH,KSH->BKGTS", q_BKGTH, k_KSH)
    seen = visible_cache(tree, k_KSH.shape[1], window)[:, None, None]
    scores.append(jnp.where(seen, common, MASKED))
  top = jnp.stack([x.max(-1) for x in scores]).max(0)[..., None]
  weights = [jnp.exp(x - top) for x in scores]
  mixed = multiply("BKGTS,BKSH->BKGTH", weights[0].astype(v_BKTH.dtype), v_BKTH)
  if cache is not None:
    mixed += multiply("BKGTS,KSH->BKGTH", weights[1].astype(v_KSH.dtype), v_KSH)
  total = sum(x.sum(-1, keepdims=True) for x in weights)
  return (mixed / total).astype(q_BTNH.dtype).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
