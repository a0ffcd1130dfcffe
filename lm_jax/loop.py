"""One run from start to end: restore, step, log, evaluate, save.

A run killed at any moment and started again ends with the same bits as one never stopped: batches are
functions of (seed, step), dispatches of any length run one compiled loop body, and a checkpoint knows
how many bytes of the records belong to it. (On one kind of device with one number of cores: matrix
products split over threads round differently in the last bit. Workers of a sweep have one core each.)
"""

import collections
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import evaluate, optimizer, rundir, scaling, state, step, tasks
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import Config, cell_id
from lm_jax.records import Record, append, provenance, truncate
from lm_jax.rundir import RunDir
from lm_jax.schedule import AnyOf, AtSteps, EveryN, LogSpaced

_STATUS_EVERY_S = 0.5


class Diverged(Exception):
  """The loss, or its gradient, is no longer a number."""

  def __init__(self, message: str, step: int):
    super().__init__(message)
    self.step = step


class Stopped(Exception):
  """The run was asked to stop; it is saved and can go on."""

  def __init__(self, signal_number: int, message: str):
    super().__init__(message)
    self.signal_number = signal_number


class Stop(threading.Event):
  """Asks a run to save and stop; remembers which signal asked, SIGTERM unless told."""

  signal_number = signal.SIGTERM


def train(config: Config, directory: Path, *, stop: Stop | None = None) -> None:
  """Runs, or takes up, the run of a resolved config in `directory`.

  Args:
    stop: when set, the run saves at the next opportunity and raises Stopped.

  Raises:
    Busy: another process is at work on it.
    Diverged: NaN or infinity in the loss.
  """
  run = RunDir(Path(directory))
  run.check(config)
  with run.claim():
    run.write_config(config)
    status = run.status()
    if status and status["state"] == rundir.DONE:
      return
    checkpoints = Checkpoints(run.checkpoints, config.runtime.keep_checkpoints)
    try:
      _Loop(config, run, checkpoints, stop or Stop()).go()
    finally:
      checkpoints.close()


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


