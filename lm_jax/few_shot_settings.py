"""What is asked of a model: tasks, and how each is asked (template, words, shots, seed, order)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from lm_jax import prompt_tasks
from lm_jax.few_shot import Labels, TooLong, Writing
from lm_jax.prompt_tasks import FewShotTask, label_words
from lm_jax.prompt_tasks.items import OWN_WORDS
from lm_jax.strict import ConfigError, require

ALL = "all"  # templates
WRITES = ("generation", "code")  # kinds of tasks
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

  def columns(self) -> dict[str, Any]:
    """Returns what a row says of it."""
    return {
      "n_shots": self.shots, "seed": self.seed, "prompt_id": self.template,
      "label_words": self.label_words, "order": self.order,
    }  # fmt: skip


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


def prompt_of(row: Mapping[str, Any]) -> Prompt:
  """Returns what a row is about."""
  return Prompt(row["prompt_id"], row["label_words"], row["n_shots"], row["seed"], row["order"])
