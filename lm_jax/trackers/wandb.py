"""Weights & Biases: the project is the study, the group the family, and a run's id and name its cell's id.

Its files are in RUN/wandb. Account, server and mode come from W&B's own settings and variables; with
WANDB_MODE=offline it writes files that `wandb sync` sends later.
"""

import re
from collections.abc import Mapping

from lm_jax import records, rundir, strict
from lm_jax.config import Config, cell_id
from lm_jax.rundir import RunDir
from lm_jax.trackers.base import values_by_step

# How long the end of a run waits for what is not sent yet. RUN/wandb has it still.
_FINISH_S = 60.0


def open_tracker(config: Config, run: RunDir, first: int) -> "WandB":
  tracker = WandB(config, run)
  if first:
    # W&B loses the end of what it was told when a run is killed, and offline every attempt is a file: it is
    # told all rows again, of which it takes those that it has not.
    rows = [records.Record(**row) for row in records.read(run.records)]
    for step, values in values_by_step(rows, config.task.name).items():
      tracker.log(step, values)
  return tracker


class WandB:
  """One run. W&B takes no step twice: what an earlier attempt told and this one repeats, stays."""

  def __init__(self, config: Config, run: RunDir):
    import wandb  # takes its time, and only those who ask for it have it

    # Neither the console nor the machine: what W&B finds there includes variables of the environment.
    settings = wandb.Settings(
      silent=True, console="off", save_code=False, disable_git=True, disable_code=True, x_disable_meta=True,
      finish_timeout=_FINISH_S,
    )  # fmt: skip
    offline = wandb.setup().settings.mode == "offline"
    self._run = wandb.init(
      project=re.sub(r"[/\\#?%:]", "-", config.study)[:128], group=config.family,
      id=cell_id(config), name=cell_id(config), dir=run.path, config=strict.to_dict(config),
      resume=None if offline else "allow",
      reinit="create_new",  # members of a population are in one process
      settings=settings,
    )  # fmt: skip
    self._first = self._run.starting_step

  def log(self, step: int, values: Mapping[str, float]) -> None:
    if step >= self._first:
      self._run.log(dict(values), step=step)

  def close(self, state: str) -> None:
    self._run.finish(exit_code=0 if state in (rundir.DONE, rundir.PAUSED) else 1)
