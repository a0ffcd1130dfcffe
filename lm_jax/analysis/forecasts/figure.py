"""The score card drawn: what was said of each rung, and what it came to."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis.figures.look import NAMES
from lm_jax.analysis.figures.style import GREY, INK, TEXT_WIDTH

INSIDE, OUTSIDE = "#0072B2", "#D55E00"  # of Okabe and Ito
MOST = 12  # lines of a metric; the last ones are drawn


def figure(card: pd.DataFrame) -> Figure:
  """Draws every forecast that has numbers, one panel a metric: bars of 95 and 50 %, and what was measured."""
  drawn = card[card["median"].notna()]
  metrics = list(drawn["metric"].drop_duplicates())
  lines = [drawn[drawn["metric"] == metric].tail(MOST) for metric in metrics]
  heights = [0.75 + 0.22 * len(own) for own in lines]
  made = Figure(figsize=(TEXT_WIDTH, sum(heights)))
  panels = made.subplots(len(metrics), 1, squeeze=False, height_ratios=heights)[:, 0]
  for ax, metric, own in zip(panels, metrics, lines, strict=True):
    _panel(ax, metric, own)
  return made


def _panel(ax: Axes, metric: str, own: pd.DataFrame) -> None:
  names = []
  for y, row in enumerate(own.itertuples()):
    ax.plot([row.low, row.high], [y, y], color=GREY, linewidth=1)
    ax.plot([row.low_50, row.high_50], [y, y], color=INK, linewidth=3, solid_capstyle="butt")
    if row.status == "scored":
      inside = bool(row.inside_95)
      ax.plot([row.observed], [y], "o" if inside else "X", color=INSIDE if inside else OUTSIDE, markersize=5,
              markeredgecolor="white", markeredgewidth=0.5, zorder=3)  # fmt: skip
    names.append(", ".join(str(part) for part in (row.task, row.shots, row.label) if pd.notna(part)))
  ax.set_yticks(range(len(own)), names, fontsize=6)
  ax.set_ylim(len(own) - 0.4, -0.6)
  ax.set_xlabel(NAMES.get(metric, metric))
  ax.grid(visible=False, axis="y")
