"""Fits of the shapes to curves and to all their resamples at once, and the evidence for one against another.

Runs of one size have a mean and a spread: with weights that are the same within a size, the weighted sum of
squares of a shape is that of the means plus the spread within sizes, which is the same for all shapes. The
noise of a run at size s has variance phi v_s, with v_s that of its items (1 where that is not known) and phi
what is on top: other seeds, and sizes that do not lie on a smooth curve for reasons of their own. Evidence:
  minus2_log_likelihood  n log(phi) + RSS / phi over n runs, phi = RSS / n, but not below 1 where v_s is
                         known: items alone are noise enough.
  aicc                   that + 2 k + 2 k (k + 1) / (n - k - 1), k with the scale phi; Hurvich and Tsai 1989.
  loo                    where n <= k + 1 for some shape: each size is left out in turn, and the others
                         predict it: the sum of -2 log of the density of its runs.
Both are smaller for better shapes, by differences on one scale.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from lm_jax.analysis.emergence.shapes import SHAPES, Domain, Shape, grid

_CURVES_AT_ONCE = 64  # the sums of squares of so many, over a grid, stay in the cache
# Of a metric whose noise is not known and that a shape meets exactly: a millionth of its rise is noise.
_LEAST_NOISE = 1e-6
_FLAT = 1e-12  # of a mean square: f that varies less is flat


@dataclasses.dataclass(frozen=True)
class Points:
  """Curves over the same sizes, higher is better.

  Attributes:
    x_S: ascending log10 sizes.
    y_BS: the mean over runs at each size.
    weight_S: of these means, number of runs / v_s.
    spread_B: sum over runs of (y - mean of its size)^2 / v_s.
    n_runs: over all sizes.
    low, high: ends of the metric.
    noise_known: whether v_s is the variance of a run's items, and not 1.
    domain: of the sizes, also where one of them is left out.
  """

  x_S: np.ndarray
  y_BS: np.ndarray
  weight_S: np.ndarray
  spread_B: np.ndarray
  n_runs: int
  low: float
  high: float
  noise_known: bool
  domain: Domain

  def least_scale(self) -> np.ndarray:
    """Returns the least phi of each curve."""
    if self.noise_known:
      return np.ones(len(self.y_BS))
    rise = np.ptp(self.y_BS, axis=1)
    return np.where(rise > 0, (_LEAST_NOISE * rise) ** 2, 1e-24)


@dataclasses.dataclass(frozen=True)
class Fits:
  """One shape's fits: y = a + b f(x; own), and the weighted sum of squares over runs."""

  a_B: np.ndarray
  b_B: np.ndarray
  own_BP: np.ndarray
  rss_B: np.ndarray


# --- least squares in two coefficients --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Sums:
  """Weighted sums over sizes of y and f, of shapes that broadcast."""

  w: float
  y: np.ndarray
  yy: np.ndarray
  f: np.ndarray
  ff: np.ndarray
  fy: np.ndarray


