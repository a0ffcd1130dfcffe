"""Where a logistic has its threshold and how wide it is, and how a narrow one compares with smooth shapes.

x50       log10 size at which half of the rise from floor to ceiling is reached
width     decades from 10 to 90 % of it, 2 ln(9) s
interval  the values that a likelihood ratio does not reject at 5 %, all other coefficients at their best
          (profile likelihood), joined with the 2.5 and 97.5 % quantiles of the resamples: the first knows
          that all of a gap between two sizes is the same to a step, the second does not assume the
          distribution of seeds. Where the noise has a scale to estimate, the ratio is one of F(1, n - 4).
narrow    a logistic not wider than a limit, with x50 inside the sizes; all other logistics, log-linear and
          the power law are smooth.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from lm_jax.analysis.emergence.fits import Fits, Points, minus2_log_likelihood, sums_of_squares
from lm_jax.analysis.emergence.shapes import LOGISTIC, grid

LEVEL = 0.95
SECOND_GRID = (81, 41)


@dataclasses.dataclass(frozen=True)
class Range:
  """An estimate and its interval."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Threshold:
  """The logistic of a curve.

  Attributes:
    x50: log10 size.
    width: decades; its low end is 0 where a step function is not rejected.
    inside: whether the interval of x50 is inside the sizes.
    narrow, wide: the least -2 log-likelihood of narrow logistics and of all others.
  """

  x50: Range
  width: Range
  inside: bool
  narrow: float
  wide: float


def threshold(points: Points, best: Fits, resamples: Fits, limit: float) -> Threshold:
  """Returns the threshold of one curve.

  Args:
    best: the logistic fitted to it.
    resamples: the logistics fitted to its resamples.
    limit: decades of width.
  """
  own_GP, step_P = grid(LOGISTIC, points.domain, fine=True)
  rss_G = sums_of_squares(LOGISTIC, own_GP, points)[0]
  least = points.least_scale()[0]
  minus2_G = minus2_log_likelihood(rss_G, points.n_runs, least)
  x50_G, width_G = own_GP[:, 0], own_GP[:, 1]
  narrow_G = (width_G <= math.log10(limit)) & (x50_G >= points.domain.first) & (x50_G <= points.domain.last)
  at_best = float(minus2_log_likelihood(best.rss_B, points.n_runs, least)[0])
  x50, width = float(best.own_BP[0, 0]), float(best.own_BP[0, 1])
  best_is_narrow = width <= math.log10(limit) and points.domain.first <= x50 <= points.domain.last
  narrow = min([at_best] * best_is_narrow + [float(minus2_G[narrow_G].min(initial=math.inf))])
  wide = min([at_best] * (not best_is_narrow) + [float(minus2_G[~narrow_G].min(initial=math.inf))])
  limit_of_minus2 = min(at_best, minus2_G.min()) + _ratio(points, best.rss_B[0])
  values_GP = _not_rejected(points, own_GP, minus2_G, step_P, best.own_BP, limit_of_minus2)
  ranges = []
  for axis, value in enumerate((x50, width)):
    quantiles = np.quantile(resamples.own_BP[:, axis], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    values = [value, *values_GP[:, axis], *quantiles]
    ranges.append(Range(value, float(min(values)), float(max(values))))
  inside = points.domain.first <= ranges[0].low and ranges[0].high <= points.domain.last
  return Threshold(ranges[0], _decades(ranges[1], float(width_G.min())), inside, narrow, wide)


def _not_rejected(
  points: Points, own_GP: np.ndarray, minus2_G: np.ndarray, step_P: np.ndarray, best_P: np.ndarray,
  limit: float,
) -> np.ndarray:  # fmt: skip
  """Returns the points within the limit, on a second grid over where those of the first are."""
  around_GP = np.concatenate([own_GP[minus2_G <= limit], best_P])
  low_P = np.maximum(around_GP.min(0) - step_P, own_GP.min(0))
  high_P = np.minimum(around_GP.max(0) + step_P, own_GP.max(0))
  axes = [np.linspace(a, b, n) for a, b, n in zip(low_P, high_P, SECOND_GRID, strict=True)]
  finer_GP = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
  rss_G = sums_of_squares(LOGISTIC, finer_GP, points)[0]
  return finer_GP[minus2_log_likelihood(rss_G, points.n_runs, points.least_scale()[0]) <= limit]


def _decades(log10_width: Range, narrowest: float) -> Range:
  low = 0.0 if log10_width.low <= narrowest else 10**log10_width.low
  return Range(10**log10_width.value, low, 10**log10_width.high)


def _ratio(points: Points, rss: float) -> float:
  """Returns the difference of -2 log-likelihood that rejects a value."""
  df = points.n_runs - LOGISTIC.n_coefficients
  if points.noise_known and rss <= points.n_runs:
    return float(stats.chi2.ppf(LEVEL, 1))
  if df < 1:
    return math.inf
  return float(points.n_runs * np.log1p(stats.f.ppf(LEVEL, 1, df) / df))
