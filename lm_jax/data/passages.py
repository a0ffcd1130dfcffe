"""Documents in pieces, so that memory stays flat however long they are."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

SPLITS = ("train", "test", "validation")
PASSAGE_BYTES = 64 << 10


class Document(NamedTuple):
  """A text of a source, as bytes that can be read more than once.

  Attributes:
    split: the split that it belongs to, or None if a hash decides.
    place: where it is from, for messages.
    chunks: returns its bytes (UTF-8), in parts of any size.
  """

  split: str | None
  place: str
  chunks: Callable[[], Iterable[bytes]]


class Piece(NamedTuple):
  """A passage with its split, and whether a document of the split begins with it."""

  split: str
  is_first: bool
  text: str


class Passage(NamedTuple):
  """A piece of a document of a split.

  Attributes:
    document: counts the documents of the split from 0.
    text: never empty; the passages of a document, joined, are its text.
  """

  document: int
  text: str


@dataclasses.dataclass(frozen=True)
class SplitSize:
  num_documents: int = 0
  num_passages: int = 0
  num_bytes: int = 0  # UTF-8

  def plus(self, num_bytes: int, *, is_first: bool) -> "SplitSize":
    """Returns the size with one more passage, the first of its document or not."""
    return SplitSize(self.num_documents + is_first, self.num_passages + 1, self.num_bytes + num_bytes)


def cut(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
  """Yields pieces of at most `size` bytes, however the text is divided into chunks.

  A piece ends with the last paragraph that ends in its second half, else the last line, word or character.
  """
  rest = b""
  for chunk in chunks:
    rest += chunk
    start = 0
    while len(rest) - start > size:
      end = _cutting_point(rest, start, size)
      yield rest[start:end]
      start = end
    rest = rest[start:]
  if rest:
    yield rest


def _cutting_point(text: bytes, start: int, size: int) -> int:
  half, end = start + size // 2, start + size
  for mark in (b"\n\n", b"\n", b" "):
    found = text.rfind(mark, half, end)
    if found >= 0:
      return found + len(mark)
  return _character_boundary(text, end)


def _character_boundary(text: bytes, end: int) -> int:
  for back in range(4):
    if text[end - back] & 0xC0 != 0x80:  # not a continuation byte of UTF-8
      return end - back
  return end  # no UTF-8: decoding will say so


def number(pieces: Iterable[Piece]) -> Iterator[Passage]:
  """Yields the pieces of one split as passages of numbered documents."""
  document = -1
  for piece in pieces:
    document += piece.is_first
    yield Passage(document, piece.text)


@dataclasses.dataclass(frozen=True)
class Survey:
  """What a corpus holds.

  Attributes:
    sizes: of the splits that have text.
    digests: of each split: hash of its text, in order, and of where documents and passages begin.
  """

  sizes: dict[str, SplitSize]
  digests: dict[str, str]


class Surveyor:
  """Passes pieces through and remembers what they were."""

  def __init__(self):
    self._sizes: dict[str, SplitSize] = {}
    self._shas: dict[str, Any] = {}

  def watch(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
    for piece in pieces:
      text = piece.text.encode()
      size = self._sizes.get(piece.split, SplitSize())
      self._sizes[piece.split] = size.plus(len(text), is_first=piece.is_first)
      sha = self._shas.setdefault(piece.split, hashlib.sha256())
      # The length makes the boundaries between pieces, and so what is hashed, unambiguous.
      sha.update(f"{piece.is_first:d} {len(text)}\n".encode())
      sha.update(text)
      yield piece

  def survey(self) -> Survey:
    there = [split for split in SPLITS if split in self._sizes]
    return Survey(
      {split: self._sizes[split] for split in there},
      {split: self._shas[split].hexdigest() for split in there},
    )
