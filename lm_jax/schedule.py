"""Cadences: when something happens, as values (steps are completed steps, counted from 0)."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class EveryN:
  """At every multiple of n, step 0 excluded."""

  n: int

  def __call__(self, step: int) -> bool:
    return step > 0 and step % self.n == 0


@dataclasses.dataclass(frozen=True)
class LogSpaced:
  """At `first`, then `per_doubling` times for every doubling of the step (rounded to whole steps)."""

  first: int
  per_doubling: int = 1

  def __call__(self, step: int) -> bool:
    if step < self.first:
      return False
    # Rounding may send two points to one step, so a step is due if any nearby exponent rounds to it.
    exponent = round(self.per_doubling * math.log2(step / self.first))
    return any(
      round(self.first * 2 ** (e / self.per_doubling)) == step for e in (exponent - 1, exponent, exponent + 1)
    )


@dataclasses.dataclass(frozen=True)
class AtSteps:
  """At the listed steps."""

  steps: tuple[int, ...]

  def __call__(self, step: int) -> bool:
    return step in self.steps


@dataclasses.dataclass(frozen=True)
class AnyOf:
  """Whenever one of the cadences is due."""

  cadences: tuple

  def __call__(self, step: int) -> bool:
    return any(cadence(step) for cadence in self.cadences)


def due_steps(cadence, num_steps: int) -> list[int]:
  """Returns the steps in 0..num_steps at which `cadence` is due."""
  return [step for step in range(num_steps + 1) if cadence(step)]