class _Loop:
  def __init__(self, config: Config, run: RunDir, checkpoints: Checkpoints, stop: Stop):
    c = config
    self.config, self.run, self.checkpoints, self.stop = c, run, checkpoints, stop
    self.task = tasks.make_task(c.task)
    run.write_task(_task_facts(self.task))
    last = AtSteps((c.train.num_steps,))
    self.logging = AnyOf((EveryN(c.runtime.log_every), last))
    self.evaluating = AnyOf((AtSteps((0,)), LogSpaced(c.eval.first_step, c.eval.per_doubling), last))
    self.saving = AnyOf((EveryN(c.runtime.checkpoint_every), last))
    self.any_due = AnyOf((self.logging, self.evaluating, self.saving))
    # Dispatched, not yet read: (steps done before, number of steps, metrics on the device).
    self.in_flight: collections.deque[tuple[int, int, step.Metrics]] = collections.deque()
    self.unlogged: list[float] = []  # losses since the last row of them
    self.loss: float | None = None
    self.saved_step: int | None = None
    self.wall_s, self.started = 0.0, time.monotonic()
    self.speed = _Speed(c)

  def go(self) -> None:
    run_steps = jax.jit(step.make_run_steps(self.config, self.task), donate_argnums=0)
    evaluate_params = evaluate.make_evaluator(self.config, self.task)
    s, done = self._restore()
    self._write_status(done)
    num_steps = self.config.train.num_steps
    try:
      while True:
        if done and self.saving(done) and self.saved_step != done:
          self._save(s, done)
        if done == num_steps:
          break
        if self.stop.is_set():
          self._save_and_stop(s, done)
        if done == 0:
          self._log_scores(evaluate_params(s.params), 0)
        n = self._until_due(done)
        s, metrics = run_steps(s, self.task.arrays, jnp.int32(n))
        self.in_flight.append((done, n, metrics))
        done += n
        # The dispatch before is read while this one computes, unless something is due at its end.
        self._drain(keep=0 if self.evaluating(done) or self.saving(done) else 1)
        if self.evaluating(done):
          self._log_scores(evaluate_params(s.params), done)
        self._write_status(done)
    except Diverged as error:
      message = f"{error}; last good checkpoint: {self._last_good(error.step)}"
      self.run.write_status(rundir.FAILED, step=error.step, num_steps=num_steps, error=message)
      raise Diverged(message, error.step) from None
    self.checkpoints.wait()
    self._write_status(done, rundir.DONE)

  # --- restore and save -----------------------------------------------------------------------

  def _restore(self) -> tuple[state.TrainState, int]:
    key = jax.random.key_data(jax.random.key(self.config.seed))
    init = jax.jit(state.init_from_key, static_argnums=0)
    s = init(self.config, key, optimizer.hyperparams(self.config))
    latest = self.checkpoints.latest_step()
    if latest is None:
      truncate(self.run.records, 0)
      return s, 0
    s, position = self.checkpoints.restore(latest, s)
    truncate(self.run.records, position["records_bytes"])
    self.unlogged, self.wall_s = position["unlogged_losses"], position["wall_s"]
    self.saved_step = latest
    return s, latest

  def _save(self, s: state.TrainState, done: int) -> None:
    self._drain(keep=0)
    records_bytes = self.run.records.stat().st_size if self.run.records.exists() else 0
    # A copy of the losses: they are written in the background, when the next ones have come.
    self.checkpoints.save(done, s, {
      "step": done, "records_bytes": records_bytes,
      "unlogged_losses": list(self.unlogged), "wall_s": self._wall(),
    })  # fmt: skip
    self.saved_step = done

  def _save_and_stop(self, s: state.TrainState, done: int) -> None:
    self._drain(keep=0)
    if done and self.saved_step != done:
      self._save(s, done)
    self.checkpoints.wait()
    self._write_status(done, rundir.STOPPED)
    raise Stopped(
      self.stop.signal_number, f"stopped and saved at step {done} of {self.config.train.num_steps}"
    )

  def _last_good(self, diverged: int) -> str:
    self.checkpoints.wait()
    # Loss and gradient of a step are of the parameters before it: those after `diverged` - 1 are bad already.
    good = [step for step in self.checkpoints.all_steps() if step < diverged - 1]
    return f"step {max(good)} in {self.run.checkpoints}" if good else "none"

  # --- steps ----------------------------------------------------------------------------------

  def _until_due(self, done: int) -> int:
    """Returns how many steps to dispatch: up to the next step at which something is due."""
    n = 1
    while n < self.config.runtime.steps_per_dispatch and not self.any_due(done + n):
      n += 1
    return n

  def _drain(self, keep: int) -> None:
    """Reads all but the last `keep` dispatches; raises Diverged at the first number that is none."""
    while len(self.in_flight) > keep:
      before, n, metrics = self.in_flight.popleft()
      losses, norms = (np.asarray(metrics[name])[:n].tolist() for name in ("loss", "grad_norm"))
      self.speed.read(before + n)
      for at, (loss, norm) in enumerate(zip(losses, norms, strict=True), before + 1):
        # A gradient that is no number would only show in the next loss, and there may be none.
        for name, value in (("loss", loss), ("gradient norm", norm)):
          if not math.isfinite(value):
            raise Diverged(f"{name} is {value} at step {at}", at)
        self.unlogged.append(loss)
        if self.logging(at):
          self._log_loss(at)
      self.loss = losses[-1]

  # --- records --------------------------------------------------------------------------------

  def _log_loss(self, at: int) -> None:
    mean = math.fsum(self.unlogged) / len(self.unlogged)
    self.unlogged = []
    append(self.run.records, [self._record(at, "train", metric="loss", value=mean)])

  def _log_scores(self, scores: list[evaluate.Score], at: int) -> None:
    append(self.run.records, [self._record(at, "test", **vars(score)) for score in scores])

  def _record(self, at: int, split: str, **fields: Any) -> Record:
    c, count = self.config, scaling.count_params(self.config.model)
    share = at / c.train.num_steps
    row = {"n_shots": None, "prompt_id": None, "stderr": None, "n_items": None, "chance": None}
    row |= provenance() | fields
    return Record(
      study=c.study, cell_id=cell_id(c), family=c.family, objective="causal_lm",
      params_total=count.total, params_nonembedding=count.nonembedding,
      flops_6nd=scaling.flops_6nd(c) * share, flops_exact=scaling.train_flops(c) * share,
      tokens=scaling.tokens_per_step(c) * at, step=at, seed=c.seed, task=c.task.name, split=split,
      wall_s=self._wall(), device=jax.devices()[0].device_kind, **row,
    )  # fmt: skip

  # --- progress -------------------------------------------------------------------------------

  def _wall(self) -> float:
    return round(self.wall_s + time.monotonic() - self.started, 3)

  def _write_status(self, done: int, to: str = rundir.RUNNING) -> None:
    if to == rundir.RUNNING and not self.speed.status_due():
      return
    self.run.write_status(
      to, step=done, num_steps=self.config.train.num_steps, loss=self.loss, wall_s=self._wall(),
      tokens_per_s=self.speed.tokens_per_s, eta_s=self.speed.time_left(done), error=None,
    )  # fmt: skip


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
