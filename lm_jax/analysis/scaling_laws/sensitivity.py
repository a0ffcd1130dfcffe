"""How the compute-optimal exponents move with what a paper may leave unsaid: one row a choice.

Rows: approach 3 (the parametric law) under other losses and deltas, with and without the highest losses,
and approaches 1 and 2; each of them under every convention of N and C that the table has.
"""

from collections.abc import Mapping
from typing import Any

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import fitting, isoflop
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.strict import ConfigError

ESTIMATORS = (Estimator("huber", 1e-3), Estimator("huber", 1e-2), Estimator("huber", 1e-4), Estimator("lad"),
              Estimator("mse"))  # fmt: skip
_RESAMPLES = 2  # the rows show no intervals


def rows(by_convention: Mapping[tuple[str, str], LossPoints], drop: int) -> list[dict[str, Any]]:
  """Returns the panel.

  Args:
    by_convention: {(convention of N, convention of C): all points}, the main one first.
    drop: how many of the highest losses the main fit leaves out.
  """
  panel = []
  for i, ((n, c), points) in enumerate(by_convention.items()):
    kept = fitting.drop_highest(points, drop)
    convention = {"n": n, "c": c}
    # The parametric law sees compute only where tokens are derived from it.
    for estimator in ESTIMATORS if i == 0 else ESTIMATORS[:1]:
      panel.append(_parametric(kept, estimator) | convention | {"dropped": drop})
    if i == 0 and drop:
      panel.append(_parametric(points, ESTIMATORS[0]) | convention | {"dropped": 0})
    panel += [found | convention | {"dropped": drop} for found in _frontiers(kept)]
  return panel


def _parametric(points: LossPoints, estimator: Estimator) -> dict[str, Any]:
  given = {"approach": "3 parametric", "loss": estimator.loss, "delta": estimator.delta,
           "n_points": len(points)}  # fmt: skip
  try:
    fit = fitting.fit(fitting.sample("chinchilla", points), estimator, fitting.FEW_STARTS)
  except ConfigError as error:
    return given | {"a": None, "b": None, "status": str(error)}
  return given | {"a": fit.a, "b": None if fit.a is None else 1 - fit.a, "status": fit.status}


def _frontiers(points: LossPoints) -> list[dict[str, Any]]:
  found = []
  for approach, of in (("1 envelope", isoflop.envelope), ("2 isoFLOP", isoflop.isoflop)):
    given = {"loss": None, "delta": None, "n_points": len(points)}
    try:
      frontier = of(points, _RESAMPLES)
    except ConfigError as error:
      found.append({"approach": approach} | given | {"a": None, "b": None, "status": str(error)})
      continue
    for method, line in frontier.exponents.items():
      name = approach if method == "envelope" else f"{approach} {method}"
      found.append({"approach": name} | given | {key: line[key] for key in ("a", "b", "status")})
  return found
