"""A forecast that cannot be changed afterwards without it showing: one JSON file with its own hash.

The hash is SHA-256 of the file's content without it, as canonical JSON (sorted keys, no spaces). Whoever was
told the hash before the rung was trained can check the file by `verify`, or by any other program.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lm_jax import records
from lm_jax.analysis.curve_table import SIZES, CurveTable
from lm_jax.analysis.forecasts import extrapolation
from lm_jax.analysis.forecasts.extrapolation import Method
from lm_jax.analysis.forecasts.rungs import Rungs, of_rows
from lm_jax.analysis.frame import summaries
from lm_jax.analysis.known_metrics import LOSSES
from lm_jax.strict import ConfigError

FOLDER = "forecasts"
VERSION = 1
# Sizes that are the same rung: FLOPs of the same model are counted, and not measured.
SAME_SIZE = 0.01
QUANTILES = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)


def make(
  table: CurveTable,
  targets: Sequence[Mapping[str, Any]],
  x: str,
  *,
  task: str | None = None,
  metric: str | None = None,
  shots: str | None = None,
  family: str | None = None,
  method: Method = "two_step",
  num: int = 1000,
  seed: int = 0,
) -> dict[str, Any]:
  """Returns a forecast: for every target what each metric will be, and where each threshold lies.

  Args:
    targets: {"x": size, "n_seeds": runs that will be averaged, ...}; one that names a "family" is of that
      family alone; what else is in one is kept.
    task, metric, shots, family: which curves; default: all, at the summary of shots where a task has one.
  """
  rows = _chosen(table, {"task": task, "metric": metric, "shots": shots, "family": family})
  if shots is None:
    rows = summaries(rows)
  curves: list[dict[str, Any]] = []
  for rungs in of_rows(rows, x):
    # One loss beside several abilities is forecast once.
    told = {(c["task"], c["shots"], c["family"], c["loss"]) for c in curves}
    known = rungs.loss is not None and (rungs.task, rungs.shots, rungs.family, rungs.loss.metric) in told
    curves.append(_curve(rungs, targets, method, num, seed, with_loss=not known))
  if not curves:
    raise ConfigError(f"{table.source}: has no loss and no share (accuracy, ...) to forecast")
  body = {
    "format": VERSION, "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    **records.provenance(), "source": table.source, "data_sha256": data_hash(rows), "x": x,
    "method": method, "num_draws": num, "seed": seed, "targets": [dict(t) for t in targets],
    "fitted_runs": sorted({str(run) for run in table.rows["run"].dropna()}), "curves": curves,
  }  # fmt: skip
  return body | {"sha256": content_hash(body)}


def _chosen(table: CurveTable, wanted: Mapping[str, str | None]) -> pd.DataFrame:
  rows = table.rows
  for name, value in wanted.items():
    if value is None:
      continue
    present = sorted(rows[name].dropna().unique())
    if value not in present:
      raise ConfigError(f"--{name}={value}: {table.source} has {', '.join(present) or 'none'}")
    # A loss is what an ability is forecast through, whichever ability was asked for.
    keep = rows[name] == value
    rows = rows[keep | rows["metric"].isin(LOSSES)] if name == "metric" else rows[keep]
  return rows


def _curve(
  rungs: Rungs, targets: Sequence[Mapping[str, Any]], method: Method, num: int, seed: int, *, with_loss: bool
) -> dict[str, Any]:
  named = {"task": rungs.task, "shots": rungs.shots, "family": rungs.family,
           "metric": None if rungs.ability is None else rungs.ability.metric,
           "loss": None if rungs.loss is None else rungs.loss.metric, "chance": rungs.chance,
           "sizes": [float(x) for x in rungs.x]}  # fmt: skip
  draws = extrapolation.draw(rungs, num, seed, method)
  if draws is None:
    return named | {"status": "insufficient data", "forecasts": [], "threshold": None, "coverage": {}}
  checked = list(extrapolation.rolling(rungs, seed=seed, method=method))
  metrics = [m.metric for m in (rungs.loss if with_loss else None, rungs.ability) if m is not None]
  forecasts = []
  for i, target in enumerate(targets):
    if target.get("family") not in (None, rungs.family):
      continue
    runs = draws.of_run(np.array([target["x"]], np.float64), int(target.get("n_seeds") or 1))
    forecasts += [_forecast(i, metric, runs[metric][:, 0]) for metric in metrics]
  threshold = extrapolation.threshold(draws) if rungs.ability is not None else None
  return named | {
    "status": "ok", "forecasts": forecasts, "threshold": threshold,
    "coverage": {metric: _keys(extrapolation.coverage(checked, metric)) for metric in metrics},
  }  # fmt: skip


def _forecast(target: int, metric: str, draws_R: np.ndarray) -> dict[str, Any]:
  values = np.quantile(draws_R, QUANTILES)
  quantiles = {f"{q:g}": float(v) for q, v in zip(QUANTILES, values, strict=True)}
  return {"target": target, "metric": metric, "mean": float(draws_R.mean()), "quantiles": quantiles}


def _keys(of_level: Mapping[str, Any]) -> dict[str, Any]:
  shares = {f"{level:g}": share for level, share in of_level["coverage"].items()}
  return dict(of_level) | {"coverage": shares}


# --- the file -----------------------------------------------------------------------------------


def content_hash(body: Mapping[str, Any]) -> str:
  rest = {key: value for key, value in body.items() if key != "sha256"}
  text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()


def data_hash(rows: pd.DataFrame) -> str:
  """Returns a hash of what was fitted, whatever the order of its rows."""
  names = ["task", "metric", "shots", "family", "run", "seed", *SIZES, "value", "stderr"]
  lines = sorted(rows[names].to_csv(index=False, header=False, float_format="%.17g").splitlines())
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write(forecast: Mapping[str, Any], folder: Path) -> Path:
  """Writes a forecast as a new file, named by its date and hash; an existing one is never replaced."""
  folder.mkdir(parents=True, exist_ok=True)
  day = str(forecast["created"]).replace(":", "").replace("+0000", "Z")
  path = folder / f"{day}-{str(forecast['sha256'])[:12]}.json"
  with open(path, "x", encoding="utf-8") as f:
    f.write(json.dumps(forecast, indent=1, allow_nan=False) + "\n")
  return path


def read_all(folder: Path) -> Iterable[tuple[Path, dict[str, Any] | None]]:
  """Yields the forecasts of a folder, oldest first; None for a file that is none, or was changed."""
  for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
    try:
      found = json.loads(path.read_text(encoding="utf-8"))
      intact = isinstance(found, dict) and found.get("sha256") == content_hash(found)
    except (OSError, ValueError, TypeError):
      intact = False
    yield path, found if intact else None
