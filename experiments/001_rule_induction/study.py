"""Study 001: two in-context abilities over size, depth, learning rate and seed; see experiments/study.py."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lm_jax.analysis import curve_table
from lm_jax.analysis.emergence import table as statistics
from lm_jax.analysis.figures.style import GREY, HUES, INK, LINES, MARKERS, TEXT_WIDTH
from lm_jax.uncertainty import wilson

COMMANDS = ("lm-jax sweep --config={here}/config.py --workdir={workdir}",)

TASKS = {"rule_induction": "Rule induction", "associative_recall": "Associative recall"}
RATES = ("rate .001", "rate .002", "rate .004")
BEST, LONG, ONE_LAYER, SMALL = "best rate", "4 x the steps", "1 layer", "GPT-2's initializer"
METRICS = ("accuracy", "exact_match", "nll")
CHANCE = {"rule_induction": 1 / 4, "associative_recall": 1 / 32}
# Where a run has the ability whole: rule induction half way from one attribute (.625) to both.
PAST = {"rule_induction": 0.8125, "associative_recall": 0.5}
_RUN = ["task", "family", "model", "learning_rate", "seed", "n_params", "flops"]
_VERDICT = [
  "task", "metric", "family", "n_sizes", "n_seeds", "verdict", "best_model", "breakthroughness", "q_value",
  "x50", "x50_low", "x50_high", "threshold_status", "width_decades", "width_low", "width_high",
  "seeds_bimodal", "past_threshold", "past_x50", "past_x50_low", "past_x50_high",
]  # fmt: skip


# --- tables -------------------------------------------------------------------------------------------


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  last = _summaries(curve_table.load(workdir).rows)
  last = pd.concat([last, *_at_best_rate(last)], ignore_index=True)
  found = statistics.analyze(last[last["family"].isin([*RATES, BEST])])
  during = _summaries(curve_table.load(workdir, checkpoints=True).rows)
  during = during[during["family"].isin([RATES[1], LONG]) & (during["metric"] == "accuracy")]
  return {
    "runs": _wide(last[last["family"] != BEST]),
    "curves": found[_VERDICT].round(6),
    "seeds": pd.DataFrame(_shares(last)).round(4),
    "training": _sorted(during[[*_RUN, "step", "value"]].rename(columns={"value": "accuracy"})).round(5),
  }


def _summaries(rows: pd.DataFrame) -> pd.DataFrame:
  return rows[(rows["shots"] == "window") & rows["metric"].isin(METRICS)]


def _at_best_rate(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
  """Yields, for each size, its runs at the rate of least mean NLL, as a family of their own."""
  nll = rows[(rows["metric"] == "nll") & rows["family"].isin(RATES)]
  mean = nll.groupby(["task", "model", "family"])["value"].mean()
  for task, model, family in mean.groupby(level=["task", "model"]).idxmin():
    chosen = (rows["task"] == task) & (rows["model"] == model) & (rows["family"] == family)
    yield rows[chosen].assign(family=BEST)


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
  wide = rows.pivot(index=_RUN, columns="metric", values="value").reset_index()
  errors = rows.loc[rows["metric"] == "accuracy", [*_RUN, "stderr"]].rename(
    columns={"stderr": "accuracy_stderr"}
  )
  return _sorted(wide.merge(errors, on=_RUN)[[*_RUN, *METRICS, "accuracy_stderr"]]).round(5)


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
  by = ["task", "family", "n_params", "seed", *(name for name in ("step",) if name in rows)]
  whole = [name for name in ("seed", "n_params", "step") if name in rows]
  return rows.sort_values(by, kind="stable", ignore_index=True).astype(dict.fromkeys(whole, "int64"))


def _shares(rows: pd.DataFrame) -> Iterator[dict[str, object]]:
  """Yields how many seeds of a size have the ability whole, with Wilson's interval."""
  rows = rows[(rows["metric"] == "accuracy") & rows["family"].isin([*RATES, BEST])]
  for (task, family, n_params), own in rows.groupby(["task", "family", "n_params"]):
    past, n = int((own["value"] > PAST[task]).sum()), len(own)
    interval = wilson(past, n)
    yield {
      "task": task, "family": family, "n_params": round(n_params), "n_seeds": n, "past": past,
      "share": past / n, "low": interval.low, "high": interval.high,
    }  # fmt: skip


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 4.9))
  (rule, recall), (shares, compute) = figure.subplots(2, 2)
  for ax, task in ((rule, "rule_induction"), (recall, "associative_recall")):
    _draw_accuracy(ax, tables["runs"], task)
  lines, names = rule.get_legend_handles_labels()
  figure.legend(lines, names, loc="outside upper center", ncol=5, frameon=False, fontsize=7, handlelength=1.6)
  _draw_shares(shares, tables["seeds"])
  _draw_compute(compute, tables["training"])
  return {"accuracy": figure}


def _draw_accuracy(ax: Axes, runs: pd.DataFrame, task: str) -> None:
  ours = runs[runs["task"] == task]
  for i, family in enumerate((*RATES, ONE_LAYER, SMALL)):
    own = ours[ours["family"] == family]
    if own.empty:
      continue
    mean = own.groupby("n_params")["accuracy"].mean()
    ax.plot(mean.index, mean, LINES[0] if family in RATES else LINES[1], color=HUES[i], label=family)
    ax.plot(own["n_params"], own["accuracy"], MARKERS[i], color=HUES[i], markersize=2.6, alpha=0.6, mew=0)
  ax.axhline(CHANCE[task], color=GREY, linestyle=":", linewidth=0.8)
  ax.set(ylabel="Accuracy", ylim=(0, 1.03), title=TASKS[task])
  _sizes(ax)


