"""What a planned evaluation can resolve: the smallest gain that its items and seeds would show.

Items: a one-sided exact binomial test of a share against chance. Seeds: the two-sample t test of two sizes,
whose power is that of the noncentral t distribution (Cohen, Statistical Power Analysis, 1988, chapter 2); all
seeds answer the same items, so that more seeds do not stand for more items.
"""

import math

import numpy as np
from scipy import optimize, stats

ALPHA, POWER = 0.025, 0.8  # one-sided
_MOST = 10_000_000


def smallest_gain(chance: float, n_items: int, alpha: float = ALPHA, power: float = POWER) -> float | None:
  """Returns the least gain over chance that `n_items` show with this power; None where none does."""
  passes = _critical(chance, n_items, alpha)
  if passes > n_items:
    return None  # even all right could be luck
  if stats.binom.sf(passes - 1, n_items, 1 - 1e-12) < power:
    return None
  found = optimize.brentq(lambda p: stats.binom.sf(passes - 1, n_items, p) - power, chance, 1 - 1e-12)
  return float(found) - chance


def items_for_gain(chance: float, gain: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
  """Returns the least number of items from which on a gain over chance is shown; None above ten million.

  Power is a saw of the number of items, since right answers are whole: the count is where it stays above.
  """
  if not 0 < gain <= 1 - chance:
    return None
  z = stats.norm.isf(alpha) * math.sqrt(chance * (1 - chance)), stats.norm.ppf(power)
  best = chance + gain
  guess = math.ceil(((z[0] + z[1] * math.sqrt(best * (1 - best))) / gain) ** 2)
  if guess > _MOST:
    return None
  n = np.arange(1, 2 * guess + 100)
  short = n[stats.binom.sf(_critical(chance, n, alpha) - 1, n, best) < power]
  return int(short[-1]) + 1 if len(short) else 1


def _critical(chance: float, n_items: int | np.ndarray, alpha: float) -> int | np.ndarray:
  """Returns the least number of right answers that luck gives with a probability of at most alpha."""
  return np.asarray(stats.binom.isf(alpha, n_items, chance)).astype(int) + 1


def seed_difference(n_seeds: int, alpha: float = ALPHA, power: float = POWER) -> float | None:
  """Returns the least difference of two sizes, in standard deviations over seeds, that `n_seeds` each show.

  None for a single seed, which tells nothing of their spread.
  """
  if n_seeds < 2:
    return None
  return float(optimize.brentq(lambda d: _t_power(d, n_seeds, alpha) - power, 1e-6, 100))


def seeds_for_difference(difference: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
  """Returns how many seeds a size show a difference, in standard deviations over seeds; None above 10,000."""
  return next((s for s in _counts() if _t_power(difference, s, alpha) >= power), None)


def _counts() -> range:
  return range(2, 10_001)


def _t_power(difference: float, n_seeds: int, alpha: float) -> float:
  degrees = 2 * n_seeds - 2
  return float(stats.nct.sf(stats.t.isf(alpha, degrees), degrees, difference * math.sqrt(n_seeds / 2)))
