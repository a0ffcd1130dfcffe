"""Study 019: two pretrained models on few-shot tasks; see experiments/study.py."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table
from lm_jax.analysis.figures.style import GREY, HUES, MARKERS, TEXT_WIDTH

COMMANDS = ("python {here}/evaluate.py {workdir}",)

MODELS = {"stories260K": "stories260K", "SmolLM2-135M": "SmolLM2-135M-Instruct"}
METRICS = ("accuracy", "exact_match", "nll", "choice_prob")


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  rows = curve_table.load(workdir).rows
  rows = rows[rows["metric"].isin(METRICS)]
  rows = rows.assign(model=rows["model"].map(_name))
  columns = ["task", "model", "n_params", "shots", "seed", "metric", "value", "stderr", "chance", "n_items"]
  # Without demonstrations there is nothing that a seed would draw.
  whole = {"n_params": "int64", "seed": "Int64", "n_items": "int64"}
  scores = rows[columns].sort_values(columns[:6], ignore_index=True).astype(whole).round(5)
  return {"scores": scores, "answers": _answers(workdir)}


def _name(model: str) -> str:
  return next(name for name, part in MODELS.items() if part in model)


def _answers(workdir: Path) -> pd.DataFrame:
  """Returns how often the commonest choice (first, second, ...) is made, and how often it is right.

  Also the mean of the recalls of all choices, which a constant answer has of 1 over their number.
  """
  lines = (workdir / "results.jsonl").read_text(encoding="utf-8").splitlines()
  found = []
  for row in {row["key"]: row for row in map(json.loads, lines)}.values():
    items = pd.read_parquet(workdir / "items" / f"{row['key']}.parquet")
    if items["log_p"].map(len).max() < 2:  # nothing to choose from
      continue
    given = items["log_p"].map(np.argmax)
    most = given.mode()[0]
    found.append({
      "task": row["task"], "model": _name(row["model"]), "shots": row["n_shots"], "seed": row["seed"],
      "most_given": (given == most).mean(), "right": (items["gold"] == most).mean(),
      "balanced": (given == items["gold"]).groupby(items["gold"]).mean().mean(),
    })  # fmt: skip
  names = ["task", "model", "shots", "seed"]
  table = pd.DataFrame(found).sort_values(names, ignore_index=True)
  return table.astype({"seed": "Int64"}).round(5)


def _accuracy(scores: pd.DataFrame) -> pd.DataFrame:
  """Returns one row a (task, model, shots): the mean over draws of demonstrations of the task's own score."""
  own = scores[scores["metric"].isin(["accuracy", "exact_match"])]
  has_choices = set(own.loc[own["metric"] == "accuracy", "task"])
  own = own[(own["metric"] == "accuracy") | ~own["task"].isin(has_choices)]
  mean = {"value": "mean", "stderr": "max", "chance": "first"}
  return own.groupby(["task", "model", "shots"], sort=False).agg(mean).reset_index()


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  found = _accuracy(tables["scores"])
  tasks = sorted(found["task"].unique())
  figure = Figure(figsize=(TEXT_WIDTH, 3.4))
  axes = figure.subplots(2, int(np.ceil(len(tasks) / 2)), sharex=True, sharey=True)
  for ax, task in zip(axes.flat, tasks, strict=False):
    own = found[found["task"] == task]
    for i, model in enumerate(MODELS):
      of_model = own[own["model"] == model]
      ax.errorbar(range(len(of_model)), of_model["value"], 1.96 * of_model["stderr"], color=HUES[i],
                  marker=MARKERS[i], markersize=3.5, elinewidth=0.8, label=model)  # fmt: skip
    if own["chance"].notna().any():
      ax.axhline(own["chance"].iloc[0], color=GREY, linestyle="--", linewidth=0.8)
    ax.set(title=task.replace("_", " "), ylim=(0, 1), xticks=range(3), xticklabels=["0", "1", "4"])
  for ax in axes.flat[len(tasks) :]:
    ax.axis("off")
    ax.legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
  for ax in axes[:, 0]:
    ax.set_ylabel("Accuracy")
  for ax in axes[-1]:
    ax.set_xlabel("Demonstrations")
  return {"accuracy": figure}


def _demonstrations(shots: int) -> str:
  return f"{shots} demonstration{'s' * (int(shots) != 1)}"


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  found = _accuracy(tables["scores"])
  most = tables["answers"].groupby(["task", "model"])["most_given"].mean()
  balanced = tables["answers"].groupby(["task", "model", "shots"])["balanced"].mean()
  lines = []
  for (task, model), own in found.groupby(["task", "model"]):
    chance = own["chance"].iloc[0]
    line = {"task": task, "chance": study_text.number(chance, 2) if pd.notna(chance) else "", "model": model}
    for _, row in own.iterrows():
      line[_demonstrations(row["shots"])] = (
        f"{study_text.number(row['value'])} ± {study_text.number(row['stderr'])}"
      )
    given = most.get((task, model))
    line["most given"] = "" if given is None else study_text.number(given, 2)
    line["balanced"] = (
      "" if given is None else " / ".join(study_text.number(value, 2) for value in balanced[task, model])
    )
    lines.append(line)
  return {"scores": study_text.table(pd.DataFrame(lines))}
