"""From `--config=FILE[:arg] --config.path.to.field=value` to a resolved Config or Sweep."""

import importlib.util
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax import config as configs
from lm_jax import strict, sweep
from lm_jax.config import Config
from lm_jax.strict import ConfigError, nearest
from lm_jax.sweep import Sweep


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config | Sweep:
  """Reads the file, applies the overrides in order, and converts strictly.

  Args:
    spec: path of a Python file with `get_config()`; `FILE:arg` calls `get_config("arg")`.
    overrides: (dotted field, text) pairs. On a sweep they change the base that all cells start from.
  """
  tree = _to_dict(_call(spec))
  if "cells" in tree:
    return sweep.from_tree(tree, overrides)
  for dotted, text in overrides:
    strict.set_path(Config, tree, dotted, text, text=True)
  return configs.from_mapping(tree)


def _call(spec: str) -> Any:
  # The argument may hold colons of its own; the file name ends at ".py".
  name, found, argument = spec.partition(".py:")
  path = Path(name + ".py" if found else spec)
  if not path.is_file():
    siblings = path.parent.glob("*.py") if path.parent.is_dir() else ()
    hint = nearest(path.name, sorted(p.name for p in siblings))
    raise ConfigError(f"--config={spec}: no file {path}" + (hint if siblings and "did you" in hint else ""))
  module = _execute(path, spec)
  if not callable(getattr(module, "get_config", None)):
    raise ConfigError(f"--config={spec}: {path} has no function get_config()")
  try:
    result = module.get_config(argument) if found else module.get_config()
  except ConfigError:
    raise
  except Exception as error:
    raise ConfigError(f"--config={spec}: get_config failed at {_where(error, path)}") from error
  if not hasattr(result, "items"):
    raise ConfigError(
      f"--config={spec}: get_config() returned {type(result).__name__}, must return a ConfigDict"
    )
  return result


def _execute(path: Path, spec: str) -> Any:
  module_spec = importlib.util.spec_from_file_location("lm_jax_config_file", path)
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
  except ConfigError:
    raise
  except Exception as error:
    raise ConfigError(f"--config={spec}: cannot be read, {_where(error, path)}") from error
  return module


def _where(error: Exception, path: Path) -> str:
  """Returns "line N: Kind: message" of an error that a config file raised, in one line."""
  lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
  line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
  text = " ".join(str(error).split())
  return (f"line {line}: " if line else "") + f"{type(error).__name__}: {text}"


def _to_dict(tree: Any) -> dict[str, Any]:
  """Returns a ConfigDict as plain dicts, whose values `strict` can check."""
  return {
    key: _to_dict(value) if isinstance(value, Mapping) or hasattr(value, "to_dict") else value
    for key, value in tree.items()
  }
