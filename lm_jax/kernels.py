"""The arithmetic that decides the speed, as pure functions: products, attention, norm, activation, NLL.

Letters as in layers.py. Those with a gradient of their own say why: autodiff's would be as right, but
would keep or compute more than is needed. Every one is tested against autodiff of the plain formula.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a row with every key masked gives zeros' average and not NaN.
MASKED = -0.7 * float(np.finfo(np.float32).max)


# --- attention --------------------------------------------------------------------------------


def attend(
  q_BTNH: Float[Array, "B T N H"],
  k_BSKH: Float[Array, "B S K H"],
  v_BSKH: Float[Array, "B S K H"],
  *,
  causal: bool,
  padding_BS: Bool[Array, "B S"] | None = None,
  blocks: list[tuple[int, int, int]] | None = None,
) -> Float[Array, "B T N H"]:
  """Returns softmax(q k^T / sqrt(H)) v, grouped: query head n reads kv-head n // (N/K).

  Args:
    causal: query t sees the keys 0..t only (S = T).
    padding_BS: true at keys that no query may see. A query with no key to see gets their plain mean.
    blocks: (first query, end of queries, end of keys) blocks that cover the queries; the scores of a
      block are computed for its keys only. Default: one block.
  """
  B, T, N, H = q_BTNH.shape
  S, K = k_BSKH.shape[1:3]
  # Head-major, so that each head's products are plain matrix products; a group's queries are its rows.
  q_BKGTH = (q_BTNH / math.sqrt(H)).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
  k_BKSH, v_BKSH = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)
  visible = np.tril(np.ones((T, S), bool)) if causal else np.ones((T, S), bool)

  def block(start: int, end: int, keys: int) -> Float[Array, "B K G C H"]:
    scores = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH[:, :, :, start:end], k_BKSH[:, :, :keys])
    mask = visible[None, None, None, start:end, :keys]
    if padding_BS is not None:
      mask = mask & ~padding_BS[:, None, None, None, :keys]
    if not isinstance(mask, np.ndarray) or not mask.all():
      scores = jnp.where(mask, scores, MASKED)
    # The maximum only guards exp; no gradient flows through it.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    mixed = jnp.einsum("BKGTS,BKSH->BKGTH", weights, v_BKSH[:, :, :keys])
    # Dividing after the product touches [T, H] values instead of [T, S].
    return mixed / weights.sum(-1, keepdims=True)

  out_BKGTH = jnp.concatenate([block(*b) for b in blocks or [(0, T, S)]], axis=3)
  return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


# --- products ---------------------------------------------------------------------------------


@jax.custom_vjp
def project(x_MD: Float[Array, "M D"], w_DF: Float[Array, "D F"]) -> Float[Array, "M F"]:
  """Returns x W, with its weight gradient computed in the orientation that is fast on CPU.

  [D, M] @ [M, F] takes twice the time of its transpose when D > F (XLA:CPU); the barrier keeps the
  compiler from folding the transposition back into the product.
  """
  return x_MD @ w_DF


def _project_forward(x_MD: Array, w_DF: Array) -> tuple[Array, tuple[Array, Array]]:
  return x_MD @ w_DF, (x_MD, w_DF)


def _project_backward(saved: tuple[Array, Array], dy_MF: Array) -> tuple[Array, Array]:
  x_MD, w_DF = saved
  if w_DF.shape[0] <= w_DF.shape[1]:
    dw_DF = jax.lax.optimization_barrier(jnp.einsum("MD,MF->DF", x_MD, dy_MF))
  else:
    dw_DF = jax.lax.optimization_barrier(jnp.einsum("MF,MD->FD", dy_MF, x_MD)).T
  return jnp.einsum("MF,DF->MD", dy_MF, w_DF), dw_DF


project.defvjp(_project_forward, _project_backward)


# --- elementwise ------------------------------------------------------------------------------

_GELU_SLOPE, _GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_vjp
def gelu(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
  """Returns 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv:1606.08415, section 2).

  The gradient computes the tanh again: that is cheaper than a second pass over memory to keep it, and
  halves what an MLP holds for the backward pass.
  """
  return 0.5 * x * (1 + jnp.tanh(_GELU_SLOPE * (x + _GELU_CUBIC * x * x * x)))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
  return gelu(x), x


def _gelu_backward(x: Array, dy: Array) -> tuple[Array]:
  t = jnp.tanh(_GELU_SLOPE * x * (1 + _GELU_CUBIC * x * x))
  slope = _GELU_SLOPE * (1 + 3 * _GELU_CUBIC * x * x)
  return (dy * 0.5 * (1 + t + x * (1 - t * t) * slope),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def normalize(
  x_MD: Float[Array, "M D"], scale_D: Float[Array, "D"], epsilon: float, center: bool
) -> Float[Array, "M D"]:
  """Returns (x - mean) / sqrt(variance + epsilon) * scale; without `center` the mean is taken as 0.

  The gradient is the textbook's, in the normalized values: dx = (g - mean(g) - y mean(g y)) / std with
  g = dy * scale, as one pass with its two means.
  """
  return _normalize_forward(x_MD, scale_D, epsilon, center)[0]


def _normalize_forward(
  x_MD: Array, scale_D: Array, epsilon: float, center: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
  if center:
    x_MD = x_MD - x_MD.mean(-1, keepdims=True)
  inverse_M1 = jax.lax.rsqrt(jnp.square(x_MD).mean(-1, keepdims=True) + epsilon)
  unit_MD = x_MD * inverse_M1
  return unit_MD * scale_D[None], (unit_MD, inverse_M1, scale_D)


def _normalize_backward(
  epsilon: float, center: bool, saved: tuple[Array, Array, Array], dy_MD: Array
) -> tuple[Array, Array]:
  unit_MD, inverse_M1, scale_D = saved
  g_MD = dy_MD * scale_D[None]
  along_M1 = (g_MD * unit_MD).mean(-1, keepdims=True)
  dx_MD = g_MD - unit_MD * along_M1
  if center:
    dx_MD -= g_MD.mean(-1, keepdims=True)
  return dx_MD * inverse_M1, (dy_MD * unit_MD).sum(0)


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
