"""How an ability follows the loss: chance + (ceiling - chance) sigmoid((midpoint - L) / width).

The second of the two steps by which downstream accuracy is forecast (Bhagia et al., arXiv:2412.04403, who
draw the same curve from task loss to accuracy). Chance is known of a task; the ceiling is fitted, at most 1.
"""

import dataclasses

import numpy as np
from scipy import special

# Around the losses seen, in units of their range: an ability that is at chance at all of them has its
# midpoint below them.
_MIDPOINTS = np.linspace(-1.5, 1.0, 36)
_WIDTHS = np.geomspace(0.01, 2.0, 18)
_REFINEMENTS = 2


@dataclasses.dataclass(frozen=True)
class AbilityCurves:
  """R curves; all but chance are [R]."""

  chance: float
  ceiling: np.ndarray
  midpoint: np.ndarray
  width: np.ndarray

  def __call__(self, loss_RS: np.ndarray) -> np.ndarray:
    """Returns abilities [R, S] at losses [R, S]."""
    z = special.expit((self.midpoint[:, None] - loss_RS) / self.width[:, None])
    return self.chance + (self.ceiling - self.chance)[:, None] * z


def fit(
  loss_RS: np.ndarray, ability_RS: np.ndarray, weight_S: np.ndarray, chance: float, most: float = 1.0
) -> AbilityCurves:
  """Fits R sets of (loss, ability) by weighted least squares; the ceiling is at most `most`.

  Given midpoint and width the curve is linear in the ceiling, so that only these two are searched.
  """
  low, high = loss_RS.min(1), loss_RS.max(1)
  span = np.maximum(high - low, 1e-9)[:, None]
  m, s = (grid.ravel() for grid in np.meshgrid(_MIDPOINTS, _WIDTHS))
  best = _best(loss_RS, ability_RS, weight_S, low[:, None] + span * m, span * s, chance, most)
  dm, ds = float(np.diff(_MIDPOINTS)[0]), float(np.log(_WIDTHS[1] / _WIDTHS[0]))
  for _ in range(_REFINEMENTS):
    m, s = (grid.ravel() for grid in np.meshgrid(np.linspace(-dm, dm, 13), np.exp(np.linspace(-ds, ds, 13))))
    best = _best(
      loss_RS, ability_RS, weight_S, best[1][:, None] + span * m, best[2][:, None] * s, chance, most
    )
    dm, ds = dm / 5, ds / 5
  return AbilityCurves(chance, *best)


def _best(
  loss_RS: np.ndarray, y_RS: np.ndarray, w_S: np.ndarray, midpoint_RG: np.ndarray, width_RG: np.ndarray,
  chance: float, most: float,
) -> tuple[np.ndarray, ...]:  # fmt: skip
  """Returns (ceiling, midpoint, width), each [R]."""
  z_RGS = special.expit((midpoint_RG[..., None] - loss_RS[:, None]) / width_RG[..., None])
  gain_RS, w = y_RS - chance, w_S / w_S.sum()
  zz = (w * z_RGS**2).sum(-1)
  rise = np.clip((w * z_RGS * gain_RS[:, None]).sum(-1) / np.maximum(zz, 1e-300), 0, most - chance)
  error = (w * (gain_RS[:, None] - rise[..., None] * z_RGS) ** 2).sum(-1)
  g = error.argmin(1)[:, None]
  return tuple(np.take_along_axis(of, g, 1)[:, 0] for of in (chance + rise, midpoint_RG, width_RG))
