"""A model on many tasks, each with many prompts (template, words, shots, seed, order): asked once, and kept.

What was asked before is in the folder of results under its key: see `few_shot_folder`. A key is a hash of all
that decides the numbers: the model, its weights, the task's texts, and the settings.
"""

import collections
import dataclasses
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from lm_jax import few_shot, few_shot_folder, few_shot_scores, quantize, records, scaling, strict, uncertainty
from lm_jax.data.progress import Progress
from lm_jax.few_shot import Asked, Result, RunCode, Writing
from lm_jax.few_shot_settings import ALL, WRITES, Prompt, Settings, Tasks, check, prompts, tasks
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import FewShotTask
from lm_jax.prompt_tasks.items import OWN_WORDS
from lm_jax.reader import ModelReader, Reader
from lm_jax.scores import Score

SEMANTICS = 1  # of the numbers; a change of their definition makes all keys others
Report = Callable[[str], None]


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
    kept = {cell.key: None if folder is None else few_shot_folder.rows(folder, cell.key) for cell in cells}
    missing = [cell for cell in cells if kept[cell.key] is None]
    for drawn in dict.fromkeys((cell.prompt.seed, cell.prompt.order) for cell in missing):
      together = [cell for cell in missing if (cell.prompt.seed, cell.prompt.order) == drawn]
      computed = _computed(task, reader, s, together, report, quiet, run_code)
      for cell, found, results in computed:
        kept[cell.key] = [about | row for row in found]
        items[cell.key] = _table(cell, results)
        if folder is not None:
          few_shot_folder.keep(folder, cell.key, kept[cell.key], items[cell.key])
    rows += [row | {"model": name} for cell in cells for row in kept[cell.key]]
  if folder is not None:
    few_shot_folder.compact(folder)
  for key in {row["key"] for row in rows} - set(items):
    items[key] = few_shot_folder.items(folder, key)
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
    "key": cell.key, "task": cell.task.name, "split": s.split, **cell.prompt.columns(),
    "hold_out": s.hold_out, "labels": s.labels, "chat": s.chat, "n_left_out": left_out,
    "mean_shots": sum(used) / len(used) if used else None,
  }  # fmt: skip
  return [
    common
    | {"metric": x.metric, "value": x.value, "stderr": x.stderr, "n_items": x.n_items, "chance": x.chance}
    for x in scores
  ]


def _about(p: Pretrained, name: str) -> dict[str, Any]:
  count = scaling.count_params(p.model)
  return {
    "model": name, "cell_id": strict.digest(p.identity), "family": p.family, "params_total": count.total,
    "params_nonembedding": count.nonembedding, "step": p.step or None, **records.provenance(),
  }  # fmt: skip


def _table(cell: _Cell, results: Sequence[Result]) -> pandas.DataFrame:
  where = {"task": cell.task.name, **cell.prompt.columns()}
  rows = [where | _of_item(result) for result in results]
  if any(not item.answerable for item in cell.task.items):
    found = few_shot_scores.thresholds(cell.task, results)
    rows = [row | {"threshold": one} for row, one in zip(rows, found, strict=True)]
  return pandas.DataFrame(rows)


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
