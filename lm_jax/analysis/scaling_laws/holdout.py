"""Held-out extrapolation: fit below a compute cutoff, predict the losses above it.

Beside it stands a naive baseline, the loss of the point of largest compute below the cutoff: on some
published curves it wins. Errors are of log loss, root mean square and mean, so 0.01 is about 1 %.
"""

import dataclasses
from typing import Any

import numpy as np

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import fitting
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.analysis.scaling_laws.fitting import Sample
from lm_jax.strict import ConfigError

QUANTILES = (0.5, 0.7, 0.8, 0.9)  # of compute, where no cutoff is given


def cutoffs(points: LossPoints) -> list[float]:
  """Returns quantiles of compute that leave points on both sides; none where compute does not vary."""
  quantiles = dict.fromkeys(float(np.quantile(points.flops, q)) for q in QUANTILES)
  return [c for c in quantiles if points.flops.min() <= c < points.flops.max()]


def split(points: LossPoints, cutoff: float) -> tuple[LossPoints, LossPoints]:
  """Returns the points of compute up to the cutoff, and those above it."""
  below = points.flops <= cutoff
  if below.all() or not below.any():
    raise ConfigError(
      f"cutoff={cutoff:g}: must leave points below and above it; compute is from "
      f"{points.flops.min():g} to {points.flops.max():g}"
    )
  return points.keep(below), points.keep(~below)


def naive(points: LossPoints) -> float:
  """Returns the loss at the largest compute, the mean of the points that share it."""
  return float(points.loss[points.flops == points.flops.max()].mean())


def row(data: Sample, estimator: Estimator, cutoff: float) -> dict[str, Any]:
  """Returns how the law and the naive baseline predict what lies above the cutoff."""
  below, above = split(data.points, cutoff)
  found: dict[str, Any] = {
    "cutoff_flops": cutoff, "n_fitted": len(below), "n_predicted": len(above), "naive_rms": None,
    "naive_bias": None, "law_rms": None, "law_bias": None, "wins": None,
  }  # fmt: skip
  errors = np.log(naive(below)) - np.log(above.loss)
  found |= {"naive_rms": _rms(errors), "naive_bias": float(errors.mean())}
  if len(below) <= data.law.n_parameters:
    return found | {"status": f"{len(below)} points below the cutoff: too few for {data.law.n_parameters} "
                              "parameters"}  # fmt: skip
  if np.ptp(below.loss) == 0:
    return found | {"status": "all losses below the cutoff are equal"}
  part = dataclasses.replace(data, points=below, log_x_VP=data.log_x(below), log_loss_P=np.log(below.loss))
  fit = fitting.fit(part, estimator, fitting.FEW_STARTS)
  errors = np.log(fit.predict(above)) - np.log(above.loss)
  found |= {"law_rms": _rms(errors), "law_bias": float(errors.mean()), "status": fit.status}
  return found | {"wins": "law" if found["law_rms"] < found["naive_rms"] else "naive"}


def rows(data: Sample, estimator: Estimator, chosen: list[float] | None = None) -> list[dict[str, Any]]:
  """Returns a row a cutoff."""
  return [row(data, estimator, cutoff) for cutoff in chosen or cutoffs(data.points)]


def _rms(errors: np.ndarray) -> float:
  return float(np.sqrt(np.mean(errors**2)))
