"""What a task is, as a person writes it down: where its rows are, and how one is asked and answered.

A definition is a YAML file (or a table of `known.py`). This is a whole one:

    kind: choice
    train: reviews/train.jsonl
    test: reviews/test.jsonl
    query: "Review: {{text}}\\nSentiment:"
    choices: [negative, positive]
    gold: label

Texts are Jinja templates over the fields of a row. What picks a value (`gold`, `references`, `group`,
`choices` where it is no list) is a Jinja expression: `label`, `answers[0]`, `label|int + 1`. Both run in
Jinja's sandbox.

Demonstrations are drawn for each item from `train`; with `group`, from the rows of its own group there. With
`shown` they are written down instead, the same ones for every item: k shots are the first k of them.
Names of files are relative to the folder of the definition, or absolute; they may be of any folder.

With `answerable: label != "none"` rows of which that is false are questions without an answer. They are asked
as all others are, to see whether the model's confidence tells them apart (lm_jax/abstention.py). They need no
gold or references, have no part in scores of answers, and are never demonstrations.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from lm_jax import strict
from lm_jax.prompt_tasks import retrieval, strict_yaml
from lm_jax.strict import ConfigError, did_you_mean, nearest, require

Kind = Literal["choice", "continuation", "generation", "code"]
KINDS: dict[str, str] = {
  "choice": "one of several texts is the right one, and the likeliest is what the model answers",
  "continuation": "a text goes on in one way, whose likelihood is measured: language modeling",
  "generation": "the model writes an answer, which is compared with references",
  "code": "the model writes code, which tests of the row are run on",
}
# What each kind must be told beside `test` and `query`.
NEEDED = {
  "choice": ("gold",),
  "continuation": ("answer",),
  "generation": ("answer",),
  "code": ("answer", "program"),
}
# What only some kinds have a use for.
ONLY = {
  "choices": ("choice",),
  "contexts": ("choice",),
  "content": ("choice",),
  "gold": ("choice",),
  "references": ("generation", "code"),
  "program": ("code",),
  "answerable": ("choice", "generation"),
}
# What a definition may name as `metrics`: those of answer_metrics.METRICS.
METRICS = (
  "exact_match", "quasi_exact_match", "f1", "rouge1", "rouge2", "rougeL", "final_number", "final_answer",
  "choice_letter", "edit_similarity", "bleu", "chrf",
)  # fmt: skip
# What a row reads of a knowledge base: what a search finds; passages of its evidence, the best that a search
# could find (an oracle); or nothing (a closed book).
Reads = Literal["retrieved", "evidence", "nothing"]
DEFAULT = "default"  # the name of the template that a definition itself is


@dataclasses.dataclass(frozen=True)
class Template:
  """How a row is asked: what of a prompt may differ between templates of one task.

  A prompt is the description, the demonstrations and the query, `separator` between them. A demonstration is
  a query, `gap` and its answer.
  """

  query: str = ""  # ends where the answer begins, without the gap
  answer: str | None = None  # the right one, as a demonstration has it; of a choice: what follows `contexts`
  choices: str | tuple[str, ...] | None = None  # texts, or an expression; of neither: all golds there are
  # Of choices that complete a text in its middle (Winograd schemas): an expression, a text for each choice,
  # which all go on with `answer`.
  contexts: str | None = None
  description: str = ""  # a template over the fields of the row that is asked
  separator: str = "\n\n"
  gap: str = " "
  reads: Reads = "retrieved"  # of the task's knowledge base
  # Demonstrations: a file of rows, or rows that stand here, as those of `train` are; default: they are drawn.
  shown: str | tuple[dict, ...] | None = None
  stop: tuple[str, ...] = ("\n",)  # what a written answer ends before
  max_new_tokens: int = 64
  metrics: tuple[str, ...] = ()  # beside those of the kind


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """A knowledge base; what a row reads of it is its field `passages`, a list of {id, title, text}."""

  documents: str = ""  # a folder of .txt, .md and .jsonl, or one such file: see retrieval.py
  search: str = ""  # template of the query
  passages: int = 3  # that are read, at most
  # Expression: ids of the documents that hold the answer; default: passages with the words of a reference do.
  evidence: str | None = None
  id: str = "id"  # field of a row of .jsonl
  text: str = "text"  # field of a row of .jsonl
  words: int | None = retrieval.PASSAGE_WORDS  # of a passage, at most; null: documents are not cut


@dataclasses.dataclass(frozen=True)
class Definition(Template):
  """A task; its own fields of Template are the template "default"."""

  name: str = ""  # default: the file's
  kind: Kind = "choice"
  # File of the rows that are asked: .jsonl, .json, .csv or .tsv, or one of these with .gz; or a list of them.
  test: str | tuple[str, ...] = ""
  train: str | tuple[str, ...] | None = None  # of demonstrations; those of `test`, less the one that is asked
  dev: str | tuple[str, ...] | None = None  # what templates are chosen on
  columns: tuple[str, ...] | None = None  # of .csv and .tsv without a line of names
  records: str | None = None  # of .json: the field that holds the rows
  id: str | None = None  # expression; default: a hash of the row
  gold: str | None = None  # expression: of a choice, the index of the right one, or its text
  references: str | None = None  # expression: answers that are right; default: the one
  # Of a choice: the field of a row that holds its content, for contextual calibration (arXiv:2102.09690).
  content: str | None = None
  program: str | None = None  # of code: what is run, with `completion` for what the model wrote
  answerable: str | None = None  # expression, true or false: whether there is an answer; default: always
  group: str | None = None  # expression: demonstrations are of the same, e.g. the subject of an exam
  balanced: bool = True  # demonstrations are of every gold as many; with `group`, of each that the group has
  knowledge: Knowledge | None = None
  templates: Mapping[str, Template] = dataclasses.field(default_factory=dict)

  def template(self, name: str) -> Template:
    """Returns a template by its name; raises ConfigError."""
    if name == DEFAULT:
      return Template(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Template)})
    if name not in self.templates:
      raise ConfigError(
        f"task {self.name!r}: template {name!r}: no such one{nearest(name, (DEFAULT, *self.templates))}"
      )
    return self.templates[name]


def from_mapping(mapping: Mapping[str, Any], where: str) -> Definition:
  """Strictly makes a definition; fields of a template that are not given are the task's own.

  Args:
    where: what errors say that they are about.
  """
  if not hasattr(mapping, "items"):
    raise ConfigError(f"{where}: must be a group of fields (query, test, kind, ...)")
  given = _as_lists(mapping, where)
  named, knowledge = given.pop("templates", {}), given.pop("knowledge", None)
  if not hasattr(named, "items"):
    raise ConfigError(f"{where}.templates={named!r}: must be a group of templates by their names")
  base = strict.from_mapping(Definition, given, where)
  own = {f.name: getattr(base, f.name) for f in dataclasses.fields(Template)}
  templates = {}
  for name, fields in named.items():
    place = f"{where}.templates.{name}"
    if not hasattr(fields, "items"):
      raise ConfigError(f"{place}={fields!r}: must be a group of fields (query, choices, ...)")
    templates[str(name)] = strict.from_mapping(Template, own | _as_lists(fields, place), place)
  if DEFAULT in templates:
    raise ConfigError(f"{where}.templates.{DEFAULT}: is the name of the task's own fields; give it another")
  if knowledge is not None:
    knowledge = strict.from_mapping(Knowledge, knowledge, f"{where}.knowledge")
  definition = dataclasses.replace(base, templates=templates, knowledge=knowledge)
  _check(definition, where)
  _check_knowledge(definition, where)
  return definition


def _as_lists(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Returns what is given, of which strict.from_mapping would misread two fields."""
  given = dict(mapping.items())
  if isinstance(given.get("stop"), str):
    given["stop"] = [given["stop"]]  # one text, and not names with commas between
  if isinstance(given.get("choices"), list | tuple):
    # Says which one is no text, such as a number without quotes.
    given["choices"] = strict.convert(tuple[str, ...], given["choices"], f"{where}.choices")
  return given


