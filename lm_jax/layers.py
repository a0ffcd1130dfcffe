"""The Transformer's parts, as pure functions and small linen modules.

Letters: B batch, T query, S key, M tokens (B*T), D model, F ff, N heads, K kv-heads, G query heads a
kv-head (N/K), H head-dim, V vocab, L layers, P label positions.

Activations between the parts are token-major, [M, D]: every weight gradient is then one matrix product
over M, where XLA:CPU would take a slow path for a contraction over two axes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from lm_jax.config import ModelConfig

# Finite, so that a row with every key masked gives zeros' average and not NaN.
MASKED = -0.7 * float(np.finfo(np.float32).max)


# --- initialization ---------------------------------------------------------------------------


def kernel_init(config: ModelConfig, *, residual: bool = False) -> nn.initializers.Initializer:
  """Returns the initializer of a [in, out] kernel.

  Args:
    residual: the kernel writes to the residual stream; GPT-2 scales those by 1/sqrt(number of them).
  """
  if config.initializer == "xavier_uniform":
    return nn.initializers.xavier_uniform()
  if config.initializer == "fan_in":
    return nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
  writers = config.num_layers * (1 if config.attention_only else 2)
  return nn.initializers.normal(0.02 / math.sqrt(writers) if residual else 0.02)


def embedding_init(config: ModelConfig) -> nn.initializers.Initializer:
  """Returns the initializer of a [V, D] table: N(0, 1/D), or N(0, 0.02^2) for GPT-2's scheme."""
  if config.initializer == "gpt2":
    return nn.initializers.normal(0.02)
  return nn.initializers.normal(1 / math.sqrt(config.d_model))


# --- positions --------------------------------------------------------------------------------


def sinusoids(length: int, d_model: int) -> np.ndarray:
  """Returns the fixed table [T, D] of arXiv:1706.03762, section 3.5.

  PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(pos / 10000^(2i/D)).
  """
  angle = np.arange(length)[:, None] / 10_000 ** (np.arange(0, d_model, 2)[None, :] / d_model)
  return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, d_model).astype(np.float32)


def rope_tables(length: int, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns cos and sin [T, H/2] of pos * theta^(-2i/H) (Su et al., arXiv:2104.09864, eq. 15)."""
  angle = np.arange(length)[:, None] * theta ** (-np.arange(0, head_dim, 2)[None, :] / head_dim)
  return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(
  x_BTNH: Float[Array, "B T N H"], cos_TX: Float[Array, "T X"], sin_TX: Float[Array, "T X"]
) -> Float[Array, "B T N H"]:
  """Rotates the pairs (i, i + H/2) of each head by its position's angles (GPT-NeoX's pairing)."""
  cos, sin = cos_TX[:, None, :], sin_TX[:, None, :]
  a, b = jnp.split(x_BTNH, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


# --- attention --------------------------------------------------------------------------------


def causal_mask(length: int) -> np.ndarray:
  """Returns bool [T, S], true where a query may look: at itself and before."""
  return np.tril(np.ones((length, length), bool))


def attend(
  q_BTNH: Float[Array, "B T N H"],
  k_BSKH: Float[Array, "B S K H"],
  v_BSKH: Float[Array, "B S K H"],
  mask: Array | np.ndarray | None,
) -> Float[Array, "B T N H"]:
  """Returns softmax(q k^T / sqrt(H)) v, grouped: query head n reads kv-head n // (N/K).

  Args:
    mask: bool, broadcastable to [B, 1, 1, T, S]; None lets every query see every key.
  """
  B, T, N, H = q_BTNH.shape
  K = k_BSKH.shape[2]
  q_BTKGH = (q_BTNH / math.sqrt(H)).reshape(B, T, K, N // K, H)
  scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH)
  if mask is not None:
    scores_BKGTS = jnp.where(mask, scores_BKGTS, MASKED)
  # The maximum only guards exp; no gradient flows through it.
  weights_BKGTS = jnp.exp(scores_BKGTS - jax.lax.stop_gradient(scores_BKGTS.max(-1, keepdims=True)))
  total_BKGT = weights_BKGTS.sum(-1)
  mixed_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH)
  # Dividing after the product touches [T, H] values instead of [T, S].
  out = mixed_BTKGH / jnp.moveaxis(total_BKGT, -1, 1)[..., None]
  return out.reshape(B, T, N, H)


# --- modules ----------------------------------------------------------------------------------


class Linear(nn.Module):
  """y = x W (+ b) on token-major activations."""

  features: int
  use_bias: bool
  init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M F"]:
    kernel = self.param("kernel", self.init, (x_MD.shape[-1], self.features))
    y_MF = x_MD @ kernel
    if self.use_bias:
      y_MF += self.param("bias", nn.initializers.zeros, (self.features,))
    return y_MF


class Norm(nn.Module):
  """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last axis."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    scale = self.param("scale", nn.initializers.ones, (x_MD.shape[-1],))
    if self.config.norm == "layernorm":
      x_MD = x_MD - x_MD.mean(-1, keepdims=True)
    variance = jnp.square(x_MD).mean(-1, keepdims=True)
    y_MD = x_MD * jax.lax.rsqrt(variance + self.config.norm_epsilon) * scale
    if self.config.norm == "layernorm" and self.config.use_bias:
      y_MD += self.param("bias", nn.initializers.zeros, (x_MD.shape[-1],))
    return y_MD


