"""Measured points of scaling curves as one table: of a workdir's records, or of anybody's file.

A file has a row a measured value, and its columns have names of their own: which is which is guessed from
the names in `ALIASES`, or said, and told in either case (`CurveTable.columns`). A file with a column a metric
instead of columns `metric` and `value` becomes rows. What a row does not say is missing, never zero.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lm_jax.analysis import few_shot_frame, frame
from lm_jax.analysis.known_metrics import METRICS
from lm_jax.strict import ConfigError, did_you_mean, nearest

# Canonical columns, and the names that they go by elsewhere, the most telling first.
ALIASES: dict[str, tuple[str, ...]] = {
  "study": ("study", "experiment", "project"),
  "family": ("family", "model_family"),
  "model": ("model", "model_name", "label"),
  "run": ("run", "run_id", "run_name", "cell_id"),
  "task": ("task", "task_name", "dataset", "benchmark"),
  "metric": ("metric", "metric_name"),
  "shots": ("shots", "n_shots", "num_shots", "shot", "fewshot", "num_fewshot"),
  "group": ("group", "difficulty", "prompt_id", "template"),
  "n_params": (
    "n_params", "params_total", "params", "parameters", "num_params", "n_params_total", "n_parameters",
    "num_parameters", "model_size", "size", "n",
  ),
  "n_params_nonembedding": (
    "n_params_nonembedding", "params_nonembedding", "nonembedding_params", "non_embedding_params",
    "params_non_embedding", "n_params_non_embedding", "non_embedding_parameters", "n_nonembedding",
  ),
  "n_tokens": (
    "n_tokens", "tokens", "train_tokens", "training_tokens", "num_tokens", "tokens_trained", "data_size", "d",
  ),
  "flops": (
    "flops", "flops_exact", "flop", "training_flop", "training_flops", "train_flops", "compute",
    "flops_6nd", "c",
  ),
  "learning_rate": ("learning_rate", "lr", "peak_lr", "max_lr"),
  "unique_tokens": ("unique_tokens", "n_unique_tokens", "num_unique_tokens", "unique_data"),
  "step": ("step", "steps", "checkpoint"),
  "seed": ("seed", "random_seed"),
  "value": ("value", "score", "result"),
  "stderr": ("stderr", "standard_error", "std_err", "se"),
  "n_items": ("n_items", "n_examples", "num_examples", "n_eval", "n_eval_inferred", "num_items", "n_samples"),
  "chance": (
    "chance", "chance_level", "random_baseline", "low_score", "low_score_recomputed", "low_score_published",
  ),
  "ceiling": ("ceiling", "high_score", "max_score"),
}  # fmt: skip
TEXT = ("study", "family", "model", "run", "task", "metric", "shots", "group")
NUMBERS = tuple(name for name in ALIASES if name not in TEXT)
# Measures of scale, the first that a table has speaks for its curves.
SIZES = ("n_params", "n_params_nonembedding", "flops", "n_tokens")
# Units that end a column's name, as in size_B or flops_1e21.
_UNITS = {"k": 1e3, "m": 1e6, "millions": 1e6, "b": 1e9, "bn": 1e9, "billions": 1e9, "t": 1e12,
          "trillions": 1e12}  # fmt: skip
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-")


@dataclasses.dataclass(frozen=True)
class CurveTable:
  """Points of curves.

  Attributes:
    rows: one a value, with every name of `ALIASES` as a column: text is "string", numbers are float64.
    source: where they are from.
    columns: {canonical name: what it is in the source}, of those that the source has.
    notes: what a reader should know of how the source was read.
    pruned: runs without values, since a stop rule ended them as the worse ones: their "family", "task",
      "n_params", "n_params_nonembedding", "n_tokens" (planned) and "learning_rate".
  """

  rows: pd.DataFrame
  source: str
  columns: Mapping[str, str]
  notes: tuple[str, ...] = ()
  pruned: pd.DataFrame | None = None

  def told(self) -> str:
    """Returns which columns were taken for which, for a person."""
    pairs = (f"{name} = {column}" if name != column else name for name, column in self.columns.items())
    return f"{self.source}: {', '.join(pairs)}"


def load(workdir: str | Path, *, checkpoints: bool = False) -> CurveTable:
  """Returns the points of a workdir of `lm-jax sweep`, `train` or `evaluate`.

  Args:
    checkpoints: all evaluations of its runs, and not only the last ones of those that are finished.
  """
  if few_shot_frame.is_results(Path(workdir)):
    return of_results(few_shot_frame.load(workdir), checkpoints=checkpoints)
  return of_study(frame.load(workdir), checkpoints=checkpoints)


def of_study(study: frame.Study, *, checkpoints: bool = False) -> CurveTable:
  """Returns the test values of a study; see `load`."""
  rows = frame.evaluations(study) if checkpoints else frame.final(study)
  known = {
    (task, metric, shots): study.tasks[task].bayes(metric, shots) if task in study.tasks else None
    for task, metric, shots in rows[["task", "metric", "shots"]].drop_duplicates().itertuples(index=False)
  }
  keys = zip(rows["task"], rows["metric"], rows["shots"], strict=True)
  own = {
    "study": pd.Series(study.name, index=rows.index), "model": rows["label"], "run": rows["cell_id"],
    "n_params": rows["params_total"], "n_params_nonembedding": rows["params_nonembedding"],
    "flops": rows["flops_exact"], "n_tokens": rows["tokens"],
    "learning_rate": rows["cell_id"].map(study.cells.set_index("cell_id")["learning_rate"]),
    # What an ideal learner scores, where that is known, is the most that a curve can reach.
    "ceiling": pd.Series([known[key] for key in keys], index=rows.index, dtype="float64"),
  }  # fmt: skip
  same = ("family", "task", "metric", "shots", "step", "seed", "value", "stderr", "n_items", "chance")
  own |= {name: rows[name] for name in same}
  notes = () if not len(study.missing) else (
    f"{len(study.missing)} of {len(study.cells)} cells are not finished and left out",
  ) * (not checkpoints)  # fmt: skip
  return CurveTable(
    _canonical(own, rows.index), str(study.workdir), {name: name for name in own}, notes, _pruned(study.cells)
  )


def _pruned(cells: pd.DataFrame) -> pd.DataFrame:
  names = {"family": "family", "task": "task", "params_total": "n_params", "tokens": "n_tokens",
           "params_nonembedding": "n_params_nonembedding", "learning_rate": "learning_rate"}  # fmt: skip
  return cells.loc[(cells["state"] == "pruned").fillna(False).astype(bool), list(names)].rename(columns=names)


def of_results(results: few_shot_frame.Results, *, checkpoints: bool = False) -> CurveTable:
  """Returns the scores of `lm-jax evaluate`; a template is a group where there are several."""
  rows = results.rows
  if not checkpoints:
    last = rows.groupby(["model", "task"])["step"].transform("max")
    rows = rows[rows["step"].isna() | (rows["step"] == last)]
  own = {
    "family": rows["family"], "model": rows["series"], "run": rows["series"], "task": rows["task"],
    "metric": rows["metric"], "shots": rows["n_shots"], "n_params": rows["params_total"],
    **{name: rows[name] for name in ("step", "seed", "value", "stderr", "n_items", "chance")},
  }  # fmt: skip
  if "params_nonembedding" in rows:
    own["n_params_nonembedding"] = rows["params_nonembedding"]
  if rows["prompt_id"].nunique() > 1:
    own["group"] = rows["prompt_id"]
  return CurveTable(_canonical(own, rows.index), str(results.folder), {name: name for name in own})


def read(path: str | Path, given: Mapping[str, str] | None = None) -> CurveTable:
  """Reads a .csv or .tsv (also .gz) or .parquet.

  Args:
    given: {canonical name: column of the file, or FACTOR*column}, where a guess would be wrong or fail.

  Raises:
    ConfigError: for a column that is not there (with the nearest name), and for a cell that should be a
      number (with its row).
  """
  path = Path(path)
  table = _file(path)
  columns, notes = _columns(path, table, given or {})
  data = {name: table[column] for name, (column, _) in columns.items()}
  for name in set(data) & set(NUMBERS):
    data[name] = _numbers(path, columns[name][0], data[name]) * columns[name][1]
  if "value" in data and "metric" not in data and _normalized(columns["value"][0]) not in ALIASES["value"]:
    # A column that was said to be the values names the metric.
    data["metric"] = pd.Series(_normalized(columns["value"][0]), index=table.index)
  told = {name: column if scale == 1 else f"{scale:g}*{column}" for name, (column, scale) in columns.items()}
  metrics = [] if "value" in data else _metric_columns(path, table, columns)
  if not metrics:
    rows = _canonical(data, table.index)
  else:
    told |= {"metric": "a column each", "value": ", ".join(metrics)}
    parts = [
      _canonical(data | {"metric": pd.Series(m, index=table.index), "value": _numbers(path, m, table[m])},
                 table.index)
      for m in metrics
    ]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
  missing = int(rows["value"].isna().sum())
  if missing:
    notes.append(f"{missing} of {len(rows)} values are missing and left out")
  return CurveTable(rows, str(path), told, tuple(notes))


def size_axis(table: CurveTable, asked: str | None = None) -> str:
  """Returns the measure of scale of a table: the one asked for, else the first of SIZES that it has."""
  present = [name for name in SIZES if table.rows[name].notna().any()]
  if asked is not None and asked not in SIZES:
    raise ConfigError(f"--x={asked}: unknown{nearest(asked, SIZES)}")
  if asked is not None and asked not in present:
    raise ConfigError(
      f"--x={asked}: {table.source} has no column for it; it has {', '.join(present) or 'none'}"
    )
  if not present:
    raise ConfigError(
      f"{table.source}: no column for the size of a model; name one as --columns={SIZES[0]}=COLUMN"
    )
  return asked or present[0]


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
  """Returns {canonical name: column} of "n_params=size,task=name"."""
  given = {}
  for text in filter(None, (part.strip() for whole in texts for part in whole.split(","))):
    name, equals, column = text.partition("=")
    if not equals or not column:
      raise ConfigError(f"--columns={text}: must be NAME=COLUMN; names: {', '.join(ALIASES)}")
    if name not in ALIASES:
      raise ConfigError(f"--columns={text}: unknown name {name!r}{nearest(name, ALIASES)}")
    given[name] = column
  return given


# --- reading a file -----------------------------------------------------------------------------


def _file(path: Path) -> pd.DataFrame:
  """Returns a file's cells, as text where the file is text."""
  endings = "".join(path.suffixes).lower()
  if not path.is_file():
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"--table={path}: no such file{did_you_mean(path.name, siblings)}")
  try:
    if endings.endswith(".parquet"):
      table = pd.read_parquet(path)
    elif endings.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
      separator = "\t" if ".tsv" in endings else ","
      table = pd.read_csv(path, sep=separator, dtype="string", keep_default_na=False, encoding="utf-8-sig")
    else:
      raise ConfigError(f"--table={path}: must end in .csv, .tsv, .csv.gz, .tsv.gz or .parquet")
  except (OSError, UnicodeDecodeError, ValueError) as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(f"--table={path}: cannot be read ({' '.join(str(error).split())})") from None
  if table.empty:
    raise ConfigError(f"--table={path}: has no rows")
  twice = [name for name, count in collections.Counter(map(str, table.columns)).items() if count > 1]
  if twice:
    raise ConfigError(f"--table={path}: has several columns {twice[0]!r}")
  return table.rename(columns=str)


