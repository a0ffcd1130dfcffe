"""Figures for a paper, by matplotlib: vector text, and labels beside the lines."""

import collections
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from lm_jax.analysis import frame, headline, seed_intervals
from lm_jax.analysis.figures.figure_parts import (
  Drawing,
  Numbers,
  encoded,
  file_part,
  key,
  label_ends,
  log_x,
  new_figure,
  size_axis,
  some,
)
from lm_jax.analysis.figures.look import DIRECTIONS, NAMES, styles
from lm_jax.analysis.figures.style import (
  FORMATS,
  GREY,
  INK,
  OTHER_MARKERS,
  OTHERS,
  STYLE,
  TEXT_WIDTH,
  palette,
)
from lm_jax.analysis.frame import ALL, COMPUTE, WINDOW, Study

# More lines, or letters at their ends, than these cannot be told apart.
MAX_RUNS, MAX_SIZE_LINES = 300, 24
MAX_RUN_POINTS, MAX_DOTS = 200, 1500


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


def shown_shots(info: frame.TaskInfo, rows: pd.DataFrame, most: int = 5) -> list[str]:
  """Returns a few numbers of shots before the summary window, for lines that can be told apart."""
  present = sorted({int(k) for k in rows["n_shots"].dropna()})
  start = info.shots[-info.window] if info.shots and info.window else np.inf
  before = [k for k in present if k < start]
  where = np.unique(np.round(np.geomspace(1, len(before), most)).astype(int) - 1) if before else []
  return [str(before[i]) for i in where]


# --- pieces of a figure -------------------------------------------------------------------------


def _yardstick(
  ax: Axes, y: float | None, text: str, line: str, numbers: Numbers, **same: object
) -> list[tuple[float, str, str]]:
  """Draws a level across the axes and returns its label, none where the level is unknown."""
  if y is None:
    return []
  ax.axhline(y, color=GREY, linestyle=line, linewidth=0.8, zorder=1)
  numbers.add(pd.DataFrame({"value": [y]}), ["value"], kind=text, **same)
  return [(y, text, GREY)]


def _yardsticks(ax: Axes, study: Study, rows: pd.DataFrame, task: str, metric: str, numbers: Numbers) -> list:
  summary = frame.summary_shots(rows)
  same = {"metric": metric, "shots": summary}
  chance = frame.chance(study, rows, task, metric, summary)
  best = study.tasks[task].bayes(metric, summary)
  return [
    *_yardstick(ax, chance, "chance", "--", numbers, **same),
    *_yardstick(ax, best, "Bayes-optimal", ":", numbers, **same),
  ]


def _bounded(ax: Axes, metric: str) -> None:
  if metric in ("accuracy", "exact_match", "choice_prob"):
    ax.set_ylim(-0.03, 1.03)


def _others(
  ax: Axes, values: pd.DataFrame, x: str, main: str, numbers: Numbers, **same: object
) -> list[tuple[float, str, str]]:
  """Draws the families beside the main one, each with a marker, color and line of its own; returns labels."""
  entries = []
  families = [f for f in values["family"].drop_duplicates() if f != main]
  for i, family in enumerate(families):
    color, marker = OTHERS[i % len(OTHERS)], OTHER_MARKERS[i % len(OTHER_MARKERS)]
    own = values[values["family"] == family]
    ax.plot(own[x], own["value"], marker, color=color, markersize=2.5, alpha=0.45, markeredgewidth=0)
    numbers.add(own, [*_SEED, x], kind="seed", **same)
    means = size_means(own, x)
    ax.plot(means[x], means["value"], "--" if joined(own) else "", marker=marker, color=color, markersize=5,
            markeredgecolor="white", markeredgewidth=0.5, linewidth=0.8)  # fmt: skip
    numbers.add(means, [*_MEAN, x], kind="mean", **same)
    name = f"{means['label'].iloc[0]}, {family}" if len(means) == 1 else family
    entries.append((means["value"].iloc[-1], f"{_SIGNS[marker]} {name}", color))
  return entries


_SEED = ["family", "label", "cell_id", "seed", "value", "stderr"]
_MEAN = ["family", "label", "value", "low", "high", "n_seeds"]
_SIGNS = dict(zip(OTHER_MARKERS, "◆■▲▼✚", strict=True))


