"""What is said of a curve, by fixed rules; and of a thresholded metric beside a continuous one.

  insufficient data        fewer than MIN_SIZES sizes.
  no rise resolved         no rise above the noise (`rise`, q <= ALPHA over all curves looked at).
  below chance resolution  the same, and its best scores are not resolved from chance either.
  sharp                    a rise is resolved; the logistic beats constant, log-linear and power law by MARGIN
                           or more in AICc (-2 log predictive density where AICc is not defined); the upper
                           end of its width's interval is below MAX_WIDTH decades and below MAX_SHARE of the
                           range of the sizes; the interval of x50 is inside the sizes, and these are
                           MIN_SIZES_SHARP or more.
  smooth                   a rise is resolved, and each narrow logistic is rejected: log-linear, the power law
                           or a wider logistic has a -2 log-likelihood lower by REJECTED or more.
  not resolved             a rise is resolved, and the data agree with both.
Of a pair with a thresholded metric that is sharp:
  sharp under the thresholded metric only   the continuous one of the same task, shots, group and family is
                                            smooth
  sharp under both                          that is sharp too
and "sharp" stays where the continuous one shows neither.

With MARGIN and these limits none of 4,500 simulated smooth curves is called sharp
(experiments/013_emergence_statistics); a curve must be seen well to be called sharp at all.
"""

import dataclasses
from typing import Literal

from scipy import stats

from lm_jax.analysis.emergence.breakthroughness import MIN_SIZES
from lm_jax.analysis.emergence.shapes import Domain

Verdict = Literal[
  "insufficient data", "below chance resolution", "no rise resolved", "smooth", "not resolved", "sharp",
  "sharp under the thresholded metric only", "sharp under both",
]  # fmt: skip
# The most convincing first.
VERDICTS: tuple[Verdict, ...] = (
  "sharp under both", "sharp", "sharp under the thresholded metric only", "not resolved", "smooth",
  "no rise resolved", "below chance resolution", "insufficient data",
)  # fmt: skip
ALPHA = 0.05
MIN_SIZES_SHARP = 6
MAX_WIDTH = 1.0
MAX_SHARE = 1 / 3
MARGIN = 6.0
REJECTED = float(stats.chi2.ppf(0.95, 1))


def width_limit(domain: Domain) -> float:
  """Returns the decades within which a rise is sharp."""
  return min(MAX_WIDTH, MAX_SHARE * domain.range)


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What the rules for one curve look at.

  Attributes:
    rise_q: of the rise, over all curves.
    above_chance_p: None where chance is not known.
    margin: criterion of the best of constant, log-linear and power law, less the logistic's.
    smooth_margin: -2 log-likelihood of the best narrow logistic, less that of the best smooth shape.
    width_high: upper end of the width's interval, decades.
    x50_inside: whether the interval of x50 is inside the sizes.
    limit: see `width_limit`.
  """

  n_sizes: int
  rise_q: float
  above_chance_p: float | None
  margin: float
  smooth_margin: float
  width_high: float
  x50_inside: bool
  limit: float


def of_curve(e: Evidence) -> Verdict:
  if e.n_sizes < MIN_SIZES:
    return "insufficient data"
  if e.rise_q > ALPHA:
    at_chance = e.above_chance_p is not None and e.above_chance_p > ALPHA
    return "below chance resolution" if at_chance else "no rise resolved"
  narrow = e.width_high <= e.limit and e.x50_inside
  if e.n_sizes >= MIN_SIZES_SHARP and narrow and e.margin >= MARGIN:
    return "sharp"
  return "smooth" if e.smooth_margin >= REJECTED else "not resolved"


def of_pair(thresholded: Verdict, continuous: Verdict) -> tuple[Verdict, Verdict]:
  """Returns the verdicts of both, each in the light of the other."""
  if thresholded == "sharp" and continuous == "sharp":
    return "sharp under both", "sharp under both"
  if thresholded == "sharp" and continuous == "smooth":
    return "sharp under the thresholded metric only", "smooth"
  return thresholded, continuous
