"""What the rows of a task read of its knowledge base, and at which rank that holds the answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax.prompt_tasks import expressions, retrieval
from lm_jax.prompt_tasks.definition import Knowledge, Reads
from lm_jax.prompt_tasks.row_files import Row
from lm_jax.strict import ConfigError, did_you_mean

FIELD = "passages"


class OpenBook:
  """A knowledge base as the rows of one template read it."""

  def __init__(self, k: Knowledge, reads: Reads, where: str):
    """Takes how it is searched, what is read of it, and what errors say that they are about."""
    self._reads, self._count = reads, k.passages
    self._base = None if reads == "nothing" else retrieval.load(Path(k.documents), k.id, k.text, k.words)
    self._query = expressions.text(k.search, f"{where}.search")
    self._evidence = None if k.evidence is None else expressions.value(k.evidence, f"{where}.evidence")

  @property
  def num_retrieved(self) -> int:
    """Passages that are retrieved for a row, at most; 0 where nothing is."""
    return self._count if self._reads == "retrieved" else 0

  def opened(self, row: Row) -> Row:
    """Returns a row with what it reads, the best passage first, in the field `passages`."""
    if FIELD in row.fields:
      raise ConfigError(
        f"{row.where}: has a field {FIELD!r}, the place of what is read of the knowledge base"
      )
    found: list[dict[str, Any]] = []
    if self._base is not None:
      of = self._documents(row) if self._reads == "evidence" else None
      found = [one.passage._asdict() for one in self._base.search(self._query(*row), self._count, of)]
    return row._replace(fields={**row.fields, FIELD: found})

  def rank(self, row: Row, references: Sequence[str]) -> int | None:
    """Returns the rank, from 1, of the first retrieved passage that holds the answer; None if none does.

    One holds it that is of a document of `evidence`. Without `evidence`, the words of a reference must stand
    in it, in a row (Karpukhin et al., arXiv:2004.04906, section 5).
    """
    if not self.num_retrieved:
      return None
    if self._evidence is not None:
      documents = self._documents(row)
      holds = [passage["id"] in documents for passage in row.fields[FIELD]]
    else:
      wanted = [_spaced(reference) for reference in references if retrieval.words(reference)]
      if not wanted:
        raise ConfigError(
          f"{row.where}: no reference has a word to look for; give the knowledge its `evidence`"
        )
      texts = [_spaced(passage["text"]) for passage in row.fields[FIELD]]
      holds = [any(one in text for one in wanted) for text in texts]
    return holds.index(True) + 1 if True in holds else None

  def _documents(self, row: Row) -> frozenset[str]:
    """Returns the ids of the documents that hold the answer."""
    found = self._evidence(*row)
    ids = found if isinstance(found, list | tuple) else [found]
    if not ids or not all(map(expressions.is_text, ids)):
      raise ConfigError(
        f"{row.where}: evidence is {found!r}, must be the id of a document, or a list of them"
      )
    for id in map(str, ids):
      if id not in self._base.ids:
        near = did_you_mean(id, self._base.ids) if len(id) < 60 else ""
        raise ConfigError(
          f"{row.where}: evidence {retrieval.shortened(id)} is no document of the knowledge base{near}"
        )
    return frozenset(map(str, ids))


def _spaced(text: str) -> str:
  return f" {' '.join(retrieval.words(text))} "
