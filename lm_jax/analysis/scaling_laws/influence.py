"""What single points do to a fit: the highest losses dropped, and each point left out, by exact refits.

How many of the highest losses are kept moved the compute-optimal exponent of the points of arXiv:2404.10102
from .484 to .565, so the number is no detail.
"""

import dataclasses
from typing import Any

import numpy as np

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import fitting, newton
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.analysis.scaling_laws.fitting import Fit, Sample

DROPPED = (0, 1, 3, 5, 10, 20)
MAX_LEFT_OUT = 500  # points of the largest residuals, of more than these


def drop_highest_rows(data: Sample, estimator: Estimator) -> list[dict[str, Any]]:
  """Returns a fit a number of highest losses dropped, smallest first.

  Args:
    data: all points, none dropped.
  """
  rows = []
  for k in DROPPED:
    if len(data.points) - k <= 2 * data.law.n_parameters:
      break
    found = fitting.fit(_without(data, fitting.drop_highest(data.points, k)), estimator, fitting.FEW_STARTS)
    rows.append({"dropped": k, "n_points": len(found.sample.points), data.law.headline: found.headline,
                 **found.parameters, "status": found.status})  # fmt: skip
  return rows


def _without(data: Sample, points: LossPoints) -> Sample:
  log_x_VP = data.log_x(points)
  return dataclasses.replace(data, points=points, log_x_VP=log_x_VP, log_loss_P=np.log(points.loss))


def leave_one_out_rows(fit: Fit, top: int = 5) -> list[dict[str, Any]]:
  """Returns the points without which the headline parameter moves most, and where it moves to."""
  data, points = fit.sample, fit.sample.points
  if fit.headline is None or len(points) - 1 <= data.law.n_parameters:
    return []
  residual = data.residuals(fit.theta_K[None])[0]
  chosen = np.sort(np.argsort(-np.abs(residual), kind="stable")[:MAX_LEFT_OUT])
  weight_RP = np.ones((len(chosen), len(points)))
  weight_RP[np.arange(len(chosen)), chosen] = 0
  problem = data.problem(fit.estimator.smoothing)
  found = newton.minimize(problem, np.repeat(fit.theta_K[None], len(chosen), 0), weight_RP)
  values = dict(zip(data.law.parameters, data.natural(found.theta_RK).T, strict=True))
  name = data.law.headline
  headline = values["beta"] / (values["alpha"] + values["beta"]) if name == "a" else values[name]
  change = np.where(found.converged_R, headline - fit.headline, np.nan)
  order = np.argsort(-np.abs(change), kind="stable")[:top]  # NaN last
  return [
    {"run": str(points.run[i]), "n_params": points.n_params[i], "n_tokens": points.n_tokens[i],
     "loss": points.loss[i], "log_residual": residual[i], f"{name}_without": headline[row],
     f"{name}_change": change[row]}
    for row, i in ((row, chosen[row]) for row in order) if np.isfinite(change[row])
  ]  # fmt: skip
