"""Makes a task of its definition: reads the rows, and renders each as an item."""

import dataclasses
import json
from collections.abc import Callable, Sequence

from lm_jax.prompt_tasks import expressions, row_files
from lm_jax.prompt_tasks.definition import DEFAULT, Definition, Template
from lm_jax.prompt_tasks.items import FewShotTask, Item, text_id
from lm_jax.prompt_tasks.open_book import OpenBook
from lm_jax.prompt_tasks.row_files import Row
from lm_jax.strict import ConfigError, did_you_mean, nearest

# Zhao et al. (arXiv:2102.09690, section 5).
CONTENT_FREE = ("N/A", "[MASK]", "")
# What a task of a table may do to the rows of a split, before they are rendered.
Adapt = Callable[[list[Row], str], list[Row]]


def build(
  d: Definition, template: str = DEFAULT, split: str = "test", adapt: Adapt | None = None
) -> FewShotTask:
  """Returns the task as one of its templates asks it.

  Args:
    split: whose rows are asked: "test", or "dev" to choose by.

  Raises:
    ConfigError: with the file and the line of a row that is not what the definition says.
  """
  rows = {name: _rows(d, name, adapt) for name in (split, "train") if name != "train" or d.train}
  t = d.template(template)
  if t.shown is not None:
    rows["shown"] = _shown(d, t, adapt)
  book = OpenBook(d.knowledge, t.reads, f"task {d.name!r}.knowledge") if d.knowledge else None
  renderer = _Renderer(d, t, rows["train" if d.train else split], book)
  items = {name: tuple(renderer.item(row) for row in there) for name, there in rows.items()}
  for name, there in items.items():
    _refuse_duplicates(d, rows[name], there)
    if not any(item.answerable for item in there):
      raise ConfigError(
        f"task {d.name!r}.answerable={d.answerable!r}: is false of all {len(there)} {name} rows; must be "
        "true of some"
      )
  # Each is asked once; to draw from, a text that is there twice is there twice.
  unique = {item.id: (row, item) for row, item in zip(rows[split], items[split], strict=True)}
  asked = tuple(renderer.described(row, item) for row, item in unique.values())
  if t.shown is not None:
    _refuse_shown(list(unique.values()), items["shown"])
  pool = items.get("shown", items.get("train", asked))
  return FewShotTask(
    d.name, asked, tuple(item for item in pool if item.answerable), t.separator, t.description, d.kind,
    None if template == DEFAULT and not _has_other_wordings(d) else template,
    d.balanced and d.kind == "choice", t.stop, t.max_new_tokens, t.metrics, d.program, t.gap,
    passages=book.num_retrieved if book else 0, shown=t.shown is not None,
  )  # fmt: skip


def _has_other_wordings(d: Definition) -> bool:
  """Whether a template is another wording, and has no demonstrations or metrics of its own."""
  return any((t.shown, t.metrics) == (d.shown, d.metrics) for t in d.templates.values())


def _rows(d: Definition, split: str, adapt: Adapt | None) -> list[Row]:
  paths = getattr(d, split)
  if not paths:
    raise ConfigError(f"task {d.name!r}: has no {split} rows; give the definition `{split}: FILE`")
  paths = (paths,) if isinstance(paths, str) else paths
  rows = [row for path in paths for row in row_files.read(path, d.columns, d.records)]
  return adapt(rows, split) if adapt else rows


def _shown(d: Definition, t: Template, adapt: Adapt | None) -> list[Row]:
  if not isinstance(t.shown, str):
    return [Row(f"task {d.name!r}.shown[{i}]", fields) for i, fields in enumerate(t.shown)]
  rows = row_files.read(t.shown, d.columns, d.records)
  return adapt(rows, "shown") if adapt else rows


