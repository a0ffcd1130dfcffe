"""What a tracker is, and the names under which trackers know values and hyperparameters."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from lm_jax import strict
from lm_jax.config import Config
from lm_jax.records import Record


class Tracker(Protocol):
  """One run as one tracker has it. Any method may raise anything; `Trackers` holds it back from the run."""

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Takes values by their tags; the same step may come several times, with other tags."""

  def close(self, state: str) -> None:
    """Ends in a state of `rundir`, and frees what it holds."""


def tag(row: Record, own_task: str) -> str:
  """Returns e.g. "train/loss", "test/accuracy", "test/accuracy/4-shot"; "test/TASK/..." of another task."""
  parts = [row.split] if row.task == own_task else [row.split, row.task]
  shots = [] if row.n_shots is None else [f"{row.n_shots}-shot"]
  return "/".join([*parts, row.metric, *shots])


def values_by_step(rows: Iterable[Record], own_task: str) -> dict[int, dict[str, float]]:
  """Returns {step: {tag: value}}; a missing value is left out, and so are steps without any."""
  found: dict[int, dict[str, float]] = {}
  for row in rows:
    if row.value is not None:
      found.setdefault(row.step, {})[tag(row, own_task)] = row.value
  return found


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
  """Returns a resolved config flat, "model.d_model" and so on; lists as JSON, and none are left out."""
  return dict(_flat("", strict.to_dict(config)))


def _flat(prefix: str, tree: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(f"{prefix}{name}.", value)
    elif value is not None:
      yield prefix + name, json.dumps(value) if isinstance(value, list) else value
