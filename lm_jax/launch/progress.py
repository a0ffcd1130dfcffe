"""Progress of a sweep on the terminal: a live table, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lm_jax import rundir, scaling
from lm_jax.rundir import RunDir
from lm_jax.sweep import Cell

_PLAIN_EVERY_S = 10.0


def duration(seconds: float | None) -> str:
  """Returns e.g. "45 s", "3 m 20 s", "2 h 05 m"; "?" for None."""
  if seconds is None:
    return "?"
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  if hours:
    return f"{hours} h {m:02d} m"
  return f"{m} m {s:02d} s" if m else f"{s} s"


class Progress:
  """Shows each cell's state, step, loss, tokens/s and time left, and the whole's; logs go to stderr."""

  def __init__(self, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], *, quiet: bool = False):
    self._cells, self._directory_of = cells, directory_of
    self._console = Console(stderr=True)
    self._live = Live(console=self._console, refresh_per_second=4, transient=True)
    self._animated = self._console.is_terminal and not quiet
    self._quiet = quiet
    self._started = time.time()
    self._next_plain = 0.0
    self._seen: dict[str, str] = {}
    self._mark: tuple[float, float] | None = None  # time and work done when progress began

  def __enter__(self) -> "Progress":
    if self._animated:
      self._live.start()
    return self

  def __exit__(self, *_) -> None:
    if self._animated:
      self._live.stop()

  def update(self) -> None:
    rows = [(cell, self._current_status(cell)) for cell in self._cells]
    if self._animated:
      self._live.update(self._table(rows))
    self._print_changes(rows)

  def _current_status(self, cell: Cell) -> dict | None:
    """Returns the cell's status; a "running" from before this launch is of a process that died."""
    status = RunDir(self._directory_of(cell)).status()
    stale = status and status["state"] != rundir.DONE and status["time"] < self._started
    return None if stale else status

  def _print_changes(self, rows: Sequence[tuple[Cell, dict | None]]) -> None:
    """Prints a line for each cell that ended, and now and then one for each that runs."""
    if self._quiet:
      return
    now = time.time()
    periodic = not self._animated and now >= self._next_plain
    if periodic:
      self._next_plain = now + _PLAIN_EVERY_S
    for cell, status in rows:
      state = status["state"] if status else "waiting"
      known = self._seen.get(cell.cell_id)
      ended = state in (rundir.DONE, rundir.FAILED, rundir.STOPPED) and state != known
      first_look_at_done = known is None and state == rundir.DONE
      if (ended and not first_look_at_done) or (periodic and state == rundir.RUNNING):
        print(status_line(cell.summary() | {"status": status}), file=sys.stderr, flush=True)
      self._seen[cell.cell_id] = state
    if periodic and any(status and status["state"] == rundir.RUNNING for _, status in rows):
      print(f"  {self._summary(rows)}", file=sys.stderr, flush=True)

  def _table(self, rows: Sequence[tuple[Cell, dict | None]]) -> Table:
    table = Table(title=self._summary(rows), title_justify="left", box=None, pad_edge=False)
    for name in ("cell", "size", "seed", "state", "step", "loss", "tokens/s", "left"):
      table.add_column(name, justify="left" if name in ("cell", "size", "state") else "right")
    if len(rows) > self._console.height - 4:
      rows = [(cell, s) for cell, s in rows if s and s["state"] != rundir.DONE]
    for cell, status in rows:
      s = status or {}
      table.add_row(
        cell.cell_id, cell.label, str(cell.config.seed), s.get("state", "waiting"),
        f"{s['step']}/{s['num_steps']}" if "step" in s else "", _number(s.get("loss"), ".3f"),
        _number(s.get("tokens_per_s"), ",.0f"),
        duration(s["eta_s"]) if s.get("eta_s") and s["state"] == rundir.RUNNING else "",
      )  # fmt: skip
    return table

  def _summary(self, rows: Sequence[tuple[Cell, dict | None]]) -> str:
    done = sum(1 for _, status in rows if status and status["state"] == rundir.DONE)
    left = self._time_left(rows)
    return f"{done}/{len(rows)} cells done" + (f", about {duration(left)} left" if left is not None else "")

  def _time_left(self, rows: Sequence[tuple[Cell, dict | None]]) -> float | None:
    """Estimates from the speed so far of this launch, in FLOPs weighted as `plan` weights them."""
    expected = [scaling.seconds(cell.config) for cell, _ in rows]
    shares = [
      1.0 if s and s["state"] == rundir.DONE else s["step"] / s["num_steps"] if s and "step" in s else 0.0
      for _, s in rows
    ]
    total = sum(e * share for e, share in zip(expected, shares, strict=True))
    now, left = time.time(), sum(expected) - total
    if self._mark is None or total <= self._mark[1]:
      # Neither work done before this launch nor the first compilation tells anything about its speed.
      self._mark = now, total
    elapsed, done = now - self._mark[0], total - self._mark[1]
    return elapsed * left / done if elapsed > 1 else None


def _number(value: float | None, form: str) -> str:
  return "" if value is None else format(value, form)


def status_line(cell: dict[str, Any]) -> str:
  """Returns one line about a cell: a row of sweep.json with its "status" (None: never started)."""
  status = cell["status"] or {"state": "waiting"}
  parts = [f"{cell['cell_id']} {cell['label']} seed {cell['seed']}: {status['state']}"]
  if "step" in status:
    parts.append(f"step {status['step']}/{status['num_steps']}")
  if status.get("loss") is not None:
    parts.append(f"loss {status['loss']:.3f}")
  if status.get("tokens_per_s"):
    parts.append(f"{status['tokens_per_s']:,.0f} tokens/s")
  if status["state"] == rundir.RUNNING:
    parts.append(f"{duration(status.get('eta_s'))} left")
  if status.get("error"):
    parts.append(status["error"])
  return ", ".join(parts)
