"""The configuration of one training run, and its defaults: the only place where defaults live.

A config file (ml_collections, `get_config()`) names the fields it changes. It is converted once,
strictly, to these frozen dataclasses; `resolve` then fills the sizes that follow from others and
checks what no single field can check. Everything but the labels (`study`, `family`) and `runtime`
decides the numbers a run produces, and so its identity (`cell_id`).
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from lm_jax import presets, strict
from lm_jax.strict import ConfigError

# A change in the meaning of an unchanged config (a default, an algorithm) must change every cell_id.
SEMANTICS = 1

# Constants of the kernels, by measurement (experiments/004_kernels).
LONG_SEQUENCE = 1024  # tokens; attention weights of longer ones are computed again for the backward pass
MAX_QUERY_BLOCKS, LONG_QUERY_BLOCKS = 16, 4
DIRECT_LOGITS = 2**23  # floats; a training step holds the logits of all tokens up to here
CHUNK_LOGITS, MIN_CHUNK_TOKENS = 2**22, 512  # and beyond of so many floats or tokens at a time


def cudnn_obstacle(dtype: str, head_dim: int) -> str | None:
  """Returns why cuDNN's attention cannot run ("for ..."), none if it can; the backend is another matter."""
  if dtype not in ("bfloat16", "float16"):
    return f"for dtype={dtype}: cuDNN's kernel takes bfloat16"
  if head_dim % 8 or head_dim > 128:
    return f"for head_dim={head_dim}: cuDNN's kernel takes multiples of 8 up to 128"
  return None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A Transformer. `none` sizes follow from the task or from the other sizes."""

  PRESETS: ClassVar = presets.PRESETS

  vocab_size: int | None = None  # the task's
  context_length: int | None = None  # tokens; the task's sequence length
  d_model: int = 64
  num_layers: int = 2
  num_heads: int = 2
  num_kv_heads: int | None = None  # num_heads; fewer is grouped-query attention (arXiv:2305.13245)
  head_dim: int | None = None  # d_model / num_heads
  d_ff: int | None = None  # 4 d_model; 8/3 d_model for swiglu, which has three matrices
  positions: Literal["learned", "sinusoidal", "rope", "none"] = "rope"
  rope_theta: float = 10_000.0
  norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
  norm_position: Literal["pre", "post"] = "pre"
  norm_epsilon: float = 1e-5
  activation: Literal["relu", "gelu", "swiglu"] = "gelu"
  tie_embeddings: bool = False
  use_bias: bool = False
  scale_embeddings: bool = False  # multiply embeddings by sqrt(d_model)
  parallel_block: bool = False  # attention and MLP read the same normed input (PaLM)
  attention_only: bool = False  # no MLPs (Edelman et al., arXiv:2402.11004)
  causal: bool = True
  dropout: float = 0.0
  initializer: Literal["fan_in", "gpt2", "xavier_uniform"] = "fan_in"
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

  def query_blocks(self, length: int) -> list[tuple[int, int, int]]:
    """Returns [(first query, end of queries, end of the keys they may see)] covering 0..length.

    Blocks are whole `attention_block`s, no more than 16 of them as each is compiled by itself, and about 4
    of a long sequence, whose blocks are loops over `attention_block`s (`recomputed_queries`).
    """
    blocks = MAX_QUERY_BLOCKS if length <= LONG_SEQUENCE else LONG_QUERY_BLOCKS
    size = self.attention_block * math.ceil(length / (blocks * self.attention_block))
    size = size if self.causal else length
    ends = [(start, min(start + size, length)) for start in range(0, length, size)]
    return [(start, end, end if self.causal else length) for start, end in ends]

  def recomputed_queries(self, length: int) -> int | None:
    """Returns how many queries' attention weights are held at a time, none: all, kept for the backward pass.

    Weights are kept up to 1024 tokens, where they are no more than the other activations of a layer, and
    computed again beyond, so that memory grows with the length and not with its square.
    """
    return self.attention_block if length > LONG_SEQUENCE else None

  def loss_chunk(self, batch: int, positions: int) -> int:
    """Returns at how many of the `positions` of a batch the training loss holds logits at a time.

    All of them where that is cheap, else a part that is cheap, of at least 512 tokens: every chunk adds to
    the whole gradient of the output matrix, which fewer tokens would not be worth.
    """
    if batch * positions * self.vocab_size <= DIRECT_LOGITS:
      return positions
    tokens = max(CHUNK_LOGITS // self.vocab_size, MIN_CHUNK_TOKENS)
    return min(positions, max(1, tokens // batch))


# --- tasks: the geometry of a sequence; how it is sampled is in lm_jax/tasks --------------------


@dataclasses.dataclass(frozen=True)
class RuleInduction:
  """Sequences of `attributes... label`; which attribute decides the label, and how, is hidden.

  K items of A attribute tokens and one label. Attribute i takes `num_values` values (token
  i * num_values + value), labels follow. The model predicts each label, having seen k = 0..K-1 items.
  """

  name: Literal["rule_induction"] = "rule_induction"
  num_items: int = 12
  num_attributes: int = 2
  num_values: int = 4
  num_labels: int = 4
  holdout: float = 0.0  # share of the value -> label maps kept for evaluation only
  loss: Literal["labels", "all"] = "labels"

  @property
  def vocab_size(self) -> int:
    return self.num_attributes * self.num_values + self.num_labels

  @property
  def sequence_length(self) -> int:
    return self.num_items * (self.num_attributes + 1) - 1

  @property
  def label_positions(self) -> tuple[int, ...]:
    stride = self.num_attributes + 1
    return tuple(k * stride + stride - 2 for k in range(self.num_items))


@dataclasses.dataclass(frozen=True)
class AssociativeRecall:
  """Multi-query associative recall (Arora et al., arXiv:2312.04927): key-value pairs, then queries.

  `num_keys` + `num_values` tokens; `num_pairs` distinct keys with values (repeats allowed), then every
  key once more as a query. "shuffled" asks in random order at once; "power_law" is the published task,
  where gaps before a key is asked follow a power law and filler tokens stand between.
  """

  name: Literal["associative_recall"] = "associative_recall"
  num_keys: int = 32
  num_values: int = 32
  num_pairs: int = 8
  layout: Literal["shuffled", "power_law"] = "shuffled"
  length: int | None = None  # tokens, power_law only
  power: float = 0.01  # power_law only

  @property
  def vocab_size(self) -> int:
    return self.num_keys + self.num_values

  @property
  def sequence_length(self) -> int:
    return 4 * self.num_pairs - 1 if self.layout == "shuffled" else self.length or 8 * self.num_pairs

  @property
  def label_positions(self) -> tuple[int, ...]:
    # In the power-law layout queries fall anywhere after the pairs; the others carry weight 0.
    stride = 2
    return tuple(range(2 * self.num_pairs, self.sequence_length, stride))


@dataclasses.dataclass(frozen=True)
class MarkovChain:
  """In-context Markov chains (Edelman et al., arXiv:2402.11004): a fresh transition matrix a sequence."""

  name: Literal["markov_chain"] = "markov_chain"
  num_symbols: int = 2
  length: int = 100  # symbols; the model sees all but the last
  concentration: float = 1.0  # Dirichlet parameter of every row

  @property
  def vocab_size(self) -> int:
    return self.num_symbols

  @property
  def sequence_length(self) -> int:
    return self.length - 1

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(self.sequence_length))


@dataclasses.dataclass(frozen=True)
class Arithmetic:
  """Few-shot multi-digit addition: `ddd+ddd=dddd;` repeated (cf. Schaeffer et al., arXiv:2304.15004)."""

  name: Literal["arithmetic"] = "arithmetic"
  num_digits: int = 2
  num_items: int = 6
  reverse_answer: bool = False  # least significant digit first, so that a carry is known when needed
  loss: Literal["labels", "all"] = "labels"

  @property
  def vocab_size(self) -> int:
    return 13  # ten digits, + = ;

  @property
  def item_length(self) -> int:
    return 3 * self.num_digits + 4

  @property
  def sequence_length(self) -> int:
    return self.num_items * self.item_length - 2

  @property
  def label_positions(self) -> tuple[int, ...]:
    equals = 2 * self.num_digits + 1
    return tuple(
      k * self.item_length + equals + i for k in range(self.num_items) for i in range(self.num_digits + 1)
    )


@dataclasses.dataclass(frozen=True)
class NoisyMajority:
  """The smooth control: noisy copies of a hidden symbol, noise graded over sequences.

  Each token is the hidden symbol with a probability drawn for the sequence, and uniform otherwise.
  Accuracy after k tokens averages over noise levels, so no scale or shot can bring a jump.
  """

  name: Literal["noisy_majority"] = "noisy_majority"
  num_symbols: int = 4
  length: int = 24
  num_levels: int = 16  # equally spaced signal levels between 0 and max_signal
  max_signal: float = 0.75

  @property
  def vocab_size(self) -> int:
    return self.num_symbols

  @property
  def sequence_length(self) -> int:
    return self.length

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(self.length))


@dataclasses.dataclass(frozen=True)
class PythonStdlib:
  """Causal LM on the bytes of the Python standard library's own sources on this machine."""

  name: Literal["python_stdlib"] = "python_stdlib"
  context_length: int = 256  # bytes

  @property
  def vocab_size(self) -> int:
    return 256

  @property
  def sequence_length(self) -> int:
    return self.context_length

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(self.context_length))


