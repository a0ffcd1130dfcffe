"""The Transformer's parts, as pure functions and small linen modules.

Letters: B batch, T query, S key, M tokens (B*T), D model, F ff, N heads, K kv-heads, G query heads a
kv-head (N/K), H head-dim, V vocab, L layers, P label positions.

Activations between the parts are token-major, [M, D]: every weight gradient is then one matrix product
over M, where XLA:CPU would take a slow path for a contraction over two axes. The arithmetic that decides
the speed is in kernels.py.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from lm_jax import attention, kernels, parametrization, quantize, sharding, trees
from lm_jax.kernels import Matrix
from lm_jax.model_config import ModelConfig, RopeScaling

NO_SCALING = RopeScaling()
FEW_TOKENS = 64
PRODUCT = "product"  # the name, to rematerialization, of what a product with weights gives

# --- initialization ---------------------------------------------------------------------------


def kernel_init(config: ModelConfig, *, residual: bool = False) -> nn.initializers.Initializer:
  """Returns the initializer of a block's [in, out] kernel.

  Variances of 1/fan shrink with the width by themselves, as every parametrization wants of these kernels.

  Args:
    residual: the kernel writes to the residual stream; "gpt2" scales those by 1/sqrt(number of them).
  """
  if config.initializer == "xavier_uniform":
    return nn.initializers.xavier_uniform()
  if config.initializer == "fan_in":
    return nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
  std = 0.02 * math.sqrt(parametrization.table(config)["hidden_matrix"].init_variance)
  residual = residual and config.initializer == "gpt2"
  writers = parametrization.base_depth(config) * (1 if config.attention_only else 2)
  return nn.initializers.normal(std / math.sqrt(writers) if residual else std)


def output_init(config: ModelConfig, features: int) -> nn.initializers.Initializer:
  """Returns the initializer of a [D, V] matrix that logits come from, with the fans it has at the base width.

  Args:
    features: V.
  """
  base, D, V = parametrization.base_width(config), config.d_model, features
  if config.initializer == "xavier_uniform":
    return nn.initializers.variance_scaling((D + V) / (base + V), "fan_avg", "uniform")
  if config.initializer == "fan_in":
    return nn.initializers.variance_scaling(D / base, "fan_in", "truncated_normal")
  return nn.initializers.normal(0.02)


def embedding_init(config: ModelConfig) -> nn.initializers.Initializer:
  """Returns the initializer of a [V, D] table: N(0, 1/base D), or N(0, 0.02^2) for GPT-2's and BERT's."""
  if config.initializer in ("normal", "gpt2"):
    return nn.initializers.normal(0.02)
  return nn.initializers.normal(1 / math.sqrt(parametrization.base_width(config)))


def scaled(x: Float[Array, "*N"], multiplier: float) -> Float[Array, "*N"]:
  """Returns x times a multiplier of the parametrization; 1 leaves the program as it is."""
  return x if multiplier == 1 else x * multiplier


# --- positions --------------------------------------------------------------------------------


def sinusoids(length: int, d_model: int) -> np.ndarray:
  """Returns the fixed table [T, D] of arXiv:1706.03762, section 3.5.

  PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(pos / 10000^(2i/D)).
  """
  angle = np.arange(length)[:, None] / 10_000 ** (np.arange(0, d_model, 2)[None, :] / d_model)
  return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, d_model).astype(np.float32)


def rope_tables(
  length: int, head_dim: int, theta: float, scaling: RopeScaling = NO_SCALING
) -> tuple[np.ndarray, np.ndarray]:
  """Returns cos and sin [T, H/2] of pos * theta^(-2i/H) (Su et al., arXiv:2104.09864, eq. 15).

  Args:
    head_dim: H, the dimensions that are rotated.
    scaling: what is made of the frequencies theta^(-2i/H).
  """
  frequency_X = _scaled_frequencies(theta ** (-np.arange(0, head_dim, 2) / head_dim), scaling)
  angle = np.arange(length)[:, None] * frequency_X[None]
  return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _scaled_frequencies(frequency_X: np.ndarray, s: RopeScaling) -> np.ndarray:
  """Returns frequencies, radians a token, see `RopeScaling`."""
  if s.kind == "none":
    return frequency_X
  if s.kind == "linear":
    return frequency_X / s.factor
  turns_X = s.original_context_length * frequency_X / (2 * math.pi)  # in the old context
  kept_X = (turns_X - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor)
  kept_X = np.clip(kept_X, 0, 1)
  return frequency_X * (kept_X + (1 - kept_X) / s.factor)


def rotary_tables(c: ModelConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns cos and sin [T, X] of a model, X half the dimensions that it rotates."""
  return rope_tables(length, c.rotary_dim, c.rope_theta, c.rope_scaling)


