"""Attention as pure functions: who sees whom, and softmax(q k) v for no more pairs than that takes.

Letters as in layers.py, and C the queries of a block.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from lm_jax.kernels import multiply, settled
from lm_jax.model_config import cudnn_obstacle, window_reach
from lm_jax.strict import ConfigError

# Finite, so that a row with every key masked gives zeros' average and not NaN.
MASKED = -0.7 * float(np.finfo(np.float32).max)

# --- which kernel -------------------------------------------------------------------------------


def attention_kernel(
  requested: str, backend: str, dtype: str, head_dim: int, *, causal: bool = True, window: int | None = None
) -> str:
  """Returns "cudnn" or "blocks", given config.model.attention and what there is; raises ConfigError.

  Args:
    backend: see `attention_backend`.
  """
  obstacle = cudnn_obstacle(dtype, head_dim, causal=causal, window=window)
  if not obstacle and backend != "gpu":
    obstacle = f"on {backend}: cuDNN needs an NVIDIA GPU of compute capability 8.0 or more"
  if requested == "cudnn" and obstacle:
    raise ConfigError(f"config.model.attention='cudnn': must be auto or blocks {obstacle}")
  return "blocks" if requested == "blocks" or obstacle else "cudnn"


def attention_backend() -> str:
  """Returns "gpu" where cuDNN's attention runs, else a name of the devices there are."""
  backend = jax.default_backend()
  if backend != "gpu":
    return backend
  device = jax.local_devices()[0]
  if "cuda" not in device.client.platform_version:
    return "a GPU that is not NVIDIA's"
  capability = device.compute_capability
  return "gpu" if float(capability) >= 8 else f"compute capability {capability}"


def can_be_fused(length: int, *, causal: bool, masked: bool) -> bool:
  """Whether `attend_fused` takes so many tokens: jax asks for an even number where there is a gradient.

  Args:
    masked: by documents or a prefix.
  """
  return length % 2 == 0 or (causal and not masked)


# --- who sees whom ------------------------------------------------------------------------------


def visible(
  query_C: Int[Array | np.ndarray, "C"],
  key_S: Int[Array | np.ndarray, "S"],
  *,
  causal: bool,
  window: int | None = None,
  documents_BS: Int[Array, "B S_all"] | None = None,
  prefix_BS: Bool[Array, "B S_all"] | None = None,
) -> Bool[Array | np.ndarray, "*X Y S"]:
  """Returns which keys queries see, [C or 1, S], where data decide for each sequence.

  A query sees the keys that are not later than itself (`causal`) and in its window, those of a prefix
  anywhere, and of both its own document's only. Itself it sees always.

  Args:
    query_C, key_S: positions.
    window: see `ModelConfig.attention_window`.
    documents_BS: the document of each token.
    prefix_BS: true at keys that all of their document see (arXiv:1910.10683, figure 4, right).
  """
  mask = query_C[:, None] >= key_S[None] if causal else np.ones((1, len(key_S)), bool)
  if window is not None:
    left, right = window_reach(window, causal)
    ahead_CS = query_C[:, None] - key_S[None]
    mask = mask & (ahead_CS <= left) & (ahead_CS >= -right)
  if prefix_BS is not None:
    mask = mask[None] | _at(prefix_BS, key_S)[:, None]
  if documents_BS is not None:
    mask = mask.reshape(-1, *mask.shape[-2:])
    mask = mask & (_at(documents_BS, query_C)[:, :, None] == _at(documents_BS, key_S)[:, None])
  return mask


def _at(x_BS: Shaped[Array, "B S"], positions: Array | np.ndarray) -> Shaped[Array, "B P"]:
  """Returns x at consecutive positions."""
  if isinstance(positions, np.ndarray):
    return x_BS[:, positions[0] : positions[-1] + 1]
  return jnp.take(x_BS, positions, axis=1, mode="clip")


def document_positions(documents_BT: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """Returns each token's distance from the first one of its document, whose tokens stand together."""
  here_T = jnp.arange(documents_BT.shape[1], dtype=jnp.int32)
  starts = jnp.pad(documents_BT[:, 1:] != documents_BT[:, :-1], ((0, 0), (1, 0)))
  return here_T[None] - jax.lax.cummax(jnp.where(starts, here_T[None], 0), axis=1)


# --- kernels ------------------------------------------------------------------------------------


def attend_fused(
  q_BTNH: Float[Array, "B T N H"],
  k_BSKH: Float[Array, "B S K H"],
  v_BSKH: Float[Array, "B S K H"],
  *,
  causal: bool,
  window: int | None = None,
  documents_BS: Int[Array, "B S"] | None = None,
  prefix_BS: Bool[Array, "B S"] | None = None,
  scale: float | None = None,
  implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B T N H"]:
  """`attend` by `jax.nn.dot_product_attention`: cuDNN's flash attention (arXiv:2205.14135), never [T, S].

  Documents and a prefix are the exception: they go to cuDNN as a [B, 1, T, S] bias in the dtype of q. An odd
  number of causal tokens gets one more, which no other sees.

  Args:
    implementation: "xla" takes the same arguments on any backend, for tests.
  """
  (B, T), S = q_BTNH.shape[:2], k_BSKH.shape[1]
  masked = documents_BS is not None or prefix_BS is not None
  if T % 2 and T == S and can_be_fused(T, causal=causal, masked=masked):
    q_BTNH, k_BSKH, v_BSKH = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q_BTNH, k_BSKH, v_BSKH))
  how: dict[str, Any] = {"is_causal": causal}
  if window is not None:
    how["local_window_size"] = window_reach(window, causal)
  if masked:
    mask = visible(np.arange(T), np.arange(S), causal=causal, window=window,
                   documents_BS=documents_BS, prefix_BS=prefix_BS)  # fmt: skip
    how = {"mask": jnp.broadcast_to(mask[:, None], (B, 1, T, S))}
  out_BTNH = jax.nn.dot_product_attention(
    q_BTNH, k_BSKH, v_BSKH, scale=scale, implementation=implementation, **how
  )
  return out_BTNH[:, :T]


