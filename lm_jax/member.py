"""One run of a loop: its lease, journal and checkpoints, and what ended it.

Where several processes train it, the first one alone holds the lease and writes. What it notices, as that
the run is another's by now or the disk is full, ends the run in all of them at a step that they agree on: one
that left by itself would leave the others in a collective for ever.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import jax

from lm_jax import failures, hosts, state, tasks
from lm_jax.checkpoint import Checkpoints, Damaged
from lm_jax.config import Config
from lm_jax.journal import Diverged, Journal
from lm_jax.lease import Busy, Lost
from lm_jax.rundir import RunDir


class Member:
  """A run that is held by this process, or by the first of its processes.

  Attributes:
    error: why it cannot go on.
    noticed: that by this process, before all processes of the run know; then it is `error`.
  """

  def __init__(self, config: Config, run: RunDir, stack: contextlib.ExitStack):
    self.config, self.run, self._stack = config, run, stack
    self.error: Exception | None = None
    self.noticed: Exception | None = None
    self.is_done = False
    self._check: Callable[[], None] = lambda: None
    self._flush: Callable[[], None] = lambda: None
    try:
      run.refresh()
      run.check(config)
      self.is_done = run.is_done()
      if hosts.is_first() and not self.is_done:
        claim = run.claim()
        stack.callback(claim.release)
        self._check, self._flush = claim.check, claim.flush
        run.check(config)  # what it holds may have come with the claim
        self.is_done = run.is_done()  # it may have been done while this process came to hold it
    except Exception as error:  # of this run alone, and not of others that train with it
      self.error = error
    if hosts.any_process(self.error is not None):
      self.error = self.error or Busy(f"{run.path}: the first process could not take it")
      return
    if hosts.any_process(self.is_done):
      self.is_done = True
      return
    self.saved_step: int | None = None
    self._damages: dict[int, Damaged] = {}  # by the steps of checkpoints that could not be used
    try:
      if hosts.is_first():
        run.write_config(config)
      self.checkpoints = Checkpoints(run.checkpoints, config.runtime.keep_checkpoints)
      stack.callback(self.checkpoints.close)
      self.latest_step = self.checkpoints.latest_step() or 0
    except Exception as error:
      self.noticed = error
    if hosts.any_process(self.noticed is not None):
      self.end()

  @property
  def is_open(self) -> bool:
    return self.error is None and not self.is_done

  def begin(self, task: tasks.Task) -> None:
    self.journal = Journal(self.config, self.run, task, self._check)
    self._stack.callback(self.journal.close)

  def restore(self, like: state.TrainState) -> state.TrainState | None:
    """Returns the state at the latest checkpoint; None if that cannot be used, and another is the latest."""
    try:
      s, position = self.checkpoints.restore(self.latest_step, like)
      self.journal.restore(position)
    except Damaged as damage:
      self._damages[self.latest_step] = damage
      self.latest_step = self.checkpoints.latest_step(before=self.latest_step) or 0
      return None
    self.saved_step = self.latest_step
    return s

  def settle(self) -> None:
    """Tells of checkpoints that could not be used, and puts them away: now another is known to do."""
    if self._damages and hosts.is_first():
      self._check()
      self.checkpoints.set_aside(self._damages)
      unused = " and ".join(f"that of step {step} ({damage})" for step, damage in self._damages.items())
      goes_on = (
        f"goes on from the checkpoint of step {self.latest_step}" if self.latest_step else "starts over"
      )
      print(f"lm-jax: {self.run.path}: {goes_on}, and cannot use {unused}", file=sys.stderr, flush=True)
    self._damages = {}

  def check(self) -> None:
    """Raises Lost if the run is another process's by now."""
    self._check()

  def save(self, s: state.TrainState, done: int) -> None:
    """Begins to save, together with all processes of the run; after a `check` of which they all know."""
    self.checkpoints.save(done, s, self.journal.position(done))
    self.saved_step = done

  def finish(self, done: int, to: str) -> None:
    """Writes how the run ended, once others can read all of it."""
    self._flush()
    self.journal.write_status(done, to)
    try:
      self._flush()
    except OSError as error:  # and so it did not end like that
      self.run.write_failure(str(error), failures.kind(error))
      raise

  def attempt(self, act: Callable[..., None], *args: Any) -> None:
    """Does something for this run alone: what ends it does not end the others."""
    try:
      act(*args)
    except Diverged as error:  # which all processes find
      self._diverge(error)
    except jax.errors.JaxRuntimeError:  # as of memory, which they share
      raise
    except Exception as error:
      # The disk too is all members'; with other processes, these have to know first.
      if failures.kind(error) == failures.DISK and jax.process_count() == 1:
        raise
      self.noticed = error

  def end(self) -> None:
    """Ends the run for what one of its processes has noticed."""
    why = self.noticed or Lost(f"{self.run.path}: the first of its processes gave it up")
    if isinstance(why, Lost):  # and nothing is written
      self.error = why
    else:
      self.fail(why)

  def _diverge(self, error: Diverged) -> None:
    message = f"{error}; last good checkpoint: {self._last_good(error.step)}"
    self.fail(Diverged(message, error.step), error.step)

  def fail(self, error: Exception, step: int | None = None) -> None:
    self.error = error
    if hosts.is_first():
      try:
        self._check()
      except Lost as lost:
        self.error = lost
        return
      where = {} if step is None else {"step": step, "num_steps": self.config.train.num_steps}
      with contextlib.suppress(OSError):  # a full disk takes no word of it
        self.run.write_failure(str(error), failures.kind(error), **where)

  def _last_good(self, diverged: int) -> str:
    self.checkpoints.wait()
    # Loss and gradient of a step are of the parameters before it: those after `diverged` - 1 are bad already.
    good = [step for step in self.checkpoints.all_steps() if step < diverged - 1]
    return f"step {max(good)} in {self.run.checkpoints}" if good else "none"
