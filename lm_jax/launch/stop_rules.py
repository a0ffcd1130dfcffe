"""When a sweep has trained enough: budgets in FLOPs and hours, and halving of learning rates.

What was left out, and why, is written into sweep.json; nothing is lost by it, since the same sweep without
the rule goes on from there.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_jax import lease, rundir, scaling
from lm_jax.launch import halving
from lm_jax.launch.base import DirectoryOf, Enough, Outcome
from lm_jax.rundir import RunDir
from lm_jax.sweep import Cell

# What became of a cell that a budget has no room for: no state of the run, and never written into it.
LEFT_OUT = "left out"
# Sums of floats in another order differ in the last bits.
_SAME = 1 + 1e-9


@dataclasses.dataclass(frozen=True)
class StopRules:
  """What is to end a sweep before all of it is trained.

  Attributes:
    max_flops: of training, of all cells, those spent before too. A cell (with halving: a group) that does not
      fit into what is left is not begun.
    max_hours: that this launch may take; then what runs is saved and stopped.
    halving: whether the worse half of the learning rates ends early, see lm_jax.launch.halving.
  """

  max_flops: float | None = None
  max_hours: float | None = None
  halving: bool = False

  def __bool__(self) -> bool:
    return self != NO_RULES


NO_RULES = StopRules()


class Following:
  """One launch under stop rules, stage by stage.

  Args of the constructor:
    cells: all of the sweep.
    to_run: those that may be trained, in this order.
    ended: outcomes that stand already.
  """

  def __init__(
    self, rules: StopRules, cells: Sequence[Cell], to_run: Sequence[Cell], ended: Sequence[Outcome],
    directory_of: DirectoryOf,
  ):  # fmt: skip
    self._rules, self._cells, self._directory_of = rules, cells, directory_of
    self._deadline = None if rules.max_hours is None else time.monotonic() + 3600 * rules.max_hours
    self._order = {cell.cell_id: i for i, cell in enumerate(to_run)}
    self._ended = {outcome.cell.cell_id: outcome for outcome in ended}
    self._sent: dict[str, int | None] = {}
    self._groups = self._grouped(to_run)
    self._looks: dict[halving.Group, halving.Look] = {}
    self._begun: set[halving.Group] = set()  # what the budget in FLOPs had room for
    self._left_out: set[str] = set()  # ids of cells, and what it had not
    self._is_over = False

  def _grouped(self, to_run: Sequence[Cell]) -> list[halving.Group]:
    """Returns what is begun or not as a whole, in the order in which it is trained."""
    if not self._rules.halving:
      return [halving.Group((cell,)) for cell in to_run]
    found = halving.groups(self._cells)
    places = [min((self._order[c.cell_id] for c in g.cells if c.cell_id in self._order), default=None)
              for g in found]  # fmt: skip
    there = [(place, group) for place, group in zip(places, found, strict=True) if place is not None]
    return [group for _, group in sorted(there, key=lambda pair: pair[0])]

  # --- stages -----------------------------------------------------------------------------------

  def next(self) -> list[Cell]:
    """Returns what is to be trained now, as a launcher is to be given it; nothing at the end."""
    if self._is_over:
      return []
    stage: list[tuple[Cell, int | None]] = []
    for group in self._within_budget():
      look = self._looks[group] = group.look(self._directory_of, self._ended)
      self._prune(look)
      stage += look.next
    # What came back without having come further is not sent again and again.
    stage = [
      (cell, step) for cell, step in stage
      if cell.cell_id in self._order and self._sent.get(cell.cell_id, 0) != step
    ]  # fmt: skip
    self._sent |= {cell.cell_id: step for cell, step in stage}
    stage.sort(key=lambda pair: self._order[pair[0].cell_id])
    return [halving.stopping_at(cell, step) for cell, step in stage]

  def _within_budget(self) -> list[halving.Group]:
    if self._rules.max_flops is None:
      return self._groups
    left = self._rules.max_flops - self._spent(self._cells)
    chosen, self._left_out = [], set()
    for group in self._groups:
      needed = group.most_flops(self._step)
      if group in self._begun or needed <= left * _SAME:
        chosen.append(group)
        left -= needed
      else:
        self._left_out.update(cell.cell_id for cell in group.cells)
    self._begun.update(chosen)
    return chosen

  def _spent(self, cells: Sequence[Cell]) -> float:
    """Returns the FLOPs that cells have come to; what was trained twice, after a death, counts once."""
    return sum(scaling.train_flops(cell.config, self._step(cell)) for cell in cells)

  def _step(self, cell: Cell) -> int:
    return halving.step_of(Path(self._directory_of(cell)))

  def _prune(self, look: halving.Look) -> None:
    """Writes into the runs that do not go on why they do not."""
    for cell, reason in look.pruned:
      run = RunDir(Path(self._directory_of(cell)))
      with contextlib.suppress(lease.Busy, OSError), run.claim():
        status = run.status() or {}
        # One that says it is running is dead, as this process holds it.
        if status.get("state") in (rundir.PAUSED, rundir.STOPPED, rundir.RUNNING):
          known = {name: status.get(name) for name in ("step", "num_steps", "loss", "wall_s")}
          run.write_status(rundir.PRUNED, **known, error=reason)

  def take(self, outcomes: Sequence[Outcome]) -> None:
    """Takes in what became of a stage."""
    self._ended |= {o.cell.cell_id: o for o in outcomes if o.state != rundir.PAUSED}

  def watch(self, show: Callable[[], None]) -> Callable[[], None]:
    """Returns what a launcher calls while cells run; it ends the launch once, with Enough."""

    def look() -> None:
      show()
      if self._deadline is not None and time.monotonic() >= self._deadline and not self._is_over:
        self._is_over = True
        raise Enough(f"--max_hours={self._rules.max_hours:g} is over")

    return look

  # --- what is left out -------------------------------------------------------------------------

  def outcomes(self) -> list[Outcome]:
    """Returns what became of each cell that was to be run."""
    reasons = {cell.cell_id: reason for look in self._looks.values() for cell, reason in look.pruned}
    cells = sorted((cell for cell in self._cells if cell.cell_id in self._order), key=self._place)
    return [self._outcome(cell, reasons.get(cell.cell_id)) for cell in cells]

  def _outcome(self, cell: Cell, pruned: str | None) -> Outcome:
    ended = self._ended.get(cell.cell_id)
    if ended and not (self._is_over and ended.state == rundir.STOPPED):
      return ended._replace(cell=cell)
    if RunDir(Path(self._directory_of(cell))).is_done():
      return Outcome(cell, rundir.DONE)
    if pruned:
      return Outcome(cell, rundir.PRUNED, pruned)
    if cell.cell_id in self._left_out:
      return Outcome(cell, LEFT_OUT, f"--max_flops={self._rules.max_flops:g} has no room for it")
    if self._is_over:
      return Outcome(cell, LEFT_OUT, f"--max_hours={self._rules.max_hours:g} is over")
    if cell.config.runtime.stop_at:
      return Outcome(cell, rundir.PAUSED, "config.runtime.stop_at; without that it goes on")
    if self._rules.halving:
      return Outcome(cell, rundir.STOPPED, "halving: it waits for others of its size, which were stopped")
    return Outcome(cell, rundir.STOPPED, "its launcher has no word of it; the same command goes on")

  def _place(self, cell: Cell) -> int:
    return self._order[cell.cell_id]

  def record(self) -> dict[str, Any] | None:
    """Returns what the rules have come to, for sweep.json; None where there are none."""
    if not self._rules:
      return None
    outcomes = self.outcomes()
    groups = [halving.described(group, look) for group, look in self._looks.items()]
    return {
      **{name: value for name, value in dataclasses.asdict(self._rules).items() if value},
      **({"halving": [group for group in groups if len(group["learning_rates"]) > 1]}
         if self._rules.halving else {}),
      "flops_spent": self._spent(self._cells),
      "flops": sum(scaling.train_flops(cell.config) for cell in self._cells),
      "cells": len(self._cells),
      "pruned": [o.cell.cell_id for o in outcomes if o.state == rundir.PRUNED],
      "left_out": [o.cell.cell_id for o in outcomes if o.state == LEFT_OUT],
    }  # fmt: skip
