"""Runs from start to end: restore, step, log, evaluate, save. One run, or a population of one shape.

A run killed at any moment and started again ends with the same bits as one never stopped: batches are
functions of (seed, step), dispatches of any length run one compiled loop body, and a checkpoint knows
how many bytes of the records belong to it. From a checkpoint that is damaged it falls back to the one before,
and ends with the same bits still. (On one kind of device with one number of cores: matrix
products split over threads round differently in the last bit. Workers of a sweep have one core each.)
"""

import collections
import contextlib
import re
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from lm_jax import failures, hosts, population, programs, rundir, state, step
from lm_jax.config import Config
from lm_jax.journal import Diverged as Diverged
from lm_jax.member import Member
from lm_jax.rundir import RunDir
from lm_jax.schedule import AnyOf, AtSteps, EveryN, LogSpaced


class Stopped(Exception):
  """The run was asked to stop; it is saved and can go on."""

  def __init__(self, signal_number: int, message: str):
    super().__init__(message)
    self.signal_number = signal_number


class Paused(Exception):
  """The run came to config.runtime.stop_at; it is saved and can go on."""


class OutOfMemory(Exception):
  """The device's memory does not hold the run."""

  kind = failures.OUT_OF_MEMORY


class Stop(threading.Event):
  """Asks a run to save and stop; remembers which signal asked, SIGTERM unless told."""

  signal_number = signal.SIGTERM


def stop_on_signals() -> Stop:
  """Returns a stop that SIGTERM and the first Ctrl-C set; the second Ctrl-C interrupts at once."""
  event = Stop()

  def handle(number: int, _: Any) -> None:
    event.signal_number = number
    event.set()
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.default_int_handler)

  signal.signal(signal.SIGTERM, handle)
  signal.signal(signal.SIGINT, handle)
  return event


def train(
  config: Config,
  directory: Path,
  *,
  stop: Stop | None = None,
  on_first_step: Callable[[], None] = lambda: None,
) -> None:
  """Runs, or takes up, the run of a resolved config in `directory`.

  Args:
    stop: when set, the run saves at the next opportunity and raises Stopped.
    on_first_step: called when the first step of this process is done.

  Raises:
    Busy: another process is at work on it.
    Paused: it came to config.runtime.stop_at.
    Diverged: NaN or infinity in the loss.
    OutOfMemory: the device does not hold it.
  """
  (error,) = train_population([config], [directory], stop=stop, on_first_step=on_first_step)
  if error is not None:
    raise error


def train_population(
  configs: Sequence[Config],
  directories: Sequence[Path],
  *,
  stop: Stop | None = None,
  on_first_step: Callable[[], None] = lambda: None,
) -> list[Exception | None]:
  """Runs, or takes up, runs that differ in data only as one program; each leaves what it would alone.

  Returns what ended each run early (Busy, Paused, Diverged, Stopped, OutOfMemory, ConfigError), or None.
  """
  hosts.all_devices()  # before anything is written: none may be there
  if len(configs) > 1:
    population.check_members(configs)
  with contextlib.ExitStack() as stack:
    members = [Member(c, RunDir(Path(d)), stack) for c, d in zip(configs, directories, strict=True)]
    # Members that stopped at different steps cannot share a dispatch, and go on in groups that can.
    waiting = members
    while waiting := [member for member in waiting if member.is_open]:
      at = max(member.latest_step for member in waiting)
      group = [member for member in waiting if member.latest_step == at]
      try:
        if not _Loop(group, stop or Stop()).go(at, on_first_step):
          continue  # some fell back to earlier checkpoints or failed; the others are another group now
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        for member in [member for member in group if member.error is None]:
          member.fail(OutOfMemory(_out_of_memory(group, error)))
      waiting = [member for member in waiting if member not in group]
  return [member.error for member in members]


def _out_of_memory(members: Sequence["Member"], error: Exception) -> str:
  """Says what would not fit and which fields of the config would help."""
  asked = re.search(r"allocat\w+ ~?([\d.]+ ?(?:bytes|[KMGT]i?B))", str(error))
  c = members[0].config
  advice = [f"a smaller config.train.batch_size (now {c.train.batch_size})"]
  if c.train.grad_accum_steps < c.train.batch_size:
    advice.append(f"config.train.grad_accum_steps (now {c.train.grad_accum_steps})")
  if c.model.remat != "block":
    advice.append("config.model.remat=block")
  if c.model.dtype == "float32":
    advice.append("config.model.dtype=bfloat16")
  advice.append("config.parallel.fsdp where there are more devices")
  if len(members) > 1:
    advice.insert(0, f"config.runtime.population below {len(members)}")
  what = f" (asked for {asked[1]})" if asked else ""
  return f"out of memory{what} on {jax.devices()[0].device_kind}; what helps: {', '.join(advice)}"


