"""Whether a curve rises at all, and whether its best scores are above chance.

  rise    the smallest p-value, times the number S of tests (Bonferroni), of these one-sided tests by weighted
          least squares: for each of the S - 1 splits of the sizes, that the mean of the larger ones is not
          higher; and that the slope over log10 size is not above 0. A jump late, early or none at all but a
          slow rise: one of them is near.
  chance  that the mean of the largest sizes is not above chance: the smallest p-value over how many of them,
          times S, with the noise around this mean and that of the other sizes.
The noise is phi v_s, see `fits`: phi is estimated with a t-distribution's allowance, but is never below 1
where v_s is known.
"""

import numpy as np
from scipy import stats

from lm_jax.analysis.emergence.fits import Points


def rise_p_value(points: Points) -> float:
  """Returns the p-value of one curve (the first of `points`); 1 where it has no noise and no rise."""
  tests = [_slope(points, (points.x_S >= x).astype(np.float64)) for x in points.x_S[1:]]
  tests.append(_slope(points, points.x_S))
  return min(1.0, len(tests) * min(tests))


def _slope(points: Points, f_S: np.ndarray) -> float:
  """Returns the one-sided p-value of the coefficient of f."""
  w, y = points.weight_S, points.y_BS[0]
  f = f_S - w @ f_S / w.sum()
  cff, cfy = w @ f**2, w @ (f * y)
  rss = max(w @ (y - w @ y / w.sum()) ** 2 - cfy**2 / cff, 0) + points.spread_B[0]
  scale, df = _scale(points, rss, 2)
  return float(stats.t.sf(cfy / np.sqrt(scale * cff), df))


def _scale(points: Points, rss: float, coefficients: int) -> tuple[float, float]:
  """Returns phi and its degrees of freedom, infinite where the noise of items is all there is."""
  df = points.n_runs - coefficients
  scale = rss / df
  if points.noise_known and scale <= 1:
    return 1.0, np.inf
  return max(scale, float(points.least_scale()[0])), df


def above_p_value(points: Points, level: float) -> float:
  """Returns the p-value of the mean over the largest sizes not being above a level, by Bonferroni."""
  tests = []
  for s in range(len(points.x_S)):
    rss = points.spread_B[0] + _squares(points, slice(0, s)) + _squares(points, slice(s, None))
    scale, df = _scale(points, rss, 2 if s else 1)
    w, y = points.weight_S[s:], points.y_BS[0, s:]
    tests.append(float(stats.t.sf((w @ y / w.sum() - level) * np.sqrt(w.sum() / scale), df)))
  return min(1.0, len(tests) * min(tests))


def _squares(points: Points, which: slice) -> float:
  """Returns the weighted sum of squares of some sizes around their mean."""
  w, y = points.weight_S[which], points.y_BS[0, which]
  return float(w @ (y - w @ y / w.sum()) ** 2) if len(w) else 0.0