class Attention(nn.Module):
  """Multi-head attention (arXiv:1706.03762, section 3.2.2), grouped-query when K < N."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, x_MD: Float[Array, "M D"], batch: int, mask: Array | np.ndarray | None
  ) -> Float[Array, "M D"]:
    c = self.config
    T = x_MD.shape[0] // batch

    def project(name: str, heads: int) -> Float[Array, "B T N H"]:
      y = Linear(heads * c.head_dim, c.use_bias, kernel_init(c), name=name)(x_MD)
      return y.reshape(batch, T, heads, c.head_dim)

    q, k, v = project("query", c.num_heads), project("key", c.num_kv_heads), project("value", c.num_kv_heads)
    if c.positions == "rope":
      cos, sin = rope_tables(T, c.head_dim, c.rope_theta)
      q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    out_MX = attend(q, k, v, mask).reshape(batch * T, c.num_heads * c.head_dim)
    return Linear(c.d_model, c.use_bias, kernel_init(c, residual=True), name="out")(out_MX)


class Mlp(nn.Module):
  """Position-wise MLP: ReLU, GELU (tanh form, arXiv:1606.08415) or SwiGLU (arXiv:2002.05202)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    c = self.config

    def up(name: str) -> Float[Array, "M F"]:
      return Linear(c.d_ff, c.use_bias, kernel_init(c), name=name)(x_MD)

    if c.activation == "swiglu":
      h_MF = jax.nn.silu(up("gate")) * up("up")
    else:
      h_MF = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}[c.activation](up("up"))
    return Linear(c.d_model, c.use_bias, kernel_init(c, residual=True), name="down")(h_MF)


class Block(nn.Module):
  """One Transformer layer: pre-norm, post-norm, or attention and MLP in parallel."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, x_MD: Float[Array, "M D"], batch: int, mask: Array | np.ndarray | None, deterministic: bool
  ) -> Float[Array, "M D"]:
    c = self.config
    attention, drop = Attention(c, name="attention"), nn.Dropout(c.dropout, deterministic=deterministic)
    if c.parallel_block:  # y = x + MLP(norm(x)) + Attention(norm(x)), arXiv:2204.02311 section 2
      h_MD = Norm(c, name="norm")(x_MD)
      return x_MD + drop(attention(h_MD, batch, mask) + Mlp(c, name="mlp")(h_MD))
    norm1 = Norm(c, name="attention_norm")
    if c.norm_position == "pre":
      x_MD = x_MD + drop(attention(norm1(x_MD), batch, mask))
    else:
      x_MD = norm1(x_MD + drop(attention(x_MD, batch, mask)))
    if c.attention_only:
      return x_MD
    norm2, mlp = Norm(c, name="mlp_norm"), Mlp(c, name="mlp")
    if c.norm_position == "pre":
      return x_MD + drop(mlp(norm2(x_MD)))
    return norm2(x_MD + drop(mlp(x_MD)))


class Embedding(nn.Module):
  """A table [V, D], read by token and, when tied, used once more as the output matrix."""

  num_rows: int
  config: ModelConfig

  def setup(self):
    self.table = self.param("table", embedding_init(self.config), (self.num_rows, self.config.d_model))

  def __call__(self, tokens_M: Int[Array, "M"]) -> Float[Array, "M D"]:
    return self.table[tokens_M]

  def attend(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M V"]:
    return x_MD @ self.table.T
