"""What figures over size share: values of cells, means over seeds, their lines, and levels across."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from lm_jax.analysis import frame, headline, seed_intervals
from lm_jax.analysis.figures.figure_parts import Numbers
from lm_jax.analysis.figures.style import GREY, OTHER_MARKERS, OTHERS
from lm_jax.analysis.frame import ALL, COMPUTE, WINDOW, Study

SEED = ["family", "label", "cell_id", "seed", "value", "stderr"]
MEAN = ["family", "label", "value", "low", "high", "n_seeds"]
_SIGNS = dict(zip(OTHER_MARKERS, "◆■▲▼✚", strict=True))


def cell_values(rows: pd.DataFrame, metric: str, shots: str) -> pd.DataFrame:
  """Returns one row a cell with the `value` and `stderr` of a metric; cells without it are left out."""
  chosen = rows[(rows["metric"] == metric) & (rows["shots"] == shots) & rows["value"].notna()]
  keys = ["family", "label", "cell_id", "seed", "params_total", "params_nonembedding", *COMPUTE, "tokens"]
  return chosen.groupby(keys, as_index=False, sort=False, dropna=False)[["value", "stderr"]].mean()


def size_means(values: pd.DataFrame, x: str) -> pd.DataFrame:
  """Returns the mean over seeds of each size with its interval, in order of `x`."""
  means = seed_intervals.means(values, ["family", "label"])
  where = values.groupby(["family", "label"], as_index=False)[x].first()
  return means.merge(where, on=["family", "label"]).sort_values(x, kind="stable", ignore_index=True)


def joined(values: pd.DataFrame) -> bool:
  """Returns whether a line may join a family's sizes: not where one size was trained in several ways.

  Over budgets or learning rates such a line would go up and down between them.
  """
  sizes = values.drop_duplicates("label")["params_total"].dropna()
  return not sizes.duplicated().any()


def yardstick(
  ax: Axes, y: float | None, text: str, line: str, numbers: Numbers, **same: object
) -> list[tuple[float, str, str]]:
  """Draws a level across the axes and returns its label, none where the level is unknown."""
  if y is None:
    return []
  ax.axhline(y, color=GREY, linestyle=line, linewidth=0.8, zorder=1)
  numbers.add(pd.DataFrame({"value": [y]}), ["value"], kind=text, **same)
  return [(y, text, GREY)]


def yardsticks(ax: Axes, study: Study, rows: pd.DataFrame, task: str, metric: str, numbers: Numbers) -> list:
  summary = frame.summary_shots(rows)
  same = {"metric": metric, "shots": summary}
  chance = frame.chance(study, rows, task, metric, summary)
  best = study.tasks[task].bayes(metric, summary)
  return [
    *yardstick(ax, chance, "chance", "--", numbers, **same),
    *yardstick(ax, best, "Bayes-optimal", ":", numbers, **same),
  ]


def bounded(ax: Axes, metric: str) -> None:
  if metric in ("accuracy", "exact_match", "choice_prob"):
    ax.set_ylim(-0.03, 1.03)


def draw_others(
  ax: Axes, values: pd.DataFrame, x: str, main: str, numbers: Numbers, **same: object
) -> list[tuple[float, str, str]]:
  """Draws the families beside the main one, each with a marker, color and line of its own; returns labels."""
  entries = []
  families = [f for f in values["family"].drop_duplicates() if f != main]
  for i, family in enumerate(families):
    color, marker = OTHERS[i % len(OTHERS)], OTHER_MARKERS[i % len(OTHER_MARKERS)]
    own = values[values["family"] == family]
    ax.plot(own[x], own["value"], marker, color=color, markersize=2.5, alpha=0.45, markeredgewidth=0)
    numbers.add(own, [*SEED, x], kind="seed", **same)
    means = size_means(own, x)
    ax.plot(means[x], means["value"], "--" if joined(own) else "", marker=marker, color=color, markersize=5,
            markeredgecolor="white", markeredgewidth=0.5, linewidth=0.8)  # fmt: skip
    numbers.add(means, [*MEAN, x], kind="mean", **same)
    name = f"{means['label'].iloc[0]}, {family}" if len(means) == 1 else family
    entries.append((means["value"].iloc[-1], f"{_SIGNS[marker]} {name}", color))
  return entries


def draw_line(
  ax: Axes, values: pd.DataFrame, x: str, color: str, numbers: Numbers, *, seeds: bool, width: float = 1.3,
  **same: object,
) -> float:  # fmt: skip
  """Draws the means over seeds, and with `seeds` their interval and each as a dot; returns the last mean."""
  means, line = size_means(values, x), joined(values)
  if seeds:
    ax.plot(values[x], values["value"], "o", color=color, markersize=3, alpha=0.4, markeredgewidth=0)
    numbers.add(values, [*SEED, x], kind="seed", **same)
    several = means[means["n_seeds"] > 1]
    if not line:
      ax.vlines(several[x], several["low"], several["high"], color=color, alpha=0.3, linewidth=width)
      several = several[:0]
    edge = np.r_[several[["low"]].to_numpy(float), several[["high"]].to_numpy(float)[::-1]]
    along = np.r_[several[[x]].to_numpy(float), several[[x]].to_numpy(float)[::-1]]
    band = PolyCollection(
      [np.c_[along, edge]] if len(several) > 1 else [], color=color, alpha=0.12, linewidths=0
    )
    # The interval of two seeds can be far wider than what was measured: it sets no axis.
    ax.add_collection(band, autolim=False)
  style = "-o" if line else "o"
  ax.plot(means[x], means["value"], style, color=color, markersize=width * 2.2, linewidth=width)
  numbers.add(means, [*MEAN, x], kind="mean", **same)
  return float(means["value"].iloc[-1]) if len(means) else np.nan


def summary_name(info: frame.TaskInfo, summary: str) -> str:
  if summary == WINDOW and (name := headline.window_name(info)):
    return name
  return "all tokens" if summary == ALL else summary


def left_out(drawn: int, there: int, what: str) -> str:
  return f"; {drawn} of {there} {what} are drawn" if drawn < there else ""
