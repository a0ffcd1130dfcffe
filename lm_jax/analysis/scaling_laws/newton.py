"""Many robust fits of one law at once: damped Newton over rows that share their points.

A row is a start or a resample: coordinates theta [K] and a weight for every point [P]. Each step solves
(H + lambda D) step = -gradient with D the diagonal of the reweighted least squares (a majorizer), and lambda
is lowered after a step that went down and raised after one that did not (Marquardt 1963). Rows leave when
their gradient vanishes. Sums of power laws have exact Hessians in closed form; other laws leave out the
curvature of the law itself, which is smaller than that of the loss by about delta.
"""

import dataclasses

import numpy as np

from lm_jax.analysis.scaling_laws.laws import Law, jacobian

GRADIENT_TOLERANCE = 1e-9  # per unit of weight; slopes of the loss are at most 1
POINTS_AT_ONCE = 2**17  # rows times points: an array is 1 MB, and a step's arrays stay in a core's cache
# Where a law is a poor one, residuals cross delta at nearly every step: most rows need 30, some hundreds.
# Laws whose own curvature is left out come no closer by going on.
MAX_ITERATIONS, MAX_ITERATIONS_INEXACT = 1000, 200
# A delta that is not the last need not be solved exactly.
COARSE_TOLERANCE = 1e-4
COARSE_ITERATIONS = 30


@dataclasses.dataclass(frozen=True)
class Problem:
  """The points, and the smoothed loss huber/delta of them."""

  law: Law
  log_x_VP: np.ndarray
  log_loss_P: np.ndarray
  delta: float


@dataclasses.dataclass(frozen=True)
class Solution:
  """Coordinates of every row, its largest slope per unit of weight, and whether that is 0 to rounding."""

  theta_RK: np.ndarray
  gradient_R: np.ndarray
  converged_R: np.ndarray


@dataclasses.dataclass
class _State:
  value: np.ndarray
  gradient: np.ndarray
  hessian: np.ndarray
  majorizer: np.ndarray

  def replace(self, rows: np.ndarray, other: "_State", chosen: np.ndarray) -> None:
    for field in dataclasses.fields(self):
      getattr(self, field.name)[rows] = getattr(other, field.name)[chosen]

  def keep(self, rows: np.ndarray) -> None:
    for field in dataclasses.fields(self):
      setattr(self, field.name, getattr(self, field.name)[rows])