def _check(d: Definition, where: str) -> None:
  require(bool(d.test), f"{where}.test", d.test, "a file of rows")
  for name, t in {"": d, **{f".templates.{name}": t for name, t in d.templates.items()}}.items():
    _check_written(d, t, f"{where}{name}")
    _check_shown(t, f"{where}{name}")
    asked = bool(t.query) != (t.contexts is not None)
    require(asked, f"{where}{name}.query", t.query, "a template of text, or else `contexts` given")
    for field in NEEDED[d.kind]:
      value = getattr(t, field, getattr(d, field))
      require(value is not None, f"{where}{name}.{field}", value, f"given for a task of kind {d.kind}")
    for field, kinds in ONLY.items():
      value = getattr(t, field, getattr(d, field))
      allowed = f"of kind {' or '.join(kinds)} only"
      require(d.kind in kinds or value is None, f"{where}{name}.{field}", value, allowed)
    if t.contexts is not None:
      require(t.answer is not None, f"{where}{name}.answer", t.answer, "given: contexts go on with it")
      require(t.choices is None, f"{where}{name}.choices", t.choices, "left out: contexts are what is chosen")
    elif d.kind == "choice":
      require(t.answer is None, f"{where}{name}.answer", t.answer, "left out: `gold` is the right one")


def _check_written(d: Definition, t: Template, where: str) -> None:
  require(t.max_new_tokens > 0, f"{where}.max_new_tokens", t.max_new_tokens, "greater than 0")
  require(all(t.stop), f"{where}.stop", t.stop, "texts that are not empty")
  require(not t.metrics or d.kind == "generation", f"{where}.metrics", t.metrics, "of kind generation only")
  for name in t.metrics:
    if name not in METRICS:
      raise ConfigError(f"{where}.metrics: {name!r} is none{nearest(name, METRICS)}")


