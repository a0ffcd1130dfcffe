"""What the evaluations of a sweep can resolve, before it is trained: see `lm_jax.power`."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax import power, prompt_tasks, tasks
from lm_jax.config import Config
from lm_jax.strict import ConfigError
from lm_jax.task_configs import PythonStdlib, Text


def resolution(
  configs: Sequence[Config], gain: float | None = None, seed_sd: float | None = None
) -> list[dict[str, Any]]:
  """Returns one row a task that is scored by accuracy.

  Args:
    gain: over chance; rows then say how many items and seeds would show it.
    seed_sd: standard deviation over seeds that is assumed, for the number of seeds.
  """
  seeds = _seeds(configs)
  evaluations: dict[str, tuple[float, int] | str] = {}
  for c in configs:
    if not isinstance(c.task, Text | PythonStdlib):
      evaluations[c.task.name] = (tasks.make_task(c.task).chance, c.eval.num_examples)
    for name in c.eval.few_shot:
      if name not in evaluations:
        evaluations[name] = _of_prompts(name, c.eval.few_shot_examples)
  return [_row(name, found, seeds, gain, seed_sd) for name, found in evaluations.items()]


def _seeds(configs: Sequence[Config]) -> int:
  """Returns the least number of seeds that a size of the sweep has."""
  sizes = collections.Counter(repr(dataclasses.replace(c, seed=0, data_seed=0)) for c in configs)
  return min(sizes.values())


def _of_prompts(name: str, num_examples: int) -> tuple[float, int] | str:
  """Returns (chance, items) of a few-shot task, or why they are not known here."""
  try:
    task = prompt_tasks.make(name)
  except ConfigError as error:
    return str(error)
  items = task.items[:num_examples]
  if task.kind != "choice":
    return f"{task.kind} has no chance level"
  return float(np.mean([1 / len(item.choices) for item in items])), len(items)


def _row(
  name: str, found: tuple[float, int] | str, n_seeds: int, gain: float | None, seed_sd: float | None
) -> dict[str, Any]:
  row: dict[str, Any] = {
    "task": name, "metric": "accuracy", "chance": None, "n_items": None, "smallest_gain": None,
    "n_seeds": n_seeds, "seed_difference_in_sd": power.seed_difference(n_seeds), "status": "ok",
    "alpha": power.ALPHA, "power": power.POWER,
  }  # fmt: skip
  if isinstance(found, str):
    return row | {"status": found}
  chance, n_items = found
  row |= {"chance": chance, "n_items": n_items, "smallest_gain": power.smallest_gain(chance, n_items)}
  if gain is not None:
    row |= {"gain": gain, "items_for_gain": power.items_for_gain(chance, gain)}
    if seed_sd is not None:
      row |= {"seed_sd": seed_sd, "seeds_for_gain": power.seeds_for_difference(gain / seed_sd)}
  return row


def text(rows: Sequence[dict[str, Any]]) -> str:
  """Returns the rows for a person, a line each."""
  return "\n".join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
  if row["chance"] is None:
    return f"{row['task']}: what it can resolve is not known ({row['status']})"
  gain = row["smallest_gain"]
  least = "no gain can be told from luck" if gain is None else f"a gain of {gain:.3f} is resolved"
  line = f"{row['task']}: {row['n_items']:,} items against chance {row['chance']:.3f}: {least}"
  if "gain" in row:
    items = row["items_for_gain"]
    line += f"; {row['gain']:g} needs " + ("more than can be had" if items is None else f"{items:,} items")
    more = None if items is None else items - row["n_items"]
    line += f" ({more:,} more)" if more and more > 0 else ""
  difference = row["seed_difference_in_sd"]
  if difference is None:
    line += "; one seed a size tells nothing of the spread over seeds"
  else:
    line += f"; {row['n_seeds']} seeds a size resolve {difference:.1f} of their standard deviations"
  if "seeds_for_gain" in row:
    line += f", and at {row['seed_sd']:g} each a gain of {row['gain']:g} needs {row['seeds_for_gain']} seeds"
  return line
