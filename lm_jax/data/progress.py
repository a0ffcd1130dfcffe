"""How far a long preparation is, on stderr: a bar with the time left, or lines where there is no terminal."""

import contextlib
import sys
import threading
import time

from rich.console import Console
from rich.progress import (
  BarColumn,
  DownloadColumn,
  MofNCompleteColumn,
  ProgressColumn,
  TextColumn,
  TimeRemainingColumn,
  TransferSpeedColumn,
)
from rich.progress import Progress as Bar

BYTES = "MB"
_SHOWN_AFTER_S = 1.0
_PLAIN_EVERY_S = 10.0


class Progress(contextlib.AbstractContextManager):
  """Counts bytes or others of `total`. Nothing is shown of what is done within a second, nor if `quiet`."""

  def __init__(self, what: str, total: int, *, quiet: bool, unit: str = BYTES):
    """Takes what is done ("reading"), and how much of it there is, in units of that name ("prompts")."""
    self._what, self._total, self._done, self._unit = what, total, 0, unit
    self._quiet = quiet
    self._console = Console(stderr=True)
    self._started = time.monotonic()
    is_animated = self._console.is_terminal
    self._next_shown = self._started + (_SHOWN_AFTER_S if is_animated else _PLAIN_EVERY_S)
    self._bar = self._make_bar() if is_animated else None

  def _make_bar(self) -> Bar:
    counts: tuple[ProgressColumn, ...] = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    if self._unit != BYTES:
      counts = (MofNCompleteColumn(), TextColumn(self._unit))
    left = (TimeRemainingColumn(), TextColumn("left"))
    bar = Bar(
      TextColumn("{task.description}"), BarColumn(), *counts, *left, console=self._console, transient=True
    )  # fmt: skip
    bar.add_task(self._what, total=self._total)
    return bar

  def __enter__(self) -> "Progress":
    # Before the first of them is done, programs may be compiled: a bar that stands is better than nothing.
    self._timer = threading.Timer(_SHOWN_AFTER_S, self._bar.start) if self._bar and not self._quiet else None
    if self._timer:
      self._timer.daemon = True
      self._timer.start()
    return self

  def __exit__(self, *_) -> None:
    if self._timer:
      self._timer.cancel()
      self._timer.join()
    if self._bar:
      self._bar.stop()

  def advance(self, amount: int) -> None:
    self._done += amount
    now = time.monotonic()
    if self._quiet or now < self._next_shown:
      return
    if self._bar:
      self._bar.start()
      self._bar.update(self._bar.task_ids[0], completed=self._done)
      self._next_shown = now + 0.1
    else:
      self._next_shown = now + _PLAIN_EVERY_S
      print(self._line(now - self._started), file=sys.stderr, flush=True)

  def _line(self, elapsed_s: float) -> str:
    left_s = elapsed_s * max(self._total - self._done, 0) / self._done
    size = 1e6 if self._unit == BYTES else 1
    done = f"{self._done / size:.0f} of {self._total / size:.0f} {self._unit}"
    return f"{self._what}: {done}, about {left_s:.0f} s left"
