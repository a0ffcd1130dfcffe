"""A real corpus that is on every machine: the sources of the running Python's own standard library."""

import functools
import hashlib
import sysconfig
from pathlib import Path

import numpy as np

# Installed packages are not the standard library; tests are data-like and huge.
_EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_HELD_OUT_PERCENT = 5


def files() -> dict[Path, str]:
  """Returns the split of each file, in order of their paths.

  A file belongs to "test" by a hash of its path, so that the split does not depend on the order or
  number of the others.
  """
  root = Path(sysconfig.get_path("stdlib"))
  splits = {}
  for path in sorted(root.rglob("*.py")):
    relative = path.relative_to(root)
    if _EXCLUDED.isdisjoint(relative.parts):
      bucket = int(hashlib.sha256(relative.as_posix().encode()).hexdigest(), 16) % 100
      splits[path] = "test" if bucket < _HELD_OUT_PERCENT else "train"
  return splits


@functools.cache
def load() -> dict[str, np.ndarray]:
  """Returns {"train", "test"}: uint8 arrays, the files of each split in order of their paths."""
  parts: dict[str, list[bytes]] = {"train": [], "test": []}
  for path, split in files().items():
    parts[split].append(path.read_bytes())
  # A form feed ends each file; none of the sources relies on it.
  return {split: np.frombuffer(b"\f".join(texts), np.uint8) for split, texts in parts.items()}


@functools.cache
def digest() -> str:
  """Returns a hash of the corpus: another Python version is another corpus."""
  corpus = load()
  return hashlib.sha256(corpus["train"].tobytes() + b"\0" + corpus["test"].tobytes()).hexdigest()[:16]
