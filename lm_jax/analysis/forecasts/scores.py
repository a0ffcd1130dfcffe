"""How frozen forecasts did: each against what was measured at its size since.

A score needs a rung that was not there when the forecast was made: a run among `fitted_runs` does not count.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lm_jax.analysis.curve_table import CurveTable
from lm_jax.analysis.forecasts import freeze

COLUMNS = (
  "forecast", "created", "status", "task", "shots", "family", "metric", "label", "x", "x_name", "median",
  "low_50", "high_50", "low_80", "high_80", "low", "high", "observed", "n_seeds", "error", "inside_50",
  "inside_80", "inside_95",
)  # fmt: skip


def score_card(table: CurveTable, folder: Path) -> pd.DataFrame:
  """Returns one row a (forecast, target, curve, metric), with `status`:

  "scored"; "waiting" where the rung is not there yet; "altered" for a file whose hash does not hold, which
  has no numbers.
  """
  rows = []
  for path, forecast in freeze.read_all(folder):
    if forecast is None:
      rows.append({"forecast": path.name, "status": "altered"})
    else:
      rows += _rows(path.name, forecast, table.rows)
  card = pd.DataFrame(rows, columns=list(COLUMNS))
  for name in ("inside_50", "inside_80", "inside_95"):
    card[name] = card[name].astype("boolean")
  return card


def _rows(name: str, forecast: dict[str, Any], points: pd.DataFrame) -> list[dict[str, Any]]:
  x, known = forecast["x"], set(forecast["fitted_runs"])
  fresh = points[~points["run"].isin(known)]
  found = []
  for curve in forecast["curves"]:
    for said in curve["forecasts"]:
      target = forecast["targets"][said["target"]]
      same = _same(fresh, curve, said["metric"]) & _near(fresh[x], target["x"])
      found.append(
        {"forecast": name, "created": forecast["created"], "x_name": x, "label": target.get("label"),
         **{key: curve[key] for key in ("task", "shots", "family")}, "metric": said["metric"],
         "x": target["x"]}
        | _against(said["quantiles"], fresh.loc[same, "value"].dropna())
      )  # fmt: skip
  return found


def _same(points: pd.DataFrame, curve: dict[str, Any], metric: str) -> pd.Series:
  chosen = points["metric"] == metric
  for key in ("task", "shots", "family"):
    chosen &= points[key].isna() if curve[key] is None else points[key] == curve[key]
  return chosen.fillna(False).astype(bool)


def _near(sizes: pd.Series, x: float) -> pd.Series:
  return (sizes / x - 1).abs() <= freeze.SAME_SIZE


def _against(quantiles: dict[str, float], observed: pd.Series) -> dict[str, Any]:
  q = {float(k): v for k, v in quantiles.items()}
  said = {"median": q[0.5], "low_50": q[0.25], "high_50": q[0.75], "low_80": q[0.1], "high_80": q[0.9],
          "low": q[0.025], "high": q[0.975]}  # fmt: skip
  if observed.empty:
    return said | {"status": "waiting", "observed": np.nan}
  value = float(observed.mean())
  inside = {
    f"inside_{level}": bool(said[low] <= value <= said[high])
    for level, low, high in ((50, "low_50", "high_50"), (80, "low_80", "high_80"), (95, "low", "high"))
  }
  return said | inside | {
    "status": "scored", "observed": value, "n_seeds": len(observed), "error": said["median"] - value,
  }  # fmt: skip
