"""A folder of results of `lm-jax evaluate` as data frames: rows, items, means over seeds and templates.

    name      of a model: the end of its path, unless two models share that
    variant   how it was asked, where its task was asked in several ways: "labels flipped"
    series    both: a line or a color of a figure

A row is of one cell: a (model, step, task, number of shots, seed, template, way of asking). Where a folder
holds several cells of these, asked of different numbers of items or with other settings that rows do not
tell, the one with most items counts, then that with most metrics, then the last one written; `left_out` lists
the others.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from lm_jax import uncertainty
from lm_jax.strict import ConfigError

RESULTS, CELLS, ITEMS = "results.jsonl", "cells", "items"
# Ways of asking that make results others. A folder need not have all of them.
CONDITIONS = ("split", "labels", "label_words", "order", "chat", "weights")
_REQUIRED = ("key", "model", "task", "n_shots", "metric", "value", "stderr", "n_items")
_OPTIONAL = (
  "step", "seed", "prompt_id", "family", "params_total", "chance", "n_left_out", "mean_shots",
  "lm_jax_version", "git_commit",
)  # fmt: skip
_NUMBERS = (
  "n_shots", "value", "stderr", "n_items", "step", "seed", "params_total", "chance", "n_left_out",
  "mean_shots",
)  # fmt: skip
_VARIANCES = {
  "variance_items": "item", "variance_seeds": "seed", "variance_templates": "template",
  "variance_seeds_templates": "seed_template",
}  # fmt: skip
_IN_ITEMS = ("item", "gold", "log_p")


@dataclasses.dataclass(frozen=True)
class Results:
  """What a folder holds.

  Attributes:
    rows: of the cells that count, with `name`, `variant` and `series`.
    items: {key of a cell: the table of its items}.
    left_out: one row a cell that does not count, and `instead`, the key of the one that does.
  """

  folder: Path
  rows: pd.DataFrame
  items: dict[str, pd.DataFrame]
  left_out: pd.DataFrame

  @property
  def conditions(self) -> list[str]:
    return [name for name in CONDITIONS if name in self.rows]


def is_results(folder: Path) -> bool:
  """Whether a folder holds results of `lm-jax evaluate`; raises ConfigError where it holds a run as well."""
  if not (folder / RESULTS).is_file() or not (folder / CELLS).is_dir():
    return False
  for name in ("sweep.json", "config.json"):
    if (folder / name).exists():
      raise ConfigError(
        f"--workdir={folder}: holds {name} of a run or sweep and {RESULTS} of lm-jax evaluate; move "
        f"{RESULTS} to a folder of its own, with its {CELLS}/*.json and {ITEMS}/"
      )
  return True


# --- reading ----------------------------------------------------------------------------------------


def load(folder: str | Path) -> Results:
  """Reads a folder; raises ConfigError for what cannot be read."""
  folder = Path(folder)
  path = folder / RESULTS
  if not path.is_file():
    raise ConfigError(f"{folder}: has no {RESULTS} of lm-jax evaluate")
  rows = _read_rows(path)
  if rows.empty:
    raise ConfigError(f"{path}: holds no results yet")
  rows["name"] = _names(rows["model"])
  rows, left_out = _one_cell_each(_ordered(rows), folder)
  rows["variant"] = _variants(rows)
  rows["series"] = [", ".join(filter(None, pair)) for pair in zip(rows["name"], rows["variant"], strict=True)]
  keys = rows["key"].drop_duplicates()
  return Results(
    folder, rows, {key: _read_items(folder / ITEMS / f"{key}.parquet") for key in keys}, left_out
  )


def _read_rows(path: Path) -> pd.DataFrame:
  rows = []
  for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
    try:
      row = json.loads(line)
    except ValueError as error:
      raise ConfigError(f"{path}: line {i} is not JSON ({error})") from None
    absent = [name for name in _REQUIRED if not isinstance(row, dict) or name not in row]
    if absent:
      raise ConfigError(f"{path}: line {i} is no row of lm-jax evaluate; it lacks {', '.join(absent)}")
    rows.append(dict.fromkeys(_OPTIONAL) | row)
  frame = pd.DataFrame(rows, columns=None if rows else list(_REQUIRED))
  for name in _NUMBERS if rows else ():
    try:
      frame[name] = pd.to_numeric(frame[name]).astype("float64")
    except (TypeError, ValueError) as error:
      raise ConfigError(f"{path}: {name}: must be a number or null in every row ({error})") from None
  frame["prompt_id"] = frame["prompt_id"].map(_text) if rows else None
  return frame[frame["key"].notna()]


def _read_items(path: Path) -> pd.DataFrame:
  try:
    items = pd.read_parquet(path)
  except FileNotFoundError:
    raise ConfigError(f"{path}: is not there, though {RESULTS} has rows of it; ask lm-jax evaluate again, "
                      f"without cells/{path.stem}.json") from None  # fmt: skip
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from None
  absent = [name for name in _IN_ITEMS if len(items) and name not in items]
  if absent:
    raise ConfigError(f"{path}: is no table of items; it lacks {', '.join(absent)}")
  return items


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns rows by task, size of model, shots, template (the default first) and seed, metrics as they were.

  The order of the file is that of hashes; colors and tables need one that is the same for all tasks.
  """
  by = ["task", "params_total", "model", "step", "n_shots", "_other", "prompt_id", "seed"]
  marked = rows.assign(_other=rows["prompt_id"] != "default")
  return marked.sort_values(by, kind="stable").drop(columns="_other")


