"""The files of one run in an object store, and what of them is on this machine.

Beside the files lies .objects.json: which version of which object each of them is. Names are relative to the
run, as checkpoints/100/position/metadata.
"""

import contextlib
import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_jax import lease
from lm_jax.lease_place import Files, number_of
from lm_jax.object_lease import Objects
from lm_jax.objects import Stat, Store

CHECKPOINTS, CELLS, STATUS = "checkpoints", "cells", "status.json"
# Of a checkpoint: sent last and removed first, so that one that has it is whole. It holds the checksums of
# the rest (lm_jax.checkpoint).
WHOLE = "position/metadata"
_WHOLE = re.compile(rf"{CHECKPOINTS}/(\d+)/{WHOLE}")
# Never in the store: claims go another way, and the rest is made of what is there.
_OWN = ("lock", "launches", "report", "records.parquet", CELLS)
_INDEX, _UPDATING = ".objects.json", ".updating"

FileVersion = tuple[int, int, int]  # size, time and inode of a file: other content has another


def is_shared(name: str) -> bool:
  """Whether a file of a run, by its name relative to the run, belongs into the store."""
  parts = name.split("/")
  if parts[0] == CHECKPOINTS:  # without those that are being written, and damaged ones
    return len(parts) > 2 and parts[1].isdecimal() and not set(parts) & {"", ".", ".."}
  return not (
    any(part == "" or part.startswith(".") for part in parts)
    or parts[0] in _OWN or (len(parts) == 1 and number_of(name))
  )  # fmt: skip


def step_of(name: str) -> int | None:
  """Returns the step of the checkpoint that a file is of."""
  parts = name.split("/")
  return int(parts[1]) if parts[0] == CHECKPOINTS else None


def whole_steps(names: Mapping[str, Any]) -> set[int]:
  """Returns the steps of the checkpoints that are whole."""
  return {int(match[1]) for match in map(_WHOLE.fullmatch, names) if match}


def version_of(path: Path) -> FileVersion | None:
  try:
    found = path.stat()
  except (FileNotFoundError, NotADirectoryError):
    return None
  return found.st_size, found.st_mtime_ns, found.st_ino


class Unit:
  """The files of one run, or those of a sweep beside its cells, here and in the store.

  Attributes:
    name: relative to the workdir, "" for the workdir itself.
  """

  def __init__(self, store: Store, workdir: Path, name: str):
    self.store, self.name, self.folder = store, name, workdir / name
    self.place = Objects(self.store, name, self.folder)

  def object(self, name: str) -> str:
    return f"{self.name}/{name}".lstrip("/")

  def listing(self) -> dict[str, Stat]:
    """Returns the objects of the run; of a sweep's workdir those of its cells too."""
    return {name: stat for name, stat in self.store.stats(self.name).items() if is_shared(name)}

  def files(self) -> dict[str, FileVersion]:
    """Returns the files here that belong into the store."""
    found = {}
    for root, _, names in os.walk(self.folder):  # what vanishes meanwhile is passed over
      for path in (Path(root) / name for name in names):
        name = path.relative_to(self.folder).as_posix()
        if is_shared(name) and (version := version_of(path)):
          found[name] = version
    return found

  def version(self, name: str) -> FileVersion | None:
    return version_of(self.folder / name)

  @contextlib.contextmanager
  def updating(self) -> Iterator[None]:
    """Keeps other processes from fetching files of this run meanwhile."""
    self.folder.mkdir(parents=True, exist_ok=True)
    with (self.folder / _UPDATING).open("w") as lock:
      with contextlib.suppress(OSError):  # a file system without locks: files are replaced as a whole
        fcntl.flock(lock, fcntl.LOCK_EX)
      yield

  def index(self) -> dict[str, tuple[str, FileVersion]]:
    """Returns {name: (etag, version)}: as long as the file has that version, it is that object."""
    try:
      read = json.loads((self.folder / _INDEX).read_text())
      return {name: (etag, tuple(version)) for name, (etag, version) in read["files"].items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
      return {}

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints that were in the store when it was last looked at."""
    try:
      return json.loads((self.folder / _INDEX).read_text())["steps"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
      return []

  def write_index(self, index: Mapping[str, tuple[str, FileVersion]], steps: set[int]) -> None:
    temporary = self.folder / f"{_INDEX}.{os.getpid()}.{threading.get_ident()}"
    temporary.write_text(json.dumps({"steps": sorted(steps), "files": index}))
    temporary.replace(self.folder / _INDEX)

  def is_same(self, name: str, stat: Stat, index: Mapping[str, tuple[str, FileVersion]]) -> bool:
    return name in index and index[name] == (stat.etag, self.version(name))

  def fetch(self, name: str, stat: Stat) -> tuple[str, FileVersion] | None:
    """Fetches an object; returns its place in the index, None where it is gone."""
    try:
      self.store.download(self.object(name), self.folder / name)
    except FileNotFoundError:
      return None
    version = self.version(name)
    # It may have been replaced since it was listed: then it is fetched again, another time.
    return (stat.etag, version) if version and version[0] == stat.size else None

  # --- for readers ------------------------------------------------------------------------------

  def refresh(self, listing: Mapping[str, Stat] | None = None) -> int:
    """Fetches the small files that changed; returns how many. A run that a process here holds is left alone.

    Args:
      listing: of the run, from before.
    """
    if listing is not None and self._is_fresh(listing):
      return 0
    with self.updating():
      if lease.is_locked(self.folder):
        return 0
      listing = self.store.stats(self.name)
      small, index, count = _small(listing), self.index(), 0
      for name, stat in small.items():
        if not self.is_same(name, stat, index):
          index.pop(name, None)
          if entry := self.fetch(name, stat):
            index[name] = entry
            count += 1
      # A status that was never sent is of a process that died before what it tells of was there.
      claims = {f"lease.{number}" for number in Files(self.folder).numbers()}
      known = {name for name in index if step_of(name) is None}
      for name in (known | claims | {STATUS}) - set(small):
        (self.folder / name).unlink(missing_ok=True)
        index.pop(name, None)
      self.write_index(index, whole_steps(listing))
      return count

  def _is_fresh(self, listing: Mapping[str, Stat]) -> bool:
    index, small = self.index(), _small(listing)
    return (
      {name for name in index if step_of(name) is None} == set(small)
      and self.steps() == sorted(whole_steps(listing))
      and all(self.is_same(name, stat, index) for name, stat in small.items())
    )  # fmt: skip


def _small(listing: Mapping[str, Stat]) -> dict[str, Stat]:
  """Returns the files that readers want, and the claims."""
  return {
    name: stat for name, stat in listing.items()
    if number_of(name) or (is_shared(name) and step_of(name) is None)
  }  # fmt: skip
