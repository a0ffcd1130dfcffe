"""Whether the seeds of a size fall into two groups, and how many are past the threshold.

A mean over seeds that rises slowly can be made of seeds that each jump, at different sizes. A size is bimodal
where the largest gap between its sorted runs is
  - half of the rise or more, from the least to the largest of all runs of the curve, and
  - SEPARATION standard errors of a difference of two runs' items or more, and
  - three times the range within either of the two groups that it separates or more.
The threshold is midway of floor and ceiling; the share of runs past it has Wilson's interval.
"""

import dataclasses

import numpy as np

from lm_jax.analysis.emergence.curves import Curve
from lm_jax.uncertainty import wilson

MIN_RUNS = 3
GAP_OF_RISE = 0.5
SEPARATION = 4.0
GAP_OF_GROUP = 3.0


@dataclasses.dataclass(frozen=True)
class Past:
  """Runs of one size that are past a threshold."""

  x: float
  past: int
  n_runs: int
  low: float
  high: float


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
