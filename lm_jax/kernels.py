"""The arithmetic that decides the speed, as pure functions: products, norm, activation, NLL.

Letters as in layers.py. Those with a gradient of their own say why: autodiff's would be as right, but
would keep or compute more than is needed. Every one is tested against autodiff of the plain formula.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from lm_jax import quantize

CANDIDATE_LOGITS = 2**24  # floats held at a time to score candidates

# --- precision --------------------------------------------------------------------------------


def widen(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
  """Returns x in float32, in which statistics, sums and exponentials are computed; float64 stays."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def multiply(spec: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
  """Returns einsum(spec, a, b) summed in float32 and kept so; bfloat16 factors have bfloat16 products.

  Autodiff alone would multiply the float32 gradient of a product of bfloat16 by its bfloat16 factors: a
  float32 product, several times slower where bfloat16 is fast.
  """
  wide = jnp.promote_types(a.dtype, jnp.float32)
  return jnp.einsum(spec, a, b) if a.dtype == wide else _narrow_multiply(spec, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow_multiply(spec: str, a: Array, b: Array) -> Array:
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _narrow_multiply_forward(spec: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
  return _narrow_multiply(spec, a, b), (a, b)


def _narrow_multiply_backward(spec: str, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
  _, pull = jax.vjp(functools.partial(jnp.einsum, spec), *saved)
  return pull(dy.astype(saved[0].dtype))


_narrow_multiply.defvjp(_narrow_multiply_forward, _narrow_multiply_backward)


def settled(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
  """Returns x, written to memory as it is laid out now, on a CPU.

  Otherwise XLA:CPU makes the transposition part of every loop that reads x, and a gather of each.
  """
  return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


# --- products ---------------------------------------------------------------------------------

# W [D, F]: trained as an array, for inference held in fewer bits too.
Matrix = Float[Array, "_ _"] | quantize.Rows


def project(
  x_MD: Float[Array, "M D"], w_DF: Matrix, dtype: jax.typing.DTypeLike | None = None
) -> Float[Array, "M F"]:
  """Returns x W in `dtype`, that of x by default."""
  return w_DF.project(x_MD, dtype) if isinstance(w_DF, quantize.Rows) else _project(x_MD, w_DF, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _project(
  x_MD: Float[Array, "M D"], w_DF: Float[Array, "D F"], dtype: jax.typing.DTypeLike | None
) -> Float[Array, "M F"]:
  """Returns x W, with its weight gradient computed in the orientation that is fast on CPU.

  [D, M] @ [M, F] takes twice the time of its transpose when D > F (XLA:CPU); the barrier keeps the
  compiler from folding the transposition back into the product.

  W is cast to the dtype of x, and so is the gradient of the result; that of W is summed in its own dtype.

  Args:
    dtype: of the result; that of x.
  """
  return jnp.matmul(x_MD, w_DF.astype(x_MD.dtype), preferred_element_type=dtype)


def _project_forward(
  x_MD: Array, w_DF: Array, dtype: jax.typing.DTypeLike | None
) -> tuple[Array, tuple[Array, Array]]:
  return _project(x_MD, w_DF, dtype), (x_MD, w_DF)


def _project_backward(
  dtype: jax.typing.DTypeLike | None, saved: tuple[Array, Array], dy_MF: Array
) -> tuple[Array, Array]:
  x_MD, w_DF = saved
  dy_MF = dy_MF.astype(x_MD.dtype)
  dx_MD = jnp.einsum("MF,DF->MD", dy_MF, w_DF.astype(x_MD.dtype))
  return dx_MD, _weight_gradient(x_MD, dy_MF, w_DF.dtype)


def _weight_gradient(
  x_MD: Float[Array, "M D"], dy_MF: Float[Array, "M F"], dtype: jax.typing.DTypeLike
) -> Float[Array, "D F"]:
  product = functools.partial(jnp.einsum, preferred_element_type=dtype)
  if x_MD.shape[1] <= dy_MF.shape[1]:
    return jax.lax.optimization_barrier(product("MD,MF->DF", x_MD, dy_MF))
  return jax.lax.optimization_barrier(product("MF,MD->FD", dy_MF, x_MD)).T


_project.defvjp(_project_forward, _project_backward)


# --- rows of a table ---------------------------------------------------------------------------

FEW_ROWS = 1024


def take_rows(table_VD: Float[Array, "V D"], tokens_M: Int[Array, "M"]) -> Float[Array, "M D"]:
  """Returns the rows of tokens.

  On an accelerator the gradient of a gather adds rows up in any order: two runs differ in their last bits.
  That of a small table is a product there instead, in full precision, which has an order, and costs less.
  """
  if jax.default_backend() == "cpu" or len(table_VD) > FEW_ROWS:
    return table_VD[tokens_M]
  return rows_by_product(table_VD, tokens_M)


@jax.custom_vjp
def rows_by_product(table_VD: Float[Array, "V D"], tokens_M: Int[Array, "M"]) -> Float[Array, "M D"]:
  """Returns the rows of tokens; the gradient is a product with their one-hot vectors."""
  return table_VD[tokens_M]


def _rows_by_product_forward(table_VD: Array, tokens_M: Array) -> tuple[Array, tuple[Array, int]]:
  return table_VD[tokens_M], (tokens_M, len(table_VD))


def _rows_by_product_backward(saved: tuple[Array, int], dy_MD: Array) -> tuple[Array, None]:
  tokens_M, V = saved
  onehot_MV = jax.nn.one_hot(tokens_M, V, dtype=dy_MD.dtype)
  return jnp.einsum("MV,MD->VD", onehot_MV, dy_MD, precision=jax.lax.Precision.HIGHEST), None


rows_by_product.defvjp(_rows_by_product_forward, _rows_by_product_backward)


# --- elementwise ------------------------------------------------------------------------------

_GELU_SLOPE, _GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_vjp
def gelu(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
  """Returns 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv:1606.08415, section 2).

  The gradient computes the tanh again: that is cheaper than a second pass over memory to keep it, and
  halves what an MLP holds for the backward pass.
  """
  dtype, x = x.dtype, widen(x)
  return (0.5 * x * (1 + jnp.tanh(_GELU_SLOPE * (x + _GELU_CUBIC * x * x * x)))).astype(dtype)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
  return gelu(x), x


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
  dtype, x, dy = x.dtype, widen(x), widen(dy)
  t = jnp.tanh(_GELU_SLOPE * x * (1 + _GELU_CUBIC * x * x))
  slope = _GELU_SLOPE * (1 + 3 * _GELU_CUBIC * x * x)
  return ((dy * 0.5 * (1 + t + x * (1 - t * t) * slope)).astype(dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def gelu_erf(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
  """Returns x Phi(x), which `gelu` comes close to (arXiv:1606.08415, equation 2)."""
  return jax.nn.gelu(widen(x), approximate=False).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def normalize(
  x_MD: Float[Array, "M D"], scale_D: Float[Array, "D"], epsilon: float, center: bool
) -> Float[Array, "M D"]:
  """Returns (x - mean) / sqrt(variance + epsilon) * scale; without `center` the mean is taken as 0.

  The gradient is the textbook's, in the normalized values: dx = (g - mean(g) - y mean(g y)) / std with
  g = dy * scale, as one pass with its two means. Means and products are in float32 whatever x is in.
  """
  return _normalize_forward(x_MD, scale_D, epsilon, center)[0]


def _normalize_forward(
  x_MD: Array, scale_D: Array, epsilon: float, center: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
  dtype, x_MD = x_MD.dtype, widen(x_MD)
  if center:
    x_MD = x_MD - x_MD.mean(-1, keepdims=True)
  inverse_M1 = jax.lax.rsqrt(jnp.square(x_MD).mean(-1, keepdims=True) + epsilon)
  unit_MD = x_MD * inverse_M1
  return (unit_MD * scale_D[None]).astype(dtype), (unit_MD.astype(dtype), inverse_M1, scale_D)


def _normalize_backward(
  epsilon: float, center: bool, saved: tuple[Array, Array, Array], dy_MD: Array
) -> tuple[Array, Array]:
  unit_MD, inverse_M1, scale_D = saved
  dtype, unit_MD, dy_MD = unit_MD.dtype, widen(unit_MD), widen(dy_MD)
  g_MD = dy_MD * scale_D[None]
  along_M1 = (g_MD * unit_MD).mean(-1, keepdims=True)
  dx_MD = g_MD - unit_MD * along_M1
  if center:
    dx_MD -= g_MD.mean(-1, keepdims=True)
  return (dx_MD * inverse_M1).astype(dtype), (dy_MD * unit_MD).sum(0)


normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def token_nll(logits: Float[Array, "*N V"], targets: Int[Array, "*N"]) -> Float[Array, "*N"]:
  """Returns -log p(target) in nats.

  The gradient, p - 1[target], is computed from the logits in one pass; nothing of size V is kept.
  """
  return _token_nll_forward(logits, targets)[0]


def _token_nll_forward(logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array, Array]]:
  log_total = jax.nn.logsumexp(logits, axis=-1)
  target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return log_total - target_logit, (logits, targets, log_total)


def _token_nll_backward(saved: tuple[Array, Array, Array], dy: Array) -> tuple[Array, None]:
  logits, targets, log_total = saved
  p = jnp.exp(logits - log_total[..., None])
  token = jnp.arange(logits.shape[-1]).reshape((1,) * targets.ndim + (-1,))
  return jnp.where(targets[..., None] == token, p - 1, p) * dy[..., None], None


token_nll.defvjp(_token_nll_forward, _token_nll_backward)


def chunked_nll(
  x_BPD: Float[Array, "B P D"],
  w_DV: Matrix,
  bias_V: Float[Array, "V"] | None,
  targets_BP: Int[Array, "B P"],
  size: int,
) -> Float[Array, "B P"]:
  """Returns `token_nll(x W + bias, targets)` with the logits of `size` positions at a time, never of all.

  Not made to be differentiated, see `chunked_loss`. Chunks are of positions, so that the batch, which may be
  spread over devices, stays whole.
  """

  def chunk(part: tuple[Array, Array]) -> Array:
    x_BCD, targets_BC = part
    logits_MV = affine(x_BCD.reshape(-1, x_BCD.shape[-1]), w_DV, bias_V)
    return token_nll(logits_MV, targets_BC.reshape(-1)).reshape(targets_BC.shape)

  nll = jax.lax.map(chunk, (_chunks(x_BPD, size), _chunks(targets_BP, size)))
  return _unchunk(nll, x_BPD.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def chunked_loss(
  x_BPD: Float[Array, "B P D"],
  w_DV: Float[Array, "D V"],
  bias_V: Float[Array, "V"] | None,
  targets_BP: Int[Array, "B P"],
  weights_BP: Float[Array, "B P"],
  size: int,
) -> Float[Array, ""]:
  """Returns the sum of weights * `chunked_nll`.

  As the weights are known, all that a chunk's gradient lacks in the forward pass is a factor that all share:
  it is computed there, while the logits are at hand, and those are computed once (as in the fused losses of
  arXiv:2410.10989). What is kept for the backward pass are gradients, of the size of x and W.
  """
  return (chunked_nll(x_BPD, w_DV, bias_V, targets_BP, size) * weights_BP).sum()


def _chunks(x_BP: Shaped[Array, "B P ..."], size: int) -> Shaped[Array, "n B C ..."]:
  """Returns x in ceil(P / size) chunks of positions as equal as can be, zeros after the last."""
  B, P = x_BP.shape[:2]
  n = -(-P // size)
  C = -(-P // n)
  x_BP = jnp.pad(x_BP, [(0, 0), (0, n * C - P)] + [(0, 0)] * (x_BP.ndim - 2))
  return jnp.moveaxis(x_BP.reshape(B, n, C, *x_BP.shape[2:]), 1, 0)


def _unchunk(x_nBC: Shaped[Array, "n B C ..."], P: int) -> Shaped[Array, "B P ..."]:
  n, B, C = x_nBC.shape[:3]
  return jnp.moveaxis(x_nBC, 0, 1).reshape(B, n * C, *x_nBC.shape[3:])[:, :P]


def affine(x_MD: Float[Array, "M D"], w_DF: Matrix, bias_F: Float[Array, "F"] | None) -> Float[Array, "M F"]:
  """Returns x W (+ bias) in float32, as logits are."""
  y_MF = project(x_MD, w_DF, jnp.promote_types(x_MD.dtype, jnp.float32))
  return y_MF if bias_F is None else y_MF + bias_F[None]


def _chunked_loss_forward(
  x_BPD: Array, w_DV: Array, bias_V: Array | None, targets_BP: Array, weights_BP: Array, size: int
) -> tuple[Array, tuple]:
  narrow_DV = w_DV.astype(x_BPD.dtype)

  def chunk(sums: tuple[Array, Array | None], part: tuple[Array, ...]) -> tuple[tuple, tuple]:
    dw_DV, dbias_V = sums
    x_BCD, targets_BC, weights_BC = part
    x_MD = x_BCD.reshape(-1, x_BCD.shape[-1])
    logits_MV = affine(x_MD, narrow_DV, bias_V)
    nll_M, saved = _token_nll_forward(logits_MV, targets_BC.reshape(-1))
    dlogits_MV, _ = _token_nll_backward(saved, weights_BC.reshape(-1))
    narrow_MV = dlogits_MV.astype(x_MD.dtype)
    dx_MD = jnp.einsum("MV,DV->MD", narrow_MV, narrow_DV)
    dw_DV = dw_DV + _weight_gradient(x_MD, narrow_MV, w_DV.dtype)
    dbias_V = None if dbias_V is None else dbias_V + dlogits_MV.sum(0)
    return (dw_DV, dbias_V), (nll_M.reshape(targets_BC.shape), dx_MD.reshape(x_BCD.shape))

  parts = tuple(_chunks(y, size) for y in (x_BPD, targets_BP, weights_BP))
  zeros = jax.tree.map(jnp.zeros_like, (w_DV, bias_V))
  (dw_DV, dbias_V), found = jax.lax.scan(chunk, zeros, parts)
  nll_BP, dx_BPD = (_unchunk(y, x_BPD.shape[1]) for y in found)
  return (nll_BP * weights_BP).sum(), (dx_BPD, dw_DV, dbias_V, nll_BP)


def _chunked_loss_backward(size: int, saved: tuple, dy: Array) -> tuple[Array | None, ...]:
  dx_BPD, dw_DV, dbias_V, nll_BP = saved
  scaled = lambda g: None if g is None else (dy * g).astype(g.dtype)  # noqa: E731
  return scaled(dx_BPD), scaled(dw_DV), scaled(dbias_V), None, scaled(nll_BP)


chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)


def candidate_scores(
  x_BPD: Float[Array, "B P D"],
  w_DV: Matrix,
  bias_V: Float[Array, "V"] | None,
  candidates_BPC: Int[Array, "B P C"],
) -> tuple[Float[Array, "B P C"], Bool[Array, "B P C"]]:
  """Returns log p of candidates by softmax(x W + bias), nats, and whether each is the most likely token.

  The logits of a part of the positions are held at a time. Not made to be differentiated.
  """
  (B, P), V = x_BPD.shape[:2], w_DV.shape[1]

  def chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
    x_BCD, of_BC = part
    logits_BCV = affine(x_BCD.reshape(-1, x_BCD.shape[-1]), w_DV, bias_V).reshape(*of_BC.shape[:2], V)
    logits = jnp.take_along_axis(logits_BCV, of_BC, axis=-1)
    log_total = jax.nn.logsumexp(logits_BCV, axis=-1, keepdims=True)
    return logits - log_total, logits_BCV.argmax(-1)[..., None] == of_BC

  size = max(1, CANDIDATE_LOGITS // (B * V))
  if P <= size:
    return chunk((x_BPD, candidates_BPC))
  log_p, is_best = jax.lax.map(chunk, (_chunks(x_BPD, size), _chunks(candidates_BPC, size)))
  return _unchunk(log_p, P), _unchunk(is_best, P)
