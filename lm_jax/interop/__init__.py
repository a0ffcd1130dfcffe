"""Models in the formats of the field, read and written. Each format is a module with `load`."""

import sys
from pathlib import Path

import numpy as np

from lm_jax import strict
from lm_jax.interop import folders, gguf_files, hub, huggingface, llama2c, native, runs, tensor_files
from lm_jax.param_paths import flat
from lm_jax.pretrained import Pretrained, untrained
from lm_jax.strict import ConfigError

__all__ = ["at_step", "convert", "load", "saved_steps"]

FORMATS = (
  "a run of lm-jax train (@STEP: at one of its checkpoints), a folder of lm-jax convert or of Hugging Face "
  "transformers, a name on its hub (org/name), a GGUF file, or a llama2.c .bin beside its tok*.bin"
)


def load(path: str | Path, *, name: str = "--model", trained: bool = True) -> Pretrained:
  """Opens a model: one of FORMATS.

  Args:
    name: what the path is called in errors.
    trained: false gives the same model with parameters as initialized, a control.

  Raises:
    ConfigError: no model there, or one whose parts are broken or do not fit each other.
  """
  given, (path, step) = str(path), at_step(path)
  if step is not None:
    if not _is_run(path, name):
      raise ConfigError(f"{name}={given}: @{step} is of a run of lm-jax train, which {path} is not")
    return runs.load(path, name=name, trained=trained, step=step)
  if not path.exists():
    if not hub.is_name(given):
      raise folders.missing(path, name)
    path = hub.download(given, name)
  if _is_run(path, name):
    return runs.load(path, name=name, trained=trained)
  p = _load(path, name)
  return p if trained else untrained(p)


def at_step(path: str | Path) -> tuple[Path, int | None]:
  """Returns the path and the step of PATH@STEP; without a step it is None."""
  path = Path(path).expanduser()
  folder, at, step = str(path).rpartition("@")
  if at and step.isdecimal() and not path.exists() and Path(folder).is_dir():
    return Path(folder), int(step)
  return path, None


def saved_steps(path: str | Path, *, name: str = "--model") -> list[int]:
  """Returns the steps that a run of lm-jax train has checkpoints of; raises ConfigError for what is none."""
  path = Path(path).expanduser()
  if not _is_run(path, name):
    raise ConfigError(f"{name}={path}: has no checkpoints; must be a run of lm-jax train")
  return runs.saved_steps(path, name)


def _is_run(path: Path, name: str) -> bool:
  """Whether a folder's config.json is not one of transformers, which names a model."""
  config = path / huggingface.CONFIG
  if not config.is_file():
    return False
  found = folders.read_json(config, f"{name}={path}")
  return not {"model_type", "architectures"} & set(found)


def _load(path: Path, name: str) -> Pretrained:
  if (path / native.FILE).is_file():
    return native.load(path, name=name)
  if (path / huggingface.CONFIG).is_file():
    return huggingface.load(path, name=name)
  if gguf_files.is_model(path):
    return gguf_files.load(path, name=name)
  if llama2c.is_model(path):
    return llama2c.load(path, name=name)
  raise _no_model(path, name)


def _no_model(path: Path, name: str) -> ConfigError:
  """Returns the error of a path that holds no model, by what it holds."""
  if path.is_dir():
    return ConfigError(f"{name}={path}: is no model: it has no config.json; must be {FORMATS}")
  if path.suffix == ".safetensors":
    return ConfigError(f"{name}={path}: are weights alone; give the folder, which has their config.json")
  if path.suffix in tensor_files.PICKLES and tensor_files.is_pickled(path):
    return ConfigError(f"{name}={path}: {tensor_files.PICKLED}")
  return ConfigError(f"{name}={path}: is no model; must be {FORMATS}")


def convert(source: str | Path, target: str | Path, to: str = "huggingface", quiet: bool = False) -> str:
  """Writes a model in another format, whole or not at all; returns a line that says what was written.

  Args:
    source: see `load`.
    target: a folder, new or empty.
    to: "huggingface", a folder that transformers opens, or "lm_jax", our own.

  Raises:
    ConfigError: no model, one that the format cannot express, or something at `target`.
  """
  write = strict.choose({"huggingface": huggingface.export, "lm_jax": native.save}, to, "--to")
  target = Path(target).expanduser()
  folders.check_target(target)
  if not quiet:
    print(f"reading {source}", file=sys.stderr, flush=True)
  p = load(source, name="--source")
  kind = write(p, target)
  params = sum(int(np.prod(x.shape)) for x in flat(p.params).values())
  text = "no tokenizer" if p.tokenizer is None else f"a tokenizer of {p.tokenizer.vocab_size:,}"
  return f"{target}: {kind}, {params:,} parameters in float32, {text}"
