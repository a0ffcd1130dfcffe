"""One figure of a fit: predicted against observed loss with residuals below, and loss against compute.

Of isoFLOP profiles and envelopes: N* against compute, and the profiles, or loss against compute.
"""

import re

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.style import GREY, INK, STYLE, TEXT_WIDTH, palette
from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import allocation
from lm_jax.analysis.scaling_laws.summary import Summary

_LOSS = {"loss": "loss (nats/token)", "nll": "NLL (nats/token)", "bits_per_byte": "bits per byte"}
_HIGHLIGHT = "#D55E00"
_MAP = "viridis"


def encoded(summary: Summary, ending: str) -> bytes:
  """Returns the file of a fit's figure."""
  with mpl.rc_context(STYLE):
    return figure_parts.encoded(figure(summary), (ending,))[ending]


def figure(summary: Summary) -> Figure:
  """Returns the figure, to be drawn in the style of `style.STYLE`."""
  made = Figure(figsize=(TEXT_WIDTH * 1.3, 3.1))
  left, right = made.subfigures(1, 2, width_ratios=(1, 1.15))
  color = _colors(summary.points)
  if summary.fit is not None:
    above, below = left.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    _observed(above, below, summary, color)
  else:
    _sizes(left.subplots(), summary)
  ax = right.subplots()
  if summary.frontier is not None and summary.frontier.profiles:
    _profiles(ax, summary)
    return made
  _compute(ax, summary, color)
  scale = mpl.cm.ScalarMappable(_norm(summary.points), _MAP)
  bar = right.colorbar(scale, ax=ax, pad=0.02, aspect=30)
  bar.set_label("parameters $N$")
  bar.outline.set_visible(False)
  return made


def _norm(points: LossPoints) -> mpl.colors.Normalize:
  low, high = points.n_params.min(), points.n_params.max()
  # The bright end of the map is lost on white.
  return mpl.colors.LogNorm(low, high * (high / low) ** 0.15 if high > low else 2 * low)


def _colors(points: LossPoints) -> np.ndarray:
  return mpl.colormaps[_MAP](_norm(points)(points.n_params))


def _observed(above: Axes, below: Axes, summary: Summary, color: np.ndarray) -> None:
  points = summary.points
  predicted = summary.fit.predict(points)
  ends = [min(points.loss.min(), predicted.min()) * 0.98, max(points.loss.max(), predicted.max()) * 1.02]
  above.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
  above.scatter(predicted, points.loss, s=9, c=color, linewidths=0, alpha=0.85)
  below.axhline(0, color=GREY, linewidth=0.8, zorder=1)
  below.scatter(predicted, 100 * (points.loss / predicted - 1), s=9, c=color, linewidths=0, alpha=0.85)
  for ax in (above, below):
    ax.set_xscale("log")
    _plain(ax.xaxis)
  above.set_yscale("log")
  _plain(above.yaxis)
  above.set_ylabel(f"observed {_LOSS[points.metric]}")
  below.set_xlabel(f"predicted {_LOSS[points.metric]}")
  below.set_ylabel("residual (%)")
  above.set_title(_formula(f"L = {summary.fit.law.formula}"), loc="left", color=INK)


def _formula(text: str) -> str:
  """Returns a sum of powers as mathematics, another law as it is written."""
  named = re.sub(r"\^(alpha|beta)", r"^{\\\1}", text)
  return text if "(" in text or "'" in text else f"${named}$"


def _plain(axis: mpl.axis.Axis) -> None:
  """Writes numbers of a log axis of less than a decade or two as 2, 3, 5."""
  axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
  axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
  axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _compute(ax: Axes, summary: Summary, color: np.ndarray) -> None:
  points = summary.points
  ax.scatter(points.flops, points.loss, s=9, c=color, linewidths=0, alpha=0.7)
  ax.set_xscale("log")
  ax.set_yscale("log")
  figure_parts.powers(ax.xaxis)
  _plain(ax.yaxis)
  ax.set_xlabel("training compute $C$ (FLOPs)")
  ax.set_ylabel(_LOSS[points.metric])
  if summary.frontier is not None:
    for method, marker in zip(summary.frontier.exponents, "so", strict=False):
      rows = [r for r in summary.frontier.rows if r["method"] == method and r["loss"] is not None]
      ax.plot([r["flops"] for r in rows], [r["loss"] for r in rows], marker, color=_HIGHLIGHT, markersize=4,
              markerfacecolor="none" if marker == "s" else _HIGHLIGHT, label=method)  # fmt: skip
    ax.legend(frameon=False, fontsize=7)
    return
  curve = _optimal_curve(summary)
  if curve:
    flops = np.array([row["flops"] for row in curve])
    ax.plot(flops, [row["loss"] for row in curve], color=INK)
    bands = [row["loss_ci95"] for row in curve]
    if all(bands):
      low, high = np.array(bands).T
      ax.fill_between(flops, low, high, color=INK, alpha=0.15, linewidth=0)
    _name_optima(ax, curve)
    a = summary.fit.a
    ax.set_title(f"compute-optimal: $N^* \\propto C^{{{a:.3f}}}$", loc="left", color=INK)


