"""A loss that falls to a floor with scale: L(x) = E + A x^-alpha, with E, A >= 0 (arXiv:2203.15556)."""

import dataclasses

import numpy as np

_ALPHAS = np.geomspace(0.01, 3.0, 120)
_REFINEMENTS = 3  # each a tenth of the grid before it


@dataclasses.dataclass(frozen=True)
class PowerLaws:
  """R laws over one x; x is in units of `scale`, at which E + A is the loss.

  Attributes:
    E, A, alpha: [R].
  """

  E: np.ndarray
  A: np.ndarray
  alpha: np.ndarray
  scale: float

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """Returns losses [R, S] at sizes [S]."""
    with np.errstate(over="ignore"):  # far below the sizes: infinite is what the law says
      return self.E[:, None] + self.A[:, None] * (np.asarray(x) / self.scale) ** -self.alpha[:, None]

  def inverse(self, loss: np.ndarray) -> np.ndarray:
    """Returns the sizes [R] at which the laws reach a loss [R]; infinite where they never do."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
      ratio = (loss - self.E) / self.A
      x = self.scale * ratio ** (-1 / self.alpha)
    return np.where((ratio > 0) & (self.A > 0), x, np.inf)


def fit(x: np.ndarray, loss_RS: np.ndarray, weight_S: np.ndarray) -> PowerLaws:
  """Fits R sets of losses at the same sizes, by weighted least squares.

  Given alpha, the law is linear in (E, A), and the best non-negative ones are in closed form: alpha alone is
  searched (variable projection), on a grid and then on finer ones around the best, each set's own.
  """
  scale = float(np.exp(np.log(x).mean()))
  u = np.asarray(x) / scale
  grid_RG = np.broadcast_to(_ALPHAS, (len(loss_RS), len(_ALPHAS)))
  best = _best(u, loss_RS, weight_S, grid_RG)
  width = np.log(_ALPHAS[1] / _ALPHAS[0])
  for _ in range(_REFINEMENTS):
    around = np.exp(np.linspace(-width, width, 21))
    best = _best(u, loss_RS, weight_S, best[2][:, None] * around)
    width /= 10
  return PowerLaws(*best, scale)


def _best(u: np.ndarray, y_RS: np.ndarray, w_S: np.ndarray, alpha_RG: np.ndarray) -> tuple:
  """Returns (E, A, alpha), each [R], of the best alpha of each row's grid."""
  f_RGS = u ** -alpha_RG[:, :, None]
  w, y = w_S / w_S.sum(), y_RS[:, None, :]
  f1, f2 = (w * f_RGS).sum(-1), (w * f_RGS**2).sum(-1)
  y1, fy = (w * y).sum(-1), (w * f_RGS * y).sum(-1)
  A = (fy - f1 * y1) / np.maximum(f2 - f1**2, 1e-300)
  E = y1 - A * f1
  # Outside of E, A >= 0 the optimum is on one of the two borders.
  A = np.where(E < 0, fy / f2, A)
  E = np.where(E < 0, 0.0, E)
  E, A = np.where(A < 0, y1, E), np.maximum(A, 0.0)
  error = (w * (y - E[..., None] - A[..., None] * f_RGS) ** 2).sum(-1)
  g = error.argmin(1)[:, None]
  return tuple(np.take_along_axis(of, g, 1)[:, 0] for of in (E, A, alpha_RG))