def _line(
  ax: Axes, values: pd.DataFrame, x: str, color: str, numbers: Numbers, *, seeds: bool, width: float = 1.3,
  **same: object,
) -> float:  # fmt: skip
  """Draws the means over seeds, and with `seeds` their interval and each as a dot; returns the last mean."""
  means, line = size_means(values, x), joined(values)
  if seeds:
    ax.plot(values[x], values["value"], "o", color=color, markersize=3, alpha=0.4, markeredgewidth=0)
    numbers.add(values, [*_SEED, x], kind="seed", **same)
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
  numbers.add(means, [*_MEAN, x], kind="mean", **same)
  return float(means["value"].iloc[-1]) if len(means) else np.nan


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
    y = _line(ax, own, x, color, numbers, seeds=False, width=0.9, metric=metric, shots=k)
    ends.append((y, f"{k} shot" + "s" * (k != "1"), color))
  same = {"metric": metric, "shots": summary}
  y = _line(ax, bold[bold["family"] == main], x, INK, numbers, seeds=True, width=1.8, **same)
  ends.append((y, _summary_name(info, summary), INK))
  log_x(ax, bold[x])
  ends += _others(ax, bold, x, main, numbers, **same)
  _bounded(ax, metric)
  ends += _yardsticks(ax, study, rows, task, metric, numbers)
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


def _summary_name(info: frame.TaskInfo, summary: str) -> str:
  if summary == WINDOW and headline.window_name(info):
    return headline.window_name(info)
  return "all tokens" if summary == ALL else summary


# --- figures ------------------------------------------------------------------------------------


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
  _bounded(ax, "accuracy")
  ends += _yardstick(ax, info.chance, "chance", "--", numbers, metric="accuracy")
  ax.set_xlabel("Number of shots (demonstrations before the query)")
  ax.set_ylabel(NAMES["accuracy"])
  ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
  label_ends(ax, ends)
  key(
    ax, "lines: mean over seeds; bands: least and greatest seed" + _left_out(len(drawn), len(sizes), "sizes")
  )
  return figure


def _left_out(drawn: int, there: int, what: str) -> str:
  return f"; {drawn} of {there} {what} are drawn" if drawn < there else ""


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
    _line(ax, values[values["family"] == main], "params_total", INK, numbers, seeds=True, **same)
    entries = _others(ax, values, "params_total", main, numbers, **same)
    log_x(ax, values["params_total"])
    _bounded(ax, metric)
    for y, text, color in _yardsticks(ax, study, rows, task, metric, numbers):
      ax.annotate(text, (0.99, y), xycoords=("axes fraction", "data"), xytext=(0, 2), ha="right", fontsize=6,
                  textcoords="offset points", color=color)  # fmt: skip
    ax.set_xlabel(NAMES["params_total"])
    kind = "thresholded" if metric in ("accuracy", "exact_match") else "continuous"
    ax.set_title(f"{NAMES[metric]}\n{kind}", color=INK)
  for i, (_, text, color) in enumerate(entries):
    figure.text(0.01, -0.01 - 0.06 * i, text, color=color, fontsize=7, va="top")
  return figure


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
  key(ax, f"a line a run{dotted}" + _left_out(len(drawn), len(cells), "runs"))
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
  _bounded(ax, metric)
  ends += _yardsticks(ax, study, rows, task, metric, numbers)
  name = NAMES.get(metric, metric)
  ax.set_ylabel(f"{name}, {_summary_name(study.tasks[task], summary)}" if summary == WINDOW else name)
  label_ends(ax, ends)
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
    numbers.add(own, [*_SEED, "params_total"], kind="seed", **same)
    means = means_by_size[look.family, look.label]
    ax.plot([place - 0.35, place + 0.35], [means["value"].iloc[0]] * 2, color=look.color, linewidth=1.2)
    numbers.add(means, [*_MEAN, "params_total"], kind="mean", **same)
  _bounded(ax, metric)
  _yardsticks(ax, study, rows, task, metric, numbers)
  ax.set_xticks(range(len(drawn)), drawn["name"].tolist(), rotation=35, ha="right", rotation_mode="anchor")
  ax.grid(visible=False, axis="x")
  ax.set_ylabel(NAMES.get(metric, metric))
  what = "dots: seeds, with one standard error over items; bars: their mean"
  figure.supxlabel(
    what + _left_out(len(drawn), len(looks), "sizes"), x=0.01, ha="left", fontsize=6, color=GREY
  )
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
  _bounded(ax, metric)
  _yardsticks(ax, study, rows, task, metric, numbers)
  ax.set_xlabel(NAMES["flops_exact"])
  ax.set_ylabel(NAMES.get(metric, metric))
  key(ax, "dots: every evaluation of every run, colored by size; line: the best at this compute or less"
      + _left_out(len(drawn), len(points), "evaluations"))  # fmt: skip
  return figure


