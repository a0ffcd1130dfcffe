"""Everything that a fit must state, as one flat object with tables: what `lm-jax fit` prints.

The card lists the choices that are known to move results (form, conventions of N, D and C, loss, sum or
mean, optimizer and tolerance, starts, exclusions, checkpoints, learning rates, intervals). What the points do
not say is null there and never assumed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import (
  allocation,
  diagnostics,
  fitting,
  holdout,
  influence,
  isoflop,
  laws,
  newton,
  profile,
  resampling,
  sensitivity,
)
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.analysis.scaling_laws.fitting import Fit
from lm_jax.analysis.scaling_laws.isoflop import Frontier
from lm_jax.analysis.scaling_laws.resampling import Refits
from lm_jax.strict import ConfigError, choose, require

LAWS = (*laws.NAMES, "isoflop", "envelope")
# Resamples of isoFLOP profiles at most: each is an interpolation a profile.
MAX_FRONTIER_RESAMPLES = 500
CONVENTIONS = {
  "total": "all parameters", "nonembedding": "parameters without embeddings and output layer",
  "6nd": "6 N D of this N", "exact": "as the table counts it",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
  """What to fit and how.

  Attributes:
    law: a name of LAWS.
    x: the variable of power and bnsl: N, D or C.
    drop_highest: how many of the highest losses are left out.
    edges: "keep" or "drop" points whose best learning rate is at an edge of its sweep.
    bootstrap: resamples; 0 for no intervals.
    budgets: FLOPs to allocate; decades around the table's where it is empty.
    cutoffs: of compute, for held-out errors; quantiles where it is empty.
    refitted: whether to refit without some points: the influence of points, and held-out errors.
  """

  law: str = "chinchilla"
  estimator: Estimator = dataclasses.field(default_factory=Estimator)
  x: str = "N"
  n_breaks: int = 1
  drop_highest: int = 0
  edges: str = "keep"
  bootstrap: int = 4000
  cluster: str = "point"
  seed: int = 42
  budgets: tuple[float, ...] = ()
  cutoffs: tuple[float, ...] = ()
  refitted: bool = True


@dataclasses.dataclass(frozen=True)
class Summary:
  """The object to print, and what it is of: a fit of a law, or the frontier of isoflop or envelope."""

  tree: dict[str, Any]
  points: LossPoints
  fit: Fit | None = None
  refits: Refits | None = None
  frontier: Frontier | None = None


def summarize(by_convention: Mapping[tuple[str, str], LossPoints], options: Options) -> Summary:
  """Returns the summary of the first convention's points.

  Args:
    by_convention: {(convention of N, convention of C): all points}, the one asked for first.
  """
  choose(dict.fromkeys(LAWS), options.law, "law")
  require(options.edges in ("keep", "drop"), "edges", options.edges, "keep or drop")
  edges = _edge_notes(next(iter(by_convention.values())), options.edges)
  by_convention = {key: _edges_left(points, options.edges) for key, points in by_convention.items()}
  (n, c), everything = next(iter(by_convention.items()))
  points = fitting.drop_highest(everything, options.drop_highest)
  head: dict[str, Any] = {
    "law": options.law, "metric": points.metric, "source": points.source, "n_points": len(points),
    "n_runs": len(np.unique(points.run)), "notes": [*points.notes, *edges],
  }  # fmt: skip
  if options.law in ("isoflop", "envelope"):
    return _frontier(points, options, head, _common_card(points, options, n, c))
  fit = fitting.fit(_sample(points, options), options.estimator)
  refits = None
  if options.bootstrap:
    refits = resampling.bootstrap(fit, options.bootstrap, options.seed, options.cluster)
  ends = profile.intervals(fit)
  fit = diagnostics.without(fit, diagnostics.unbounded(fit, refits, ends))
  if refits:
    refits = dataclasses.replace(refits, fit=fit)
  head["notes"] += diagnostics.notes(fit)
  ends = {name: end for name, end in ends.items() if fit.parameters[name] is not None}
  tree = head | {"formula": fit.law.formula, **fit.parameters}
  if fit.law.headline == "a":
    tree |= {"a": fit.a, "b": None if fit.a is None else 1 - fit.a}
  tree |= {
    "status": fit.status, "objective": fit.objective, "gradient": fit.gradient, "n_starts": fit.n_starts,
    "starts_at_optimum": fit.starts_at_optimum, "condition": fit.condition, "ci95": _intervals(fit, refits),
    **(resampling.summary(refits) if refits else {"bootstrap": 0}), "profile95": ends,
  }  # fmt: skip
  if options.refitted:
    tree |= {
      "influence": influence.drop_highest_rows(_sample(everything, options), options.estimator),
      "influential_points": influence.leave_one_out_rows(fit),
      "holdout": holdout.rows(fit.sample, options.estimator, list(options.cutoffs)),
    }
  if options.law == "chinchilla":
    tree["sensitivity"] = sensitivity.rows(by_convention, options.drop_highest)
    budgets = _budgets(points, options)
    tree["allocation"] = allocation.rows(fit, budgets, refits)
  tree["card"] = _common_card(points, options, n, c) | _fit_card(fit, options, everything)
  return Summary(tree, points, fit, refits)


def _edges_left(points: LossPoints, edges: str) -> LossPoints:
  if edges == "keep" or points.at_edge is None:
    return points
  if points.at_edge.all():
    raise ConfigError(f"edges='drop': all {len(points)} points are at an edge of their learning rates")
  return points.keep(~points.at_edge)


def _edge_notes(points: LossPoints, edges: str) -> list[str]:
  if points.at_edge is None or not points.at_edge.any():
    return []
  at = points.keep(points.at_edge)
  pairs = list(dict.fromkeys(f"N {n:.3g} D {d:.3g}" for n, d in zip(at.n_params, at.n_tokens, strict=True)))
  named = ", ".join(pairs[:3]) + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
  what = "kept" if edges == "keep" else "left out"
  return [f"the best learning rate is at the edge of its sweep at {named}: {len(at)} points, {what}"]


def _sample(points: LossPoints, options: Options) -> fitting.Sample:
  return fitting.sample(options.law, points, x=options.x, n_breaks=options.n_breaks)


def _intervals(fit: Fit, refits: Refits | None) -> dict[str, Any] | None:
  if refits is None:
    return None
  return refits.intervals() | ({"a": refits.interval("a")} if fit.law.headline == "a" else {})


def _budgets(points: LossPoints, options: Options) -> np.ndarray:
  return np.array(options.budgets) if options.budgets else allocation.default_budgets(points.flops)


def _frontier(points: LossPoints, options: Options, head: dict[str, Any], card: dict[str, Any]) -> Summary:
  of = isoflop.isoflop if options.law == "isoflop" else isoflop.envelope
  resamples = min(options.bootstrap, MAX_FRONTIER_RESAMPLES)
  frontier = of(points, resamples, options.seed)
  main = "akima" if options.law == "isoflop" else "envelope"
  tree = head | frontier.exponents[main] | {
    "method": main, "methods": frontier.exponents, "optima": frontier.rows, "bootstrap": resamples,
    "cluster": "point within profile" if options.law == "isoflop" else "run", "seed": options.seed,
    "allocation": allocation.frontier_rows(frontier, _budgets(points, options), float(points.flops.max())),
  }  # fmt: skip
  if options.law == "isoflop":
    tree["notes"] = [*tree["notes"], "the parabola's minimum is biased (arXiv:2603.22339); Akima beside it"]
  cluster, method = tree["cluster"], "lower envelope over compute"
  if options.law == "isoflop":
    method = (
      f"parabola and Akima minimum over log N; neighbors within a factor {isoflop.SAME_BUDGET:g} are one "
      f"budget, sizes within {isoflop.SAME_SIZE:g} are one"
    )
  intervals = f"percentile bootstrap, {cluster} drawn, {resamples} resamples, seed {options.seed}"
  card = card | {"method": method, "intervals": intervals}
  return Summary(tree | {"card": card}, points, frontier=frontier)


def _common_card(points: LossPoints, options: Options, n: str, c: str) -> dict[str, Any]:
  derived = any(note.startswith("tokens are C / (6 N)") for note in points.notes)
  runs = len(np.unique(points.run))
  return {
    "form": options.law, "N": CONVENTIONS[n], "C": CONVENTIONS[c],
    "D": "C / (6 N)" if derived else "training tokens of the table",
    "points": len(points), "runs": runs,
    "checkpoints": "one point a run" if runs == len(points) else f"{len(points) / runs:.3g} points a run",
    "exclusions": f"the {options.drop_highest} highest losses" if options.drop_highest else "none",
    "learning_rates": points.learning_rates,
    "best_at_edge_of_learning_rates": None if points.at_edge is None else
    "left out" if options.edges == "drop" else f"{int(points.at_edge.sum())} points, kept",
  }  # fmt: skip


def _fit_card(fit: Fit, options: Options, everything: LossPoints) -> dict[str, Any]:
  dropped = len(everything) - len(fit.sample.points)
  how = "none" if not options.bootstrap else (
    f"percentile bootstrap over {options.cluster}s, {options.bootstrap} resamples, seed {options.seed}"
  )  # fmt: skip
  return {
    "form": f"L = {fit.law.formula}", "loss": fit.estimator.loss, "delta": fit.estimator.delta,
    "residuals": "log predicted - log observed", "reduction": "sum",
    "optimizer": "damped Newton through ever less smooth losses",
    "tolerance": f"slope of the loss over delta per point {newton.GRADIENT_TOLERANCE:g}",
    "starts": f"{fit.n_starts} of a grid, coefficients by non-negative least squares"
    if fit.law.is_sum_of_powers else f"{fit.n_starts} of a grid",
    "exclusions": f"{dropped} points of the highest losses" if dropped else "none",
    "intervals": how,
  }  # fmt: skip