def loss_positions(task: "TaskConfig") -> tuple[int, ...]:
  """Returns the positions at which training counts the loss: the labels, or all of them."""
  if getattr(task, "loss", "labels") == "all":
    return tuple(range(task.sequence_length))
  return task.label_positions


TaskConfig = RuleInduction | AssociativeRecall | MarkovChain | Arithmetic | NoisyMajority | PythonStdlib


# --- training -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Optax optimizer, schedule and clipping. learning_rate and weight_decay are data, not program."""

  name: Literal["adamw", "muon", "adafactor"] = "adamw"
  learning_rate: float = 3e-3  # peak
  schedule: Literal["cosine", "linear", "wsd", "rsqrt", "constant"] = "cosine"
  warmup_steps: int = 100
  final_fraction: float = 0.1  # of the peak, at the last step (cosine, linear, wsd)
  decay_fraction: float = 0.2  # wsd: share of the steps that decay
  weight_decay: float = 0.01
  decay_mask: Literal["matrices", "all"] = "matrices"  # matrices: neither norms nor biases
  beta1: float = 0.9
  beta2: float = 0.98
  epsilon: float = 1e-8
  clip_norm: float | None = 1.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  num_steps: int = 2000
  batch_size: int = 64  # sequences a step
  grad_accum_steps: int = 1


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Evaluation at step 0, at log-spaced steps and at the last step, on one fixed set."""

  num_examples: int = 1024
  batch_size: int = 256
  first_step: int = 16
  per_doubling: int = 1  # points for every doubling of the step
  seed: int = 20_000  # of the evaluation set, the same for every cell


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """Over which devices one run is spread, and how. The same numbers to float tolerance, so not identity.

  auto is a mesh of all devices, except on a single process's CPU, whose one device uses every core.
  pmap is data parallelism by jax.pmap. A mesh has three axes: the batch is split over data and fsdp,
  parameters and optimizer over fsdp (ZeRO-3, arXiv:1910.02054), heads, MLP and vocabulary over tensor
  (arXiv:1909.08053).
  """

  kind: Literal["auto", "single", "pmap", "mesh"] = "auto"
  data: int | None = None  # mesh: what the other axes leave
  fsdp: int = 1
  tensor: int = 1
  num_devices: int | None = None  # the first so many; all


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
  """What changes how a run proceeds and not what it computes; never part of a cell's identity."""

  steps_per_dispatch: int = 50
  log_every: int = 50
  checkpoint_every: int = 500
  keep_checkpoints: int = 2
  population: int | None = None  # cells of one shape that a sweep trains as one program; by device; 1: none


