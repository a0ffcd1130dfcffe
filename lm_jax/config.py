"""The configuration of one training run, and its defaults: the only place where defaults live.

A config file (ml_collections, `get_config()`) names the fields it changes. It is converted once,
strictly, to these frozen dataclasses; `resolve` then fills the sizes that follow from others and
checks what no single field can check. Everything but the labels (`study`, `family`) and `runtime`
decides the numbers a run produces, and so its identity (`cell_id`).
"""

import dataclasses
from typing import Any, Literal

from lm_jax import model_config, strict, task_configs, text_config
from lm_jax.model_config import ModelConfig
from lm_jax.strict import require, require_positive
from lm_jax.task_configs import RuleInduction, TaskConfig
from lm_jax.text_config import Text

# A change in the meaning of an unchanged config (a default, an algorithm) must change every cell_id.
SEMANTICS = 1


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
  # Text: prompts with demonstrations, scored by log-likelihood (lm_jax/few_shot.py).
  few_shot: tuple[str, ...] = ()  # tasks
  few_shot_every: int | None = None  # steps, and the last one; None: the last one only
  shots: tuple[int, ...] = (0, 1, 4)
  few_shot_examples: int = 200  # of each task


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
  stop_at: int | None = None  # steps after which a run saves and stops; without it, it goes on from there
  population: int | None = None  # cells of one shape that a sweep trains as one program; by device; 1: none
  trackers: tuple[str, ...] = ("tensorboard",)  # of TRACKERS, which are told all rows besides the records


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


# Names for config.runtime.trackers (lm_jax/trackers).
TRACKERS = ("tensorboard", "wandb", "mlflow")
# Fields that change how a run's numbers are computed, or what they are called: no part of its identity.
NEUTRAL = ("study", "family", "parallel", "runtime")
NEUTRAL_OF_MODEL = ("remat", "attention", "attention_block")
# The base sizes that a parametrization does not read.
UNREAD_BASES = {"standard": ("base_d_model", "base_num_layers", "base_head_dim"), "mup": ("base_num_layers",)}


def resolve(config: Config) -> Config:
  """Fills the sizes that follow from others and checks the whole; raises ConfigError."""
  task = task_configs.resolve(config.task)
  model = model_config.resolve(config.model, task.vocab_size, task.sequence_length)
  resolved = dataclasses.replace(config, model=model, task=task)
  if isinstance(task, Text):
    text_config.check_model(task, model)
  require(model.lm_head, "config.model.lm_head", False, "true to be trained")
  _check_training(resolved)
  return resolved


def _check_training(c: Config) -> None:
  o, tr, ev, rt = c.optimizer, c.train, c.eval, c.runtime
  # Keys of jax.random come from 32 bits: 2**32 would be another name for seed 0.
  for name in ("seed", "data_seed"):
    value = getattr(c, name)
    require(value is None or 0 <= value < 2**32, f"config.{name}", value, "in [0, 2**32)")
  require_positive(o, "config.optimizer", ("learning_rate", "epsilon", "clip_norm"))
  for name in ("beta1", "beta2"):
    require(0 <= getattr(o, name) < 1, f"config.optimizer.{name}", getattr(o, name), "in [0, 1)")
  require(c.model.parametrization == "standard" or o.name == "adamw", "config.optimizer.name", o.name,
           f"adamw for model.parametrization={c.model.parametrization}")  # fmt: skip
  require(o.weight_decay >= 0, "config.optimizer.weight_decay", o.weight_decay, "0 or greater")
  require(0 <= o.final_fraction <= 1, "config.optimizer.final_fraction", o.final_fraction, "in [0, 1]")
  require(0 < o.decay_fraction <= 1, "config.optimizer.decay_fraction", o.decay_fraction, "in (0, 1]")
  require_positive(tr, "config.train", ("num_steps", "batch_size", "grad_accum_steps"))
  require(0 <= o.warmup_steps <= tr.num_steps, "config.optimizer.warmup_steps", o.warmup_steps,
           f"between 0 and train.num_steps={tr.num_steps}")  # fmt: skip
  require(tr.batch_size % tr.grad_accum_steps == 0, "config.train.grad_accum_steps", tr.grad_accum_steps,
           f"a divisor of batch_size={tr.batch_size}")  # fmt: skip
  require_positive(ev, "config.eval", ("num_examples", "batch_size", "first_step", "per_doubling"))
  require(0 <= ev.seed < 2**32, "config.eval.seed", ev.seed, "in [0, 2**32)")
  require(ev.num_examples % ev.batch_size == 0 or ev.num_examples < ev.batch_size,
           "config.eval.batch_size", ev.batch_size,
           f"a divisor of num_examples={ev.num_examples}, so that no example is dropped")  # fmt: skip
  require_positive(
    rt, "config.runtime",
    ("steps_per_dispatch", "log_every", "checkpoint_every", "keep_checkpoints", "stop_at", "population"),
  )  # fmt: skip
  for name in rt.trackers:
    strict.choose(dict.fromkeys(TRACKERS), name, "config.runtime.trackers")
  allowed = isinstance(c.task, Text) and c.task.objective != "span_corruption"
  require(allowed or not ev.few_shot, "config.eval.few_shot", list(ev.few_shot),
          "empty for a task that is no language modeling of text from its beginning")  # fmt: skip
  require(all(k >= 0 for k in ev.shots), "config.eval.shots", list(ev.shots), "0 or greater")
  require_positive(ev, "config.eval", ("few_shot_examples", "few_shot_every"))
  _check_parallel(c)


def _check_parallel(c: Config) -> None:
  """Checks what can be known without the devices; `parallel.py` checks the rest."""
  p, m, path = c.parallel, c.model, "config.parallel"
  require_positive(p, path, ("data", "fsdp", "tensor", "num_devices"))
  for name in ("data", "fsdp", "tensor"):
    value = getattr(p, name)
    require(p.kind in ("auto", "mesh") or value in (None, 1), f"{path}.{name}", value,
             f"1 for kind={p.kind}; an axis of a mesh needs kind=mesh")  # fmt: skip
  for name, size in (("num_heads", m.num_heads), ("num_kv_heads", m.num_kv_heads), ("d_ff", m.d_ff)):
    require(size % p.tensor == 0, f"{path}.tensor", p.tensor, f"a divisor of model.{name}={size}")
  require(m.d_model % p.fsdp == 0, f"{path}.fsdp", p.fsdp, f"a divisor of model.d_model={m.d_model}")


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
  if isinstance(config.task, Text):
    neutral["task"] = dataclasses.replace(config.task, **text_config.identity(config.task))
  plain = dataclasses.replace(config, model=model, **neutral)
  return {"semantics": SEMANTICS, **strict.differing(plain, Config())}


def cell_id(config: Config) -> str:
  """Returns the content address of a resolved config: the same numbers, the same id, on any machine."""
  return strict.digest(semantic_dict(config))


def shape(config: Config) -> Config:
  """Returns the config without what is data to its program: equal ones can train as one population.

  Data are the seeds, learning rate, weight decay and warmup; labels are no part of a program either.
  """
  data: dict[str, Any] = {"learning_rate": 1.0, "weight_decay": 0.0, "warmup_steps": 0}
  optimizer = dataclasses.replace(config.optimizer, **data)
  return dataclasses.replace(
    config, study=Config.study, family=Config.family, seed=0, data_seed=None, optimizer=optimizer
  )
