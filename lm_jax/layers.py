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
from jaxtyping import Array, Bool, Float, Int

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
  x_BTNH: Float[Array, "B T N H"],
  cos_TX: Float[Array | np.ndarray, "T X"],
  sin_TX: Float[Array | np.ndarray, "T X"],
) -> Float[Array, "B T N H"]:
  """Rotates the pairs (i, i + H/2) of each head by its position's angles (GPT-NeoX's pairing)."""
  cos, sin = cos_TX[None, :, None, :], sin_TX[None, :, None, :]
  a, b = jnp.split(x_BTNH, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


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


# --- modules ----------------------------------------------------------------------------------


class Weights(nn.Module):
  """Holds a kernel [in, out] and, where the model has them, a bias [out]."""

  features: int
  use_bias: bool
  init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, in_features: int) -> tuple[Array, Array | None]:
    kernel = self.param("kernel", self.init, (in_features, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    return kernel, bias


def linear(x_MD: Float[Array, "M D"], *weights: tuple[Array, Array | None]) -> list[Float[Array, "M F"]]:
  """Returns x W (+ b) for each of `weights`, as one product: few large products are the fast ones."""
  kernels = [kernel for kernel, _ in weights]
  y_MF = project(x_MD, kernels[0] if len(kernels) == 1 else jnp.concatenate(kernels, axis=1))
  ends = np.cumsum([kernel.shape[1] for kernel in kernels])
  parts = jnp.split(y_MF, ends[:-1], axis=1)
  return [y if bias is None else y + bias[None] for y, (_, bias) in zip(parts, weights, strict=True)]


class Norm(nn.Module):
  """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last axis."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    scale = self.param("scale", nn.initializers.ones, (x_MD.shape[-1],))[None]
    if self.config.norm == "layernorm":
      x_MD = x_MD - x_MD.mean(-1, keepdims=True)
    variance = jnp.square(x_MD).mean(-1, keepdims=True)
    y_MD = x_MD * jax.lax.rsqrt(variance + self.config.norm_epsilon) * scale
    if self.config.norm == "layernorm" and self.config.use_bias:
      y_MD += self.param("bias", nn.initializers.zeros, (x_MD.shape[-1],))[None]
    return y_MD


class Attention(nn.Module):
  """Multi-head attention (arXiv:1706.03762, section 3.2.2), grouped-query when K < N."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, x_MD: Float[Array, "M D"], batch: int, padding_BT: Bool[Array, "B T"] | None
  ) -> Float[Array, "M D"]:
    c = self.config
    T = x_MD.shape[0] // batch

    def weights(name: str, heads: int) -> tuple[Array, Array | None]:
      return Weights(heads * c.head_dim, c.use_bias, kernel_init(c), name=name)(c.d_model)

    projected = linear(
      x_MD, weights("query", c.num_heads), weights("key", c.num_kv_heads), weights("value", c.num_kv_heads)
    )
    q, k, v = (y.reshape(batch, T, -1, c.head_dim) for y in projected)
    if c.positions == "rope":
      cos, sin = rope_tables(T, c.head_dim, c.rope_theta)
      q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    out = attend(q, k, v, causal=c.causal, padding_BS=padding_BT, blocks=c.query_blocks(T))
    out_MX = out.reshape(batch * T, c.num_heads * c.head_dim)
    out_weights = Weights(c.d_model, c.use_bias, kernel_init(c, residual=True), name="out")
    return linear(out_MX, out_weights(out_MX.shape[1]))[0]


class Mlp(nn.Module):
  """Position-wise MLP: ReLU, GELU (tanh form, arXiv:1606.08415) or SwiGLU (arXiv:2002.05202)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    c = self.config

    def up(name: str) -> tuple[Array, Array | None]:
      return Weights(c.d_ff, c.use_bias, kernel_init(c), name=name)(c.d_model)

    if c.activation == "swiglu":
      gate_MF, up_MF = linear(x_MD, up("gate"), up("up"))
      h_MF = jax.nn.silu(gate_MF) * up_MF
    else:
      h_MF = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}[c.activation](linear(x_MD, up("up"))[0])
    down = Weights(c.d_model, c.use_bias, kernel_init(c, residual=True), name="down")
    return linear(h_MF, down(c.d_ff))[0]


class Block(nn.Module):
  """One Transformer layer: pre-norm, post-norm, or attention and MLP in parallel."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x_MD: Float[Array, "M D"],
    batch: int,
    padding_BT: Bool[Array, "B T"] | None,
    deterministic: bool,
  ) -> Float[Array, "M D"]:
    c = self.config
    attention, drop = Attention(c, name="attention"), nn.Dropout(c.dropout, deterministic=deterministic)
    if c.parallel_block:  # y = x + MLP(norm(x)) + Attention(norm(x)), arXiv:2204.02311 section 2
      h_MD = Norm(c, name="norm")(x_MD)
      return x_MD + drop(attention(h_MD, batch, padding_BT) + Mlp(c, name="mlp")(h_MD))
    norm1 = Norm(c, name="attention_norm")
    if c.norm_position == "pre":
      x_MD = x_MD + drop(attention(norm1(x_MD), batch, padding_BT))
    else:
      x_MD = norm1(x_MD + drop(attention(x_MD, batch, padding_BT)))
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
    return project(x_MD, self.table.T)
