"""Makes a task of its definition: reads the rows, and renders each as an item."""

import json
from collections.abc import Callable, Sequence

from lm_jax.prompt_tasks import expressions, row_files
from lm_jax.prompt_tasks.definition import DEFAULT, Definition, Template
from lm_jax.prompt_tasks.items import FewShotTask, Item, text_id
from lm_jax.prompt_tasks.row_files import Row
from lm_jax.strict import ConfigError, did_you_mean

# What a task of a table may do to rows of a form of its own, before they are rendered.
Adapt = Callable[[list[Row]], list[Row]]


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
  renderer = _Renderer(d, d.template(template), rows["train" if d.train else split])
  items = {name: tuple(renderer.item(row) for row in there) for name, there in rows.items()}
  for there in items.values():
    _refuse_duplicates(d, there)
  asked = items[split]
  t = d.template(template)
  return FewShotTask(
    d.name, asked, items.get("train", asked), t.separator, t.description, d.kind,
    None if template == DEFAULT and not d.templates else template, d.balanced and d.kind == "choice", d.stop,
    d.max_new_tokens, d.metrics, d.program,
  )  # fmt: skip


def _rows(d: Definition, split: str, adapt: Adapt | None) -> list[Row]:
  path = getattr(d, split)
  if path is None:
    raise ConfigError(f"task {d.name!r}: has no {split} rows; give the definition `{split}: FILE`")
  rows = row_files.read(path, d.columns, d.records)
  return adapt(rows) if adapt else rows


class _Renderer:
  def __init__(self, d: Definition, t: Template, rows: Sequence[Row]):
    self._d, self._t = d, t
    where = f"task {d.name!r}."
    self._texts = {
      field: expressions.text(source, where + field)
      for field in ("query", "answer")
      if (source := getattr(t, field)) is not None
    }
    sources = {"gold": d.gold, "id": d.id, "references": d.references, "contexts": t.contexts}
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
      self._labels = tuple(sorted({str(self._values["gold"](*row)) for row in rows}))

  def item(self, row: Row) -> Item:
    d, t = self._d, self._t
    identified = self._values["id"](*row) if "id" in self._values else row.fields
    identity = text_id(identified if isinstance(identified, str) else json.dumps(identified, sort_keys=True))
    contexts = None if "contexts" not in self._values else self._list(row, "contexts")
    query = self._texts["query"](*row) if contexts is None else ""
    if query != query.rstrip(" "):
      raise ConfigError(f"{row.where}: query ends with a space; leave it to the task's `gap`")
    if d.kind == "choice":
      choices = self._of_row(row) if contexts is None else (self._texts["answer"](*row),) * len(contexts)
      gold = self._gold(row, choices if contexts is None else contexts)
      return Item(identity, query, tuple(t.gap + one for one in choices), gold, contexts, fields=row.fields)
    answer = self._texts["answer"](*row)
    if d.kind == "continuation":
      return Item(identity, query, (t.gap + answer,), fields=row.fields)
    references = self._list(row, "references") if "references" in self._values else (answer,)
    return Item(identity, query, references=references, written=t.gap + answer, fields=row.fields)

  def _of_row(self, row: Row) -> tuple[str, ...]:
    if self._choices is not None:
      return tuple(one(*row) for one in self._choices)
    return self._list(row, "choices") if "choices" in self._values else self._labels

  def _list(self, row: Row, field: str) -> tuple[str, ...]:
    found = self._values[field](*row)
    if isinstance(found, str) or not isinstance(found, Sequence) or not found:
      raise ConfigError(f"{row.where}: {field} is {found!r}, must be a list of one text or more")
    return tuple(map(str, found))

  def _gold(self, row: Row, choices: tuple[str, ...]) -> int:
    gold = self._values["gold"](*row)
    if isinstance(gold, bool) or not isinstance(gold, int | str):
      raise ConfigError(f"{row.where}: gold is {gold!r}, must be an index or one of the choices")
    if isinstance(gold, str) and gold in choices:
      return choices.index(gold)
    if isinstance(gold, str) and not gold.isdecimal():
      raise ConfigError(
        f"{row.where}: gold is {gold!r}, must be one of {', '.join(choices[:9])}{did_you_mean(gold, choices)}"
      )
    if not 0 <= int(gold) < len(choices):
      raise ConfigError(f"{row.where}: gold is {gold}, must be from 0 to {len(choices) - 1}")
    return int(gold)


def _refuse_duplicates(d: Definition, items: Sequence[Item]) -> None:
  """Raises ConfigError for an id of two different items; rows that are equal stand for one."""
  seen: dict[str, Item] = {}
  for item in items:
    if seen.setdefault(item.id, item) != item:
      raise ConfigError(
        f"task {d.name!r}: two rows have the same id, {d.id}: {seen[item.id].query[-40:]!r} and "
        f"{item.query[-40:]!r}; must differ"
      )
