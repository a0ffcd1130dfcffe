"""A sweep is a list of flat overrides made by small combinators, and its cells are content-addressed.

cells = product(axis("model.d_model", [16, 32, 64]), axis("seed", range(3)))
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_jax import config as configs
from lm_jax import scaling, strict
from lm_jax.config import Config
from lm_jax.strict import ConfigError, nearest

Overrides = dict[str, Any]  # {"model.d_model": 32, "seed": 0}


def axis(field: str, values: Iterable[Any]) -> list[Overrides]:
  """Returns one override a value."""
  return [{field: value} for value in values]


def fixed(**groups: Any) -> list[Overrides]:
  """Returns a single override; `fixed(model={"d_model": 8})` sets model.d_model."""
  return [_flatten(groups)]


def chain(*lists: list[Overrides]) -> list[Overrides]:
  """Returns one list after the other."""
  return list(itertools.chain(*lists))


def product(*lists: list[Overrides]) -> list[Overrides]:
  """Returns every combination; the first list varies slowest, and later ones win."""
  return [_merge(*combination) for combination in itertools.product(*lists)]


def zipped(*lists: list[Overrides]) -> list[Overrides]:
  """Returns first with first, second with second, ...; the lists must be equally long."""
  lengths = sorted({len(items) for items in lists})
  if len(lengths) > 1:
    raise ConfigError(f"zipped: lists of {' and '.join(map(str, lengths))} overrides; must be equally long")
  return [_merge(*together) for together in zip(*lists, strict=True)]


def arguments(text: str, **defaults: int | bool | str) -> dict[str, Any]:
  """Parses the argument of `FILE:seeds=3,smoke,corpus=NAME` against defaults, which give the types.

  A whole number must be above 0; naming a switch sets it.
  """
  values: dict[str, Any] = dict(defaults)
  for part in filter(None, text.split(",")):
    name, equals, value = part.partition("=")
    if name not in defaults:
      raise ConfigError(f"--config argument {part!r}: unknown{nearest(name, defaults)}")
    values[name] = _argument(part, name, equals, value, defaults[name])
  return values


def _argument(part: str, name: str, equals: str, value: str, default: int | bool | str) -> Any:
  if isinstance(default, bool):
    if equals:
      raise ConfigError(f"--config argument {part!r}: must be {name}, without a value")
    return True
  if isinstance(default, str):
    if not value:
      raise ConfigError(f"--config argument {part!r}: must be {name}=VALUE")
    return value
  if not equals or not value.isdecimal() or int(value) < 1:
    raise ConfigError(f"--config argument {part!r}: must be {name}=N with a whole number N above 0")
  return int(value)


def _merge(*overrides: Overrides) -> Overrides:
  return {key: value for one in overrides for key, value in one.items()}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Overrides:
  flat = {}
  for key, value in tree.items():
    flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
  return flat


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep."""

  cell_id: str
  config: Config
  overrides: Overrides

  @property
  def label(self) -> str:
    """Names the size, e.g. "d32 L2"."""
    return f"d{self.config.model.d_model} L{self.config.model.num_layers}"

  def summary(self) -> dict[str, Any]:
    """Returns the cell as the sweep's directory lists it."""
    c, count = self.config, scaling.count_params(self.config.model)
    return {
      "cell_id": self.cell_id, "label": self.label, "family": c.family, "seed": c.seed,
      "task": c.task.name, "overrides": self.overrides, "params_total": count.total,
      "params_nonembedding": count.nonembedding, "num_steps": c.train.num_steps,
      "tokens": scaling.tokens_per_step(c) * c.train.num_steps, "flops_exact": scaling.train_flops(c),
      "flops_6nd": scaling.flops_6nd(c), "flops_6nd_nonembedding": scaling.flops_6nd_nonembedding(c),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sweep:
  study: str
  cells: tuple[Cell, ...]


_FIELDS = ("study", "base", "cells")


def from_tree(tree: Mapping[str, Any], command_line: Sequence[tuple[str, str]] = ()) -> Sweep:
  """Makes the cells of {"study", "base": Config fields, "cells": [flat overrides]}.

  Args:
    command_line: (dotted field, text) pairs; they change the base, and may not touch a field that the
      cells themselves set.
  """
  for key in tree:
    if key not in _FIELDS:
      raise ConfigError(f"config.{key}: no such field of a sweep{nearest(key, _FIELDS)}")
  study, base, cells = tree.get("study", "untitled"), tree.get("base", {}), tree["cells"]
  if not isinstance(study, str):
    raise ConfigError(f"config.study={study!r}: must be a string")
  if not isinstance(base, Mapping):
    raise ConfigError(f"config.base={base!r}: must be a group of fields")
  _check_cells(cells)
  base = _copy(base)
  set_by_cells = {field for overrides in cells for field in overrides}
  for dotted, text in command_line:
    if dotted == "study":
      study = text
      continue
    field = dotted.removeprefix("base.")
    if any(f"{field}.".startswith(f"{one}.") for one in set_by_cells):
      raise ConfigError(f"config.{dotted}={text!r}: the cells of this sweep set {field} themselves")
    strict.set_path(Config, base, field, text, text=True)
  made: dict[str, Cell] = {}
  for overrides in cells:
    cell = _make_cell(study, base, overrides)
    if cell.cell_id in made:
      raise ConfigError(f"config.cells: two cells are the same run, {overrides}")
    made[cell.cell_id] = cell
  return Sweep(study, tuple(made.values()))


def _check_cells(cells: Any) -> None:
  if not isinstance(cells, list | tuple) or not cells:
    raise ConfigError("config.cells: must be a list of overrides with at least one cell")
  for i, overrides in enumerate(cells):
    if not isinstance(overrides, Mapping) or not all(isinstance(field, str) for field in overrides):
      raise ConfigError(f"config.cells[{i}]={overrides!r}: must be overrides, {{'model.d_model': 32, ...}}")


def _make_cell(study: str, base: dict[str, Any], overrides: Overrides) -> Cell:
  cell_tree = _copy(base) | {"study": study}
  for dotted, value in overrides.items():
    strict.set_path(Config, cell_tree, dotted, value, text=False, root="config.cells")
  config = configs.from_mapping(cell_tree)
  return Cell(configs.cell_id(config), config, overrides)


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
  return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
