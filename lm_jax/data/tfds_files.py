"""Arrays as TFDS datasets of array_record files, written and read without TensorFlow.

Apart from `evaluation_sets` because importing TFDS costs a tenth of a second, which a run only spends when
its evaluation set is drawn for the first time.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

VERSION = "1.0.0"
_SPLIT = "test"
_ROWS_AT_ONCE = 256


class _EvaluationSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes arrays as one split, in order."""

  VERSION = tfds.core.Version(VERSION)

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


def write(name: str, arrays: dict[str, np.ndarray], directory: Path) -> None:
  """Writes `directory`/NAME/VERSION, which appears whole, by a rename.

  Args:
    arrays: {feature: array [N, ...]} with one N > 0.
  """
  arrays = {key: np.asarray(array) for key, array in arrays.items()}
  lengths = {key: len(array) for key, array in arrays.items()}
  if len(set(lengths.values())) != 1 or 0 in lengths.values():
    raise ValueError(f"dataset {name}: features must have one number of examples above 0, not {lengths}")
  # The folders are for downloads; there are none, and TFDS would leave empty ones beside the datasets.
  path = directory / name
  config = tfds.download.DownloadConfig(try_download_gcs=False, extract_dir=path)
  with silent_tfds():
    builder = _EvaluationSet(name, arrays, directory)
    builder.download_and_prepare(download_dir=path, download_config=config)


def read(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of the dataset in `path` (DIRECTORY/NAME/VERSION)."""
  with silent_tfds():
    source = tfds.builder_from_directory(path).as_data_source(split=_SPLIT)
  examples = [source[i] for i in range(len(source))]
  return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def rows(source: Sequence[Any]) -> Iterator[Any]:
  """Yields the rows of a data source in order, read many at once: one at a time takes ten times as long."""
  for start in range(0, len(source), _ROWS_AT_ONCE):
    keys = range(start, min(start + _ROWS_AT_ONCE, len(source)))
    # What a test gives in place of a data source may be a list.
    yield from source.__getitems__(keys) if hasattr(source, "__getitems__") else (source[i] for i in keys)


@contextlib.contextmanager
def silent_tfds() -> Iterator[None]:
  """Keeps progress bars off stderr and TFDS's prints off stdout, which may be a JSON object of ours."""
  active = tfds.core.utils.tqdm_utils._active
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.display_progress_bar(active)
