"""The configuration of a Transformer, its defaults, and what must hold between its fields."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lm_jax import presets
from lm_jax.strict import ConfigError, require, require_positive

# A size that follows from others: none until it is resolved, and readers have resolved ones only.
if TYPE_CHECKING:
  Derived = Any
else:
  Derived = int | None

# Constants of the kernels, by measurement (experiments/004_kernels).
LONG_SEQUENCE = 1024  # tokens; attention weights of longer ones are computed again for the backward pass
MAX_QUERY_BLOCKS, LONG_QUERY_BLOCKS = 16, 4
DIRECT_LOGITS = 2**21  # floats; a training step holds the logits of all tokens up to here
CHUNK_LOGITS, MIN_CHUNK_TOKENS = 2**21, 512  # and beyond of so many floats or tokens at a time
ACCELERATOR_LOGITS = 2**28  # the same two of accelerators (experiments/023_one_gpu)


def window_reach(window: int, causal: bool) -> tuple[int, int]:
  """Returns how many keys before and after itself a query sees, see `ModelConfig.attention_window`."""
  return (window - 1, 0) if causal else (window // 2, window // 2)


def cudnn_obstacle(
  dtype: str, head_dim: int, *, causal: bool = True, window: int | None = None
) -> str | None:
  """Returns why cuDNN's attention cannot run ("for ..."), none if it can; the backend is another matter."""
  if dtype not in ("bfloat16", "float16"):
    return f"for dtype={dtype}: cuDNN's kernel takes bfloat16"
  if head_dim % 8 or head_dim > 128:
    return f"for head_dim={head_dim}: cuDNN's kernel takes multiples of 8 up to 128"
  if window is not None and not causal:
    return f"for attention_window={window} with causal=false: cuDNN's kernel has windows to one side only"
  return None


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are changed for contexts longer than those of pretraining.

  linear: all of them over `factor` (arXiv:2306.15595). llama3: those of wavelengths beyond
  original_context_length / low_frequency_factor over `factor`, those below
  original_context_length / high_frequency_factor as they are, and a blend between (Llama 3.1's code).
  """

  kind: Literal["none", "linear", "llama3"] = "none"
  factor: float = 1.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_context_length: int = 8192  # tokens


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A Transformer. `none` sizes follow from the task or from the other sizes."""

  PRESETS: ClassVar = presets.PRESETS

  vocab_size: Derived = None  # the task's
  context_length: Derived = None  # tokens; the task's sequence length
  d_model: int = 64
  num_layers: int = 2
  num_heads: int = 2
  num_kv_heads: Derived = None  # num_heads; fewer is grouped-query attention (arXiv:2305.13245)
  head_dim: Derived = None  # d_model / num_heads
  d_ff: Derived = None  # 4 d_model; 8/3 d_model for swiglu, which has three matrices
  positions: Literal["learned", "sinusoidal", "rope", "none"] = "rope"
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling = RopeScaling()
  rotary_fraction: float = 1.0  # share of a head's dimensions that rope rotates, the first ones (GPT-NeoX)
  norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
  norm_position: Literal["pre", "post"] = "pre"
  norm_epsilon: float = 1e-5
  activation: Literal["relu", "gelu", "gelu_erf", "swiglu"] = "gelu"  # gelu: the tanh form
  tie_embeddings: bool = False
  use_bias: bool = False  # of all products and of layernorms; not of the logits
  qkv_bias: bool = False  # without `use_bias`: of queries, keys and values alone (Qwen2)
  scale_embeddings: bool = False  # multiply embeddings by sqrt(d_model)
  parallel_block: bool = False  # attention and MLP read the same normed input (PaLM)
  parallel_norms: bool = False  # parallel_block: a norm each (GPT-NeoX)
  attention_only: bool = False  # no MLPs (Edelman et al., arXiv:2402.11004)
  causal: bool = True
  num_segments: int = 0  # kinds of segments told apart by an embedding (arXiv:1810.04805: 2); 0: none
  embedding_norm: bool = False  # normalize the sum of embeddings (BERT)
  output_transform: bool = False  # dense, activation and norm before the output matrix (BERT)
  output_bias: bool = False  # on the logits (BERT)
  lm_head: bool = True  # false: no logits; a bare encoder, whose output are the last hidden states
  pooler: bool = False  # a pooled first token for classifiers, without the next-sentence head
  next_sentence_head: bool = False  # a pooled first token and two classes (BERT)
  # Tokens that a query sees (arXiv:2004.05150, section 3.1): W with itself the last, t-W+1..t, if causal;
  # else as many to each side, t-W//2..t+W//2. Those of a prefix are seen from anywhere. none: all.
  attention_window: int | None = None
  dropout: float = 0.0
  # normal: N(0, 0.02^2) (BERT); gpt2: the same, residual writers over sqrt(their number).
  initializer: Literal["fan_in", "normal", "gpt2", "xavier_uniform"] = "fan_in"
  parametrization: Literal["standard", "mup", "completep"] = "standard"  # see lm_jax/parametrization.py
  base_d_model: int = 64  # mup, completep: the size at which they are the standard parametrization,
  base_num_layers: int = 2  # so that a learning rate tuned there serves every other one
  base_head_dim: int = 32
  dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and products; parameters are float32
  scan_layers: bool = False  # compile time flat in depth; slower steps on CPU
  # How it is computed, never what:
  remat: Literal["none", "block", "products"] = (
    "none"  # kept for the backward pass: all, block inputs, products
  )
  attention: Literal["auto", "blocks", "cudnn"] = "auto"  # auto: cudnn on a GPU where it can, else blocks
  attention_block: int = 64  # queries a block of causal attention; keys after a block are not computed

  @property
  def rotary_dim(self) -> int:
    """Dimensions of a head that are rotated."""
    return int(self.rotary_fraction * self.head_dim)

  def query_blocks(
    self, length: int, prefix: bool = False, backend: str = "cpu"
  ) -> list[tuple[int, int, int, int]]:
    """Returns [(first query, end of queries, first key, end of keys that they may see)] covering 0..length.

    Blocks are whole `attention_block`s, no more than 16 of them as each is compiled by itself, and about 4
    of a long sequence, whose blocks are loops over `recomputed_queries`. They are one block where every
    query may see every key, where such a loop takes the keys in reach of a window only, and up to 1024 tokens
    on an accelerator, which is as fast with scores that nobody needs and compiles them sooner.

    Args:
      prefix: whether some keys are seen from anywhere.
    """
    left, right = self.reach(length, prefix)
    rows = self.recomputed_queries(length)
    slides = rows is not None and 2 * (left + right + rows) <= length
    is_short = backend != "cpu" and length <= LONG_SEQUENCE
    if right >= length - 1 or slides or is_short:
      return [(0, length, 0, length)]
    blocks = MAX_QUERY_BLOCKS if length <= LONG_SEQUENCE else LONG_QUERY_BLOCKS
    size = self.attention_block * math.ceil(length / (blocks * self.attention_block))
    ends = [(start, min(start + size, length)) for start in range(0, length, size)]
    return [(start, end, max(0, start - left), min(end + right, length)) for start, end in ends]

  def recomputed_queries(self, length: int) -> int | None:
    """Returns how many queries' attention weights are held at a time, none: all, kept for the backward pass.

    Weights are kept up to 1024 tokens, where they are no more than the other activations of a layer, and
    computed again beyond, so that memory grows with the length and not with its square. Of a window they
    are of a quarter of it, so that its keys, laid out for every so many queries, are five copies at most.
    """
    if length <= LONG_SEQUENCE:
      return None
    return self.attention_block * math.ceil((self.attention_window or 1) / (4 * self.attention_block))

  def reach(self, length: int, prefix: bool) -> tuple[int, int]:
    """Returns how many keys before and after itself a query may see."""
    if prefix or self.attention_window is None:
      return length, 0 if self.causal and not prefix else length
    return window_reach(self.attention_window, self.causal)

  def loss_chunk(self, batch: int, positions: int, backend: str = "cpu") -> int:
    """Returns at how many of the `positions` of a batch the training loss holds logits at a time.

    All of them where that is cheap, else a part that is cheap, of at least 512 tokens: every chunk adds to
    the whole gradient of the output matrix, which fewer tokens would not be worth.
    """
    direct, chunk = DIRECT_LOGITS, CHUNK_LOGITS
    if backend != "cpu":
      direct = chunk = ACCELERATOR_LOGITS
    if batch * positions * self.vocab_size <= direct:
      return positions
    tokens = max(chunk // self.vocab_size, MIN_CHUNK_TOKENS)
    return min(positions, max(1, tokens // batch))


def resolve(m: ModelConfig, vocab_size: int, sequence_length: int) -> ModelConfig:
  """Fills the sizes that follow from others and checks the whole; raises ConfigError.

  Args:
    vocab_size, sequence_length: the task's.
  """
  require_positive(m, "config.model", ("d_model", "num_layers", "num_heads"))
  if m.head_dim is None and m.d_model % m.num_heads:
    divisors = [n for n in range(1, m.d_model + 1) if m.d_model % n == 0]
    near = min(divisors, key=lambda n: abs(n - m.num_heads))
    raise ConfigError(
      f"config.model.num_heads={m.num_heads}: must divide d_model={m.d_model} (nearest: {near}), "
      "or set head_dim"
    )
  m = dataclasses.replace(
    m,
    vocab_size=vocab_size if m.vocab_size is None else m.vocab_size,
    context_length=sequence_length if m.context_length is None else m.context_length,
    num_kv_heads=m.num_heads if m.num_kv_heads is None else m.num_kv_heads,
    head_dim=m.d_model // m.num_heads if m.head_dim is None else m.head_dim,
    d_ff=_default_d_ff(m) if m.d_ff is None else m.d_ff,
  )
  check(m)
  require(m.vocab_size >= vocab_size, "config.model.vocab_size", m.vocab_size,
          f"at least the task's {vocab_size}")  # fmt: skip
  require(m.context_length >= sequence_length, "config.model.context_length", m.context_length,
          f"at least the task's sequence length {sequence_length}")  # fmt: skip
  return m


def _default_d_ff(model: ModelConfig) -> int:
  if model.activation == "swiglu":
    # 2/3 of 4d keeps the parameter count of a two-matrix MLP (Shazeer, arXiv:2002.05202).
    return max(8, round(8 * model.d_model / 3 / 8) * 8)
  return 4 * model.d_model


def check(m: ModelConfig) -> None:
  """Checks a resolved model; raises ConfigError."""
  path = "config.model"
  require_positive(
    m, path,
    ("vocab_size", "context_length", "num_kv_heads", "head_dim", "d_ff", "rope_theta", "norm_epsilon",
     "attention_block", "attention_window", "base_d_model", "base_num_layers", "base_head_dim"),
  )  # fmt: skip
  require(m.num_heads % m.num_kv_heads == 0, f"{path}.num_kv_heads", m.num_kv_heads,
           f"a divisor of num_heads={m.num_heads}")  # fmt: skip
  require(m.positions != "rope" or m.head_dim % 2 == 0, f"{path}.head_dim", m.head_dim,
           "even for positions=rope")  # fmt: skip
  _check_rope(m)
  require(m.positions != "sinusoidal" or m.d_model % 2 == 0, f"{path}.d_model", m.d_model,
           "even for positions=sinusoidal")  # fmt: skip
  obstacle = cudnn_obstacle(m.dtype, m.head_dim, causal=m.causal, window=m.attention_window)
  require(not (m.attention == "cudnn" and obstacle), f"{path}.attention", m.attention,
           f"auto or blocks {obstacle}")  # fmt: skip
  require(0 <= m.dropout < 1, f"{path}.dropout", m.dropout, "in [0, 1)")
  require(not (m.parallel_block and m.norm_position == "post"), f"{path}.norm_position", m.norm_position,
           "pre for parallel_block=true")  # fmt: skip
  require(not (m.parallel_block and m.attention_only), f"{path}.attention_only", m.attention_only,
           "false for parallel_block=true")  # fmt: skip
  require(m.parallel_block or not m.parallel_norms, f"{path}.parallel_norms", m.parallel_norms,
           "false for parallel_block=false")  # fmt: skip
  require(m.lm_head or not m.next_sentence_head, f"{path}.next_sentence_head", m.next_sentence_head,
           "false for lm_head=false")  # fmt: skip
  require(not (m.pooler and (m.next_sentence_head or m.causal)), f"{path}.pooler", m.pooler,
           "false for next_sentence_head=true, which has one, and for causal=true")  # fmt: skip
  require(m.num_segments >= 0, f"{path}.num_segments", m.num_segments, "0 or greater")
  require(not (m.next_sentence_head and m.causal), f"{path}.next_sentence_head", m.next_sentence_head,
          "false for causal=true: the first token of a decoder sees no other")  # fmt: skip


def _check_rope(m: ModelConfig) -> None:
  path, s = "config.model", m.rope_scaling
  require(0 < m.rotary_fraction <= 1, f"{path}.rotary_fraction", m.rotary_fraction, "in (0, 1]")
  require(m.positions != "rope" or m.rotary_dim % 2 == 0, f"{path}.rotary_fraction", m.rotary_fraction,
          f"an even number of dimensions of head_dim={m.head_dim}, and not {m.rotary_dim}")  # fmt: skip
  require_positive(s, f"{path}.rope_scaling", ("factor", "low_frequency_factor", "original_context_length"))
  require(s.high_frequency_factor > s.low_frequency_factor, f"{path}.rope_scaling.high_frequency_factor",
          s.high_frequency_factor, f"above low_frequency_factor={s.low_frequency_factor}")  # fmt: skip
