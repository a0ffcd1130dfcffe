"""Error bars of scores: intervals, resampling of items, and variances over items, seeds and templates apart.

Definitions:
  wilson               interval of a proportion: the shares that a score test does not reject (Wilson 1927).
  bootstrap            items are drawn with replacement (Efron 1979); the standard error is the standard
                       deviation of the statistic over resamples. Interval: "percentile", the quantiles of
                       these; or "BCa", corrected for bias and skewness (Efron 1987), which needs a statistic
                       that changes when one item is left out.
  paired_bootstrap     the same of a difference between two systems, both on the same drawn items.
  variance_components  crossed random effects with one observation a cell:
                       y_nst = mean + item_n + seed_s + template_t + pairs + residual_nst,
                       by equating mean squares with their expectations (Henderson 1953; Searle, Casella and
                       McCulloch, Variance Components, 1992, chapter 4). The estimates are unbiased, and so
                       can be below 0 where a variance is small: they are reported as they are.

scipy is what jax itself requires, so it is there wherever lm_jax is.
"""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy import stats

from lm_jax.strict import ConfigError, nearest, require

_DRAWS_AT_ONCE = 10_000_000  # indices in memory: 80 MB
_FACTORS = ("item", "seed", "template")


@dataclasses.dataclass(frozen=True)
class Interval:
  """A confidence interval."""

  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A statistic of items with its error; None where it is undefined, or the error of a single item."""

  value: float | None
  stderr: float | None
  interval: Interval | None
  n_items: int


@dataclasses.dataclass(frozen=True)
class VarianceComponents:
  """Variances of one score (squares of its unit); None where a factor has a single level.

  Attributes:
    mean: the grand mean.
    item, seed, template: what the factors add, each with all others averaged out.
    item_seed, item_template, seed_template: what pairs add to that.
    residual: the interaction of all factors that vary, which one observation a cell cannot tell from noise.
    stderr: of the grand mean for other items, other demonstration seeds and other templates, components
      below 0 taken as 0. A factor of one level is no part of it: it holds for that seed or template only.
      For the seeds and templates at hand use metrics.mean_and_stderr of the means over these.
    n_items, n_seeds, n_templates: levels of the factors.
  """

  mean: float
  item: float | None
  seed: float | None
  template: float | None
  item_seed: float | None
  item_template: float | None
  seed_template: float | None
  residual: float | None
  stderr: float | None
  n_items: int
  n_seeds: int
  n_templates: int


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
  """Returns the Wilson interval of a proportion."""
  _require_level(level)
  require(n > 0, "n", n, "greater than 0")
  require(0 <= successes <= n, "successes", successes, f"from 0 to {n}")
  low, high = stats.binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
  return Interval(float(low), float(high))


def bootstrap(
  items: np.ndarray,
  statistic: Callable[[np.ndarray], float | None],
  *,
  level: float = 0.95,
  n_resamples: int = 1000,
  method: Literal["percentile", "BCa"] = "percentile",
  seed: int = 0,
) -> Estimate:
  """Returns a statistic of items with its bootstrap error.

  Args:
    items: one row for each item: scores [N], sufficient statistics [N, S], ...
    statistic: of such rows; None or NaN where it is undefined.
  """
  _require_level(level)
  require(n_resamples > 1, "n_resamples", n_resamples, "greater than 1")
  if method not in ("percentile", "BCa"):
    raise ConfigError(f"method={method!r}: unknown{nearest(str(method), ('percentile', 'BCa'))}")
  items = np.asarray(items)
  require(items.ndim > 0 and len(items) > 0, "items", items.shape, "one or more rows")
  N = len(items)

  def of_rows(rows: np.ndarray) -> float:
    value = statistic(items[rows])
    return math.nan if value is None else float(value)

  value = of_rows(np.arange(N))
  if N == 1 or not math.isfinite(value):
    return Estimate(_finite(value), None, None, N)
  with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
    # Where all resamples give one value the BCa interval is 0/0: it is told by None below.
    warnings.simplefilter("ignore", stats.DegenerateDataWarning)
    found = stats.bootstrap(
      (np.arange(N),),
      of_rows,
      n_resamples=n_resamples,
      batch=max(1, _DRAWS_AT_ONCE // N),
      vectorized=False,
      confidence_level=level,
      method=method,
      rng=np.random.default_rng(seed),
    )
  low, high = (float(bound) for bound in found.confidence_interval)
  interval = Interval(low, high) if math.isfinite(low) and math.isfinite(high) else None
  return Estimate(value, _finite(float(found.standard_error)), interval, N)


def paired_bootstrap(
  items_a: np.ndarray, items_b: np.ndarray, statistic: Callable[[np.ndarray], float | None], **options
) -> Estimate:
  """Returns statistic(a) - statistic(b) of two systems on the same items, in the same order.

  Args:
    options: those of `bootstrap`.
  """
  a, b = np.asarray(items_a), np.asarray(items_b)
  if a.shape != b.shape:
    raise ConfigError(f"items_a has shape {a.shape}, but items_b {b.shape}: both must be of the same items")

  def difference(both: np.ndarray) -> float | None:
    of_a, of_b = statistic(both[:, 0]), statistic(both[:, 1])
    return None if of_a is None or of_b is None else of_a - of_b

  return bootstrap(np.stack([a, b], axis=1), difference, **options)


def variance_components(score_NST: np.ndarray) -> VarianceComponents:
  """Returns the variances of a score[item, demonstration seed, template], every cell of which is there."""
  x = np.asarray(score_NST, np.float64)
  require(x.ndim == 3 and x.size > 0, "score_NST", x.shape, "items x seeds x templates, one or more of each")
  missing = int((~np.isfinite(x)).sum())
  if missing:
    raise ConfigError(f"score_NST: {missing} of {x.size} cells are missing; leave out their items first")
  variance = _components(x)
  # One observation a cell: the highest interaction is where the noise is, too.
  highest = max(variance, key=len, default=())
  named = {
    "residual" if axes == highest and len(axes) > 1 else "_".join(_FACTORS[axis] for axis in axes): value
    for axes, value in variance.items()
  }
  fields = ("item", "seed", "template", "item_seed", "item_template", "seed_template", "residual")
  return VarianceComponents(
    float(x.mean()), *map(named.get, fields), _grand_mean_stderr(x.shape, variance), *x.shape
  )


def _components(x_NST: np.ndarray) -> dict[tuple[int, ...], float]:
  """Returns the variance that each set of axes adds, of axes of more than one level."""
  square = _mean_squares(x_NST)
  variance = {}
  for axes in sorted(square, key=len, reverse=True):
    # E[mean square of A] = sum over B that contain A of (cells for one level of B) variance[B].
    above = sum(_cells(x_NST.shape, b) * v for b, v in variance.items() if set(b) > set(axes))
    variance[axes] = (square[axes] - above) / _cells(x_NST.shape, axes)
  return variance


def _mean_squares(x_NST: np.ndarray) -> dict[tuple[int, ...], float]:
  effect: dict[tuple[int, ...], Any] = {(): x_NST.mean(keepdims=True)}
  square: dict[tuple[int, ...], float] = {}
  varying = [axis for axis in range(x_NST.ndim) if x_NST.shape[axis] > 1]
  for size in range(1, len(varying) + 1):
    for axes in itertools.combinations(varying, size):
      others = tuple(axis for axis in range(x_NST.ndim) if axis not in axes)
      below = sum(value for b, value in effect.items() if set(b) < set(axes))
      effect[axes] = x_NST.mean(others, keepdims=True) - below
      degrees = math.prod(x_NST.shape[axis] - 1 for axis in axes)
      square[axes] = float(np.square(effect[axes]).sum()) * _cells(x_NST.shape, axes) / degrees
  return square


def _cells(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
  """Returns the number of cells that share one level of `axes`."""
  return math.prod(n for axis, n in enumerate(shape) if axis not in axes)


def _grand_mean_stderr(shape: tuple[int, ...], variance: dict[tuple[int, ...], float]) -> float | None:
  if not variance:
    return None
  return math.sqrt(sum(max(v, 0) * _cells(shape, axes) for axes, v in variance.items()) / math.prod(shape))


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None


def _require_level(level: float) -> None:
  require(0 < level < 1, "level", level, "between 0 and 1, e.g. 0.95")
