"""Models in the formats of the field, read and written. Each format is a module with `load`."""

from pathlib import Path

from lm_jax.interop import folders, native, runs
from lm_jax.pretrained import Pretrained, untrained
from lm_jax.strict import ConfigError

__all__ = ["load"]

FORMATS = "a run of lm-jax train, or a folder of lm-jax convert"


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
  if (path / native.FILE).is_file():
    p = native.load(path, name=name)
  elif (path / "config.json").is_file():
    return runs.load(path, name=name, trained=trained)
  else:
    raise ConfigError(f"{name}={path}: is no model: it has no config.json; must be {FORMATS}")
  return p if trained else untrained(p)
