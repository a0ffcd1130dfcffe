"""Figures that several studies draw alike."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lm_jax.analysis.figures.style import GREY, HUES, MARKERS, TEXT_WIDTH


def dots(
  rows: pd.DataFrame, xlabel: str, *, log: bool = False, from_zero: bool = True, same_at: float | None = None
) -> Figure:
  """Draws values that have names: a line a label, and on it a mark for each group.

  Args:
    rows: "label", "group", "value" and, where known, "low" and "high", in the order in which they stand.
    same_at: where a line is drawn, at which two things are alike.
  """
  labels, groups = (list(dict.fromkeys(rows[name])) for name in ("label", "group"))
  # Letters of a legend that still fit into one line, with its marks.
  columns = len(groups) if sum(len(group) + 8 for group in groups) <= 80 else -(-len(groups) // 2)
  legend = 0.16 * -(-len(groups) // columns) * (len(groups) > 1)
  figure = Figure(figsize=(TEXT_WIDTH, 0.5 + legend + (0.16 + 0.05 * len(groups)) * len(labels)))
  ax = figure.subplots()
  present = rows.groupby("label")["group"].unique()
  for i, group in enumerate(groups):
    own = rows[rows["group"] == group]
    y = [labels.index(label) + _beside(group, present[label]) for label in own["label"]]
    ax.plot(own["value"], y, MARKERS[i], color=HUES[i], markersize=4, label=group)
    if "low" in own:
      ax.hlines(y, own["low"], own["high"], color=HUES[i], linewidth=0.9)
  if same_at is not None:
    ax.axvline(same_at, color=GREY, linestyle="--", linewidth=0.8)
  ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5), xlabel=xlabel)
  if log:
    ax.set_xscale("log")
  elif from_zero:
    ax.set_xlim(0, None)
  if len(groups) > 1:
    figure.legend(loc="outside upper center", ncols=columns, frameon=False)
  return figure


def _beside(group: str, present: np.ndarray) -> float:
  """Returns how far below its line a mark stands: marks of one line do not hide each other."""
  return 0.16 * (list(present).index(group) - (len(present) - 1) / 2)
