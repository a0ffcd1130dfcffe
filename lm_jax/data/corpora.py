"""Corpora: text by name, in documents and splits.

A corpus may be

    PATH                          a file or folder of .txt, .md, .py, .jsonl or .parquet (corpus_files.py)
    tfds:NAME[/CONFIG][:VERSION]  a TFDS dataset, with its own splits where it has them (tfds_corpora.py)
    python_stdlib                 the sources of this Python's standard library (python_stdlib.py)
    NAME                          a folder in $LM_JAX_SHARED/data/corpora (default: ../shared)

Where its own splits do not say what is tested on, 5 % of the documents are held out, and of fewer than 20
documents 5 % of their passages (hold_out.py). When a corpus is first opened, all of it is read, checked and
hashed; when its text is first asked for, files become a TFDS dataset in the cache.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_jax
from lm_jax import environment, strict
from lm_jax.data import corpus_files, hold_out, passages, python_stdlib
from lm_jax.data.hold_out import HoldOut
from lm_jax.data.locks import locked, replace_text
from lm_jax.data.passages import Document, Passage, Piece, SplitSize, Survey
from lm_jax.data.progress import Progress
from lm_jax.strict import ConfigError

TFDS_PREFIX = "tfds:"
_STDLIB = "python_stdlib"
# Raise it when the same files give other passages or other splits.
_RULES = 1


@dataclasses.dataclass(frozen=True)
class _Source:
  """Where the documents of a corpus come from.

  Attributes:
    fingerprint: what tells one state of it from another, at little cost.
    num_bytes: about how much text it has.
    documents: yields all documents, or only those that are or may be of a split.
    is_dataset: whether it can be read at any place as it is.
  """

  fingerprint: list[Any]
  num_bytes: int
  documents: Callable[[str | None], Iterator[Document]]
  is_dataset: bool = False

  def pieces(self, rule: HoldOut, split: str | None = None) -> Iterator[Piece]:
    every = hold_out.divide(self.documents(split), rule)
    return (piece for piece in every if split in (None, piece.split))


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Text in documents and splits, read as often as wanted and never held in memory as a whole.

  Attributes:
    name: the last part of the name that it was opened by.
    digest: hash of its text and of how that is divided into splits and documents; of no path or time.
    sizes: of the splits that it has, of "train", "test" and "validation".
  """

  name: str
  digest: str
  sizes: dict[str, SplitSize]
  _read: Callable[[str], Iterator[Passage]] = dataclasses.field(repr=False)

  def require_splits(self, *splits: str) -> None:
    """Raises ConfigError unless it has all of these."""
    for split in splits:
      if split not in self.sizes:
        there = (f"{name} ({size.num_bytes} bytes)" for name, size in self.sizes.items())
        raise ConfigError(f"corpus={self.name!r}: has no text in split {split!r}; it has {', '.join(there)}")

  def passages(self, split: str) -> Iterator[Passage]:
    """Yields pieces of at most 64 KiB, in order; those of one document, joined, are its text."""
    self.require_splits(split)
    return self._read(split)

  def texts(self, split: str) -> Iterator[str]:
    """Yields the texts of the passages."""
    return (passage.text for passage in self.passages(split))

  def documents(self, split: str) -> Iterator[str]:
    """Yields whole documents, in order. One is held in memory at a time, however long it is."""
    parts: list[str] = []
    current = 0
    for passage in self.passages(split):
      if passage.document != current:
        yield "".join(parts)
        parts, current = [], passage.document
      parts.append(passage.text)
    yield "".join(parts)


def open_corpus(name: str, text_field: str = "text", *, quiet: bool = True) -> Corpus:
  """Returns a corpus, read through and checked if that was not done before.

  Args:
    name: see above.
    text_field: what holds the text of a row of .jsonl, .parquet and TFDS datasets.
    quiet: whether to show no progress on stderr.

  Raises:
    ConfigError: it is not there, cannot be read, is no text, or has none. Missing splits are no error here.
  """
  source = _find(name, text_field)
  label = name.rstrip("/").rsplit("/", 1)[-1]
  rule, survey = _surveyed(source, label, quiet)
  digest = strict.digest([_RULES, survey.digests], length=16)
  if source.is_dataset:
    return Corpus(label, digest, survey.sizes, lambda split: passages.number(source.pieces(rule, split)))
  return Corpus(label, digest, survey.sizes, _Dataset(label, digest, source, rule, survey).read)


