"""Study 017: addition by exact match and by token, and a smooth control; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table
from lm_jax.analysis.emergence import table as statistics
from lm_jax.analysis.figures.style import GREY, HUES, MARKERS, TEXT_WIDTH

COMMANDS = ("lm-jax sweep --config={here}/config.py --workdir={workdir}",)

# Names of tasks and the tokens of one answer.
TASKS = {"1 digit": 2, "3 digits": 4, "noisy majority": 1}
METRICS = {
  "accuracy": "Token accuracy", "exact_match": "Exact match", "choice_prob": "Probability of the right token",
  "nll": "NLL",
}  # fmt: skip
SHOWN = ("exact_match", "accuracy", "choice_prob")
_VERDICT = [
  "task", "metric", "n_sizes", "n_seeds", "chance", "verdict", "best_model", "breakthroughness", "q_value",
  "x50", "x50_low", "x50_high", "threshold_status", "width_decades", "width_low", "width_high",
  "paired_metric", "paired_verdict",
]  # fmt: skip


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  rows = curve_table.load(workdir).rows
  rows = rows[(rows["shots"] == "window") & rows["metric"].isin(METRICS)]
  rows = rows.assign(task=rows["task"].map(_names(rows)))
  run = ["task", "model", "seed", "n_params", "flops"]
  wide = rows.pivot(index=run, columns="metric", values="value").reset_index()
  wide = wide.sort_values(["task", "n_params", "seed"], ignore_index=True)
  return {
    "runs": wide.astype({"n_params": "int64", "seed": "int64"}).round(5),
    "curves": statistics.analyze(rows)[_VERDICT].round(6),
  }


def _names(rows: pd.DataFrame) -> dict[str, str]:
  """Returns what the study calls a task; the chance of an exact answer tells how many tokens it has."""
  names = {}
  for task, own in rows[rows["metric"] == "exact_match"].groupby("task"):
    is_sum = "arithmetic" in task
    names[task] = ("1 digit" if own["chance"].iloc[0] > 1e-3 else "3 digits") if is_sum else "noisy majority"
  return names


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 2.3))
  for ax, task in zip(figure.subplots(1, 3, sharey=True), TASKS, strict=True):
    _draw_task(ax, tables["runs"][tables["runs"]["task"] == task], task)
  figure.axes[0].set_ylabel("Score")
  lines, names = figure.axes[1].get_legend_handles_labels()
  figure.legend(
    lines,
    names,
    loc="outside lower center",
    ncol=4,
    frameon=False,
    fontsize=7,
    columnspacing=1.2,
    handlelength=1.5,
  )
  return {"made_by_the_metric": figure}


def _draw_task(ax: Axes, runs: pd.DataFrame, task: str) -> None:
  metrics = [m for m in SHOWN if m != "exact_match" or TASKS[task] > 1]
  for metric in metrics:
    i = SHOWN.index(metric)
    mean = runs.groupby("n_params")[metric].mean()
    ax.plot(mean.index, mean, color=HUES[i], label=METRICS[metric])
    ax.plot(runs["n_params"], runs[metric], MARKERS[i], color=HUES[i], markersize=2.4, alpha=0.6, mew=0)
  if TASKS[task] > 1:
    independent = (runs["accuracy"] ** TASKS[task]).groupby(runs["n_params"]).mean()
    ax.plot(independent.index, independent, ":", color=GREY, label="Independent tokens")
  title = f"{task.capitalize()}, {TASKS[task]} tokens" if TASKS[task] > 1 else "Noisy majority"
  ax.set(xscale="log", ylim=(0, 1.03), xlabel="Parameters", title=title)


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  runs = tables["runs"]
  return {"sizes": _sizes(runs), "curves": _curves(tables["curves"]), "seeds": _seeds(runs)}


def _seeds(runs: pd.DataFrame) -> str:
  """Returns token accuracy and exact match of every run on three digits, by size in order of the first."""
  lines = []
  for (_, model), own in runs[runs["task"] == "3 digits"].groupby(["n_params", "model"]):
    own = own.sort_values("accuracy")
    line = {"size": model}
    for title, column in (("token accuracy", "accuracy"), ("exact match", "exact_match"), ("NLL", "nll")):
      line[title] = " / ".join(study_text.number(value, 2) for value in own[column])
    lines.append(line)
  return study_text.table(pd.DataFrame(lines))


def _sizes(runs: pd.DataFrame) -> str:
  power = runs["accuracy"] ** runs["task"].map(TASKS)
  mean = runs.assign(power=power).groupby(["task", "n_params"])[["accuracy", "exact_match", "power"]].mean()
  lines = []
  width = runs.drop_duplicates("model").set_index("model")["n_params"].sort_values()
  for model in width.index:
    line = {"size": model}
    for task, tokens in TASKS.items():
      n_params = runs.loc[(runs["model"] == model) & (runs["task"] == task), "n_params"].iloc[0]
      of_size = mean.loc[(task, n_params)]
      line[f"{task}: token accuracy"] = study_text.number(of_size["accuracy"])
      if tokens > 1:
        line["exact match" if tokens == 2 else "exact match "] = study_text.number(of_size["exact_match"])
        line[f"accuracy^{tokens}"] = study_text.number(of_size["power"])
    lines.append(line)
  return study_text.table(pd.DataFrame(lines))


def _curves(curves: pd.DataFrame) -> str:
  lines = []
  for _, row in curves.sort_values(["task", "metric"]).iterrows():
    if row["metric"] == "exact_match" and TASKS[row["task"]] == 1:
      continue  # the four last answers together, which this study does not ask for
    lines.append({
      "task": row["task"], "metric": METRICS[row["metric"]], "verdict": row["verdict"],
      "half way, parameters": study_text.interval(row, "x50", ",.0f") or row["threshold_status"],
      "width, decades": study_text.interval(row, "width_decades", ".2f", "width"),
    })  # fmt: skip
  return study_text.table(pd.DataFrame(lines))


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns which share of runs answer 3 digits better, and worse, than independent tokens would."""
  runs = tables["runs"].query("task == '3 digits' and 0.01 < exact_match < 0.99")
  power = runs["accuracy"] ** TASKS["3 digits"]
  return {
    "runs with an exact match between .01 and .99": len(runs),
    "of them above independent tokens": float((runs["exact_match"] > power).mean()),
  }
