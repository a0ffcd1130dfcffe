"""How the cells of a workdir stand, as a process that only looks can tell.

What status.json says is believed as far as the lease beside it agrees: a run is running while a process holds
it, and lost where it says "running" and none does. Nothing is written, and no cell is claimed.
"""

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax import finetune_config, lease, rundir
from lm_jax.config import cell_id
from lm_jax.rundir import DONE, FAILED, PAUSED, PRUNED, RUNNING, STOPPED
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell

# What nobody has begun, and what died without a word: the next launch takes up both.
WAITING, LOST = "waiting", "lost"
# In the order in which they are listed where the sweep's own does not matter.
STATES = (RUNNING, FAILED, LOST, STOPPED, PAUSED, WAITING, PRUNED, DONE)
# A beat older than this is told.
SILENT_S = 60.0

Row = dict[str, Any]  # a cell's summary as in sweep.json, and "status": None, or that of `Looker.status`


def state(row: Row) -> str:
  return row["status"]["state"] if row["status"] else WAITING


# --- one run --------------------------------------------------------------------------------------


class Looker:
  """Reads statuses again and again: files that did not change are read once, and beats are timed."""

  def __init__(self):
    self._read: dict[Path, tuple[tuple, Any]] = {}
    # {folder: (token and beat, when they were first seen, whether a beat before them was seen)}
    self._beats: dict[Path, tuple[tuple[str, int], float, bool]] = {}

  def status(self, directory: Path) -> dict[str, Any] | None:
    """Returns a run's status, None for one that never started.

    Beside what status.json holds (`rundir.RunDir.write_status`) it has, where a process is at work, that
    one's "host" and "pid", and "silent_s", the seconds since its last beat where they are many, with
    "silent_by": "watch" where they passed while this object looked, else "clock", the other's, which may
    be wrong. One that cannot be read, as a machine that lost power may leave it, is LOST, with why under
    "unreadable".
    """
    status = self._status(directory)
    if status and status["state"] == DONE:
      return status
    last = lease.holder(directory)
    if last is not None and lease.is_held(directory):
      return self._of_held(directory, status, last)
    # Its process ended since, with or without a word.
    status = self._status(directory)
    return status | {"state": LOST} if status and status["state"] == RUNNING else status

  def _status(self, directory: Path) -> dict[str, Any] | None:
    try:
      return self.json(directory / "status.json")
    except ConfigError as error:
      return {"state": LOST, "unreadable": str(error)}

  def _of_held(self, directory: Path, status: dict[str, Any] | None, last: lease.Holder) -> dict[str, Any]:
    who = {"host": last.host, "pid": last.pid}
    if status and (status.get("host"), status.get("pid")) == (last.host, last.pid):
      # Its own word, also that it failed while others of its population still train.
      return status | self._silence(directory, last) if status["state"] == RUNNING else status
    # Taken up, and nothing written yet: what went wrong before, and its speed, are no longer true.
    known = {name: status[name] for name in ("step", "num_steps", "loss") if name in (status or {})}
    return known | {"state": RUNNING, **who} | self._silence(directory, last)

  def _silence(self, directory: Path, last: lease.Holder) -> dict[str, Any]:
    now, beat = time.monotonic(), (last.token, last.beat)
    seen, since, moved = self._beats.get(directory, (beat, now, False))
    if seen != beat:
      since, moved = now, True
    self._beats[directory] = beat, since, moved
    if now - since > SILENT_S:
      return {"silent_s": now - since, "silent_by": "watch"}
    # Where a beat came meanwhile, a clock that says otherwise is wrong.
    age = time.time() - last.time
    return {"silent_s": age, "silent_by": "clock"} if age > SILENT_S and last.time and not moved else {}

  def json(self, path: Path) -> Any:
    """Returns what a JSON file holds, None where there is none.

    What it held before where a shared file system does not let it be read now; OSError if nothing is known.
    """
    try:
      found = os.stat(path)
      # Files are replaced, not rewritten: a new one has another number.
      version = (found.st_ino, found.st_mtime_ns, found.st_size)
      if self._read.get(path, (None,))[0] != version:
        self._read[path] = version, json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (FileNotFoundError, NotADirectoryError):
      return None
    except OSError:
      if path not in self._read:
        raise
    except ValueError as error:
      raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
    return self._read[path][1]


def _refuse(constant: str) -> None:
  raise ValueError(f"{constant} is no JSON")


# --- a workdir ------------------------------------------------------------------------------------


