"""Retrieval over a knowledge base: documents, the passages that they are cut into, and BM25 search of these.

A document is a .txt or .md file, whose id is its path in the folder, or a row of a .jsonl file.

A passage is whole paragraphs of a document, at most 100 words together (Karpukhin et al., arXiv:2004.04906,
section 4.1); a longer paragraph is cut at ends of sentences and lines, and a longer sentence at words. Words
are here what white space separates.

Scores are those of BM25 in Lucene's form (Robertson and Zaragoza 2009; Kamphuis et al. 2020, "Lucene
(accurate)"), by the package bm25s, in float64. For a query, N passages, n of them with word w, f times in
this one, which has l words, on average over all passages m:

    sum over words w of the query of  ln(1 + (N - n + 1/2) / (n + 1/2)) f / (f + k1 (1 - b + b l / m))

with Lucene's k1 = 1.2 and b = 0.75. Words are runs of letters and digits, in lower case, of title and text.
None is left out and none is stemmed, so that no language is favored: what is in every passage weighs little
anyway. A script without spaces between its words is not searched well.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm_jax.prompt_tasks import row_files
from lm_jax.strict import ConfigError, did_you_mean, nearest

K1, B = 1.2, 0.75
PASSAGE_WORDS = 100
TEXT, ROWS = (".txt", ".md"), (".jsonl",)
_WORD = re.compile(r"\w+")
_BETWEEN_PARAGRAPHS = re.compile(r"\n(?:[^\S\n]*\n)+")
_BETWEEN_SENTENCES = re.compile(r"(?<=\n)|(?<=[.!?])(?=\s)")
# What is equal but for rounding ties, on every machine.
_DIGITS = 9


class Document(NamedTuple):
  id: str
  title: str  # "" where there is none
  text: str


class Passage(NamedTuple):
  """A part of a document, with its id and title."""

  id: str
  title: str
  text: str


class Found(NamedTuple):
  passage: Passage
  score: float


# --- documents ----------------------------------------------------------------------------------------


def files(path: Path) -> tuple[list[Path], list[Path]]:
  """Returns (the files of documents, others in the folder) in order of their paths; hidden ones are neither.

  Raises:
    ConfigError: no such path, a file of another kind, a folder without any that can be read.
  """
  if path.is_file():
    if path.suffix.lower() not in TEXT + ROWS:
      raise ConfigError(f"{path}: must be a folder, or a file of {', '.join(TEXT + ROWS)}")
    return [path], []
  if not path.is_dir():
    around = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"{path}: no such file or folder{did_you_mean(path.name, around)}")
  there = _walk(path)
  readable = [file for file in there if file.suffix.lower() in TEXT + ROWS]
  if not readable:
    raise ConfigError(f"{path}: holds no documents: no file of {', '.join(TEXT + ROWS)}")
  return readable, [file for file in there if file.suffix.lower() not in TEXT + ROWS]


def _walk(folder: Path) -> list[Path]:
  def fail(error: OSError) -> None:
    raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from None

  found = []
  for parent, folders, names in os.walk(folder, onerror=fail):
    folders[:] = (name for name in folders if not name.startswith("."))
    found += (Path(parent, name) for name in names if not name.startswith("."))
  return sorted(found, key=lambda file: file.relative_to(folder).parts)


def read(path: Path, id: str = "id", text: str = "text") -> list[Document]:
  """Returns the documents of a file or folder, in order; one that is there twice is one.

  Args:
    id: the field of a row of .jsonl that names the document.
    text: the field that holds its text; "title" may hold its title.

  Raises:
    ConfigError: with the file and the line of what is wrong; for an id of two different documents.
  """
  documents: dict[str, Document] = {}
  places: dict[str, str] = {}
  for file in files(path)[0]:
    for place, document in _of_file(file, path, id, text):
      if documents.setdefault(document.id, document) != document:
        raise ConfigError(
          f"{place}: has the id {shortened(document.id)} of {places[document.id]}, and is another; "
          "ids must differ"
        )
      places.setdefault(document.id, place)
  return list(documents.values())


def shortened(id: str) -> str:
  return repr(id if len(id) < 60 else f"{id[:57]}...")


def _of_file(file: Path, within: Path, id: str, text: str) -> Iterator[tuple[str, Document]]:
  if file.suffix.lower() in ROWS:
    for row in row_files.read(file):
      yield row.where, _of_row(row, id, text)
    return
  try:
    content = file.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ConfigError(f"{file}: is not UTF-8 (byte {error.start})") from None
  except OSError as error:
    raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
  name = file.name if file == within else file.relative_to(within).as_posix()
  yield str(file), Document(name, "", content)


def _of_row(row: row_files.Row, id: str, text: str) -> Document:
  for field in (id, text):
    if field not in row.fields:
      raise ConfigError(f"{row.where}: has no field {field!r}{nearest(field, row.fields)}")
  identity, title = row.fields[id], row.fields.get("title")
  if isinstance(identity, bool) or not isinstance(identity, str | int):
    raise ConfigError(f"{row.where}: {id} is {identity!r}, must be a text or a whole number")
  for field, value in ((text, row.fields[text]), ("title", "" if title is None else title)):
    if not isinstance(value, str):
      raise ConfigError(f"{row.where}: {field} is {value!r}, must be a text")
  return Document(str(identity), title or "", row.fields[text])


# --- passages -----------------------------------------------------------------------------------------


def passages(document: Document, most: int | None = PASSAGE_WORDS) -> list[Passage]:
  """Returns the passages of a document, in order; those of one without text are none.

  Args:
    most: words of a passage at most; None: the document is one passage.
  """
  whole = document.text.strip()
  if most is None or not whole:
    return [Passage(document.id, document.title, whole)] if whole else []
  parts: list[str] = []
  for paragraph in _BETWEEN_PARAGRAPHS.split(whole):
    parts += [paragraph] if _size(paragraph) <= most else _packed(_pieces(paragraph, most), most, "")
  return [Passage(document.id, document.title, text) for text in _packed(parts, most, "\n\n")]


def _size(text: str) -> int:
  return len(text.split())


def _pieces(paragraph: str, most: int) -> Iterator[str]:
  """Yields sentences and lines with the white space between them, or words of what is longer than `most`."""
  for sentence in _BETWEEN_SENTENCES.split(paragraph):
    yield from [sentence] if _size(sentence) <= most else re.findall(r"\s*\S+", sentence)


def _packed(parts: Iterable[str], most: int, between: str) -> list[str]:
  """Joins parts that follow each other, as many as make `most` words."""
  groups: list[list[str]] = []
  size = 0
  for part in parts:
    if not groups or size + _size(part) > most:
      groups.append([])
      size = 0
    groups[-1].append(part)
    size += _size(part)
  return [between.join(group).strip() for group in groups]


# --- search -------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
  """Returns the words of a text as they are searched for."""
  return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


class KnowledgeBase:
  """Passages of documents, and an index of their words."""

  def __init__(self, documents: Sequence[Document], most: int | None = PASSAGE_WORDS):
    """Takes documents, and the words of a passage at most; raises ConfigError for documents without text."""
    self.ids = frozenset(document.id for document in documents)
    self.passages = [passage for document in documents for passage in passages(document, most)]
    self._of: dict[str, list[int]] = {}
    for i, passage in enumerate(self.passages):
      self._of.setdefault(passage.id, []).append(i)
    texts = [words(f"{passage.title} {passage.text}") for passage in self.passages]
    if not any(texts):
      raise ConfigError(f"documents: there are {len(documents)}, and none has a word of text")
    self._index = _bm25()
    self._index.index(texts, show_progress=False)

  def scores(self, query: str) -> np.ndarray:
    """Returns the BM25 score of every passage, float64; 0 where it has no word of the query."""
    wanted = words(query)
    return self._index.get_scores(wanted) if wanted else np.zeros(len(self.passages))

  def search(self, query: str, count: int, of: Collection[str] | None = None) -> list[Found]:
    """Returns the passages with the highest scores, of equal ones the first; at most `count`.

    Args:
      of: ids of documents: passages of these only, whether they have a word of the query or not.
    """
    scores_N = np.round(self.scores(query), _DIGITS)
    if of is None:
      candidates = np.flatnonzero(scores_N > 0)
    else:
      candidates = np.array(sorted(i for id in set(of) for i in self._of.get(id, ())), np.int64)
    best = candidates[np.argsort(-scores_N[candidates], kind="stable")[:count]]
    return [Found(self.passages[i], float(scores_N[i])) for i in best]


def load(
  path: str | Path, id: str = "id", text: str = "text", most: int | None = PASSAGE_WORDS
) -> KnowledgeBase:
  """Returns the knowledge base of a file or folder of documents; see `read`."""
  documents = read(Path(path), id, text)
  try:
    return KnowledgeBase(documents, most)
  except ConfigError as error:
    raise ConfigError(f"{path}: {error}") from None


def _bm25():
  try:
    import bm25s
  except ImportError:
    raise ConfigError(
      "search of documents needs the package bm25s: pip install 'lm_jax[evaluation]'"
    ) from None
  # It says what it does at every step, whatever the level of the program that uses it.
  logging.getLogger("bm25s").setLevel(logging.WARNING)
  return bm25s.BM25(k1=K1, b=B, method="lucene", dtype="float64")
