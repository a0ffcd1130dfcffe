"""The summary of a fit as plain text for a terminal."""

from collections.abc import Sequence
from typing import Any

from lm_jax.analysis.headline import align

_HEADINGS = {
  "n_params": "N", "n_tokens": "D", "tokens_per_param": "D/N", "flops": "C", "n_points": "points",
  "n_budgets": "budgets", "cutoff_flops": "C cutoff", "n_fitted": "fitted", "n_predicted": "predicted",
  "times_largest_flops": "C/largest C", "n_sizes": "sizes",
}  # fmt: skip
TABLES = {
  "allocation": "compute-optimal allocation, intervals at 95 %; C/largest C above 1 is extrapolation",
  "optima": "optimum of each budget",
  "influence": "with so many of the highest losses dropped",
  "influential_points": "points whose absence moves the fit most",
  "holdout": "fitted below a compute cutoff, predicted above: error of log loss (naive: last loss below)",
  "sensitivity": "the exponents under other choices",
}  # fmt: skip


def number(value: Any) -> str:
  """Returns a value for a person, "-" where it is missing."""
  if value is None:
    return "-"
  if isinstance(value, list | tuple):
    return f"[{', '.join(number(v) for v in value)}]"
  if isinstance(value, float):
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"
  return str(value)


def text(tree: dict[str, Any]) -> str:
  """Returns the object of `summary` as text: what was found, its tables, its card."""
  parts = [
    f"{tree['law']}, {tree['n_points']} points of {tree['n_runs']} runs ({tree['metric']}), {tree['source']}"
  ]
  parts += [f"note: {note}" for note in tree["notes"]]
  parts += _methods(tree) if "methods" in tree else _parameters(tree)
  for name, title in TABLES.items():
    if tree.get(name):
      parts += ["", title, *_table(tree[name])]
  parts += ["", "card: what this fit depends on"]
  parts += align([[key.replace("_", " "), "not stated by the table" if key == "learning_rates_tuned"
                   else number(value)] for key, value in tree["card"].items()], left=2)  # fmt: skip
  return "\n".join(parts)


def _methods(tree: dict[str, Any]) -> list[str]:
  rows = [{"method": name, **line} for name, line in tree["methods"].items()]
  return ["N* = k C^a, D* = k C^b", *_table(rows)]


def _parameters(tree: dict[str, Any]) -> list[str]:
  known = tree["ci95"] or {}
  names = [*(known or tree["profile95"]), *(["a"] if "a" in tree and "a" not in known else [])]
  names = list(dict.fromkeys([n for n in names if n in tree]))
  lines = [["", "estimate", "bootstrap 95 %", "profile 95 %"]]
  lines += [[n, number(tree[n]), number(known.get(n)), number(tree["profile95"].get(n))] for n in names]
  converged = (
    f"; {tree['bootstrap_converged']} of {tree['bootstrap']} refits converged" if tree["bootstrap"] else ""
  )
  return [
    f"L = {tree['formula']}", *align(lines, left=1), f"status: {tree['status']}",
    f"objective {tree['objective']:.12g} (sum), slope {tree['gradient']:.1e} per point, "
    f"{tree['starts_at_optimum']:.0%} of {tree['n_starts']} starts at the optimum, condition "
    f"{number(tree['condition'])}{converged}",
  ]  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
  columns = [c for c in rows[0] if any(row.get(c) is not None for row in rows)]
  headings = [heading(c) for c in columns]
  return align([headings, *([number(row.get(c)) for c in columns] for row in rows)], left=1)


def heading(column: str) -> str:
  """Returns the name of a column for a person."""
  base = column.removesuffix("_ci95")
  name = _HEADINGS.get(base, base.replace("_", " "))
  return f"{name} 95 %" if base != column else name
