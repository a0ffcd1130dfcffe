"""BIG-bench's curves of BIG-G by verdict, and the points and fits of those that a figure shows.

python experiments/013_emergence_statistics/bigbench.py FOLDER  writes bigbench.csv and shown.csv into it, and
prints the counts and the time. The curves are data/curves/bigbench of $LM_JAX_SHARED (default: ../shared)
"""

import os
import sys
import time
from pathlib import Path

import pandas as pd

from lm_jax.analysis import curve_table
from lm_jax.analysis.emergence import table

CURVES = "data/curves/bigbench/bigg_mc_maxshot.csv"
X = "n_params_nonembedding"
SHOWN = ("date_understanding", "hindu_knowledge", "sports_understanding", "figure_of_speech_detection")
WRITTEN = (
  "task", "n_items", "chance", "verdict", "breakthroughness", "null_p95", "q_value", "rise_q_value",
  "best_model", "best_model_share", "margin", "smooth_margin", "residual_scale", "threshold_status", "x50",
  "x50_low", "x50_high", "width_decades", "width_low", "width_high",
)  # fmt: skip


def shown(found: pd.DataFrame) -> pd.DataFrame:
  """Returns a row a point; what a fit is made of stands in each row of its task."""
  of_tasks = found.set_index("task").loc[list(SHOWN)].reset_index()
  of_tasks["fit_parameters"] = of_tasks["fit_parameters"].map(lambda own: " ".join(map(str, own)))
  points = of_tasks.explode(["sizes", "means"]).rename(columns={"sizes": X, "means": "accuracy"})
  return points[["task", X, "accuracy", "best_model", "fit_parameters", "fit_a", "fit_b"]]


def main() -> None:
  folder = Path(sys.argv[1])
  points = curve_table.read(Path(os.environ.get("LM_JAX_SHARED") or "../shared") / CURVES)
  start = time.perf_counter()
  found = table.analyze(points.rows, x=X)
  print(f"{len(found)} curves, 1000 resamples each: {time.perf_counter() - start:.1f} s")
  print(found["verdict"].value_counts())
  written = found.sort_values(["verdict", "task"])[list(WRITTEN)]
  # Of some curves nothing but the noise of rounding.
  written = written.assign(smooth_margin=written["smooth_margin"].astype(float).round(6))
  written.to_csv(folder / "bigbench.csv", index=False)
  shown(found).to_csv(folder / "shown.csv", index=False)


if __name__ == "__main__":
  main()
