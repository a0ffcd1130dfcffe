"""Figures for a paper, by matplotlib: vector text, and labels beside the lines."""

import io
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import frame, headline
from lm_jax.analysis.frame import ALL, COMPUTE, WINDOW, Study
from lm_jax.analysis.look import NAMES, OTHERS, palette, styles

FORMATS = ("png", "svg", "pdf")
INK, GREY = "#1a1a1a", "#767676"
TEXT_WIDTH = 5.5  # inches, of a NeurIPS page

STYLE = {
  "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
  "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.3,
  "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.5, "axes.axisbelow": True,
  "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "savefig.dpi": 220,
  # Text stays text in the vector formats; a fixed salt makes equal data give equal files.
  "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "lm_jax", "figure.constrained_layout.use": True,
}  # fmt: skip


def cell_values(rows: pd.DataFrame, metric: str, shots: str) -> pd.DataFrame:
  """Returns one row a cell with the `value` of a metric; cells where it is missing are left out."""
  chosen = rows[(rows["metric"] == metric) & (rows["shots"] == shots) & rows["value"].notna()]
  keys = ["family", "label", "cell_id", "seed", "params_total", "params_nonembedding", *COMPUTE, "tokens"]
  return chosen.groupby(keys, as_index=False, sort=False, dropna=False)["value"].mean()


def size_means(values: pd.DataFrame, x: str) -> pd.DataFrame:
  """Returns the mean over seeds of each size, in order of `x`."""
  return values.groupby(["family", "label"], as_index=False).agg(
    {x: "first", "value": "mean"}).sort_values(x)  # fmt: skip


def shown_shots(info: frame.TaskInfo, rows: pd.DataFrame, most: int = 5) -> list[str]:
  """Returns a few numbers of shots before the summary window, for lines that can be told apart."""
  present = sorted({int(k) for k in rows["n_shots"].dropna()})
  start = info.shots[-info.window] if info.shots and info.window else np.inf
  before = [k for k in present if k < start]
  where = np.unique(np.round(np.geomspace(1, len(before), most)).astype(int) - 1) if before else []
  return [str(before[i]) for i in where]


# --- pieces of a figure -------------------------------------------------------------------------


def label_ends(ax: Axes, ends: list[tuple[float, str, str]], size: float = 7) -> None:
  """Writes (y, text, color) right of the axes at the lines' last heights, pushed apart where they meet."""
  ends = sorted((e for e in ends if np.isfinite(e[0])), key=lambda e: e[0])
  low, high = ax.get_ylim()
  y = np.array([(e[0] - low) / (high - low) for e in ends])
  gap = 1.25 * size / 72 / (ax.get_figure().get_figheight() * 0.72)
  for i in range(1, len(y)):
    y[i] = max(y[i], y[i - 1] + gap)
  if len(y) and y[-1] > 1.02:
    y[-1] = 1.02
    for i in range(len(y) - 2, -1, -1):
      y[i] = min(y[i], y[i + 1] - gap)
  for at, (_, text, color) in zip(y, ends, strict=True):
    ax.annotate(text, (1.02, at), xycoords="axes fraction", va="center", color=color, fontsize=size,
                annotation_clip=False)  # fmt: skip


def _yardstick(ax: Axes, y: float | None, text: str, style: str) -> list[tuple[float, str, str]]:
  """Draws a level across the axes and returns its label, none where the level is unknown."""
  if y is None:
    return []
  ax.axhline(y, color=GREY, linestyle=style, linewidth=0.8, zorder=1)
  return [(y, text, GREY)]


def _yardsticks(ax: Axes, study: Study, rows: pd.DataFrame, task: str, metric: str) -> list:
  summary = frame.summary_shots(rows)
  return [
    *_yardstick(ax, frame.chance(study, rows, task, metric, summary), "chance", "--"),
    *_yardstick(ax, study.tasks[task].bayes(metric, summary), "Bayes-optimal", ":"),
  ]


def key(ax: Axes, text: str) -> None:
  """Says below the axes what the marks are, so that the figure can be read without its page."""
  ax.annotate(text, (0, 0), xycoords="axes fraction", xytext=(0, -34), textcoords="offset points", fontsize=6,
              color=GREY, annotation_clip=False, va="top")  # fmt: skip


def log_x(ax: Axes, values: pd.Series) -> None:
  # Within a factor of two the axis is as good as linear, and reads better so.
  if not len(values) or (values <= 0).any() or values.max() < 2 * values.min():
    return
  ax.set_xscale("log")
  if values.max() < 10 * values.min():
    # Less than a decade would leave an axis with a single number.
    ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
    everywhere = mpl.ticker.LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf))
    ax.xaxis.set_major_formatter(everywhere)
    ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())


