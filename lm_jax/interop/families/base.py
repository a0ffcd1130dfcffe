"""What a family of models is: its config.json and its tensors, as tables that are read both ways.

Import and export come from one table each. A row says which tensors of ours one of theirs is; a field says
which number of a ModelConfig one of config.json is. What the tables cannot say is a reason not to export.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax import strict
from lm_jax.model_config import ModelConfig, resolve
from lm_jax.strict import ConfigError, nearest

Shape = tuple[int, ...]
REQUIRED = object()
MAX_SIZE = 2**31 - 1  # of anything that config.json counts


# --- tensors ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Transform:
  """One tensor of theirs as one or several of ours.

  Attributes:
    load: (theirs, num_heads) -> ours.
    store: (ours, num_heads) -> theirs; the inverse, to the last bit.
    shape: shapes of ours -> the shape of theirs.
  """

  load: Callable[[np.ndarray, int], Sequence[np.ndarray]]
  store: Callable[[Sequence[np.ndarray], int], np.ndarray]
  shape: Callable[[Sequence[Shape]], Shape]


KEEP = Transform(lambda x, n: [x], lambda xs, n: xs[0], lambda shapes: shapes[0])
# torch's Linear holds [out, in].
TRANSPOSE = Transform(lambda x, n: [x.T], lambda xs, n: xs[0].T, lambda shapes: shapes[0][::-1])


@dataclasses.dataclass(frozen=True)
class Row:
  """A tensor of theirs, its name without the family's prefix, and the paths of ours that it is."""

  theirs: str
  ours: tuple[str, ...]
  transform: Transform = KEEP


def linear(theirs: str, ours: str, has_bias: bool) -> list[Row]:
  """Returns the rows of a torch Linear."""
  rows = [Row(f"{theirs}.weight", (f"{ours}/kernel",), TRANSPOSE)]
  return rows + ([Row(f"{theirs}.bias", (f"{ours}/bias",))] if has_bias else [])


def norm(theirs: str, ours: str, has_bias: bool) -> list[Row]:
  """Returns the rows of a LayerNorm, or of an RMSNorm."""
  rows = [Row(f"{theirs}.weight", (f"{ours}/scale",))]
  return rows + ([Row(f"{theirs}.bias", (f"{ours}/bias",))] if has_bias else [])


