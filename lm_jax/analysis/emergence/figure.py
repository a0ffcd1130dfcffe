"""Curves whose seeds fall into two groups: the share of runs that are past a threshold, over size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis.emergence.seeds import share_past
from lm_jax.analysis.emergence.sentences import UNITS
from lm_jax.analysis.figures.figure_parts import key, log_x, some
from lm_jax.analysis.figures.lines import left_out
from lm_jax.analysis.figures.look import NAMES
from lm_jax.analysis.figures.style import GREY, HUES, MARKERS, TEXT_WIDTH

_KEY = (
  "marks: share of runs past, with Wilson's 95 % interval; curve: logistic of it; bars around one half: 95 % "
  "interval of the size where half are past, which goes on where a bar meets the frame"
)
_ASIDE = 0.006  # of the range, by which the marks of curves at the same sizes stand apart
_MOST, _BAR = 7, 0.022
_MARGIN = 0.05  # of the range, beside the sizes
_NAMED = ("shots", "group", "family")


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
  """Draws rows of `table.analyze` of one task and metric that have a `past_x50`, a color and marker each."""
  made = Figure(figsize=(TEXT_WIDTH, 2.9))
  ax = made.subplots()
  drawn = [rows[i] for i in some(len(rows), _MOST)]
  sizes = pd.Series([size for row in drawn for size in row["sizes"]])
  told = [name for name in _NAMED if len({row[name] for row in drawn}) > 1 or name == "family"]
  span = np.ptp(np.log10(sizes))
  aside, margin = 10 ** (_ASIDE * span), 10 ** (_MARGIN * span)
  ax.set_xlim(sizes.min() / margin, sizes.max() * margin)
  for i, (row, color, marker) in enumerate(zip(drawn, HUES, MARKERS, strict=False)):
    names = ", ".join([*(row[name] for name in told if row[name]), f"past {row['past_threshold']:.2g}"])
    _draw(ax, row, names, color, marker, aside**i, 0.5 + (i - (len(drawn) - 1) / 2) * _BAR)
  ax.axhline(0.5, color=GREY, linestyle=":", linewidth=0.8)
  log_x(ax, sizes)
  x, metric = rows[0]["x"], rows[0]["metric"]
  unit = UNITS.get(x, x)
  ax.set(ylim=(-0.04, 1.04), ylabel=f"Share of runs past\n({NAMES.get(metric, metric)})")
  ax.set_xlabel(unit[:1].upper() + unit[1:])
  ax.legend(frameon=False, fontsize=6.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
  key(ax, _KEY + left_out(len(drawn), len(rows), "curves"))
  return made


def numbers(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
  """Returns what `figure` draws, a line a size."""
  names = {"share": "fraction_past", "low": "fraction_past_low", "high": "fraction_past_high"}
  same = ("task", "metric", "shots", "group", "family", "x", "past_threshold", "past_x50", "past_x50_low",
          "past_x50_high", "past_width_decades")  # fmt: skip
  return pd.DataFrame([
    {name: row[name] for name in same} | {"size": size} | {n: row[c][s] for n, c in names.items()}
    for row in rows for s, size in enumerate(row["sizes"])
  ])  # fmt: skip


def _draw(ax: Axes, row: dict[str, Any], name: str, color: str, marker: str, aside: float, at: float) -> None:
  sizes = np.array(row["sizes"])
  share, low, high = (np.array(row[f"fraction_past{end}"]) for end in ("", "_low", "_high"))
  error = np.clip([share - low, high - share], 0, None)
  ax.errorbar(sizes * aside, share, error, fmt=marker, color=color, markersize=3.5, elinewidth=0.7,
              label=name)  # fmt: skip
  x50, width = np.log10(row["past_x50"]), row["past_width_decades"]
  fine = np.linspace(np.log10(sizes[0]), np.log10(sizes[-1]), 400)
  ax.plot(10**fine, share_past(fine, x50, width), color=color)
  least, most = ax.get_xlim()
  ends = row["past_x50_low"] or least, row["past_x50_high"] or most
  ax.plot(ends, [at, at], color=color, linewidth=2.5, alpha=0.4, solid_capstyle="butt")