def _bounded(ax: Axes, metric: str) -> None:
  if metric in ("accuracy", "exact_match", "choice_prob"):
    ax.set_ylim(-0.03, 1.03)


def size_axis(ax: Axes, means: pd.DataFrame, x: str) -> None:
  """Names the sizes above the axes."""
  top = ax.secondary_xaxis("top")
  top.set_xticks(means[x].to_numpy(), means["label"].tolist(), fontsize=6, color=GREY, rotation=35, ha="left",
                 rotation_mode="anchor")  # fmt: skip
  top.xaxis.set_minor_locator(mpl.ticker.NullLocator())
  top.tick_params(length=2, color=GREY)
  top.spines["top"].set_visible(False)


def _others(ax: Axes, values: pd.DataFrame, x: str, main: str) -> list[tuple[float, str, str]]:
  """Draws the families beside the main one as diamonds of their own and returns a legend of them."""
  entries = []
  families = [f for f in values["family"].drop_duplicates() if f != main]
  for i, family in enumerate(families):
    color = OTHERS[i % len(OTHERS)]
    own = values[values["family"] == family]
    ax.plot(own[x], own["value"], "D", color=color, markersize=2.5, alpha=0.45, markeredgewidth=0)
    for mean in size_means(own, x).itertuples():
      ax.plot([getattr(mean, x)], [mean.value], "D", color=color, markersize=5, markeredgecolor="white",
              markeredgewidth=0.5)  # fmt: skip
      entries.append((mean.value, f"◆ {mean.label}, {family}", color))
  return entries


def _line(ax: Axes, values: pd.DataFrame, x: str, color: str, *, seeds: bool, width: float = 1.3) -> float:
  """Draws the means over seeds, joined, and single seeds as dots; returns the last height."""
  means = size_means(values, x)
  if seeds:
    ax.plot(values[x], values["value"], "o", color=color, markersize=3, alpha=0.4, markeredgewidth=0)
  ax.plot(means[x], means["value"], "-o", color=color, markersize=width * 2.2, linewidth=width)
  return float(means["value"].iloc[-1]) if len(means) else np.nan


def _draw_scaling(ax: Axes, study: Study, rows: pd.DataFrame, task: str, metric: str, x: str,
                  shots: list[str]) -> None:  # fmt: skip
  """Draws a metric of finished cells against `x`: thin lines for `shots`, a bold one for the summary."""
  info, main = study.tasks[task], headline.main_of(study, task)
  summary = frame.summary_shots(rows)
  bold = cell_values(rows, metric, summary)
  ends = []
  for k, color in zip(shots, palette(len(shots), "plasma", 0.75, 0.0), strict=True):
    values = cell_values(rows, metric, k)
    y = _line(ax, values[values["family"] == main], x, color, seeds=False, width=0.9)
    ends.append((y, f"{k} shot" + "s" * (k != "1"), color))
  y = _line(ax, bold[bold["family"] == main], x, INK, seeds=True, width=1.8)
  ends.append((y, _summary_name(info, summary), INK))
  log_x(ax, bold[x])
  ends += _others(ax, bold, x, main)
  _bounded(ax, metric)
  ends += _yardsticks(ax, study, rows, task, metric)
  for k, color in zip(shots, palette(len(shots), "plasma", 0.75, 0.0), strict=True):
    if info.bayes(metric, k) is not None:
      ax.plot([0.97, 1], [info.bayes(metric, k)] * 2, ":", color=color, linewidth=1.5,
              transform=ax.get_yaxis_transform())  # fmt: skip
  ax.set_xlabel(NAMES[x])
  ax.set_ylabel(NAMES.get(metric, metric))
  size_axis(ax, size_means(bold[bold["family"] == main], x), x)
  label_ends(ax, ends if shots or len(ends) > 1 else [])
  bayes = "; short dotted marks at the right: Bayes-optimal for that number of shots"
  key(ax, "lines: mean over seeds; faint dots: single seeds" + bayes * bool(shots and info.bayes_accuracy))


def _summary_name(info: frame.TaskInfo, summary: str) -> str:
  if summary == WINDOW and headline.window_name(info):
    return headline.window_name(info)
  return "all tokens" if summary == ALL else summary


# --- figures ------------------------------------------------------------------------------------


