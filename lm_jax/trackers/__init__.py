"""Tells the rows of a run to trackers as well (config.runtime.trackers): TensorBoard, W&B, MLflow.

Records are the truth and are on the disk first. A tracker is a convenience: one that fails while a run
trains is told of once and left out, and the run goes on.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence

from lm_jax import rundir
from lm_jax.config import Config
from lm_jax.records import Record
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.trackers import mlflow, tensorboard, wandb
from lm_jax.trackers.base import Tracker, values_by_step

_OPEN: dict[str, Callable[[Config, RunDir, int], Tracker]] = {
  "tensorboard": tensorboard.open_tracker,
  "wandb": wandb.open_tracker,
  "mlflow": mlflow.open_tracker,
}
# {tracker: (modules it needs, what installs them)}
_NEEDS = {
  "tensorboard": (("tensorboard",), "tensorboard"),
  "wandb": (("wandb",), "'lm_jax[wandb]'"),
  "mlflow": (("mlflow", "sqlalchemy", "alembic"), "'lm_jax[mlflow]'"),
}


def require_installed(names: Iterable[str]) -> None:
  """Raises ConfigError for a tracker whose packages are not there; to be asked before anything trains."""
  for name in names:
    modules, package = _NEEDS[name]
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
      raise ConfigError(
        f"config.runtime.trackers={name!r}: {' and '.join(missing)} not installed; pip install {package}, "
        "or leave it out"
      )


def _is_installed(module: str) -> bool:
  # A folder ./wandb, as wandb makes them, is found as a package without an origin.
  spec = importlib.util.find_spec(module)
  return spec is not None and spec.origin is not None


class Trackers:
  """All trackers of one run; none of their failures gets out."""

  def __init__(self, config: Config, run: RunDir):
    require_installed(config.runtime.trackers)
    self._config, self._run = config, run
    self._open: dict[str, Tracker] = {}

  def begin(self, first: int) -> None:
    """Opens them, for rows from step `first` on; what an earlier attempt told of such steps is superseded."""
    for name in dict.fromkeys(self._config.runtime.trackers):
      with self._dropped_if_it_fails(name):
        self._open[name] = _OPEN[name](self._config, self._run, first)

  def log(self, rows: Sequence[Record]) -> None:
    for step, values in values_by_step(rows, self._config.task.name).items():
      for name, tracker in list(self._open.items()):
        with self._dropped_if_it_fails(name):
          tracker.log(step, values)

  def close(self, state: str) -> None:
    """Ends them in a state of `rundir`; BUSY: the run is another process's, who tells its state."""
    for name, tracker in list(self._open.items()):
      with self._dropped_if_it_fails(name):
        tracker.close(state)
    self._open = {}

  @contextlib.contextmanager
  def _dropped_if_it_fails(self, name: str):
    try:
      yield
    except Exception as error:  # whatever a library, a disk or a network comes up with
      tracker = self._open.pop(name, None)
      said = " ".join(f"{type(error).__name__}: {error}".split())
      print(
        f"{self._run.path}: goes on without the tracker {name} ({said}); its records have all rows",
        file=sys.stderr, flush=True,
      )  # fmt: skip
      if tracker is not None:
        with contextlib.suppress(Exception):
          tracker.close(rundir.FAILED)
