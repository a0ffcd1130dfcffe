"""One fit of a law to points: starts, the optimum, and how far it is to be believed.

The starts are a grid; for sums of power laws every pair of exponents has its best coefficients by
non-negative least squares (variable projection, Golub and Pereyra 1973). The best, and others spread over
the rest, descend from squared residuals through ever less smooth losses to the loss that was asked for.
Whether a descent has arrived is told by its gradient, and whether it arrived at the same place as the
others by `starts_at_optimum`.
"""

import dataclasses

import numpy as np

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import laws, newton
from lm_jax.analysis.scaling_laws.estimators import LAD_DELTA, Estimator, slope
from lm_jax.analysis.scaling_laws.laws import Law
from lm_jax.strict import ConfigError, require

BEST_STARTS = 5
N_STARTS = 32
FEW_STARTS = 8  # of fits beside the main one, which say how it moves
# Relative singular values of d log loss / d theta below which a direction is not seen by the points.
RANK_TOLERANCE = 1e-6
# Curvature that is none: relative to the largest, or to slopes of 1 at every point where all is flat.
FLAT = 1e-14


@dataclasses.dataclass(frozen=True)
class Sample:
  """Points as a law is fitted to them: logs, less the mean log of each variable."""

  law: Law
  points: LossPoints
  mean_V: np.ndarray
  log_x_VP: np.ndarray
  log_loss_P: np.ndarray

  def problem(self, delta: float) -> newton.Problem:
    return newton.Problem(self.law, self.log_x_VP, self.log_loss_P, delta)

  def log_x(self, points: LossPoints) -> np.ndarray:
    return np.log([getattr(points, v) for v in self.law.variables]) - self.mean_V[:, None]

  def natural(self, theta_RK: np.ndarray) -> np.ndarray:
    return self.law.natural(theta_RK, self.mean_V)

  def residuals(self, theta_RK: np.ndarray) -> np.ndarray:
    """Returns log predicted - log observed [R, P]."""
    return self.law.log_loss(theta_RK, self.log_x_VP) - self.log_loss_P


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted law.

  Attributes:
    parameters: by name; None where the points do not identify it.
    objective: the SUM of losses over points, see `estimators`.
    gradient: the largest slope of the objective over delta, per point, at the optimum.
    starts_at_optimum: share of `n_starts` descents that end at this objective.
    condition: ratio of the extreme eigenvalues of the Hessian in the coordinates of the fit (logs of
      coefficients at the geometric mean of the variables, exponents); None where it is not positive, and the
      parameters that its other directions move are not identified.
    status: "ok", or what is wrong.
  """

  sample: Sample
  estimator: Estimator
  theta_K: np.ndarray
  parameters: dict[str, float | None]
  objective: float
  gradient: float
  n_starts: int
  starts_at_optimum: float
  condition: float | None
  status: str

  @property
  def law(self) -> Law:
    return self.sample.law

  @property
  def a(self) -> float | None:
    """Returns the exponent of N*(C), beta/(alpha + beta), of a law that has it."""
    return exponent_a(self.parameters)

  @property
  def headline(self) -> float | None:
    return self.a if self.law.headline == "a" else self.parameters[self.law.headline]

  def predict(self, points: LossPoints) -> np.ndarray:
    """Returns the loss [P] at other points."""
    return np.exp(self.law.log_loss(self.theta_K[None], self.sample.log_x(points)))[0]


def exponent_a(parameters: dict[str, float | None]) -> float | None:
  alpha, beta = parameters.get("alpha"), parameters.get("beta")
  return None if alpha is None or beta is None else beta / (alpha + beta)


def sample(name: str, points: LossPoints, *, x: str = "N", n_breaks: int = 1) -> Sample:
  """Returns points ready for a law; raises ConfigError where they cannot be fitted."""
  if name == "data_constrained" and points.unique_tokens is None:
    raise ConfigError(
      "law='data_constrained': needs a column unique_tokens, the tokens of the corpus; name it as "
      "--columns=unique_tokens=COLUMN"
    )
  law = laws.make(name, lambda v: float(np.log(getattr(points, v)).mean()), x, n_breaks)
  for field in (*law.variables, "loss"):
    values = np.asarray(getattr(points, field), np.float64)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
      raise ConfigError(
        f"{field}={values[np.argmax(bad)]}: must be a finite number greater than 0 "
        f"({int(bad.sum())} of {len(values)} points)"
      )
  if len(points) <= law.n_parameters:
    raise ConfigError(
      f"law={name!r} has {law.n_parameters} parameters ({', '.join(law.parameters)}): needs more points than "
      f"that, and there are {len(points)}"
    )
  if np.ptp(points.loss) == 0:
    raise ConfigError(f"all {len(points)} losses are equal ({points.loss[0]:g}): there is nothing to fit")
  log_x_VP = np.log([np.asarray(getattr(points, v), np.float64) for v in law.variables])
  mean_V = log_x_VP.mean(axis=1)
  return Sample(law, points, mean_V, log_x_VP - mean_V[:, None], np.log(points.loss))


def drop_highest(points: LossPoints, k: int) -> LossPoints:
  """Returns the points whose loss is less than the k-th highest."""
  require(0 <= k < len(points), "drop_highest", k, f"from 0 to {len(points) - 1}, for {len(points)} points")
  return points.keep(points.loss < np.sort(points.loss)[-k]) if k else points


def starts(data: Sample, estimator: Estimator, n: int = N_STARTS) -> np.ndarray:
  """Returns the best starts of the grid, and others spread over the rest of it, best first."""
  grid = data.law.starts(data.log_x_VP, data.log_loss_P)
  with np.errstate(over="ignore", invalid="ignore"):
    objective = estimator.total(data.residuals(grid))
  grid = grid[np.argsort(np.where(np.isfinite(objective), objective, np.inf), kind="stable")]
  best, rest = grid[:BEST_STARTS], grid[BEST_STARTS:]
  spread = np.unique(np.linspace(0, len(rest) - 1, n - BEST_STARTS).astype(int)) if len(rest) else []
  return np.concatenate([best, rest[spread]])


def fit(data: Sample, estimator: Estimator | None = None, n_starts: int = N_STARTS) -> Fit:
  """Returns the best optimum that the starts lead to."""
  estimator = estimator or Estimator()
  begin = starts(data, estimator, n_starts)
  weight_RP = np.ones((len(begin), len(data.points)))
  problem = data.problem(estimator.smoothing)
  found = newton.follow(problem, begin, weight_RP)
  theta_RK, gradient_R = found.theta_RK, found.gradient_R
  if estimator.loss == "lad":
    theta_RK = np.stack([_lad_vertex(data, theta) for theta in theta_RK])
  objective_R = estimator.total(data.residuals(theta_RK))
  best = int(np.argmin(np.where(np.isfinite(objective_R), objective_R, np.inf)))
  # Residuals of 1e-9 are those of rounding, where a law meets its points exactly.
  near = 1e-9 * objective_R[best] + estimator.total(np.full(len(data.points), 1e-9))
  reached = float(np.mean(objective_R <= objective_R[best] + near))
  theta_K = theta_RK[best]
  condition, flat = _condition(problem, found.theta_RK[best])
  unseen = _unidentified(data, theta_K, flat if found.converged_R[best] else flat[:0])
  values = data.natural(theta_K[None])[0]
  parameters = {name: None if name in unseen else float(v)
                for name, v in zip(data.law.parameters, values, strict=True)}  # fmt: skip
  status = "ok"
  if unseen:
    status = f"not identifiable: {', '.join(unseen)}"
  elif not found.converged_R[best]:
    status = f"not converged: slope {gradient_R[best]:.1e} per point, above {newton.GRADIENT_TOLERANCE:g}"
  return Fit(
    data, estimator, theta_K, parameters, float(objective_R[best]), float(gradient_R[best]), len(begin),
    reached, condition, status,
  )  # fmt: skip


def _condition(problem: newton.Problem, theta_K: np.ndarray) -> tuple[float | None, np.ndarray]:
  """Returns the condition number of the Hessian, and the directions [F, K] along which nothing curves."""
  n = len(problem.log_loss_P)
  hessian = newton.hessian(problem, theta_K[None], np.ones((1, n)))[0]
  if not np.isfinite(hessian).all():
    return None, np.empty((0, len(theta_K)))
  eigenvalues, axes = np.linalg.eigh(hessian)
  # An eigenvalue that rounding could have made is no eigenvalue.
  flat = eigenvalues <= FLAT * max(eigenvalues[-1], n)
  condition = None if flat.any() else float(eigenvalues[-1] / eigenvalues[0])
  return condition, axes.T[flat]


def _unidentified(data: Sample, theta_K: np.ndarray, flat_FK: np.ndarray) -> list[str]:
  """Returns the parameters that change along flat directions, or along those that no prediction feels."""
  J_PK = laws.jacobian(data.law, theta_K[None], data.log_x_VP)[0]
  if not np.isfinite(J_PK).all():
    return list(data.law.parameters)
  _, singular, directions = np.linalg.svd(J_PK, full_matrices=False)
  unseen = np.concatenate([directions[singular < RANK_TOLERANCE * singular[0]], flat_FK])
  step = 1e-4
  natural = data.natural(theta_K[None])[0]
  names = set()
  for direction in unseen:
    moved = data.natural((theta_K + step * direction)[None])[0]
    change = np.abs(moved - natural) / np.maximum(np.abs(natural), 1e-300) / step
    names |= {name for name, c in zip(data.law.parameters, change, strict=True) if c > 0.02}
  return [name for name in data.law.parameters if name in names]


def _lad_vertex(data: Sample, theta_K: np.ndarray) -> np.ndarray:
  """Returns the minimum of the sum of absolute residuals next to a smoothed one.

  At the minimum as many residuals are 0 as there are coordinates, as at a vertex of a linear program: the
  smallest ones are solved for by Newton's method. It is the minimum if the slopes of all others can be
  balanced by weights from -1 to 1 on these; where they cannot, or are not to be had, the smoothed one stays.
  """
  residual = data.residuals(theta_K[None])[0]
  active = np.argsort(np.abs(residual))[: len(theta_K)]
  vertex = theta_K.copy()
  for _ in range(20):
    J_KK = laws.jacobian(data.law, vertex[None], data.log_x_VP[:, active])[0]
    try:
      step = np.linalg.solve(J_KK, -data.residuals(vertex[None])[0, active])
    except np.linalg.LinAlgError:
      return theta_K
    if not np.isfinite(step).all() or np.abs(step).max() > 1:
      return theta_K
    vertex = vertex + step
    if np.abs(step).max() < 1e-15:
      break
  residual = data.residuals(vertex[None])[0]
  others = np.ones(len(residual), bool)
  others[active] = False
  J_PK = laws.jacobian(data.law, vertex[None], data.log_x_VP)[0]
  pull = slope(residual[others], LAD_DELTA * 1e-6) @ J_PK[others]
  try:
    balance = np.linalg.solve(J_PK[active].T, -pull)
  except np.linalg.LinAlgError:  # of points on one line, which pin nothing down
    return theta_K
  return vertex if np.abs(balance).max() <= 1 + 1e-6 else theta_K