def new_figure(columns: int = 1, height: float = 3.1, width: float = TEXT_WIDTH) -> tuple[Figure, list[Axes]]:
  figure = Figure(figsize=(width, height))
  return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def scaling_figure(study: Study, rows: pd.DataFrame, task: str, metric: str, x: str) -> Figure:
  figure, (ax,) = new_figure()
  shots = shown_shots(study.tasks[task], rows) if metric not in ("bits_per_byte", "icl_score") else []
  _draw_scaling(ax, study, rows, task, metric, x, shots)
  return figure


def shots_figure(study: Study, rows: pd.DataFrame, task: str) -> Figure:
  """Accuracy against the number of shots, a line a size; the band spans the seeds."""
  figure, (ax,) = new_figure()
  info, ends = study.tasks[task], []
  rows = rows[(rows["metric"] == "accuracy") & rows["n_shots"].notna() & rows["value"].notna()]
  for style in styles(study, task).itertuples():
    own = rows[(rows["label"] == style.label) & (rows["family"] == style.family)]
    if own.empty:
      continue
    stats = own.groupby("n_shots")["value"].agg(["mean", "min", "max"])
    x = stats.index.to_numpy(dtype=int)
    ax.plot(x, stats["mean"], "-o" if style.main else "--D", color=style.color, markersize=2.5)
    ax.fill_between(x, stats["min"], stats["max"], color=style.color, alpha=0.15, linewidth=0)
    ends.append((stats["mean"].iloc[-1], style.name, style.color))
  if info.bayes_accuracy and info.shots:
    best = pd.Series({k: info.bayes("accuracy", str(k)) for k in info.shots})
    ax.plot(best.index, best, ":", color=INK, linewidth=1.5)
    ends.append((best.iloc[-1], "Bayes-optimal", INK))
  _bounded(ax, "accuracy")
  ends += _yardstick(ax, info.chance, "chance", "--")
  ax.set_xlabel("Number of shots (demonstrations before the query)")
  ax.set_ylabel(NAMES["accuracy"])
  ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
  label_ends(ax, ends)
  key(ax, "lines: mean over seeds; bands: least and greatest seed")
  return figure


def pair_figure(study: Study, rows: pd.DataFrame, task: str, metrics: tuple[str, ...]) -> Figure:
  """The same answers under a thresholded metric and under a continuous one (arXiv:2304.15004)."""
  figure, axes = new_figure(
    columns=len(metrics), height=2.3, width=TEXT_WIDTH * (1.25 if len(metrics) > 2 else 1)
  )
  main, summary = headline.main_of(study, task), frame.summary_shots(rows)
  for ax, metric in zip(axes, metrics, strict=True):
    values = cell_values(rows, metric, summary)
    _line(ax, values[values["family"] == main], "params_total", INK, seeds=True)
    entries = _others(ax, values, "params_total", main)
    log_x(ax, values["params_total"])
    _bounded(ax, metric)
    for y, text, color in _yardsticks(ax, study, rows, task, metric):
      ax.annotate(text, (0.99, y), xycoords=("axes fraction", "data"), xytext=(0, 2), ha="right", fontsize=6,
                  textcoords="offset points", color=color)  # fmt: skip
    ax.set_xlabel(NAMES["params_total"])
    kind = "thresholded" if metric in ("accuracy", "exact_match") else "continuous"
    ax.set_title(f"{NAMES[metric]}\n{kind}", color=INK)
  for i, (_, text, color) in enumerate(entries):
    figure.text(0.01, -0.01 - 0.06 * i, text, color=color, fontsize=7, va="top")
  return figure


def _draw_runs(ax: Axes, study: Study, rows: pd.DataFrame, task: str, x: str) -> list:
  """Draws a line a run, colored by size (dotted: not finished), and returns the labels of the ends."""
  ends, finished = [], dict(zip(study.cells["cell_id"], study.cells["finished"], strict=True))
  kept = rows[(rows[x] > 0) & rows["value"].notna()].sort_values("step")
  for style in styles(study, task).itertuples():
    cells = study.cells[(study.cells["label"] == style.label) & (study.cells["family"] == style.family)
                        & (study.cells["task"] == task)]["cell_id"]  # fmt: skip
    last = []
    for cell_id in cells:
      run = kept[kept["cell_id"] == cell_id]
      if run.empty:
        continue
      line = ("-" if style.main else "--") if finished[cell_id] else ":"
      ax.plot(run[x], run["value"], line, color=style.color, linewidth=0.9, alpha=0.8)
      if finished[cell_id]:
        ax.plot(run[x].iloc[-1:], run["value"].iloc[-1:], "o", color=style.color, markersize=2.5)
        last.append(run["value"].iloc[-1])
    if last:
      ends.append((float(np.mean(last)), style.name, style.color))
  log_x(ax, kept[x])
  ax.set_xlabel(NAMES[x])
  dotted = not all(finished[cell_id] for cell_id in set(kept["cell_id"]))
  key(ax, "a line a run" + "; dotted: not finished" * dotted)
  return ends