@dataclasses.dataclass(frozen=True)
class Config:
  study: str = "untitled"
  family: str = "decoder"  # the line of a curve this run is a point of
  seed: int = 0  # of parameters, training data and dropout
  data_seed: int | None = None  # of the training data alone; seed
  task: TaskConfig = RuleInduction()
  model: ModelConfig = ModelConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  train: TrainConfig = TrainConfig()
  eval: EvalConfig = EvalConfig()
  parallel: ParallelConfig = ParallelConfig()
  runtime: RuntimeConfig = RuntimeConfig()


# Fields that change how a run's numbers are computed, or what they are called: no part of its identity.
NEUTRAL = ("study", "family", "parallel", "runtime")
NEUTRAL_OF_MODEL = ("remat", "attention", "attention_block")
# The base sizes that a parametrization does not read.
UNREAD_BASES = {"standard": ("base_d_model", "base_num_layers", "base_head_dim"), "mup": ("base_num_layers",)}


def _default_d_ff(model: ModelConfig) -> int:
  if model.activation == "swiglu":
    # 2/3 of 4d keeps the parameter count of a two-matrix MLP (Shazeer, arXiv:2002.05202).
    return max(8, round(8 * model.d_model / 3 / 8) * 8)
  return 4 * model.d_model


def resolve(config: Config) -> Config:
  """Fills the sizes that follow from others and checks the whole; raises ConfigError."""
  m, t = config.model, config.task
  _check_task(t)
  _require_positive(m, "config.model", ("d_model", "num_layers", "num_heads"))
  if m.head_dim is None and m.d_model % m.num_heads:
    divisors = [n for n in range(1, m.d_model + 1) if m.d_model % n == 0]
    near = min(divisors, key=lambda n: abs(n - m.num_heads))
    raise ConfigError(
      f"config.model.num_heads={m.num_heads}: must divide d_model={m.d_model} (nearest: {near}), "
      "or set head_dim"
    )
  model = dataclasses.replace(
    m,
    vocab_size=t.vocab_size if m.vocab_size is None else m.vocab_size,
    context_length=t.sequence_length if m.context_length is None else m.context_length,
    num_kv_heads=m.num_heads if m.num_kv_heads is None else m.num_kv_heads,
    head_dim=m.d_model // m.num_heads if m.head_dim is None else m.head_dim,
    d_ff=_default_d_ff(m) if m.d_ff is None else m.d_ff,
  )
  if isinstance(t, AssociativeRecall) and t.layout == "power_law":
    t = dataclasses.replace(t, length=t.sequence_length)
  resolved = dataclasses.replace(config, model=model, task=t)
  _check_model(resolved)
  _check_training(resolved)
  return resolved


