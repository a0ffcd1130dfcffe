"""What one run writes while it trains: records, which trackers are told too, status, and its position.

Processes other than the first of a run that spans several keep the same journal and write nothing.
"""

import collections
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lm_jax import failures, hosts, rundir, scaling, tasks
from lm_jax.checkpoint import Damaged
from lm_jax.config import Config, cell_id
from lm_jax.lease import Lost
from lm_jax.records import Record, append, provenance, truncate
from lm_jax.rundir import RunDir
from lm_jax.schedule import AnyOf, AtSteps, EveryN
from lm_jax.scores import Score
from lm_jax.task_configs import objective
from lm_jax.trackers import Trackers

_STATUS_EVERY_S = 0.5


class Diverged(Exception):
  """The loss, or its gradient, is no longer a number."""

  kind = failures.DIVERGED

  def __init__(self, message: str, step: int):
    super().__init__(message)
    self.step = step


class Journal:
  """The records and status of one run.

  Attributes:
    loss: of the last step read, None before.
  """

  def __init__(self, config: Config, run: RunDir, task: tasks.Task, check: Callable[[], None] = lambda: None):
    self.config, self.run = config, run
    # Raises Lost where the run is another process's by now; asked before every write.
    self._check = check
    self._writes = hosts.is_first()
    self._logging = AnyOf((EveryN(config.runtime.log_every), AtSteps((config.train.num_steps,))))
    self._unlogged: list[float] = []  # losses since the last row of them
    self.loss: float | None = None
    self._wall_s, self._started = 0.0, time.monotonic()
    self._speed = _Speed(config)
    self._trackers = Trackers(config, run)
    self._state = rundir.RUNNING
    if self._writes:
      check()
      run.write_task(_task_facts(task))
      task.save_assets(run.path)

  # --- position -------------------------------------------------------------------------------

  def restart(self) -> None:
    """Drops what an earlier attempt wrote and no checkpoint knows."""
    if self._writes:
      self._check()
      truncate(self.run.records, 0)
      self._trackers.begin(0)

  def restore(self, position: dict[str, Any]) -> None:
    """Takes up a position; what was written after it is cut off.

    Raises:
      Damaged: rows that the position counts on are gone; where there are several processes, in all of them.
    """
    size, counted = self._size(), position["records_bytes"]
    if hosts.any_process(self._writes and size < counted):
      raise Damaged(f"{self.run.records.name} has {size} bytes, and it counts on {counted}")
    if self._writes:
      self._check()
      truncate(self.run.records, counted)
      self._trackers.begin(position["step"] + 1)
    self._unlogged, self._wall_s = position["unlogged_losses"], position["wall_s"]

  def position(self, step: int) -> dict[str, Any]:
    """Returns what a checkpoint at `step` must know; a copy, since it is written in the background."""
    return {
      "step": step, "records_bytes": self._size(), "unlogged_losses": list(self._unlogged),
      "wall_s": self._wall(),
    }  # fmt: skip

  def _size(self) -> int:
    return self.run.records.stat().st_size if self.run.records.exists() else 0

  # --- steps ----------------------------------------------------------------------------------

  def read(self, before: int, losses: Sequence[float], norms: Sequence[float]) -> None:
    """Takes in the steps after `before`; raises Diverged at the first number that is none."""
    self._speed.read(before + len(losses))
    for at, (loss, norm) in enumerate(zip(losses, norms, strict=True), before + 1):
      # A gradient that is no number would only show in the next loss, and there may be none.
      for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
          raise Diverged(f"{name} is {value} at step {at}", at)
      self._unlogged.append(loss)
      if self._logging(at):
        self._log_loss(at)
    self.loss = losses[-1]

  def _log_loss(self, at: int) -> None:
    mean = math.fsum(self._unlogged) / len(self._unlogged)
    self._unlogged = []
    self._append([self._record(at, "train", metric="loss", value=mean)])

  def log_scores(self, at: int, scores: Sequence[Score]) -> None:
    self._append([self._record(at, "test", **_fields(score)) for score in scores])

  def _append(self, rows: Sequence[Record]) -> None:
    if self._writes:
      self._check()
      append(self.run.records, rows)
      self._trackers.log(rows)

  def _record(self, at: int, split: str, **fields: Any) -> Record:
    c, count = self.config, scaling.count_params(self.config.model)
    share = at / c.train.num_steps
    row = {"n_shots": None, "prompt_id": None, "stderr": None, "n_items": None, "chance": None}
    row |= {"task": c.task.name} | provenance() | fields
    return Record(
      study=c.study, cell_id=cell_id(c), family=c.family, objective=objective(c.task),
      params_total=count.total, params_nonembedding=count.nonembedding,
      flops_6nd=scaling.flops_6nd(c) * share, flops_exact=scaling.train_flops(c) * share,
      flops_6nd_nonembedding=scaling.flops_6nd_nonembedding(c) * share,
      tokens=scaling.tokens_per_step(c) * at, step=at, seed=c.seed, split=split,
      wall_s=self._wall(), device=jax.devices()[0].device_kind, **row,
    )  # fmt: skip

  # --- status ---------------------------------------------------------------------------------

  def _wall(self) -> float:
    return round(self._wall_s + time.monotonic() - self._started, 3)

  def write_status(self, done: int, to: str = rundir.RUNNING) -> None:
    """Writes how far the run is; while it runs, twice a second at most."""
    if not self._writes or (to == rundir.RUNNING and not self._speed.status_due()):
      return
    self._check()
    self.run.write_status(
      to, step=done, num_steps=self.config.train.num_steps, loss=self.loss, wall_s=self._wall(),
      tokens_per_s=self._speed.tokens_per_s, eta_s=self._speed.time_left(done), error=None,
    )  # fmt: skip
    self._state = to

  def close(self) -> None:
    """Ends what trackers are told; to be called however the run ends."""
    state = rundir.FAILED if self._state == rundir.RUNNING else self._state
    try:
      self._check()
    except Lost:
      state = rundir.BUSY
    self._trackers.close(state)


class _Speed:
  """Tokens a second and time left, from when results arrive; compilation is not counted."""

  def __init__(self, config: Config):
    self._tokens, self._num_steps = scaling.tokens_per_step(config), config.train.num_steps
    self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=20)
    self._next_status = 0.0

  def read(self, done: int) -> None:
    self._marks.append((time.monotonic(), done))

  @property
  def tokens_per_s(self) -> float | None:
    if len(self._marks) < 2:
      return None
    (t0, step0), (t1, step1) = self._marks[0], self._marks[-1]
    return self._tokens * (step1 - step0) / max(t1 - t0, 1e-9)

  def time_left(self, done: int) -> float | None:
    speed = self.tokens_per_s
    return self._tokens * (self._num_steps - done) / speed if speed else None

  def status_due(self) -> bool:
    now = time.monotonic()
    if now < self._next_status:
      return False
    self._next_status = now + _STATUS_EVERY_S
    return True


def _fields(score: Score) -> dict[str, Any]:
  """Returns a score as fields of a record; the task only where it is another than the run's."""
  fields = dict(vars(score))
  return fields if score.task else {name: fields[name] for name in fields if name != "task"}


def _task_facts(task: tasks.Task) -> dict[str, Any]:
  bayes = task.bayes_accuracy()
  return {
    "name": task.config.name,
    "chance": task.chance,
    "shots": None if task.shots is None else [int(s) for s in task.shots],
    "window": task.window,
    "answer_length": task.answer_length,
    "bayes_accuracy": None if bayes is None else [float(b) for b in bayes],
    "data_digest": task.data_digest,
  }
