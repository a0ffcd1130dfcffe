"""Points that a scaling law is fitted to: parameters, tokens, compute, and the loss that came of them."""

import dataclasses
from typing import Literal

import numpy as np
import pandas as pd

from lm_jax.analysis.curve_table import CurveTable
from lm_jax.analysis.frame import SUMMARIES
from lm_jax.analysis.known_metrics import LOSSES
from lm_jax.strict import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class LossPoints:
  """Points [P], all finite and greater than 0.

  Attributes:
    n_params, n_tokens: N and D, by the convention that was asked for.
    flops: C, likewise; 6 N D unless counts were asked for.
    loss: nats a token, or bits a byte: as the metric says.
    run: what was trained together; points of one run are not independent.
    unique_tokens: tokens of the corpus, of which n_tokens are repetitions; None where no row says so.
    at_edge: whether a point's learning rate, the best of a sweep, is the smallest or largest that was tried;
      None where no learning rates were swept.
    learning_rates: "tuned" (each point is the best of a sweep), "tuned in part", "one for all", "several, not
      swept"; None where not every row says its own.
    metric: which loss.
    source: where they are from.
    notes: what was derived, and what was left out.
  """

  n_params: np.ndarray
  n_tokens: np.ndarray
  flops: np.ndarray
  loss: np.ndarray
  run: np.ndarray
  unique_tokens: np.ndarray | None = None
  at_edge: np.ndarray | None = None
  learning_rates: str | None = None
  metric: str = "loss"
  source: str = ""
  notes: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.loss)

  def keep(self, chosen: np.ndarray) -> "LossPoints":
    """Returns the points that a mask or indices choose."""
    fields = ("n_params", "n_tokens", "flops", "loss", "run", "unique_tokens", "at_edge")
    arrays = {f: getattr(self, f)[chosen] for f in fields if getattr(self, f) is not None}
    return dataclasses.replace(self, **arrays)


def of_table(
  table: CurveTable,
  *,
  task: str | None = None,
  metric: str | None = None,
  family: str | None = None,
  n: Literal["total", "nonembedding"] = "total",
  c: Literal["6nd", "exact"] = "6nd",
) -> LossPoints:
  """Returns the losses of a table.

  Args:
    task, metric, family: which rows; needed where a table has several tasks or families.
    n: which parameters are N.
    c: compute is 6 N D, or what the table says. Without a column of tokens D is C / (6 N), of without one of
      compute C is 6 N D.
  """
  rows, notes = table.rows, list(table.notes)
  rows = _chosen(
    rows, "metric", metric or next((m for m in LOSSES if (rows["metric"] == m).any()), None), table
  )
  rows = _only(rows, "task", task, table)
  rows = _only(rows, "family", family, table)
  if rows["shots"].nunique() > 1:
    # The summary of a whole evaluation set is the loss of a study's own records.
    summary = next((s for s in SUMMARIES if (rows["shots"] == s).any()), None)
    if summary is None:
      raise ConfigError(f"{table.source}: has losses at several numbers of shots; a fit needs one")
    rows = rows[rows["shots"] == summary]
  rows = rows[rows["value"].notna()]
  size = "n_params" if n == "total" else "n_params_nonembedding"
  if not rows[size].notna().any():
    other = "nonembedding" if n == "total" else "total"
    has = rows["n_params_nonembedding" if n == "total" else "n_params"].notna().any()
    hint = f"; it has --n={other}" if has else f"; name one as --columns={size}=COLUMN"
    raise ConfigError(f"{table.source}: --n={n}: no column of these parameters{hint}")
  n_params, n_tokens, flops = (rows[name].to_numpy() for name in (size, "n_tokens", "flops"))
  if np.isnan(n_tokens).all() and not np.isnan(flops).all():
    n_tokens = flops / (6 * n_params)
    notes.append("tokens are C / (6 N), since there is no column of tokens")
  if np.isnan(n_tokens).all():
    raise ConfigError(f"{table.source}: neither a column of tokens nor one of compute; name one by --columns")
  if c == "6nd":
    flops = 6 * n_params * n_tokens
  elif np.isnan(flops).all():
    raise ConfigError(f"{table.source}: --c=exact: no column of compute; --c=6nd counts 6 N D")
  unique = rows["unique_tokens"].to_numpy()
  points = LossPoints(
    n_params, n_tokens, flops, rows["value"].to_numpy(), _runs(rows),
    None if np.isnan(unique).all() else unique, metric=str(rows["metric"].iloc[0]), source=table.source,
    notes=tuple(notes),
  )  # fmt: skip
  there = _there(points)
  rates = rows["learning_rate"].to_numpy()[there]
  return _best_learning_rates(_positive(points, there), rates, _pruned(table, rows, size))


