"""Prompts that are chosen on a dev split, and what the choice is worth on test.

A candidate is a template, label words, a number of shots, a seed of the demonstrations and an order of them.
All are asked on the same dev items; the best one and the default one are then asked on test.

  dev items    rows of the task's dev split; where it has none, a fifth of its train rows, which are then no
               demonstrations, on test neither (prompt_tasks/hold_out.py). Never rows of test.
  dev score    mean of the metric over the dev items that the model has room for in every candidate. Of other
               label words nll is of other texts: the other scores compare better.
  chosen       the best dev score; of equal ones the fewest tokens read, fewest shots, the first.
  halving      as an option: all candidates are asked on a part of dev, the better half of them on twice as
               many items, and so on until two are asked on all (successive halving, Jamieson and Talwalkar,
               arXiv:1502.07943). Parts are nested, and are read again in larger ones.
  default      the task's own template and words, the first seed and order, as many shots as the chosen one.
  difference   chosen - default on the same test items, with its paired bootstrap interval (95 %, percentile).
  optimism     by how much the chosen one is better on dev than on test. Its dev score is the best of many,
               and so too good: the more so, the more candidates and the fewer dev items (winner's curse).
               Items of test may be easier or harder, too.

Dev labels are labels: who chooses by them has used more than the demonstrations (Perez et al., "True few-shot
learning", arXiv:2105.11447), so the cost counts them. Another seed or order is other demonstrations, or
another permutation, for each item: unlike a template or words it has nothing that dev and test items share,
and to choose among them adds optimism rather than accuracy.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from lm_jax import (
  few_shot,
  few_shot_runs,
  few_shot_scores,
  few_shot_settings,
  metrics,
  prompt_tasks,
  records,
  uncertainty,
)
from lm_jax.few_shot import RunCode
from lm_jax.few_shot_runs import Report
from lm_jax.few_shot_settings import Prompt, Settings, Tasks
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import FewShotTask
from lm_jax.prompt_tasks.items import OWN_WORDS
from lm_jax.reader import ModelReader, Reader
from lm_jax.sandbox import Outcome
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError, nearest, require
from lm_jax.tokenizers import Tokenizer
from lm_jax.uncertainty import Estimate

DEV_LIMIT = 100  # dev items of a task
LOWER_IS_BETTER = ("nll", "brier", "target_brier")
Measure = Callable[..., tuple[list[dict[str, Any]], dict[str, pandas.DataFrame]]]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A prompt as it did on dev.

  Attributes:
    dev_score: None where the model has no room for any item.
    dev_items: that it is the mean of; fewer where it was dropped before the end.
    tokens_read: of its prompts and of what comes after them; a prompt counts once for all its choices.
  """

  prompt: Prompt
  dev_score: float | None
  dev_items: int
  tokens_read: int


@dataclasses.dataclass(frozen=True)
class Cost:
  """What choosing took.

  Attributes:
    labeled_examples: dev items whose answers it was chosen by.
    prompts_read: of all candidates; one that a model answers with several choices is one.
    prompts_in_full: all candidates times all dev items.
    seconds: of this call; results that were kept take none.
  """

  candidates: int
  labeled_examples: int
  prompts_read: int
  prompts_in_full: int
  tokens_read: int
  seconds: float


@dataclasses.dataclass(frozen=True)
class Spread:
  """Dev scores of all candidates, on the items that all were asked; no sd of a single one."""

  mean: float
  sd: float | None
  min: float
  max: float
  n_items: int


@dataclasses.dataclass(frozen=True)
class Selection:
  """The chosen prompt of a model on a task.

  Attributes:
    dev_rows: "dev", or "train" for those held out.
    dev_score: of the chosen one.
    optimism: see above; None where the model has no room for any test item.
    prompt: the chosen one, of the first test item; None where there is no room for it.
  """

  model: str
  task: str
  metric: str
  dev_rows: str
  chosen: Prompt
  default: Prompt
  dev_score: float
  spread: Spread
  chosen_on_test: Estimate
  default_on_test: Estimate
  difference: Estimate
  optimism: float | None
  cost: Cost
  candidates: tuple[Candidate, ...]
  prompt: str | None
  provenance: dict[str, Any]