def _fail(path: str, value: Any, allowed: str) -> None:
  raise ConfigError(f"{path}={value!r}: must be {allowed}")


def _require(ok: bool, path: str, value: Any, allowed: str) -> None:
  if not ok:
    _fail(path, value, allowed)


def _require_positive(group: Any, path: str, names: Iterable[str]) -> None:
  for name in names:
    value = getattr(group, name)
    _require(value is None or value > 0, f"{path}.{name}", value, "greater than 0")


def _check_task(t: TaskConfig) -> None:
  path = "config.task"
  _require_positive(
    t, path, [f.name for f in dataclasses.fields(t) if f.type is int or f.name in ("concentration", "length")]
  )
  if isinstance(t, RuleInduction):
    _require(t.num_labels >= t.num_values, f"{path}.num_labels", t.num_labels,
             f"at least num_values={t.num_values}, since values map to distinct labels")  # fmt: skip
    _require(0 <= t.holdout < 1, f"{path}.holdout", t.holdout, "in [0, 1)")
    num_maps = math.perm(t.num_labels, t.num_values)
    _require(t.holdout == 0 or 2 <= num_maps <= 50_000, f"{path}.holdout", t.holdout,
             f"0 for {num_maps} value -> label maps: 2 to 50000 of them can be split")  # fmt: skip
  if isinstance(t, AssociativeRecall):
    _require(t.num_pairs <= t.num_keys, f"{path}.num_pairs", t.num_pairs, f"at most num_keys={t.num_keys}")
    _require(t.power > 0, f"{path}.power", t.power, "greater than 0")
    if t.layout == "shuffled":
      _require(
        t.length is None, f"{path}.length", t.length, "none for layout=shuffled (it follows from num_pairs)"
      )
    else:
      _require(t.sequence_length >= 4 * t.num_pairs, f"{path}.length", t.length,
               f"at least 4 num_pairs = {4 * t.num_pairs}")  # fmt: skip
      _require(t.sequence_length % 2 == 0, f"{path}.length", t.length, "even")
  if isinstance(t, MarkovChain | NoisyMajority):
    _require(t.num_symbols >= 2, f"{path}.num_symbols", t.num_symbols, "at least 2")
    _require(t.length >= 2, f"{path}.length", t.length, "at least 2")
  if isinstance(t, NoisyMajority):
    _require(0 < t.max_signal < 1, f"{path}.max_signal", t.max_signal, "in (0, 1)")
    _require(t.num_levels >= 2, f"{path}.num_levels", t.num_levels, "at least 2, since the first is 0")


