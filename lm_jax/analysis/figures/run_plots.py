"""Figures along training: every run, against steps or compute."""

import collections

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from lm_jax.analysis import frame
from lm_jax.analysis.figures.figure_parts import Numbers, key, label_ends, log_x, new_figure, some
from lm_jax.analysis.figures.lines import bounded, left_out, summary_name, yardsticks
from lm_jax.analysis.figures.look import DIRECTIONS, NAMES, styles
from lm_jax.analysis.figures.style import INK
from lm_jax.analysis.frame import WINDOW, Study

# More cannot be told apart.
MAX_RUNS, MAX_RUN_POINTS, MAX_DOTS = 300, 200, 1500


def _draw_runs(
  ax: Axes, study: Study, rows: pd.DataFrame, task: str, x: str, metric: str, numbers: Numbers
) -> list:
  """Draws a line a run, colored by size (dotted: not finished), and returns the labels of the ends."""
  kept = rows[(rows[x] > 0) & rows["value"].notna()].sort_values(["cell_id", "step"])
  columns = list(dict.fromkeys(("step", x, "value")))
  known = ["family", "label", "cell_id", "seed", "params_total", "finished"]
  cells = study.cells.loc[study.cells["cell_id"].isin(kept["cell_id"]), known]
  cells = cells.sort_values(["params_total", "family", "label", "seed"], kind="stable")
  drawn = cells.iloc[some(len(cells), MAX_RUNS)]
  runs = kept[["cell_id", *columns]].merge(drawn, on="cell_id")
  blocks = runs.groupby("cell_id", sort=False).indices.values()
  blocks = [rows[some(len(rows), MAX_RUN_POINTS)] for rows in blocks]
  if blocks:
    numbers.add(runs.iloc[np.concatenate(blocks)], [*known, *columns], kind="run", metric=metric)
  looks = {(s.family, s.label): s for s in styles(study, task).itertuples()}
  points_P2 = runs[[x, "value"]].to_numpy(np.float64)
  sizes, finished = list(zip(runs["family"], runs["label"], strict=True)), runs["finished"].to_numpy()
  # Runs that are drawn alike are drawn at once.
  segments, last = collections.defaultdict(list), collections.defaultdict(list)
  for block in blocks:
    look, done = looks[sizes[block[0]]], finished[block[0]]
    segments[look.color, ("-" if look.main else "--") if done else ":"].append(points_P2[block])
    if done:
      last[look].append(points_P2[block[-1]])
  for (color, line), lines in segments.items():
    ax.add_collection(LineCollection(lines, colors=color, linestyles=line, linewidths=0.9, alpha=0.8))
  for look, ends in last.items():
    ax.plot(*np.transpose(ends), "o", color=look.color, markersize=2.5)
  ax.autoscale_view()
  log_x(ax, kept[x])
  ax.set_xlabel(NAMES[x])
  dotted = "; dotted: not finished" * (not drawn["finished"].all())
  key(ax, f"a line a run{dotted}" + left_out(len(drawn), len(cells), "runs"))
  return [(float(np.mean(ends, axis=0)[1]), look.name, look.color) for look, ends in last.items()]


def loss_figure(study: Study, rows: pd.DataFrame, task: str, numbers: Numbers) -> Figure:
  figure, (ax,) = new_figure()
  ends = _draw_runs(ax, study, rows, task, "step", "loss", numbers)
  ax.set_ylabel(NAMES["loss"])
  label_ends(ax, ends)
  return figure


def training_figure(study: Study, rows: pd.DataFrame, task: str, metric: str, numbers: Numbers) -> Figure:
  """A metric along training against compute: what more steps alone would have bought."""
  figure, (ax,) = new_figure()
  summary = frame.summary_shots(rows)
  own = rows[(rows["metric"] == metric) & (rows["shots"] == summary)]
  ends = _draw_runs(ax, study, own, task, "flops_exact", metric, numbers)
  bounded(ax, metric)
  ends += yardsticks(ax, study, rows, task, metric, numbers)
  name = NAMES.get(metric, metric)
  ax.set_ylabel(f"{name}, {summary_name(study.tasks[task], summary)}" if summary == WINDOW else name)
  label_ends(ax, ends)
  return figure


def envelope(x: np.ndarray, y: np.ndarray, direction: str) -> np.ndarray:
  """Returns the places of points that no point of as little `x` is better than, in order of x."""
  gain = y if direction == "higher" else -y
  order = np.lexsort((-gain, x))
  best = np.maximum.accumulate(gain[order])
  return order[np.diff(best, prepend=-np.inf) > 0]


def pareto_figure(study: Study, rows: pd.DataFrame, task: str, metric: str, numbers: Numbers) -> Figure:
  """Every evaluation of every run against compute, and the best there is at this compute or less."""
  figure, (ax,) = new_figure()
  chosen = rows[(rows["metric"] == metric) & (rows["shots"] == frame.summary_shots(rows))]
  points = chosen[chosen["value"].notna() & (chosen["flops_exact"] > 0)].reset_index(drop=True)
  columns = ["family", "label", "cell_id", "seed", "step", "flops_exact", "value"]
  same = {"metric": metric, "shots": frame.summary_shots(rows)}
  drawn = points.iloc[some(len(points), MAX_DOTS)]
  looks = styles(study, task).set_index(["family", "label"])["color"]
  colors = [looks[f, label] for f, label in zip(drawn["family"], drawn["label"], strict=True)]
  ax.scatter(drawn["flops_exact"], drawn["value"], s=5, c=colors, linewidths=0, alpha=0.6)
  numbers.add(drawn, columns, kind="evaluation", **same)
  best = points.iloc[
    envelope(points["flops_exact"].to_numpy(), points["value"].to_numpy(), DIRECTIONS[metric])
  ]
  ax.step(best["flops_exact"], best["value"], where="post", color=INK, linewidth=1.4)
  numbers.add(best, columns, kind="best", **same)
  log_x(ax, points["flops_exact"])
  bounded(ax, metric)
  yardsticks(ax, study, rows, task, metric, numbers)
  ax.set_xlabel(NAMES["flops_exact"])
  ax.set_ylabel(NAMES.get(metric, metric))
  key(ax, "dots: every evaluation of every run, colored by size; line: the best at this compute or less"
      + left_out(len(drawn), len(points), "evaluations"))  # fmt: skip
  return figure
