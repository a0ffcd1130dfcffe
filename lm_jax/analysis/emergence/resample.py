"""Resamples of a curve: other seeds where there are several, other items where there are not.

At a size with R > 1 runs these are drawn with replacement, their distances from the mean times
sqrt(R / (R - 1)), so that means of resamples vary as means of R runs do (Davison and Hinkley 1997, 2.3); they
carry the noise of their items with them. A single run gets other items: a binomial draw for a share of items,
a normal one for a standard error, in both cases with the scale phi that the residuals of the best shape ask
for (a share is drawn from n / phi items); where the noise is not known, residuals of that shape are drawn.
The draws are centered on the runs themselves and not on a fitted curve: a shape that is wrong does no harm.
That adds the noise a second time, so what rests on single steps, as breakthroughness does, is biased in them.
"""

import numpy as np

from lm_jax.analysis.emergence.curves import Curve


def resample(
  curve: Curve, residual_S: np.ndarray, scale: float, draws: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns scores [B, S, R] like the curve's `y_SR`, in the metric's own direction.

  Args:
    residual_S: of the best shape, already widened by sqrt(n / (n - k)).
    scale: phi, 1 where the noise of items accounts for all.
  """
  S, R = curve.y_SR.shape
  runs_S, mean_S = curve.runs_S, curve.mean_S
  # An index below the number of runs of a size; what is beyond it stays NaN.
  chosen_BSR = (rng.random((draws, S, R)) * runs_S[:, None]).astype(int)
  drawn_BSR = np.take_along_axis(np.broadcast_to(curve.y_SR, (draws, S, R)), chosen_BSR, 2)
  widened = np.sqrt(runs_S / np.maximum(runs_S - 1, 1))[:, None]
  y_BSR = mean_S[:, None] + widened * (drawn_BSR - mean_S[:, None])
  y_BSR[:, np.isnan(curve.y_SR)] = np.nan
  single = runs_S == 1
  if single.any():
    first = np.argmax(np.isfinite(curve.y_SR), axis=1)
    y_BSR[:, np.flatnonzero(single), first[single]] = _other_items(
      curve, single, residual_S, scale, draws, rng
    )
  return np.clip(y_BSR, curve.metric.low, curve.metric.high)


def _other_items(
  curve: Curve, single: np.ndarray, residual_S: np.ndarray, scale: float, draws: int,
  rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
  mean = curve.mean_S[single]
  if curve.items_S is not None:
    n = np.maximum(np.round(curve.items_S[single] / scale), 1).astype(int)
    return rng.binomial(n, mean, (draws, len(n))) / n
  if curve.variance_S is not None:
    return mean + np.sqrt(scale * curve.variance_S[single]) * rng.standard_normal((draws, len(mean)))
  return mean + rng.choice(residual_S - residual_S.mean(), (draws, len(mean)))
