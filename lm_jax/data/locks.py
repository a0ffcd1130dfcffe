"""Files that are whole or not there, whoever else writes and whoever is killed."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = "incomplete."


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
  """Holds an exclusive lock on `path`; the system releases it when the process dies, however it dies."""
  with path.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def remove_leftovers(folder: Path, name: str = "") -> None:
  """Deletes what killed writers of `name` left. Call with the lock held, so that no writer is at work."""
  for leftover in folder.glob(f"{UNFINISHED}{name}*"):
    if leftover.is_dir():
      shutil.rmtree(leftover)
    else:
      leftover.unlink()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
  """Gives a folder to write to, which becomes `path` at the end, or is deleted in case of an error.

  Call with a lock held that `path` has for itself. What a killed writer left is deleted first.
  """
  remove_leftovers(path.parent, path.name)
  unfinished = path.with_name(f"{UNFINISHED}{path.name}")
  unfinished.mkdir()
  try:
    yield unfinished
    unfinished.rename(path)
  except BaseException:
    shutil.rmtree(unfinished)
    raise


def replace_text(path: Path, text: str) -> None:
  """Writes a text file beside `path` and renames it."""
  unfinished = path.with_name(f"{UNFINISHED}{path.name}.{os.getpid()}")
  unfinished.write_text(text)
  unfinished.replace(path)
