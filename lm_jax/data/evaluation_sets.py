"""Fixed evaluation sets on disk, as TFDS datasets that need no TensorFlow.

Every cell of a study is scored on the same examples. They are drawn once, written as an array_record
dataset named after their content, and decoded again; anybody's TFDS can read them too. What was decoded is
kept beside the dataset as plain arrays, which later runs read in a hundredth of the time.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lm_jax.data.locks import UNFINISHED, locked, remove_leftovers


def materialize(
  name: str, arrays_fn: Callable[[], dict[str, np.ndarray]], directory: Path
) -> dict[str, np.ndarray]:
  """Returns the arrays of dataset `name`, made by `arrays_fn` unless `directory` holds them already.

  Several processes may ask at once, and any of them may be killed: one writes while the others wait,
  and a dataset appears whole, by a rename, or not at all.

  Args:
    name: lower case snake case; it must identify the content (end in a digest of what made it).
    arrays_fn: returns {feature: array [N, ...]} with one N > 0; called only to create the dataset.
    directory: holds the datasets, one folder each; made if missing.

  Returns:
    The arrays as read from the disk: same order of examples, same dtypes, same bits.
  """
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise ValueError(f"dataset name {name!r}: must be lower case letters, digits and _")
  folder = Path(directory) / name
  decoded = folder / "decoded.npz"
  if not decoded.exists():
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
      if not decoded.exists():
        _make(folder, arrays_fn, decoded)
  with np.load(decoded, allow_pickle=False) as arrays:
    return dict(arrays)


def _make(folder: Path, arrays_fn: Callable[[], dict[str, np.ndarray]], decoded: Path) -> None:
  """Writes the dataset if it is not there, and what is read from it. Call with the lock held."""
  from lm_jax.data import tfds_files

  remove_leftovers(folder)
  path = folder / tfds_files.VERSION
  if not path.is_dir():
    tfds_files.write(folder.name, arrays_fn(), folder.parent)
  unfinished = folder / f"{UNFINISHED}{decoded.name}"
  with unfinished.open("wb") as file:
    np.savez(file, **tfds_files.read(path))
  unfinished.replace(decoded)
