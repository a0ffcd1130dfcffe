"""A folder of few-shot results, to which whoever evaluates adds what is missing.

    results.jsonl      a row for every metric of every (model, task, template, words, seed, order, shots)
    cells/KEY.json     the rows of one of these
    items/KEY.parquet  what the model made of every item: prompt's hash, log p of choices, answers, scores,
                       confidence and, where some have no answer, its threshold (lm_jax/abstention.py)

KEY is a hash of all that decides the numbers. What is there under its key is not computed again, whoever
computed it; results.jsonl is made of all cells.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas

from lm_jax.prompt_tasks.items import OWN_WORDS
from lm_jax.strict import ConfigError

RESULTS, CELLS, ITEMS = "results.jsonl", "cells", "items"
# Of rows that were kept before there were these columns.
_DEFAULTS = {"label_words": OWN_WORDS, "order": 0, "hold_out": False, "chat": False}


def rows(folder: Path, key: str) -> list[dict[str, Any]] | None:
  """Returns the rows of a cell, or None where it is not there."""
  path = folder / CELLS / f"{key}.json"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise ConfigError(f"{path}: is not JSON ({error}); delete it to have it computed again") from None
  return [row | {name: value for name, value in _DEFAULTS.items() if name not in row} for row in found]


def items(folder: Path, key: str) -> pandas.DataFrame:
  return pandas.read_parquet(folder / ITEMS / f"{key}.parquet")


def keep(folder: Path, key: str, rows: Sequence[dict[str, Any]], items: pandas.DataFrame) -> None:
  """Writes the items first: where its rows are, a cell is whole."""
  with _written(folder / ITEMS / f"{key}.parquet") as path:
    items.to_parquet(path, index=False)
  with _written(folder / CELLS / f"{key}.json") as path:
    path.write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")


def compact(folder: Path) -> None:
  """Writes results.jsonl."""
  paths = sorted((folder / CELLS).glob("*.json"))
  # None: it was deleted meanwhile, to be computed again.
  lines = [json.dumps(row) + "\n" for path in paths for row in rows(folder, path.stem) or ()]
  with _written(folder / RESULTS) as path:
    path.write_text("".join(lines), encoding="utf-8")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
  """Yields a path beside it that becomes `path`, whole, at the end."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    yield beside
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)