class Watcher:
  """A workdir that is looked at again and again.

  Attributes:
    workdir: of a sweep, a run, or fine-tuning.
    study: its name, known once it was read.
  """

  def __init__(self, workdir: Path):
    self.workdir, self.study = Path(workdir), ""
    self._looker = Looker()

  def directories(self) -> list[tuple[Row, Path]]:
    """Returns the cells in the sweep's order, each without its status, and where they are."""
    sweep = self._looker.json(self.workdir / "sweep.json")
    if sweep is not None:
      self.study = sweep["study"]
      return [(cell, self._cell_dir(cell["cell_id"])) for cell in sweep["cells"]]
    config = self._looker.json(self.workdir / "config.json")
    if config is None:
      raise ConfigError(f"--workdir={self.workdir}: holds neither a sweep nor a run")
    self.study = config.get("study", "")
    if finetune_config.is_finetuning(self.workdir):
      return self._of_finetuning()
    return [(_summary(self.workdir), self.workdir)]

  def _cell_dir(self, name: str) -> Path:
    if "/" in name or "\0" in name or name in ("", ".", ".."):  # a path to elsewhere
      raise ConfigError(f"--workdir={self.workdir}: its sweep.json names a cell {name!r}, which is no cell's")
    return self.workdir / "cells" / name

  def _of_finetuning(self) -> list[tuple[Row, Path]]:
    """Returns the pretraining, where it is of this workdir, and all of the fine-tuning as one row."""
    pretraining = self.workdir / "pretraining"
    own = {"cell_id": "fine-tuning", "label": "(method, k) groups", "seed": "all"}
    before = [(_summary(pretraining), pretraining)] if (pretraining / "config.json").is_file() else []
    return [*before, (own, self.workdir)]

  def read(self) -> list[Row]:
    return [row | {"status": self._looker.status(path)} for row, path in self.directories()]


def _summary(directory: Path) -> Row:
  config = rundir.from_json(directory / "config.json")
  return Cell(cell_id(config), config, {}).summary()


def statuses(workdir: Path) -> list[Row]:
  """Returns every cell of a sweep, or a single run, with its status."""
  return Watcher(workdir).read()


# --- the whole ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Totals:
  """What is done of all cells.

  Attributes:
    counts: cells by state, those states that there are, in the order of STATES.
    flops, flops_done: of training, exact; None where a row has none. What a stop rule ended is whole.
    fraction: of the work that is done.
    left_s: None where nothing runs, or its speed is not known yet.
  """

  counts: dict[str, int]
  flops: float | None
  flops_done: float | None
  fraction: float
  left_s: float | None


def totals(rows: Sequence[Row]) -> Totals:
  """Adds up.

  Work is counted in the "seconds" that `plan` expects of a cell where rows have them, else in FLOPs, else
  in cells.
  """
  found = [state(row) for row in rows]
  shares = [1.0 if state(row) == PRUNED else _share(row) for row in rows]
  flops = flops_done = None
  if all("flops_exact" in row for row in rows):
    wanted = [row["flops_exact"] * _part(row) for row in rows]
    flops, flops_done = sum(wanted), sum(f * share for f, share in zip(wanted, shares, strict=True))
  work = next((name for name in ("seconds", "flops_exact") if all(row.get(name) for row in rows)), None)
  works = [(row[work] if work else 1.0) * _part(row) for row in rows]
  done = sum(w * share for w, share in zip(works, shares, strict=True))
  return Totals(
    {name: found.count(name) for name in STATES if name in found}, flops, flops_done,
    done / sum(works) if sum(works) else 0.0, _time_left(rows, works, shares),
  )  # fmt: skip


def _share(row: Row) -> float:
  status = row["status"] or {}
  if status.get("state") == DONE:
    return 1.0
  return status["step"] / status["num_steps"] if status.get("step") and status.get("num_steps") else 0.0


def _part(row: Row) -> float:
  """Returns which part of a cell is to be trained at all."""
  return _share(row) if state(row) == PRUNED else 1.0


def _time_left(rows: Sequence[Row], works: Sequence[float], shares: Sequence[float]) -> float | None:
  """Estimates from the speed of what runs now; what failed is not counted, as it waits for a person."""
  remaining, speed, longest = 0.0, 0.0, 0.0
  for row, work, share in zip(rows, works, shares, strict=True):
    if state(row) in (DONE, PRUNED, FAILED):
      continue
    left = work * (1 - share)
    remaining += left
    eta = row["status"].get("eta_s") if state(row) == RUNNING else None
    if eta:
      speed, longest = speed + left / eta, max(longest, eta)
  return max(remaining / speed, longest) if speed else None