def _names(models: pd.Series) -> list[str]:
  ends = {model: Path(model).name for model in models}
  shared = pd.Series(ends).duplicated(keep=False)
  return [model if shared[model] else ends[model] for model in models]


def _text(value: Any) -> str:
  """Returns a way of asking as text, "" for none."""
  if value is None or (isinstance(value, float) and np.isnan(value)):
    return ""
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _one_cell_each(rows: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
  """Returns the rows of the cells that count, and the cells that do not."""
  conditions = [name for name in CONDITIONS if name in rows]
  rows = rows.assign(**{name: rows[name].map(_text) for name in conditions})
  same = ["model", "step", "task", "n_shots", "seed", "prompt_id", *conditions]
  cells = rows.groupby("key", sort=False).agg(
    **{name: (name, "first") for name in same}, n_items=("n_items", "max"), n_metrics=("metric", "nunique")
  ).reset_index()  # fmt: skip
  cells["written"] = [_written(folder / CELLS / f"{key}.json") for key in cells["key"]]
  cells = cells.sort_values(["n_items", "n_metrics", "written", "key"], ascending=False, kind="stable")
  cells["instead"] = cells.groupby(same, dropna=False)["key"].transform("first")
  counts = cells["key"] == cells["instead"]
  kept = rows[rows["key"].isin(cells.loc[counts, "key"])].reset_index(drop=True)
  return kept, cells[~counts].drop(columns="written").reset_index(drop=True)


def _written(path: Path) -> float:
  return path.stat().st_mtime if path.exists() else 0.0


def _variants(rows: pd.DataFrame) -> list[str]:
  several = {name: rows.groupby("task")[name].transform("nunique") > 1 for name in CONDITIONS if name in rows}
  return [
    ", ".join(
      f"{name.replace('_', ' ')} {rows[name][i]}" for name in several if several[name][i] and rows[name][i]
    )
    for i in rows.index
  ]


# --- views ------------------------------------------------------------------------------------------


def last_steps(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns the rows of each model's last step: what it is compared with others by."""
  step = rows["step"].fillna(-1)
  return rows[step == step.groupby([rows["task"], rows["series"]]).transform("max")]


def answers(items: pd.DataFrame) -> pd.DataFrame:
  """Returns item, gold, chosen, confidence, correct and n_choices of items with several choices.

  Confidence is the largest p, normalized over the choices, and `chosen` the choice that has it (the first of
  equal ones): as for the metrics ece and aurc.
  """
  own = items[items["gold"].notna()] if "gold" in items else items
  # A text that goes on in one way has the one.
  own = own[[len(log_p) > 1 for log_p in own["log_p"]]] if len(own) else own
  p = [special.softmax(np.asarray(log_p, np.float64)) for log_p in own["log_p"]] if len(own) else []
  chosen = np.array([one.argmax() for one in p], int)
  gold = own["gold"].to_numpy(int) if len(own) else chosen
  return pd.DataFrame({
    "item": own["item"].to_numpy() if len(own) else [], "gold": gold, "chosen": chosen,
    "confidence": np.array([one.max() for one in p]), "correct": chosen == gold,
    "n_choices": np.array([len(one) for one in p], int),
  })  # fmt: skip


def abstention(items: pd.DataFrame) -> pd.DataFrame:
  """Returns item, answerable, confidence, threshold and answered, where items have an answer or none.

  Those without a threshold (lm_jax/abstention.py) are left out; of items that all have an answer there are
  none. An answer without words, whose confidence is -inf, is no answer.
  """
  if "threshold" not in items:
    return pd.DataFrame(columns=["item", "answerable", "confidence", "threshold", "answered"])
  own = items[items["threshold"].notna()]
  found = own[["item", "answerable"]].assign(
    confidence=own["confidence"].astype("float64"), threshold=own["threshold"].astype("float64")
  )
  found["answered"] = (found["confidence"] >= found["threshold"]) & np.isfinite(found["confidence"])
  return found


def _hallucinations(items: pd.DataFrame) -> pd.DataFrame:
  """Returns the columns of `answers` of items without an answer; correct is who keeps silent about them.

  What was chosen is an index as there, or the text that was written.
  """
  silent = abstention(items)
  silent = silent[~silent["answerable"].astype(bool)]
  own = items.loc[silent.index]
  chosen = [
    written[0] if len(written) else int(np.argmax(log_p))
    for written, log_p in zip(own["written"], own["log_p"], strict=True)
  ]
  return pd.DataFrame({
    "item": silent["item"].to_numpy(), "gold": pd.array([pd.NA] * len(own), "Int64"), "chosen": chosen,
    "confidence": silent["confidence"].to_numpy(), "correct": ~silent["answered"].to_numpy(bool),
    "n_choices": [len(log_p) for log_p in own["log_p"]],
  })  # fmt: skip


def means(results: Results) -> pd.DataFrame:
  """Returns one row a (task, series, step, shots, metric): the mean over all seeds and templates.

  Of one cell it is its row. Of several, stderr is for other items, seeds and templates, and the variances are
  apart (`uncertainty.variance_components`): n_items are those that all cells have, `low` and `high` the least
  and greatest cell. Where a metric is of no single item, or one of the templates lacks a seed, stderr and
  variances are missing, and value is the mean of the cells.
  """
  keys = ["task", "series", "step", "n_shots", "metric"]
  table = [_mean(results, several) for _, several in results.rows.groupby(keys, sort=False, dropna=False)]
  order = {task: i for i, task in enumerate(results.rows["task"].drop_duplicates())}
  by_task = pd.DataFrame(table)
  return by_task.sort_values(
    ["task", "n_shots"], key=lambda c: c.map(order) if c.name == "task" else c, kind="stable",
    ignore_index=True,
  )  # fmt: skip


def _mean(results: Results, cells: pd.DataFrame) -> dict[str, Any]:
  first = cells.iloc[0]
  names = ("task", "name", "variant", "series", "step", "family", "params_total", "n_shots", "metric")
  row = {name: first[name] for name in names} | {
    "value": cells["value"].mean(), "stderr": first["stderr"] if len(cells) == 1 else np.nan,
    "low": cells["value"].min(), "high": cells["value"].max(), "chance": cells["chance"].mean(),
    "n_items": int(cells["n_items"].min()), "n_cells": len(cells),
    "n_seeds": max(1, cells["seed"].nunique()), "n_templates": max(1, cells["prompt_id"].nunique()),
    "n_left_out": cells["n_left_out"].max(), "mean_shots": cells["mean_shots"].mean(),
  } | dict.fromkeys(_VARIANCES, np.nan)  # fmt: skip
  v = components(results, cells)
  if v is not None:
    row |= {"value": v.mean, "stderr": v.stderr, "n_items": v.n_items}
    row |= {name: getattr(v, field) for name, field in _VARIANCES.items()}
  return row


def components(results: Results, cells: pd.DataFrame) -> uncertainty.VarianceComponents | None:
  """Returns the variances of one metric over items, seeds and templates.

  Args:
    cells: the rows of the metric, one a seed and template; of every seed with every template, or the result
      is None, as it is of a single cell and of a metric that items do not have.
  """
  metric = cells["metric"].iloc[0]
  # Without demonstrations there is no seed, and a seed of its own stands for that.
  places = list(zip(cells["seed"].fillna(-1), cells["prompt_id"], strict=True))
  seeds, templates = (list(dict.fromkeys(levels)) for levels in zip(*places, strict=True))
  complete = len(places) == len(seeds) * len(templates) > 1
  if not complete or any(metric not in results.items[key] for key in cells["key"]):
    return None
  scores = [results.items[key].drop_duplicates("item").set_index("item")[metric] for key in cells["key"]]
  columns = [scores[places.index((seed, template))] for seed in seeds for template in templates]
  table = pd.concat(columns, axis=1, join="inner").dropna()
  if table.empty:
    return None
  score_NST = table.to_numpy(np.float64).reshape(len(table), len(seeds), len(templates))
  return uncertainty.variance_components(score_NST)


def mistakes(results: Results, most: int = 10) -> pd.DataFrame:
  """Returns the items that each model was wrong about with the greatest confidence, `most` a task and series.

  An item stands once, as it was asked when confidence was greatest; n_wrong of n_asked is over all numbers of
  shots, seeds and templates of the series' last step. Among them are the items without an answer, whose gold
  is missing, that are answered at the threshold of lm_jax/abstention.py.
  """
  parts = []
  rows = last_steps(results.rows).drop_duplicates("key")
  where = ["task", "series", "n_shots", "prompt_id", "seed"]
  for row in rows.to_dict("records"):
    items = results.items[row["key"]]
    without_answer = [_hallucinations(items)] if "threshold" in items else []
    for part in (answers(items).astype({"gold": "Int64"}), *without_answer):
      parts.append(part.assign(**{name: row[name] for name in where}))
  asked = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
  asked["wrong"] = ~asked["correct"].astype(bool)
  by_item = asked.groupby(["task", "series", "item"])["wrong"]
  asked["n_wrong"], asked["n_asked"] = by_item.transform("sum"), by_item.transform("size")
  wrong = asked[asked["wrong"]].sort_values(["confidence", "n_wrong"], ascending=False, kind="stable")
  once = wrong.drop_duplicates(["task", "series", "item"])
  top = once.groupby(["task", "series"], sort=False).head(most)
  return top.drop(columns=["correct", "wrong"]).sort_values(
    ["task", "series"], kind="stable", ignore_index=True
  )
