"""BIG-bench's curves of BIG-G by verdict, and the figure.

python experiments/013_emergence_statistics/bigbench.py bigg_mc_maxshot.csv  writes bigbench.csv and
emergence.png, and prints the counts and the time
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table
from lm_jax.analysis.emergence import table
from lm_jax.analysis.figures.look import OTHERS
from lm_jax.analysis.figures.style import GREY, INK, STYLE, TEXT_WIDTH

HERE = Path(__file__).parent
X = "n_params_nonembedding"
SHOWN = ("date_understanding", "hindu_knowledge", "sports_understanding", "figure_of_speech_detection")
WRITTEN = (
  "task", "n_items", "chance", "verdict", "breakthroughness", "q_value", "rise_q_value", "best_model",
  "best_model_share", "margin", "smooth_margin", "residual_scale", "threshold_status", "x50", "x50_low",
  "x50_high", "width_decades", "width_low", "width_high",
)  # fmt: skip


def draw_task(ax: Axes, row: dict) -> None:
  sizes = np.array(row["sizes"])
  fine = np.geomspace(sizes[0], sizes[-1], 200)
  error = 1.96 * np.sqrt(np.array(row["means"]) * (1 - np.array(row["means"])) / row["n_items"])
  ax.errorbar(sizes, row["means"], error, fmt="o", markersize=3, color=INK, elinewidth=0.8)
  ax.plot(fine, table.fitted(row, fine), color=OTHERS[0])
  ax.axhline(row["chance"], color=GREY, linestyle="--", linewidth=0.8)
  ax.set_xscale("log")
  ax.set_title(f"{row['task'].replace('_', ' ')}\nB {row['breakthroughness']:.1f}; {row['verdict']}")


def draw_rates(ax: Axes) -> None:
  found = pd.read_csv(HERE / "simulation.csv")
  found = found[(found["n_sizes"] == 12) & (found["n_seeds"] == 1) & (found["family"] != "bimodal_seeds")]
  left = np.zeros(len(found))
  names = [n.replace("_", " ") for n in found["family"]]
  shown = {"smooth": OTHERS[2], "not resolved": "#bbbbbb", "sharp": OTHERS[0], "no rise": "#eeeeee"}
  found["no rise"] = found["below chance resolution"].fillna(0) + found["no rise resolved"].fillna(0)
  for verdict, color in shown.items():
    share = found[verdict].fillna(0).to_numpy()
    ax.barh(names, share, left=left, color=color, label=verdict)
    left += share
  ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncol=2, frameon=False, fontsize=7)
  ax.set_title("Simulated, 12 sizes,\none seed: share by verdict")
  ax.grid(axis="y", visible=False)


def main() -> None:
  points = curve_table.read(sys.argv[1])
  start = time.perf_counter()
  found = table.analyze(points.rows, x=X)
  print(f"{len(found)} curves, 1000 resamples each: {time.perf_counter() - start:.1f} s")
  print(found["verdict"].value_counts())
  found.sort_values(["verdict", "task"])[list(WRITTEN)].to_csv(HERE / "bigbench.csv", index=False)
  rows = {row["task"]: row for row in found.to_dict("records")}
  with mpl.rc_context(STYLE):
    figure = Figure(figsize=(TEXT_WIDTH * 1.25, 4.2))
    axes = figure.subplots(2, 3)
    for ax, task in zip(axes[:, :2].flat, SHOWN, strict=True):
      draw_task(ax, rows[task])
    for ax in axes[1, :2]:
      ax.set_xlabel("Non-embedding parameters")
    for ax in axes[:, 0]:
      ax.set_ylabel("Accuracy, 3 shots")
    draw_rates(axes[0, 2])
    B = found.dropna(subset=["breakthroughness"])
    ax = axes[1, 2]
    ax.scatter(B["breakthroughness"], B["margin"], s=7, color=INK)
    ax.axvline(B["null_p95"].iloc[0], color=GREY, linestyle="--", linewidth=0.8)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xlabel("B (dashed: P95 of noise)")
    ax.set_ylabel("AICc margin of logistic")
    ax.set_title("89 tasks")
    figure.savefig(HERE / "emergence.png")


if __name__ == "__main__":
  main()
