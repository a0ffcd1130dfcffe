"""From `--config=FILE[:arg] --config.path.to.field=value` to a resolved Config, Sweep or another config."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import config as configs
from lm_jax import decode_config, finetune_config, strict, sweep
from lm_jax.config import Config
from lm_jax.decode_config import DecodeBench
from lm_jax.finetune_config import FinetuneConfig
from lm_jax.strict import ConfigError, did_you_mean
from lm_jax.sweep import Sweep

DECODING = "decoding"  # the group of fields that only a benchmark of generation has


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config | Sweep:
  """Reads the file, applies the overrides in order, and converts strictly.

  Args:
    spec: path of a Python file with `get_config()`; `FILE:arg` calls `get_config("arg")`.
    overrides: (dotted field, text) pairs. On a sweep they change the base that all cells start from.
  """
  tree = _read(spec)
  if "cells" in tree:
    return sweep.from_tree(tree, _names_first(overrides))
  if DECODING in tree:
    raise ConfigError(f"--config={spec}: is a benchmark of generation; use lm-jax bench")
  return configs.from_mapping(_changed(Config, tree, overrides))


def load_benchmark(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config | Sweep | DecodeBench:
  """`load` of a config of lm-jax bench: a run's, or one of generation, which is told by its `decoding`."""
  tree = _read(spec)
  if DECODING not in tree:
    return load(spec, overrides)
  return decode_config.from_mapping(_changed(DecodeBench, tree, overrides))


def load_finetuning(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> FinetuneConfig:
  """`load` of a config of lm-jax finetune."""
  tree = _read(spec)
  if "cells" in tree or "task" in tree:
    raise ConfigError(f"--config={spec}: is a run or a sweep, and not fine-tuning of a pretrained model")
  return finetune_config.from_mapping(_changed(FinetuneConfig, tree, overrides))


def _changed(cls: type, tree: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
  for dotted, text in _names_first(overrides):
    strict.set_path(cls, tree, dotted, text, text=True)
  return tree


def _read(spec: str) -> dict[str, Any]:
  # A config file that prints must not spoil a JSON object on stdout.
  with contextlib.redirect_stdout(sys.stderr):
    return _plain(_call(spec))


def _names_first(overrides: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  """A name decides which fields there are, so it comes before them whatever the order given."""
  return sorted(overrides, key=lambda override: not override[0].endswith(".name"))


def _call(spec: str) -> Any:
  # The argument may hold colons of its own; the file name ends at ".py".
  name, found, argument = spec.partition(".py:")
  path = Path(name + ".py" if found else spec)
  if not path.is_file():
    siblings = sorted(p.name for p in path.parent.glob("*.py"))
    raise ConfigError(f"--config={spec}: no file {path}{did_you_mean(path.name, siblings)}")
  module = _execute(path, spec)
  if not callable(getattr(module, "get_config", None)):
    raise ConfigError(f"--config={spec}: {path} has no function get_config()")
  try:
    result = module.get_config(argument) if found else module.get_config()
  except ConfigError:
    raise
  except (Exception, SystemExit) as error:
    raise ConfigError(f"--config={spec}: get_config failed, {_where(error, path)}") from error
  if not hasattr(result, "items"):
    raise ConfigError(
      f"--config={spec}: get_config() returned {type(result).__name__}, must return a ConfigDict"
    )
  return result


def _execute(path: Path, spec: str) -> Any:
  module_spec = importlib.util.spec_from_file_location("lm_jax_config_file", path)
  if module_spec is None or module_spec.loader is None:
    raise ConfigError(f"--config={spec}: must be a Python file, NAME.py")
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
  except ConfigError:
    raise
  except (Exception, SystemExit) as error:
    raise ConfigError(f"--config={spec}: cannot be read, {_where(error, path)}") from error
  return module


def _where(error: BaseException, path: Path) -> str:
  """Returns "line N: Kind: message" of an error that a config file raised, in one line."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
  line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
  text = " ".join(str(error).split())
  return (f"line {line}: " if line else "") + f"{type(error).__name__}: {text}"


def _plain(value: Any) -> Any:
  """Returns a ConfigDict as plain dicts and lists, and numpy's numbers as Python's."""
  if isinstance(value, Mapping) or hasattr(value, "to_dict"):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  return value.item() if isinstance(value, np.generic) else value
