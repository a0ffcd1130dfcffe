"""Figures of what finished runs score, by size and by number of shots."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import frame, headline
from lm_jax.analysis.figures.figure_parts import Numbers, key, label_ends, log_x, new_figure, size_axis, some
from lm_jax.analysis.figures.lines import (
  MEAN,
  SEED,
  bounded,
  cell_values,
  draw_line,
  draw_others,
  joined,
  left_out,
  size_means,
  summary_name,
  yardstick,
  yardsticks,
)
from lm_jax.analysis.figures.look import NAMES, styles
from lm_jax.analysis.figures.style import GREY, INK, TEXT_WIDTH, palette
from lm_jax.analysis.frame import Study

MAX_SIZE_LINES = 24  # more, or letters at their ends, cannot be told apart


def shown_shots(info: frame.TaskInfo, rows: pd.DataFrame, most: int = 5) -> list[str]:
  """Returns a few numbers of shots before the summary window, for lines that can be told apart."""
  present = sorted({int(k) for k in rows["n_shots"].dropna()})
  start = info.shots[-info.window] if info.shots and info.window else np.inf
  before = [k for k in present if k < start]
  where = np.unique(np.round(np.geomspace(1, len(before), most)).astype(int) - 1) if before else []
  return [str(before[i]) for i in where]


def _draw_scaling(ax: Axes, study: Study, rows: pd.DataFrame, task: str, metric: str, x: str,
                  shots: list[str], numbers: Numbers) -> None:  # fmt: skip
  """Draws a metric of finished cells against `x`: thin lines for `shots`, a bold one for the summary."""
  info, main = study.tasks[task], headline.main_of(study, task)
  summary = frame.summary_shots(rows)
  bold = cell_values(rows, metric, summary)
  ends = []
  for k, color in zip(shots, palette(len(shots), "plasma", 0.75, 0.0), strict=True):
    values = cell_values(rows, metric, k)
    own = values[values["family"] == main]
    y = draw_line(ax, own, x, color, numbers, seeds=False, width=0.9, metric=metric, shots=k)
    ends.append((y, f"{k} shot" + "s" * (k != "1"), color))
  same = {"metric": metric, "shots": summary}
  y = draw_line(ax, bold[bold["family"] == main], x, INK, numbers, seeds=True, width=1.8, **same)
  ends.append((y, summary_name(info, summary), INK))
  log_x(ax, bold[x])
  ends += draw_others(ax, bold, x, main, numbers, **same)
  bounded(ax, metric)
  ends += yardsticks(ax, study, rows, task, metric, numbers)
  for k, color in zip(shots, palette(len(shots), "plasma", 0.75, 0.0), strict=True):
    best = info.bayes(metric, k)
    if best is not None:
      ax.plot([0.97, 1], [best] * 2, ":", color=color, linewidth=1.5, transform=ax.get_yaxis_transform())
      numbers.add(pd.DataFrame({"value": [best]}), ["value"], kind="Bayes-optimal", metric=metric, shots=k)
  ax.set_xlabel(NAMES[x])
  ax.set_ylabel(NAMES.get(metric, metric))
  size_axis(ax, size_means(bold[bold["family"] == main], x), x)
  label_ends(ax, ends if shots or len(ends) > 1 else [])
  bayes = "; short dotted marks at the right: Bayes-optimal for that number of shots"
  marks = "lines: mean over seeds; band: 95 % interval over seeds"
  if not joined(bold[bold["family"] == main]):
    marks = "marks: mean over seeds, not joined as a size was trained in several ways; bars: 95 % interval"
  key(ax, f"{marks}; faint dots: single seeds" + bayes * bool(shots and info.bayes_accuracy))


def scaling_figure(
  study: Study, rows: pd.DataFrame, task: str, metric: str, x: str, numbers: Numbers
) -> Figure:
  figure, (ax,) = new_figure()
  shots = shown_shots(study.tasks[task], rows) if metric not in ("bits_per_byte", "icl_score") else []
  _draw_scaling(ax, study, rows, task, metric, x, shots, numbers)
  return figure


def shots_figure(study: Study, rows: pd.DataFrame, task: str, numbers: Numbers) -> Figure:
  """Accuracy against the number of shots, a line a size; the band spans the seeds."""
  figure, (ax,) = new_figure()
  info, ends = study.tasks[task], []
  rows = rows[(rows["metric"] == "accuracy") & rows["n_shots"].notna() & rows["value"].notna()]
  sizes = styles(study, task)
  drawn = sizes.iloc[some(len(sizes), MAX_SIZE_LINES)]
  by_size = dict(list(rows.groupby(["family", "label"])))
  for look in drawn.itertuples():
    own = by_size.get((look.family, look.label))
    if own is None:
      continue
    stats = own.groupby("n_shots")["value"].agg(value="mean", least="min", greatest="max", n_seeds="count")
    x = stats.index.to_numpy(dtype=int)
    ax.plot(x, stats["value"], "-o" if look.main else "--D", color=look.color, markersize=2.5)
    ax.fill_between(x, stats["least"], stats["greatest"], color=look.color, alpha=0.15, linewidth=0)
    ends.append((stats["value"].iloc[-1], look.name, look.color))
    table = stats.reset_index(names="shots")
    numbers.add(table, list(table), kind="mean", metric="accuracy", family=look.family, label=look.label)
  if info.bayes_accuracy and info.shots:
    best = pd.Series({k: info.bayes("accuracy", str(k)) for k in info.shots})
    ax.plot(best.index, best, ":", color=INK, linewidth=1.5)
    ends.append((best.iloc[-1], "Bayes-optimal", INK))
    table = best.rename_axis("shots").rename("value").reset_index()
    numbers.add(table, ["shots", "value"], kind="Bayes-optimal", metric="accuracy")
  bounded(ax, "accuracy")
  ends += yardstick(ax, info.chance, "chance", "--", numbers, metric="accuracy")
  ax.set_xlabel("Number of shots (demonstrations before the query)")
  ax.set_ylabel(NAMES["accuracy"])
  ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
  label_ends(ax, ends)
  key(
    ax, "lines: mean over seeds; bands: least and greatest seed" + left_out(len(drawn), len(sizes), "sizes")
  )
  return figure


def pair_figure(
  study: Study, rows: pd.DataFrame, task: str, metrics: tuple[str, ...], numbers: Numbers
) -> Figure:
  """The same answers under a thresholded metric and under a continuous one (arXiv:2304.15004)."""
  figure, axes = new_figure(
    columns=len(metrics), height=2.3, width=TEXT_WIDTH * (1.25 if len(metrics) > 2 else 1)
  )
  main, summary = headline.main_of(study, task), frame.summary_shots(rows)
  for ax, metric in zip(axes, metrics, strict=True):
    values, same = cell_values(rows, metric, summary), {"metric": metric, "shots": summary}
    draw_line(
      ax,
      values[values["family"] == main],
      "params_total",
      INK,
      numbers,
      seeds=True,
      metric=metric,
      shots=summary,
    )
    entries = draw_others(ax, values, "params_total", main, numbers, **same)
    log_x(ax, values["params_total"])
    bounded(ax, metric)
    for y, text, color in yardsticks(ax, study, rows, task, metric, numbers):
      ax.annotate(text, (0.99, y), xycoords=("axes fraction", "data"), xytext=(0, 2), ha="right", fontsize=6,
                  textcoords="offset points", color=color)  # fmt: skip
    ax.set_xlabel(NAMES["params_total"])
    kind = "thresholded" if metric in ("accuracy", "exact_match") else "continuous"
    ax.set_title(f"{NAMES[metric]}\n{kind}", color=INK)
  for i, (_, text, color) in enumerate(entries):
    figure.text(0.01, -0.01 - 0.06 * i, text, color=color, fontsize=7, va="top")
  return figure


def seeds_figure(study: Study, rows: pd.DataFrame, task: str, metric: str, numbers: Numbers) -> Figure:
  """Every seed of every size as a dot with one standard error over its items, and the mean as a bar."""
  figure, (ax,) = new_figure()
  values = cell_values(rows, metric, frame.summary_shots(rows))
  looks = styles(study, task)
  by_size = dict(list(values.groupby(["family", "label"])))
  looks = looks[[(f, label) in by_size for f, label in zip(looks["family"], looks["label"], strict=True)]]
  drawn = looks.iloc[some(len(looks), MAX_SIZE_LINES)]
  same = {"metric": metric, "shots": frame.summary_shots(rows)}
  means_by_size = dict(list(size_means(values, "params_total").groupby(["family", "label"])))
  for place, look in enumerate(drawn.itertuples()):
    own = by_size[look.family, look.label].sort_values("seed")
    beside = place + 0.5 * (np.arange(len(own)) + 0.5) / len(own) - 0.25
    ax.errorbar(beside, own["value"], yerr=own["stderr"], fmt="o" if look.main else "D", color=look.color,
                markersize=2.5, elinewidth=0.6, alpha=0.8)  # fmt: skip
    numbers.add(own, [*SEED, "params_total"], kind="seed", **same)
    means = means_by_size[look.family, look.label]
    ax.plot([place - 0.35, place + 0.35], [means["value"].iloc[0]] * 2, color=look.color, linewidth=1.2)
    numbers.add(means, [*MEAN, "params_total"], kind="mean", **same)
  bounded(ax, metric)
  yardsticks(ax, study, rows, task, metric, numbers)
  ax.set_xticks(range(len(drawn)), drawn["name"].tolist(), rotation=35, ha="right", rotation_mode="anchor")
  ax.grid(visible=False, axis="x")
  ax.set_ylabel(NAMES.get(metric, metric))
  what = "dots: seeds, with one standard error over items; bars: their mean"
  figure.supxlabel(
    what + left_out(len(drawn), len(looks), "sizes"), x=0.01, ha="left", fontsize=6, color=GREY
  )
  return figure
