"""What makes a fit doubtful although its minimizer arrived: exponents without bounds, trends in residuals.

An exponent is not identified where the points hardly bound it: its profile likelihood is open to both sides,
or the ends of its bootstrap interval are a factor WIDEST apart or of different signs. With it goes the
coefficient of its term, which is a loss at x = 1, far from the points.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import stats

from lm_jax.analysis.scaling_laws.fitting import Fit
from lm_jax.analysis.scaling_laws.resampling import Refits

# Exponents that are positive by what the law means, and the coefficients of their terms.
COEFFICIENTS = {"alpha": "A", "beta": "B", "alpha_N": "Nc", "alpha_D": "Dc"}
WIDEST = 10.0
FEW_STARTS_ARRIVED = 0.2
# A rank correlation of residuals that a reader should know of.
CORRELATION, SIGNIFICANCE = 0.5, 0.01
_LETTERS = {"n_params": "N", "n_tokens": "D", "unique_tokens": "unique tokens"}


def unbounded(
  fit: Fit, refits: Refits | None, profile: Mapping[str, list[float | None] | None]
) -> dict[str, str]:
  """Returns {exponent: why it is not identified}.

  Args:
    profile: of `profile.intervals`.
  """
  found = {}
  for name in COEFFICIENTS:
    if fit.parameters.get(name) is None:
      continue
    if profile.get(name) == [None, None]:
      found[name] = f"the profile likelihood of {name} is open to both sides"
    interval = refits.interval(name) if refits else None
    if interval and (interval[0] <= 0 or interval[1] > WIDEST * interval[0]):
      found[name] = f"95 % of the refits have {name} from {interval[0]:.3g} to {interval[1]:.3g}"
  return found


def without(fit: Fit, reasons: Mapping[str, str]) -> Fit:
  """Returns the fit with the exponents of `unbounded` missing, and a status that says why."""
  if not reasons:
    return fit
  lost = {*reasons, *(COEFFICIENTS[name] for name in reasons)}
  parameters = {name: None if name in lost else value for name, value in fit.parameters.items()}
  missing = [name for name, value in parameters.items() if value is None]
  status = f"not identifiable: {', '.join(missing)} ({'; '.join(reasons.values())})"
  return dataclasses.replace(fit, parameters=parameters, status=status)


def notes(fit: Fit) -> list[str]:
  """Returns what a reader should know of where the starts went and of what the residuals hold."""
  found = []
  if fit.starts_at_optimum < FEW_STARTS_ARRIVED:
    found.append(
      f"{fit.starts_at_optimum:.0%} of {fit.n_starts} starts reach the optimum: a lower one may be missed, "
      "or the objective has no single optimum"
    )
  return found + _left_in_residuals(fit)


def _left_in_residuals(fit: Fit) -> list[str]:
  points, residual = fit.sample.points, -fit.sample.residuals(fit.theta_K[None])[0]
  # Residuals of rounding are in some order too.
  if np.abs(residual).max() < 1e-9:
    return []
  found = []
  for field, letter in _LETTERS.items():
    values = getattr(points, field)
    if values is None or field in fit.law.variables or np.ptp(np.log(values)) < np.log(1.05):
      continue
    rho, p = stats.spearmanr(residual, np.log(values))
    if abs(rho) >= CORRELATION and p < SIGNIFICANCE:
      found.append(
        f"residuals go with log {letter} (rank correlation {rho:.2f}), which the law lacks and which differs "
        f"by a factor of {values.max() / values.min():.3g}"
      )
  return found