def _sizes(ax: Axes) -> None:
  ax.set(xscale="log", xlabel="Parameters", xlim=(800, 130_000))
  ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_shares(ax: Axes, seeds: pd.DataFrame) -> None:
  for i, task in enumerate(TASKS):
    own = seeds[(seeds["task"] == task) & (seeds["family"] == BEST)]
    error = np.clip(np.stack([own["share"] - own["low"], own["high"] - own["share"]]), 0, None)
    ax.errorbar(own["n_params"], own["share"], error, color=HUES[i], marker=MARKERS[i], markersize=3.5,
                elinewidth=0.8, label=TASKS[task])  # fmt: skip
  ax.set(ylabel="Share of five seeds", ylim=(-0.03, 1.03), title="Runs that have it whole, best rate")
  ax.legend(loc="upper left", frameon=False, fontsize=6)
  _sizes(ax)


def _draw_compute(ax: Axes, training: pd.DataFrame) -> None:
  ours = training[(training["task"] == "rule_induction") & training["model"].str.endswith("L2")]
  models = ours.drop_duplicates("model").sort_values("n_params")["model"]
  for model, color in zip(models, HUES, strict=False):
    for family, line in ((RATES[1], LINES[0]), (LONG, LINES[1])):
      own = ours[(ours["model"] == model) & (ours["family"] == family)]
      mean = own.groupby("flops")["accuracy"].mean()
      label = model.removesuffix(" L2").replace("d", "d = ") if family == RATES[1] else None
      ax.plot(mean.index, mean, line, color=color, label=label)
  ax.plot([], [], LINES[1], color=INK, label=LONG)
  ax.set(xscale="log", xlabel="Training FLOPs", ylabel="Accuracy", ylim=(0, 1.03),
         title="Rule induction in training")  # fmt: skip
  ax.legend(loc="upper left", frameon=False, fontsize=6, handlelength=1.6)


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  return {
    "rule_induction": _by_size(tables["runs"], "rule_induction"),
    "associative_recall": _by_size(tables["runs"], "associative_recall"),
    "curves": _thresholds(tables["curves"]),
    "seeds": _seeds(tables["runs"]),
  }


def _by_size(runs: pd.DataFrame, task: str) -> str:
  """Returns mean accuracy (least to most) of each family; bold at the rate that is best by NLL."""
  ours = runs[runs["task"] == task]
  families = [family for family in (*RATES, ONE_LAYER, LONG, SMALL) if (ours["family"] == family).any()]
  lines = [["d", "params, 2 layers", *families]]
  width = ours["model"].str.extract(r"d(\d+)")[0].astype(int)
  for d in sorted(width.unique()):
    own = ours[width == d]
    params = own.loc[own["family"] != ONE_LAYER, "n_params"]
    lines.append([str(d), f"{params.iloc[0]:,}" if len(params) else ""])
    nll = own[own["family"].isin(RATES)].groupby("family")["nll"].mean()
    for family in families:
      accuracy = own.loc[own["family"] == family, "accuracy"]
      mean, low, high = (
        study_text.number(f(accuracy), n)
        for f, n in ((pd.Series.mean, 3), (pd.Series.min, 2), (pd.Series.max, 2))
      )
      mark = "**" if len(nll) and family == nll.idxmin() else ""
      lines[-1].append(f"{mark}{mean}{mark} ({low} to {high})" if len(accuracy) else "")
  return study_text.table(pd.DataFrame(lines[1:], columns=lines[0]))


def _thresholds(curves: pd.DataFrame) -> str:
  lines = []
  for _, row in curves.iterrows():
    x50 = study_text.interval(row, "x50", ",.0f") or row["threshold_status"]
    width = study_text.interval(row, "width_decades", ".2f", "width")
    lines.append({
      "task": TASKS[row["task"]].lower(), "metric": row["metric"].replace("_", " "), "family": row["family"],
      "verdict": row["verdict"], "threshold, parameters": x50, "width, decades": width,
      "two groups: half of the seeds past": study_text.interval(row, "past_x50", ",.0f")
        or ("no rise" if row["seeds_bimodal"] is True else ""),
    })  # fmt: skip
  return study_text.table(pd.DataFrame(lines))


def _seeds(runs: pd.DataFrame) -> str:
  """Returns every run's accuracy at the middle rate."""
  ours = runs[(runs["family"] == RATES[1])]
  lines = []
  for (task, n_params, model), own in ours.groupby(["task", "n_params", "model"], sort=False):
    values = " / ".join(study_text.number(value, 2) for value in sorted(own["accuracy"]))
    lines.append({"task": TASKS[task].lower(), "size": model, "params": f"{n_params:,}", "accuracy": values})
  return study_text.table(pd.DataFrame(lines))


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  x50 = tables["curves"].query("metric == 'accuracy'").set_index(["task", "family"])["x50"]
  recall = x50["associative_recall"]
  training = tables["training"].query("task == 'rule_induction'")
  mean = training.groupby(["family", "model", "step"])["accuracy"].mean()
  return {
    "threshold of recall, rate .001 over .002": recall[RATES[0]] / recall[RATES[1]],
    "d = 16 at 2e11 FLOPs": mean[(LONG, "d16 L2", 2048)],
    "d = 64 at 2e11 FLOPs": mean[(RATES[1], "d64 L2", 128)],
  }  # fmt: skip
