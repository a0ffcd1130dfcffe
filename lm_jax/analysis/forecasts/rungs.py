"""The sizes of one family on one task: what a forecast is made from."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lm_jax.analysis.known_metrics import ABILITIES, LOSSES


@dataclasses.dataclass(frozen=True)
class Measured:
  """One metric at each size [S], ascending.

  Attributes:
    mean: over seeds.
    variance: of that mean as a measurement of the size: seeds, pooled over sizes, and items. NaN where
      neither is known.
    seed_variance: of one run around its size's mean, pooled; None where no size has two seeds.
    item_variance: of a value by its items [S], NaN where unknown.
    n_seeds: [S].
  """

  metric: str
  mean: np.ndarray
  variance: np.ndarray
  seed_variance: float | None
  item_variance: np.ndarray
  n_seeds: np.ndarray
  n_items: float | None


@dataclasses.dataclass(frozen=True)
class Rungs:
  """Sizes x [S], ascending, with a loss and an ability on the same items; either may be None.

  Attributes:
    chance, ceiling: of the ability, None where unknown.
    runs: what was measured, by name, of all sizes.
  """

  task: str
  shots: str | None
  family: str | None
  x: np.ndarray
  loss: Measured | None
  ability: Measured | None
  chance: float | None
  ceiling: float | None
  runs: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.x)

  def keep(self, chosen: np.ndarray) -> "Rungs":
    """Returns the sizes that a mask chooses."""
    return dataclasses.replace(self, x=self.x[chosen], loss=_keep(self.loss, chosen),
                               ability=_keep(self.ability, chosen))  # fmt: skip


def of_rows(rows: pd.DataFrame, x: str) -> Iterator[Rungs]:
  """Yields the rungs of every (task, shots, family, ability), and of every loss that none of these has.

  An ability goes with the first of LOSSES that is there; the others, such as bits per byte beside nats a
  token, stand alone.

  Args:
    rows: of a `curve_table.CurveTable`.
    x: the column that is the size.
  """
  rows = rows[rows["value"].notna() & rows[x].notna() & (rows[x] > 0)]
  for (task, shots, family), own in rows.groupby(["task", "shots", "family"], dropna=False, sort=False):
    metrics = list(dict.fromkeys(own["metric"].dropna()))
    losses = [m for m in LOSSES if m in metrics]
    abilities = [m for m in ABILITIES if m in metrics]
    first = next(iter(losses), None)
    alone = losses[1:] if abilities else losses
    for loss, ability in [*((first, of) for of in abilities), *((of, None) for of in alone)]:
      yield _rungs(own, x, (_name(task) or "", _name(shots), _name(family)), loss, ability)


def _name(value: object) -> str | None:
  return None if pd.isna(value) else str(value)


def _rungs(
  rows: pd.DataFrame, x: str, names: tuple[str, str | None, str | None], loss: str | None, ability: str | None
) -> Rungs:
  both = [rows[rows["metric"] == m] for m in (loss, ability) if m is not None]
  # A size without one of the two says nothing of how they hang together.
  sizes = sorted(set.intersection(*(set(of[x]) for of in both)))
  of_ability = both[-1] if ability is not None else rows.iloc[:0]
  levels = [of_ability[name].dropna() for name in ("chance", "ceiling")]
  chance, ceiling = (float(level.iloc[0]) if level.nunique() == 1 else None for level in levels)
  return Rungs(
    *names,
    np.array(sizes, np.float64),
    None if loss is None else _measured(both[0], x, sizes, loss),
    None if ability is None else _measured(both[-1], x, sizes, ability),
    chance,
    ceiling,
    tuple(sorted({str(run) for of in both for run in of["run"].dropna()})),
  )


def _measured(rows: pd.DataFrame, x: str, sizes: list[float], metric: str) -> Measured:
  groups = [rows[rows[x] == size] for size in sizes]
  values = [group["value"].to_numpy(np.float64) for group in groups]
  n_seeds = np.array([len(v) for v in values])
  spare = int((n_seeds - 1).sum())
  within = sum(float(((v - v.mean()) ** 2).sum()) for v in values)
  seed_variance = within / spare if spare else None
  item_variance = np.array([_item_variance(group, metric) for group in groups])
  # Items are the same for all seeds, so that their noise does not shrink with the number of seeds; what
  # seeds differ by holds it too, and is not counted twice.
  known = np.zeros(len(sizes)) if seed_variance is None else seed_variance / n_seeds
  variance = np.where(np.isnan(item_variance), known, np.maximum(known, item_variance))
  items = rows["n_items"].dropna()
  return Measured(
    metric, np.array([v.mean() for v in values]), np.where(variance > 0, variance, np.nan), seed_variance,
    item_variance, n_seeds, float(items.median()) if len(items) else None,
  )  # fmt: skip


def _item_variance(rows: pd.DataFrame, metric: str) -> float:
  """Returns the mean squared standard error; of a share without one, that of its number of items."""
  given = rows["stderr"].dropna()
  if len(given):
    return float((given**2).mean())
  n, p = rows["n_items"], rows["value"]
  if metric in ABILITIES and n.notna().all() and (n > 1).all():
    # At 0 and 1 the plug-in variance is 0, which no n items can show: one answer more on either side.
    p = (p * n + 1) / (n + 2)
    return float((p * (1 - p) / n).mean())
  return np.nan


def _keep(measured: Measured | None, chosen: np.ndarray) -> Measured | None:
  if measured is None:
    return None
  arrays = {
    name: getattr(measured, name)[chosen] for name in ("mean", "variance", "item_variance", "n_seeds")
  }
  return dataclasses.replace(measured, **arrays)
