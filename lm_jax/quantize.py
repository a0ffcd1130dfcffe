"""Weights held in fewer bits, for inference: a token's price is reading them.

A matrix W [D, F] is held as its rows W^T [F, D], one an output, each contiguous: a product of one token is F
sums along memory. In int8 a row has a scale of its own, the largest of its absolute values over 127, as in
LLM.int8() (Dettmers et al., arXiv:2208.07339, section 2.1, vector-wise). What is multiplied by it is not
rounded to 8 bits, which is where that paper's outliers come from: it is split into two parts of 8 bits, whose
products are those of integers, and exact. In bfloat16 both factors are rounded, as models in bfloat16 do.

Vectors (biases, scales of norms), positions and segments stay float32. Letters as in layers.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Num

from lm_jax import param_paths
from lm_jax.generation_config import WEIGHTS
from lm_jax.strict import ConfigError, did_you_mean

KINDS = WEIGHTS

_MOST = 127  # of an int8, so that its range is symmetric
# By measurement on a CPU (experiments/012_decoding): the products of narrow numbers are the faster ones for
# few tokens; beyond _MANY it pays to widen first, so many rows at a time that they stay in a core's cache. Up
# to _ROWS_FIRST tokens, products with the weights on the left are faster.
_MANY, _ROWS_FIRST, _CHUNK = 31, 16, 192


@struct.dataclass
class Rows:
  """A matrix W [D, F], by rows of its transpose; of scanned blocks, with an axis L in front.

  Attributes:
    rows_FD: W^T in float32, bfloat16, or int8.
    scale_F: int8: W^T = scale * rows, else None.
  """

  rows_FD: Num[Array, "*L F D"]
  scale_F: Float[Array, "*L F"] | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    *layers, F, D = self.rows_FD.shape
    return (*layers, D, F)

  def take(self, outputs_M: Int[Array, "M"]) -> Float[Array, "M D"]:
    """Returns W[:, outputs]^T, float32: of an output matrix that is a token table, rows of the table."""
    rows_MD = _float32(_bits(self.rows_FD)[outputs_M])
    return rows_MD if self.scale_F is None else rows_MD * self.scale_F[outputs_M][:, None]

  def project(self, x_MD: Float[Array, "M D"], dtype: Any = None) -> Float[Array, "M F"]:
    """Returns x W, summed in float32, in `dtype`, that of x by default."""
    narrow = self.rows_FD.dtype
    if narrow == jnp.bfloat16:
      x_MD = x_MD.astype(jnp.bfloat16).astype(x_MD.dtype)
    if jax.default_backend() != "cpu":
      # Both factors are numbers of 16 bits already, and their products exact.
      is_half = narrow == jnp.bfloat16
      multiply = _same if is_half else _widened
      y_MF = multiply(x_MD.astype(narrow) if is_half else x_MD, self.rows_FD)
    elif x_MD.shape[0] > (_ROWS_FIRST if narrow == jnp.bfloat16 else _MANY):
      y_MF = _wide(x_MD, self.rows_FD)
    elif narrow == jnp.int8:
      y_MF = _split(x_MD.astype(jnp.float32), self.rows_FD)
    else:
      y_MF = _same(x_MD.astype(narrow), self.rows_FD)
    y_MF = y_MF if self.scale_F is None else y_MF * self.scale_F[None]
    return y_MF.astype(dtype or x_MD.dtype)


def _bits(rows: Array) -> Array:
  """Returns bfloat16 as bits: XLA:CPU takes no part of bfloat16 without first widening the whole."""
  return jax.lax.bitcast_convert_type(rows, jnp.uint16) if rows.dtype == jnp.bfloat16 else rows


def _float32(rows: Array) -> Array:
  """Returns numbers, or the bits of bfloat16, as float32."""
  if rows.dtype == jnp.uint16:
    return jax.lax.bitcast_convert_type(rows.astype(jnp.uint32) << 16, jnp.float32)
  return rows.astype(jnp.float32)


def _dot(a_MD: Array, b_FD: Array, dtype: Any) -> Num[Array, "M F"]:
  return jax.lax.dot_general(a_MD, b_FD, (((1,), (1,)), ((), ())), preferred_element_type=dtype)


def _widened(x_MD: Array, rows_FD: Array) -> Float[Array, "M F"]:
  """Multiplies in float32. The barrier keeps XLA from widening all matrices before a loop over tokens.

  Args:
    rows_FD: bfloat16 as its `_bits`, or not.
  """
  x_MD, rows_FD = jax.lax.optimization_barrier((x_MD.astype(jnp.float32), rows_FD))
  return _dot(x_MD, _float32(rows_FD), jnp.float32)


def _wide(x_MD: Array, rows_FD: Array) -> Float[Array, "M F"]:
  """Multiplies in float32, a chunk of rows after the other."""
  rows_FD = _bits(rows_FD)
  M, (F, D) = x_MD.shape[0], rows_FD.shape
  chunks = F // _CHUNK
  rest_MF = [_widened(x_MD, rows_FD[chunks * _CHUNK :])] if F % _CHUNK else []
  if not chunks:
    return rest_MF[0]
  rows_NCD = rows_FD[: chunks * _CHUNK].reshape(chunks, _CHUNK, D)
  y_NMC = jax.lax.map(lambda rows_CD: _widened(x_MD, rows_CD), rows_NCD)
  return jnp.concatenate([y_NMC.transpose(1, 0, 2).reshape(M, -1), *rest_MF], axis=1)


def _same(x_MD: Array, rows_FD: Array) -> Float[Array, "M F"]:
  """Multiplies numbers of one type, float32 or bfloat16."""
  M, is_wide = x_MD.shape[0], x_MD.dtype == jnp.float32
  if is_wide and 1 < M <= _ROWS_FIRST:
    # Otherwise it would be turned round, and the right factor is laid out anew for each product.
    return jax.lax.optimization_barrier(_dot(rows_FD, x_MD, jnp.float32)).T
  if is_wide or M > 1:
    return _dot(x_MD, rows_FD, jnp.float32)
  # XLA:CPU widens bfloat16 first where there is one row.
  return _dot(jnp.concatenate([x_MD, x_MD]), rows_FD, jnp.float32)[:1]


def _split(x_MD: Float[Array, "M D"], rows_FD: Int[Array, "F D"]) -> Float[Array, "M F"]:
  """Multiplies x = unit (high + low / 254), high and low integers of 8 bits, up to unit / 508."""
  unit_M1 = jnp.maximum(jnp.abs(x_MD).max(-1, keepdims=True), jnp.finfo(jnp.float32).tiny) / _MOST
  high_MD = jnp.round(x_MD / unit_M1)
  low_MD = jnp.round((x_MD / unit_M1 - high_MD) * 2 * _MOST)
  parts_ND = jnp.concatenate([high_MD, low_MD]).astype(jnp.int8)
  # The barriers keep the factors in 8 bits, and the weights on the left.
  parts_ND = jax.lax.optimization_barrier(parts_ND)
  y_NF = jax.lax.optimization_barrier(_dot(rows_FD, parts_ND, jnp.int32)).T.astype(jnp.float32)
  high_MF, low_MF = jnp.split(y_NF, 2)
  return (high_MF + low_MF / (2 * _MOST)) * unit_M1


# --- trees ----------------------------------------------------------------------------------------


def quantized(params: Any, kind: str, *, donate: bool = False) -> Any:
  """Returns the parameters of a Transformer for inference, matrices as `Rows` of a kind.

  "float32" changes no number, but only how they stand in memory: on a CPU products are faster with it too.

  Args:
    kind: one of KINDS.
    donate: take `params` apart meanwhile, so that there is one copy of them and not two.
  """
  if kind not in KINDS:
    near = did_you_mean(str(kind), KINDS)
    raise ConfigError(f"weights={kind!r}: must be one of {', '.join(KINDS)}{near}")
  leaves = param_paths.flat(params)
  if donate:
    _empty(params)
  return param_paths.nested({path: _narrowed(path, leaves.pop(path), kind) for path in list(leaves)})


def for_inference(params: Any, kind: str, *, donate: bool = False) -> Any:
  """Returns the parameters of a causal Transformer on the device, as they are fast there; see `quantized`.

  On an accelerator those in float32 stay as they are, and so do `Rows` everywhere.
  """
  is_held = any(isinstance(x, Rows) for x in _matrices(params))
  if is_held or (kind == "float32" and jax.default_backend() != "cpu"):
    return jax.device_put(params)
  return quantized(params, kind, donate=donate)


def _empty(tree: dict[str, Any]) -> None:
  for branch in tree.values():
    if isinstance(branch, dict):
      _empty(branch)
  tree.clear()


def _narrowed(path: str, x: Any, kind: str) -> Any:
  is_kernel = path.endswith("/kernel")
  # The table [V, D] is W^T of the output matrix it may be.
  if not is_kernel and path != "embedding/table":
    return jnp.asarray(x)
  if kind == "float32" and isinstance(x, np.ndarray):
    # Of a file: turned round here, there are never two copies of more than one, and nothing is compiled.
    return Rows(jnp.asarray(np.ascontiguousarray(np.swapaxes(x, -1, -2)) if is_kernel else x, jnp.float32))
  return _to_rows(jnp.asarray(x), kind, is_kernel)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _to_rows(x: Float[Array, "*L D F"], kind: str, transposed: bool) -> Rows:
  rows_FD = jnp.swapaxes(x, -1, -2) if transposed else x
  if kind != "int8":
    return Rows(rows_FD.astype(kind))
  largest_F = jnp.abs(rows_FD).max(-1)
  scale_F = jnp.where(largest_F > 0, largest_F, 1) / _MOST
  return Rows(jnp.round(rows_FD / scale_F[..., None]).astype(jnp.int8), scale_F)


def dequantized(params: Any) -> Any:
  """Returns the tree of a Transformer's parameters in float32 that `quantized` ones stand for."""

  def restore(path: str, x: Any) -> Any:
    if not isinstance(x, Rows):
      return x
    rows_FD = x.rows_FD.astype(jnp.float32)
    rows_FD = rows_FD if x.scale_F is None else rows_FD * x.scale_F[..., None]
    return rows_FD if path == "embedding/table" else jnp.swapaxes(rows_FD, -1, -2)

  leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, Rows))[0]
  return param_paths.nested({(p := param_paths.name(path)): restore(p, x) for path, x in leaves})


def kind(params: Any) -> str:
  """Returns which of KINDS parameters are held in; "float32" too for those that are as they are trained."""
  return next((str(x.rows_FD.dtype) for x in _matrices(params) if isinstance(x, Rows)), "float32")


def _matrices(params: Any) -> list[Any]:
  """Returns all leaves, `Rows` whole."""
  return jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, Rows))


def num_bytes(params: Any) -> int:
  """Returns the memory of a tree of parameters."""
  return sum(x.nbytes for x in jax.tree.leaves(params))
