"""The report's page: one file with its data, scripts and style inside, which loads nothing."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from lm_jax.analysis import frame, headline, tables
from lm_jax.analysis.frame import COMPUTE, Study
from lm_jax.analysis.look import DEFINITIONS, NAMES, palette, styles
from lm_jax.analysis.tables import escape

HERE = Path(__file__).parent
# Points of one loss curve on the page; more are averaged in runs of equal length.
MAX_LOSS_POINTS = 400
MAX_SHOT_LINES = 12
_AXES = ("step", "tokens", *COMPUTE)

# --- data for the scripts -----------------------------------------------------------------------


def clean(value: Any) -> Any:
  """Returns JSON-ready data: missing and non-finite numbers become null, floats keep 6 digits."""
  if isinstance(value, dict):
    return {str(k): clean(v) for k, v in value.items()}
  if isinstance(value, list | tuple | np.ndarray | pd.Series):
    return [clean(v) for v in value]
  if value is None or value is pd.NA:
    return None
  if isinstance(value, bool | np.bool_):
    return bool(value)
  if isinstance(value, int | np.integer):
    return int(value)
  if isinstance(value, float | np.floating):
    return float(f"{value:.6g}") if math.isfinite(value) else None
  return str(value)


def embed(data: Any) -> str:
  """Returns JSON that is safe inside a script element: no "<", ">" or "&" is left in it."""
  text = json.dumps(clean(data), allow_nan=False, separators=(",", ":"))
  return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _evaluation_series(rows: pd.DataFrame) -> dict[str, Any]:
  """Returns one cell's evaluations: the steps, and [values, stderrs] along them by metric and shots."""
  steps = sorted(rows["step"].unique())
  at_step = rows.groupby("step")
  series: dict[str, Any] = {axis: [at_step[axis].first()[s] for s in steps] for axis in _AXES}
  series["values"] = {}
  for (metric, shots), own in rows.groupby(["metric", "shots"], sort=False):
    means = own.groupby("step")[["value", "stderr"]].mean().reindex(steps)
    series["values"].setdefault(metric, {})[shots] = [list(means["value"]), list(means["stderr"])]
  return series


def _loss_series(rows: pd.DataFrame) -> dict[str, Any]:
  rows = rows.sort_values("step")
  if len(rows) <= MAX_LOSS_POINTS:
    return {name: list(rows[name]) for name in (*_AXES, "value")}
  parts = np.array_split(np.arange(len(rows)), MAX_LOSS_POINTS)
  series = {axis: [rows[axis].iloc[part[-1]] for part in parts] for axis in _AXES}
  return series | {"value": [rows["value"].iloc[part].mean() for part in parts]}


def _cells(study: Study, evaluations: pd.DataFrame, losses: pd.DataFrame) -> list[dict[str, Any]]:
  tests = dict(list(evaluations.groupby("cell_id")))
  trains = dict(list(losses.groupby("cell_id")))
  names = ("cell_id", "label", "family", "seed", "task", "params_total", "params_nonembedding", "tokens",
           *COMPUTE, "state", "finished")  # fmt: skip
  cells = []
  for cell in study.cells.to_dict("records"):
    own = tests.get(cell["cell_id"])
    data = {name: cell[name] for name in names}
    data["evals"] = None if own is None else _evaluation_series(own[own["task"] == cell["task"]])
    data["loss"] = _loss_series(trains[cell["cell_id"]]) if cell["cell_id"] in trains else None
    cells.append(data)
  return cells


