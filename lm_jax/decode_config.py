"""The configuration of a benchmark of generation, and its defaults."""

import dataclasses
from typing import Any

from lm_jax import model_config, strict
from lm_jax.generation_config import WEIGHTS
from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError, choose, require, require_positive


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
  """What is measured, see `lm_jax.decode_bench.bench`. Lengths are tokens."""

  batch_sizes: tuple[int, ...] = (1, 8)  # sequences that are decoded together
  prompt_length: int = 64  # of each of them
  new_tokens: int = 40  # decoded after it; the time of a step is a mean over most of them
  prompt_lengths: tuple[int, ...] = (16, 64, 256, 1024)  # of one prompt, for the time until its first token
  weights: tuple[str, ...] = WEIGHTS
  repeats: int = 5  # figures are medians of so many, taken in turns


@dataclasses.dataclass(frozen=True)
class DecodeBench:
  """A model, opened from `path` or else of random weights, and what is measured of it."""

  study: str = "bench"
  path: str | None = None  # what --model of lm-jax generate takes; `model` is then left alone
  model: ModelConfig = ModelConfig()
  decoding: DecodingConfig = DecodingConfig()


UNTIMED_TOKENS = 8  # of `new_tokens`: what the shorter of two runs has, whose time is taken off


def resolve(c: DecodeBench) -> DecodeBench:
  """Fills the sizes of the model and checks the whole; raises ConfigError."""
  d, path = c.decoding, "config.decoding"
  require_positive(d, path, ("prompt_length", "repeats"))
  require(d.new_tokens > UNTIMED_TOKENS, f"{path}.new_tokens", d.new_tokens, f"more than {UNTIMED_TOKENS}")
  for name in ("batch_sizes", "prompt_lengths"):
    values = getattr(d, name)
    require(all(n > 0 for n in values), f"{path}.{name}", list(values), "greater than 0")
  require(len(d.batch_sizes) > 0, f"{path}.batch_sizes", [], "at least one")
  require(len(d.weights) > 0, f"{path}.weights", [], f"at least one of {', '.join(WEIGHTS)}")
  for name in d.weights:
    choose(dict.fromkeys(WEIGHTS), name, f"{path}.weights")
  if c.path is not None:
    if c.model != ModelConfig():
      raise ConfigError("config.model: must be left out where config.path names a model")
    return c
  for name in ("vocab_size", "context_length"):
    value = getattr(c.model, name)
    require(value is not None, f"config.model.{name}", value, "given, as there is no task to take it from")
  model = model_config.resolve(c.model, c.model.vocab_size, c.model.context_length)
  check_model(c, model)
  return dataclasses.replace(c, model=model)


def check_model(c: DecodeBench, model: ModelConfig) -> None:
  """Raises ConfigError for a model that cannot go on, or whose context is shorter than what is measured."""
  d = c.decoding
  require(model.causal and model.lm_head, "config.model.causal", model.causal, "true, and lm_head too")
  lengths = {
    "prompt_length": d.prompt_length + d.new_tokens, "prompt_lengths": max(d.prompt_lengths, default=0) + 1
  }  # fmt: skip
  for name, length in lengths.items():
    require(length <= model.context_length, f"config.decoding.{name}", getattr(d, name),
            f"less: with new tokens it is beyond the model's context of {model.context_length}")  # fmt: skip


def from_mapping(mapping: Any) -> DecodeBench:
  """Strictly converts a ConfigDict or nested dict to a resolved DecodeBench."""
  return resolve(strict.from_mapping(DecodeBench, mapping))
