"""What a fit minimizes: the SUM over points of a loss of the log residuals r = log predicted - log observed.

  huber  r^2/2 where |r| <= delta, else delta (|r| - delta/2) (Huber 1964; delta 1e-3 in arXiv:2203.15556)
  lad    |r|, least absolute deviations: the limit of huber/delta for small delta
  mse    r^2

The minimizer works with huber/delta, whose slopes are within -1 and 1 for every delta: an objective of the
size of 1e-3 meets the default tolerance of a general solver long before it is at its minimum, and a mean
in place of the sum meets it sooner still.
"""

import dataclasses

import numpy as np

from lm_jax.strict import choose, require

LOSSES = {"huber": 1e-3, "lad": None, "mse": None}  # with their default delta

# The smoothing by which a kink at 0 is approached, each solution the start of the next.
LAD_DELTA = 1e-6


@dataclasses.dataclass(frozen=True)
class Estimator:
  """A loss of log residuals; `delta` belongs to huber only."""

  loss: str = "huber"
  delta: float | None = None

  def __post_init__(self):
    default = choose(LOSSES, self.loss, "loss")
    if default is None:
      require(self.delta is None, "delta", self.delta, f"left out: it belongs to loss=huber, not {self.loss}")
    elif self.delta is None:
      object.__setattr__(self, "delta", default)
    else:
      require(self.delta > 0 and np.isfinite(self.delta), "delta", self.delta, "a number greater than 0")

  @property
  def smoothing(self) -> float:
    """Returns the delta down to which the minimizer goes: inf for squares."""
    return {"huber": self.delta, "lad": LAD_DELTA, "mse": np.inf}[self.loss]

  def total(self, r_RP: np.ndarray, weight_RP: np.ndarray | float = 1.0) -> np.ndarray:
    """Returns the objective, the weighted sum of losses over the last axis."""
    if self.loss == "mse":
      return (weight_RP * r_RP**2).sum(-1)
    size = np.abs(r_RP)
    if self.loss == "lad":
      return (weight_RP * size).sum(-1)
    inside = np.minimum(size, self.delta)
    return (weight_RP * inside * (size - inside / 2)).sum(-1)


def slope(r: np.ndarray, delta: float) -> np.ndarray:
  """Returns the derivative of huber/delta, of r^2/2 for an infinite delta."""
  return r if np.isinf(delta) else np.clip(r / delta, -1, 1)


def curvature(r: np.ndarray, delta: float) -> np.ndarray:
  """Returns the second derivative of huber/delta."""
  return np.ones_like(r) if np.isinf(delta) else (np.abs(r) <= delta) / delta


def smooth(r: np.ndarray, delta: float) -> np.ndarray:
  """Returns huber/delta, or r^2/2 for an infinite delta."""
  if np.isinf(delta):
    return r**2 / 2
  size = np.abs(r)
  inside = np.minimum(size, delta)
  return inside * (size - inside / 2) / delta