class _Renderer:
  def __init__(self, d: Definition, t: Template, rows: Sequence[Row], book: OpenBook | None):
    self._d, self._t, self._book = d, t, book
    where = f"task {d.name!r}."
    self._texts = {
      field: expressions.text(source, where + field)
      for field in ("query", "answer", "description")
      if (source := getattr(t, field)) is not None
    }
    if d.program is not None:
      self._texts["program"] = expressions.text(d.program, where + "program")
    sources = {
      "gold": d.gold, "id": d.id, "references": d.references, "contexts": t.contexts, "group": d.group,
      "answerable": d.answerable,
    }  # fmt: skip
    if isinstance(t.choices, str):
      sources["choices"] = t.choices
    self._values = {
      field: expressions.value(source, where + field)
      for field, source in sources.items()
      if source is not None
    }
    self._choices = None
    if isinstance(t.choices, tuple):
      self._choices = [expressions.text(one, f"{where}choices") for one in t.choices]
    # Of labels that stand for themselves: all that there are.
    self._labels: tuple[str, ...] = ()
    if d.kind == "choice" and t.choices is None and t.contexts is None:
      self._labels = tuple(sorted({str(self._values["gold"](*row)) for row in rows if self._answerable(row)}))

  def item(self, row: Row) -> Item:
    d = self._d
    identity, answerable = self._identity(row), self._answerable(row)  # the same whatever is read
    group = self._name(row, "group") if "group" in self._values else None
    row = self._book.opened(row) if self._book else row
    contexts = None if "contexts" not in self._values else self._list(row, "contexts")
    query = self._texts["query"](*row) if contexts is None else ""
    for one in (query,) if contexts is None else contexts:
      _check_query(row, one)
    if d.kind == "choice":
      choices = self._of_row(row) if contexts is None else (self._texts["answer"](*row),) * len(contexts)
      gold = self._gold(row, choices if contexts is None else contexts) if answerable else 0
      choices = tuple(self._after_gap(row, one) for one in choices)
      neutral = self._neutral(row) if answerable else ()
      return Item(
        identity, query, choices, gold, contexts, neutral=neutral, fields=row.fields, group=group,
        answerable=answerable,
      )  # fmt: skip
    if not answerable:
      return Item(identity, query, fields=row.fields, group=group, answerable=False)
    answer = self._texts["answer"](*row)
    written = self._after_gap(row, answer)
    if d.kind == "continuation":
      return Item(identity, query, (written,), fields=row.fields, group=group)
    references = self._list(row, "references") if "references" in self._values else (answer,)
    if "program" in self._texts:
      # What is missing in it is said now, and not when answers have been written.
      self._texts["program"](row.where, row.fields | {"completion": answer})
    rank = self._book.rank(row, references) if self._book else None
    return Item(
      identity, query, references=references, written=written, fields=row.fields, rank=rank, group=group
    )

  def described(self, row: Row, item: Item) -> Item:
    """Returns an item that is asked, with the description that it has in the place of its template."""
    description = self._texts["description"](row.where, item.fields)
    return item if description == self._t.description else dataclasses.replace(item, description=description)

  def _answerable(self, row: Row) -> bool:
    if "answerable" not in self._values:
      return True
    found = self._values["answerable"](*row)
    if not isinstance(found, bool):
      raise ConfigError(f"{row.where}: answerable is {found!r}, must be true or false")
    return found

  def _neutral(self, row: Row) -> tuple[str, ...]:
    content = self._d.content
    if content is None or "query" not in self._texts:
      return ()
    if content not in row.fields:
      raise ConfigError(
        f"{row.where}: has no {content!r}, the task's `content`{nearest(content, row.fields)}"
      )
    return tuple(self._texts["query"](row.where, row.fields | {content: text}) for text in CONTENT_FREE)

  def _identity(self, row: Row) -> str:
    if "id" not in self._values:
      return text_id(json.dumps(row.fields, sort_keys=True))
    return text_id(self._name(row, "id"))

  def _name(self, row: Row, field: str) -> str:
    found = self._values[field](*row)
    if not expressions.is_text(found):
      raise ConfigError(f"{row.where}: {field} is {found!r}, must be a text or a number")
    return str(found)

  def _after_gap(self, row: Row, answer: str) -> str:
    """Returns an answer with the gap before it; a model must see one space, and have something to say."""
    if not answer.strip():
      raise ConfigError(f"{row.where}: an answer or choice is {answer!r}, must be a text")
    if self._t.gap.endswith(" ") and answer[0].isspace():
      raise ConfigError(f"{row.where}: {answer!r} begins with white space; leave it to the task's `gap`")
    return self._t.gap + answer

  def _of_row(self, row: Row) -> tuple[str, ...]:
    if self._choices is not None:
      return tuple(one(*row) for one in self._choices)
    return self._list(row, "choices") if "choices" in self._values else self._labels

  def _list(self, row: Row, field: str) -> tuple[str, ...]:
    found = self._values[field](*row)
    if not isinstance(found, list | tuple) or not found or not all(map(expressions.is_text, found)):
      raise ConfigError(f"{row.where}: {field} is {found!r}, must be a list of one text or more")
    return tuple(map(str, found))

  def _gold(self, row: Row, choices: tuple[str, ...]) -> int:
    """Returns the index of the right one, which a row names by it or by its text."""
    index = self._index(row, choices)
    if choices.count(choices[index]) > 1:
      raise ConfigError(f"{row.where}: the right choice, {choices[index]!r}, is there twice; must be one")
    return index

  def _index(self, row: Row, choices: tuple[str, ...]) -> int:
    gold = self._values["gold"](*row)
    if isinstance(gold, bool) or not isinstance(gold, int | str):
      raise ConfigError(f"{row.where}: gold is {gold!r}, must be an index or one of the choices")
    if self._labels:
      gold = str(gold)  # a number that is a label is no index
    if isinstance(gold, str) and gold in choices:
      return choices.index(gold)
    if isinstance(gold, str) and (self._labels or not gold.isdecimal()):
      raise ConfigError(
        f"{row.where}: gold is {gold!r}, must be one of {', '.join(choices[:9])}{did_you_mean(gold, choices)}"
      )
    if not 0 <= int(gold) < len(choices):
      raise ConfigError(f"{row.where}: gold is {gold}, must be from 0 to {len(choices) - 1}")
    return int(gold)


def _check_query(row: Row, query: str) -> None:
  if not query.strip():
    raise ConfigError(f"{row.where}: query is {query!r}, must be a text")
  if query.endswith(" "):
    raise ConfigError(f"{row.where}: query ends with a space; leave it to the task's `gap`")


def _refuse_duplicates(d: Definition, rows: Sequence[Row], items: Sequence[Item]) -> None:
  """Raises ConfigError for an id of two different items."""
  seen: dict[str, tuple[Row, Item]] = {}
  for row, item in zip(rows, items, strict=True):
    first, other = seen.setdefault(item.id, (row, item))
    # Programs are of fields that an item does not show.
    if other != item or (d.program is not None and first.fields != row.fields):
      raise ConfigError(f"{row.where}: has the id ({d.id}) of {first.where}, and is another; ids must differ")


def _refuse_shown(asked: Sequence[tuple[Row, Item]], shown: Sequence[Item]) -> None:
  """Raises ConfigError for a demonstration that is asked: its answer would stand in the prompt."""
  ids, queries = {item.id for item in shown}, {(item.query, item.contexts) for item in shown}
  for row, item in asked:
    if item.id in ids or (item.query, item.contexts) in queries:
      raise ConfigError(f"{row.where}: is asked, and one of the `shown` demonstrations too; show another")