def minimize(
  problem: Problem,
  theta_RK: np.ndarray,
  weight_RP: np.ndarray,
  free_RK: np.ndarray | None = None,
  max_iterations: int | None = None,
  tolerance: float = GRADIENT_TOLERANCE,
) -> Solution:
  """Returns the local minimum that each row descends to.

  Args:
    free_RK: which coordinates may move; all where it is None.
  """
  if max_iterations is None:
    max_iterations = MAX_ITERATIONS if problem.law.is_sum_of_powers else MAX_ITERATIONS_INEXACT
  size = max(1, POINTS_AT_ONCE // len(problem.log_loss_P))
  found = []
  for first in range(0, len(theta_RK), size):
    part = slice(first, first + size)
    free = None if free_RK is None else free_RK[part]
    found.append(_minimize(problem, theta_RK[part], weight_RP[part], free, max_iterations, tolerance))
  theta, gradient = (np.concatenate(column) for column in zip(*found, strict=True))
  return Solution(theta, gradient, gradient <= tolerance)


def follow(problem: Problem, theta_RK: np.ndarray, weight_RP: np.ndarray, first: float = np.inf) -> Solution:
  """Returns the minima at problem.delta, reached from delta=first (inf: squares) downwards."""
  for delta in (np.inf, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
    if first >= delta > 1.5 * problem.delta:
      coarse = dataclasses.replace(problem, delta=delta)
      theta_RK = minimize(coarse, theta_RK, weight_RP, None, COARSE_ITERATIONS, COARSE_TOLERANCE).theta_RK
  return minimize(problem, theta_RK, weight_RP)


def _minimize(problem: Problem, start_RK: np.ndarray, weight_RP: np.ndarray, free_RK: np.ndarray | None,
              max_iterations: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  R = len(start_RK)
  best, largest = start_RK.copy(), np.full(R, np.inf)
  row = np.arange(R)
  theta, weight, free = start_RK.copy(), weight_RP, free_RK
  mass = weight.sum(1)
  state = _derivatives(problem, theta, weight, free)
  damping = np.full(R, 1e-3)
  for _ in range(max_iterations):
    size = np.abs(state.gradient).max(1) / mass
    best[row], largest[row] = theta, size
    stay = (size > tolerance) & (damping < 1e12)
    if not stay.all():
      row, theta, weight, mass, damping = row[stay], theta[stay], weight[stay], mass[stay], damping[stay]
      free = None if free is None else free[stay]
      state.keep(stay)
      if not len(row):
        break
    step = _steps(state, damping)
    trial_theta = theta + step
    trial = _derivatives(problem, trial_theta, weight, free)
    # At the minimum values differ by rounding only: there a smaller gradient decides.
    noise = 1e-14 * np.abs(state.value)
    flat = np.abs(trial.value - state.value) <= noise
    smaller = np.abs(trial.gradient).max(1) < np.abs(state.gradient).max(1)
    good = np.isfinite(trial.value) & np.where(flat, smaller, trial.value < state.value)
    theta[good] = trial_theta[good]
    state.replace(good, trial, good)
    damping = np.where(good, np.maximum(damping / 10, 1e-14), damping * 6)
  return best, largest


def _steps(state: _State, damping_R: np.ndarray) -> np.ndarray:
  K = state.gradient.shape[1]
  system = state.hessian.copy()
  k = np.arange(K)
  floor = state.majorizer.max(1, keepdims=True) * 1e-12 + 1e-300
  system[:, k, k] += damping_R[:, None] * np.maximum(state.majorizer, floor)
  try:
    step = -np.linalg.solve(system, state.gradient[:, :, None])[:, :, 0]
  except np.linalg.LinAlgError:  # one of them is singular to the last bit
    step = -(np.linalg.pinv(system) @ state.gradient[:, :, None])[:, :, 0]
  # Where the surface bends down, Newton's step climbs: there each eigenvalue is taken by its size, which goes
  # down along every axis (Dauphin et al., arXiv:1406.2572).
  uphill = (step * state.gradient).sum(1) > 0
  if uphill.any():
    step[uphill] = _downhill(system[uphill], state.gradient[uphill])
  # A log coordinate or an exponent that moves by more than this leaves the region the step knows of.
  longest = np.abs(step).max(1, keepdims=True)
  return step * np.minimum(1, 2 / np.maximum(longest, 1e-300))


def _downhill(system_RKK: np.ndarray, gradient_RK: np.ndarray) -> np.ndarray:
  eigenvalue_RK, axes_RKK = np.linalg.eigh(system_RKK)
  size_RK = np.abs(eigenvalue_RK)
  size_RK = np.maximum(size_RK, 1e-12 * size_RK.max(1, keepdims=True) + 1e-300)
  along_RK = np.einsum("rki,rk->ri", axes_RKK, gradient_RK) / size_RK
  return -np.einsum("rki,ri->rk", axes_RKK, along_RK)


def _derivatives(problem: Problem, theta: np.ndarray, weight: np.ndarray,
                 free: np.ndarray | None) -> _State:  # fmt: skip
  with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a step too far is told by its value
    state = (_powers if problem.law.is_sum_of_powers else _general)(problem, theta, weight)
  if free is not None:
    state.gradient *= free
    state.hessian *= free[:, :, None] & free[:, None, :]
    k = np.arange(theta.shape[1])
    state.hessian[:, k, k] += ~free
    state.majorizer *= free
  return state


def _losses(problem: Problem, r: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
  """Returns the value, and weighted slopes, curvatures and curvatures of the majorizer."""
  delta = problem.delta
  if np.isinf(delta):
    slope = weight * r
    return (slope * r).sum(1) / 2, slope, weight, weight
  size = np.abs(r)
  reach = np.maximum(size, delta)
  bound = weight / reach
  slope = bound * r
  # huber/delta is r slope/2 inside and |r| - delta/2 outside.
  inside = size <= delta
  value = (weight * np.where(inside, size * size / (2 * delta), size - delta / 2)).sum(1)
  return value, slope, np.where(inside, bound, 0), bound


def _general(problem: Problem, theta: np.ndarray, weight: np.ndarray) -> _State:
  J = jacobian(problem.law, theta, problem.log_x_VP)
  r = problem.law.log_loss(theta, problem.log_x_VP) - problem.log_loss_P
  value, slope, curvature, bound = _losses(problem, r, weight)
  gradient = (slope[:, None, :] @ J)[:, 0]
  hessian = (J * curvature[:, :, None]).transpose(0, 2, 1) @ J
  majorizer = (bound[:, None, :] @ J**2)[:, 0]
  bad = ~(np.isfinite(gradient).all(1) & np.isfinite(hessian).all((1, 2)))
  value[bad] = np.nan
  return _State(value, gradient, hessian, majorizer)


def _powers(problem: Problem, theta: np.ndarray, weight: np.ndarray) -> _State:
  """Sums over points by products with the powers of log x that the entries share, never point by point.

  With p_t the share of term t in the loss, log loss has gradient p_t (1, -x_t) and Hessian
  [s = t] p_t (1, -x_t)(1, -x_t)' - p_s p_t (1, -x_s)(1, -x_t)'.
  """
  x = problem.log_x_VP
  V, K = len(x), theta.shape[1]
  term = [np.exp(theta[:, v : v + 1] - theta[:, V + 1 + v : V + 2 + v] * x[v]) for v in range(V)]
  term.append(np.broadcast_to(np.exp(theta[:, V : V + 1]), term[0].shape))
  total = sum(term[1:], term[0])
  share = [t / total for t in term]
  r = np.log(total)
  r -= problem.log_loss_P
  value, slope, curvature, bound = _losses(problem, r, weight)
  mixed = curvature - slope
  ones = np.ones(x.shape[1])
  factors = [*(-x), None]
  gradient, hessian = np.empty((len(theta), K)), np.zeros((len(theta), K, K))
  majorizer = np.empty((len(theta), K))

  def moments(a: np.ndarray, s: int, t: int) -> np.ndarray:
    left = [ones] if factors[s] is None else [ones, factors[s]]
    right = [ones] if factors[t] is None else [ones, factors[t]]
    basis = np.stack([p * q for p in left for q in right], axis=1)
    return (a @ basis).reshape(len(a), len(left), len(right))

  def at(t: int) -> list[int]:
    return [t] if factors[t] is None else [t, V + 1 + t]

  for s in range(V + 1):
    weighted = slope * share[s]
    own = moments(weighted, s, s)
    gradient[:, at(s)] = own[:, 0, :]
    bent = bound * share[s] * share[s]
    majorizer[:, at(s)] = np.diagonal(moments(bent, s, s), axis1=1, axis2=2)
    mixed_s = mixed * share[s]
    for t in range(s, V + 1):
      block = moments(mixed_s * share[t], s, t) + (own if s == t else 0)
      hessian[np.ix_(range(len(theta)), at(s), at(t))] = block
      hessian[np.ix_(range(len(theta)), at(t), at(s))] = block.transpose(0, 2, 1)
  return _State(value, gradient, hessian, majorizer)


def hessian(problem: Problem, theta_RK: np.ndarray, weight_RP: np.ndarray) -> np.ndarray:
  """Returns the Hessian [R, K, K] of the smoothed loss."""
  return _derivatives(problem, theta_RK, weight_RP, None).hessian