def _columns(
  path: Path, table: pd.DataFrame, given: Mapping[str, str]
) -> tuple[dict[str, tuple[str, float]], list[str]]:
  """Returns {canonical name: (column, what it is multiplied with)}, and notes."""
  found: dict[str, tuple[str, float]] = {}
  for name, text in given.items():
    factor, star, column = text.partition("*")
    scale = 1.0
    if star and text not in table:
      try:
        scale = float(factor)
      except ValueError:
        raise ConfigError(f"--columns={name}={text}: {factor!r} is no number") from None
    else:
      column = text
    if column not in table:
      raise ConfigError(f"--columns={name}={text}: {path} has no column {column!r}{nearest(column, table)}")
    found[name] = (column, scale)
  taken = {column for column, _ in found.values()}
  names = {column: _normalized(column) for column in table if column not in taken}
  notes = []
  for name, aliases in ALIASES.items():
    if name in found:
      continue
    matches = [(c, *_match(names[c], aliases, name)) for c in names if _match(names[c], aliases, name)]
    matches.sort(key=lambda match: match[1])
    if matches:
      column, _, scale = matches[0]
      found[name] = (column, scale)
      del names[column]
      others = [c for c, _, _ in matches[1:]]
      if others:
        notes.append(f"{name} is read from {column}, not from {', '.join(others)}")
  return {name: found[name] for name in ALIASES if name in found}, notes


