"""What the scripts of the report's page draw from: every cell's evaluations and losses, thinned where many.

A page is opened from disk and parsed whole, so its size is bounded: steps between the first and the last
are left out evenly where there are more than MAX_VALUES values, and points of a loss curve are averaged.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lm_jax.analysis import frame, headline
from lm_jax.analysis.figures.look import DIRECTIONS, NAMES, palette, styles
from lm_jax.analysis.frame import COMPUTE, Study

MAX_VALUES = 600_000
MAX_LOSS_VALUES = 150_000
# Points of one loss curve on the page; more are averaged in runs of equal length.
MAX_LOSS_POINTS = 400
MAX_SHOT_LINES = 12
CELL_FILES = ("records.jsonl", "config.json", "status.json", "error.txt")
_AXES = ("step", "tokens", *COMPUTE)
_CELL = ("cell_id", "label", "family", "seed", "task", "params_total", "params_nonembedding", "tokens",
         *COMPUTE, "state", "finished", "final_loss", "device", "lm_jax_version", "git_commit")  # fmt: skip


class _Axes:
  """Axes along training, each held once: the seeds of a size have the same."""

  def __init__(self):
    self.found: dict[tuple, int] = {}

  def index(self, values: np.ndarray) -> int:
    """Returns the place of [axis, point] among `listed`."""
    return self.found.setdefault(tuple(map(tuple, values.tolist())), len(self.found))

  def listed(self) -> list[dict[str, list[float]]]:
    return [dict(zip(_AXES, map(list, key), strict=True)) for key in self.found]


def _blocks(keys: pd.Series) -> list[tuple[Any, slice]]:
  """Returns (key, its rows) of sorted keys."""
  values = keys.to_numpy()
  if not len(values):
    return []
  starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
  ends = np.r_[starts[1:], len(values)]
  return [(values[a], slice(a, b)) for a, b in zip(starts, ends, strict=True)]


def _thinned(n: int, most: int) -> np.ndarray:
  """Returns the places of at most `most` of n points, evenly, with the first and the last."""
  return np.unique(np.linspace(0, n - 1, min(n, max(most, 2))).round().astype(int))


def _evaluations(rows: pd.DataFrame, axes: _Axes) -> dict[str, dict[str, Any]]:
  """Returns each cell's evaluations: {metric: {shots: [values along the steps, the last one's stderr]}}."""
  keys = ["cell_id", "metric", "shots"]
  rows = rows.assign(**{k: rows[k].astype("category") for k in keys})
  means = rows.groupby([*keys, "step"], observed=True)[["value", "stderr"]].mean().reset_index()
  points = rows.groupby(["cell_id", "step"], observed=True)[list(_AXES[1:])].first().reset_index()
  most = MAX_VALUES // max(1, len(means[keys].drop_duplicates()))
  cells: dict[str, dict[str, Any]] = {}
  along, kept = points[list(_AXES)].to_numpy(np.float64), []
  for cell, block in _blocks(points["cell_id"].astype(object)):
    kept.append(block.start + _thinned(block.stop - block.start, most))
    cells[cell] = {"axis": axes.index(along[kept[-1]].T), "values": {}}
  lengths = np.array([len(own) for own in kept], int)
  points = points.iloc[np.concatenate([*kept, np.array([], int)])][["cell_id", "step"]]
  places = np.concatenate([*map(np.arange, lengths), np.array([], int)])
  means = means.merge(points.assign(place=places, length=np.repeat(lengths, lengths)), on=["cell_id", "step"])
  series = means.groupby(keys, observed=True, sort=False).ngroup().to_numpy()
  # [values and errors, series, steps], missing where a series has no value at a step of its cell.
  table = np.full((2, series.max(initial=-1) + 1, lengths.max(initial=0)), np.nan)
  table[:, series, means["place"]] = means[["value", "stderr"]].to_numpy(np.float64).T
  first = means.loc[~pd.Series(series).duplicated().to_numpy(), [*keys, "length"]].astype(object)
  lines = zip(*table.tolist(), first.itertuples(index=False), strict=True)
  for values, errors, (cell, metric, shots, length) in lines:
    cells[cell]["values"].setdefault(metric, {})[shots] = [values[:length], errors[length - 1]]
  return cells


def _losses(rows: pd.DataFrame, axes: _Axes) -> dict[str, dict[str, Any]]:
  rows = rows.sort_values(["cell_id", "step"])
  blocks = _blocks(rows["cell_id"].astype(object))
  most = min(MAX_LOSS_POINTS, max(10, MAX_LOSS_VALUES // max(1, len(blocks))))
  along, values = rows[list(_AXES)].to_numpy(np.float64), rows["value"].to_numpy(np.float64)
  series = {}
  for cell, block in blocks:
    x, y = along[block], values[block]
    if len(y) > most:
      parts = np.array_split(np.arange(len(y)), most)
      x = x[[part[-1] for part in parts]]
      # pandas' mean leaves out what is missing, and is missing where all is.
      y = pd.Series(y).groupby(np.repeat(np.arange(most), list(map(len, parts)))).mean().to_numpy()
    series[cell] = {"axis": axes.index(x.T), "value": y.tolist()}
  return series


def cell_folder(study: Study, cell: Mapping[str, Any]) -> Path:
  """Returns where the files of a cell are: a single run's are in the workdir itself."""
  if isinstance(cell.get("folder"), str):
    return Path(cell["folder"])
  inside = study.workdir / "cells" / str(cell["cell_id"])
  return inside if (study.workdir / "sweep.json").exists() else study.workdir


