"""Whether the seeds of a size fall into two groups, and how many are past the threshold.

A mean over seeds that rises slowly can be made of seeds that each jump, at different sizes. A size is bimodal
where the largest gap between its sorted runs is
  - half of the rise or more, from the least to the largest of all runs of the curve, and
  - SEPARATION standard errors of a difference of two runs' items or more, and
  - three times the range within either of the two groups that it separates or more.
The threshold is midway of floor and ceiling; the share of runs past it has Wilson's interval. In place of a
threshold of its mean such a curve has the size where half of the runs are past: that of a logistic in the log
size, fitted to the shares by maximum likelihood, with its profile-likelihood interval (Venzon and Moolgavkar
1988). Runs are taken as independent; seeds that jump early at every size make them fewer than they look.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, log_expit

from lm_jax.analysis.emergence.curves import Curve
from lm_jax.uncertainty import wilson

MIN_RUNS = 3
GAP_OF_RISE = 0.5
SEPARATION = 4.0
GAP_OF_GROUP = 3.0
# By how much twice a log likelihood may be below the greatest inside the interval. The 3.84 of many runs hold
# the truth too rarely with three to five a size where they rise over several sizes.
_DEVIANCE = 5.0
# Widths are tried from a part of the least gap between sizes, which is a step, to many times their range.
_STEP, _FLAT, _SIZES, _WIDTHS = 1 / 20, 20.0, 601, 80


@dataclasses.dataclass(frozen=True)
class Past:
  """Runs of one size that are past a threshold."""

  x: float
  past: int
  n_runs: int
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Half:
  """Where half of the runs are past a threshold.

  Attributes:
    x: log10 size.
    low, high: ends of its 95 % interval, None where they are further from the sizes than these are apart.
    width: decades from a tenth of the runs to nine tenths, 0 where a step fits best.
  """

  x: float
  low: float | None
  high: float | None
  width: float


def bimodal_sizes(curve: Curve) -> list[float] | None:
  """Returns the log10 sizes with two groups of runs; None with too few runs or unknown noise of items."""
  if curve.variance_S is None or (curve.runs_S < MIN_RUNS).all():
    return None
  rise = np.nanmax(curve.y_SR) - np.nanmin(curve.y_SR)
  return [
    float(x)
    for x, y_R, n, variance in zip(curve.x_S, curve.y_SR, curve.runs_S, curve.variance_S, strict=True)
    if n >= MIN_RUNS and _is_bimodal(np.sort(y_R[np.isfinite(y_R)]), rise, variance)
  ]


def _is_bimodal(y_R: np.ndarray, rise: float, variance: float) -> bool:
  gaps = np.diff(y_R)
  at = int(np.argmax(gaps))
  within = max(y_R[at] - y_R[0], y_R[-1] - y_R[at + 1])
  # Half of an empty rise is no gap.
  return bool(
    gaps[at] > 0
    and gaps[at] >= max(GAP_OF_RISE * rise, SEPARATION * np.sqrt(2 * variance), GAP_OF_GROUP * within)
  )


def fraction_past(curve: Curve, threshold: float) -> list[Past]:
  """Returns, for each size, the runs that are better than a threshold in the metric's own direction."""
  result = []
  for x, y_R, n in zip(curve.x_S, curve.y_SR, curve.runs_S, strict=True):
    past = int((curve.sign * (y_R[np.isfinite(y_R)] - threshold) > 0).sum())
    interval = wilson(past, int(n))
    result.append(Past(float(x), past, int(n), interval.low, interval.high))
  return result


def half_past(past: Sequence[Past]) -> Half | None:
  """Returns where half of the runs are past, None unless that is between the sizes."""
  x_S, past_S, runs_S = (np.array([getattr(p, name) for p in past]) for name in ("x", "past", "n_runs"))
  first, last = x_S[0], x_S[-1]
  gap, span = np.diff(x_S).min(), last - first
  x_X = np.linspace(first - span, last + span, _SIZES)
  width_W = np.geomspace(_STEP * gap, _FLAT * span, _WIDTHS)
  z_XWS = _logits(x_S, x_X[:, None, None], width_W[:, None])
  fit_XW = (past_S * log_expit(z_XWS) + (runs_S - past_S) * log_expit(-z_XWS)).sum(-1)
  profile_X = fit_XW.max(1)
  # Anywhere between two sizes is as likely where a step fits best.
  best_X = profile_X > profile_X.max() - 1e-6
  x = float(x_X[best_X].mean())
  if not first <= x <= last:
    return None
  inside_X = x_X[2 * (profile_X.max() - profile_X) <= _DEVIANCE]
  low, high = inside_X[0], inside_X[-1]
  width = float(width_W[fit_XW[best_X].max(0).argmax()])
  return Half(
    x, None if low == x_X[0] else float(low), None if high == x_X[-1] else float(high),
    0.0 if width == width_W[0] else width,
  )  # fmt: skip


def share_past(x_S: np.ndarray, x50: float, width: float) -> np.ndarray:
  """Returns the shares of runs that `half_past` has fitted, at log10 sizes."""
  return expit(_logits(x_S, x50, max(width, 1e-9)))


def _logits(x: np.ndarray, x50: np.ndarray | float, width: np.ndarray | float) -> np.ndarray:
  return 2 * np.log(9) * (x - x50) / width
