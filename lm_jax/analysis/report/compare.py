"""Several studies, and scores from elsewhere, as one study: what `lm-jax report` draws for more than one.

Rows and cells are put one below the other. A cell's id begins with its study's name; a family that several
studies have is told apart by that name, and so is a task that has the same name but other parameters.
A score from elsewhere (`curve_table`) becomes a finished cell of one model, without a run behind it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lm_jax.analysis import curve_table, frame
from lm_jax.analysis.cell_records import DTYPES
from lm_jax.analysis.curve_table import CurveTable
from lm_jax.analysis.figures.figure_files import Drawers
from lm_jax.analysis.frame import Study, TaskInfo
from lm_jax.analysis.report import page_data, report
from lm_jax.strict import ConfigError, nearest

# What a table from elsewhere calls its columns, and what rows of records do.
_COLUMNS = {
  "n_params": "params_total", "n_params_nonembedding": "params_nonembedding", "flops": "flops_exact",
  "n_tokens": "tokens", "step": "step", "seed": "seed",
}  # fmt: skip


def write(
  workdirs: Sequence[str | Path], overlays: Sequence[str | Path] = (), output: Path | None = None
) -> Path:
  """Writes the page of several workdirs to `output`, or report/compare of the first; returns its path."""
  with Drawers() as drawers:
    study = merge([frame.load(w) for w in workdirs], [curve_table.read(path) for path in overlays])
    folder = output or study.workdir / "report" / "compare"
    return report.write_study(study, folder, drawers, scored=False)


def merge(studies: Sequence[Study], overlays: Sequence[CurveTable] = ()) -> Study:
  """Returns one study with the cells of all."""
  names = _names(studies)
  shared = _shared([set(study.cells["family"]) for study in studies])
  tasks: dict[str, TaskInfo] = {}
  cells, rows = [], []
  for study, name in zip(studies, names, strict=True):
    keys = {}
    for key, info in study.tasks.items():
      keys[key] = key if tasks.get(key, info) == info else f"{key} ({name})"
      tasks[keys[key]] = info
    families = {
      family: f"{name}: {family}" if family in shared else family for family in study.cells["family"]
    }
    cells.append(_renamed(study.cells, name, families).assign(
      task=study.cells["task"].map(keys).astype("string"),
      folder=[str(page_data.cell_folder(study, cell)) for cell in study.cells.to_dict("records")],
    ))  # fmt: skip
    rows.append(_renamed(study.records, name, families))
  for overlay in overlays:
    taken = {family for own in cells for family in own["family"]}
    own_cells, own_rows = _overlay(overlay, tasks, taken)
    cells.append(own_cells)
    rows.append(own_rows)
  first = studies[0]
  name = " + ".join([*names, *(Path(overlay.source).stem for overlay in overlays)])
  return Study(
    first.workdir, name, _concat(rows), _concat(cells), tasks,
    first.versions, _same([s.lm_jax_version for s in studies]), _same([s.git_commit for s in studies]),
  )  # fmt: skip


def _names(studies: Sequence[Study]) -> list[str]:
  """Returns a name of each study, with its folder and then a number where a name is taken."""
  names: list[str] = []
  twice = _shared([{study.name} for study in studies])
  for study in studies:
    name = f"{study.name} {study.workdir.resolve().name}" if study.name in twice else study.name
    count = sum(other == name or other.startswith(f"{name} #") for other in names)
    names.append(f"{name} #{count + 1}" if count else name)
  return names


def _shared(groups: Sequence[set[str]]) -> set[str]:
  return {member for member, n in Counter(m for group in groups for m in group).items() if n > 1}


def _renamed(table: pd.DataFrame, name: str, families: dict[str, str]) -> pd.DataFrame:
  ids = (name + "/" + table["cell_id"].astype("string")).astype("string")
  return table.assign(cell_id=ids, family=table["family"].map(families).astype("string"))


def _concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
  # A column that is missing in one table alone would otherwise change the type of all.
  tables = [table.dropna(axis=1, how="all") if i else table for i, table in enumerate(tables)]
  whole = pd.concat(tables, ignore_index=True)
  return whole.astype({"finished": bool}) if "finished" in whole else whole


def _same(values: Sequence[str | None]) -> str | None:
  return " and ".join(dict.fromkeys(v for v in values if v)) or None


# --- scores from elsewhere --------------------------------------------------------------------------


def _overlay(
  table: CurveTable, tasks: dict[str, TaskInfo], families: set[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
  """Returns cells and records of the models of a table."""
  rows = table.rows[table.rows["value"].notna()].reset_index(drop=True)
  _check(table.source, rows, tasks)
  stem = Path(table.source).stem
  family = rows["family"].fillna(stem)
  rows["family"] = family.where(~family.isin(families), stem + ": " + family).astype("string")
  rows["model"] = rows["model"].fillna(rows["n_params"].map("{:.3g} parameters".format)).astype("string")
  rows["seed"] = rows["seed"].fillna(0)
  rows["cell_id"] = stem + "/" + rows["family"] + "/" + rows["model"] + "/" + rows["task"] + "/" + \
    rows["seed"].astype(int).astype("string")  # fmt: skip
  return _cells(rows), _records(rows)


def _check(source: str, rows: pd.DataFrame, tasks: dict[str, TaskInfo]) -> None:
  for name in ("task", "metric", "n_params"):
    if rows[name].isna().any():
      row = int(np.argmax(rows[name].isna().to_numpy())) + 1
      raise ConfigError(f"--overlay={source} row {row}: {name} is missing; a model is drawn by it")
  for task in rows["task"].unique():
    if task not in tasks:
      raise ConfigError(f"--overlay={source}: task={task!r} is not of these studies{nearest(task, tasks)}")
  shots = rows["shots"].dropna()
  wrong = shots[~(shots.str.fullmatch(r"\d+") | shots.isin([frame.WINDOW, frame.ALL]))]
  if len(wrong):
    raise ConfigError(
      f"--overlay={source} row {wrong.index[0] + 1}: shots={wrong.iloc[0]!r}: must be a number, "
      f"{frame.WINDOW} or {frame.ALL} (the same as missing)"
    )


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns one finished cell a model, task and seed."""
  cells = rows.drop_duplicates("cell_id")
  found = pd.DataFrame({
    "cell_id": cells["cell_id"], "label": cells["model"], "family": cells["family"], "task": cells["task"],
    "state": "done", "reason": "", "finished": True, "overrides": "{}",
  })  # fmt: skip
  for name in ("seed", "n_params", "n_params_nonembedding", "n_tokens"):
    found[_COLUMNS[name]] = cells[name].round().astype("Int64")
  found["flops_exact"] = cells["flops"]
  return found.astype(dict.fromkeys(("cell_id", "label", "family", "task", "state", "reason"), "string"))


def _records(rows: pd.DataFrame) -> pd.DataFrame:
  """Returns rows in the columns of `records.Record`; what the table does not say is missing."""
  data = {}
  for name, kind in DTYPES.items():
    dtype = "Int64" if kind == "int64" else kind
    data[name] = pd.Series(pd.NA if dtype != "float64" else np.nan, index=rows.index, dtype=dtype)
  for name, ours in _COLUMNS.items():
    column = rows[name] if ours == "flops_exact" else rows[name].round()
    data[ours] = column.astype("float64" if ours == "flops_exact" else "Int64")
  for name in ("cell_id", "family", "task", "metric", "value", "stderr", "chance"):
    data[name] = rows[name]
  number = pd.to_numeric(rows["shots"], errors="coerce")
  data["n_shots"] = number.round().astype("Int64")
  data["prompt_id"] = rows["shots"].where(rows["shots"] == frame.WINDOW)
  data["n_items"] = rows["n_items"].round().astype("Int64")
  data["split"] = pd.Series("test", index=rows.index, dtype="string")
  # One evaluation, of the model as it is.
  data["step"] = data["step"].fillna(0)
  return pd.DataFrame(data)
