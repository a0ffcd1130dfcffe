"""The configuration of few-shot fine-tuning, its defaults, and what must hold between its fields.

A pretrained model gets a classification head and is trained on k examples a class, by each method, for each
k, on several draws of the examples. What is measured, and how a step is chosen, follows Gao et al. (LM-BFF,
arXiv:2012.15723, section 3) and Perez et al. (arXiv:2105.11447): several draws, and a dev set that is small
too, since choosing on a large one would be many shots by another name.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lm_jax import config as configs
from lm_jax import strict
from lm_jax.config import Config
from lm_jax.strict import ConfigError, choose, require, require_positive
from lm_jax.task_configs import PythonStdlib
from lm_jax.text_config import Text

# What is trained, and what of it a record's objective says.
METHODS = {
  "full": "all parameters",
  "lora": "low-rank changes of some kernels, and the head",
  "head": "the head alone: pooler and output of a classifier",
}
# Tasks whose models read text.
TEXT_TASKS = (Text, PythonStdlib)
# Kernels of a block that LoRA may change.
TARGETS = ("query", "key", "value", "out", "gate", "up", "down")

# What is known of data sets by their names: columns of files without a header, and names of their labels.
KNOWN: dict[str, dict[str, tuple[str, ...]]] = {
  "mr": {"label_names": ("negative", "positive")},
  "cr": {"label_names": ("negative", "positive")},
  "subj": {"label_names": ("objective", "subjective")},
  "poem_sentiment": {
    "columns": ("id", "text", "label"), "label_names": ("negative", "no impact", "positive", "mixed"),
  },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Texts with labels: `text` and `label` of every row, in the splits train, valid (or dev) and test."""

  name: str = "mr"  # a folder in $LM_JAX_SHARED/data/tasks (default: ../shared), or a folder or file
  text_field: str = "text"
  label_field: str = "label"
  columns: tuple[str, ...] | None = None  # of .tsv; its first line, unless the data set is a known one
  label_names: tuple[str, ...] | None = None  # in the order of the labels; the labels, unless known
  # The dev split chooses the step, and nothing else. It is a small set, the same for every k and draw; with
  # none it has k examples a class, as many as there are to train on.
  num_dev: int | None = 64
  num_test: int | None = None  # examples of the test split; all


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adaptation (arXiv:2106.09685): W + alpha / rank * A B."""

  rank: int = 8
  alpha: float = 16.0
  targets: tuple[str, ...] = ("query", "value")


@dataclasses.dataclass(frozen=True)
class LearningRates:
  """Peak learning rate of each method."""

  full: float = 5e-4
  lora: float = 1e-3
  head: float = 3e-3


@dataclasses.dataclass(frozen=True)
class FinetuneOptimizer:
  """AdamW with linear warmup and linear decay to 0 at the last step."""

  learning_rate: LearningRates = LearningRates()
  warmup_steps: int = 10
  weight_decay: float = 0.01
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  clip_norm: float | None = 1.0


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
  study: str = "untitled"
  checkpoint: str | None = None  # a run of lm-jax train, or any model that lm-jax can read
  # Without a checkpoint: trained first, in WORKDIR/pretraining.
  pretraining: Config = dataclasses.field(default_factory=Config)
  initial: Literal["pretrained", "random"] = "pretrained"  # random: the same model untrained, a control
  data: DataConfig = DataConfig()
  shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # examples a class
  draws: int = 5  # seeds 0, 1, ...: which examples, their order, and the initial head
  methods: tuple[str, ...] = ("full", "lora", "head")
  lora: LoraConfig = LoraConfig()
  optimizer: FinetuneOptimizer = FinetuneOptimizer()
  max_steps: int = 100
  batch_size: int = 8
  eval_every: int = 10  # steps between looks at the dev split
  patience: int = 5  # looks without a better one, after which a run ends
  max_length: int = 64  # tokens, special ones included; longer texts are cut


# Fields that say which runs there are and where things lie, and not what a run computes.
NEUTRAL = ("study", "checkpoint", "pretraining", "shots", "draws", "methods")


def resolve(c: FinetuneConfig) -> FinetuneConfig:
  """Fills what is known of the data and checks the whole; raises ConfigError."""
  known = KNOWN.get(c.data.name, {})
  missing: dict[str, Any] = {name: value for name, value in known.items() if getattr(c.data, name) is None}
  c = dataclasses.replace(c, data=dataclasses.replace(c.data, **missing))
  if c.checkpoint is None:
    c = dataclasses.replace(c, pretraining=_resolve_pretraining(c))
  require_positive(c, "config", ("draws", "max_steps", "batch_size", "eval_every", "patience"))
  require_positive(c.data, "config.data", ("num_dev", "num_test"))
  require(c.max_length >= 4, "config.max_length", c.max_length, "at least 4")
  require(c.draws <= 2**16, "config.draws", c.draws, "at most 65536")
  require(c.eval_every <= c.max_steps, "config.eval_every", c.eval_every, f"at most max_steps={c.max_steps}")
  require(len(c.shots) > 0, "config.shots", list(c.shots), "at least one number")
  for k in c.shots:
    require(k > 0, "config.shots", k, "greater than 0")
  _different(c.shots, "config.shots")
  require(len(c.methods) > 0, "config.methods", list(c.methods), f"at least one of {', '.join(METHODS)}")
  for method in c.methods:
    choose(METHODS, method, "config.methods")
  _different(c.methods, "config.methods")
  _check_lora(c.lora)
  _check_optimizer(c)
  return c


def _resolve_pretraining(c: FinetuneConfig) -> Config:
  try:
    pretraining = configs.resolve(c.pretraining)
  except ConfigError as error:
    raise ConfigError(str(error).replace("config.", "config.pretraining.", 1)) from None
  require(isinstance(pretraining.task, TEXT_TASKS), "config.pretraining.task.name", pretraining.task.name,
          "text or python_stdlib (or give config.checkpoint)")  # fmt: skip
  require(c.max_length <= pretraining.model.context_length, "config.max_length", c.max_length,
          f"at most pretraining.model.context_length={pretraining.model.context_length}")  # fmt: skip
  return pretraining


def _different(values: Sequence[Any], path: str) -> None:
  require(len(set(values)) == len(values), path, list(values), "different values")


def _check_lora(lora: LoraConfig) -> None:
  require_positive(lora, "config.lora", ("rank", "alpha"))
  require(len(lora.targets) > 0, "config.lora.targets", list(lora.targets),
          f"at least one of {', '.join(TARGETS)}")  # fmt: skip
  for target in lora.targets:
    choose(dict.fromkeys(TARGETS), target, "config.lora.targets")
  _different(lora.targets, "config.lora.targets")


def _check_optimizer(c: FinetuneConfig) -> None:
  o = c.optimizer
  require_positive(o.learning_rate, "config.optimizer.learning_rate", METHODS)
  require_positive(o, "config.optimizer", ("epsilon", "clip_norm"))
  for name in ("beta1", "beta2"):
    require(0 <= getattr(o, name) < 1, f"config.optimizer.{name}", getattr(o, name), "in [0, 1)")
  require(o.weight_decay >= 0, "config.optimizer.weight_decay", o.weight_decay, "0 or greater")
  require(0 <= o.warmup_steps <= c.max_steps, "config.optimizer.warmup_steps", o.warmup_steps,
          f"between 0 and max_steps={c.max_steps}")  # fmt: skip


def from_mapping(mapping: Any) -> FinetuneConfig:
  """Strictly converts a ConfigDict or nested dict to a resolved FinetuneConfig."""
  return resolve(strict.from_mapping(FinetuneConfig, mapping))


def identity(c: FinetuneConfig) -> str:
  """Returns a content address of what decides the numbers of one (method, k, draw), given the model.

  Which of these are run is no part of it, nor where the model and the data are: both have digests of their
  own.
  """
  default = FinetuneConfig()
  neutral = {name: getattr(default, name) for name in NEUTRAL}
  data = DataConfig(num_dev=c.data.num_dev, num_test=c.data.num_test)
  plain = dataclasses.replace(c, data=data, **neutral)
  return strict.digest({"semantics": configs.SEMANTICS, **strict.differing(plain, default)})


def is_finetuning(workdir: Path) -> bool:
  """Whether a folder holds fine-tuning, and not a run or a sweep."""
  path = workdir / "config.json"
  return path.is_file() and "pretraining" in json.loads(path.read_text())
