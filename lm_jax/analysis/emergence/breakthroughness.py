"""Breakthroughness of a curve over sizes, its relatives, and what noise alone gives.

Definitions, with y the scores at S ascending sizes, higher better, dy its S - 1 steps, and
I = sign(argmax y - argmin y) (max y - min y) the signed rise (the first of equal extremes counts):
  breakthroughness             B = I / sqrt(median(dy^2)); BIG-bench, arXiv:2206.04615. Positive affine maps
                               of y leave it as it is, and it does not know how far sizes are apart.
  breakthroughness_per_decade  the same with steps per decade of size, dy / dx with x = log10 size, times
                               the mean step of x: for evenly spaced sizes it is B.
  linearity_rms_step           I / sqrt(mean(dy^2)), between -(S - 1) and S - 1, which equal steps have.
  linearity_pearson            correlation of y with x. How BIG-bench defines its linearity is disputed, and
                               neither of these two is meant to be it.
  null                         B of S independent Gaussian scores, simulated: one noise curve of twenty has
                               a B of about 5 or more, so B is read beside its quantiles only.
  q-value                      Benjamini and Hochberg 1995, over all curves that were looked at.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

Status = Literal["ok", "insufficient_data", "constant", "zero_median_step"]

MIN_SIZES = 4
NULL_DRAWS = 400_000
_DRAWS_AT_ONCE = 50_000
_NULL_SEED = 0


@dataclasses.dataclass(frozen=True)
class Breakthroughness:
  """Breakthroughness of one curve; numbers are None where `status` is not "ok".

  Attributes:
    status: insufficient_data, fewer than MIN_SIZES scores; constant, no rise at all; zero_median_step, at
      least half of the steps are 0, so that B is infinite.
    value: B.
    per_decade: the spacing-aware variant; also None where its own median step is 0.
    linearity_rms_step, linearity_pearson: see the module; given for a zero median step also.
    null_p95, null_p99: quantiles of B under noise at this number of sizes.
    p_value: one-sided, of so large a B under noise.
  """

  status: Status
  value: float | None = None
  per_decade: float | None = None
  linearity_rms_step: float | None = None
  linearity_pearson: float | None = None
  null_p95: float | None = None
  null_p99: float | None = None
  p_value: float | None = None


def breakthroughness(x_S: np.ndarray, y_S: np.ndarray) -> Breakthroughness:
  """Returns the statistics of scores (higher is better) over log10 sizes, in any order; NaN is left out."""
  x_S, y_S = np.asarray(x_S, np.float64), np.asarray(y_S, np.float64)
  known = np.isfinite(x_S) & np.isfinite(y_S)
  order = np.argsort(x_S[known], kind="stable")
  x_S, y_S = x_S[known][order], y_S[known][order]
  if len(y_S) < MIN_SIZES:
    return Breakthroughness("insufficient_data")
  rise = float(signed_rise(y_S))
  if rise == 0:
    return Breakthroughness("constant")
  dx, dy = np.diff(x_S), np.diff(y_S)
  linearity = {
    "linearity_rms_step": rise / float(np.sqrt(np.mean(dy**2))),
    "linearity_pearson": float(np.corrcoef(x_S, y_S)[0, 1]),
  }
  step = float(np.sqrt(np.median(dy**2)))
  if step == 0:
    return Breakthroughness("zero_median_step", **linearity)
  per_decade = float(np.sqrt(np.median((dy / dx) ** 2)) * (x_S[-1] - x_S[0]) / len(dx))
  null = null_distribution(len(y_S))
  value = rise / step
  p95, p99 = null_quantiles(len(y_S))
  reached = len(null) - np.searchsorted(null, value, side="left")
  return Breakthroughness(
    "ok", value, rise / per_decade if per_decade > 0 else None, **linearity, null_p95=p95,
    null_p99=p99, p_value=float((1 + reached) / (1 + len(null))),
  )  # fmt: skip


def signed_rise(y_BS: np.ndarray) -> np.ndarray:
  """Returns I of each curve (the last axis)."""
  direction = np.sign(np.argmax(y_BS, -1) - np.argmin(y_BS, -1))
  return direction * (y_BS.max(-1) - y_BS.min(-1))


def plain(y_BS: np.ndarray) -> np.ndarray:
  """Returns B of each curve (the last axis), NaN where its median step is 0."""
  step = np.sqrt(np.median(np.diff(y_BS, axis=-1) ** 2, -1))
  return np.divide(signed_rise(y_BS), step, out=np.full(step.shape, np.nan), where=step > 0)


@functools.cache
def null_distribution(n_sizes: int) -> np.ndarray:
  """Returns NULL_DRAWS sorted values of B for independent Gaussian scores; the same ones at every call."""
  rng = np.random.default_rng([_NULL_SEED, n_sizes])
  parts = [plain(rng.standard_normal((_DRAWS_AT_ONCE, n_sizes))) for _ in range(NULL_DRAWS // _DRAWS_AT_ONCE)]
  null = np.sort(np.concatenate(parts))
  null.setflags(write=False)
  return null


@functools.cache
def null_quantiles(n_sizes: int) -> tuple[float, float]:
  """Returns P95 and P99 of B for independent Gaussian scores."""
  p95, p99 = np.quantile(null_distribution(n_sizes), [0.95, 0.99])
  return float(p95), float(p99)


def q_values(p_values: Sequence[float | None]) -> list[float | None]:
  """Returns Benjamini-Hochberg q-values; None stays None and is no test."""
  known = [i for i, p in enumerate(p_values) if p is not None]
  result: list[float | None] = [None] * len(p_values)
  if known:
    for i, q in zip(known, stats.false_discovery_control([p_values[i] for i in known]), strict=True):
      result[i] = float(q)
  return result
