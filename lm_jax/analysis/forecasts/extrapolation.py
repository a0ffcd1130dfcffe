"""From the sizes at hand to larger ones: losses, abilities and thresholds, as distributions.

Two steps: the loss is a power law of scale with a floor (`power_law`), the ability a sigmoid of the loss
(`ability_curve`). "two_step" fits the second to the losses that were measured; "joint" fits both at once, the
sigmoid to the losses that the law says. An ability without a loss beside it is a sigmoid of the logarithm of
scale ("direct").

A distribution is made of refits to data that might have been: the fitted curve with noise as large as what
was measured (seeds and items) or as the misfit, whichever is larger, from Student's t with the degrees of
freedom that the fit has left. Refits of loss and ability belong together, draw by draw, so that what is
uncertain of the loss is uncertain of the ability. A band of a single run adds its seed and its items.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from scipy import special

from lm_jax.analysis.forecasts import ability_curve, least_squares, power_law
from lm_jax.analysis.forecasts.ability_curve import AbilityCurves
from lm_jax.analysis.forecasts.power_law import PowerLaws
from lm_jax.analysis.forecasts.rungs import Measured, Rungs

Method = Literal["two_step", "joint"]

# A law has three parameters, and a fit with nothing left to check it by is none.
MIN_SIZES = 4
LEVELS = (0.5, 0.8, 0.95)
# A threshold that is uncertain by more than this is not known; see `threshold`.
MAX_DECADES = 3.0
MAX_NEVER = 0.05
# Standard errors by which a size must beat chance before a threshold is looked for. The best of a dozen
# sizes at chance does so once in a thousand.
MIN_RISE = 3.7


@dataclasses.dataclass(frozen=True)
class LogScale:
  """Stands for a loss where there is none: -log10 of the size, which is certain."""

  num: int

  def __call__(self, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(-np.log10(x), (self.num, len(x)))

  def inverse(self, loss: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
      return 10.0**-loss


@dataclasses.dataclass(frozen=True)
class Draws:
  """R ways that the curves may be; `curves` is None where no ability was measured."""

  laws: PowerLaws | LogScale
  curves: AbilityCurves | None
  rungs: Rungs
  seed: int

  def of_curve(self, x: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {metric: [R, T]}: the mean over seeds and items, at sizes [T]."""
    loss_RT = self.laws(x)
    found = {} if self.rungs.loss is None else {self.rungs.loss.metric: loss_RT}
    if self.curves is not None:
      found[self.rungs.ability.metric] = self.curves(loss_RT)
    return found

  def of_run(self, x: np.ndarray, n_seeds: int = 1) -> dict[str, np.ndarray]:
    """Returns {metric: [R, T]}: what the mean of `n_seeds` runs would be measured as."""
    rng = np.random.default_rng([self.seed, 1])
    measured = {m.metric: m for m in (self.rungs.loss, self.rungs.ability) if m is not None}
    return {
      metric: _as_measured(
        mean_RT, measured[metric], self.curves if metric != _loss(self) else None, n_seeds, rng
      )
      for metric, mean_RT in self.of_curve(x).items()
    }


def _loss(draws: Draws) -> str | None:
  return None if draws.rungs.loss is None else draws.rungs.loss.metric