def _find(name: str, text_field: str) -> _Source:
  if name.startswith(TFDS_PREFIX):
    from lm_jax.data import tfds_corpora  # TFDS takes half a second to import

    found = tfds_corpora.load(name.removeprefix(TFDS_PREFIX), text_field)
    return _Source(found.fingerprint, found.num_bytes, found.documents, is_dataset=True)
  if name == _STDLIB:
    return _files(python_stdlib.files(), text_field)
  for path in (Path(name), _shared() / name):
    if name.strip() and os.path.exists(path):  # false also for what can be no path
      return _files(corpus_files.splits(corpus_files.find(path)), text_field)
  raise _unknown(name)


def _shared() -> Path:
  beside = Path(lm_jax.__file__).resolve().parents[2] / "shared"
  return Path(os.environ.get("LM_JAX_SHARED") or beside) / "data" / "corpora"


def _unknown(name: str) -> ConfigError:
  folder = Path(name).parent if "/" in name else _shared()
  there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
  there += [] if "/" in name else [_STDLIB]
  allowed = (
    f"a file or folder of {corpus_files.FORMATS}, {TFDS_PREFIX}NAME, {_STDLIB}, or a folder in {_shared()}"
  )
  return ConfigError(
    f"corpus={name!r}: not found; must be {allowed}{strict.did_you_mean(Path(name).name, there)}"
  )


def _files(files: Mapping[Path, str | None], text_field: str) -> _Source:
  states = []
  for file, split in files.items():
    try:
      stat = file.stat()
    except OSError as error:
      raise corpus_files.unreadable(file, error) from None
    states.append([str(file.absolute()), split, stat.st_size, stat.st_mtime_ns])

  def documents(split: str | None) -> Iterator[Document]:
    wanted = {file: own for file, own in files.items() if split is None or own in (None, split)}
    return corpus_files.documents(wanted, text_field)

  return _Source([text_field, states], sum(state[2] for state in states), documents)


def _surveyed(source: _Source, label: str, quiet: bool) -> tuple[HoldOut, Survey]:
  """Returns how a source is divided and what it holds, from the cache if its files are those of then."""
  folder = environment.cache_dir() / "corpora" / "surveys"
  folder.mkdir(parents=True, exist_ok=True)
  key = strict.digest([_RULES, source.fingerprint], length=24)
  known = folder / f"{key}.json"
  if not known.exists():
    with locked(folder / f"{key}.lock"):
      if not known.exists():
        rule, survey = _read_through(source, label, quiet)
        tree = {"hold_out": dataclasses.asdict(rule), "survey": dataclasses.asdict(survey)}
        replace_text(known, json.dumps(tree))
  tree = json.loads(known.read_text())
  sizes = {split: SplitSize(**size) for split, size in tree["survey"]["sizes"].items()}
  return HoldOut(**tree["hold_out"]), Survey(sizes, tree["survey"]["digests"])


def _read_through(source: _Source, label: str, quiet: bool) -> tuple[HoldOut, Survey]:
  rule = hold_out.choose(source.documents(None), source.num_bytes)
  surveyor = passages.Surveyor()
  with Progress(f"reading {label}", source.num_bytes, quiet=quiet) as progress:
    for piece in surveyor.watch(source.pieces(rule)):
      progress.advance(len(piece.text))
  survey = surveyor.survey()
  if not survey.sizes:
    raise ConfigError(f"corpus={label!r}: has no text")
  return rule, survey


@dataclasses.dataclass(frozen=True)
class _Dataset:
  """A corpus of files, which becomes a TFDS dataset in the cache when it is first read."""

  name: str
  digest: str
  source: _Source
  rule: HoldOut
  survey: Survey

  def read(self, split: str) -> Iterator[Passage]:
    from lm_jax.data import corpus_builder  # TFDS takes half a second to import

    name = corpus_builder.dataset_name(self.name, self.digest)
    directory = environment.cache_dir() / "corpora"
    pieces_fn = functools.partial(self.source.pieces, self.rule)
    return corpus_builder.read(corpus_builder.materialize(name, pieces_fn, self.survey, directory), split)