def _optimal_curve(summary: Summary) -> list[dict]:
  if summary.fit.law.name != "chinchilla":
    return []
  low, high = summary.points.flops.min(), summary.points.flops.max()
  return allocation.rows(summary.fit, np.geomspace(low, 10 * high, 60), summary.refits)


def _name_optima(ax: Axes, curve: list[dict]) -> None:
  """Writes N* at a few budgets along the curve."""
  for i in np.linspace(12, len(curve) - 6, 4).astype(int):
    row = curve[i]
    ax.plot([row["flops"]], [row["loss"]], "o", color=_HIGHLIGHT, markersize=3.5, zorder=4)
    ax.annotate(f"$N^*$ {_short(row['n_params'])}", (row["flops"], row["loss"]), xytext=(-3, -4), ha="right",
                va="top", textcoords="offset points", fontsize=6.5, color=_HIGHLIGHT)  # fmt: skip


def _short(value: float) -> str:
  """Returns a count of parameters with a unit, e.g. 1.4B."""
  for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
    if value >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.3g}"


def _profiles(ax: Axes, summary: Summary) -> None:
  """Draws loss against N, a color a budget: points, both curves, and their minima."""
  frontier, loss = summary.frontier, summary.points.loss
  methods = list(zip(frontier.exponents, "so", ("--", "-"), strict=False))
  for i, (part, color) in enumerate(
    zip(frontier.profiles, palette(len(frontier.profiles), high=0.75), strict=True)
  ):
    ax.scatter(np.exp(part.log_n_P), part.loss_P, s=9, color=color, linewidths=0)
    log_n = np.linspace(part.log_n_S[0], part.log_n_S[-1], 200)
    for method, marker, style in methods:
      ax.plot(np.exp(log_n), part.curve(log_n, method), style, color=color, linewidth=0.9)
      row = [r for r in frontier.rows if r["method"] == method][i]
      if row["n_params"] is not None:
        ax.plot([row["n_params"]], [row["loss"]], marker, color=_HIGHLIGHT, markersize=4.5, zorder=4,
                markerfacecolor="none" if marker == "s" else _HIGHLIGHT)  # fmt: skip
    last = part.log_n_S[-1]
    ax.annotate(_power_of_ten(np.exp(part.log_c)), (np.exp(last), part.curve(last, "akima")), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=6.5, color=color)  # fmt: skip
  ax.set_xscale("log")
  ax.set_yscale("log")
  ax.set_ylim(loss.min() / 1.03, loss.max() * 1.03)
  # Room for the budgets at the curves' ends.
  low, high = summary.points.n_params.min(), summary.points.n_params.max()
  ax.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.22)
  _plain(ax.yaxis)
  ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
  ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: _short(value)))
  ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
  ax.set_xlabel("parameters $N$")
  ax.set_ylabel(_LOSS[summary.points.metric])
  keys = [
    mpl.lines.Line2D([], [], color=GREY, linestyle=style, linewidth=0.9, marker=marker, markersize=4.5,
                     markeredgecolor=_HIGHLIGHT, markerfacecolor="none" if marker == "s" else _HIGHLIGHT,
                     label=f"{method}, minimum")
    for method, marker, style in methods
  ]  # fmt: skip
  ax.set_title("isoFLOP profiles (FLOPs at the curves)", loc="left", color=INK)
  ax.legend(handles=keys, frameon=False, fontsize=7)


def _power_of_ten(value: float) -> str:
  mantissa, exponent = f"{value:.1e}".split("e")
  return f"${float(mantissa):g}\\times10^{{{int(exponent)}}}$"


def _sizes(ax: Axes, summary: Summary) -> None:
  largest = summary.points.flops
  budgets = np.geomspace(largest.min(), largest.max(), 40)
  rows = allocation.frontier_rows(summary.frontier, budgets, float(largest.max()))
  for (method, line), marker, style in zip(
    summary.frontier.exponents.items(), "so", ("--", "-"), strict=False
  ):
    optima = [r for r in summary.frontier.rows if r["method"] == method and r["n_params"] is not None]
    color = INK if style == "-" else GREY
    label = method if line["a"] is None else f"{method}: $N^* \\propto C^{{{line['a']:.3f}}}$"
    ax.plot([r["flops"] for r in optima], [r["n_params"] for r in optima], marker, color=color, markersize=4,
            markerfacecolor="none" if marker == "s" else color, label=label)  # fmt: skip
    own = [r for r in rows if r["method"] == method]
    ax.plot([r["flops"] for r in own], [r["n_params"] for r in own], style, color=color)
    if own and all(r["n_params_ci95"] for r in own):
      low, high = np.array([r["n_params_ci95"] for r in own]).T
      ax.fill_between(budgets, low, high, color=color, alpha=0.12, linewidth=0)
  ax.set_xscale("log")
  ax.set_yscale("log")
  figure_parts.powers(ax.xaxis)
  figure_parts.powers(ax.yaxis)
  ax.set_xlabel("training compute $C$ (FLOPs)")
  ax.set_ylabel("compute-optimal parameters $N^*$")
  ax.legend(frameon=False, fontsize=7)