def _as_measured(
  mean_RT: np.ndarray,
  measured: Measured,
  curves: AbilityCurves | None,
  n_seeds: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Adds the noise of seeds and items to means."""
  if curves is not None and measured.n_items:
    p_RT = np.clip(mean_RT, 0, 1)
    items_RT = p_RT * (1 - p_RT) / measured.n_items
  else:
    known = measured.item_variance[~np.isnan(measured.item_variance)]
    items_RT = np.full_like(mean_RT, known[-1] if len(known) else 0.0)
  # The spread over seeds holds the items' noise already.
  variance_RT = np.maximum(items_RT, (measured.seed_variance or 0.0) / n_seeds)
  noisy_RT = mean_RT + np.sqrt(variance_RT) * rng.standard_normal(mean_RT.shape)
  return np.clip(noisy_RT, 0, None if curves is None else 1)


def draw(rungs: Rungs, num: int = 1000, seed: int = 0, method: Method = "two_step") -> Draws | None:
  """Returns `num` refits, the first of them to the data as they are; None for fewer than MIN_SIZES sizes."""
  if len(rungs) < MIN_SIZES:
    return None
  rng = np.random.default_rng([seed, 0])
  loss, x = rungs.loss, rungs.x
  if loss is None:
    laws = LogScale(num)
    loss_S, loss_RS = laws(x)[0], laws(x)
  else:
    weight_S = _weights(loss)
    fitted = power_law.fit(x, loss.mean[None], weight_S)
    loss_S, loss_RS = loss.mean, _resampled(loss, fitted(x)[0], 3, num, rng)
    laws = power_law.fit(x, loss_RS, weight_S)
  if rungs.ability is None:
    return Draws(laws, None, rungs, seed)
  ability, chance, most = rungs.ability, _chance(rungs), rungs.ceiling or 1.0
  weight_A = _weights(ability)
  curve = ability_curve.fit(loss_S[None], ability.mean[None], weight_A, chance, most)
  ability_RS = _resampled(ability, curve(loss_S[None])[0], 3, num, rng)
  curves = ability_curve.fit(loss_RS, ability_RS, weight_A, chance, most)
  if method == "joint" and loss is not None:
    laws, curves = _jointly(rungs, laws, curves, loss_RS, ability_RS, most)
  return Draws(laws, curves, rungs, seed)


def _chance(rungs: Rungs) -> float:
  """Returns the chance level; 0 for a metric that has none, such as exact match of a long answer."""
  return 0.0 if rungs.chance is None else rungs.chance


def _weights(measured: Measured) -> np.ndarray:
  """Returns inverse variances; where no size has one, equal weights.

  As much again as the median is added to each, since no curve is exact and a size at 0 or 1 has almost none.
  """
  known = measured.variance[~np.isnan(measured.variance)]
  if not len(known):
    return np.ones(len(measured.mean))
  middle = float(np.median(known))
  return 1 / (np.where(np.isnan(measured.variance), middle, measured.variance) + middle)


def _resampled(
  measured: Measured, fitted_S: np.ndarray, num_params: int, num: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns data that might have been, [num, S]; the first row is what was measured."""
  spare = max(1, len(fitted_S) - num_params)
  misfit_S = measured.mean - fitted_S
  known = np.nan_to_num(measured.variance)
  inflation = max(1.0, float((misfit_S**2 / known).sum()) / spare) if (known > 0).all() else None
  variance_S = np.full(len(fitted_S), (misfit_S**2).sum() / spare) if inflation is None else inflation * known
  noise = rng.standard_t(max(spare, 3), (num, len(fitted_S)))
  data_RS = fitted_S + np.sqrt(variance_S) * noise
  data_RS[0] = measured.mean
  return data_RS


def _jointly(
  rungs: Rungs,
  laws: PowerLaws,
  curves: AbilityCurves,
  loss_RS: np.ndarray,
  ability_RS: np.ndarray,
  most: float,
) -> tuple[PowerLaws, AbilityCurves]:
  """Refits both at once, from where two steps came to."""
  chance = curves.chance
  root_L, root_A = (np.sqrt(_weights(m)) for m in (rungs.loss, rungs.ability))
  unit = np.maximum(np.ptp(loss_RS, axis=1), 1e-9)
  share = np.clip((curves.ceiling - chance) / (most - chance), 1e-3, 1 - 1e-3)
  tiny = 1e-6 * unit
  start = np.stack([
    np.log(laws.E + tiny), np.log(laws.A + tiny), np.log(laws.alpha), curves.midpoint / unit,
    np.log(curves.width / unit), special.logit(share),
  ], axis=1)  # fmt: skip

  def read(theta: np.ndarray) -> tuple[PowerLaws, AbilityCurves]:
    E, A, alpha, width = (np.exp(np.clip(theta[:, i], -50, 50)) for i in (0, 1, 2, 4))
    ceiling = chance + (most - chance) * special.expit(theta[:, 5])
    return PowerLaws(E, A, alpha, laws.scale), AbilityCurves(
      chance, ceiling, theta[:, 3] * unit, width * unit
    )

  def residuals(theta: np.ndarray) -> np.ndarray:
    law, curve = read(theta)
    says_RS = law(rungs.x)
    return np.concatenate([(says_RS - loss_RS) * root_L, (curve(says_RS) - ability_RS) * root_A], axis=1)

  return read(least_squares.minimize(residuals, start)[0])


# --- what is said of them -----------------------------------------------------------------------


def bands(draws_RT: np.ndarray) -> dict[str, Any]:
  """Returns the median [T] and {level: (low [T], high [T])}."""
  quantile = {level: np.quantile(draws_RT, [(1 - level) / 2, (1 + level) / 2], axis=0) for level in LEVELS}
  return {"median": np.median(draws_RT, axis=0), "intervals": {k: (q[0], q[1]) for k, q in quantile.items()}}


def threshold(draws: Draws) -> dict[str, Any]:
  """Returns where the ability is midway from chance to its ceiling, as a distribution over sizes.

  Status: "ok"; "no rise" where no size beats chance by MIN_RISE standard errors: a threshold may be anywhere
  above; "not identifiable" where more than MAX_NEVER of the draws never get there, or the 95 % interval is
  wider than MAX_DECADES. Only "ok" has a median and an upper end; the lower end is a bound in any case.
  """
  ability = draws.rungs.ability
  if ability is None or draws.curves is None:
    return {"status": "no ability measured", "median": None, "low": None, "high": None, "share_never": None}
  x50_R = draws.laws.inverse(draws.curves.midpoint)
  never = float(np.isinf(x50_R).mean())
  # Order statistics, so that an infinite size is one.
  low, median, high = np.quantile(x50_R, [0.025, 0.5, 0.975], method="inverted_cdf")
  gain = ability.mean - _chance(draws.rungs)
  error = np.sqrt(np.where(np.isnan(ability.variance), np.inf, ability.variance))
  status = "ok"
  if float(np.max(gain / error)) < MIN_RISE:
    status = "no rise"
  elif never > MAX_NEVER or not np.isfinite(high) or np.log10(high / low) > MAX_DECADES:
    status = "not identifiable"
  known = status == "ok"
  return {
    "status": status, "median": float(median) if known else None,
    "low": float(low) if np.isfinite(low) else None, "high": float(high) if known else None,
    "share_never": never,
  }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Checked:
  """One held-out size: what was said of it by smaller ones, and what it was."""

  metric: str
  num_fitted: int
  x_fitted: float  # the largest that was fitted
  x: float
  median: float
  observed: float
  inside: dict[float, bool]


def rolling(rungs: Rungs, num: int = 400, seed: int = 0, method: Method = "two_step") -> Iterator[Checked]:
  """Yields every size that can be held out: fits below each cutoff, and checks all sizes above it.

  The band is that of runs with as many seeds as the held-out size has.
  """
  for k in range(MIN_SIZES, len(rungs)):
    draws = draw(rungs.keep(np.arange(len(rungs)) < k), num, seed, method)
    if draws is None:
      return
    for t in range(k, len(rungs)):
      x = rungs.x[t : t + 1]
      for measured in (rungs.loss, rungs.ability):
        if measured is None:
          continue
        said = bands(draws.of_run(x, int(measured.n_seeds[t]))[measured.metric])
        observed = float(measured.mean[t])
        inside = {
          level: bool(low[0] <= observed <= high[0]) for level, (low, high) in said["intervals"].items()
        }
        yield Checked(
          measured.metric, k, float(rungs.x[k - 1]), float(x[0]), float(said["median"][0]), observed, inside
        )


def coverage(checked: list[Checked], metric: str) -> dict[str, Any]:
  """Returns the share of held-out sizes inside the bands of each level, of one metric, and their number."""
  own = [c for c in checked if c.metric == metric]
  shares = {level: float(np.mean([c.inside[level] for c in own])) if own else None for level in LEVELS}
  # What a median is off by, beside the naive guess that nothing changes beyond the last size fitted.
  error = float(np.mean([abs(c.median - c.observed) for c in own])) if own else None
  return {"n": len(own), "coverage": shares, "mean_abs_error": error}
