"""Closed forms of a run's size: parameters, FLOPs, tokens, memory, time; and one dial that makes a family.

All take resolved configs (`config.resolve`) and are plain arithmetic. Parameters and matrix-product FLOPs
are exact (tests compare them with the program); memory and time are estimates, good enough to plan with.
"""

import dataclasses
import math

from lm_jax.config import Config
from lm_jax.model_config import ModelConfig, cudnn_obstacle
from lm_jax.strict import ConfigError
from lm_jax.task_configs import loss_positions, objective

FLOAT_BYTES = 4  # of a parameter, gradient or moment, whatever the dtype of activations
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

# A backward pass has, for every product of the forward pass, two of the same size: the gradients of its
# two factors. It is exact here, as even the first layer's input (the embedding) needs its gradient.
FORWARD_AND_BACKWARD = 3

# Peak of float32 matrix products assumed of one CPU core where nothing better is known.
CORE_FLOPS_PER_SECOND = 100e9

# FLOPs of matrix product that take as long as one float of activation does in training, over all the
# elementwise work it stands for. Fitted, see `seconds_per_step`.
FLOPS_PER_ACTIVATION = 540

# Peak memory of activations over what the backward pass reads: XLA also holds masked scores, transposed
# copies and gradients in flight. Fitted to its memory analysis of whole train steps on a CPU, whose total
# it then meets within 20 %.
ACTIVATION_OVERHEAD = 1.5
# The same where a GPU's attention is cuDNN's: two models on an H100, which it meets within 10 %
# (experiments/023_one_gpu).
FUSED_OVERHEAD = 1.2


# --- parameters -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ParamCount:
  """Numbers of parameters.

  Attributes:
    total: all of them; a tied output matrix is the token table and counts once.
    nonembedding: without the tables of tokens, positions and segments and without the output layer: the N
      of Kaplan et al. (arXiv:2001.08361, section 2.1), whose loss curves then meet across depths.
  """

  total: int
  nonembedding: int


Shape = tuple[int, int]  # [in, out] of a matrix


def attention_matrices(m: ModelConfig) -> list[Shape]:
  """Returns the shapes of query, key, value and output projections of one layer."""
  query, kv = m.num_heads * m.head_dim, m.num_kv_heads * m.head_dim
  return [(m.d_model, query), (m.d_model, kv), (m.d_model, kv), (query, m.d_model)]


def mlp_matrices(m: ModelConfig) -> list[Shape]:
  """Returns the shapes of one layer's MLP: (gate,) up, down."""
  if m.attention_only:
    return []
  ups = 2 if m.activation == "swiglu" else 1
  return [(m.d_model, m.d_ff)] * ups + [(m.d_ff, m.d_model)]


def num_norms(m: ModelConfig) -> int:
  """Returns how many norms a model has; post-norm blocks end in their own, others in a final one."""
  a_layer = 1 if (m.parallel_block and not m.parallel_norms) or m.attention_only else 2
  return m.num_layers * a_layer + (m.norm_position == "pre") + m.embedding_norm


def _size(shapes: list[Shape]) -> int:
  return sum(rows * columns for rows, columns in shapes)


def param_breakdown(m: ModelConfig) -> dict[str, int]:
  """Returns the number of parameters in each part of a Transformer; they add up to the total."""
  D, norm = m.d_model, m.d_model * (2 if m.norm == "layernorm" and m.use_bias else 1)

  def with_biases(shapes: list[Shape]) -> int:
    return _size(shapes) + m.use_bias * sum(columns for _, columns in shapes)

  return {
    "token_table": m.vocab_size * D,
    "position_table": m.context_length * D if m.positions == "learned" else 0,
    "segment_table": m.num_segments * D,
    "attention": m.num_layers * (with_biases(attention_matrices(m)) + _qkv_biases(m)),
    "mlp": m.num_layers * with_biases(mlp_matrices(m)),
    "norms": num_norms(m) * norm,
    "output_transform": with_biases([(D, D)]) + norm if m.output_transform and m.lm_head else 0,
    "output": m.lm_head * ((0 if m.tie_embeddings else D * m.vocab_size) + m.output_bias * m.vocab_size),
    "pooler": D * D + D if m.pooler else 0,
    "next_sentence": _head_params(m, 2) if m.next_sentence_head else 0,
  }


