"""Runs a sweep in a workdir: what is missing, by a launcher, with progress; and says how it stands.

WORKDIR/sweep.json      the cells and the versions that made them
WORKDIR/cells/<id>/     one run each
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax import records, rundir, scaling
from lm_jax.launch.base import Launcher, Outcome
from lm_jax.launch.progress import Progress, status_line
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell, Sweep

_WATCH_EVERY_S = 5.0
_VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def run(sweep: Sweep, workdir: Path, launcher: Launcher, *, quiet: bool = False) -> list[Outcome]:
  """Runs the cells that are not done and returns their outcomes; none if nothing was missing."""
  workdir = Path(workdir)
  write_sweep(sweep, workdir)
  missing = [cell for cell in sweep.cells if not is_done(cell_dir(workdir, cell))]
  if not missing:
    return []
  # Longest first: the last cells to finish are then short ones, and no worker idles for long.
  missing.sort(key=lambda cell: -scaling.train_flops(cell.config))
  with Progress(sweep.cells, lambda cell: cell_dir(workdir, cell), quiet=quiet) as progress:
    return launcher(missing, lambda cell: cell_dir(workdir, cell), progress.update)


def cell_dir(workdir: Path, cell: Cell) -> Path:
  return Path(workdir) / "cells" / cell.cell_id


def is_done(directory: Path) -> bool:
  status = RunDir(directory).status()
  return status is not None and status["state"] == rundir.DONE


def write_sweep(sweep: Sweep, workdir: Path) -> None:
  """Writes sweep.json. Cells of an earlier form of the sweep stay listed, since their results stand."""
  workdir.mkdir(parents=True, exist_ok=True)
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
    "study": sweep.study, **records.provenance(), "versions": versions(), "cells": list(cells.values())
  })  # fmt: skip


def versions() -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}


def failures(outcomes: Sequence[Outcome]) -> list[tuple[Cell, str]]:
  return [(cell, error or state) for cell, state, error in outcomes if state == rundir.FAILED]


def statuses(workdir: Path) -> list[dict[str, Any]]:
  """Returns every cell of a workdir with its status: the row of sweep.json, and "status" (or None)."""
  path = Path(workdir) / "sweep.json"
  if not path.is_file():
    raise ConfigError(f"--workdir={workdir}: no sweep.json there")
  listed = json.loads(path.read_text())["cells"]
  rows = []
  for cell in listed:
    run = RunDir(Path(workdir) / "cells" / cell["cell_id"])
    status = run.status()
    if status and status["state"] == rundir.RUNNING and not run.is_claimed():
      status |= {"state": rundir.STOPPED}  # its process died without a word
    rows.append(cell | {"status": status})
  return rows


def show_status(workdir: Path, *, watch: bool, as_json: bool) -> int:
  """Prints how far every cell is; with `watch`, again and again until all are done."""
  while True:
    cells = statuses(workdir)
    if as_json:
      print(json.dumps(cells))
    else:
      print("\n".join(status_line(cell) for cell in cells))
    waiting = [c for c in cells if c["status"] is None or c["status"]["state"] != rundir.DONE]
    print(f"{len(cells) - len(waiting)}/{len(cells)} cells done", file=sys.stderr)
    if not watch or not waiting:
      return 0
    time.sleep(_WATCH_EVERY_S)