def check(
  s: Settings,
  metric: str | None = None,
  dev_limit: int | None = DEV_LIMIT,
  *,
  may_run_code: bool = False,
) -> None:
  """Raises ConfigError for what cannot be chosen among, before a model is opened."""
  _planned(s, metric, dev_limit, may_run_code)


def _planned(
  s: Settings, metric: str | None, dev_limit: int | None, may_run_code: bool
) -> list[tuple[Settings, Tasks, str]]:
  """Returns (what is asked on dev, of which tasks, the metric) for each name of a task."""
  few_shot_settings.check(s)
  require(dev_limit is None or dev_limit > 0, "--dev_limit", dev_limit, "greater than 0")
  plain = s.labels == "gold" and not s.calibrate and not s.chat
  require(plain, "settings", (s.labels, s.calibrate, s.chat), "gold labels, no calibration and no chat")
  planned = []
  for name in s.tasks:
    hold_out = not prompt_tasks.has_dev(name)
    on_dev = dataclasses.replace(s, tasks=(name,), split="dev", hold_out=hold_out, limit=dev_limit)
    tasks = few_shot_settings.tasks(on_dev)
    for _, task in tasks:
      few_shot.check_code(task, may_run_code)
    planned.append((on_dev, tasks, _metric(tasks[0][1], metric, s.writing.samples)))
  return planned


def select(
  p: Pretrained,
  s: Settings,
  *,
  name: str,
  metric: str | None = None,
  dev_limit: int | None = DEV_LIMIT,
  halving: bool = False,
  folder: Path | None = None,
  report: Report | None = None,
  quiet: bool = False,
  run_code: RunCode | None = None,
  reader: Reader | None = None,
) -> list[Selection]:
  """Returns what is chosen for each task among the prompts of the settings.

  Args:
    s: `limit` is of test items; `split` and `hold_out` are not asked for here.
    metric: a score of single items; None: the first of the task's.
    dev_limit: dev items of a task at most, a fixed random choice; None: all.
    halving: successive halving, see above.
    name, folder, ...: those of `few_shot_runs.run`.
  """
  planned = _planned(s, metric, dev_limit, run_code is not None)
  tokenizer = p.require_tokenizer()
  measure = functools.partial(
    few_shot_runs.measure, p, name=name, folder=folder, report=report, quiet=quiet, run_code=run_code,
    reader=reader or ModelReader(p),
  )  # fmt: skip
  selections = []
  for on_dev, tasks, of_task in planned:
    choice = _choose(on_dev, tasks, of_task, halving, tokenizer, measure)
    on_test = dataclasses.replace(on_dev, split="test", limit=s.limit)
    selections.append(_on_test(on_test, choice, of_task, name, measure))
  return selections


def item_metrics(task: FewShotTask, samples: int = 1) -> tuple[str, ...]:
  """Returns the scores that a single item of a task has."""
  item, read = next(item for item in task.items if item.answerable), Likelihood(-1.0, 1, False)
  if task.kind == "choice":
    return tuple(few_shot_scores.of_choice(item, [read] * len(item.choices)))
  if task.kind == "continuation":
    return tuple(few_shot_scores.of_continuation(read))
  if task.kind == "code":
    return tuple(few_shot_scores.of_code([Outcome("passed", "")] * samples))
  return tuple(few_shot_scores.of_written(task, item, [""] * samples))


def _metric(task: FewShotTask, given: str | None, samples: int) -> str:
  there = item_metrics(task, samples)
  if not there:
    corpus = ", ".join(task.metrics)
    raise ConfigError(
      f"task {task.name!r}: its scores, {corpus}, are of a whole corpus; prompts are chosen by those of items"
    )
  if given is not None and given not in there:
    raise ConfigError(f"--metric={given}: task {task.name!r} has no such score{nearest(given, there)}")
  return given or there[0]


