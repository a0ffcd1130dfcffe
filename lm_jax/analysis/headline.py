"""The headline of a study: one row a size, as a frame and as text for a terminal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lm_jax.analysis.frame import ALL, COMPUTE, WINDOW, Study, TaskInfo, final, main_family

SUMMARY_METRICS = ("accuracy", "exact_match", "nll", "choice_prob", "brier", "bits_per_byte")


def sizes(study: Study) -> pd.DataFrame:
  """Returns one row a (task, family, label): the cells that differ in their seed only, smallest first."""
  keys = ["task", "family", "label"]
  groups = study.cells.groupby(keys, sort=False).agg(
    params_total=("params_total", "first"), params_nonembedding=("params_nonembedding", "first"),
    **{name: (name, "first") for name in COMPUTE}, tokens=("tokens", "first"),
    n_seeds=("finished", "sum"), n_cells=("finished", "size"),
  ).reset_index()  # fmt: skip
  mains = {task: main_family(cells) for task, cells in study.cells.groupby("task", sort=False)}
  groups["main"] = [mains[t] == f for t, f in zip(groups["task"], groups["family"], strict=True)]
  order = {task: i for i, task in enumerate(study.tasks)}
  groups["_task"] = groups["task"].map(order).astype(int)
  groups["_other"] = ~groups["main"]
  by = ["_task", "_other", "params_total", "flops_exact"]
  return groups.sort_values(by, kind="stable", ignore_index=True).drop(columns=["_task", "_other"])


def main_of(study: Study, task: str) -> str:
  return main_family(study.cells[study.cells["task"] == task])


def summary_rows(study: Study) -> pd.DataFrame:
  """Returns the final rows of the task's summary: the window where there is one, else all tokens."""
  rows = final(study)
  windowed = set(rows.loc[rows["shots"] == WINDOW, "task"])
  wanted = rows["task"].map(lambda task: WINDOW if task in windowed else ALL)
  return rows[rows["shots"] == wanted]


def headline(study: Study) -> pd.DataFrame:
  """Returns one row a size: seeds' mean, min and max of each summary metric, and stderr over items.

  `METRIC_stderr` is the standard error over evaluation items of one seed (root mean square over seeds).
  It is not divided by the number of seeds: all seeds answer the same items. The spread over seeds is
  apart, in `METRIC_min` and `METRIC_max`. `n_seeds` of `n_cells` have finished.
  """
  groups = sizes(study)
  keys = ["task", "family", "label"]
  rows = summary_rows(study)
  rows = rows.assign(variance=rows["stderr"] ** 2)
  for metric in SUMMARY_METRICS:
    chosen = rows[rows["metric"] == metric].groupby([*keys, "cell_id"], as_index=False)
    seeds = chosen[["value", "variance"]].mean()
    stats = seeds.groupby(keys).agg(
      mean=("value", "mean"), min=("value", "min"), max=("value", "max"), variance=("variance", "mean")
    )
    stats["variance"] = np.sqrt(stats["variance"])
    stats.columns = [metric, f"{metric}_min", f"{metric}_max", f"{metric}_stderr"]
    groups = groups.merge(stats.reset_index(), on=keys, how="left")
  return groups


# --- the terminal -------------------------------------------------------------------------------


def text(value: Any, digits: int = 3) -> str:
  """Returns a number for a person, "-" where it is missing."""
  if value is None or pd.isna(value):
    return "-"
  if isinstance(value, float | np.floating):
    return f"{value:.{digits}f}"
  return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def spread(row: Mapping[str, Any], metric: str) -> str:
  """Returns "mean [min, max]" over seeds, the mean alone for one seed."""
  if row["n_seeds"] < 2 or pd.isna(row[metric]):
    return text(row[metric])
  return f"{text(row[metric])} [{text(row[f'{metric}_min'])}, {text(row[f'{metric}_max'])}]"


HEADINGS = {"accuracy": "accuracy", "exact_match": "exact match", "nll": "NLL", "bits_per_byte": "bits/byte"}


def shown_metrics(table: pd.DataFrame) -> list[str]:
  """Returns the headline's metrics that any size has a value of."""
  return [m for m in HEADINGS if table[m].notna().any()]


def window_name(info: TaskInfo) -> str | None:
  """Returns the numbers of shots the summary window takes together, e.g. "8-11 shots"."""
  if not info.shots or not info.window:
    return None
  first, last = info.shots[-info.window], info.shots[-1]
  return f"{last} shots" if first == last else f"{first}-{last} shots"


def summary_title(study: Study, task: str) -> str:
  """Returns what the summary of a task is, with its yardsticks."""
  info = study.tasks[task]
  window = window_name(info)
  if window is None:
    return f"{task}: over all predicted tokens"
  levels = {"chance": info.chance, "Bayes-optimal": info.bayes("accuracy", WINDOW)}
  marks = [f"{name} {level:.3f}" for name, level in levels.items() if level is not None]
  queries = "query" if info.window == 1 else f"{info.window} queries together"
  title = f"{task}: few-shot, the last {queries} ({window})"
  return title + (f"; accuracy: {', '.join(marks)}" if marks else "")


def align(lines: list[list[str]], left: int) -> list[str]:
  """Returns lines of cells as text in columns, of which the first `left` are flush left."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  cells = [[c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
           for line in lines]  # fmt: skip
  return ["  " + "  ".join(line).rstrip() for line in cells]


def format_table(study: Study) -> str:
  """Returns the headline as plain text for a terminal, missing cells named below."""
  table = headline(study)
  parts = []
  for task, rows in table.groupby("task", sort=False):
    metrics = shown_metrics(rows)
    columns = [h for i, m in enumerate(metrics) for h in (HEADINGS[m], "±")[: 2 if i == 0 else 1]]
    lines = [["size", "family", "params", "seeds", *columns]]
    for row in rows.to_dict("records"):
      values = [spread(row, m) for m in metrics]
      values[1:1] = [text(row[f"{m}_stderr"]) for m in metrics[:1]]
      seeds = f"{row['n_seeds']}/{row['n_cells']}"
      lines.append([row["label"], row["family"], text(row["params_total"]), seeds, *values])
    parts += [summary_title(study, task), *align(lines, left=2), ""]
  parts.append(
    "mean over seeds [min, max]; ± is one standard error over items; NLL in nats/token; - is missing"
  )
  if len(study.missing):
    parts.append(f"{len(study.missing)} of {len(study.cells)} cells are missing:")
    parts += [f"  {c.label} seed {c.seed} ({c.cell_id}): {c.reason}" for c in study.missing.itertuples()]
  return "\n".join(parts)
