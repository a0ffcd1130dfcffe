"""What the verdicts say, a sentence a task: the curve that speaks for it, and what is beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_jax.analysis.emergence.breakthroughness import MIN_SIZES
from lm_jax.analysis.known_metrics import CONTINUOUS, METRICS

_SAID = {
  "insufficient data": f": {{n_sizes}} sizes are fewer than the {MIN_SIZES} that a verdict needs",
  "no rise resolved": ": no rise with size is resolved",
  "below chance resolution": ": no size is resolved from chance",
  "smooth": " improves smoothly with size",
  "not resolved": " improves with size; these data do not tell whether it jumps",
  "sharp": " jumps at {x50}",
  "sharp under the thresholded metric only": " jumps at {x50}, but {paired_metric} of the same answers "
  "improves smoothly: the metric makes the jump",
  "sharp under both": " jumps at {x50}, and so does {paired_metric}",
}
UNITS = {
  "n_params": "parameters", "n_params_nonembedding": "non-embedding parameters", "flops": "training FLOPs",
  "n_tokens": "training tokens",
}  # fmt: skip


def of_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns a sentence for each task, of rows of `table.analyze`, which have a verdict each."""
  tasks = dict.fromkeys(row["task"] for row in rows)
  return [_of_task(task, [row for row in rows if row["task"] == task]) for task in tasks]


def _of_task(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
  own = max(rows, key=lambda row: (row["n_sizes"], -_place(row["metric"])))
  who = f"{task}, {own['family']}" if own["family"] else task
  others = dict.fromkeys(row["family"] for row in rows if row["family"] != own["family"])
  beside = f" ({len(others)} more famil{'y' if len(others) == 1 else 'ies'})" if others else ""
  return f"{who}: {own['metric']}{_said(own)}{beside}.{_groups(own)}"


def first_metric(metrics: Iterable[str]) -> str:
  """Returns the one of a task's metrics that speaks for it."""
  return min(metrics, key=_place)


def _place(metric: str) -> int:
  """Thresholded metrics first, as they are what is reported; then in the order of the known ones."""
  order = [*(m for m in METRICS if m not in CONTINUOUS), *CONTINUOUS]
  return order.index(metric) if metric in order else len(order)


def _said(row: Mapping[str, Any]) -> str:
  return _SAID[row["verdict"]].format(**(dict(row) | {"x50": _size(row, "x50")}))


def _groups(row: Mapping[str, Any]) -> str:
  """Returns a sentence where the runs of a size fall into two groups: its mean is then a share of them."""
  if not row["seeds_bimodal"]:
    return ""
  told = f" Runs of one size fall into two groups at {of_sizes(row)}"
  if row["past_x50"] is not None:
    told += f": half of them are past {row['past_threshold']:.2g} at {_size(row, 'past_x50')}"
  return f"{told}."


def of_sizes(row: Mapping[str, Any]) -> str:
  return f"{len(row['bimodal_sizes'])} of {row['n_sizes']} sizes"


def _size(row: Mapping[str, Any], name: str) -> str:
  unit = UNITS.get(row["x"], row["x"])
  return interval(row, name, ".2g", f" {unit}") or "a size that is not known"


def interval(row: Mapping[str, Any], name: str, form: str, unit: str = "") -> str:
  """Returns an estimate with its interval, "?" for an end that is not known, "" where nothing is."""
  if row[name] is None:
    return ""
  stem = name.removesuffix("_decades")
  low, high = ("?" if row[f"{stem}_{e}"] is None else f"{row[f'{stem}_{e}']:{form}}" for e in ("low", "high"))
  return f"{row[name]:{form}}{unit} [{low}, {high}]"
