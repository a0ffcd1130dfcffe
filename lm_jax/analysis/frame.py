"""A workdir (a sweep or one run) as data frames: records, cells with their state, tasks.

Missing is missing: a cell without a finished evaluation keeps its row and says why, and a null value
stays null through every mean.
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lm_jax.analysis import cell_names, cell_records
from lm_jax.strict import ConfigError

# How the number of shots of a row is named where it is not a number.
WINDOW = "window"  # summary over the task's last `window` queries
ALL = "all"  # a value that has no number of shots, e.g. of a text task
SUMMARIES = (WINDOW, ALL)

_CELL_FIELDS = ("cell_id", "label", "family", "seed", "task")
# Measures of training compute, the one that was counted first (`lm_jax.scaling`).
COMPUTE = ("flops_exact", "flops_6nd", "flops_6nd_nonembedding")
_CELL_NUMBERS = ("params_total", "params_nonembedding", "num_steps", "tokens", *COMPUTE)


@dataclasses.dataclass(frozen=True)
class TaskInfo:
  """The yardsticks of a task, as its runs wrote them.

  Attributes:
    chance: accuracy of a uniform guess for one answer token.
    shots: demonstrations before each query; None where the notion has no meaning.
    window: the summary takes the last `window` queries together.
    answer_length: tokens of one answer.
    bayes_accuracy: accuracy of the Bayes-optimal predictor for each query, None if unknown.
  """

  name: str
  chance: float | None = None
  shots: tuple[int, ...] | None = None
  window: int | None = None
  answer_length: int | None = None
  bayes_accuracy: tuple[float, ...] | None = None

  def bayes(self, metric: str, shots: str) -> float | None:
    """Returns the Bayes-optimal value of `metric` at `shots` ("0", ..., "window"), None if unknown."""
    # Exact match asks for all tokens of a window of queries; where both are one it is accuracy.
    same = metric == "accuracy" or (metric == "exact_match" and self.answer_length == self.window == 1)
    if not same or not self.bayes_accuracy or not self.shots:
      return None
    if shots == WINDOW:
      return float(np.mean(self.bayes_accuracy[-self.window :])) if self.window else None
    values = [b for k, b in zip(self.shots, self.bayes_accuracy, strict=False) if str(k) == shots]
    return float(np.mean(values)) if values else None


@dataclasses.dataclass(frozen=True)
class Study:
  """What a workdir holds.

  Attributes:
    records: every row of every cell, columns and types those of `cell_records.DTYPES`.
    cells: one row a cell: its identity, sizes, `state`, `finished`, and `reason` where it is not finished.
    tasks: {task: yardsticks}; tasks of one name with different parameters have keys of their own.
    versions: {package: version} of the sweep.
    strangers: names under cells/ that are not cells of this sweep.
    stop_rules: what the rules of the last launch left out, as sweep.json has it; None where there were none.
  """

  workdir: Path
  name: str
  records: pd.DataFrame
  cells: pd.DataFrame
  tasks: dict[str, TaskInfo]
  versions: dict[str, str]
  lm_jax_version: str | None
  git_commit: str | None
  strangers: tuple[str, ...] = ()
  stop_rules: Mapping[str, Any] | None = None

  @functools.cached_property
  def evaluations(self) -> pd.DataFrame:
    return _evaluations(self)

  @functools.cached_property
  def final(self) -> pd.DataFrame:
    return _final(self.evaluations)

  @property
  def missing(self) -> pd.DataFrame:
    return self.cells[~self.cells["finished"]]


# --- reading ------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
  try:
    tree = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
  if not isinstance(tree, dict):
    raise ConfigError(f"{path}: must hold a JSON object")
  return tree


def _optional_json(path: Path) -> dict[str, Any] | None:
  """Returns None for a file that is absent or unreadable: one bad cell must not hide the others."""
  try:
    return _read_json(path)
  except ConfigError:
    return None


@dataclasses.dataclass(frozen=True)
class _CellRows:
  """What the rows of a cell say of it as a whole.

  Attributes:
    problem: why there are no rows, or "".
    last: its last row; empty where there is none.
    furthest: its first row of the greatest step.
    tested: the last step with an evaluation.
    loss: its last training loss.
  """

  problem: str
  last: dict[str, Any] = dataclasses.field(default_factory=dict)
  furthest: dict[str, Any] = dataclasses.field(default_factory=dict)
  tested: int | None = None
  loss: float | None = None


@dataclasses.dataclass(frozen=True)
class _CellFiles:
  status: dict[str, Any] | None
  task: dict[str, Any] | None
  config: dict[str, Any] | None
  rows: _CellRows
  started: bool


_SAID_LAST = ("device", "lm_jax_version", "git_commit")
_SAID_FURTHEST = ("cell_id", "params_total", "params_nonembedding", "tokens", *COMPUTE)


def _read_cells(folders: Sequence[Path]) -> tuple[pd.DataFrame, list[_CellFiles]]:
  """Returns all rows of all cells, and of each cell what else its folder says."""
  rows, places, problems = cell_records.read([folder / "records.jsonl" for folder in folders])
  files = []
  for folder, own in zip(folders, _cell_rows(rows, places, problems), strict=True):
    status, task, config = (_optional_json(folder / f"{name}.json") for name in ("status", "task", "config"))
    files.append(_CellFiles(status, task, config, own, folder.is_dir()))
  return rows, files


def _cell_rows(rows: pd.DataFrame, places: np.ndarray, problems: Sequence[str]) -> list[_CellRows]:
  def said(chosen: pd.DataFrame, names: Sequence[str]) -> dict[int, dict[str, Any]]:
    own = chosen[list(names)].astype(object)
    values = own.where(own.notna(), None).to_dict("records")
    return dict(zip(places[chosen.index].tolist(), values, strict=True))

  losses = rows[(rows["split"] == "train") & (rows["metric"] == "loss")]
  tests = rows["split"] == "test"
  last = said(_last(rows, places), _SAID_LAST)
  furthest = said(rows.loc[rows["step"].groupby(places).idxmax()], _SAID_FURTHEST)
  tested = rows.loc[tests, "step"].groupby(places[tests]).max().to_dict()
  loss = said(_last(losses, places), ["value"])
  return [
    _CellRows(problem, last.get(i, {}), furthest.get(i, {}), tested.get(i), loss.get(i, {}).get("value"))
    for i, problem in enumerate(problems)
  ]


def _last(rows: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
  return rows[~pd.Index(places[rows.index]).duplicated(keep="last")]


def _one_line(text: Any) -> str:
  return " ".join(str(text).split())


def _state(files: _CellFiles, num_steps: int | None) -> tuple[str, str]:
  """Returns (state, why the cell's final values are missing or "")."""
  if not files.started:
    return "pending", "not started"
  if files.status is None:
    return "pending", "no readable status.json"
  state = str(files.status.get("state"))
  step, total = files.status.get("step"), files.status.get("num_steps") or num_steps
  at = f"at step {step} of {total}" if step is not None else "before its first step"
  heard = files.status.get("time")
  if state == "running" and isinstance(heard, int | float):
    at += f", last heard of {datetime.datetime.fromtimestamp(heard, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
  if state == "failed":
    return state, _one_line(files.status.get("error") or f"failed {at}, without a message")
  if state == "pruned":
    return state, _one_line(files.status.get("error") or f"pruned {at}")
  if state != "done":
    return state, f"{state} {at}"
  if files.rows.problem:
    return state, f"done, but {files.rows.problem}"
  last_step = files.rows.tested
  if last_step is None or (total and last_step < total):
    last = "none" if last_step is None else f"the last at step {last_step}"
    return state, f"done, but there is no evaluation of its final step {total} ({last})"
  return state, ""


def _cell_row(cell: Mapping[str, Any], files: _CellFiles) -> dict[str, Any]:
  state, reason = _state(files, cell.get("num_steps"))
  row = {name: cell.get(name) for name in (*_CELL_FIELDS, *_CELL_NUMBERS)}
  row |= {"state": state, "reason": reason, "finished": not reason}
  row["step"] = (files.status or {}).get("step")
  row["overrides"] = json.dumps(cell.get("overrides") or {}, sort_keys=True, default=str)
  row |= {name: files.rows.last.get(name) for name in _SAID_LAST}
  # An older sweep.json has 6 N D in the records only; an unfinished cell's is of another number of tokens.
  for name in COMPUTE:
    if row[name] is None and not reason:
      row[name] = files.rows.furthest.get(name)
  row["final_loss"] = None if reason else files.rows.loss
  # The resolved config says it also where the sweep does not vary it.
  row["learning_rate"] = ((files.config or {}).get("optimizer") or {}).get("learning_rate")
  return row


def _sweep_cells(sweep: dict[str, Any], path: Path) -> list[dict[str, Any]]:
  cells = sweep.get("cells")
  if not isinstance(cells, list) or not all(isinstance(c, dict) for c in cells):
    raise ConfigError(f"{path}: must list its cells under 'cells'")
  for i, cell in enumerate(cells):
    absent = [name for name in _CELL_FIELDS if cell.get(name) is None]
    if absent:
      raise ConfigError(f"{path}: cells[{i}] lacks {', '.join(absent)}")
    if Path(str(cell["cell_id"])).name != cell["cell_id"]:
      raise ConfigError(f"{path}: cells[{i}].cell_id={cell['cell_id']!r}: must name a directory of cells/")
  return cell_names.told_apart(cells)


def _run_cell(config: dict[str, Any], files: _CellFiles, path: Path) -> dict[str, Any]:
  """Returns the one cell of a single run's workdir, in the form of sweep.json's."""
  try:
    model, train, task = config["model"], config["train"], config["task"]["name"]
    label = f"d{model['d_model']} L{model['num_layers']}"
    cell = {"cell_id": "run", "label": label, "family": config["family"], "seed": config["seed"],
            "task": task, "record_task": task, "num_steps": train["num_steps"]}  # fmt: skip
  except (KeyError, TypeError) as error:
    raise ConfigError(f"{path}: is not a resolved config (no {error})") from error
  known = ("cell_id", "params_total", "params_nonembedding", "tokens", "flops_exact")
  return cell | {name: value for name, value in files.rows.furthest.items() if name in known}


def _task_info(name: str, tree: dict[str, Any] | None) -> TaskInfo:
  tree = tree or {}

  def sequence(key: str) -> tuple | None:
    return None if tree.get(key) is None else tuple(tree[key])

  return TaskInfo(name, tree.get("chance"), sequence("shots"), tree.get("window"), tree.get("answer_length"),
                  sequence("bayes_accuracy"))  # fmt: skip


def _cells_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
  frame = pd.DataFrame(rows)
  for name in ("cell_id", "label", "family", "task", "state", "reason", "overrides",
               "device", "lm_jax_version", "git_commit"):  # fmt: skip
    frame[name] = frame[name].astype("string")
  for name in ("seed", "step", "params_total", "params_nonembedding", "num_steps", "tokens"):
    frame[name] = pd.array([None if pd.isna(v) else int(v) for v in frame[name]], dtype="Int64")
  for name in (*COMPUTE, "final_loss", "learning_rate"):
    frame[name] = frame[name].astype("float64")
  frame["finished"] = frame["finished"].astype(bool)
  return frame


def load(workdir: str | Path) -> Study:
  """Reads a workdir of a sweep or of a single run; raises ConfigError where it is neither."""
  workdir = Path(workdir)
  if not workdir.is_dir():
    raise ConfigError(f"workdir={str(workdir)!r}: no such directory")
  strangers: tuple[str, ...] = ()
  if (workdir / "sweep.json").exists():
    sweep = _read_json(workdir / "sweep.json")
    cells = _sweep_cells(sweep, workdir / "sweep.json")
    rows, files = _read_cells([workdir / "cells" / cell["cell_id"] for cell in cells])
    present = {p.name for p in (workdir / "cells").iterdir()} if (workdir / "cells").is_dir() else set()
    strangers = tuple(sorted(present - {cell["cell_id"] for cell in cells}))
  elif (workdir / "config.json").exists():
    config = _read_json(workdir / "config.json")
    rows, files = _read_cells([workdir])
    cells = [_run_cell(config, files[0], workdir / "config.json")]
    sweep = {"study": config.get("study")}
  else:
    raise ConfigError(
      f"workdir={str(workdir)!r}: has neither sweep.json (a sweep) nor config.json (a run) nor results.jsonl "
      "with cells/ (lm-jax evaluate)"
    )
  if not cells:
    raise ConfigError(f"{workdir / 'sweep.json'}: lists no cells")
  tasks: dict[str, TaskInfo] = {}
  for cell, f in zip(cells, files, strict=True):
    if f.task is not None or cell["task"] not in tasks:
      tasks[cell["task"]] = _task_info(cell["record_task"], f.task)
  frame = _cells_frame([_cell_row(c, f) for c, f in zip(cells, files, strict=True)])
  versions = {str(k): str(v) for k, v in (sweep.get("versions") or {}).items()}
  known = frame.dropna(subset=["lm_jax_version"])
  return Study(
    workdir, str(sweep.get("study") or workdir.resolve().name), rows, frame, tasks, versions,
    sweep.get("lm_jax_version") or (known["lm_jax_version"].iloc[0] if len(known) else None),
    sweep.get("git_commit") or (known["git_commit"].iloc[0] if known["git_commit"].notna().any() else None),
    strangers, sweep.get("stop_rules"),
  )  # fmt: skip


# --- views of the records -----------------------------------------------------------------------


def evaluations(study: Study) -> pd.DataFrame:
  """Returns the test rows of all cells with `label`, `finished` and `shots` ("0", ..., "window", "all")."""
  return study.evaluations


def _evaluations(study: Study) -> pd.DataFrame:
  rows = study.records[study.records["split"] == "test"]
  cells = study.cells[["cell_id", "label", "finished", "task"]].rename(columns={"task": "cell_task"})
  rows = rows.merge(cells, on="cell_id", how="inner")
  # A row of the task a cell trains on takes the name that tells this task's parameters apart.
  names = rows["cell_task"].map({key: info.name for key, info in study.tasks.items()})
  rows["task"] = rows["cell_task"].where((rows["task"] == names).astype(bool), rows["task"])
  summary = np.where(rows["prompt_id"].fillna("") == WINDOW, WINDOW, ALL)
  shots = pd.Series(rows["n_shots"].astype("string"), index=rows.index)
  rows["shots"] = shots.where(shots.notna(), pd.Series(summary, index=rows.index, dtype="string"))
  return rows.drop(columns="cell_task")


def final(study: Study) -> pd.DataFrame:
  """Returns the test rows of finished cells at their last step: the tidy table behind every figure."""
  return study.final


def _final(rows: pd.DataFrame) -> pd.DataFrame:
  rows = rows[rows["finished"]]
  last = rows.groupby("cell_id")["step"].transform("max")
  return rows[rows["step"] == last].drop(columns="finished").reset_index(drop=True)


def main_family(cells: pd.DataFrame) -> str:
  """Returns the family with most sizes (the first on a tie): the one whose points a line joins."""
  sizes = cells.groupby("family", sort=False)["label"].nunique()
  return str(sizes.index[int(np.argmax(sizes.to_numpy()))])


def summary_shots(rows: pd.DataFrame) -> str:
  """Returns which rows summarize a task: those of the window where there is one, else of all tokens."""
  return WINDOW if (rows["shots"] == WINDOW).any() else ALL


def summaries(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns the rows that summarize a task over its shots, and all rows of tasks that have none such."""
  of_all = rows["shots"].isin(SUMMARIES)
  return rows[of_all | ~rows["task"].isin(set(rows.loc[of_all, "task"]))]


def primary_metric(rows: pd.DataFrame) -> str | None:
  """Returns the metric that speaks for a task's rows, None where there are none."""
  present = set(rows.loc[rows["value"].notna(), "metric"])
  return next((m for m in ("bits_per_byte", "accuracy", "nll") if m in present), None)


def chance(study: Study, rows: pd.DataFrame, task: str, metric: str, shots: str) -> float | None:
  """Returns the chance level of a metric as its rows give it, the task's own for accuracy otherwise."""
  chosen = rows[(rows["task"] == task) & (rows["metric"] == metric) & (rows["shots"] == shots)]
  given = chosen["chance"].dropna()
  if len(given):
    return float(given.iloc[0])
  return study.tasks[task].chance if metric == "accuracy" and task in study.tasks else None