def _qkv_biases(m: ModelConfig) -> int:
  """Returns the biases of a layer's queries, keys and values where these alone have any."""
  return sum(columns for _, columns in attention_matrices(m)[:3]) if m.qkv_bias and not m.use_bias else 0


def _head_params(m: ModelConfig, num_classes: int) -> int:
  """Returns the parameters of a pooler, which encoders have, and of an output layer of classes."""
  return sum(rows * columns + columns for rows, columns in _head_matrices(m, num_classes))


def _head_matrices(m: ModelConfig, num_classes: int) -> list[Shape]:
  pooler = [] if m.causal else [(m.d_model, m.d_model)]
  return [*pooler, (m.d_model, num_classes)]


def count_params(m: ModelConfig, num_classes: int | None = None) -> ParamCount:
  """Returns the numbers of parameters of a Transformer or a Classifier, in total and without embeddings."""
  parts = param_breakdown(m)
  if num_classes is not None:
    parts |= {"output_transform": 0, "output": 0, "pooler": 0, "next_sentence": _head_params(m, num_classes)}
  tables = parts["token_table"] + parts["position_table"] + parts["segment_table"]
  total = sum(parts.values())
  return ParamCount(total, total - tables - parts["output"])


# --- FLOPs and tokens -------------------------------------------------------------------------


def attention_pairs(m: ModelConfig, sequence_length: int, prefix: bool = False) -> int:
  """Returns the (query, key) pairs that one head computes, masked or not.

  They are T^2 where some keys are seen from anywhere (no causality, or a `prefix`), down to T^2 / 2 with tiny
  causal blocks, and about T (W + 64) with a window of W, which grows with T and not with its square.
  """
  rows, reach, pairs = m.recomputed_queries(sequence_length), sum(m.reach(sequence_length, prefix)), 0
  for start, end, first, stop in m.query_blocks(sequence_length, prefix):
    queries, keys = end - start, stop - first
    if rows is not None and reach + rows < keys:  # the loop takes the keys in reach of its queries only
      rest = queries % rows
      pairs += (queries - rest) * (reach + rows) + rest * (reach + rest)
    else:
      pairs += queries * keys
  return pairs


def flops_breakdown(
  m: ModelConfig,
  sequence_length: int,
  num_labels: int,
  *,
  prefix: bool = False,
  next_sentence: bool = False,
) -> dict[str, int]:
  """Returns the matrix-product FLOPs of one sequence's forward pass, by part.

  A product [m, k] @ [k, n] is 2 m n k FLOPs; elementwise work (norms, softmax, activations) is not
  counted. "attention" is scores and mixing over all (query, key) pairs that the program computes, masked
  or not; "head" is the output layer (with BERT's transform), at the label positions only.

  Args:
    prefix: whether a prefix is given.
    next_sentence: whether the next-sentence head is asked.
  """
  T, L, D = sequence_length, m.num_layers, m.d_model
  return {
    "projections": L * 2 * T * _size(attention_matrices(m)),
    "attention": L * 2 * (2 * attention_pairs(m, T, prefix) * m.num_heads * m.head_dim),
    "mlp": L * 2 * T * _size(mlp_matrices(m)),
    "head": 2 * num_labels * D * (m.vocab_size + D * m.output_transform),
    "next_sentence": 2 * _size(_head_matrices(m, 2)) if next_sentence else 0,
  }


def forward_flops(m: ModelConfig, sequence_length: int, num_labels: int, **asked: bool) -> int:
  """Returns the matrix-product FLOPs of one sequence's forward pass, see `flops_breakdown`."""
  return sum(flops_breakdown(m, sequence_length, num_labels, **asked).values())


