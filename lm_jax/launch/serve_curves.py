"""The points of all cells' curves as records.jsonl grow, each told once to whoever asks again and again.

Points are numbered in the order in which they were read. Who has seen them up to a number is told those after
it, so many at a time. Of a file that was cut back, as a run that goes on from a checkpoint does, all points
are dropped and read anew.
"""

import array
import bisect
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Iterable
from itertools import filterfalse
from pathlib import Path
from typing import Any

from lm_jax.launch.statuses import Row

# Points in an answer, bytes of records that one answer reads, and how often files are looked at.
_POINTS, _BYTES, _LOOK_EVERY_S = 20_000, 4_000_000, 0.5
_LINE_BYTES = 1_000_000


class Curves:
  """Training losses and test metrics; may be asked from several threads."""

  def __init__(self):
    self._cells: dict[str, _Cell] = {}
    self._unread: list[_Cell] = []
    self._latest = 0  # number of the last point that was read
    self._next_look = 0.0
    self._lock = threading.Lock()
    # Numbers of another process mean nothing here.
    self._token = uuid.uuid4().hex[:12]

  def since(self, cursor: str, cells: Iterable[tuple[Row, Path]]) -> dict[str, Any]:
    """Returns what is new since an answer.

    Args:
      cursor: "cursor" of that answer; any other text asks from the beginning.
      cells: as `Watcher.directories` has them.

    Returns:
      "fresh": forget all that was told before. "cells": {id: {"reset": forget its points, "train": [[tokens,
      FLOPs, loss], ...], "test": [[tokens, FLOPs, task, metric, shots, value, chance], ...]}}. "more": ask
      again at once. "problems": {id: why its records cannot be read}.
    """
    with self._lock:
      self._read(cells)
      token, _, number = cursor.partition(".")
      known = token == self._token and number.isdecimal() and int(number) <= self._latest
      low = int(number) if known else 0
      high = min(low + _POINTS, self._latest)
      told = {name: part for name, cell in self._cells.items() if (part := cell.between(low, high))}
      return {
        "cursor": f"{self._token}.{high}", "fresh": not known, "cells": told,
        "more": high < self._latest or bool(self._unread),
        "problems": {name: cell.problem for name, cell in self._cells.items() if cell.problem},
      }  # fmt: skip

  def _read(self, cells: Iterable[tuple[Row, Path]]) -> None:
    if not self._unread and time.monotonic() >= self._next_look:
      self._next_look = time.monotonic() + _LOOK_EVERY_S
      for row, directory in cells:
        name = row["cell_id"]
        if name not in self._cells:
          self._cells[name] = _Cell(directory / "records.jsonl", row.get("task"))
        if self._cells[name].is_changed():
          self._unread.append(self._cells[name])
    budget = _BYTES
    while self._unread and budget > 0:
      num_bytes, self._latest, is_whole = self._unread[-1].read(self._latest)
      budget -= num_bytes
      if is_whole:
        self._unread.pop()


class _Cell:
  """What was read of one file.

  Attributes:
    problem: why no more is read.
  """

  def __init__(self, path: Path, task: str | None):
    self._path, self._task = path, task
    self._own = f'"task": {json.dumps(task)}, '.encode()
    self._version: tuple | None = None
    self.problem: str | None = None
    self._dropped = 0  # the number of the last point before what is kept
    self._forget()

  def _forget(self) -> None:
    self._offset, self._last_line = 0, b""
    self._train_numbers, self._train = array.array("q"), array.array("d")
    self._test_numbers, self._test = array.array("q"), []

  def is_changed(self) -> bool:
    try:
      found = os.stat(self._path)
    except OSError:
      return False
    version = (found.st_ino, found.st_mtime_ns, found.st_size)
    changed = version != self._version and (self.problem is None or found.st_size < self._offset)
    self._version = version
    return changed

  def read(self, latest: int) -> tuple[int, int, bool]:
    """Reads on; returns how many bytes, the number of the last point, and whether nothing is left."""
    try:
      with self._path.open("rb") as f:
        f.seek(self._offset - len(self._last_line))
        # A file that was cut back and has grown again holds something else here: times at the least.
        if f.read(len(self._last_line)) != self._last_line:
          self._forget()
          self.problem, self._dropped = None, latest + 1
          latest += 1
          f.seek(0)
        data = f.read(_LINE_BYTES)
    except OSError as error:
      self.problem = f"{self._path.name}: {error.strerror}"
      return 0, latest, True
    whole = data[: data.rfind(b"\n") + 1]  # a last line without its newline is still being written
    if not whole:
      if len(data) == _LINE_BYTES:
        self.problem = f"{self._path.name} has a line of more than {_LINE_BYTES:,} bytes"
      return len(data), latest, True
    lines = whole.splitlines(keepends=True)
    try:
      for line in filterfalse(self._is_one_of_many, lines):
        latest = self._take(json.loads(line), latest)
    except (ValueError, TypeError, KeyError, AttributeError):
      self.problem = f"{self._path.name} holds a line that is no record"
      return len(data), latest, True
    self._offset, self._last_line = self._offset + len(whole), lines[-1]
    return len(data), latest, len(data) < _LINE_BYTES

  def _is_one_of_many(self, line: bytes) -> bool:
    """Whether a row is of one number of shots of the run's own task: most are, and need not be parsed."""
    # Quotes inside strings are escaped, so only keys and whole values can match.
    return self._own in line and b'"prompt_id": null' in line and b'"n_shots": null' not in line

  def _take(self, row: dict[str, Any], latest: int) -> int:
    value, at = row["value"], (float(row["tokens"]), float(row["flops_exact"]))
    if value is None or not all(map(math.isfinite, (value, *at))):
      return latest
    if row["split"] == "train" and row["metric"] == "loss":
      self._train_numbers.append(latest + 1)
      self._train.extend((*at, value))
    # Of a task that is asked at many numbers of shots, the summary; of few-shot prompts all.
    elif row["split"] == "test" and (
      row["n_shots"] is None or row["prompt_id"] == "window" or row["task"] != self._task
    ):
      shots = None if row["prompt_id"] == "window" else row["n_shots"]
      self._test_numbers.append(latest + 1)
      self._test.append((*at, row["task"], row["metric"], shots, value, row["chance"]))
    else:
      return latest
    return latest + 1

  def between(self, low: int, high: int) -> dict[str, Any] | None:
    """Returns the points with numbers in (low, high], None if there are none."""
    first, last = (bisect.bisect_right(self._train_numbers, n) for n in (low, high))
    train = [self._train[3 * i : 3 * i + 3].tolist() for i in range(first, last)]
    test = self._test[slice(*(bisect.bisect_right(self._test_numbers, n) for n in (low, high)))]
    reset = low < self._dropped <= high
    return {"reset": reset, "train": train, "test": test} if reset or train or test else None