def _check_model(c: Config) -> None:
  m, t, path = c.model, c.task, "config.model"
  _require_positive(
    m, path,
    ("vocab_size", "context_length", "num_kv_heads", "head_dim", "d_ff", "rope_theta", "norm_epsilon",
     "attention_block", "base_d_model", "base_num_layers", "base_head_dim"),
  )  # fmt: skip
  _require(m.num_heads % m.num_kv_heads == 0, f"{path}.num_kv_heads", m.num_kv_heads,
           f"a divisor of num_heads={m.num_heads}")  # fmt: skip
  _require(m.positions != "rope" or m.head_dim % 2 == 0, f"{path}.head_dim", m.head_dim,
           "even for positions=rope")  # fmt: skip
  _require(m.positions != "sinusoidal" or m.d_model % 2 == 0, f"{path}.d_model", m.d_model,
           "even for positions=sinusoidal")  # fmt: skip
  obstacle = cudnn_obstacle(m.dtype, m.head_dim)
  _require(not (m.attention == "cudnn" and obstacle), f"{path}.attention", m.attention,
           f"auto or blocks {obstacle}")  # fmt: skip
  _require(0 <= m.dropout < 1, f"{path}.dropout", m.dropout, "in [0, 1)")
  _require(m.vocab_size >= t.vocab_size, f"{path}.vocab_size", m.vocab_size,
           f"at least the task's {t.vocab_size}")  # fmt: skip
  _require(m.context_length >= t.sequence_length, f"{path}.context_length", m.context_length,
           f"at least the task's sequence length {t.sequence_length}")  # fmt: skip
  _require(not (m.parallel_block and m.norm_position == "post"), f"{path}.norm_position", m.norm_position,
           "pre for parallel_block=true")  # fmt: skip
  _require(not (m.parallel_block and m.attention_only), f"{path}.attention_only", m.attention_only,
           "false for parallel_block=true")  # fmt: skip


