"""Curves of scores over sizes, out of a table of values: one of each (task, metric, shots, group, family).

Noise of one run's items: binomial for shares of items, with Agresti and Coull's two successes and failures
added so that 0 of n is no certainty; the standard error where one is given otherwise. A missing or zero
standard error is taken as the curve's middle one. Where neither is known, all noise is the residuals'.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lm_jax.analysis.emergence.fits import Points
from lm_jax.analysis.emergence.shapes import domain_of
from lm_jax.analysis.known_metrics import Metric, lookup

KEYS = ("task", "metric", "shots", "group", "family")


@dataclasses.dataclass(frozen=True)
class Curve:
  """Runs over ascending sizes.

  Attributes:
    key: the value of each of KEYS, None where it is missing.
    x_S: log10 sizes.
    y_SR: scores of the runs of each size, NaN beyond its number of runs, as the metric gives them.
    variance_S: of one run by its items, None where that is not known.
    items_S: number of items of one run, None where the noise is not binomial.
    metric: what is known of the metric, its ends widened where the values are of another unit.
    chance: None where it is not known.
    notes: what a reader should know.
  """

  key: dict[str, str | None]
  x_S: np.ndarray
  y_SR: np.ndarray
  variance_S: np.ndarray | None
  items_S: np.ndarray | None
  metric: Metric
  chance: float | None = None
  n_items: int | None = None
  notes: tuple[str, ...] = ()

  @property
  def sign(self) -> float:
    """Returns 1, or -1 where a lower value is better."""
    return 1.0 if self.metric.higher_is_better else -1.0

  @property
  def runs_S(self) -> np.ndarray:
    """Returns the number of runs at each size."""
    return np.isfinite(self.y_SR).sum(1)

  @property
  def mean_S(self) -> np.ndarray:
    """Returns the mean over the runs of each size, in the metric's own direction."""
    return np.nansum(self.y_SR, axis=1) / self.runs_S

  def points(self, y_BSR: np.ndarray | None = None) -> Points:
    """Returns what fits need, of the curve itself or of resamples of it; higher is better there."""
    y_BSR = self.sign * (self.y_SR[None] if y_BSR is None else y_BSR)
    variance_S = np.ones(len(self.x_S)) if self.variance_S is None else self.variance_S
    mean_BS = np.nansum(y_BSR, axis=2) / self.runs_S
    spread_BS = np.nansum((y_BSR - mean_BS[..., None]) ** 2, axis=2)
    ends = sorted(self.sign * end for end in (self.metric.low, self.metric.high))
    return Points(
      self.x_S, mean_BS, self.runs_S / variance_S, spread_BS @ (1 / variance_S), int(self.runs_S.sum()),
      *ends, noise_known=self.variance_S is not None, domain=domain_of(self.x_S),
    )  # fmt: skip


def of_rows(rows: pd.DataFrame, x: str) -> Iterator[Curve]:
  """Yields the curves of a table with the columns of `curve_table`, in the order of their names."""
  rows = rows[rows[x].notna() & (rows[x] > 0) & rows["value"].notna()]
  for key, own in rows.groupby(list(KEYS), dropna=False, sort=True):
    yield _curve({name: None if pd.isna(v) else str(v) for name, v in zip(KEYS, key, strict=True)}, own, x)


def _last_step(rows: pd.DataFrame, x: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
  """Leaves out all but the last evaluation of each run at a size."""
  if rows["step"].isna().all():
    return rows, ()
  last = rows.groupby([x, "run", "model", "seed"], dropna=False)["step"].transform("max")
  kept = rows[rows["step"].isna() | (rows["step"] == last)]
  dropped = len(rows) - len(kept)
  return kept, (f"{dropped} values of earlier steps are left out",) if dropped else ()


def _curve(key: dict[str, str | None], rows: pd.DataFrame, x: str) -> Curve:
  rows, notes = _last_step(rows, x)
  metric = lookup(key["metric"] or "")
  if metric.kind == "unknown":
    notes += (f"metric {key['metric']!r} is not known: higher is taken as better",)
  value = rows["value"].to_numpy(np.float64)
  if value.min() < metric.low or value.max() > metric.high:
    notes += (f"values outside {metric.low:g} to {metric.high:g}: of another unit, noise of items not known",)
    metric = dataclasses.replace(metric, low=-np.inf, high=np.inf)
  sizes, where = np.unique(rows[x].to_numpy(np.float64), return_inverse=True)
  y_SR = np.full((len(sizes), np.bincount(where).max()), np.nan)
  for s in range(len(sizes)):
    own = value[where == s]
    y_SR[s, : len(own)] = own
  chances = rows["chance"].dropna().unique()
  if len(chances) > 1:
    notes += (f"{len(chances)} chance levels, the mean is taken",)
  items = rows["n_items"].to_numpy(np.float64)
  curve = Curve(
    key, np.log10(sizes), y_SR, None, None, metric, float(np.mean(chances)) if len(chances) else None,
    None if np.isnan(items).all() else int(np.nanmin(items)), notes,
  )  # fmt: skip
  return _with_noise(curve, items, rows["stderr"].to_numpy(np.float64), where)


def _with_noise(curve: Curve, items: np.ndarray, stderr: np.ndarray, where: np.ndarray) -> Curve:
  S = len(curve.x_S)
  is_share = curve.metric.kind == "thresholded" and np.isfinite(curve.metric.high)
  if is_share and np.isfinite(items).all() and (items > 0).all():
    n_S = np.array([items[where == s].mean() for s in range(S)])
    p_S = (curve.mean_S * n_S + 2) / (n_S + 4)
    return dataclasses.replace(curve, variance_S=p_S * (1 - p_S) / n_S, items_S=n_S)
  told = np.isfinite(stderr) & (stderr > 0)
  if not told.any():
    return curve
  squares = np.where(told, stderr, np.median(stderr[told])) ** 2
  return dataclasses.replace(curve, variance_S=np.array([squares[where == s].mean() for s in range(S)]))
