"""Profile likelihood intervals: the values of a parameter that a likelihood-ratio test does not reject.

Residuals are taken as Laplace distributed for lad and for huber (whose delta is small beside them), as
Gaussian for mse, of a scale that is estimated too. Then twice the log-likelihood ratio of theta_k = v is
2 P log(S(v)/S) for Laplace and P log(S(v)/S) for Gauss, S the objective with everything else refitted and P
the number of points, and is compared with a chi-squared of 1 degree (Venzon and Moolgavkar 1988).
"""

import numpy as np
from scipy import stats

from lm_jax.analysis.scaling_laws import newton
from lm_jax.analysis.scaling_laws.fitting import Fit

LEVEL = 0.95
_BISECTIONS = 25
_FARTHEST = 5.0  # in coordinates theta: a factor of 150 of E, or an exponent of 5


def intervals(fit: Fit) -> dict[str, list[float | None] | None]:
  """Returns {parameter: [low, high]} of E and the exponents of a sum of power laws; an open end is None."""
  law, V = fit.law, len(fit.sample.mean_V)
  if not law.is_sum_of_powers or not fit.objective > 0:
    return {}
  n = len(fit.sample.points)
  allowed = stats.chi2.ppf(LEVEL, 1) / (n if fit.estimator.loss == "mse" else 2 * n)
  limit = fit.objective * np.exp(allowed)
  coordinates = np.repeat(np.arange(V, 2 * V + 1), 2)
  sign = np.tile([-1.0, 1.0], V + 1)
  reach = _ends(fit, coordinates, sign, limit)
  found: dict[str, list[float | None] | None] = {}
  for i in range(0, len(coordinates), 2):
    k = coordinates[i]
    name = law.parameters[k]
    ends = [None if np.isnan(reach[j]) else fit.theta_K[k] + sign[j] * reach[j] for j in (i, i + 1)]
    found[name] = [None if e is None else float(np.exp(e)) if k == V else float(e) for e in ends]
    if fit.parameters[name] is None:
      found[name] = None
  return found


def _ends(fit: Fit, coordinate_R: np.ndarray, sign_R: np.ndarray, limit: float) -> np.ndarray:
  """Returns how far each coordinate can go, NaN where the objective stays below the limit all the way."""
  rows = np.arange(len(coordinate_R))
  free_RK = np.ones((len(rows), len(fit.theta_K)), bool)
  free_RK[rows, coordinate_R] = False
  weight_RP = np.ones((len(rows), len(fit.sample.points)))
  problem = fit.sample.problem(fit.estimator.smoothing)

  def objective(distance_R: np.ndarray, theta_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    theta_RK = theta_RK.copy()
    theta_RK[rows, coordinate_R] = fit.theta_K[coordinate_R] + sign_R * distance_R
    theta_RK = newton.minimize(problem, theta_RK, weight_RP, free_RK).theta_RK
    return fit.estimator.total(fit.sample.residuals(theta_RK)), theta_RK

  low, high = np.zeros(len(rows)), np.full(len(rows), np.nan)
  theta_RK, distance = np.repeat(fit.theta_K[None], len(rows), 0), np.full(len(rows), 1e-3)
  while np.isnan(high).any() and distance.min() < _FARTHEST:
    value, moved = objective(distance, theta_RK)
    outside = value > limit
    high = np.where(np.isnan(high) & outside, distance, high)
    low = np.where(outside | ~np.isnan(high), low, distance)
    theta_RK = np.where(outside[:, None], theta_RK, moved)
    distance = np.where(np.isnan(high), 2 * distance, distance)
    if (distance[np.isnan(high)] > _FARTHEST).any():
      break
  open_ended = np.isnan(high)
  high = np.where(open_ended, low, high)
  for _ in range(_BISECTIONS):
    middle = (low + high) / 2
    value, _ = objective(middle, theta_RK)
    low, high = np.where(value > limit, low, middle), np.where(value > limit, middle, high)
  return np.where(open_ended, np.nan, (low + high) / 2)