def _normalized(column: str) -> str:
  return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _match(column: str, aliases: Sequence[str], name: str) -> tuple[int, float] | None:
  """Returns (rank, factor) of a column for a canonical name: "size_b" are billions of "size"."""
  if column in aliases:
    return aliases.index(column), 1.0
  base, _, unit = column.rpartition("_")
  if base not in aliases or name in TEXT:
    return None
  power = re.fullmatch(r"1e(\d+)", unit)
  scale = float(unit) if power else _UNITS.get(unit)
  return None if scale is None else (aliases.index(base), scale)


def _numbers(path: Path, column: str, values: pd.Series) -> pd.Series:
  """Returns a column as float64, NaN where it says that it is missing."""
  if pd.api.types.is_numeric_dtype(values):
    return values.astype("float64")
  text = values.astype("string").str.strip()
  missing = text.isna() | text.str.lower().isin(_MISSING)
  numbers = pd.to_numeric(text.where(~missing), errors="coerce").astype("float64")
  # Thousands with commas are left to their owner: 1,5 is another number elsewhere.
  wrong = numbers.isna().to_numpy() & ~missing.to_numpy()
  if wrong.any():
    row = int(np.argmax(wrong))
    raise ConfigError(
      f"--table={path} row {row + 1}: {column}={str(text.iloc[row])!r} is no number (the header is row 0)"
    )
  return numbers


