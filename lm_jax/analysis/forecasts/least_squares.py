"""Many small least-squares problems at once, by damped Gauss-Newton (Levenberg 1944, Marquardt 1963)."""

from collections.abc import Callable

import numpy as np

_STEP = 1e-6  # of the numeric Jacobian, relative to a parameter of about 1


def minimize(
  residuals: Callable[[np.ndarray], np.ndarray], start_RP: np.ndarray, num_steps: int = 60
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (parameters [R, P], sums of squares [R]) of R problems of one form, each from its own start.

  Args:
    residuals: of parameters [R, P], float64 [R, n]; row r belongs to problem r.
    start_RP: parameters scaled so that they are of the order of 1. No step makes a sum of squares larger.
  """
  best_RP = np.array(start_RP, np.float64)
  R, P = best_RP.shape
  residual_RN = residuals(best_RP)
  cost_R = (residual_RN**2).sum(1)
  damping_R = np.full(R, 1e-3)
  for _ in range(num_steps):
    jacobian_RNP = _jacobian(residuals, best_RP, residual_RN)
    hessian_RPP = np.einsum("rnp,rnq->rpq", jacobian_RNP, jacobian_RNP)
    gradient_RP = np.einsum("rnp,rn->rp", jacobian_RNP, residual_RN)
    scale_RP = np.einsum("rpp->rp", hessian_RPP) + 1e-12
    damped_RPP = hessian_RPP + (damping_R[:, None] * scale_RP)[:, :, None] * np.eye(P)
    trial_RP = best_RP - np.linalg.solve(damped_RPP, gradient_RP[..., None])[..., 0]
    with np.errstate(over="ignore", invalid="ignore"):  # a step too far is not taken
      trial_RN = residuals(trial_RP)
      trial_R = (trial_RN**2).sum(1)
    better_R = np.isfinite(trial_R) & (trial_R <= cost_R)
    gain = float(np.max(np.where(better_R, cost_R - trial_R, 0) / (cost_R + 1e-300), initial=0))
    best_RP = np.where(better_R[:, None], trial_RP, best_RP)
    residual_RN = np.where(better_R[:, None], trial_RN, residual_RN)
    cost_R = np.where(better_R, trial_R, cost_R)
    damping_R = np.clip(np.where(better_R, damping_R / 3, damping_R * 5), 1e-9, 1e9)
    if better_R.all() and gain < 1e-10:
      break
  return best_RP, cost_R


def _jacobian(
  residuals: Callable[[np.ndarray], np.ndarray], at_RP: np.ndarray, residual_RN: np.ndarray
) -> np.ndarray:
  columns = []
  for p in range(at_RP.shape[1]):
    step_RP = np.zeros_like(at_RP)
    step_RP[:, p] = _STEP
    columns.append((residuals(at_RP + step_RP) - residual_RN) / _STEP)
  return np.stack(columns, axis=-1)
