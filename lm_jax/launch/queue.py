"""The cells of a launch that have no outcome yet, and the judgment of what comes back.

A cell whose process or machine died goes on from its checkpoint, on another; one that dies again and again
without saving another one does not. A pack that does not fit into memory is tried in parts. What another
launch trains is waited for, and taken over once that is dead. Everything else is final.
"""

import collections
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lm_jax import failures, lease, rundir
from lm_jax.launch.base import DirectoryOf, Outcome
from lm_jax.launch.packing import Pack
from lm_jax.rundir import RunDir
from lm_jax.sweep import Cell

# Deaths of its process that a cell survives without having come further; from the second it goes alone.
MOST_DEATHS = 5
# How often a cell that another process trains is looked at again.
_LOOK_EVERY_S = 1.0

Reply = Sequence  # [state, error, kind] of a cell, as JSON carries it


class Queue:
  """Thread-safe.

  Attributes:
    outcomes: of the cells that have one.
  """

  def __init__(self, packs: Sequence[Pack], directory_of: DirectoryOf):
    self._waiting = collections.deque(packs)
    self._directory_of = directory_of
    self._total = sum(map(len, packs))
    self._busy: dict[str, Cell] = {}  # trained by others
    self._told: set[str] = set()
    self._deaths: collections.Counter[str] = collections.Counter()
    self._furthest: dict[str, int] = {}  # steps saved at a death
    self._look_at = 0.0
    self._lock = threading.RLock()
    self.outcomes: list[Outcome] = []

  @property
  def is_settled(self) -> bool:
    return len(self.outcomes) == self._total

  def take(self) -> Pack | None:
    """Returns what is to run next, None where nothing is to be started now."""
    with self._lock:
      return self._waiting.popleft() if self._waiting else None

  def next(self) -> Pack | None:
    """Returns what `take` would, and leaves it."""
    with self._lock:
      return self._waiting[0] if self._waiting else None

  # --- what comes back --------------------------------------------------------------------------

  def answered(self, pack: Pack, replies: Sequence[Reply]) -> None:
    """Takes in what a process says of the pack it was given."""
    with self._lock:
      for cell, (state, error, kind) in zip(pack, replies, strict=True):
        if state == rundir.BUSY:
          self._wait_for(cell, error)
        elif kind == failures.OUT_OF_MEMORY and len(pack) > 1:
          _tell(f"out of memory with {len(pack)} cells in one program; alone: {_named(cell)}")
          self._waiting.append((cell,))
        else:
          self.outcomes.append(Outcome(cell, state, error, kind))

  def died(self, pack: Pack, how: str) -> None:
    """Takes in that the process of a pack ended without a word, or its machine did."""
    with self._lock:
      left = []
      for cell in pack:
        if self._is_done(cell):
          self.outcomes.append(Outcome(cell, rundir.DONE))
        elif self._count_death(cell) > MOST_DEATHS:
          error = f"{how}; that was {self._deaths[cell.cell_id]} times without a checkpoint further"
          self.failed((cell,), error, failures.DIED)
        else:
          left.append(cell)
      if left:
        _tell(f"{how}; from the last checkpoint: {', '.join(map(_named, left))}")
      # One of them may be what kills: apart, it takes the others with it no longer.
      apart = any(self._deaths[cell.cell_id] > 1 for cell in left)
      self._waiting.extend([(cell,) for cell in left] if apart else [tuple(left)] if left else [])

  def failed(self, pack: Pack, error: str, kind: str) -> None:
    """Writes down, for cells whose own processes did not, why they failed."""
    with self._lock:
      for cell in pack:
        run = self._run(cell)
        try:
          if run.is_done():
            self.outcomes.append(Outcome(cell, rundir.DONE))
            continue
          run.path.mkdir(parents=True, exist_ok=True)
          with run.sending():
            run.write_failure(error, kind)
        except (OSError, lease.Busy) as why:
          error = f"{error} ({why})"
        self.outcomes.append(Outcome(cell, rundir.FAILED, error, kind))

  def broken(self, pack: Pack, error: Exception) -> None:
    """Takes in an error of whoever handles the packs: the cells that have no outcome have failed by it."""
    with self._lock:
      known = {outcome.cell.cell_id for outcome in self.outcomes}
      left = tuple(cell for cell in pack if cell.cell_id not in known and cell.cell_id not in self._busy)
      self.failed(left, f"{type(error).__name__}: {error}", failures.kind(error))

  def put_back(self, pack: Pack) -> None:
    """Takes in that a pack was not begun; it comes next."""
    with self._lock:
      self._waiting.appendleft(pack)

  def stopped(self, pack: Pack, why: str | None = None) -> None:
    with self._lock:
      self.outcomes += [Outcome(cell, rundir.STOPPED, why) for cell in pack]

  def _count_death(self, cell: Cell) -> int:
    # What was not saved is trained again, to the same end.
    step = self._run(cell).saved_step()
    if step > self._furthest.get(cell.cell_id, 0):
      self._deaths[cell.cell_id], self._furthest[cell.cell_id] = 0, step
    self._deaths[cell.cell_id] += 1
    return self._deaths[cell.cell_id]

  # --- what others train ------------------------------------------------------------------------

  def _wait_for(self, cell: Cell, why: str) -> None:
    self._busy[cell.cell_id] = cell
    if cell.cell_id not in self._told:
      self._told.add(cell.cell_id)
      _tell(f"busy: {_named(cell)}: {why}; waiting for it")

  def look_at_busy(self) -> None:
    """Looks, once a second at most, whether what others train is done, or free to be taken over.

    Always by this process: that a machine is silent is known only to who listened to it all the time.
    """
    if time.monotonic() < self._look_at:
      return
    self._look_at = time.monotonic() + _LOOK_EVERY_S
    with self._lock:
      busy = list(self._busy.values())
    for cell in busy:  # each takes its time, and the lock is others' too
      if not (is_done := self._run(cell).is_done()) and not self._is_free(cell):
        continue
      # Its end may have come after the first look.
      status = self._run(cell).status() or {}
      with self._lock:
        if is_done or status.get("state") == rundir.DONE:
          self.outcomes.append(Outcome(cell, rundir.DONE))
        elif status.get("state") == rundir.FAILED and status.get("kind") in failures.CERTAIN:
          self.outcomes.append(Outcome(cell, rundir.FAILED, status["error"], status["kind"]))
        else:
          self._waiting.append((cell,))
        del self._busy[cell.cell_id]

  def _is_done(self, cell: Cell) -> bool:
    run = self._run(cell)
    try:
      run.refresh()
    except OSError:  # a store that is away: whoever goes on meets that too
      return False
    return run.is_done()

  def _is_free(self, cell: Cell) -> bool:
    try:
      with self._run(cell).claim():
        return True
    except lease.Busy:
      return False
    except OSError:  # whoever runs it meets this too, and its outcome tells
      return True

  def _run(self, cell: Cell) -> RunDir:
    return RunDir(Path(self._directory_of(cell)))


def _named(cell: Cell) -> str:
  return f"{cell.cell_id} {cell.label} seed {cell.config.seed}"


def _tell(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
