"""Progress of a sweep on the terminal: a live table, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.live import Live

from lm_jax import scaling
from lm_jax.launch.status_table import StatusTable, notes, status_line, summary
from lm_jax.launch.status_table import duration as duration
from lm_jax.launch.statuses import STATES, Looker, Row, state
from lm_jax.rundir import DONE, FAILED, PRUNED, RUNNING, STOPPED
from lm_jax.sweep import Cell

_LOOK_EVERY_S, _PLAIN_EVERY_S = 0.5, 10.0
_ERROR_LINES = 3


class Lines:
  """Prints a line for each cell whose state is new, and now and then one for each that runs."""

  def __init__(self, stream: str, *, told: Sequence[str] = STATES, periodic: bool = True):
    # By name: while a live table is shown, sys.stderr is another, which prints above it.
    self._stream, self._told, self._periodic = stream, told, periodic
    self._seen: dict[str, str] = {}
    self._next = 0.0

  def show(self, rows: Sequence[Row]) -> None:
    out = getattr(sys, self._stream)
    due = self._periodic and time.monotonic() >= self._next
    if due:
      self._next = time.monotonic() + _PLAIN_EVERY_S
    for row in rows:
      is_new = state(row) in self._told and self._seen.get(row["cell_id"]) != state(row)
      if is_new or (due and state(row) == RUNNING):
        print_row(row, out)
      self._seen[row["cell_id"]] = state(row)
    if due and any(state(row) == RUNNING for row in rows):
      print(f"  {summary(rows)}", file=out)
    out.flush()

  def skip(self, rows: Sequence[Row]) -> None:
    """Takes states as known."""
    self._seen |= {row["cell_id"]: state(row) for row in rows}


def print_row(row: Row, out: IO[str]) -> None:
  """Prints a cell's line and the first lines of what went wrong."""
  found = notes(row)
  more = [f"({len(found) - _ERROR_LINES} lines more)"] if len(found) > _ERROR_LINES else []
  print("\n    ".join([status_line(row), *found[:_ERROR_LINES], *more]), file=out)


# --- while a launcher works -----------------------------------------------------------------------


class Progress:
  """Shows each cell's state, step, loss, tokens/s and time left, and the whole's; logs go to stderr."""

  def __init__(self, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], *, quiet: bool = False):
    self._cells = [cell.summary() | {"seconds": scaling.seconds(cell.config)} for cell in cells]
    self._directories = [directory_of(cell) for cell in cells]
    self._study = cells[0].config.study
    self._quiet = quiet
    self._live = live(Console(stderr=True), is_wanted=not quiet, transient=True)
    self._lines = Lines("stderr", told=(DONE, FAILED, STOPPED, PRUNED), periodic=self._live is None)
    self._looker = Looker()
    self._last: dict[Path, dict[str, Any] | None] = {}
    # What was written before this launch, by what tells it apart: clocks of other machines may be wrong.
    self._before: dict[Path, Any] = {}
    self._next, self._is_first = 0.0, True
    if not quiet:
      for path in self._directories:
        self._status(path)

  def __enter__(self) -> "Progress":
    if self._live:
      self._live.start()
    return self

  def __exit__(self, *_) -> None:
    self._show()
    if self._live:
      self._live.stop()

  def update(self) -> None:
    if time.monotonic() >= self._next:
      self._show()
      self._next = time.monotonic() + _LOOK_EVERY_S

  def _show(self) -> None:
    if self._quiet:
      return
    rows = [
      cell | {"status": self._status(path)} for cell, path in zip(self._cells, self._directories, strict=True)
    ]
    if self._live:
      self._live.update(StatusTable(self._study, rows), refresh=True)
    if self._is_first:
      self._is_first = False
      self._lines.skip([row for row in rows if state(row) == DONE])
    self._lines.show(rows)

  def _status(self, directory: Path) -> dict[str, Any] | None:
    """Returns a cell's status; how it stood before this launch no longer matters, unless it is done."""
    try:
      status = self._looker.status(directory)
    except OSError:  # a shared file system that is away for now must not end what trains
      return self._last.get(directory)
    if status and "unreadable" in status:  # the run writes another
      status = None
    version = status and [status.get(name) for name in ("state", "time", "pid", "host")]
    is_old = self._before.setdefault(directory, version) == version
    if is_old and status and status["state"] not in (DONE, RUNNING):
      status = None
    self._last[directory] = status
    return status


def live(console: Console, *, is_wanted: bool = True, transient: bool = False) -> Live | None:
  """Returns what shows a table in place; None where there is no terminal."""
  if not (console.is_terminal and is_wanted):
    return None
  return Live(console=console, auto_refresh=False, transient=transient)