def classifier_flops(m: ModelConfig, sequence_length: int, num_classes: int) -> int:
  """Returns the matrix-product FLOPs of a Classifier's forward pass on one sequence."""
  return forward_flops(m, sequence_length, 0) + 2 * _size(_head_matrices(m, num_classes))


def _has_prefix(config: Config) -> bool:
  return objective(config.task) in ("prefix_lm", "span_corruption")


def tokens_per_step(config: Config) -> int:
  """Returns the tokens read in one update, whether or not the loss counts them."""
  return config.train.batch_size * config.task.sequence_length


def step_flops(config: Config) -> int:
  """Returns the matrix-product FLOPs of one update, the output layer at the loss's positions only.

  They are those of the mathematics: what is computed again to save memory (`remat`, the attention weights
  of long sequences, chunks of logits) does not count, as is the convention of model FLOP utilization
  (arXiv:2204.02311, appendix B).
  """
  labels, nsp = len(loss_positions(config.task)), objective(config.task) == "masked_lm_nsp"
  sequence = forward_flops(
    config.model, config.task.sequence_length, labels, prefix=_has_prefix(config), next_sentence=nsp
  )
  return FORWARD_AND_BACKWARD * config.train.batch_size * sequence


def train_flops(config: Config, num_steps: int | None = None) -> float:
  """Returns the matrix-product FLOPs of `num_steps` updates (default: the whole run)."""
  return float(step_flops(config)) * (config.train.num_steps if num_steps is None else num_steps)


def steps_for_flops(config: Config, flops: float) -> int:
  """Returns how many updates come nearest to a number of matrix-product FLOPs; at least 1."""
  return max(1, round(flops / step_flops(config)))


def flops_6nd(config: Config, num_steps: int | None = None) -> float:
  """Returns 6 N D of `num_steps` updates (default: the whole run), for comparison with published laws.

  N is the total number of parameters, as in Chinchilla (arXiv:2203.15556), and D all tokens read.
  """
  return _six_n_d(config, count_params(config.model).total, num_steps)


def flops_6nd_nonembedding(config: Config, num_steps: int | None = None) -> float:
  """Returns 6 N D of `num_steps` updates (default: the whole run) with N the parameters but embeddings.

  The compute axis of Kaplan et al. (arXiv:2001.08361, section 2.1), whose exponents differ from Chinchilla's
  partly by what this N leaves out (Pearce & Song, arXiv:2406.12907).
  """
  return _six_n_d(config, count_params(config.model).nonembedding, num_steps)


def _six_n_d(config: Config, num_params: int, num_steps: int | None) -> float:
  steps = config.train.num_steps if num_steps is None else num_steps
  return 6.0 * num_params * tokens_per_step(config) * steps


def chinchilla_tokens(num_params: int, ratio: float = 20) -> int:
  """Returns the compute-optimal training tokens, about 20 a parameter (arXiv:2203.15556, table 3)."""
  return round(ratio * num_params)


# --- memory and time --------------------------------------------------------------------------


def _token_floats(m: ModelConfig) -> tuple[int, int]:
  """Returns the activations of one token in one layer: what products with weights give, and the others.

  The first are query, key, value and the MLP's hidden values. The others are the residual stream and its
  normed copy before each sublayer, what attention mixed, and the hidden values after the activation;
  attention weights are neither.
  """
  sublayers = 1 if m.parallel_block or m.attention_only else 2
  query, kv = m.num_heads * m.head_dim, m.num_kv_heads * m.head_dim
  hidden = [m.d_ff] * (len(mlp_matrices(m)) - 1)
  return query + 2 * kv + sum(hidden), 2 * sublayers * m.d_model + query + (m.d_ff if hidden else 0)


