"""Bootstrap of a fit: points, or whole runs, are drawn with replacement and the law is fitted to each draw.

A draw is a number of times for every point, so all refits share their points and run at once (`newton`).
Draws are those of numpy.random.RandomState(seed).choice, one after the other, by which published intervals
can be compared. Points of one run share its luck, and a bootstrap over points is then too sure of itself:
cluster="run" draws runs (Cameron, Gelbach and Miller 2008, pairs cluster bootstrap).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from lm_jax.analysis.scaling_laws import newton
from lm_jax.analysis.scaling_laws.fitting import Fit
from lm_jax.strict import ConfigError, require

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Refits:
  """Fits to resamples.

  Attributes:
    theta_RK, parameters_RK: of those that converged.
    n_resamples: how many were asked for.
    n_converged: of them, rows of the arrays.
    cluster: what was drawn: "point" or "run".
  """

  fit: Fit
  theta_RK: np.ndarray
  parameters_RK: np.ndarray
  n_resamples: int
  n_converged: int
  cluster: str
  seed: int

  def column(self, name: str) -> np.ndarray:
    """Returns a parameter of every refit; "a" is beta/(alpha + beta)."""
    if name == "a":
      alpha, beta = self.column("alpha"), self.column("beta")
      return beta / (alpha + beta)
    return self.parameters_RK[:, self.fit.law.parameters.index(name)]

  def interval(self, name: str) -> list[float] | None:
    """Returns the percentile interval, None where the parameter is not identified or no refit converged."""
    known = self.fit.a if name == "a" else self.fit.parameters[name]
    return None if known is None else interval(self.column(name))

  def intervals(self) -> dict[str, list[float] | None]:
    return {name: self.interval(name) for name in self.fit.law.parameters}


def interval(values: np.ndarray) -> list[float] | None:
  """Returns the quantiles that LEVEL of the values lie between."""
  values = values[np.isfinite(values)]
  if len(values) < 2:
    return None
  low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
  return [float(low), float(high)]


def draw(n: int, n_resamples: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
  """Returns how often each of n points is drawn [R, P], or each group of points with all that it holds."""
  random = np.random.RandomState(seed)
  index = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
  m = n if groups is None else int(index.max()) + 1
  times = [np.bincount(random.choice(m, m, replace=True), minlength=m) for _ in range(n_resamples)]
  return np.array(times, np.float64)[:, index]


def bootstrap(fit: Fit, n_resamples: int = 4000, seed: int = 42, cluster: str = "point") -> Refits:
  """Returns refits that all begin at the optimum of the fit."""
  require(n_resamples > 1, "bootstrap", n_resamples, "greater than 1")
  require(cluster in ("point", "run"), "cluster", cluster, "point or run")
  points = fit.sample.points
  groups = points.run if cluster == "run" else None
  if groups is not None and len(np.unique(groups)) < 3:
    raise ConfigError(f"cluster='run': needs 3 runs to draw from, and there are {len(np.unique(groups))}")
  weight_RP = draw(len(points), n_resamples, seed, groups)
  # Other points are met exactly in a resample of least absolute deviations: it starts from a smoother loss.
  found = newton.follow(
    fit.sample.problem(fit.estimator.smoothing), np.repeat(fit.theta_K[None], n_resamples, 0), weight_RP, 1e-3
  )
  theta_RK = found.theta_RK[found.converged_R]
  return Refits(fit, theta_RK, fit.sample.natural(theta_RK), n_resamples, len(theta_RK), cluster, seed)


def summary(refits: Refits) -> Mapping[str, int | str]:
  """Returns how intervals were made, flat."""
  return {"bootstrap": refits.n_resamples, "bootstrap_converged": refits.n_converged,
          "cluster": refits.cluster, "seed": refits.seed}  # fmt: skip
