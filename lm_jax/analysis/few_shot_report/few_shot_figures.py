"""Figures of few-shot scores: against the number of shots, over prompts, against size or training steps."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from lm_jax import uncertainty
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_frame import Results
from lm_jax.analysis.few_shot_report import few_shot_look
from lm_jax.analysis.few_shot_report.few_shot_look import Style
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.style import GREY, TEXT_WIDTH

_LETTERS = 16  # of a model's name above a panel
_DODGE = 2.0  # points between models at the same place of an axis
_SOURCES = {"template": "templates", "seed": "seeds", "seed_template": "both together", "items": "items"}


def against_shots(rows: pd.DataFrame, means: pd.DataFrame, metrics: list[str]) -> Figure | None:
  """Draws each metric against the number of shots: models bold, single seeds and templates thin.

  Args:
    rows: of one task, each model's last step.
    means: of the same.
    metrics: a panel each.

  Returns:
    None where no score is there.
  """
  if means["value"].isna().all():
    return None
  styles = few_shot_look.styles(rows)
  figure, axes = figure_parts.new_figure(len(metrics), 2.6, TEXT_WIDTH * (1.2 if len(metrics) > 1 else 0.8))
  for ax, metric in zip(axes, metrics, strict=True):
    own, of_cells = means[means["metric"] == metric], rows[rows["metric"] == metric]
    for i, (series, style) in enumerate(styles.items()):
      for single in _lines(of_cells[of_cells["series"] == series]):
        ax.plot(single["n_shots"], single["value"], style.line, color=style.color, linewidth=0.5, alpha=0.45)
      line = own[own["series"] == series].sort_values("n_shots")
      _bold(ax, line["n_shots"], line, style, i - (len(styles) - 1) / 2)
    _chance(ax, own)
    _shots_axis(ax, sorted(own["n_shots"].unique()))
    ax.set_title(_title(metric))
  few_shot_look.legend(figure, styles)
  several = (means["n_cells"] > 1).any()
  what = "bold: mean over seeds and templates, thin: each of them; " if several else ""
  bars = "bars: one standard error" + (" over items, seeds and templates" if several else " over items")
  few_shot_look.key(figure, f"{_items(means, metrics)}; {what}{bars}")
  return figure


def _lines(cells: pd.DataFrame) -> Iterator[pd.DataFrame]:
  """Yields the cells of each seed and template; the one without demonstrations, and so seed, begins all."""
  if len(cells) and cells.groupby("n_shots").size().max() > 1:
    for _, of_template in cells.groupby("prompt_id", dropna=False, sort=False):
      zero = of_template[of_template["seed"].isna()]
      seeds = [one for _, one in of_template.groupby("seed", sort=False)] or [zero.iloc[:0]]
      for one in seeds:
        yield pd.concat([zero, one]).sort_values("n_shots")


def _bold(ax: Axes, x: pd.Series, line: pd.DataFrame, style: Style, place: float, **options) -> None:
  """Draws means with their standard errors, `place` steps to the side of others."""
  # Axes take no account of what is drawn beside its place.
  for bound in (line["value"] - line["stderr"].fillna(0), line["value"] + line["stderr"].fillna(0)):
    ax.update_datalim(np.column_stack([x, bound])[bound.notna()])
  beside = ax.transData + ScaledTranslation(place * _DODGE / 72, 0, ax.get_figure().dpi_scale_trans)
  ax.errorbar(
    x, line["value"], yerr=line["stderr"], color=style.color, marker=style.marker, markersize=3.2,
    transform=beside, **{"linestyle": style.line, "linewidth": 1.5, "elinewidth": 0.7} | options,
  )  # fmt: skip


def _chance(ax: Axes, own: pd.DataFrame) -> None:
  for chance in own["chance"].dropna().round(6).unique()[:1]:
    ax.axhline(chance, color=GREY, linestyle=":", linewidth=0.9, zorder=1)
    ax.annotate("chance", (1.01, chance), xycoords=("axes fraction", "data"), va="center", fontsize=6,
                color=GREY, annotation_clip=False)  # fmt: skip


def _shots_axis(ax: Axes, shots: list[float]) -> None:
  if max(shots) > 4:  # 0 and 1 have their place, and from there on doublings are equally far apart
    ax.set_xscale("symlog", base=2, linthresh=1, linscale=0.7)
  ax.set_xticks(shots, [str(int(k)) for k in shots])
  ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
  ax.set_xlabel("Shots (demonstrations before the query)")


def _title(metric: str) -> str:
  kinds = {"discontinuous": few_shot_look.DISCONTINUOUS, "continuous": few_shot_look.CONTINUOUS}
  kind = next((f"\n{kind}" for kind, metrics in kinds.items() if metric in metrics), "")
  return few_shot_look.name(metric) + kind


def _items(means: pd.DataFrame, metrics: list[str]) -> str:
  own = means[means["metric"].isin(metrics)]
  return f"{own['task'].iloc[0]}: {few_shot_look.count(own['n_items'], 'items')}"


# --- seeds and templates --------------------------------------------------------------------------------


def over_prompts(results: Results, rows: pd.DataFrame, metric: str) -> Figure | None:
  """Draws the score of every seed and template, and how far each of them, and items, move a score.

  Args:
    rows: of one task, each model's last step.

  Returns:
    None where each model was asked with one seed and template.
  """
  rows = rows[(rows["metric"] == metric) & rows["value"].notna()]
  cells = rows.groupby(["series", "n_shots"])["key"].transform("size")
  rows = rows[cells > 1]
  if rows.empty:
    return None
  styles, shots = few_shot_look.styles(rows), few_shot_look.some(rows["n_shots"].unique())
  templates = list(rows["prompt_id"].drop_duplicates())
  height = 1.7 + 0.24 * len(templates) + 0.3 * len(_SOURCES) + 0.09 * len(styles) * len(templates)
  figure = Figure(figsize=(TEXT_WIDTH * (0.8 if len(shots) == 1 else 1.2), height))
  ratios = [0.3 + len(templates) * (0.24 + 0.09 * len(styles)), 0.3 * len(_SOURCES) + 0.3]
  axes = figure.subplots(2, len(shots), sharex="row", sharey="row", squeeze=False, height_ratios=ratios)
  for column, k in enumerate(shots):
    of_shots = rows[rows["n_shots"] == k]
    _dots(axes[0][column], of_shots, styles, templates)
    _sources(axes[1][column], results, of_shots, styles)
    axes[0][column].set_title(few_shot_look.shots(k))
    axes[0][column].set_xlabel(few_shot_look.name(metric))
    axes[1][column].set_xlabel("Standard deviation of the score")
  axes[0][0].set_ylabel("Template")
  axes[1][0].set_ylabel("Due to")
  few_shot_look.legend(figure, styles)
  items = few_shot_look.count(rows["n_items"], "items")
  few_shot_look.key(
    figure, f"{rows['task'].iloc[0]}: {items}; above: dots are seeds of demonstrations, bars their mean, "
    "dashed the mean of all; below: how far another draw of each would move the score (square root of a "
    "variance component, 0 where its estimate is below; items: of this many; –: there is one only)",
  )  # fmt: skip
  return figure


def _dots(ax: Axes, rows: pd.DataFrame, styles: dict[str, Style], templates: list[str]) -> None:
  step = 0.7 / len(styles)
  for i, (series, style) in enumerate(styles.items()):
    own = rows[rows["series"] == series]
    if own.empty:
      continue
    y = own["prompt_id"].map(templates.index) + (i - (len(styles) - 1) / 2) * step
    ax.plot(own["value"], y, style.marker, color=style.color, markersize=3.5, alpha=0.6, markeredgewidth=0)
    for place, value in own["value"].groupby(y).mean().items():
      ax.plot([value] * 2, [place - 0.4 * step, place + 0.4 * step], color=style.color, linewidth=1.8)
    ax.axvline(own["value"].mean(), color=style.color, linestyle="--", linewidth=0.7, zorder=1)
  for chance in rows["chance"].dropna().unique()[:1]:
    ax.axvline(chance, color=GREY, linestyle=":", linewidth=0.9, zorder=1)
    ax.annotate("chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(2, -2), va="top",
                textcoords="offset points", fontsize=6, color=GREY)  # fmt: skip
  ax.set_ylim(len(templates) - 0.5, -0.5)
  ax.set_yticks(range(len(templates)), templates)


def _sources(ax: Axes, results: Results, rows: pd.DataFrame, styles: dict[str, Style]) -> None:
  step = 0.75 / len(styles)
  for i, (series, style) in enumerate(styles.items()):
    own = rows[rows["series"] == series]
    v = few_shot_frame.components(results, own) if len(own) else None
    deviations = {} if v is None else standard_deviations(v)
    for j, source in enumerate(_SOURCES):
      place = j + (i - (len(styles) - 1) / 2) * step
      if source in deviations:
        ax.barh(place, deviations[source], height=0.8 * step, color=style.color)
      else:
        ax.annotate("–", (0, place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6,
                    color=style.color)  # fmt: skip
  ax.set_ylim(len(_SOURCES) - 0.5, -0.5)
  ax.set_yticks(range(len(_SOURCES)), list(_SOURCES.values()))
  ax.set_xlim(left=0)
  ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))


def standard_deviations(v: uncertainty.VarianceComponents) -> dict[str, float]:
  """Returns how far another draw of each source would move the score of one prompt, those that are known."""
  of_items = [v.item, v.item_seed, v.item_template, v.residual]
  variances = {
    "template": v.template, "seed": v.seed, "seed_template": v.seed_template,
    "items": sum(max(x, 0) for x in of_items if x is not None) / v.n_items if v.item is not None else None,
  }  # fmt: skip
  return {name: float(np.sqrt(max(x, 0))) for name, x in variances.items() if x is not None}


# --- size, steps ----------------------------------------------------------------------------------------


def against_size(means: pd.DataFrame, metrics: list[str]) -> Figure | None:
  """Draws each metric against parameters, a color a family; None where all models have one size.

  Args:
    means: of one task, each model's last step.
  """
  own = means[means["params_total"].notna()]
  if own["params_total"].nunique() < 2:
    return None
  lines = own.assign(line=own[["family", "variant"]].fillna("").agg(", ".join, axis=1).str.strip(", "))
  return _along(lines, metrics, "params_total")


def against_step(means: pd.DataFrame, metrics: list[str]) -> Figure | None:
  """Draws each metric against training steps, a color a model; None where each has one step.

  Args:
    means: of one task, all steps.
  """
  own = means[means["step"].notna()]
  several = own.groupby("series")["step"].transform("nunique") > 1
  return _along(own[several].assign(line=own["series"]), metrics, "step") if several.any() else None


def _along(means: pd.DataFrame, metrics: list[str], x: str) -> Figure:
  """Draws most shots bold and fewest shots thin and dashed."""
  height = 3.3 if x == "params_total" else 2.7  # with names above
  width = TEXT_WIDTH * (1.2 if len(metrics) > 1 else 0.8)
  figure, axes = figure_parts.new_figure(len(metrics), height, width)
  lines = means["line"].drop_duplicates()
  as_names = means.assign(series=means["line"], name=means["line"], variant="")
  styles = few_shot_look.styles(as_names)
  most, fewest = means["n_shots"].max(), means["n_shots"].min()
  for ax, metric in zip(axes, metrics, strict=True):
    own = means[means["metric"] == metric]
    for i, line in enumerate(lines):
      for k in dict.fromkeys((fewest, most)):
        points = own[(own["line"] == line) & (own["n_shots"] == k)].sort_values(x)
        thin = {} if k == most else {"linestyle": "--", "linewidth": 0.8, "alpha": 0.7}
        _bold(ax, points[x], points, styles[line], i - (len(lines) - 1) / 2, **thin)
    _chance(ax, own)
    figure_parts.log_x(ax, own[x])
    ax.set_xlabel(few_shot_look.NAMES[x])
    ax.set_title(_title(metric))
    if x == "params_total":
      _model_axis(ax, own)
  few_shot_look.legend(figure, styles)
  thin = (
    "" if most == fewest else f"bold: {few_shot_look.shots(most)}, dashed: {few_shot_look.shots(fewest)}; "
  )
  few_shot_look.key(figure, f"{_items(means, metrics)}; {thin}bars: one standard error")
  return figure


def _model_axis(ax: Axes, means: pd.DataFrame) -> None:
  models = means.drop_duplicates("params_total")
  labels = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in models["name"]]
  figure_parts.size_axis(ax, models.assign(label=labels), "params_total")