def _task(study: Study, task: str, rows: pd.DataFrame) -> dict[str, Any]:
  """Returns what the page knows of a task: its sizes with colors, its shots, metrics and yardsticks."""
  info = study.tasks[task]
  present = rows[rows["value"].notna()]
  shots = [str(k) for k in sorted(present["n_shots"].dropna().unique())]
  selections = [s for s in (frame.WINDOW, frame.ALL) if (present["shots"] == s).any()] + shots
  metrics = [m for m in NAMES if (present["metric"] == m).any()]
  metrics += sorted(set(present["metric"]) - set(metrics))
  levels = {
    m: {s: {"chance": frame.chance(study, rows, task, m, s), "bayes": info.bayes(m, s)} for s in selections}
    for m in metrics
  }
  dark = styles(study, task, 0.3, 1.0)
  sizes = [
    {"label": s.label, "family": s.family, "name": s.name, "main": s.main, "light": s.color, "dark": d}
    for s, d in zip(styles(study, task).itertuples(), dark["color"], strict=True)
  ]
  where = np.unique(np.linspace(0, len(shots) - 1, MAX_SHOT_LINES).round().astype(int)) if shots else []
  some = [shots[i] for i in where]
  return {
    "key": task, "sizes": sizes, "metrics": metrics, "primary": frame.primary_metric(rows), "levels": levels,
    "selections": selections, "shots": shots, "shot_lines": some,
    "shot_light": palette(len(some), "plasma", 0.8, 0.0),
    "shot_dark": palette(len(some), "plasma", 0.95, 0.3),
    "window": headline.window_name(info),
  }  # fmt: skip


def payload(study: Study) -> dict[str, Any]:
  evaluations = frame.evaluations(study)
  train = study.records[(study.records["split"] == "train") & (study.records["metric"] == "loss")]
  return {
    "names": NAMES,
    "tasks": [_task(study, t, evaluations[evaluations["task"] == t]) for t in study.tasks],
    "cells": _cells(study, evaluations, train),
  }


# --- the page -----------------------------------------------------------------------------------


def _facts_html(study: Study) -> str:
  done = int(study.cells["finished"].sum())
  devices = ", ".join(sorted(study.cells["device"].dropna().unique())) or "unknown"
  version, commit = study.lm_jax_version or "unknown", study.git_commit or "unknown"
  facts = [f"{done} of {len(study.cells)} cells finished", f"device: {devices}", f"lm_jax {version}",
           f"commit {commit}"]  # fmt: skip
  versions = ", ".join(f"{k} {v}" for k, v in sorted(study.versions.items()))
  return "".join(f"<span>{escape(f)}</span>" for f in facts + ([versions] if versions else []))


def _definitions_html() -> str:
  return "".join(f"<dt>{escape(NAMES[m])}</dt><dd>{escape(d)}</dd>" for m, d in DEFINITIONS.items())


def files_html(files: Iterable[str]) -> str:
  return " ".join(f'<a href="{escape(f)}">{escape(Path(f).name)}</a>' for f in files)


def part(name: str) -> str:
  return (HERE / name).read_text(encoding="utf-8")


def fill(template: str, fields: Mapping[str, str]) -> str:
  # One pass, so that a name in the data that looks like a field is not filled in turn.
  return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match.group(1)], template)


def policy(scripts: Iterable[str]) -> str:
  """Returns a policy by which only these scripts run, whatever a record holds, and nothing is fetched."""
  hashes = " ".join(_script_hash(script) for script in scripts)
  return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
          "base-uri 'none'; form-action 'none'")  # fmt: skip


def _script_hash(text: str) -> str:
  return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def render(study: Study, files: Iterable[str] = ()) -> str:
  """Returns the page; `files` are linked from it by their paths relative to it."""
  scripts = {"plotly": get_plotlyjs(), "script": part("report.js"), "sort_tables": part("sort_tables.js")}
  fields = {
    "title": escape(study.name), "policy": policy(scripts.values()), "facts": _facts_html(study),
    "style": part("report.css"), "missing": tables.missing_html(study),
    "headline": tables.headline_html(study), "cells": tables.cells_html(study),
    "definitions": _definitions_html(), "files": files_html(files), "data": embed(payload(study)), **scripts,
  }  # fmt: skip
  return fill(part("report.html"), fields)
