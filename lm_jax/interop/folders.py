"""Folders of models: written whole or not at all, read as JSON that may be anything, named by content."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.strict import ConfigError, did_you_mean
from lm_jax.tokenizers import Tokenizer


@contextlib.contextmanager
def written_whole(target: Path, name: str = "--target") -> Iterator[Path]:
  """Yields a folder beside `target`, which becomes `target` at the end, or vanishes if that is not reached.

  Raises:
    ConfigError: a target that is there and not an empty folder, or cannot be written.
  """
  check_target(target, name)
  beside = target.with_name(f".{target.name}.{os.getpid()}")
  try:
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    if target.is_dir():
      target.rmdir()
    beside.rename(target)
  except OSError as error:
    raise ConfigError(f"{name}={target}: cannot be written ({error.strerror or error})") from None
  finally:
    shutil.rmtree(beside, ignore_errors=True)


def check_target(target: Path, name: str = "--target") -> None:
  """Raises ConfigError for a target that is there and not an empty folder."""
  if target.is_dir() and any(target.iterdir()):
    raise ConfigError(f"{name}={target}: is a folder that is not empty; nothing in it is overwritten")
  if target.exists() and not target.is_dir():
    raise ConfigError(f"{name}={target}: is a file; must be a new folder")


def read_json(path: Path, where: str) -> dict[str, Any]:
  """Returns a JSON object; raises ConfigError, "WHERE: its FILE ...", where there is none."""
  try:
    value = json.loads(path.read_bytes().decode())
  except FileNotFoundError:
    raise ConfigError(f"{where}: has no {path.name}") from None
  except OSError as error:
    raise ConfigError(f"{where}: its {path.name} cannot be read ({error.strerror})") from None
  except (ValueError, RecursionError) as error:
    reason = str(error).splitlines()[0] or type(error).__name__
    raise ConfigError(f"{where}: its {path.name} is not JSON ({reason})") from None
  if not isinstance(value, dict):
    raise ConfigError(f"{where}: its {path.name} is no JSON object but {type(value).__name__}")
  return value


def identity(files: Iterable[Path], tokenizer: Tokenizer | None) -> dict[str, Any]:
  """Returns the digests of what a model was read from, wherever it lies."""
  sha = hashlib.sha256()
  for path in files:
    with path.open("rb") as file:
      sha.update(hashlib.file_digest(file, "sha256").digest())
  return {"content": sha.hexdigest()[:16], "tokenizer": tokenizer.digest if tokenizer else None}


def missing(path: Path, name: str) -> ConfigError:
  """Returns the error of a path that is not there."""
  near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
  return ConfigError(f"{name}={path}: no such file or folder{did_you_mean(path.name, near)}")
