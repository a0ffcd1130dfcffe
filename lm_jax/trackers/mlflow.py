"""MLflow: the experiment is the study, and a run has the name of its cell.

The store is that of MLFLOW_TRACKING_URI, and otherwise a database in RUN/mlflow.
"""

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from lm_jax import rundir
from lm_jax.config import Config, cell_id
from lm_jax.rundir import RunDir
from lm_jax.trackers.base import hyperparameters

FOLDER = "mlflow"
_PARAMS_A_CALL = 100  # MLflow takes no more
_STATUS = {
  rundir.DONE: "FINISHED",
  rundir.STOPPED: "KILLED",
  rundir.PAUSED: "KILLED",
  rundir.FAILED: "FAILED",
}


def open_tracker(config: Config, run: RunDir, first: int) -> "MLflow":
  return MLflow(config, run.path / FOLDER, first)


class MLflow:
  """One run, known by its id in RUN/mlflow/run_id.

  MLflow deletes no values. A run that goes on leaves those that an earlier attempt told, and that it repeats
  bit by bit, as they are; one that starts over is another run of MLflow's, and the earlier one is deleted.
  """

  def __init__(self, config: Config, folder: Path, first: int):
    from mlflow.entities import Metric, Param  # takes seconds, and only those who ask for it have it
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    folder.mkdir(exist_ok=True)
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    self._client = MlflowClient(remote or f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    self._metric, self._refusal = Metric, MlflowException
    self._told: set[tuple[str, int]] = set()
    known = folder / "run_id"
    self._id = self._earlier(known, first)
    if self._id is None:
      experiment = self._experiment(
        config.study, None if remote else (folder / "artifacts").absolute().as_uri()
      )
      tags = {"family": config.family, "cell_id": cell_id(config)}
      self._id = self._client.create_run(experiment, tags=tags, run_name=cell_id(config)).info.run_id
      known.write_text(self._id)
      params = [Param(name, str(value)) for name, value in hyperparameters(config).items()]
      for i in range(0, len(params), _PARAMS_A_CALL):
        self._client.log_batch(self._id, params=params[i : i + _PARAMS_A_CALL])

  def _earlier(self, known: Path, first: int) -> str | None:
    """Returns the run to go on with, if there is one in this store."""
    if not known.exists():
      return None
    try:
      run = self._client.get_run(known.read_text())
    except self._refusal:
      return None
    if first == 0 or run.info.lifecycle_stage == "deleted":
      if run.info.lifecycle_stage != "deleted":
        self._client.delete_run(run.info.run_id)
      return None
    for name in run.data.metrics:
      self._told |= {(name, m.step) for m in self._client.get_metric_history(run.info.run_id, name)}
    self._client.update_run(run.info.run_id, status="RUNNING")
    return run.info.run_id

  def _experiment(self, name: str, artifacts: str | None) -> str:
    experiment = self._client.get_experiment_by_name(name)
    if experiment is not None:
      return experiment.experiment_id
    try:
      return self._client.create_experiment(name, artifact_location=artifacts)
    except self._refusal:  # another cell of the sweep may have made it at this moment
      experiment = self._client.get_experiment_by_name(name)
      if experiment is None:
        raise
      return experiment.experiment_id

  def log(self, step: int, values: Mapping[str, float]) -> None:
    now = int(time.time() * 1000)
    named = {_allowed(tag): value for tag, value in values.items()}
    new = [self._metric(name, v, now, step) for name, v in named.items() if (name, step) not in self._told]
    if new:
      self._client.log_batch(self._id, metrics=new)

  def close(self, state: str) -> None:
    if state in _STATUS:
      self._client.set_terminated(self._id, _STATUS[state])


def _allowed(tag: str) -> str:
  return re.sub(r"[^\w.\- :/]", "_", tag)