def rotate(
  x_BTNH: Float[Array, "B T N H"],
  cos: Float[Array | np.ndarray, "*B T X"],
  sin: Float[Array | np.ndarray, "*B T X"],
) -> Float[Array, "B T N H"]:
  """Rotates the pairs (i, i + X) of each head's first 2 X dimensions by its position's angles (GPT-NeoX's).

  Args:
    cos, sin: of all sequences alike, or of each.
  """
  X, shape = cos.shape[-1], (-1, *cos.shape[-2:])
  cos, sin = cos.reshape(shape)[:, :, None], sin.reshape(shape)[:, :, None]
  a, b, rest = x_BTNH[..., :X], x_BTNH[..., X : 2 * X], x_BTNH[..., 2 * X :]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1).astype(x_BTNH.dtype)


# --- modules ----------------------------------------------------------------------------------


def matrix_param(
  module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, int]
) -> Matrix:
  """Returns a parameter, which may be held as `quantize.Rows`; those give the shape they are for."""
  held = module.get_variable("params", name)
  if not isinstance(held, quantize.Rows):
    return module.param(name, init, shape)
  if held.shape not in (shape, shape[::-1]):
    raise ValueError(f"{'/'.join(module.path)}/{name} is {held.shape}, not {shape}")
  return held


class Weights(nn.Module):
  """Holds a kernel [in, out] and, where the model has them, a bias [out]."""

  features: int
  use_bias: bool
  init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, in_features: int) -> tuple[Matrix, Array | None]:
    kernel = matrix_param(self, "kernel", self.init, (in_features, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    return kernel, bias


def linear(
  x_MD: Float[Array, "M D"], *weights: tuple[Matrix, Array | None], axis: str = sharding.EMBED
) -> list[Float[Array, "M F"]]:
  """Returns x W (+ b) for each of `weights`, as one product: few large products are the fast ones.

  Products of few tokens stay apart, since matrices must be copied to be set side by side; so do those with
  `quantize.Rows`, which are as fast alone.

  Args:
    axis: logical name of the outputs' last axis. Where devices split it the products stay apart, since
      columns of matrices set side by side would be on the wrong devices.
  """
  matrices = [matrix for matrix, _ in weights]
  is_rows = isinstance(matrices[0], quantize.Rows)
  if len(weights) > 1 and (is_rows or sharding.is_split(axis) or x_MD.shape[0] < FEW_TOKENS):
    return [y for one in weights for y in linear(x_MD, one, axis=axis)]
  beside = matrices[0] if len(matrices) == 1 else jnp.concatenate(matrices, axis=1)
  y_MF = kernels.project(x_MD, beside)
  y_MF = checkpoint_name(y_MF, PRODUCT)
  ends = np.cumsum([matrix.shape[1] for matrix in matrices])
  parts = jnp.split(y_MF, ends[:-1], axis=1)
  return [y if bias is None else add(y, bias) for y, (_, bias) in zip(parts, weights, strict=True)]


def add(x_MD: Float[Array, "M D"], bias_D: Float[Array, "D"]) -> Float[Array, "M D"]:
  """Returns x + bias in the dtype of x, added in float32: the gradient of the bias is a sum over M."""
  return (kernels.widen(x_MD) + bias_D[None]).astype(x_MD.dtype)


class Norm(nn.Module):
  """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last axis."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    c = self.config
    scale = self.param("scale", nn.initializers.ones, (x_MD.shape[-1],))
    y_MD = kernels.normalize(x_MD, jnp.asarray(scale), c.norm_epsilon, c.norm == "layernorm")
    if c.norm == "layernorm" and c.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (x_MD.shape[-1],))
      y_MD = add(y_MD, jnp.asarray(bias))
    return y_MD


def attend(
  c: ModelConfig,
  q_BTNH: Float[Array, "B T N H"],
  k_BTKH: Float[Array, "B T K H"],
  v_BTKH: Float[Array, "B T K H"],
  documents_BT: Int[Array, "B T"] | None = None,
  prefix_BT: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T N H"]:
  """Returns the model's attention by the kernel that `config.attention` and the backend choose."""
  T, prefix = q_BTNH.shape[1], prefix_BT is not None
  who: dict[str, Any] = {"causal": c.causal, "window": c.attention_window}
  kernel = attention.attention_kernel(c.attention, attention.attention_backend(), c.dtype, c.head_dim, **who)
  who |= {"documents_BS": documents_BT, "prefix_BS": prefix_BT}
  if kernel == "cudnn" and attention.can_be_fused(
    T, causal=c.causal, masked=documents_BT is not None or prefix
  ):
    return attention.attend_fused(q_BTNH, k_BTKH, v_BTKH, **who)
  blocks = c.query_blocks(T, prefix, jax.default_backend())
  recompute = c.recomputed_queries(T)
  return attention.attend(q_BTNH, k_BTKH, v_BTKH, **who, blocks=blocks, recompute=recompute)


@struct.dataclass
class Slots:
  """Where the tokens of a call stand in a KV cache (lm_jax/kv_cache.py).

  Attributes:
    start: the slot of the first of them; an int 0 where the cache is known to be empty.
    first_B: the slot of each sequence's first token.
    cos_BTX, sin_BTX: their rotary angles.
  """

  start: Int[Array, ""] | int
  first_B: Int[Array, "B"]
  cos_BTX: Float[Array, "B T X"] | None
  sin_BTX: Float[Array, "B T X"] | None


class Attention(nn.Module):
  """Multi-head attention (arXiv:1706.03762, section 3.2.2), grouped-query when K < N."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x_MD: Float[Array, "M D"],
    batch: int,
    documents_BT: Int[Array, "B T"] | None,
    prefix_BT: Bool[Array, "B T"] | None,
    slots: Slots | trees.Tree | None = None,
  ) -> Float[Array, "M D"]:
    c = self.config
    T = x_MD.shape[0] // batch

    def weights(name: str, heads: int) -> tuple[Matrix, Array | None]:
      has_bias = c.use_bias or c.qkv_bias
      return Weights(heads * c.head_dim, has_bias, kernel_init(c), name=name)(c.d_model)

    projected = linear(
      x_MD, weights("query", c.num_heads), weights("key", c.num_kv_heads), weights("value", c.num_kv_heads),
      axis=sharding.HEADS,
    )  # fmt: skip
    q, k, v = (
      sharding.constrain(y.reshape(batch, T, -1, c.head_dim), sharding.BATCH, None, sharding.HEADS, None)
      for y in projected
    )
    if c.positions == "rope":
      cos, sin = rotary_tables(c, T) if slots is None else (slots.cos_BTX, slots.sin_BTX)
      q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    q = scaled(q, parametrization.attention_multiplier(c))
    cached = self._remember(k, v, slots) if isinstance(slots, Slots) else None
    if isinstance(slots, trees.Tree):
      out = trees.attend(q, k, v, slots, self._common(), c.attention_window)
    elif cached is None or isinstance(slots.start, int):
      out = attend(c, q, k, v, documents_BT, prefix_BT)
    else:
      where: dict[str, Any] = {"start": slots.start, "first_B": slots.first_B, "window": c.attention_window}
      out = attention.attend_cache(q, *cached, **where)
    out_MX = sharding.constrain(
      out.reshape(batch * T, c.num_heads * c.head_dim), sharding.BATCH, sharding.HEADS
    )
    out_weights = Weights(c.d_model, c.use_bias, kernel_init(c, residual=True), name="out")
    return linear(out_MX, out_weights(out_MX.shape[1]))[0]

  def _remember(
    self, k_BTKH: Array, v_BTKH: Array, slots: Slots
  ) -> tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]]:
    """Puts keys and values into the layer's cache, and returns all that it holds."""
    cached = []
    for name, x_BTKH in (("keys", k_BTKH), ("values", v_BTKH)):
      cache = self.variable("cache", name)
      x_BKTH = x_BTKH.transpose(0, 2, 1, 3).astype(cache.value.dtype)
      cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, x_BKTH, slots.start, axis=2)
      cached.append(cache.value)
    return tuple(cached)

  def _common(self) -> tuple[Float[Array, "1 K S H"], Float[Array, "1 K S H"]] | None:
    """Returns the keys and values of what is before all rows alike, if anything is."""
    if not self.has_variable("cache", "keys"):
      return None
    return self.get_variable("cache", "keys"), self.get_variable("cache", "values")


ACTIVATIONS = {"relu": jax.nn.relu, "gelu": kernels.gelu, "gelu_erf": kernels.gelu_erf}


class Mlp(nn.Module):
  """Position-wise MLP: ReLU, GELU (arXiv:1606.08415) or SwiGLU (arXiv:2002.05202)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    c = self.config

    def up(name: str) -> tuple[Matrix, Array | None]:
      return Weights(c.d_ff, c.use_bias, kernel_init(c), name=name)(c.d_model)

    if c.activation == "swiglu":
      gate_MF, up_MF = linear(x_MD, up("gate"), up("up"), axis=sharding.MLP)
      h_MF = jax.nn.silu(gate_MF) * up_MF
    else:
      h_MF = ACTIVATIONS[c.activation](linear(x_MD, up("up"))[0])
    h_MF = sharding.constrain(h_MF, sharding.BATCH, sharding.MLP)
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
    documents_BT: Int[Array, "B T"] | None,
    prefix_BT: Bool[Array, "B T"] | None,
    deterministic: bool,
    slots: Slots | trees.Tree | None = None,
  ) -> Float[Array, "M D"]:
    c = self.config
    attention, dropout = Attention(c, name="attention"), nn.Dropout(c.dropout, deterministic=deterministic)
    who = (batch, documents_BT, prefix_BT, slots)

    def branch(y_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
      return scaled(dropout(y_MD), parametrization.residual_multiplier(c))

    if c.parallel_block and c.parallel_norms:  # GPT-NeoX, arXiv:2204.06745 section 2.1
      mlp_MD = Mlp(c, name="mlp")(Norm(c, name="mlp_norm")(x_MD))
      return x_MD + branch(attention(Norm(c, name="attention_norm")(x_MD), *who) + mlp_MD)
    if c.parallel_block:  # y = x + MLP(norm(x)) + Attention(norm(x)), arXiv:2204.02311 section 2
      h_MD = Norm(c, name="norm")(x_MD)
      return x_MD + branch(attention(h_MD, *who) + Mlp(c, name="mlp")(h_MD))
    norm1 = Norm(c, name="attention_norm")
    if c.norm_position == "pre":
      x_MD = x_MD + branch(attention(norm1(x_MD), *who))
    else:
      x_MD = norm1(x_MD + branch(attention(x_MD, *who)))
    if c.attention_only:
      return x_MD
    norm2, mlp = Norm(c, name="mlp_norm"), Mlp(c, name="mlp")
    if c.norm_position == "pre":
      return x_MD + branch(mlp(norm2(x_MD)))
    return norm2(x_MD + branch(mlp(x_MD)))


class Embedding(nn.Module):
  """A table [V, D], read by token and, when tied, used once more as the output matrix."""

  num_rows: int
  config: ModelConfig

  def setup(self):
    shape = (self.num_rows, self.config.d_model)
    self.table = matrix_param(self, "table", embedding_init(self.config), shape)

  def __call__(self, tokens_M: Int[Array, "M"]) -> Float[Array, "M D"]:
    if isinstance(self.table, quantize.Rows):
      return self.table.take(tokens_M)
    # A gather: the one-hot product is slower on a CPU even for 12 tokens (experiments/004_kernels). Over fsdp
    # the table is brought together first: rows whose columns lie on several devices would have to move after.
    return kernels.take_rows(sharding.constrain(self.table, sharding.VOCAB, None), tokens_M)

  def output_matrix(self) -> Matrix:
    # Rows of the table are those of the output matrix's transpose.
    return self.table if isinstance(self.table, quantize.Rows) else self.table.T


class OutputTransform(nn.Module):
  """What BERT does to a token before the output matrix: dense, activation, norm (arXiv:1810.04805's code)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_MD: Float[Array, "M D"]) -> Float[Array, "M D"]:
    c = self.config
    dense = Weights(c.d_model, c.use_bias, kernel_init(c), name="dense")
    # A gated activation has two inputs; this has one.
    activation = ACTIVATIONS.get(c.activation, kernels.gelu)
    return Norm(c, name="norm")(activation(linear(x_MD, dense(c.d_model))[0]))


class Bias(nn.Module):
  """Holds a bias [out] alone: that of logits whose matrix is the token table."""

  features: int

  @nn.compact
  def __call__(self) -> Float[Array, "out"]:
    return self.param("bias", nn.initializers.zeros, (self.features,))
