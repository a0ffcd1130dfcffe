"""The documents of TFDS datasets by name, at random access and without TensorFlow."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tensorflow_datasets.text  # registers wikipedia, c4 and others of its kind

from lm_jax import environment
from lm_jax.data.corpus_files import row_document
from lm_jax.data.hold_out import settle_splits
from lm_jax.data.locks import locked
from lm_jax.data.passages import SPLITS, Document
from lm_jax.data.tfds_files import rows, silent_tfds
from lm_jax.strict import ConfigError, did_you_mean, nearest

PREFIX = "tfds:"
_NAME = re.compile(r"(?P<name>\w+)(/[\w.-]+)?(:[\d*]+(\.[\d*]+){2})?")


@dataclasses.dataclass(frozen=True)
class TfdsDocuments:
  """The documents of a dataset that is prepared.

  Attributes:
    place: its name, for messages.
    sources: its data, by its own name of each split.
    splits: what each of them is to us, None where a hash decides.
    fingerprint: names, sizes and times, of its files too.
    num_bytes: of its files.
  """

  place: str
  text_field: str
  sources: dict[str, Sequence[Any]]
  splits: dict[str, str | None]
  fingerprint: list[Any]
  num_bytes: int

  def documents(self, split: str | None = None) -> Iterator[Document]:
    """Yields all documents, or only those that are or may be of `split`."""
    for own, ours in self.splits.items():
      if split is None or ours in (None, split):
        yield from self._rows(own, ours)

  def _rows(self, own: str, ours: str | None) -> Iterator[Document]:
    for i, row in enumerate(rows(self.sources[own])):
      place = f"{self.place}: {own}[{i}]: {self.text_field}"
      yield row_document(ours, place, _decode(row[self.text_field], place))


def _decode(value: Any, place: str) -> Any:
  try:
    return value.decode() if isinstance(value, bytes) else value
  except UnicodeDecodeError as error:
    raise ConfigError(f"{place}: byte {error.start} is not UTF-8") from None


def load(name: str, text_field: str) -> TfdsDocuments:
  """Returns the documents of the TFDS dataset NAME[/CONFIG][:VERSION], which is prepared if it is not yet.

  It is looked for in $TFDS_DATA_DIR, else where TFDS keeps datasets. Raises ConfigError.
  """
  place = f"corpus={PREFIX + name!r}"
  with silent_tfds():
    builder = _prepare(name, place)
    if text_field not in builder.info.features:
      raise ConfigError(
        f"{place}: no field {text_field!r} (text_field){nearest(text_field, builder.info.features)}"
      )
    # A dataset without metadata, as `tfds.testing.mock_data` makes them, takes any split.
    own = list(builder.info.splits) or ["train", "test"]
    splits = settle_splits({split: split if split in SPLITS else None for split in own})
    sources = {split: _data_source(builder, split, place) for split in splits}
  files = _files(builder)
  lengths = {split: len(source) for split, source in sources.items()}
  fingerprint = [builder.info.full_name, text_field, lengths, files]
  return TfdsDocuments(place, text_field, sources, splits, fingerprint, sum(size for _, size, _ in files))


def _prepare(name: str, place: str) -> tfds.core.DatasetBuilder:
  if not _NAME.fullmatch(name):
    raise ConfigError(f"{place}: must be {PREFIX}NAME[/CONFIG][:VERSION]")
  try:
    builder = tfds.builder(name)
  except tfds.core.DatasetNotFoundError:
    known = tfds.list_builders(with_community_datasets=False)
    nearby = did_you_mean(_NAME.fullmatch(name)["name"], known)
    raise ConfigError(f"{place}: TFDS knows no such dataset, and none is prepared{nearby}") from None
  except Exception as error:  # of any kind, for names that are not well-formed or have no such version
    raise ConfigError(f"{place}: {_line(error)}") from None
  folder = environment.cache_dir() / "corpora"
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with locked(folder / f"{builder.name}.lock"):  # TFDS has none
      builder.download_and_prepare(file_format="array_record")
  except Exception as error:  # of any kind: a builder runs its own code, over the network
    reason = f"it is not prepared in {builder.data_dir}, and preparing it failed: {_line(error)}"
    raise ConfigError(f"{place}: {reason}") from None
  return builder


def _data_source(builder: tfds.core.DatasetBuilder, split: str, place: str) -> Sequence[Any]:
  try:
    return builder.as_data_source(split=split)
  except NotImplementedError:
    raise ConfigError(
      f"{place}: {builder.data_path} is {builder.info.file_format.value}: must be array_record or parquet"
    ) from None


def _files(builder: tfds.core.DatasetBuilder) -> list[tuple[str, int, float]]:
  """Returns name, bytes and time of the dataset's files."""
  folder = builder.data_path
  files = [path for path in sorted(folder.iterdir()) if not path.is_dir()] if folder.exists() else []
  return [(path.name, path.stat().length, path.stat().mtime) for path in files]


def _line(error: Exception) -> str:
  """Returns an error on one line, without what TFDS puts before it, and shortened."""
  text = re.sub(r'^Failed to construct dataset "[^"]*", builder_kwargs "[^"]*": ', "", str(error).strip())
  text = f"{type(error).__name__}: {' '.join(text.split())}"
  return text if len(text) <= 240 else f"{text[:240]}..."