# --- on dev -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Choice:
  chosen: Candidate
  spread: Spread
  candidates: tuple[Candidate, ...]
  cost: Cost


def _choose(
  on_dev: Settings, tasks: Tasks, metric: str, halving: bool, tokenizer: Tokenizer, measure: Measure
) -> _Choice:
  prompts = [
    prompt for template, task in tasks for prompt in few_shot_settings.prompts(on_dev, template, task)
  ]
  task_of = {(template, task.label_words): task for template, task in tasks}
  num_items = len(tasks[0][1].sample(on_dev.limit))
  limits = [*rungs(len(prompts), num_items)[:-1], on_dev.limit] if halving else [on_dev.limit]
  found: dict[Prompt, Candidate] = {}
  left, spread, seen, prompts_read, began = prompts, None, set(), 0, time.perf_counter()
  for limit in limits:
    rung = dataclasses.replace(on_dev, limit=limit)
    rows, tables = measure(rung, tasks, only=set(left))
    table_of = {few_shot_settings.prompt_of(row): tables[row["key"]] for row in rows}
    scores = _common(
      {prompt: item_scores(table, metric) for prompt, table in table_of.items()}, on_dev.tasks[0]
    )
    for prompt in left:
      tokens = _tokens_read(task_of[prompt.template, prompt.label_words], table_of[prompt], tokenizer)
      tokens += found[prompt].tokens_read if prompt in found else 0
      score = float(scores[prompt].mean()) if prompt in scores else None
      found[prompt] = Candidate(prompt, score, len(scores) if prompt in scores else 0, tokens)
    spread = spread or _spread([found[prompt].dev_score for prompt in scores], len(scores))
    seen |= {item for table in table_of.values() if len(table) for item in table["item"]}
    prompts_read += sum(map(len, table_of.values()))
    ranked = sorted((found[prompt] for prompt in left if prompt in scores), key=_rank(metric))
    left = [one.prompt for one in ranked[: math.ceil(len(ranked) / 2)]]
  cost = Cost(
    len(prompts), len(seen), prompts_read, len(prompts) * num_items,
    sum(one.tokens_read for one in found.values()), time.perf_counter() - began,
  )  # fmt: skip
  return _Choice(ranked[0], spread, tuple(found.values()), cost)


def rungs(num_candidates: int, num_items: int) -> list[int]:
  """Returns on how many items the candidates are asked that each halving has left."""
  rounds = max(1, math.ceil(math.log2(num_candidates)))
  return [max(1, num_items >> r) for r in reversed(range(rounds))]


def _rank(metric: str) -> Callable[[Candidate], tuple[float, int, int]]:
  sign = -1 if metric in LOWER_IS_BETTER else 1
  # Sums of the same scores in another order differ in their last bits.
  return lambda one: (-round(sign * one.dev_score, 12), one.tokens_read, one.prompt.shots)


def _spread(scores: Sequence[float], n_items: int) -> Spread:
  sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
  return Spread(float(np.mean(scores)), sd, min(scores), max(scores), n_items)


# --- on test ------------------------------------------------------------------------------------------


def _on_test(on_test: Settings, choice: _Choice, metric: str, name: str, measure: Measure) -> Selection:
  dev_score, chosen = choice.chosen.dev_score, choice.chosen.prompt
  k = chosen.shots
  default = Prompt(
    prompt_tasks.DEFAULT, OWN_WORDS, k, on_test.seeds[0] if k else None, on_test.orders[0] if k > 1 else 0
  )
  asked = _asked(on_test, (chosen, default), measure)
  of_chosen, of_default = (item_scores(asked[prompt][1], metric) for prompt in (chosen, default))
  chosen_on_test = _mean(of_chosen)
  sign = -1 if metric in LOWER_IS_BETTER else 1
  task, table = asked[chosen]
  return Selection(
    model=name, task=task.name, metric=metric, dev_rows="train" if on_test.hold_out else "dev",
    chosen=chosen, default=default, dev_score=dev_score, spread=choice.spread,
    chosen_on_test=chosen_on_test, default_on_test=_mean(of_default),
    difference=_difference(of_chosen, of_default),
    optimism=None if chosen_on_test.value is None else sign * (dev_score - chosen_on_test.value),
    cost=choice.cost, candidates=choice.candidates, prompt=_first_prompt(task, table),
    provenance=records.provenance(),
  )  # fmt: skip


