"""Shapes that a score may have over x = log10 size, each linear in two coefficients: y = a + b f(x), b >= 0.

  constant     y = a
  log_linear   f = (x - x_1) / (x_S - x_1)
  power_law    f = 1 - 10^(-rate (x - x_1)): y = c - a' N^-rate, which rises to the ceiling c = a + b
  logistic     f = 1 / (1 + exp(-(x - x50) / s)): floor a, ceiling a + b; from 10 to 90 % of the rise in
               2 ln(9) s decades, the width
  breakpoint   f = max(x - x_break, 0): flat first, then a straight line

f has at most two parameters of its own, so a fit is a search in these with a and b solved exactly for each of
them (variable projection; Golub and Pereyra 1973). The search starts on a grid, which is the same for all
curves and all their resamples over the same sizes, so that all of them are fitted by a few matrix products.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy.special import expit

# Decades of width of a logistic with scale 1.
WIDTH_OF_SCALE = 2 * math.log(9)
# How far beyond the sizes a threshold is looked for, as a share of their range.
BEYOND = 0.25


@dataclasses.dataclass(frozen=True)
class Domain:
  """Where the sizes of a curve are, in log10.

  Attributes:
    first, last_but_one, last: sizes.
    least_step: between two sizes.
  """

  first: float
  last_but_one: float
  last: float
  least_step: float

  @property
  def range(self) -> float:
    """Returns the decades between the first and the last size."""
    return self.last - self.first


def domain_of(x_S: np.ndarray) -> Domain:
  return Domain(float(x_S[0]), float(x_S[-2]), float(x_S[-1]), float(np.diff(x_S).min()))


@dataclasses.dataclass(frozen=True)
class Shape:
  """One shape.

  Attributes:
    n_coefficients: that a fit chooses, without the scale of the noise.
    saturates: whether f ends at 0 and 1, so that the ends of the metric bound a and a + b.
    names: of f's own parameters.
    axes: (domain, number of points of each) -> the values of each of these to begin with.
    feature: (parameters [..., n], x_S, domain) -> f [..., S].
    points, fine_points: of the axes, to begin a fit with and to draw a likelihood.
  """

  name: str
  n_coefficients: int
  saturates: bool
  names: tuple[str, ...]
  axes: Callable[[Domain, tuple[int, ...]], tuple[np.ndarray, ...]]
  feature: Callable[[np.ndarray, np.ndarray, Domain], np.ndarray]
  points: tuple[int, ...] = ()
  fine_points: tuple[int, ...] = ()


def _no_axes(_: Domain, __: tuple[int, ...]) -> tuple[np.ndarray, ...]:
  return ()


def _logistic_axes(domain: Domain, points: tuple[int, ...]) -> tuple[np.ndarray, ...]:
  beyond = BEYOND * domain.range
  # Narrower than a fifth of the least step is a step function at these sizes, wider than thrice their range
  # a straight line.
  most = 3 * domain.range
  least = max(0.2 * domain.least_step, most / 300)
  return (
    np.linspace(domain.first - beyond, domain.last + beyond, points[0]),
    np.linspace(math.log10(least), math.log10(most), points[1]),
  )


def _break_axes(domain: Domain, points: tuple[int, ...]) -> tuple[np.ndarray, ...]:
  # A break at the first size is a straight line, one after the last but one leaves a point to itself.
  return (np.linspace(domain.first, domain.last_but_one, points[0]),)


def _rate_axes(domain: Domain, points: tuple[int, ...]) -> tuple[np.ndarray, ...]:
  # From a hundredth of the range a decay, a straight line, to ten decays within it.
  return (np.linspace(math.log10(0.01 / domain.range), math.log10(10 / domain.range), points[0]),)


def _nothing(own: np.ndarray, x_S: np.ndarray, _: Domain) -> np.ndarray:
  return np.zeros((*own.shape[:-1], len(x_S)))


def _line(own: np.ndarray, x_S: np.ndarray, domain: Domain) -> np.ndarray:
  return np.broadcast_to((x_S - domain.first) / domain.range, (*own.shape[:-1], len(x_S)))


def _saturating(own: np.ndarray, x_S: np.ndarray, domain: Domain) -> np.ndarray:
  return -np.expm1(-math.log(10) * 10 ** own[..., :1] * (x_S - domain.first))


def _logistic(own: np.ndarray, x_S: np.ndarray, _: Domain) -> np.ndarray:
  return expit((x_S - own[..., :1]) * WIDTH_OF_SCALE / 10 ** own[..., 1:2])


def _hinge(own: np.ndarray, x_S: np.ndarray, _: Domain) -> np.ndarray:
  return np.maximum(x_S - own[..., :1], 0)


CONSTANT = Shape("constant", 1, False, (), _no_axes, _nothing)
LOG_LINEAR = Shape("log_linear", 2, False, (), _no_axes, _line)
POWER_LAW = Shape("power_law", 3, True, ("log10_rate",), _rate_axes, _saturating, (24,), (200,))
LOGISTIC = Shape("logistic", 4, True, ("x50", "log10_width"), _logistic_axes, _logistic, (34, 10), (181, 60))
BREAKPOINT = Shape("breakpoint", 3, False, ("x_break",), _break_axes, _hinge, (40,), (200,))
SHAPES = (CONSTANT, LOG_LINEAR, POWER_LAW, LOGISTIC, BREAKPOINT)


@functools.lru_cache(maxsize=64)
def grid(shape: Shape, domain: Domain, *, fine: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Returns f's own parameters [G, n] at all points of a shape's grid, and the grid's steps [n]."""
  axes = shape.axes(domain, shape.fine_points if fine else shape.points)
  own_GP, step_P = np.array(list(itertools.product(*axes))), np.array([axis[1] - axis[0] for axis in axes])
  for array in (own_GP, step_P):
    array.setflags(write=False)
  return own_GP, step_P
