"""Draws the best learning rate against width from the records of configs/sweeps/learning_rate_transfer.py.

    python experiments/003_learning_rate_transfer/draw.py WORKDIR

Writes results.csv and learning_rate_transfer.png beside this file and prints a table. The best rate is the
vertex of the parabola in log2(rate) through the best rate of the grid and its two neighbors.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lm_jax.analysis import frame
from lm_jax.analysis.figures.look import OTHERS, palette
from lm_jax.analysis.figures.style import STYLE

HERE = Path(__file__).parent
NAMES = {"standard": "Standard", "mup": "muP"}


def results(workdir: str) -> pd.DataFrame:
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
  return table.sort_values(list(table.columns[:4]), kind="stable", ignore_index=True)


def best_rate(curve: pd.Series) -> float:
  """Returns the rate at the bottom of NLL by rate; NaN where the grid's end is the best."""
  at = int(np.argmin(curve))
  if not 0 < at < len(curve) - 1:
    return float("nan")
  x, y = np.log2(curve.index[at - 1 : at + 2]), curve.iloc[at - 1 : at + 2]
  square, linear, _ = np.polyfit(x, y, 2)
  return float(2 ** (-linear / (2 * square)))


def optima(table: pd.DataFrame) -> pd.DataFrame:
  """Returns, for each parametrization and width, the best rate and what the narrowest one's costs there."""
  mean = table.groupby(["parametrization", "d_model", "learning_rate"])["nll"].mean()
  rows = []
  for name in NAMES:
    narrowest = mean[name][min(mean[name].index.get_level_values("d_model"))].idxmin()
    for width, curve in mean[name].groupby(level="d_model"):
      curve = curve.droplevel("d_model")
      rows.append({
        "parametrization": name, "d_model": width, "best_rate": best_rate(curve),
        "best_on_grid": curve.idxmin(), "nll": curve.min(),
        "loss_of_transfer": curve.get(narrowest, float("nan")) - curve.min(),
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
  ax.set(xscale="log", xlabel="Learning rate", title=NAMES[name])
  ax.xaxis.set_major_locator(LogLocator(10))
  ax.set_ylim(table["nll"].min() - 0.05, top)


def draw_optima(ax: Axes, best: pd.DataFrame) -> None:
  for name, color in zip(NAMES, (OTHERS[0], "#0072B2"), strict=True):
    chosen = best[best["parametrization"] == name]
    ax.plot(chosen["d_model"], chosen["best_rate"], "o-", color=color, markersize=4, label=NAMES[name])
  widths = sorted(best["d_model"].unique())
  ax.set(xscale="log", yscale="log", xlabel="Width", ylabel="Best learning rate", title="Best rate")
  ax.set_xticks(widths, [str(w) for w in widths])
  ax.set_yticks([0.002, 0.005, 0.01, 0.02], ["0.002", "0.005", "0.01", "0.02"])
  ax.set_ylim(0.0015, 0.025)
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_minor_locator(NullLocator())
  ax.legend(frameon=False, loc="lower left")


def draw(table: pd.DataFrame, best: pd.DataFrame) -> None:
  with mpl.rc_context(STYLE):
    drawing = Figure(figsize=(7.5, 2.6))
    standard, mup, rates = drawing.subplots(1, 3)
    # Runs that failed to train would flatten all the others.
    top = best["nll"].max() + 0.6
    for ax, name in ((standard, "standard"), (mup, "mup")):
      draw_curves(ax, table, name, top)
    standard.set_ylabel("Test NLL (nats/byte)")
    mup.legend(frameon=False, loc="upper center", fontsize=7, handlelength=1, labelspacing=0.2)
    draw_optima(rates, best)
    drawing.savefig(HERE / "learning_rate_transfer.png")


def main(workdir: str) -> None:
  table = results(workdir)
  table.to_csv(HERE / "results.csv", index=False, lineterminator="\n")
  best = optima(table)
  draw(table, best)
  print(best.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
  for name, chosen in best.dropna().groupby("parametrization"):
    slope = np.polyfit(np.log(chosen["d_model"]), np.log(chosen["best_rate"]), 1)[0]
    print(f"{name}: best rate ~ width^{slope:.2f}")


if __name__ == "__main__":
  main(*sys.argv[1:])