def attend(
  q_BTNH: Float[Array, "B T N H"],
  k_BSKH: Float[Array, "B S K H"],
  v_BSKH: Float[Array, "B S K H"],
  *,
  causal: bool,
  window: int | None = None,
  documents_BS: Int[Array, "B S"] | None = None,
  prefix_BS: Bool[Array, "B S"] | None = None,
  scale: float | None = None,
  blocks: list[tuple[int, int, int, int]] | None = None,
  recompute: int | None = None,
) -> Float[Array, "B T N H"]:
  """Returns softmax(scale q k^T) v, grouped: query head n reads kv-head n // (N/K).

  Args:
    causal, window, documents_BS, prefix_BS: see `visible`; where given, S = T.
    scale: default: 1 / sqrt(H).
    blocks: (first query, end of queries, first key, end of keys) blocks that cover the queries; the scores
      of a block are computed for its keys only. Default: one block.
    recompute: the weights of so many queries are held at a time, and computed again for the backward
      pass; with a window they are those of the keys in their reach. Default: all are kept for it.
  """
  B, T, N, H = q_BTNH.shape
  S, K = k_BSKH.shape[1:3]
  q_BTNH = q_BTNH / math.sqrt(H) if scale is None else q_BTNH * scale
  # Head-major, so that each head's products are plain matrix products; a group's queries are its rows.
  q_BKGTH = settled(q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4))
  k_BKSH, v_BKSH = settled(k_BSKH.transpose(0, 2, 1, 3)), settled(v_BSKH.transpose(0, 2, 1, 3))
  sees = functools.partial(
    visible, causal=causal, window=window, documents_BS=documents_BS, prefix_BS=prefix_BS
  )

  def mix(q_BKGCH: Array, query_C: Array | np.ndarray, first: int, end: int) -> Float[Array, "B K G C H"]:
    scores = multiply("BKGTH,BKSH->BKGTS", q_BKGCH, k_BKSH[:, :, first:end])
    return _average(scores, sees(query_C, np.arange(first, end)), v_BKSH, slice(first, end))

  def mix_reach(q_BKGCH: Array, query_C: Array, k_BKRH: Array, v_BKRH: Array, key_R: Array) -> Array:
    scores = multiply("BKGTH,BKSH->BKGTS", q_BKGCH, k_BKRH)
    there = (key_R >= 0) & (key_R < S)
    mask = sees(query_C, key_R)
    return _average(scores, mask & there.reshape((1,) * (mask.ndim - 1) + (-1,)), v_BKRH)

  def block(start: int, end: int, first: int, stop: int) -> Float[Array, "B K G C H"]:
    q_BKGCH = q_BKGTH[:, :, :, start:end]
    if recompute is None:
      return mix(q_BKGCH, np.arange(start, end), first, stop)
    reach = (S, S) if window is None or prefix_BS is not None else window_reach(window, causal)
    if sum(reach) + recompute < stop - first:
      return _map_reach(mix_reach, q_BKGCH, k_BKSH, v_BKSH, start, recompute, reach)
    return _map_rows(functools.partial(mix, first=first, end=stop), q_BKGCH, start, recompute)

  out_BKGTH = jnp.concatenate([block(*b) for b in blocks or [(0, T, 0, S)]], axis=3)
  return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def attend_cache(
  q_BTNH: Float[Array, "B T N H"],
  k_BKSH: Float[Array, "B K S H"],
  v_BKSH: Float[Array, "B K S H"],
  *,
  start: Int[Array, ""] | int,
  first_B: Int[Array, "B"],
  window: int | None = None,
) -> Float[Array, "B T N H"]:
  """`attend`, causal, of queries in the slots from `start` on over all slots of a KV cache.

  Args:
    first_B: the slots before are seen by nobody: padding.
  """
  B, T, N, H = q_BTNH.shape
  K, S = k_BKSH.shape[1:3]
  q_BKGTH = (q_BTNH / math.sqrt(H)).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
  key_S = np.arange(S)
  mask_TS = visible(start + jnp.arange(T), key_S, causal=True, window=window)
  mask_BTS = mask_TS[None] & (key_S[None, None] >= first_B[:, None, None])
  scores = multiply("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH)
  out_BKGTH = _average(scores, mask_BTS, v_BKSH)
  return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _average(
  scores_BKGTS: Float[Array, "B K G T S"],
  mask: Bool[Array | np.ndarray, "*X Y S"],
  v_BKSH: Float[Array, "B K S_all H"],
  keys: slice = slice(None),
) -> Float[Array, "B K G T H"]:
  """Returns softmax(masked scores) v, of the values at `keys`."""
  if not isinstance(mask, np.ndarray) or not mask.all():
    mask = mask[None, None, None] if mask.ndim == 2 else mask[:, None, None]
    scores_BKGTS = jnp.where(mask, scores_BKGTS, MASKED)
  # The maximum only guards exp; no gradient flows through it.
  weights = jnp.exp(scores_BKGTS - jax.lax.stop_gradient(scores_BKGTS.max(-1, keepdims=True)))
  mixed = multiply("BKGTS,BKSH->BKGTH", weights.astype(v_BKSH.dtype), v_BKSH[:, :, keys])
  # Dividing after the product touches [T, H] values instead of [T, S].
  return (mixed / weights.sum(-1, keepdims=True)).astype(v_BKSH.dtype)


def _map_rows(
  f: Callable[[Array, Array], Array], q_BKGCH: Float[Array, "B K G C H"], start: int, size: int
) -> Float[Array, "B K G C H"]:
  """Returns f(queries, their positions) on `size` queries at a time, one after another."""
  f = jax.checkpoint(f)
  C, parts = q_BKGCH.shape[3], []
  n = C // size
  if n:
    q_nBKGcH = _rows(q_BKGCH, n, size)
    queries = start + jnp.arange(n * size).reshape(n, size)
    parts.append(_rejoin(jax.lax.map(lambda part: f(*part), (q_nBKGcH, queries))))
  if C % size:
    parts.append(f(q_BKGCH[:, :, :, n * size :], start + jnp.arange(n * size, C)))
  return jnp.concatenate(parts, axis=3)


def _map_reach(
  f: Callable[..., Array],
  q_BKGCH: Float[Array, "B K G C H"],
  k_BKSH: Float[Array, "B K S H"],
  v_BKSH: Float[Array, "B K S H"],
  start: int,
  size: int,
  reach: tuple[int, int],
) -> Float[Array, "B K G C H"]:
  """`_map_rows` with the keys in reach of each part: f(queries, positions, keys, values, their positions).

  Keys are laid out for each part beforehand. Slices taken in the loop would have gradients of the size of
  all keys in every turn of it.
  """
  f = jax.checkpoint(f)
  (left, right), C, parts = reach, q_BKGCH.shape[3], []
  for first, rows, n in ((0, size, C // size), (C - C % size, C % size, 1)):
    if not rows * n:
      continue
    origin, span = start + first, left + rows + right
    queries = origin + jnp.arange(n * rows).reshape(n, rows)
    keys = origin - left + rows * np.arange(n)[:, None] + np.arange(span)[None]
    laid = [_overlapping(x, origin - left, rows if n > 1 else span, n, span) for x in (k_BKSH, v_BKSH)]
    q_nBKGcH = _rows(q_BKGCH[:, :, :, first : first + n * rows], n, rows)
    out_nBKGcH = jax.lax.map(lambda part: f(*part), (q_nBKGcH, queries, *laid, jnp.asarray(keys)))
    parts.append(_rejoin(out_nBKGcH))
  return jnp.concatenate(parts, axis=3)


def _rows(q_BKGCH: Array, n: int, size: int) -> Float[Array, "n B K G c H"]:
  B, K, G, _, H = q_BKGCH.shape
  return jnp.moveaxis(q_BKGCH[:, :, :, : n * size].reshape(B, K, G, n, size, H), 3, 0)


def _rejoin(out_nBKGcH: Array) -> Float[Array, "B K G C H"]:
  n, B, K, G, c, H = out_nBKGcH.shape
  return jnp.moveaxis(out_nBKGcH, 0, 3).reshape(B, K, G, n * c, H)


def _overlapping(
  x_BKSH: Float[Array, "B K S H"], origin: int, stride: int, n: int, span: int
) -> Float[Array, "n B K R H"]:
  """Returns n runs of `span` keys, `stride` apart and the first at `origin`; zeros where there are none.

  They are put together of pieces of `stride` keys: a gather would have a scatter as its gradient.
  """
  B, K, S, H = x_BKSH.shape
  end = origin + (n - 1) * stride + -(-span // stride) * stride
  x = x_BKSH[:, :, max(origin, 0) : min(end, S)]
  x = jnp.pad(x, ((0, 0), (0, 0), (max(-origin, 0), max(end - S, 0)), (0, 0)))
  pieces = []
  for offset in range(0, span, stride):
    piece = x[:, :, offset : offset + n * stride].reshape(B, K, n, stride, H)
    pieces.append(piece[:, :, :, : span - offset])
  return jnp.moveaxis(jnp.concatenate(pieces, axis=3), 2, 0)
