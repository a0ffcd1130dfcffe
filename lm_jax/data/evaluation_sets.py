"""Fixed evaluation sets on disk, as TFDS datasets that need no TensorFlow.

Every cell of a study is scored on the same examples. They are drawn once, written as an array_record
dataset named after their content, and read back by every later run; anybody's TFDS can read them too.
"""

import contextlib
import fcntl
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

_VERSION = "1.0.0"
_SPLIT = "test"


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
  path = Path(directory) / name / _VERSION
  if not path.is_dir():
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent / ".lock"):
      if not path.is_dir():
        _remove_leftovers(path.parent)
        _write(name, arrays_fn(), path)
  return _read(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
  """Holds an exclusive lock on `path`; the system releases it when the process dies, however it dies."""
  with path.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _remove_leftovers(folder: Path) -> None:
  """Deletes what killed writers left. Call with the lock held, so that no writer is at work."""
  for leftover in folder.glob("incomplete.*"):
    shutil.rmtree(leftover)


class _EvaluationSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes arrays as one split, in order."""

  VERSION = tfds.core.Version(_VERSION)

  def __init__(self, name: str, arrays: dict[str, np.ndarray], directory: Path):
    self.name = name  # in place of the name of the class
    self._arrays = arrays
    super().__init__(data_dir=directory, file_format="array_record")

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      # As raw bytes: the default encoding widens integers and rounds float64 to float32.
      key: tfds.features.Tensor(shape=array.shape[1:], dtype=array.dtype, encoding="bytes")
      for key, array in self._arrays.items()
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    return {_SPLIT: self._generate_examples()}

  def _generate_examples(self):
    num_examples = len(next(iter(self._arrays.values())))
    for i in range(num_examples):
      yield i, {key: array[i] for key, array in self._arrays.items()}


def _write(name: str, arrays: dict[str, np.ndarray], path: Path) -> None:
  arrays = {key: np.asarray(array) for key, array in arrays.items()}
  lengths = {key: len(array) for key, array in arrays.items()}
  if len(set(lengths.values())) != 1 or 0 in lengths.values():
    raise ValueError(f"dataset {name}: features must have one number of examples above 0, not {lengths}")
  # The folders are for downloads; there are none, and TFDS would leave empty ones beside the datasets.
  config = tfds.download.DownloadConfig(try_download_gcs=False, extract_dir=path.parent)
  with _silent_tfds():
    builder = _EvaluationSet(name, arrays, path.parent.parent)
    builder.download_and_prepare(download_dir=path.parent, download_config=config)


def _read(path: Path) -> dict[str, np.ndarray]:
  with _silent_tfds():
    source = tfds.builder_from_directory(path).as_data_source(split=_SPLIT)
  examples = [source[i] for i in range(len(source))]
  return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


@contextlib.contextmanager
def _silent_tfds() -> Iterator[None]:
  """Keeps progress bars off stderr and TFDS's prints off stdout, which may be a JSON object of ours."""
  active = tfds.core.utils.tqdm_utils._active
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.display_progress_bar(active)