def _metric_columns(path: Path, table: pd.DataFrame, columns: Mapping[str, tuple[str, float]]) -> list[str]:
  taken = {column for column, _ in columns.values()}
  if "metric" in columns:
    raise ConfigError(
      f"--table={path}: has a column of metrics and none of values; name it as --columns=value=COLUMN; "
      f"its columns: {', '.join(table)}"
    )
  metrics = [c for c in table if _normalized(c) in METRICS and c not in taken]
  if not metrics:
    close = did_you_mean("value", (c for c in table if c not in taken))
    raise ConfigError(
      f"--table={path}: no column of values{close}; name it as --columns=value=COLUMN; its columns: "
      f"{', '.join(table)}"
    )
  return metrics


def _canonical(own: Mapping[str, pd.Series], index: pd.Index) -> pd.DataFrame:
  """Returns the canonical columns in their order, missing where there is nothing."""
  data = {}
  for name in ALIASES:
    column = own.get(name, pd.Series(pd.NA, index=index, dtype="string" if name in TEXT else "Float64"))
    if name in TEXT:
      text = _text(column)
      data[name] = text.mask(text.str.strip() == "")
    else:
      data[name] = column.astype("float64")
  return pd.DataFrame(data).reset_index(drop=True)


def _text(column: pd.Series) -> pd.Series:
  """Returns names; a number of shots that pandas holds as 3.0 is "3"."""
  if pd.api.types.is_float_dtype(column):
    whole = column.dropna() % 1 == 0
    column = column.astype("Int64") if whole.all() else column
  return column.astype("string")