def _asked(
  on_test: Settings, prompts: Sequence[Prompt], measure: Measure
) -> dict[Prompt, tuple[FewShotTask, pandas.DataFrame]]:
  """Returns the test task as each prompt asks it, and the table of its items."""
  found = {}
  for template in dict.fromkeys(prompt.template for prompt in prompts):
    of = [prompt for prompt in prompts if prompt.template == template]
    words = tuple(dict.fromkeys(prompt.label_words for prompt in of))
    alone = dataclasses.replace(on_test, templates=(template,), label_words=words, shots=(of[0].shots,))
    tasks = few_shot_settings.tasks(alone)
    rows, tables = measure(alone, tasks, only=set(of))
    task_of = {task.label_words: task for _, task in tasks}
    for row in rows:
      prompt = few_shot_settings.prompt_of(row)
      found[prompt] = task_of[prompt.label_words], tables[row["key"]]
  return found


# --- scores of items ----------------------------------------------------------------------------------


def item_scores(table: pandas.DataFrame, metric: str) -> pandas.Series:
  """Returns {item: score}; of a table without any item, or without any that has an answer, none."""
  if metric not in table:
    return pandas.Series(dtype=np.float64)
  return table.drop_duplicates("item").set_index("item")[metric].dropna()


def _common(scores: dict[Prompt, pandas.Series], task: str) -> pandas.DataFrame:
  """Returns scores[item, candidate] of the items that all candidates have, those without any left out."""
  there = {prompt: of_items for prompt, of_items in scores.items() if len(of_items)}
  table = pandas.concat(there, axis=1, join="inner") if there else pandas.DataFrame()
  if table.empty:
    raise ConfigError(
      f"task {task!r}: the model has room for no dev item in all {len(scores)} prompts; leave out the longest"
    )
  return table


def _mean(of_items: pandas.Series) -> Estimate:
  if of_items.empty:
    return Estimate(None, None, None, 0)
  value, stderr, n = metrics.mean_and_stderr(of_items.to_numpy())
  return Estimate(value, stderr, None, n)


def _difference(of_chosen: pandas.Series, of_default: pandas.Series) -> Estimate:
  both = pandas.concat([of_chosen, of_default], axis=1, join="inner").to_numpy(np.float64)
  if not len(both):
    return Estimate(None, None, None, 0)
  return uncertainty.paired_bootstrap(both[:, 0], both[:, 1], np.mean)


# --- prompts as they were read ------------------------------------------------------------------------


def _contexts(task: FewShotTask, table: pandas.DataFrame) -> list[list[str]]:
  """Returns what was read before the answer of each item, or before its choices where these differ."""
  items, pool = ({item.id: item for item in of} for of in (task.items, task.pool))
  found = []
  for row in table.itertuples():
    item, demonstrations = items[row.item], [pool[identity] for identity in row.demonstrations]
    differing = range(len(item.contexts)) if item.contexts else range(1)
    found.append([task.context(item, demonstrations, choice) for choice in differing])
  return found


def _tokens_read(task: FewShotTask, table: pandas.DataFrame, tokenizer: Tokenizer) -> int:
  """Returns the tokens of prompts, and of the choices or written answers after them."""
  if table.empty:
    return 0
  texts = [context for contexts in _contexts(task, table) for context in contexts]
  texts += [sample for written in table["written"] for sample in written]
  return sum(map(len, tokenizer.encode_batch(texts))) + sum(int(sum(of)) for of in table["num_tokens"])


def _first_prompt(task: FewShotTask, table: pandas.DataFrame) -> str | None:
  return None if table.empty else _contexts(task, table.head(1))[0][0]
