"""Which documents are trained on, and which are held out.

That is decided by a hash of the text itself, so that it depends neither on the order of documents nor on how
many others there are.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from lm_jax.data.passages import PASSAGE_BYTES, Document, Piece, cut
from lm_jax.strict import ConfigError

# Of a corpus that holds out passages: long enough for a context, short enough for a small corpus.
HELD_OUT_BYTES = 16 << 10
HELD_OUT_PERCENT = 5
# With fewer documents than these, 5 % of them is no test set: passages are held out instead.
FEW_DOCUMENTS = 20

Source = TypeVar("Source")


def settle_splits(named: Mapping[Source, str | None]) -> dict[Source, str | None]:
  """Returns the split of each source of text, None where a hash decides; those of no split are left out.

  Without a train split, sources of no name are trained on. Without a test split, validation is the test
  split, and without that, part of the others is held out.

  Args:
    named: "train", "test" or "validation" where a source is called so, else None.
  """
  given = set(named.values())
  if "train" in given:
    named = {source: name for source, name in named.items() if name}
  test = next((name for name in ("test", "validation") if name in given), None)
  if test is None:
    return dict.fromkeys(named)
  return {source: "test" if name == test else name or "train" for source, name in named.items()}


@dataclasses.dataclass(frozen=True)
class HoldOut:
  """How the documents that belong to no split are divided.

  Attributes:
    whole_documents: whether documents or their passages are held out.
    passage_bytes: the longest passage.
    lowest: hash of the one that is held out where no hash falls among the lowest 5 %, else "".
  """

  whole_documents: bool = True
  passage_bytes: int = PASSAGE_BYTES
  lowest: str = ""

  def split_of(self, digest: str) -> str:
    held_out = _is_held_out(digest) or digest == self.lowest
    return "test" if held_out else "train"


def _is_held_out(digest: str) -> bool:
  return int(digest, 16) % 100 < HELD_OUT_PERCENT


def _hash(parts: Iterable[bytes]) -> str:
  sha = hashlib.sha256()
  for part in parts:
    sha.update(part)
  return sha.hexdigest()


def choose(documents: Iterable[Document], total_bytes: int) -> HoldOut:
  """Returns how documents that belong to no split are divided; the default where every one belongs to one.

  Args:
    total_bytes: about how much text there is, which decides how long held-out passages of a small corpus are.
  """
  whole, parts = _Tally(), _Tally()
  size = max(64, min(HELD_OUT_BYTES, total_bytes // FEW_DOCUMENTS))
  for document in documents:
    if document.split is None:
      sha = hashlib.sha256()
      empty = True
      for passage in cut(document.chunks(), size):
        sha.update(passage)
        if whole.count < FEW_DOCUMENTS:  # beyond, passages are not asked for
          parts.add(_hash([passage]))
        empty = False
      if not empty:
        whole.add(sha.hexdigest())
  if whole.count == 0:
    return HoldOut()
  if whole.count >= FEW_DOCUMENTS:
    return HoldOut(lowest=whole.needed)
  return HoldOut(whole_documents=False, passage_bytes=size, lowest=parts.needed)


class _Tally:
  """Counts hashes and remembers the lowest."""

  def __init__(self):
    self.count, self._lowest, self._any_held_out = 0, "", False

  def add(self, digest: str) -> None:
    self.count += 1
    self._lowest = min(self._lowest or digest, digest)
    self._any_held_out |= _is_held_out(digest)

  @property
  def needed(self) -> str:
    """The hash that must be held out for a test split to exist: the lowest of several, or none."""
    return "" if self._any_held_out or self.count < 2 else self._lowest


def divide(documents: Iterable[Document], rule: HoldOut) -> Iterator[Piece]:
  """Yields every passage of every document, in order. Documents without text are left out.

  Where passages are held out, what lies between two held-out ones is a document of its own.
  """
  for document in documents:
    split = document.split
    if split is None and rule.whole_documents:
      split = rule.split_of(_hash(document.chunks()))
    yield from _divide_one(document, split, rule)


def _divide_one(document: Document, split: str | None, rule: HoldOut) -> Iterator[Piece]:
  previous, offset = None, 0
  for passage in cut(document.chunks(), rule.passage_bytes):
    text = _decode(passage, document.place, offset)
    own = split or rule.split_of(_hash([passage]))
    yield Piece(own, own != previous, text)
    previous = own
    offset += len(passage)


def _decode(passage: bytes, place: str, offset: int) -> str:
  try:
    return passage.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ConfigError(f"{place}: byte {offset + error.start} is not UTF-8") from None
