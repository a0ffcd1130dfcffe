"""What a job of Slurm does: it trains its packs one after another, in a process of its own.

Signals come to the job and not to that process, which is told to save, so that:
- before its time is over, or when it is preempted with warning, the job saves and is queued again (submitit);
- SIGTERM (a preemption, a requeue, scancel) lets it save in what time there is before it is killed.

A cell that another process holds is asked for again, after the others: a job whose node was lost is queued
again, and finds what it held itself there until that has been silent for long enough (lm_jax.lease).

FOLDER/answers/NAME.json    what became of a pack, a list as lm_jax.launch.queue reads it
FOLDER/stop                 asks all jobs of the launch to save and end
"""

import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from lm_jax import lease, mirror, rundir
from lm_jax.launch import cores, meeting
from lm_jax.launch.worker_process import WorkerProcess, slot
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError

_LOOK_EVERY_S = 0.5
# Counted and not timed: all hosts of a group must ask for a cell equally often.
_BUSY_EVERY_S = 5.0
_ROUNDS = 3 + math.ceil(lease.SILENCE_S / _BUSY_EVERY_S)
# Replies after which a cell is still to be trained.
_OPEN = (rundir.STOPPED, rundir.BUSY)


@dataclasses.dataclass(frozen=True)
class Job:
  """A callable for submitit.

  Attributes:
    folder: of the launch, shared by all hosts.
    packs: {name: described cells}, in this order.
    cpus, hosts: see lm_jax.launch.engine.Request.
  """

  folder: str
  packs: Mapping[str, Sequence[dict[str, Any]]]
  cpus: int
  hosts: int

  def __call__(self) -> None:
    _Running(self).run()

  def checkpoint(self) -> DelayedSubmission:
    """Called by submitit when it is signalled, in the middle of `run`; the job is queued again after."""
    _Running.current.save()
    return DelayedSubmission(self)


class _Running:
  """A job in the process that Slurm started."""

  current: "_Running"

  def __init__(self, job: Job):
    _Running.current = self
    self._job, self._folder = job, Path(job.folder)
    self._worker: WorkerProcess | None = None
    self._is_training = False
    self._rank = int(os.environ.get("SLURM_PROCID", "0"))
    self._ending = threading.Event()

  def run(self) -> None:
    signal.signal(signal.SIGTERM, self._on_sigterm)
    threading.Thread(target=self._look_for_stop, daemon=True).start()
    left = {name: self._answered(name) for name in self._job.packs}
    for _ in range(_ROUNDS):
      left = self._round(left)
      if not left or not self._pause():
        break
    else:  # whoever holds them lives
      for name, replies in left.items():
        self._answer(name, replies)
    if self._worker:
      self._worker.close()

  def _round(self, packs: Mapping[str, list[Sequence]]) -> dict[str, list[Sequence]]:
    """Trains what is open of packs, given the replies so far; returns those that others hold a cell of."""
    busy = {}
    for name, replies in packs.items():
      at = [i for i, (state, *_) in enumerate(replies) if state in _OPEN]
      if not at:
        continue
      for i, reply in zip(at, self._train([self._job.packs[name][i] for i in at]), strict=True):
        replies[i] = reply
      states = [state for state, *_ in replies]
      if rundir.STOPPED in states:
        self._ending.set()  # also on the other hosts, which were not signalled
      elif rundir.BUSY in states:
        busy[name] = replies
        continue
      self._answer(name, replies)
      if self._job.hosts > 1 and self._rank == 0 and rundir.FAILED in states:
        # The others may be in a collective, for ever: this ends the whole step (srun --kill-on-bad-exit).
        self._worker.stop(signal.SIGKILL)
        sys.exit("lm-jax: it failed; this ends it on all hosts")
      if self._ending.is_set():
        return {}
    return busy

  def _pause(self) -> bool:
    """Waits before what is busy is asked for again; returns whether it is to be."""
    until = time.monotonic() + _BUSY_EVERY_S
    # In steps: an event that this thread waited for could not be set by a signal that it gets meanwhile.
    while time.monotonic() < until and not self._ending.is_set():
      time.sleep(_LOOK_EVERY_S)
    return not self._ending.is_set()

  def save(self) -> None:
    """Returns when what runs is saved, and its process ended.

    One that waits for its next cells has nothing to save, and would not notice; it ends with this one.
    """
    self._ending.set()
    if self._worker and self._is_training:
      self._worker.stop()
      self._worker.ended()

  def _train(self, cells: Sequence[dict[str, Any]]) -> list[Sequence]:
    if self._job.hosts == 1 and all(map(_is_done, cells)):
      return [(rundir.DONE, None, None)] * len(cells)
    if self._ending.is_set():
      return [(rundir.STOPPED, None, None)] * len(cells)
    if self._worker is None or not self._worker.is_alive():
      try:
        self._worker = WorkerProcess(self._environ())
      except (ConfigError, OSError) as error:  # of this machine; another may do
        sys.exit(f"lm-jax: {error}")
    self._is_training = True
    self._worker.send(run=cells)
    answer = self._worker.answer()
    self._is_training = False
    if answer is None:
      how = self._worker.ended()
      if not self._ending.is_set():
        # Slurm sees a job that failed, and the launcher one without an answer.
        sys.exit(f"lm-jax: {how}")
      return [(rundir.STOPPED, None, None)] * len(cells)
    return answer

  def _environ(self) -> dict[str, str]:
    # A GPU says by this variable that it is this job's.
    environ = {} if os.environ.get("CUDA_VISIBLE_DEVICES", "").strip() else slot(cores.take(self._job.cpus))
    if self._job.hosts > 1:
      # A job that was queued again meets anew.
      place = (
        self._folder / f"meeting-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', 0)}"
      )
      environ |= meeting.Group(str(place), self._rank, self._job.hosts).variable()
    return environ

  # --- answers ----------------------------------------------------------------------------------

  def _path(self, name: str) -> Path:
    return self._folder / "answers" / f"{name}.json"

  def _answered(self, name: str) -> list[Sequence]:
    """Returns the replies that a pack has, of a job that was queued again; no cell has begun without."""
    with contextlib.suppress(FileNotFoundError):
      return json.loads(rundir.read_text(self._path(name)))
    return [(rundir.STOPPED, None, None)] * len(self._job.packs[name])

  def _answer(self, name: str, replies: Sequence[Sequence]) -> None:
    if self._rank == 0:
      rundir.write_json(self._path(name), replies)

  # --- ends ---------------------------------------------------------------------------------------

  def _on_sigterm(self, *_: object) -> None:
    # Whoever sends it may kill soon. What was asked for by name ends with answers; else Slurm queues the job
    # again, or has cancelled it, and that there is no answer tells.
    self._ending.set()
    if self._worker:
      self._worker.stop()

  def _look_for_stop(self) -> None:
    while not self._ending.is_set():
      if (self._folder / "stop").exists():
        self._on_sigterm()
      time.sleep(_LOOK_EVERY_S)


def _is_done(cell: Mapping[str, Any]) -> bool:
  run = RunDir(mirror.directory(cell))
  run.refresh()
  return run.is_done()
