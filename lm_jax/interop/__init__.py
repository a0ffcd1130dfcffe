"""Models in the formats of the field, read and written. Each format is a module with `load`."""

from pathlib import Path

from lm_jax.interop import folders, huggingface, native, runs
from lm_jax.pretrained import Pretrained, untrained
from lm_jax.strict import ConfigError

__all__ = ["load"]

FORMATS = "a run of lm-jax train, a folder of lm-jax convert, or a folder of Hugging Face transformers"


def load(path: str | Path, *, name: str = "--model", trained: bool = True) -> Pretrained:
  """Opens a model: one of FORMATS.

  Args:
    name: what the path is called in errors.
    trained: false gives the same model with parameters as initialized, a control.

  Raises:
    ConfigError: no model there, or one whose parts are broken or do not fit each other.
  """
  path = Path(path).expanduser()
  if not path.exists():
    raise folders.missing(path, name)
  if _is_run(path, name):
    return runs.load(path, name=name, trained=trained)
  p = _load(path, name)
  return p if trained else untrained(p)


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
  raise ConfigError(f"{name}={path}: is no model: it has no config.json; must be {FORMATS}")