# --- config.json --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of config.json that is a field of ModelConfig.

  Attributes:
    type: of theirs.
    default: transformers', where it is not written; REQUIRED: it always is.
    values: {theirs: ours} where they are not the same; of several of theirs the first one is written.
  """

  theirs: str
  ours: str
  type: Any = int
  default: Any = REQUIRED
  values: Mapping[str, str] | None = None

  def read(self, config: Mapping[str, Any], where: str) -> Any:
    """Returns the value for ModelConfig; raises ConfigError."""
    value = value_of(config, self.theirs, self.type, self.default, where)
    if self.type is int and not 0 < value <= MAX_SIZE:
      raise ConfigError(f"{where}: {self.theirs}={value}: must be greater than 0 and below 2^31")
    if self.values is None:
      return value
    if value not in self.values:
      raise ConfigError(f"{where}: {self.theirs}={value!r}: is not supported{nearest(value, self.values)}")
    return self.values[value]

  def write(self, model: ModelConfig) -> dict[str, Any]:
    """Returns {theirs: value}, or nothing where they have no value for it."""
    value = getattr(model, self.ours)
    if self.values is not None:
      value = next((theirs for theirs, ours in self.values.items() if ours == value), None)
    return {} if value is None else {self.theirs: value}


def value_of(config: Mapping[str, Any], key: str, kind: Any, default: Any, where: str) -> Any:
  """Returns config[key] in the type `kind`, or the default; raises ConfigError."""
  if key in config:
    return strict.convert(kind, config[key], f"{where}: {key}")
  if default is REQUIRED:
    raise ConfigError(f"{where}: lacks {key}")
  return default


def positive(config: Mapping[str, Any], key: str, default: Any, where: str) -> float:
  """Returns a number greater than 0."""
  value = value_of(config, key, float, default, where)
  strict.require(value > 0, f"{where}: {key}", value, "greater than 0")
  return value


# The forms of GELU by their names in transformers.
ACTIVATIONS = {
  "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu_python_tanh": "gelu",
  "gelu": "gelu_erf", "gelu_python": "gelu_erf", "relu": "relu",
}  # fmt: skip
# What no family has, or what a bare config.json would not say.
FIXED = {"is_encoder_decoder": False, "add_cross_attention": False, "quantization_config": None}
# Fields of a ModelConfig that do not change what it computes, but for dropout, which only training has.
NEUTRAL = (
  "initializer", "dtype", "scan_layers", "remat", "attention", "attention_block", "dropout",
  "parametrization", "base_d_model", "base_num_layers", "base_head_dim",
)  # fmt: skip


def nothing(*_: Any) -> dict[str, Any]:
  return {}


@dataclasses.dataclass(frozen=True)
class Family:
  """Models of one model_type.

  Attributes:
    architectures: classes of transformers that are read.
    fields: of config.json.
    style: what all its models are, as fields of ModelConfig.
    fixed: {field of config.json: the only value that is supported, which is also transformers' default}.
    rows: the tensors of a model.
    prefix: of the tensors of the trunk, where the model has a head.
    heads: beginnings of the names of tensors that have no prefix.
    buffers: names of tensors that hold no weights, a regular expression.
    synonyms: {part of an old name: what it is called now}.
    aliases: {tensor: the one that it is tied to}.
    read_more: (config.json, names of the tensors, where) -> more fields of ModelConfig.
    write_more: ModelConfig -> more fields of config.json.
    architecture: ModelConfig -> the class that is written.
  """

  model_type: str
  architectures: tuple[str, ...]
  fields: tuple[Field, ...]
  style: Mapping[str, Any]
  fixed: Mapping[str, Any]
  rows: Callable[[ModelConfig], list[Row]]
  prefix: str
  heads: tuple[str, ...]
  buffers: str
  aliases: Callable[[ModelConfig], dict[str, str]]
  architecture: Callable[[ModelConfig], str]
  read_more: Callable[[Mapping[str, Any], Collection[str], str], dict[str, Any]] = nothing
  write_more: Callable[[ModelConfig], dict[str, Any]] = nothing
  synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def read(self, config: Mapping[str, Any], names: Collection[str], where: str) -> ModelConfig:
    """Returns the model that a config.json describes; raises ConfigError for what is not supported.

    Args:
      names: of the tensors, without prefix.
    """
    for key, value in {**FIXED, **self.fixed}.items():
      if config.get(key, value) != value:
        raise ConfigError(f"{where}: {key}={config[key]!r}: is not supported; must be {value!r}")
    fields = {field.ours: field.read(config, where) for field in self.fields}
    fields = {**self.style, **fields, **self.read_more(config, names, where)}
    try:
      return resolve(ModelConfig(**fields), fields["vocab_size"], fields["context_length"])
    except ConfigError as error:
      raise ConfigError(f"{where}: {str(error).removeprefix('config.model.')}") from None

  def write(self, model: ModelConfig) -> dict[str, Any]:
    """Returns the config.json of a model, of which `obstacles` says what it cannot say."""
    config = {"architectures": [self.architecture(model)], "model_type": self.model_type}
    for field in self.fields:
      config |= field.write(model)
    return config | self.write_more(model) | {"dtype": "float32", "torch_dtype": "float32"}

  def names(self, model: ModelConfig) -> list[str]:
    return [row.theirs for row in self.rows(model)]

  def obstacles(self, model: ModelConfig) -> list[str]:
    """Returns the fields of a model that the family cannot express, "positions=sinusoidal" and so on.

    They are those in which what is written would be read as another model.

    Raises:
      ConfigError: it would not be read at all.
    """
    again = self.read(self.write(model), self.names(model), self.model_type)
    ours, theirs = _effective(model), _effective(again)
    return [
      f"{f.name}={_plain(getattr(ours, f.name))} ({self.model_type}: {_plain(getattr(theirs, f.name))})"
      for f in dataclasses.fields(ModelConfig)
      if getattr(ours, f.name) != getattr(theirs, f.name)
    ]


def _effective(m: ModelConfig) -> ModelConfig:
  """Returns a model with the defaults in the place of what it does not read."""
  unread = list(NEUTRAL)
  unread += ["rope_theta", "rope_scaling", "rotary_fraction"] if m.positions != "rope" else []
  # Under use_bias, queries, keys and values have biases anyway.
  unread += ["qkv_bias"] if m.use_bias else []
  return dataclasses.replace(m, **{name: getattr(ModelConfig, name) for name in unread})


def _plain(value: Any) -> Any:
  return getattr(value, "kind", value)