STEMS = (
  "accuracy_vs_params", "accuracy_vs_flops", "accuracy_vs_shots", "metrics_vs_params", "loss_curves",
  "training_curves", "bits_per_byte_vs_params", "bits_per_byte_vs_flops", "nll_vs_params", "nll_vs_flops",
  "icl_score_vs_params", "few_shot", "seeds_by_size", "best_vs_flops",
)  # fmt: skip
# The figures that show at rest what a plot of the page shows.
PAGE_STEMS = {
  "plot-size": ("bits_per_byte_vs_params", "accuracy_vs_params", "nll_vs_params"),
  "plot-compute": ("bits_per_byte_vs_flops", "accuracy_vs_flops", "nll_vs_flops"),
  "plot-shots": ("accuracy_vs_shots",), "plot-seeds": ("seeds_by_size",), "plot-along": ("training_curves",),
  "plot-loss": ("loss_curves",), "plot-best": ("best_vs_flops",), "plot-left": ("metrics_vs_params",),
}  # fmt: skip


def _task_figures(study: Study, task: str, rows: pd.DataFrame, curves: pd.DataFrame,
                  losses: pd.DataFrame) -> Iterator[tuple[str, Figure, Numbers]]:  # fmt: skip
  def drawn(stem: str, draw, *args) -> tuple[str, Figure, Numbers]:
    numbers = Numbers()
    return stem, draw(study, *args, numbers), numbers

  metric = frame.primary_metric(rows)
  if metric:
    yield drawn(f"{metric}_vs_params", scaling_figure, rows, task, metric, "params_total")
    yield drawn(f"{metric}_vs_flops", scaling_figure, rows, task, metric, "flops_exact")
    yield drawn("seeds_by_size", seeds_figure, rows, task, metric)
    present = set(rows.loc[rows["value"].notna() & (rows["shots"] == frame.summary_shots(rows)), "metric"])
    if rows.loc[rows["metric"] == "accuracy", "n_shots"].nunique() > 1:
      yield drawn("accuracy_vs_shots", shots_figure, rows, task)
    if "icl_score" in present:
      yield drawn("icl_score_vs_params", scaling_figure, rows, task, "icl_score", "params_total")
    pair = tuple(m for m in ("accuracy", "exact_match", "nll") if m in present)
    if "nll" in pair and len(pair) > 1 and metric != "bits_per_byte":
      yield drawn("metrics_vs_params", pair_figure, rows, task, pair)
  if losses["value"].notna().any():
    yield drawn("loss_curves", loss_figure, losses, task)
  metric = frame.primary_metric(curves)
  if metric:
    yield drawn("training_curves", training_figure, curves, task, metric)
    if (curves["flops_exact"] > 0).any():  # step 0 has no place on that axis
      yield drawn("best_vs_flops", pareto_figure, curves, task, metric)


def drawings(study: Study, only: str | None = None) -> Iterator[Drawing]:
  """Yields every figure that the study has data for; to be encoded before the next is asked for.

  Args:
    only: the task whose figures are wanted, None for all.
  """
  rows, curves = frame.final(study), frame.evaluations(study)
  losses = study.records[(study.records["split"] == "train") & (study.records["metric"] == "loss")]
  for i, task in enumerate(study.tasks):
    if only not in (None, task):
      continue
    cells = study.cells.loc[study.cells["task"] == task, "cell_id"]
    with mpl.rc_context(STYLE):
      own = (r[(r["task"] == task) & r["cell_id"].isin(cells)] for r in (rows, curves))
      for stem, figure, numbers in _task_figures(study, task, *own, losses[losses["cell_id"].isin(cells)]):
        yield Drawing(stem_of(stem, study, i), figure, numbers.table().assign(task=task))


def figures(study: Study, formats: tuple[str, ...] = FORMATS) -> Iterator[tuple[str, bytes]]:
  """Yields (file name, content) of every figure that the study has data for, in each of `formats`."""
  for drawing in drawings(study):
    for ending, content in encoded(drawing.figure, formats).items():
      yield f"{drawing.stem}.{ending}", content


def stem_of(stem: str, study: Study, index: int) -> str:
  """Returns what a task's figure is called: with several tasks the task's name stands at the end."""
  return f"{stem}.{file_part(list(study.tasks)[index], index)}" if len(study.tasks) > 1 else stem
