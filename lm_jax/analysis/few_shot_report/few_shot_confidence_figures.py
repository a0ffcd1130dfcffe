"""Figures of whether a model knows when it is right: reliability, selective accuracy, silence without answer.

Definitions are those of lm_jax/confidence.py and lm_jax/abstention.py; confidence is the largest p,
normalized over the choices, or of a written answer its log p / tokens.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax import confidence
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_frame import Results
from lm_jax.analysis.few_shot_report import few_shot_look
from lm_jax.analysis.figures.style import GREY, INK

_BARS = 20  # of a histogram
_BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}  # letters


def _answers(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
  """Returns the cells of a task whose items have choices, with the `answers` of each."""
  cells = rows.drop_duplicates("key")
  cells = cells.assign(answers=[few_shot_frame.answers(results.items[key]) for key in cells["key"]])
  return cells[cells["answers"].map(len) > 0]


def representative(cells: pd.DataFrame) -> pd.Series:
  """Returns the cell that stands for several: the default template where it is there, the lowest seed."""
  default = (cells["prompt_id"] != "default").astype(int)
  order = cells.assign(_default=default).sort_values(["_default", "seed"], kind="stable")
  return order.iloc[0]


def reliability(results: Results, rows: pd.DataFrame) -> Figure | None:
  """Draws accuracy against confidence, a row a series, a column a number of shots; histograms below.

  Args:
    rows: of one task, each model's last step.

  Returns:
    None where items have no choices.
  """
  cells = _answers(results, rows)
  if cells.empty:
    return None
  styles, shots = few_shot_look.styles(cells), few_shot_look.some(cells["n_shots"].unique())
  low = 1 / max(one["n_choices"].max() for one in cells["answers"])
  width = max(2.7, 1.65 * len(shots) + 0.6)
  figure = Figure(figsize=(width, 0.8 + 2.05 * len(styles)))
  axes = figure.subplots(
    2 * len(styles), len(shots), sharex=True, squeeze=False, height_ratios=[3.2, 1] * len(styles)
  )
  for i, (series, style) in enumerate(styles.items()):
    for j, k in enumerate(shots):
      own = cells[(cells["series"] == series) & (cells["n_shots"] == k)]
      _reliability_panel(axes[2 * i][j], axes[2 * i + 1][j], own, style.color, low)
      if i == 0:
        axes[0][j].set_title(few_shot_look.shots(k))
    axes[2 * i][0].set_ylabel(f"{_folded(series)}\n\nAccuracy", color=style.color)
    axes[2 * i + 1][0].set_ylabel("Items")
  for ax in axes[-1]:
    ax.set_xlabel("Confidence")
  several = cells.groupby(["series", "n_shots"])["key"].nunique().max() > 1
  items = few_shot_look.count(cells["answers"].map(len), "items")
  faint = "; bold: one seed and template (the default, if asked), faint: the others" if several else ""
  few_shot_look.key(
    figure, f"{cells['task'].iloc[0]}: {items}; 10 bins of equal mass; bars: 95 % Wilson intervals; dashed: "
    f"calibrated{faint}",
  )  # fmt: skip
  return figure


def _folded(series: str) -> str:
  return textwrap.fill(series, 20)


def _reliability_panel(upper: Axes, lower: Axes, cells: pd.DataFrame, color: str, low: float) -> None:
  upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=1)
  upper.set_ylim(-0.03, 1.03)
  upper.set_xlim(low - 0.03 * (1 - low), 1 + 0.03 * (1 - low))
  if cells.empty:
    _not_asked(upper)
    return
  chosen = representative(cells)
  for row in cells.itertuples():
    table = confidence.reliability(row.answers["confidence"].to_numpy(), row.answers["correct"].to_numpy())
    x, y = [b.confidence for b in table], [b.accuracy for b in table]
    if row.key != chosen["key"]:
      upper.plot(x, y, color=color, linewidth=0.5, alpha=0.3)
      continue
    # A share at 0 or 1 may lie outside its interval by rounding only.
    error = [
      [max(b.accuracy - b.interval.low, 0) for b in table],
      [max(b.interval.high - b.accuracy, 0) for b in table],
    ]
    upper.errorbar(x, y, yerr=error, fmt="-o", color=color, markersize=3, linewidth=0.8, elinewidth=0.7)
  own = chosen["answers"]
  ece = confidence.expected_calibration_error(own["confidence"].to_numpy(), own["correct"].to_numpy())
  upper.annotate(
    f"ECE {ece:.3f}", (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=6.5, bbox=_BEHIND
  )
  lower.hist(own["confidence"], bins=np.linspace(low, 1, _BARS + 1), color=color, alpha=0.55)
  lower.yaxis.get_major_locator().set_params(integer=True, nbins=2)


def _not_asked(ax: Axes) -> None:
  ax.annotate("not asked", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=6, color=GREY)


def selective(results: Results, rows: pd.DataFrame) -> Figure | None:
  """Draws the accuracy over the most confident items against their share, a panel a number of shots.

  Args:
    rows: of one task, each model's last step.

  Returns:
    None where items have no choices.
  """
  cells = _answers(results, rows)
  if cells.empty:
    return None
  styles, shots = few_shot_look.styles(cells), few_shot_look.some(cells["n_shots"].unique())
  figure = Figure(figsize=(max(3.2, 1.75 * len(shots) + 0.6), 2.5 + 0.13 * len(styles)))
  axes = figure.subplots(1, len(shots), sharey=True, squeeze=False)[0]
  chance = rows.loc[rows["metric"] == "accuracy", "chance"].dropna()
  for ax, k in zip(axes, shots, strict=True):
    for series, style in styles.items():
      own = cells[(cells["series"] == series) & (cells["n_shots"] == k)]
      if len(own):
        _selective_line(ax, own, style)
    if len(chance):
      ax.axhline(chance.iloc[0], color=GREY, linestyle=":", linewidth=0.9, zorder=1)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlim(0, 1.03)
    ax.set_title(few_shot_look.shots(k))
    ax.set_xlabel("Coverage (share answered)")
    ax.legend(loc="lower left", fontsize=6, frameon=False, handlelength=1.2, borderaxespad=0.1)
  axes[0].set_ylabel("Accuracy of what is answered")
  few_shot_look.legend(figure, styles)
  several = cells.groupby(["series", "n_shots"])["key"].nunique().max() > 1
  thin = "; thin: single seeds and templates, bold: their mean" if several else ""
  items = few_shot_look.count(cells["answers"].map(len), "items")
  few_shot_look.key(
    figure, f"{cells['task'].iloc[0]}: {items}; the least confident answers are withheld first; dot: all "
    f"answered; dotted: chance; AURC: area under 1 - accuracy, 0 is best{thin}",
  )  # fmt: skip
  return figure


def _selective_line(ax: Axes, cells: pd.DataFrame, style: few_shot_look.Style) -> None:
  curves, areas = [], []
  for one in cells["answers"]:
    curves.append(confidence.risk_coverage(one["confidence"].to_numpy(), one["correct"].to_numpy()))
    areas.append(confidence.aurc(one["confidence"].to_numpy(), one["correct"].to_numpy()))
  # Cells of fewer items, where some are too long, have steps of their own.
  coverage_N = max((curve.coverage_N for curve in curves), key=len)
  accuracy = [np.interp(coverage_N, curve.coverage_N, curve.accuracy_N) for curve in curves]
  for curve in accuracy if len(accuracy) > 1 else ():
    ax.plot(coverage_N, curve, style.line, color=style.color, linewidth=0.5, alpha=0.35)
  mean = np.mean(accuracy, axis=0)
  ax.plot(coverage_N, mean, style.line, color=style.color, linewidth=1.4,
          label=f"AURC {np.mean(areas):.3f}")  # fmt: skip
  ax.plot(1, mean[-1], style.marker, color=style.color, markersize=3.5)


def abstention(results: Results, rows: pd.DataFrame) -> Figure | None:
  """Draws the confidence of items with and without an answer, a row a series, a column a number of shots.

  Args:
    rows: of one task, each model's last step.

  Returns:
    None where no item has a threshold.
  """
  cells = rows.drop_duplicates("key")
  cells = cells.assign(items=[few_shot_frame.abstention(results.items[key]) for key in cells["key"]])
  cells = cells[cells["items"].map(len) > 0]
  if cells.empty:
    return None
  styles, shots = few_shot_look.styles(cells), few_shot_look.some(cells["n_shots"].unique())
  figure = Figure(figsize=(max(3.2, 1.9 * len(shots) + 0.6), 0.8 + 1.7 * len(styles)))
  axes = figure.subplots(len(styles), len(shots), sharex=True, sharey="row", squeeze=False)
  bins = _bins_of(cells["items"])
  for i, (series, style) in enumerate(styles.items()):
    for j, k in enumerate(shots):
      own = cells[(cells["series"] == series) & (cells["n_shots"] == k)]
      if own.empty:
        _not_asked(axes[i][j])
      else:
        chosen = representative(own)
        scores = rows[rows["key"] == chosen["key"]].set_index("metric")["value"]
        _abstention_panel(axes[i][j], chosen["items"], scores, style.color, bins)
      if i == 0:
        axes[0][j].set_title(few_shot_look.shots(k))
    axes[i][0].set_ylabel(f"{_folded(series)}\n\nShare of items", color=style.color)
  for ax in axes[-1]:
    ax.set_xlabel("Confidence" if bins[-1] > 0 else "Confidence (nats/token)")
  several = cells.groupby(["series", "n_shots"])["key"].nunique().max() > 1
  kinds = [
    cells["items"].map(lambda items, kind=kind: (items["answerable"] == kind).sum()) for kind in (1, 0)
  ]
  with_answer, without = (few_shot_look.count(of, "items") for of in kinds)
  one = "; one seed and template (the default, if asked)" if several else ""
  empty = any(np.isneginf(items["confidence"]).any() for items in cells["items"])
  wordless = "; answers without words have no bar" if empty else ""
  few_shot_look.key(
    figure, f"{cells['task'].iloc[0]}: solid: {with_answer} with an answer, dashed: {without} that have "
    "none; dotted: thresholds below which answers are withheld, of each half of the items the best for the "
    "other half; silent: share of all items withheld; hallucinates: share of those without an answer that "
    f"are answered{wordless}{one}",
  )  # fmt: skip
  return figure


def _bins_of(tables: pd.Series) -> np.ndarray:
  """Returns the edges of the bars: from the least confidence of all cells to the greatest, 1 for choices."""
  finite = np.concatenate([items["confidence"][np.isfinite(items["confidence"])] for items in tables])
  low, high = (finite.min(), finite.max()) if len(finite) else (-1.0, 0.0)
  high = 1.0 if high > 0 else high
  return np.linspace(min(low, high - 1e-3), high, _BARS + 1)


def _abstention_panel(ax: Axes, items: pd.DataFrame, scores: pd.Series, color: str, bins: np.ndarray) -> None:
  has_answer = items["answerable"].to_numpy(bool)
  for own, c, line in ((has_answer, color, "-"), (~has_answer, INK, "--")):
    sure = items["confidence"].to_numpy()[own]
    # Without words there is no bar, and bars add up to the share of the others.
    worded = sure[np.isfinite(sure)]
    ax.hist(worded, bins, weights=np.full(len(worded), 1 / max(1, len(sure))), histtype="step", color=c,
            linestyle=line, linewidth=1.1)  # fmt: skip
  thresholds = items["threshold"].drop_duplicates().sort_values()
  for threshold in thresholds[np.isfinite(thresholds)]:
    ax.axvline(threshold, color=GREY, linestyle=":", linewidth=0.9)
  named = " and ".join(f"{threshold:.2f}" if np.isfinite(threshold) else "∞" for threshold in thresholds)
  named = named.replace("-", "−")  # as on the axis
  ax.annotate(
    f"AUROC {scores['abstention_auroc']:.3f}\nthreshold {named}\nsilent {scores['abstention_rate']:.0%}, "
    f"hallucinates {scores['hallucination_rate']:.0%}",
    (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=6, bbox=_BEHIND,
  )  # fmt: skip
  ax.margins(y=0.35)
