"""Tokens of corpora on disk, made once for each (corpus, tokenizer, separator) and mapped into memory."""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from lm_jax import environment, strict
from lm_jax.data.corpora import Corpus
from lm_jax.data.locks import locked, whole_folder
from lm_jax.data.passages import Passage
from lm_jax.data.progress import Progress

# Raise it when the same text gives other files.
_FORMAT = 1
# Enough passages for every core to have several, and for the cost of a call to vanish.
_BATCH_BYTES = 2 << 20
_BATCH_PASSAGES = 4096


class Tokenizer(Protocol):
  """What is asked of a tokenizer here; see lm_jax/tokenizers.

  Attributes:
    digest: hash of all that decides its ids.
    vocab_size: every id is below it.
  """

  digest: str
  vocab_size: int

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


@dataclasses.dataclass(frozen=True)
class TokenStore:
  """The tokens of a split: documents one after another, each with a separator behind it.

  Attributes:
    tokens: uint16 or uint32 [N], mapped from a file.
    starts: int64 [D + 1], mapped from a file; document d is tokens[starts[d] : starts[d + 1]], its separator
      included, and starts[D] = N.
    num_bytes: UTF-8 bytes of the text, for bits per byte.
    digest: identifies corpus, tokenizer, separator and split.
  """

  tokens: np.memmap
  starts: np.memmap
  num_bytes: int
  digest: str

  @property
  def num_documents(self) -> int:
    return len(self.starts) - 1


def prepare(
  corpus: Corpus,
  tokenizer: Tokenizer,
  separator: int,
  *,
  splits: Sequence[str] = ("train", "test"),
  quiet: bool = True,
) -> dict[str, TokenStore]:
  """Returns the tokens of splits of a corpus, which are made unless the cache has them.

  Several processes may ask at once, and any of them may be killed: one writes while the others wait, and a
  split appears whole, by a rename, or not at all. Passages of one document are tokenized apart.

  Args:
    separator: the id that ends a document; may be beyond the tokenizer's own vocabulary.
    quiet: whether to show no progress on stderr.

  Raises:
    ConfigError: the corpus lacks a split, or cannot be read.
  """
  corpus.require_splits(*splits)
  key = strict.digest([_FORMAT, corpus.digest, tokenizer.digest, int(separator)], length=24)
  folder = environment.cache_dir() / "tokens" / key
  stores = {}
  for split in splits:
    if not (folder / split).is_dir():
      folder.mkdir(parents=True, exist_ok=True)
      with locked(folder / f"{split}.lock"):
        if not (folder / split).is_dir():
          with whole_folder(folder / split) as unfinished:
            _make(unfinished, corpus, split, tokenizer, separator, quiet)
    stores[split] = _open(folder / split, f"{key}_{split}")
  return stores


def _open(folder: Path, digest: str) -> TokenStore:
  about = json.loads((folder / "about.json").read_text())
  tokens, starts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "starts"))
  return TokenStore(tokens, starts, about["num_bytes"], digest)


def _make(
  folder: Path, corpus: Corpus, split: str, tokenizer: Tokenizer, separator: int, quiet: bool
) -> None:
  """Writes what `_open` reads."""
  with Progress(f"tokenizing {corpus.name}, {split}", corpus.sizes[split].num_bytes, quiet=quiet) as progress:
    num_bytes = _write(folder, corpus.passages(split), tokenizer, separator, progress)
  about = {
    "corpus": corpus.name, "corpus_digest": corpus.digest, "tokenizer_digest": tokenizer.digest,
    "separator": int(separator), "num_bytes": num_bytes,
  }  # fmt: skip
  (folder / "about.json").write_text(json.dumps(about))


def _write(
  folder: Path, passages: Iterator[Passage], tokenizer: Tokenizer, separator: int, progress: Progress
) -> int:
  """Writes tokens.npy and starts.npy and returns the bytes of the text."""
  num_bytes = 0
  dtype = token_dtype(max(tokenizer.vocab_size, separator + 1))
  with (folder / "tokens.npy").open("wb") as t, (folder / "starts.npy").open("wb") as s:
    tokens, starts = GrowingArray(t, dtype), GrowingArray(s, np.dtype(np.int64))
    document = -1
    for batch in _batches(passages):
      ids = tokenizer.encode_batch([passage.text for passage in batch])
      for passage, own in zip(batch, ids, strict=True):
        if passage.document != document:
          if document >= 0:
            tokens.append([separator])
          starts.append([len(tokens)])
          document = passage.document
        tokens.append(own)
      done = sum(len(passage.text.encode()) for passage in batch)
      num_bytes += done
      progress.advance(done)
    tokens.append([separator])
    starts.append([len(tokens)])
    tokens.close()
    starts.close()
  return num_bytes


def token_dtype(vocab_size: int) -> np.dtype:
  """Returns the smallest type that a store uses for ids below `vocab_size`."""
  return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _batches(passages: Iterator[Passage]) -> Iterator[list[Passage]]:
  batch, size = [], 0
  for passage in passages:
    batch.append(passage)
    size += len(passage.text)
    if size >= _BATCH_BYTES or len(batch) == _BATCH_PASSAGES:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


class GrowingArray:
  """A one-dimensional .npy file that is written from its start to its end, in flat memory."""

  def __init__(self, file: BinaryIO, dtype: np.dtype):
    self._file, self._dtype, self._length = file, dtype, 0
    self._write_header()
    self._header_bytes = file.tell()

  def __len__(self) -> int:
    return self._length

  def append(self, values: Sequence[int]) -> None:
    """Raises OverflowError for a value that the type cannot hold."""
    self._file.write(np.asarray(values, self._dtype).data)
    self._length += len(values)

  def close(self) -> None:
    """Gives the file its length, and waits until the disk has it."""
    self._file.seek(0)
    self._write_header()
    # NumPy pads headers so that the first dimension can grow.
    assert self._file.tell() == self._header_bytes
    self._file.flush()
    os.fsync(self._file.fileno())

  def _write_header(self) -> None:
    header = {
      "descr": np.lib.format.dtype_to_descr(self._dtype),
      "fortran_order": False,
      "shape": (self._length,),
    }
    np.lib.format.write_array_header_1_0(self._file, header)