def _label_floats(m: ModelConfig) -> int:
  """Returns a label position's activations but logits: its input, and what an output transform adds."""
  return m.d_model * (4 if m.output_transform else 1)


def activation_floats(m: ModelConfig, sequence_length: int, num_labels: int, prefix: bool = False) -> int:
  """Estimates the floats that one sequence's forward pass computes and its backward pass reads.

  A token has, in each layer, the residual stream and its normed copy before each sublayer (2 D),
  query, key, value and what attention mixed (2 N H + 2 K H), attention weights (N for every key it is
  compared with), and the MLP's hidden values before and after the activation (2 F; 3 F for SwiGLU):
  16 D + N T for the plain block, less what causal blocks leave out.
  A label position has its input, logits and their softmax (D + 2 V).
  """
  pairs = attention_pairs(m, sequence_length, prefix)
  layer = sequence_length * sum(_token_floats(m)) + m.num_heads * pairs
  return m.num_layers * layer + num_labels * (_label_floats(m) + 2 * m.vocab_size)


def _sequence_floats(config: Config) -> int:
  labels = len(loss_positions(config.task))
  return activation_floats(config.model, config.task.sequence_length, labels, _has_prefix(config))


def activation_bytes(
  m: ModelConfig,
  sequence_length: int,
  num_labels: int,
  batch: int,
  prefix: bool = False,
  backend: str = "cpu",
) -> int:
  """Estimates the peak bytes of activations of training on `batch` sequences.

  They are 1.5 x `activation_floats` in the dtype of the model, attention weights and logits in float32.
  What is computed again needs room for a part at a time: attention weights of long sequences for a few
  queries, logits of large vocabularies for a chunk (once, as their softmax takes their place), and blocks
  for one of them, besides what `remat` keeps of each; that one passes when the logits are gone. Where cuDNN's
  attention is used no weights are kept, and the factor is 1.2.

  Args:
    backend: "gpu" for NVIDIA GPUs that have cuDNN's attention, see `attention.attention_backend`.
  """
  obstacle = cudnn_obstacle(m.dtype, m.head_dim, causal=m.causal, window=m.attention_window)
  is_fused = backend == "gpu" and m.attention != "blocks" and obstacle is None
  T, rows, floats = sequence_length, m.recomputed_queries(sequence_length), DTYPE_BYTES[m.dtype]
  products, others = _token_floats(m)
  weights = m.num_heads * (attention_pairs(m, T, prefix) if rows is None and not is_fused else 0)
  block = T * floats * (products + others) + FLOAT_BYTES * weights
  loop = 0
  if rows is not None and not is_fused:
    keys = min(T, sum(m.reach(T, prefix)) + rows)
    loop = FLOAT_BYTES * m.num_heads * 3 * rows * keys  # scores, weights and a gradient
    if keys < T:  # keys and values laid out for every part, and their gradients
      loop += 2 * floats * 2 * m.num_kv_heads * m.head_dim * (T // rows) * keys
  chunk = m.loss_chunk(batch, num_labels, backend)
  head = num_labels * floats * _label_floats(m)
  head += FLOAT_BYTES * m.vocab_size * (2 * num_labels if chunk == num_labels else chunk)
  kept = {"none": 0, "products": products + 2 * m.d_model, "block": m.d_model}[m.remat]
  passing = m.num_layers * block + loop + head if m.remat == "none" else max(block + loop, head)
  overhead = FUSED_OVERHEAD if is_fused else ACTIVATION_OVERHEAD
  return batch * (m.num_layers * T * floats * kept + round(overhead * passing))


def optimizer_floats(config: Config) -> int:
  """Estimates the floats of the optimizer's moments.

  adamw: two a parameter. muon: one for the blocks' matrices and Adam's two for the rest.
  adafactor: a row and a column of every matrix whose sides are both at least 128 (optax's default),
  one a parameter otherwise.
  """
  m, name = config.model, config.optimizer.name
  total = count_params(m).total
  if name == "adamw":
    return 2 * total
  blocks = m.num_layers * (attention_matrices(m) + mlp_matrices(m))
  if name == "muon":
    return 2 * total - _size(blocks)
  tables = [(m.vocab_size, m.d_model)] * (1 if m.tie_embeddings else 2)
  tables += [(m.num_segments, m.d_model)]
  if m.positions == "learned":
    tables.append((m.context_length, m.d_model))
  heads = [(m.d_model, m.d_model)] * m.output_transform
  heads += _head_matrices(m, 2) if m.next_sentence_head else []
  factored = [shape for shape in blocks + tables + heads if min(shape) >= 128]
  return total - _size(factored) + sum(rows + columns for rows, columns in factored)


def memory_bytes(config: Config, backend: str = "cpu") -> int:
  """Estimates the peak bytes of training in one process that holds the whole batch.

  4 bytes x (parameters + gradients (twice when accumulated) + the optimizer's moments), and the activations
  of the sequences that pass at a time (`activation_bytes`). Leaves out the program, the data and the
  allocator's waste.
  """
  params = count_params(config.model).total
  splits = config.train.grad_accum_steps
  gradients = params * (1 if splits == 1 else 2)
  T, labels = config.task.sequence_length, len(loss_positions(config.task))
  rows = config.train.batch_size // splits
  activations = activation_bytes(config.model, T, labels, rows, _has_prefix(config), backend)
  return FLOAT_BYTES * (params + gradients + optimizer_floats(config)) + activations


def seconds_per_step(config: Config, flops_per_second: float) -> float:
  """Estimates the seconds of one update, for `plan`; within a factor of 1.5 on a CPU core.

  (matrix-product FLOPs + 540 x activation floats) / peak: besides its products every token pays for the
  elementwise work on its activations, which are about 16 D a layer where products are about 72 D^2.
  Products therefore run at an efficiency of about D / (D + 120). The constant was fitted to training
  speeds of one AVX-512 core, from 305,000 tokens/s at D=16 to 1,000 at D=384.

  Args:
    flops_per_second: peak of float32 matrix products (about 100e9 on the core of the fit).
  """
  elementwise = FLOPS_PER_ACTIVATION * config.train.batch_size * _sequence_floats(config)
  return (step_flops(config) + elementwise) / flops_per_second


def seconds(config: Config, flops_per_second: float = CORE_FLOPS_PER_SECOND) -> float:
  """Estimates the seconds of a whole run on one core, see `seconds_per_step`."""
  return seconds_per_step(config, flops_per_second) * config.train.num_steps


# --- one dial ---------------------------------------------------------------------------------


def width_ladder(d_model: int, num_layers: int = 2) -> dict[str, int]:
  """Returns the model fields of one rung of a family that grows in width only.

  1. Depth is the same for all rungs, so that no ability appears with a layer. Two layers are the
     fewest that can form an induction head (Olsson et al., arXiv:2209.11895); at a given size, loss
     depends weakly on the shape (Kaplan et al., arXiv:2001.08361, section 3.1).
  2. Heads are about 32 wide. Thinner than 16 their low rank hurts (Bhojanapalli et al.,
     arXiv:2002.07028), so two heads start at d_model 32, as 2 x 16. Of the counts that split d_model
     into even heads (rotary positions turn pairs), the nearest is taken, as a ratio.
  3. Everything else follows in `config.resolve`: head_dim = d_model / num_heads, d_ff = 4 d_model.
  """
  if d_model < 2 or d_model % 2:
    raise ConfigError(f"width_ladder: d_model={d_model!r}: must be even and greater than 0")
  wanted = max(d_model / 32, 2 if d_model >= 32 else 1)
  allowed = [n for n in range(1, d_model // 2 + 1) if d_model % (2 * n) == 0]
  heads = min(allowed, key=lambda n: abs(math.log(n / wanted)))
  return {"d_model": d_model, "num_layers": num_layers, "num_heads": heads}