def _cells(study: Study, evaluations: pd.DataFrame, axes: _Axes, folder: Path) -> list[dict[str, Any]]:
  own_task = dict(zip(study.cells["cell_id"], study.cells["task"], strict=True))
  own = evaluations[evaluations["task"] == evaluations["cell_id"].map(own_task).astype("string")]
  tests = _evaluations(own, axes)
  train = study.records[(study.records["split"] == "train") & (study.records["metric"] == "loss")]
  losses = _losses(train, axes)
  cells = []
  for cell in study.cells.to_dict("records"):
    data = {name: cell[name] for name in _CELL}
    data["evals"], data["loss"] = tests.get(cell["cell_id"]), losses.get(cell["cell_id"])
    where = cell_folder(study, cell)
    data["files"] = [name for name in CELL_FILES if (where / name).is_file()]
    data["folder"] = Path(os.path.relpath(where, folder)).as_posix() if data["files"] else None
    cells.append(data)
  return cells


def _task(study: Study, task: str, rows: pd.DataFrame) -> dict[str, Any]:
  """Returns what the page knows of a task: its sizes with colors, its shots, metrics and yardsticks."""
  info = study.tasks[task]
  present = rows[rows["value"].notna()]
  shots = [str(k) for k in sorted(present["n_shots"].dropna().unique())]
  selections = [s for s in (frame.WINDOW, frame.ALL) if (present["shots"] == s).any()] + shots
  found = set(present["metric"])
  metrics = [m for m in NAMES if m in found]
  metrics += sorted(found - set(metrics))
  chances = {(m, s): None for m in metrics for s in selections}
  chances |= present.dropna(subset=["chance"]).groupby(["metric", "shots"])["chance"].first().to_dict()
  levels = {
    m: {s: {"chance": info.chance if chances[m, s] is None and m == "accuracy" else chances[m, s],
            "bayes": info.bayes(m, s)} for s in selections}
    for m in metrics
  }  # fmt: skip
  dark = styles(study, task, 0.3, 1.0)
  sizes = [
    {"label": s.label, "family": s.family, "name": s.name, "main": s.main, "light": s.color, "dark": d,
     "symbol": s.symbol}
    for s, d in zip(styles(study, task).itertuples(), dark["color"], strict=True)
  ]  # fmt: skip
  some = [shots[i] for i in _thinned(len(shots), MAX_SHOT_LINES)] if shots else []
  return {
    "key": task, "sizes": sizes, "metrics": metrics, "primary": frame.primary_metric(rows), "levels": levels,
    "selections": selections, "shots": shots, "shot_lines": some,
    "shot_light": palette(len(some), "plasma", 0.8, 0.0),
    "shot_dark": palette(len(some), "plasma", 0.95, 0.3),
    "window": headline.window_name(info),
  }  # fmt: skip


def payload(
  study: Study,
  folder: Path | None = None,
  verdicts: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
  """Returns the page's data.

  Args:
    folder: where the page will be; links to the files of cells are relative to it.
    verdicts: rows of `findings.main_verdicts`.
  """
  evaluations, axes = frame.evaluations(study), _Axes()
  tasks = [_task(study, t, evaluations[evaluations["task"] == t]) for t in study.tasks]
  cells = _cells(study, evaluations, axes, folder or study.workdir / "report")
  # Student's t for 95 %, of 2 to 101 values.
  t95 = stats.t.ppf(0.975, np.arange(1, 101)).tolist()
  return {"names": NAMES, "directions": DIRECTIONS, "tasks": tasks, "cells": cells, "axes": axes.listed(),
          "t95": t95, "emergence": list(verdicts)}  # fmt: skip
