"""Names of a sweep's cells: what shares a name but not its parameters is told apart by them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def told_apart(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Returns the cells of sweep.json with `task` and `label` unique, and `record_task` what their rows say.

  Two tasks, or two sizes, that share a name but not their parameters must never be averaged.
  """
  named = [dict(cell) for cell in cells]
  tasks = _disambiguate(
    named, "task", lambda c: c["task"], lambda k: k.startswith("task.") and k != "task.name"
  )
  for cell, task in zip(named, tasks, strict=True):
    cell["record_task"], cell["task"] = cell["task"], task
  labels = _disambiguate(
    named, "label", lambda c: (c["task"], c["family"], c["label"]),
    lambda k: not k.startswith(("task.", "runtime.")) and k not in ("seed", "study"),
  )  # fmt: skip
  for cell, label in zip(named, labels, strict=True):
    cell["label"] = label
  return named


def _vary(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns, for each dict, its entries in which the dicts of the list differ."""
  names = sorted({name for own in group for name in own})
  varying = [n for n in names if len({json.dumps(own.get(n), default=str) for own in group}) > 1]
  return [{n: own.get(n) for n in varying} for own in group]


def _disambiguate(cells: list[dict[str, Any]], name: str, by: Callable, choose: Callable) -> list[str]:
  """Returns `name` of each cell, with the overrides `choose` keeps added where cells sharing it differ."""
  groups: dict[Any, list[int]] = {}
  for i, cell in enumerate(cells):
    groups.setdefault(by(cell), []).append(i)
  names = [str(cell[name]) for cell in cells]
  for members in groups.values():
    chosen = [{k: v for k, v in (cells[i].get("overrides") or {}).items() if choose(k)} for i in members]
    for i, differing in zip(members, _telling(_vary(chosen)), strict=True):
      if differing:
        names[i] += " " + " ".join(f"{k.removeprefix('task.')}={v}" for k, v in differing.items())
  return names


# A field of these groups is what a person thinks of first.
_GROUPS = ("model", "train", "optimizer")


def _telling(differing: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Keeps one field where it tells apart all that all of them do: what changes with it need not be named."""
  apart = len({json.dumps(d, sort_keys=True, default=str) for d in differing})

  def order(name: str) -> tuple[int, str]:
    group = name.partition(".")[0]
    return (_GROUPS.index(group) if group in _GROUPS else len(_GROUPS), name)

  for name in sorted({name for d in differing for name in d}, key=order):
    if len({json.dumps(d.get(name), default=str) for d in differing}) == apart:
      return [{name: d[name]} if name in d else {} for d in differing]
  return differing