class _Loop:
  """Drives members of one shape, all at one step, to their end."""

  def __init__(self, members: Sequence[Member], stop: Stop):
    self.members, self.stop = members, stop
    c = members[0].config
    self.num_steps, self.runtime = c.train.num_steps, c.runtime
    self.configs = [m.config for m in members]
    self.task, self.engine = programs.make(self.configs)
    last = AtSteps((self.num_steps,))
    self.evaluating = AnyOf((AtSteps((0,)), LogSpaced(c.eval.first_step, c.eval.per_doubling), last))
    self.saving = AnyOf((EveryN(c.runtime.checkpoint_every), last))
    asking = (last, EveryN(c.eval.few_shot_every)) if c.eval.few_shot_every else (last,)
    self.asking = AnyOf(asking if c.eval.few_shot else ())
    self.stop_at = min(c.runtime.stop_at or self.num_steps, self.num_steps)
    stopping = AtSteps((self.stop_at,))
    self.any_due = AnyOf((EveryN(c.runtime.log_every), self.evaluating, self.asking, self.saving, stopping))
    # Dispatched, not yet read: (steps done before, number of steps, metrics on the device).
    self.in_flight: collections.deque[tuple[int, int, step.Metrics]] = collections.deque()

  def go(self, done: int, on_first_step: Callable[[], None]) -> bool:
    """Trains after `done` steps; returns whether it did, which it does not where a checkpoint is damaged."""
    first = done
    s = self._restore(done)
    if s is None:
      return False
    self._write_status(done)
    while True:
      stopping = self._agree(self.stop.is_set())
      if not self.alive:
        break
      if done and self.saving(done):
        self._save(s, done)
      if done == self.num_steps:
        break
      if done >= self.stop_at:
        self._save_and_end(s, done, rundir.PAUSED, Paused(f"paused at step {done} of {self.num_steps}"))
        return True
      if stopping:
        message = f"stopped and saved at step {done} of {self.num_steps}"
        self._save_and_end(s, done, rundir.STOPPED, Stopped(self.stop.signal_number, message))
        return True
      # The first step goes alone and before any evaluation: whether it works shows at once.
      n = 1 if done == first else self._until_due(done)
      s, metrics = self.engine.run(s, done, n)
      self.in_flight.append((done, n, metrics))
      done += n
      if done - n == first:
        jax.block_until_ready(metrics)
        on_first_step()
        if first == 0:
          self._log_scores(self.engine.start(self.configs), 0)
      # The dispatch before is read while this one computes, unless something is due at its end.
      self._drain(keep=0 if self.evaluating(done) or self.asking(done) or self.saving(done) else 1)
      if self.evaluating(done):
        self._log_scores(s, done)
      if self.asking(done):
        self._log_few_shot(s, done)
      self._write_status(done)
    self._end(done, rundir.DONE)
    return True

  @property
  def alive(self) -> list[Member]:
    return [member for member in self.members if member.error is None]

  def _agree(self, stop: bool = False) -> bool:
    """Ends what any process has noticed not to go on; returns whether any says stop, in all of them alike."""
    noticed = [member.noticed is not None for member in self.members]
    *ends, stopping = hosts.any_of([*noticed, stop])
    for member, ended in zip(self.members, ends, strict=True):
      if ended and member.error is None:
        member.end()
    return stopping

  def _restore(self, at: int) -> state.TrainState | None:
    """Returns the state after `at` steps; None where a run has failed, or its checkpoint is damaged."""
    for member in self.members:
      member.attempt(member.begin, self.task)
    if not self._all_go_on():
      return None
    s = self.engine.start(self.configs)
    if at == 0:
      for member in self.members:
        member.attempt(member.journal.restart)
    else:
      like = self.engine.like(s)
      restored: list[state.TrainState | None] = [None] * len(self.members)
      for i, member in enumerate(self.members):
        member.attempt(lambda i=i, member=member: restored.__setitem__(i, member.restore(like)))
      if not self._all_go_on() or any(one is None for one in restored):
        return None
      s = self.engine.join(restored)
    for member in self.members:
      member.attempt(member.settle)
    return s if self._all_go_on() else None

  def _all_go_on(self) -> bool:
    self._agree()
    return len(self.alive) == len(self.members)

  def _save(self, s: state.TrainState, done: int) -> None:
    self._drain(keep=0)
    for member in self.alive:
      member.attempt(member.check)
    self._agree()
    for member, one in zip(self.members, self.engine.split(s), strict=True):
      if member.error is None and member.saved_step != done:
        member.attempt(member.save, one, done)

  def _save_and_end(self, s: state.TrainState, done: int, to: str, why: Exception) -> None:
    self._drain(keep=0)
    if done:
      self._save(s, done)
    self._end(done, to)
    for member in self.alive:
      member.error = why

  def _end(self, done: int, to: str) -> None:
    for member in self.alive:
      member.attempt(member.checkpoints.wait)
    self._agree()
    for member in self.alive:
      member.attempt(member.finish, done, to)
    self._agree()

  def _until_due(self, done: int) -> int:
    """Returns how many steps to dispatch: up to the next step at which something is due."""
    n = 1
    while n < self.runtime.steps_per_dispatch and not self.any_due(done + n):
      n += 1
    return n

  def _drain(self, keep: int) -> None:
    """Reads all but the last `keep` dispatches; a member with a number that is none ends there."""
    while len(self.in_flight) > keep:
      before, n, metrics = self.in_flight.popleft()
      rows = self.engine.by_member({name: metrics[name] for name in ("loss", "grad_norm")})
      for i, member in enumerate(self.members):
        if member.error is None:
          losses, norms = (rows[name][i, :n].tolist() for name in ("loss", "grad_norm"))
          member.attempt(member.journal.read, before, losses, norms)

  def _log_scores(self, s: state.TrainState, at: int) -> None:
    if self.alive:
      evaluate = programs.evaluator(self.configs)
      for member, scores in zip(self.members, evaluate(s), strict=True):
        if member.error is None:
          member.attempt(member.journal.log_scores, at, scores)

  def _log_few_shot(self, s: state.TrainState, at: int) -> None:
    from lm_jax import few_shot  # its libraries take their time to import

    for member, one in zip(self.members, self.engine.split(s), strict=True):
      if member.error is None:
        params = hosts.whole(one.params)
        scores = few_shot.evaluate_params(member.config, self.task, params)
        member.attempt(member.journal.log_scores, at, scores)

  def _write_status(self, done: int) -> None:
    for member in self.alive:
      member.attempt(member.journal.write_status, done)