def _pruned(table: CurveTable, rows: pd.DataFrame, size: str) -> pd.DataFrame:
  """Returns the learning rates that a stop rule ended, beside which those of `rows` were tried."""
  columns = {size: "n_params", "n_tokens": "n_tokens", "learning_rate": "rate"}
  if table.pruned is None or rows.empty:
    return pd.DataFrame(columns=list(columns.values()), dtype="float64")
  first = rows.iloc[0]
  same = (table.pruned["task"] == first["task"]) & (table.pruned["family"] == first["family"])
  return (
    table.pruned.loc[same.fillna(False).astype(bool), list(columns)].rename(columns=columns).astype(float)
  )


def _best_learning_rates(points: LossPoints, rate: np.ndarray, pruned: pd.DataFrame) -> LossPoints:
  """Returns the points of the best learning rate, where runs differ in nothing else but their seeds."""
  if not len(points) or np.isnan(rate).any():
    return points
  data = pd.DataFrame({"n_params": points.n_params, "n_tokens": points.n_tokens, "rate": rate})
  if points.unique_tokens is not None:
    data["unique_tokens"] = points.unique_tokens
  same = data.drop(columns="rate").columns.tolist()
  tried = pd.concat([data, pruned], ignore_index=True) if len(pruned) else data
  numbers = tried.groupby(same, sort=False, dropna=False).ngroup()
  number = numbers[: len(data)]
  mean = pd.Series(points.loss).groupby([number, data["rate"]]).mean()
  best = number.map(mean.groupby(level=0).idxmin().map(lambda key: key[1]))
  of_group = tried["rate"].groupby(numbers)
  low, high = (of_group.transform(name)[: len(data)] for name in ("min", "max"))
  swept, kept = (low < high).to_numpy(), (data["rate"] == best).to_numpy()
  if not swept.any():
    return dataclasses.replace(points, learning_rates="one for all" if np.ptp(rate) == 0 else
                               "several, not swept")  # fmt: skip
  at_edge = swept & ((best == low) | (best == high)).to_numpy()
  note = (
    f"{int((~kept).sum())} of {len(points)} points are of learning rates that are not the best, and left out"
  )
  points = dataclasses.replace(points, at_edge=at_edge, notes=(*points.notes, note),
                               learning_rates="tuned" if swept.all() else "tuned in part")  # fmt: skip
  return points.keep(kept)


def _columns(points: LossPoints) -> dict[str, np.ndarray]:
  columns = {"parameters": points.n_params, "tokens": points.n_tokens, "compute": points.flops,
             "loss": points.loss}  # fmt: skip
  return columns if points.unique_tokens is None else columns | {"unique tokens": points.unique_tokens}


def _there(points: LossPoints) -> np.ndarray:
  """Returns which points have all their numbers."""
  return np.all([np.isfinite(column) for column in _columns(points).values()], axis=0)


def _positive(points: LossPoints, there: np.ndarray) -> LossPoints:
  """Leaves out points that lack a number, and refuses those that a logarithm does not have."""
  for name, column in _columns(points).items():
    bad = there & (column <= 0)
    if bad.any():
      raise ConfigError(
        f"{points.source}: {name} of {column[np.argmax(bad)]:g}: must be greater than 0 "
        f"({int(bad.sum())} rows)"
      )
  kept = points.keep(there)
  if not there.all():
    note = f"{int((~there).sum())} of {len(points)} points lack a number and are left out"
    kept = dataclasses.replace(kept, notes=(*kept.notes, note))
  return kept


def _runs(rows: pd.DataFrame) -> np.ndarray:
  """Returns the name of each row's run; a row that names none is a run of its own."""
  alone = pd.Series([f"row {i + 1}" for i in range(len(rows))], index=rows.index, dtype="string")
  return rows["run"].fillna(alone).to_numpy(dtype=str)


def _chosen(rows: pd.DataFrame, name: str, value: str | None, table: CurveTable) -> pd.DataFrame:
  present = sorted(rows[name].dropna().unique())
  if value is None or value not in present:
    asked = f"--{name}={value}: not in" if value is not None else f"no {name} of {', '.join(LOSSES)} in"
    hint = nearest(value or "loss", present) if present else ""
    raise ConfigError(f"{asked} {table.source}{hint}")
  return rows[rows[name] == value]


def _only(rows: pd.DataFrame, name: str, value: str | None, table: CurveTable) -> pd.DataFrame:
  """Returns the rows of one task or family: the one asked for, or the only one that there is."""
  if value is not None:
    return _chosen(rows, name, value, table)
  present = sorted(rows[name].dropna().unique())
  if len(present) > 1:
    raise ConfigError(f"{table.source}: has losses of several; choose one as --{name}=: {', '.join(present)}")
  return rows
