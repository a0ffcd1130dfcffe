"""The summary of a fit as plain text for a terminal: what was found first, what it depends on last."""

import textwrap
from collections.abc import Sequence
from typing import Any

from lm_jax.analysis.headline import align

WIDTH = 150  # columns of a line, at most
LONGEST_NAME = 28  # of a run in a table
_HEADINGS = {
  "n_params": "N", "n_tokens": "D", "tokens_per_param": "D/N", "flops": "C", "n_points": "points",
  "n_budgets": "budgets", "cutoff_flops": "C cutoff", "n_fitted": "fitted", "n_predicted": "predicted",
  "times_largest_flops": "C/largest C", "n_sizes": "sizes", "resamples_with_minimum": "with minimum",
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
  parts = wrapped(
    f"{tree['law']}, {tree['n_points']} points of {tree['n_runs']} runs ({tree['metric']}), {tree['source']}"
  )
  parts += _methods(tree) if "methods" in tree else _parameters(tree)
  for note in tree["notes"]:
    parts += wrapped(f"note: {note}")
  for name, title in TABLES.items():
    if tree.get(name):
      parts += ["", title, *_table(tree[name])]
  return "\n".join([*parts, "", "card: what this fit depends on", *_card(tree["card"])])


def wrapped(line: str, indent: str = "  ") -> list[str]:
  """Returns a line as lines of WIDTH, later ones set in."""
  return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


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
    f"L = {tree['formula']}", *align(lines, left=1), *wrapped(f"status: {tree['status']}"),
    *wrapped(f"objective {tree['objective']:.12g} (sum), slope {tree['gradient']:.1e} per point, "
             f"{tree['starts_at_optimum']:.0%} of {tree['n_starts']} starts at the optimum, condition "
             f"{number(tree['condition'])}{converged}"),
  ]  # fmt: skip


def _card(card: dict[str, Any]) -> list[str]:
  lines = []
  for key, value in card.items():
    missing = "not stated by the table" if key == "learning_rates" else "-"
    shown = missing if value is None else number(value)
    lines += wrapped(f"  {key.replace('_', ' '):<30}  {shown}", " " * 34)
  return lines


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
  """Returns a table whose statuses are marks where they are sentences, explained below."""
  columns = [c for c in rows[0] if any(row.get(c) is not None for row in rows)]
  sentences = list(dict.fromkeys(row["status"] for row in rows if row.get("status") not in (None, "ok")))
  marks = {sentence: f"[{i}]" for i, sentence in enumerate(sentences, 1)}
  cells = [[heading(c) for c in columns]]
  cells += [[_shortened(marks.get(row.get(c)) or number(row.get(c)) if c == "status" else number(row.get(c)))
             for c in columns] for row in rows]  # fmt: skip
  lines = _folded(cells)
  for sentence, mark in marks.items():
    lines += wrapped(f"  {mark} {sentence}", "      ")
  return lines


def _shortened(cell: str) -> str:
  """Returns a long name, not an interval, by its two ends."""
  if len(cell) <= LONGEST_NAME or cell.startswith("["):
    return cell
  half = (LONGEST_NAME - 3) // 2
  return f"{cell[:half]}...{cell[-half:]}"


def _folded(cells: list[list[str]]) -> list[str]:
  """Returns a table that is too wide as several, each with the first column."""
  lines = align(cells, left=1)
  if max(map(len, lines)) <= WIDTH or len(cells[0]) < 3:
    return lines
  fits = next(k for k in range(len(cells[0]) - 1, 1, -1)
              if k == 2 or max(map(len, align([row[:k] for row in cells], left=1))) <= WIDTH)  # fmt: skip
  return [*align([row[:fits] for row in cells], left=1), *_folded([row[:1] + row[fits:] for row in cells])]


def heading(column: str) -> str:
  """Returns the name of a column for a person."""
  base = column.removesuffix("_ci95")
  name = _HEADINGS.get(base, base.replace("_", " "))
  return f"{name} 95 %" if base != column else name
