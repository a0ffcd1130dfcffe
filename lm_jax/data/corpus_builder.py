"""Corpora as TFDS datasets of array_record files, written and read without TensorFlow and in flat memory.

Not a GeneratorBasedBuilder: that sorts a split in memory up to 1 GB, and what is larger on disk, with
TensorFlow. ShardBasedBuilder writes examples in the order in which they come and holds one shard at a time.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

from lm_jax.data.locks import locked, remove_leftovers
from lm_jax.data.passages import Passage, Piece, Survey, Surveyor, number
from lm_jax.data.tfds_files import VERSION, rows, silent_tfds
from lm_jax.strict import ConfigError

# A shard's texts are held until it is counted.
SHARD_BYTES = 32 << 20

PiecesFn = Callable[[str], Iterator[Piece]]  # of a split


def dataset_name(name: str, digest: str) -> str:
  """Returns a name that TFDS allows, for a corpus of any name."""
  words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
  return f"{words if words[:1].isalpha() else f'corpus_{words}'}_{digest}"


class _Corpus(ShardBasedBuilder, skip_registration=True):
  """Writes passages in order; `document` counts the documents of a split."""

  VERSION = tfds.core.Version(VERSION)

  def __init__(self, name: str, pieces_fn: PiecesFn, survey: Survey, directory: Path):
    self.name = name  # in place of the name of the class
    self._pieces_fn, self._survey = pieces_fn, survey
    super().__init__(data_dir=directory, file_format="array_record")

  def _info(self) -> tfds.core.DatasetInfo:
    features = {"text": tfds.features.Text(), "document": tfds.features.Scalar(np.int64)}
    return tfds.core.DatasetInfo(
      builder=self,
      description="Passages of documents, in order. Those of one document, joined, are its text.",
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator]]]:
    del dl_manager  # nothing is downloaded
    return {
      split: _shards(self._examples(split), size.num_bytes) for split, size in self._survey.sizes.items()
    }

  def _examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields keyed examples; raises ConfigError unless they are what the survey found."""
    surveyor = Surveyor()
    passages = number(surveyor.watch(self._pieces_fn(split)))
    for i, passage in enumerate(passages):
      yield i, passage._asdict()
    if surveyor.survey().digests != {split: self._survey.digests[split]}:
      raise ConfigError(f"corpus={self.name!r}: its files changed while they were read")


def _shards(examples: Iterator, num_bytes: int) -> list[Callable[[], Iterator]]:
  """Returns functions that each give the next part of `examples`, to be called in order."""
  count = max(1, num_bytes // SHARD_BYTES)
  taken = 0

  def part(end: float) -> Iterator:
    nonlocal taken
    for key, example in examples:
      taken += len(example["text"].encode())
      yield key, example
      if taken >= end:
        return

  ends = [num_bytes * i / count for i in range(1, count)]
  return [functools.partial(part, end) for end in (*ends, math.inf)]


def materialize(name: str, pieces_fn: PiecesFn, survey: Survey, directory: Path) -> Path:
  """Returns the folder of the dataset `directory`/NAME/VERSION, which is written unless it is there.

  Several processes may ask at once, and any of them may be killed: one writes while the others wait, and the
  dataset appears whole, by a rename, or not at all.

  Args:
    name: as `dataset_name` makes it.
    pieces_fn: returns the pieces of a split; raises ConfigError where its source cannot be read.
    survey: what they are.
  """
  folder = directory / name
  path = folder / VERSION
  if not path.is_dir():
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
      if not path.is_dir():
        remove_leftovers(folder)
        _write(_Corpus(name, pieces_fn, survey, directory), folder)
  return path


def _write(builder: _Corpus, folder: Path) -> None:
  # The folders are for downloads; there are none, and TFDS would leave empty ones beside the datasets.
  config = tfds.download.DownloadConfig(try_download_gcs=False, extract_dir=folder)
  with silent_tfds():
    builder.download_and_prepare(download_dir=folder, download_config=config)


def read(path: Path, split: str) -> Iterator[Passage]:
  """Yields the passages of a split of the dataset in `path` (DIRECTORY/NAME/VERSION), in order."""
  with silent_tfds():
    source = tfds.builder_from_directory(path).as_data_source(split=split)
  for example in rows(source):
    yield Passage(int(example["document"]), example["text"].decode())