def loss_figure(study: Study, rows: pd.DataFrame, task: str) -> Figure:
  figure, (ax,) = new_figure()
  ends = _draw_runs(ax, study, rows, task, "step")
  ax.set_ylabel(NAMES["loss"])
  label_ends(ax, ends)
  return figure


def training_figure(study: Study, rows: pd.DataFrame, task: str, metric: str) -> Figure:
  """A metric along training against compute: what more steps alone would have bought."""
  figure, (ax,) = new_figure()
  summary = frame.summary_shots(rows)
  own = rows[(rows["metric"] == metric) & (rows["shots"] == summary)]
  ends = _draw_runs(ax, study, own, task, "flops_exact")
  _bounded(ax, metric)
  ends += _yardsticks(ax, study, rows, task, metric)
  name = NAMES.get(metric, metric)
  ax.set_ylabel(f"{name}, {_summary_name(study.tasks[task], summary)}" if summary == WINDOW else name)
  label_ends(ax, ends)
  return figure


STEMS = (
  "accuracy_vs_params", "accuracy_vs_flops", "accuracy_vs_shots", "metrics_vs_params", "loss_curves",
  "training_curves", "bits_per_byte_vs_params", "bits_per_byte_vs_flops", "nll_vs_params", "nll_vs_flops",
  "icl_score_vs_params", "few_shot",
)  # fmt: skip


def _task_figures(study: Study, task: str, rows: pd.DataFrame, curves: pd.DataFrame,
                  losses: pd.DataFrame) -> Iterator[tuple[str, Figure]]:  # fmt: skip
  metric = frame.primary_metric(rows)
  if metric:
    yield f"{metric}_vs_params", scaling_figure(study, rows, task, metric, "params_total")
    yield f"{metric}_vs_flops", scaling_figure(study, rows, task, metric, "flops_exact")
    present = set(rows.loc[rows["value"].notna() & (rows["shots"] == frame.summary_shots(rows)), "metric"])
    if rows.loc[rows["metric"] == "accuracy", "n_shots"].nunique() > 1:
      yield "accuracy_vs_shots", shots_figure(study, rows, task)
    if "icl_score" in present:
      yield "icl_score_vs_params", scaling_figure(study, rows, task, "icl_score", "params_total")
    pair = tuple(m for m in ("accuracy", "exact_match", "nll") if m in present)
    if "nll" in pair and len(pair) > 1 and metric != "bits_per_byte":
      yield "metrics_vs_params", pair_figure(study, rows, task, pair)
  if losses["value"].notna().any():
    yield "loss_curves", loss_figure(study, losses, task)
  metric = frame.primary_metric(curves)
  if metric:
    yield "training_curves", training_figure(study, curves, task, metric)


def figures(study: Study, formats: tuple[str, ...] = FORMATS) -> Iterator[tuple[str, bytes]]:
  """Yields (file name, content) of every figure that the study has data for, in each of `formats`.

  With several tasks the task's name stands before the ending: accuracy_vs_params.TASK.png.
  """
  rows, curves = frame.final(study), frame.evaluations(study)
  losses = study.records[(study.records["split"] == "train") & (study.records["metric"] == "loss")]
  for i, task in enumerate(study.tasks):
    cells = study.cells.loc[study.cells["task"] == task, "cell_id"]
    with mpl.rc_context(STYLE):
      own = (r[r["task"] == task] for r in (rows, curves))
      for stem, figure in _task_figures(study, task, *own, losses[losses["cell_id"].isin(cells)]):
        suffix = f".{file_part(task, i)}" if len(study.tasks) > 1 else ""
        for ending in formats:
          yield f"{stem}{suffix}.{ending}", encode(figure, ending)


def file_part(name: str, index: int) -> str:
  """Returns a task's name as part of a file's name: letters, digits, "_" and "-" only, unique by index."""
  kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name)
  return kept if kept == name else f"{kept}-{index}"


def encode(figure: Figure, ending: str) -> bytes:
  buffer = io.BytesIO()
  dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
  figure.savefig(buffer, format=ending, bbox_inches="tight", pad_inches=0.03, metadata=dates[ending])
  return buffer.getvalue()
