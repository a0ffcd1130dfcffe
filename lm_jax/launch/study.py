"""Runs a sweep in a workdir: what is missing, by a launcher, with progress; and says how it stands.

WORKDIR/sweep.json      the cells and the versions that made them
WORKDIR/cells/<id>/     one run each
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lm_jax import failures, lease, mirror, records, rundir, scaling, trackers
from lm_jax.config import Config
from lm_jax.launch import halving
from lm_jax.launch.base import Launcher, Outcome
from lm_jax.launch.engine import FOLDER
from lm_jax.launch.progress import Lines, Progress, live, print_row
from lm_jax.launch.status_table import StatusTable, summary
from lm_jax.launch.statuses import WAITING, Row, Watcher, state, totals
from lm_jax.launch.statuses import statuses as statuses
from lm_jax.launch.stop_rules import NO_RULES, Following, StopRules
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell, Sweep
from lm_jax.text_config import Text

# How often a watched workdir is looked at, and after how long without a cell that runs or waits it is left.
_LOOK_EVERY_S, _SETTLED_S = 2.0, 20.0


def run(
  sweep: Sweep, workdir: Path, launcher: Launcher, *, order: str = "small_first", retry_failed: bool = False,
  rules: StopRules = NO_RULES, quiet: bool = False,
) -> list[Outcome]:  # fmt: skip
  """Runs the cells that are not done and returns their outcomes; none if nothing was missing.

  What failed and would fail again, as runs are deterministic, has its old outcome.

  Args:
    retry_failed: runs those that failed, all of them, and no others.
    rules: what ends the sweep before all of it is trained.
  """
  workdir = Path(workdir)
  if rules.halving:
    halving.check(sweep.cells)
  write_sweep(sweep, workdir)
  at = functools.partial(cell_dir, workdir)
  missing = [cell for cell in sweep.cells if not is_done(at(cell))]
  failed = [outcome for cell in missing if (outcome := _failure(workdir, cell))]
  hopeless = [] if retry_failed else [outcome for outcome in failed if outcome.kind in failures.CERTAIN]
  left_alone = {outcome.cell.cell_id for outcome in hopeless}
  to_run = [o.cell for o in failed] if retry_failed else [c for c in missing if c.cell_id not in left_alone]
  if not to_run:
    return hopeless
  to_run.sort(key=lambda cell: scaling.train_flops(cell.config), reverse=order == "large_first")
  prepare_data([cell.config for cell in to_run], quiet=quiet)
  following = Following(rules, sweep.cells, to_run, hopeless, at)
  with Progress(sweep.cells, at, quiet=quiet) as progress:
    while stage := following.next():
      if rules:
        _write_again(sweep, workdir, following)
      following.take(launcher(stage, at, following.watch(progress.update)))
      mirror.refresh(workdir)
  _write_again(sweep, workdir, following)
  return [*following.outcomes(), *hopeless]


def _write_again(sweep: Sweep, workdir: Path, following: Following) -> None:
  """Writes sweep.json with what the rules have come to; of a full disk the cells tell."""
  try:
    write_sweep(sweep, workdir, following.record())
  except OSError as error:
    print(f"lm-jax: {workdir / 'sweep.json'} is as it was: {error}", file=sys.stderr, flush=True)


def _failure(workdir: Path, cell: Cell) -> Outcome | None:
  """Returns the outcome of a cell that failed at its last attempt."""
  status = RunDir(cell_dir(workdir, cell)).status()
  if not status or status["state"] != rundir.FAILED:
    return None
  again = "; the same again: --retry_failed" if status.get("kind") in failures.CERTAIN else ""
  return Outcome(cell, rundir.FAILED, f"{status['error']}{again}", status.get("kind"))


def prepare_data(configs: Sequence[Config], *, quiet: bool) -> None:
  """Makes the data of text tasks once, before runs ask for it, where its progress can be seen."""
  trackers.require_installed(dict.fromkeys(name for c in configs for name in c.runtime.trackers))
  for task in dict.fromkeys(c.task for c in configs if isinstance(c.task, Text)):
    from lm_jax.data import preparation  # its libraries take their time to import

    preparation.prepare(task, quiet=quiet)
  for name in dict.fromkeys(name for c in configs for name in c.eval.few_shot):
    from lm_jax import prompt_tasks

    task = prompt_tasks.make(name)  # a misspelt one is said now, not at the last step
    if task.kind == "code":
      raise ConfigError(
        f"config.eval.few_shot: {name!r} runs what is written; only lm-jax evaluate does that"
      )
    if task.kind == "generation" and _is_masked(configs, name):
      raise ConfigError(
        f"config.eval.few_shot: {name!r} is answered in writing, and a masked LM writes nothing"
      )


def _is_masked(configs: Sequence[Config], name: str) -> bool:
  return any(isinstance(c.task, Text) and c.task.is_masked for c in configs if name in c.eval.few_shot)


def cell_dir(workdir: Path, cell: Cell) -> Path:
  return Path(workdir) / "cells" / cell.cell_id


def is_done(directory: Path) -> bool:
  return RunDir(directory).is_done()


def write_sweep(sweep: Sweep, workdir: Path, stop_rules: dict[str, Any] | None = None) -> None:
  """Writes sweep.json. Cells of an earlier form of the sweep stay listed, since their results stand.

  Args:
    stop_rules: what the rules of this launch have come to; those of an earlier one do not stand.
  """
  if (workdir / "config.json").exists():
    raise ConfigError(f"--workdir={workdir}: holds a single run; choose another workdir")
  workdir.mkdir(parents=True, exist_ok=True)
  with _alone(workdir):
    _merge_sweep(sweep, workdir, stop_rules)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
  """Keeps other launches from writing sweep.json meanwhile, which would lose cells of one of them."""
  if mirrored := mirror.of(workdir):
    with mirrored.sweep_alone():
      yield
    return
  with (workdir / ".sweep.lock").open("w") as lock:
    # A file system without locks goes without: at the end of its launch each writes its cells again.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _merge_sweep(sweep: Sweep, workdir: Path, stop_rules: dict[str, Any] | None) -> None:
  path = workdir / "sweep.json"
  cells = {cell.cell_id: cell.summary() for cell in sweep.cells}
  if path.exists():
    before = json.loads(path.read_text())
    if before["study"] != sweep.study:
      raise ConfigError(
        f"--workdir={workdir}: holds the study {before['study']!r}, this one is {sweep.study!r}; "
        "choose another workdir"
      )
    cells = {cell["cell_id"]: cell for cell in before["cells"]} | cells
  rundir.write_json(path, {
    "study": sweep.study, **records.provenance(), "versions": records.versions(),
    **({"stop_rules": stop_rules} if stop_rules else {}), "cells": list(cells.values()),
  })  # fmt: skip


def show_status(workdir: Path, *, watch: bool, as_json: bool) -> int:
  """Prints how far every cell is; with `watch`, again and again until nothing is left that can change."""
  if not watch:
    watcher = Watcher(workdir)
    _print_statuses(watcher, watcher.read(), as_json=as_json)
    return 0
  return _watch(Watcher(workdir), as_json=as_json)


def _print_statuses(watcher: Watcher, rows: Sequence[Row], *, as_json: bool) -> None:
  if as_json:
    whole = dataclasses.asdict(totals(rows))
    print(json.dumps({"study": watcher.study, "totals": whole, "cells": rows}), flush=True)
    return
  for row in rows:
    print_row(row, sys.stdout)
  sys.stdout.flush()
  print(summary(rows), file=sys.stderr)


def _is_launching(workdir: Path) -> bool:
  return any(lease.is_held(folder) for folder in (workdir / FOLDER).glob("*"))


def _watch(watcher: Watcher, *, as_json: bool) -> int:
  table = live(Console(), is_wanted=not as_json)
  lines = Lines("stdout")
  last_open = time.monotonic()
  with table or contextlib.nullcontext():
    while True:
      rows = watcher.read()
      if as_json:
        _print_statuses(watcher, rows, as_json=True)
      elif table:
        table.update(StatusTable(watcher.study, rows), refresh=True)
      else:
        lines.show(rows)
      found = {state(row) for row in rows}
      # Between the stages of halving, or while an engine has no room, a launch shows by its folder.
      if found & {rundir.RUNNING, WAITING} or _is_launching(watcher.workdir):
        last_open = time.monotonic()
      # A launcher may start again what just failed or was lost, and needs a moment for it.
      if found <= {rundir.DONE, rundir.PRUNED} or time.monotonic() - last_open > _SETTLED_S:
        break
      time.sleep(_LOOK_EVERY_S)
  if not as_json and not table:
    print(summary(rows), file=sys.stderr)
  return 0
