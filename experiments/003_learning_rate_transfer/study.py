"""Study 003: the best learning rate against width, standard and muP; see experiments/study.py.

The best rate is the vertex of the parabola in log2(rate) through the best rate of the grid and its two
neighbors.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lm_jax.analysis import frame
from lm_jax.analysis.figures.look import OTHERS, palette

COMMANDS = (
  "lm-jax sweep --config={here}/../../configs/sweeps/learning_rate_transfer.py:seeds=2 --workdir={workdir}",
)
NAMES = {"standard": "standard", "mup": "muP"}
TITLES = {"standard": "Standard", "mup": "muP"}


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  """Returns one row a run: parametrization, d_model, learning_rate, seed, test NLL in nats a byte."""
  study = frame.load(workdir)
  for _, cell in study.missing.iterrows():
    print(f"missing: {cell['family']} {cell['label']} seed {cell['seed']}: {cell['reason']}")
  rows = frame.final(study).query("metric == 'nll'")
  rows = rows.merge(study.cells[["cell_id", "overrides"]], on="cell_id")
  set_by_cells = rows["overrides"].map(json.loads)
  table = pd.DataFrame({
    "parametrization": rows["family"], "d_model": [o["model.d_model"] for o in set_by_cells],
    "learning_rate": [o["optimizer.learning_rate"] for o in set_by_cells], "seed": rows["seed"],
    "nll": rows["value"].round(5), "stderr": rows["stderr"].round(5),
  })  # fmt: skip
  return {"results": table.sort_values(list(table.columns[:4]), kind="stable", ignore_index=True)}


def best_rate(curve: pd.Series) -> float:
  """Returns the rate at the bottom of NLL by rate; NaN where the grid's end is the best."""
  at = int(np.argmin(curve))
  if not 0 < at < len(curve) - 1:
    return float("nan")
  x, y = np.log2(curve.index[at - 1 : at + 2]), curve.iloc[at - 1 : at + 2]
  square, linear, _ = np.polyfit(x, y, 2)
  return float(2 ** (-linear / (2 * square)))


def optima(table: pd.DataFrame) -> pd.DataFrame:
  """Returns, for each parametrization and width, the best rate, NLL there, and at the narrowest one's."""
  mean = table.groupby(["parametrization", "d_model", "learning_rate"])["nll"].mean()
  rows = []
  for name in NAMES:
    narrowest = mean[name][min(mean[name].index.get_level_values("d_model"))].idxmin()
    for width, curve in mean[name].groupby(level="d_model"):
      curve = curve.droplevel("d_model")
      rows.append({
        "parametrization": name, "d_model": width, "best_rate": best_rate(curve), "nll": curve.min(),
        "nll_at_narrowest": curve.get(narrowest, float("nan")),
      })  # fmt: skip
  return pd.DataFrame(rows)


def draw_curves(ax: Axes, table: pd.DataFrame, name: str, top: float) -> None:
  chosen = table[table["parametrization"] == name]
  widths = sorted(chosen["d_model"].unique())
  for width, color in zip(widths, palette(len(widths)), strict=True):
    runs = chosen[chosen["d_model"] == width]
    mean = runs.groupby("learning_rate")["nll"].mean()
    ax.plot(mean.index, mean, color=color, marker="o", markersize=2.5, label=f"d = {width}")
    ax.plot(runs["learning_rate"], runs["nll"], ".", color=color, markersize=2, alpha=0.5)
    ax.plot(mean.idxmin(), mean.min(), "o", color=color, markersize=6, fillstyle="none")
  ax.set(xscale="log", xlabel="Learning rate", title=TITLES[name])
  ax.xaxis.set_major_locator(LogLocator(10))
  ax.set_ylim(table["nll"].min() - 0.05, top)


def draw_optima(ax: Axes, best: pd.DataFrame) -> None:
  for name, color in zip(NAMES, (OTHERS[0], "#0072B2"), strict=True):
    chosen = best[best["parametrization"] == name]
    ax.plot(chosen["d_model"], chosen["best_rate"], "o-", color=color, markersize=4, label=TITLES[name])
  widths = sorted(best["d_model"].unique())
  ax.set(xscale="log", yscale="log", xlabel="Width", ylabel="Best learning rate", title="Best rate")
  ax.set_xticks(widths, [str(w) for w in widths])
  ax.set_yticks([0.002, 0.005, 0.01, 0.02], ["0.002", "0.005", "0.01", "0.02"])
  ax.set_ylim(0.0015, 0.025)
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_minor_locator(NullLocator())
  ax.legend(frameon=False, loc="lower left")


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  table, best = tables["results"], optima(tables["results"])
  drawing = Figure(figsize=(7.5, 2.6))
  standard, mup, rates = drawing.subplots(1, 3)
  # Runs that failed to train would flatten all the others.
  top = best["nll"].max() + 0.6
  for ax, name in ((standard, "standard"), (mup, "mup")):
    draw_curves(ax, table, name, top)
  standard.set_ylabel("Test NLL (nats/byte)")
  mup.legend(frameon=False, loc="upper center", fontsize=7, handlelength=1, labelspacing=0.2)
  draw_optima(rates, best)
  return {"learning_rate_transfer": drawing}


def exponent(best: pd.DataFrame) -> float:
  """Returns a of best rate ~ width^a."""
  best = best.dropna()
  return float(np.polyfit(np.log(best["d_model"]), np.log(best["best_rate"]), 1)[0])


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  best = optima(tables["results"]).set_index(["parametrization", "d_model"])
  columns = {"best rate": ("best_rate", 4), "NLL there": ("nll", 3), "NLL at d=32's": ("nll_at_narrowest", 3)}
  lines = [
    {"d": str(d)}
    | {
      f"{title}, {shown}": study_text.number(best.loc[(name, d), column], digits)
      for title, (column, digits) in columns.items()
      for name, shown in NAMES.items()
    }
    for d in best.loc["mup"].index
  ]
  last = dict.fromkeys(lines[0], "") | {"d": "best rate ~ width to the"}
  for name, shown in NAMES.items():
    last[f"best rate, {shown}"] = study_text.number(exponent(best.loc[name].reset_index()), 2)
  return {"optima": study_text.table(pd.DataFrame([*lines, last]))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns the exponents seed by seed, and how far standard is ahead of muP, each at its own best rate."""
  found = {}
  for seed, table in tables["results"].groupby("seed"):
    best = optima(table).set_index(["parametrization", "d_model"])
    for name in NAMES:
      found[f"exponent of {name}, seed {seed}"] = exponent(best.loc[name].reset_index())
    ahead = best.loc["mup", "nll"] - best.loc["standard", "nll"]
    found |= {f"standard is ahead at {d}, seed {seed}": value for d, value in ahead.items()}
  return found