def _solve(s: _Sums, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns a, b >= 0 and the sum of squares; low <= a and a + b <= high where f is from 0 to 1."""
  cff = np.maximum(s.ff - s.f**2 / s.w, 0)
  cfy = s.fy - s.f * s.y / s.w
  b = _quotient(np.maximum(cfy, 0), cff, s.ff)
  a = (s.y - b * s.f) / s.w
  rss = s.yy - s.y**2 / s.w - b * (2 * cfy - b * cff)
  outside = (a < low) | (a + b > high)
  if outside.any():
    for face_a, face_b, face_rss in _faces(s, low, high):
      # A convex sum of squares whose minimum is outside has its bounded minimum on one of the two faces.
      first = outside & ((a < low) | (a + b > high))
      better = first | (outside & (face_rss < rss))
      a, b, rss = np.where(better, face_a, a), np.where(better, face_b, b), np.where(better, face_rss, rss)
  return a, b, np.maximum(rss, 0)


def _quotient(fy: np.ndarray, ff: np.ndarray, of: np.ndarray | float) -> np.ndarray:
  """Returns fy / ff, 0 for an f that is flat at these sizes: it explains nothing."""
  return np.divide(fy, ff, out=np.zeros_like(fy), where=ff > _FLAT * of)


def _faces(s: _Sums, low: float, high: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Returns the best a, b and sum of squares with a = low, and with a + b = high."""
  faces = []
  if np.isfinite(low):
    fu, uu = s.fy - low * s.f, s.yy - 2 * low * s.y + low**2 * s.w
    b = np.clip(_quotient(fu, s.ff, s.w), 0, high - low)
    faces.append((np.full_like(b, low), b, uu - b * (2 * fu - b * s.ff)))
  if np.isfinite(high):
    gg = s.w - 2 * s.f + s.ff
    gu, uu = high * s.w - s.y - high * s.f + s.fy, high**2 * s.w - 2 * high * s.y + s.yy
    b = np.clip(_quotient(gu, gg, s.w), 0, high - low)
    faces.append((high - b, b, uu - b * (2 * gu - b * gg)))
  return faces


def _bounds(shape: Shape, points: Points) -> tuple[float, float]:
  return (points.low, points.high) if shape.saturates else (-np.inf, np.inf)


def sums_of_squares(shape: Shape, own_GP: np.ndarray, points: Points) -> np.ndarray:
  """Returns the weighted sum of squares over runs [B, G] of each curve at each point of a grid."""
  f_GS, w_S = shape.feature(own_GP, points.x_S, points.domain), points.weight_S
  wy_BS = points.y_BS * w_S
  sums = _Sums(
    w_S.sum(), wy_BS.sum(1)[:, None], (wy_BS * points.y_BS).sum(1)[:, None], (f_GS @ w_S)[None],
    (f_GS**2 @ w_S)[None], wy_BS @ f_GS.T,
  )  # fmt: skip
  return _solve(sums, *_bounds(shape, points))[2] + points.spread_B[:, None]


def _at(shape: Shape, own_BKP: np.ndarray, points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns a, b and sums of squares [B, K] of curves at K points of their own."""
  f_BKS, w_S = shape.feature(own_BKP, points.x_S, points.domain), points.weight_S
  wy_BS = points.y_BS * w_S
  sums = _Sums(
    w_S.sum(), wy_BS.sum(1)[:, None], (wy_BS * points.y_BS).sum(1)[:, None], f_BKS @ w_S, f_BKS**2 @ w_S,
    np.einsum("BKS,BS->BK", f_BKS, wy_BS),
  )  # fmt: skip
  a, b, rss = _solve(sums, *_bounds(shape, points))
  return a, b, rss + points.spread_B[:, None]


def fit(shape: Shape, points: Points, *, fine: bool = False) -> Fits:
  """Fits a shape to all curves.

  Args:
    fine: to 6 digits, for a curve that is shown; else to an eighth of the grid's step, for resamples.
  """
  own_GP, step_P = grid(shape, points.domain, fine=fine)
  starts = range(0, len(points.y_BS), _CURVES_AT_ONCE)
  parts = [_part(points, slice(start, start + _CURVES_AT_ONCE)) for start in starts]
  chosen = np.concatenate([np.argmin(sums_of_squares(shape, own_GP, part), 1) for part in parts])
  best_BP = own_GP[chosen]
  low_P, high_P = own_GP.min(0), own_GP.max(0)
  around_KP = np.array(list(itertools.product(np.linspace(-1, 1, 5 if fine else 3), repeat=len(step_P))))
  for stage in range((20 if fine else 3) if len(step_P) else 0):
    own_BKP = np.clip(best_BP[:, None] + around_KP * step_P / 2 ** (stage + 1), low_P, high_P)
    chosen = np.argmin(_at(shape, own_BKP, points)[2], 1)
    best_BP = own_BKP[np.arange(len(chosen)), chosen]
  a, b, rss = _at(shape, best_BP[:, None], points)
  return Fits(a[:, 0], b[:, 0], best_BP, rss[:, 0])


def _part(points: Points, which: slice) -> Points:
  return dataclasses.replace(points, y_BS=points.y_BS[which], spread_B=points.spread_B[which])


def predict(shape: Shape, fits: Fits, x_S: np.ndarray, domain: Domain) -> np.ndarray:
  """Returns the fitted values [B, S] at log10 sizes."""
  return fits.a_B[:, None] + fits.b_B[:, None] * shape.feature(fits.own_BP, x_S, domain)


# --- evidence ---------------------------------------------------------------------------------------


def minus2_log_likelihood(rss: np.ndarray, n_runs: int, least_scale: np.ndarray) -> np.ndarray:
  """Returns n log(phi) + RSS / phi, with a phi of its own for each sum of squares."""
  phi = np.maximum(rss / n_runs, least_scale)
  return n_runs * np.log(phi) + rss / phi


def aicc_penalty(shape: Shape, n_runs: int) -> float:
  k = shape.n_coefficients + 1
  return 2 * k + 2 * k * (k + 1) / (n_runs - k - 1)


def has_aicc(n_runs: int, shapes: Sequence[Shape] = SHAPES) -> bool:
  """Returns whether the correction is defined for the largest of the shapes."""
  return n_runs > max(shape.n_coefficients for shape in shapes) + 2


def aicc(shape: Shape, fits: Fits, points: Points) -> np.ndarray:
  return minus2_log_likelihood(fits.rss_B, points.n_runs, points.least_scale()) + aicc_penalty(
    shape, points.n_runs
  )


def loo(shape: Shape, points: Points, runs_S: np.ndarray) -> np.ndarray:
  """Returns -2 log of the density that all other sizes give to the runs of each size, summed over sizes.

  Args:
    runs_S: number of runs at each size.
  """
  S, total = len(points.x_S), np.zeros(len(points.y_BS))
  least = points.least_scale()
  for out in range(S):
    kept = np.arange(S) != out
    # All spread within sizes stays with the others: it tells of the noise, not of the shape.
    others = dataclasses.replace(
      points, x_S=points.x_S[kept], y_BS=points.y_BS[:, kept], weight_S=points.weight_S[kept]
    )
    fits = fit(shape, others)
    predicted_B = predict(shape, fits, points.x_S[out : out + 1], points.domain)[:, 0]
    n_left = max(points.n_runs - runs_S[out], 1)
    phi = np.maximum(fits.rss_B / n_left, least)
    miss = points.weight_S[out] * (points.y_BS[:, out] - predicted_B) ** 2
    total += runs_S[out] * np.log(phi) + miss / phi
  return total
