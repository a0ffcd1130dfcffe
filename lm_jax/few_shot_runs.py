"""A model on many tasks, each with many prompts (template, words, shots, seed, order): asked once, and kept.

A folder of results holds

    results.jsonl      a row for every metric of every (model, task, template, words, seed, order, shots)
    cells/KEY.json     the rows of one of these
    items/KEY.parquet  what the model made of every item: prompt's hash, log p of choices, answers, scores,
                       confidence and, where some have no answer, its threshold (lm_jax/abstention.py)

KEY is a hash of all that decides the numbers: the model, its weights, the task's texts, and the settings.
What is there under its key is not computed again, whoever computed it; results.jsonl is made of all cells.
"""

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas

from lm_jax import few_shot, few_shot_scores, prompt_tasks, quantize, records, scaling, strict, uncertainty
from lm_jax.data.progress import Progress
from lm_jax.few_shot import Asked, Labels, Result, RunCode, TooLong, Writing
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import FewShotTask, label_words
from lm_jax.prompt_tasks.items import OWN_WORDS
from lm_jax.reader import ModelReader, Reader
from lm_jax.scores import Score
from lm_jax.strict import ConfigError, require

SEMANTICS = 1  # of the numbers; a change of their definition makes all keys others
RESULTS, CELLS, ITEMS = "results.jsonl", "cells", "items"
ALL = "all"  # templates
WRITES = ("generation", "code")  # kinds of tasks
# Of rows that were kept before there were these columns.
_DEFAULTS = {"label_words": OWN_WORDS, "order": 0, "hold_out": False, "chat": False}
Report = Callable[[str], None]
Tasks = Sequence[tuple[str, FewShotTask]]  # with the names of their templates


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is asked.

  Attributes:
    tasks: names, .yaml files of definitions, or paths to labeled texts.
    shots: numbers of demonstrations.
    seeds: of the demonstrations, and of what is sampled after them; zero shots have one, 0.
    templates: of every task; ("all",): all that it has.
    label_words: of every task: "task", its own, or others, "bad|good": see prompt_tasks/label_words.py.
    orders: of the demonstrations, 0 as drawn: see `items.reordered`; up to one shot has one, 0.
    limit: items of a task at most, a fixed random choice; None: all.
    split: "test", or "dev" to choose by.
    hold_out: "dev" is a part of the rows that demonstrations are drawn from, which are drawn from the rest:
      see prompt_tasks/hold_out.py.
    too_long: what becomes of a prompt that is longer than the model's context: see `few_shot.plan`.
    writing: how answers are written, where a task asks for it.
    max_new_tokens: of a written answer, at most, for which a context must have room; None: as the task says.
  """

  tasks: tuple[str, ...]
  shots: tuple[int, ...] = (0,)
  seeds: tuple[int, ...] = (0,)
  templates: tuple[str, ...] = (prompt_tasks.DEFAULT,)
  label_words: tuple[str, ...] = (OWN_WORDS,)
  orders: tuple[int, ...] = (0,)
  limit: int | None = None
  split: str = "test"
  hold_out: bool = False
  too_long: TooLong = "drop"
  labels: Labels = "gold"  # of the demonstrations: a control, see prompt_tasks.items.relabeled
  writing: Writing = Writing()
  # Choices measured after "Answer:" too and, where a task names its `content`, after queries without any,
  # which is four times the reading.
  calibrate: bool = False
  max_new_tokens: int | None = None
  chat: bool = False  # ask in a conversation, by the model's chat template


def check(s: Settings) -> None:
  """Raises ConfigError for settings that are none, before a model is opened."""
  require(len(s.tasks) > 0, "--tasks", "", "one task or more")
  require(len(s.shots) > 0, "--shots", "", "one number or more, such as 0,1,4")
  for name, values in (
    ("tasks", s.tasks),
    ("shots", s.shots),
    ("seeds", s.seeds),
    ("templates", s.templates),
    ("label_words", s.label_words),
    ("orders", s.orders),
  ):
    require(len(values) > 0, f"--{name}", "", "one or more")
    require(len(set(values)) == len(values), f"--{name}", ",".join(map(str, values)), "all different")
  for k in s.shots:
    require(k >= 0, "--shots", k, "0 or greater")
  for order in s.orders:
    require(order >= 0, "--orders", order, "0 or greater")
  for words in s.label_words:
    if words != OWN_WORDS:
      label_words.split(words)
  require(s.limit is None or s.limit > 0, "--limit", s.limit, "greater than 0")
  require(s.split in ("test", "dev"), "--split", s.split, "test or dev")
  require(s.too_long in ("drop", "refuse"), "--too_long", s.too_long, "drop or refuse")
  require(s.labels in get_args(Labels), "--labels", s.labels, f"one of {', '.join(get_args(Labels))}")
  require(
    s.max_new_tokens is None or s.max_new_tokens > 0, "--max_new_tokens", s.max_new_tokens, "greater than 0"
  )
  w = s.writing
  require(w.samples > 0, "--samples", w.samples, "greater than 0")
  require(w.temperature >= 0, "--temperature", w.temperature, "0 or greater")
  drawn = w.temperature > 0 or w.samples == 1
  require(drawn, "--samples", w.samples, "1 at --temperature=0, where all samples are the same one")


def tasks(s: Settings) -> list[tuple[str, FewShotTask]]:
  """Returns (template, task) of all that is asked, a task for each of its label words.

  Raises ConfigError for what cannot be. A task's demonstrations are drawn here once for each group, so that
  too many shots are an error at once.
  """
  found = []
  for name in s.tasks:
    there = prompt_tasks.templates(name)
    for template in there if s.templates == (ALL,) else s.templates:
      task = _task(s, name, template)
      of_group = {item.group: item for item in task.sample(s.limit)}
      for seed in s.seeds:
        for item in of_group.values():
          task.demonstrations(item, max(s.shots), seed)
      found += [(template, prompt_tasks.with_label_words(task, words)) for words in s.label_words]
  if s.calibrate and not any(task.kind == "choice" for _, task in found):
    raise ConfigError("--calibrate: none of the tasks is of choices, whose likelihoods it is about")
  return found


def _task(s: Settings, name: str, template: str) -> FewShotTask:
  if s.hold_out:
    dev, rest = prompt_tasks.hold_out(prompt_tasks.make(name, template))
    task = dev if s.split == "dev" else rest
  else:
    task = prompt_tasks.make(name, template, s.split)
  if s.max_new_tokens is None or task.kind not in WRITES:
    return task
  return dataclasses.replace(task, max_new_tokens=s.max_new_tokens)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """How a task is asked; the seed is None where there are no demonstrations."""

  template: str
  label_words: str
  shots: int
  seed: int | None
  order: int


def prompts(s: Settings, template: str, task: FewShotTask) -> list[Prompt]:
  """Returns all that differ of one of the `tasks`."""
  # What is written down is drawn by no seed; what is sampled after it is.
  seeds = s.seeds[:1] if task.shown and not s.writing.temperature else s.seeds
  return [
    Prompt(template, task.label_words, k, seed, order)
    for k in s.shots
    for seed in (seeds if k else (None,))  # without demonstrations there is nothing to draw,
    for order in (s.orders if k > 1 else (0,))  # and one has no order
  ]


@dataclasses.dataclass(frozen=True)
class _Cell:
  """What is computed and kept together."""

  key: str
  task: FewShotTask
  prompt: Prompt


def run(
  p: Pretrained,
  s: Settings,
  *,
  name: str,
  folder: Path | None = None,
  report: Report | None = None,
  quiet: bool = False,
  run_code: RunCode | None = None,
  reader: Reader | None = None,
) -> list[dict[str, Any]]:
  """Returns the rows of all that is asked, in its order, and then the `summaries` of them.

  Args:
    p: with its parameters on the device.
    name: of the model, for the rows.
    folder: of results; what is there is read, and what is missing is added.
    report: takes a line about what is going on.
    quiet: show no progress.
    run_code: see `few_shot.ask`.
    reader: instead of the model.
  """
  check(s)
  rows, items = measure(
    p, s, tasks(s), name=name, folder=folder, report=report, quiet=quiet, run_code=run_code, reader=reader
  )
  return rows + summaries(rows, items)


def measure(
  p: Pretrained,
  s: Settings,
  asked: Tasks,
  *,
  name: str,
  only: Container[Prompt] | None = None,
  folder: Path | None = None,
  report: Report | None = None,
  quiet: bool = False,
  run_code: RunCode | None = None,
  reader: Reader | None = None,
) -> tuple[list[dict[str, Any]], dict[str, pandas.DataFrame]]:
  """Returns the rows of all that is asked, and {key of a row: the table of its items}.

  Args:
    asked: the `tasks` of the settings.
    only: prompts that are asked; None: all.
    name, folder, ...: those of `run`.
  """
  for _, task in asked:
    few_shot.check_code(task, run_code is not None)
  reader = reader or ModelReader(p)
  about, rows, items = _about(p, name), [], {}
  for template, task in asked:
    cells = [cell for cell in _cells(p, s, template, task) if only is None or cell.prompt in only]
    kept = {cell.key: _kept(folder, cell.key) for cell in cells}
    missing = [cell for cell in cells if kept[cell.key] is None]
    for drawn in dict.fromkeys((cell.prompt.seed, cell.prompt.order) for cell in missing):
      together = [cell for cell in missing if (cell.prompt.seed, cell.prompt.order) == drawn]
      computed = _computed(task, reader, s, together, report, quiet, run_code)
      for cell, found, results in computed:
        kept[cell.key] = [about | row for row in found]
        items[cell.key] = _table(cell, results)
        if folder is not None:
          _keep(folder, cell, kept[cell.key], items[cell.key])
    rows += [row | {"model": name} for cell in cells for row in kept[cell.key]]
  if folder is not None:
    _compact(folder)
  for key in {row["key"] for row in rows} - set(items):
    items[key] = pandas.read_parquet(folder / ITEMS / f"{key}.parquet")
  return rows, items


def summaries(rows: Sequence[dict[str, Any]], items: Mapping[str, pandas.DataFrame]) -> list[dict[str, Any]]:
  """Returns a row for every metric of items that was measured with several seeds or templates.

  Its value is the mean over all of them, its stderr that for other items, seeds and templates, and the
  variances of the three are apart: see `uncertainty.variance_components`. `prompt_id` is "all". Other label
  words or orders are other rows: these are averaged over neither.

  Args:
    items: {key of a row: the table of its items}.
  """
  groups = collections.defaultdict(list)
  for row in rows:
    groups[row["task"], row["n_shots"], row["label_words"], row["order"], row["metric"]].append(row)
  found = []
  for (*_, metric), several in groups.items():
    if len(several) < 2 or any(metric not in items[row["key"]] for row in several):
      continue
    scores = [items[row["key"]].drop_duplicates("item").set_index("item")[metric] for row in several]
    table = pandas.concat(scores, axis=1, join="inner").dropna()
    seeds, templates = (list(dict.fromkeys(row[name] for row in several)) for name in ("seed", "prompt_id"))
    pairs = [(row["seed"], row["prompt_id"]) for row in several]
    columns = [pairs.index((seed, template)) for seed in seeds for template in templates]
    if table.empty:
      continue
    v = uncertainty.variance_components(
      table.to_numpy(np.float64)[:, columns].reshape(len(table), len(seeds), len(templates))
    )
    found.append(
      several[0]
      | {
        "key": None, "seed": None, "prompt_id": ALL, "value": v.mean, "stderr": v.stderr,
        "n_items": v.n_items, "n_seeds": v.n_seeds, "n_templates": v.n_templates, "variance_items": v.item,
        "variance_seeds": v.seed, "variance_templates": v.template,
        "mean_shots": float(np.mean([row["mean_shots"] for row in several])),
        "n_left_out": max(row["n_left_out"] for row in several),
      }
    )  # fmt: skip
  return found


def _cells(p: Pretrained, s: Settings, template: str, task: FewShotTask) -> Iterator[_Cell]:
  common = {
    "semantics": SEMANTICS, "model": p.identity, "weights": quantize.kind(p.params), "task": task.digest,
    "limit": s.limit, "split": s.split, "too_long": s.too_long, "context_length": p.model.context_length,
  }  # fmt: skip
  if task.kind in WRITES:
    common["writing"] = dataclasses.asdict(s.writing)
  if s.labels != "gold":
    common["labels"] = s.labels
  if s.calibrate and task.kind == "choice":
    common["calibrate"] = ["premise", "content"]
  if s.chat:
    common["chat"] = p.chat_template or True
  if task.label_words != OWN_WORDS:
    common["label_words"] = task.label_words
  for prompt in prompts(s, template, task):
    own = {"seed": prompt.seed, "shots": prompt.shots}
    if prompt.order:
      own["order"] = prompt.order
    yield _Cell(strict.digest({**common, **own}, 16), task, prompt)


def _computed(
  task: FewShotTask,
  reader: Reader,
  s: Settings,
  cells: Sequence[_Cell],
  report: Report | None,
  quiet: bool,
  run_code: RunCode | None,
) -> Iterator[tuple[_Cell, list[dict[str, Any]], list[Result]]]:
  """Yields (cell, its rows, its items) of one task, seed and order; all shots are read in one pass."""
  shots, seed = [cell.prompt.shots for cell in cells], cells[0].prompt.seed
  order = cells[0].prompt.order
  asked = few_shot.plan(task, reader, shots, s.limit, seed or 0, s.too_long, s.labels, order, s.chat)
  writing = dataclasses.replace(s.writing, seed=seed or 0)
  what = f"{task.name}, {', '.join(map(str, shots))} shots"
  with Progress(what, _num_answers(task, asked, writing, s.calibrate), quiet=quiet, unit="answers") as bar:
    results = few_shot.ask(
      task, reader, asked, writing=writing, run_code=run_code, calibrate=s.calibrate, progress=bar.advance
    )
  for cell in cells:
    k = cell.prompt.shots
    of_shots = [result for result in results if result.asked.shots == k]
    total = sum(one.shots == k for one in asked)
    left_out = total - len(of_shots)
    if report is not None and left_out:
      answer = f" with {task.max_new_tokens} tokens of an answer" if task.kind in WRITES else ""
      report(f"{task.name}, {k} shots: {left_out} of {total} items are too long for the model{answer}")
    yield cell, _rows(cell, s, few_shot.means(task, of_shots, k), of_shots, left_out), of_shots


def _num_answers(task: FewShotTask, asked: Sequence[Asked], writing: Writing, calibrate: bool) -> int:
  there = [one.item for one in asked if one.demonstrations is not None]
  reads = [1 + few_shot.num_without_content(task, item) * calibrate for item in there]
  return sum(n * len(item.choices) or writing.samples for n, item in zip(reads, there, strict=True))


def _rows(
  cell: _Cell, s: Settings, scores: Sequence[Score], results: Sequence[Result], left_out: int
) -> list[dict[str, Any]]:
  used = [len(result.asked.demonstrations or ()) for result in results]
  common = {
    "key": cell.key, "task": cell.task.name, "split": s.split, **_columns(cell.prompt),
    "hold_out": s.hold_out, "labels": s.labels, "chat": s.chat, "n_left_out": left_out,
    "mean_shots": sum(used) / len(used) if used else None,
  }  # fmt: skip
  return [
    common
    | {"metric": x.metric, "value": x.value, "stderr": x.stderr, "n_items": x.n_items, "chance": x.chance}
    for x in scores
  ]


def _columns(prompt: Prompt) -> dict[str, Any]:
  return {
    "n_shots": prompt.shots, "seed": prompt.seed, "prompt_id": prompt.template,
    "label_words": prompt.label_words, "order": prompt.order,
  }  # fmt: skip


def prompt_of(row: Mapping[str, Any]) -> Prompt:
  """Returns what a row is about."""
  return Prompt(row["prompt_id"], row["label_words"], row["n_shots"], row["seed"], row["order"])


def _about(p: Pretrained, name: str) -> dict[str, Any]:
  count = scaling.count_params(p.model)
  return {
    "model": name, "cell_id": strict.digest(p.identity), "family": p.family, "params_total": count.total,
    "params_nonembedding": count.nonembedding, "step": p.step or None, **records.provenance(),
  }  # fmt: skip


# --- what is kept -------------------------------------------------------------------------------------


def _kept(folder: Path | None, key: str) -> list[dict[str, Any]] | None:
  if folder is None:
    return None
  path = folder / CELLS / f"{key}.json"
  try:
    rows = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise ConfigError(f"{path}: is not JSON ({error}); delete it to have it computed again") from None
  return [row | {name: value for name, value in _DEFAULTS.items() if name not in row} for row in rows]


def _table(cell: _Cell, results: Sequence[Result]) -> pandas.DataFrame:
  where = {"task": cell.task.name, **_columns(cell.prompt)}
  rows = [where | _of_item(result) for result in results]
  if any(not item.answerable for item in cell.task.items):
    found = few_shot_scores.thresholds(cell.task, results)
    rows = [row | {"threshold": one} for row, one in zip(rows, found, strict=True)]
  return pandas.DataFrame(rows)


def _keep(folder: Path, cell: _Cell, rows: Sequence[dict[str, Any]], table: pandas.DataFrame) -> None:
  """Writes the items first: where its rows are, a cell is whole."""
  with _written(folder / ITEMS / f"{cell.key}.parquet") as path:
    table.to_parquet(path, index=False)
  with _written(folder / CELLS / f"{cell.key}.json") as path:
    path.write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")


def _of_item(result: Result) -> dict[str, Any]:
  asked = result.asked
  return {
    "item": asked.item.id, "prompt_hash": asked.digest,
    "demonstrations": [other.id for other in asked.demonstrations or ()],
    "answerable": asked.item.answerable,
    "gold": asked.item.gold if asked.item.choices and asked.item.answerable else None,
    "confidence": result.confidence, "log_p": list(result.log_p),
    "num_tokens": list(result.num_tokens), "written": list(result.written),
    "outcomes": list(result.outcomes), **result.scores,
  }  # fmt: skip


def _compact(folder: Path) -> None:
  paths = sorted((folder / CELLS).glob("*.json"))
  # None: it was deleted meanwhile, to be computed again.
  lines = [json.dumps(row) + "\n" for path in paths for row in _kept(folder, path.stem) or ()]
  with _written(folder / RESULTS) as path:
    path.write_text("".join(lines), encoding="utf-8")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
  """Yields a path beside it that becomes `path`, whole, at the end."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    yield beside
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)