def _check_shown(t: Template, where: str) -> None:
  require(
    t.shown is None or len(t.shown) > 0, f"{where}.shown", t.shown, "a file of rows, or one row or more"
  )
  for i, row in enumerate(t.shown if isinstance(t.shown, tuple) else ()):
    try:
      json.dumps(row, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:  # YAML has dates and NaN
      raise ConfigError(f"{where}.shown[{i}]: must be texts, numbers and lists of them ({error})") from None


def _check_knowledge(d: Definition, where: str) -> None:
  k, place = d.knowledge, f"{where}.knowledge"
  if k is not None:
    if d.kind != "generation":
      raise ConfigError(f"{place}: must be of kind generation only")
    require(bool(k.documents), f"{place}.documents", k.documents, "a folder or file of documents")
    require(bool(k.search), f"{place}.search", k.search, "a template of what is searched for")
    strict.require_positive(k, place, ("passages", "words"))
  for name, t in {"": d, **{f".templates.{name}": t for name, t in d.templates.items()}}.items():
    reads = f"{where}{name}.reads"
    require(k is not None or t.reads == "retrieved", reads, t.reads, "left out without `knowledge`")
    told = t.reads != "evidence" or k.evidence is not None
    require(told, reads, t.reads, "of a task with `knowledge.evidence`")


def read(path: Path) -> Definition:
  """Reads a YAML file; names of files in it are relative to its folder."""
  try:
    mapping = strict_yaml.load(path.read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"task {path}: cannot be read ({error})") from None
  except yaml.YAMLError as error:
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None else f" line {mark.line + 1}"
    problem = " ".join(str(getattr(error, "problem", error)).split())
    raise ConfigError(f"task {path}{line}: is not YAML that a task can be read from ({problem})") from None
  d = from_mapping(mapping, f"task {path}")
  return dataclasses.replace(placed(d, path.parent, f"task {path}"), name=d.name or path.stem)


def placed(d: Definition, folder: Path, where: str) -> Definition:
  """Returns a definition whose files are those of a folder, which must be there."""

  def there(file: str, field: str) -> str:
    path = folder / Path(file).expanduser()
    if not path.is_file():
      around = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
      raise ConfigError(f"{where}.{field}={file!r}: no such file{did_you_mean(path.name, around)}")
    return str(path)

  def with_shown(t: Template, place: str) -> Template:
    shown = t.shown
    return dataclasses.replace(t, shown=there(shown, f"{place}shown")) if isinstance(shown, str) else t

  paths = {
    name: there(given, name) if isinstance(given, str) else tuple(there(file, name) for file in given)
    for name in ("test", "train", "dev")
    if (given := getattr(d, name))
  }
  templates = {name: with_shown(t, f"templates.{name}.") for name, t in d.templates.items()}
  knowledge = d.knowledge
  if knowledge is not None:
    documents = folder / Path(knowledge.documents).expanduser()
    if not documents.exists():
      around = [other.name for other in documents.parent.iterdir()] if documents.parent.is_dir() else []
      raise ConfigError(
        f"{where}.knowledge.documents={knowledge.documents!r}: no such file or folder"
        f"{did_you_mean(documents.name, around)}"
      )
    knowledge = dataclasses.replace(knowledge, documents=str(documents))
  return dataclasses.replace(with_shown(d, ""), knowledge=knowledge, templates=templates, **paths)