def _check_training(c: Config) -> None:
  o, tr, ev, rt = c.optimizer, c.train, c.eval, c.runtime
  # Keys of jax.random come from 32 bits: 2**32 would be another name for seed 0.
  for name in ("seed", "data_seed"):
    value = getattr(c, name)
    _require(value is None or 0 <= value < 2**32, f"config.{name}", value, "in [0, 2**32)")
  _require_positive(o, "config.optimizer", ("learning_rate", "epsilon", "clip_norm"))
  for name in ("beta1", "beta2"):
    _require(0 <= getattr(o, name) < 1, f"config.optimizer.{name}", getattr(o, name), "in [0, 1)")
  _require(c.model.parametrization == "standard" or o.name == "adamw", "config.optimizer.name", o.name,
           f"adamw for model.parametrization={c.model.parametrization}")  # fmt: skip
  _require(o.weight_decay >= 0, "config.optimizer.weight_decay", o.weight_decay, "0 or greater")
  _require(0 <= o.final_fraction <= 1, "config.optimizer.final_fraction", o.final_fraction, "in [0, 1]")
  _require(0 < o.decay_fraction <= 1, "config.optimizer.decay_fraction", o.decay_fraction, "in (0, 1]")
  _require_positive(tr, "config.train", ("num_steps", "batch_size", "grad_accum_steps"))
  _require(0 <= o.warmup_steps <= tr.num_steps, "config.optimizer.warmup_steps", o.warmup_steps,
           f"between 0 and train.num_steps={tr.num_steps}")  # fmt: skip
  _require(tr.batch_size % tr.grad_accum_steps == 0, "config.train.grad_accum_steps", tr.grad_accum_steps,
           f"a divisor of batch_size={tr.batch_size}")  # fmt: skip
  _require_positive(ev, "config.eval", ("num_examples", "batch_size", "first_step", "per_doubling"))
  _require(0 <= ev.seed < 2**32, "config.eval.seed", ev.seed, "in [0, 2**32)")
  _require(ev.num_examples % ev.batch_size == 0 or ev.num_examples < ev.batch_size,
           "config.eval.batch_size", ev.batch_size,
           f"a divisor of num_examples={ev.num_examples}, so that no example is dropped")  # fmt: skip
  _require_positive(
    rt, "config.runtime",
    ("steps_per_dispatch", "log_every", "checkpoint_every", "keep_checkpoints", "population"),
  )  # fmt: skip
  _check_parallel(c)


def _check_parallel(c: Config) -> None:
  """Checks what can be known without the devices; `parallel.py` checks the rest."""
  p, m, path = c.parallel, c.model, "config.parallel"
  _require_positive(p, path, ("data", "fsdp", "tensor", "num_devices"))
  for name in ("data", "fsdp", "tensor"):
    value = getattr(p, name)
    _require(p.kind in ("auto", "mesh") or value in (None, 1), f"{path}.{name}", value,
             f"1 for kind={p.kind}; an axis of a mesh needs kind=mesh")  # fmt: skip
  for name, size in (("num_heads", m.num_heads), ("num_kv_heads", m.num_kv_heads), ("d_ff", m.d_ff)):
    _require(size % p.tensor == 0, f"{path}.tensor", p.tensor, f"a divisor of model.{name}={size}")
  _require(m.d_model % p.fsdp == 0, f"{path}.fsdp", p.fsdp, f"a divisor of model.d_model={m.d_model}")


def from_mapping(mapping: Any) -> Config:
  """Strictly converts a ConfigDict or nested dict to a resolved Config."""
  return resolve(strict.from_mapping(Config, mapping))


def semantic_dict(config: Config) -> dict[str, Any]:
  """Returns the fields that decide a run's numbers, where they differ from the defaults.

  Only differences are kept, so that a field added later with a neutral default leaves old
  identities alone.
  """
  unread = NEUTRAL_OF_MODEL + UNREAD_BASES.get(config.model.parametrization, ())
  model = dataclasses.replace(config.model, **{name: getattr(ModelConfig, name) for name in unread})
  neutral = {name: getattr(Config, name) for name in NEUTRAL}
  if model.dropout == 0:  # with it, each part of an accumulated batch draws its own masks
    neutral["train"] = dataclasses.replace(config.train, grad_accum_steps=TrainConfig.grad_accum_steps)
  plain = dataclasses.replace(config, model=model, **neutral)
  return {"semantics": SEMANTICS, **strict.differing(plain, Config())}


def cell_id(config: Config) -> str:
  """Returns the content address of a resolved config: the same numbers, the same id, on any machine."""
  return strict.digest(semantic_dict(config))


def shape(config: Config) -> Config:
  """Returns the config without what is data to its program: equal ones can train as one population.

  Data are the seeds, learning rate, weight decay and warmup; labels are no part of a program either.
  """
  data = {"learning_rate": 1.0, "weight_decay": 0.0, "warmup_steps": 0}
  optimizer = dataclasses.replace(config.optimizer, **data)
  return dataclasses.replace(
    config, study=Config.study, family=Config.family, seed=0, data_seed=None, optimizer=optimizer
  )
