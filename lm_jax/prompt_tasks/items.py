"""Items, the demonstrations before them, and the prompts that both make.

What stands in a prompt is a function of the task, the seed, the item and the number of shots, and of nothing
else: every model sees the same prompts, in any order and on any machine.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_jax.strict import ConfigError

OWN_WORDS = "task"  # label words: those of the task itself


@dataclasses.dataclass(frozen=True)
class Item:
  """A question; a demonstration is the query and its answer.

  Attributes:
    query: what is read, without a space at its end.
    choices: what may come after it, each with what separates it from the query. Of a text that goes on in one
      way, that one. None where the model writes.
    gold: index of the right one.
    contexts: of choices that come after different texts: the query of each.
    references: of a written answer, those that are right.
    written: of a written answer, how a demonstration goes on.
    neutral: of a choice, queries without content, by which a model's preference for words is measured.
    fields: of the row.
    rank: of a task that retrieves passages: that of the first one that holds the answer, from 1; None where
      none of them does.
    group: its demonstrations are of the same group; None where the task has none.
    description: what the prompt begins with, where it is another than the task's own.
    answerable: whether there is an answer; without one, gold and references mean nothing.
  """

  id: str
  query: str
  choices: tuple[str, ...] = ()
  gold: int = 0
  contexts: tuple[str, ...] | None = None
  references: tuple[str, ...] = ()
  written: str | None = None
  neutral: tuple[str, ...] = ()
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
  rank: int | None = None
  group: str | None = None
  description: str | None = None
  answerable: bool = True

  @property
  def answered(self) -> str:
    if self.written is not None:
      return self.query + self.written
    return self.context(self.gold) + self.choices[self.gold]

  def context(self, choice: int) -> str:
    """Returns the query that a choice comes after."""
    return self.query if self.contexts is None else self.contexts[choice]


@dataclasses.dataclass(frozen=True)
class Conversation:
  """A prompt as turns of a conversation, for a model with a chat template.

  Attributes:
    turns: (role, text) of each, the roles being "system", "user" and "assistant"; the answer is the next one.
  """

  turns: tuple[tuple[str, str], ...]

  @property
  def messages(self) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in self.turns]

  def __str__(self) -> str:
    return "\n".join(f"{role}: {text}" for role, text in self.turns)


class _Candidates:
  """What demonstrations of one answer are drawn from, in an order that is no file's."""

  def __init__(self, items: Sequence[Item]):
    self._items = sorted(items, key=lambda item: item.id)
    self._where: dict[str, list[int]] = collections.defaultdict(list)
    for i, item in enumerate(self._items):
      self._where[item.id].append(i)

  def num_others(self, item: Item) -> int:
    """Returns how many there are, without this one and each counted once."""
    return len(self._where) - (item.id in self._where)

  def other(self, item: Item, number: int) -> Item:
    """Returns the one of a number, modulo how many there are without this one."""
    own = self._where.get(item.id, [])
    index = number % (len(self._items) - len(own))
    for i in own:  # ascending: what is before the number moves it up
      index += i <= index
    return self._items[index]


@dataclasses.dataclass(frozen=True)
class FewShotTask:
  """Items to score, and a pool that demonstrations are drawn from.

  Attributes:
    kind: of definition.KINDS.
    template: the name of how it is asked; None where there is one way only.
    balanced: whether demonstrations are of every gold as many.
    gap: what every choice begins with.
    label_words: what stands for the task's own choices, see `label_words.with_label_words`.
    passages: that are retrieved for an item from a knowledge base, at most; 0 where there is none.
    shown: whether demonstrations are written down: the first of the pool, for every item and seed.
  """

  name: str
  items: tuple[Item, ...]
  pool: tuple[Item, ...]
  separator: str = "\n\n"
  description: str = ""
  kind: str = "choice"
  template: str | None = None
  balanced: bool = True
  stop: tuple[str, ...] = ("\n",)
  max_new_tokens: int = 64
  metrics: tuple[str, ...] = ()
  program: str | None = None
  gap: str = " "
  label_words: str = OWN_WORDS
  passages: int = 0
  shown: bool = False

  @functools.cached_property
  def digest(self) -> str:
    """A hash of all that decides what is asked."""
    # What came later is in it where it is set only: kept results of other tasks keep their keys.
    apart = ("items", "pool", "gap", "label_words", "passages", "shown")
    how = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in apart}
    if self.shown:
      how["shown"] = True
    hashes = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    for item in (*self.items, None, *self.pool):
      asked: Any = (
        None
        if item is None
        else [
          item.id,
          item.answered if item.answerable else item.query,
          item.choices,
          item.contexts,
          item.references,
          item.neutral,
        ]
      )
      if item is not None and self.program is not None:
        asked.append(item.fields)  # tests are among them
      if item is not None and self.passages:
        asked.append([self.passages, item.rank])
      if item is not None and (item.group, item.description) != (None, None):
        asked.append({"group": item.group, "description": item.description})
      if item is not None and not item.answerable:
        asked.append({"answerable": False})
      hashes.update(json.dumps(asked).encode())
    return hashes.hexdigest()[:16]

  @functools.cached_property
  def by_group(self) -> dict[str | None, dict[int, "_Candidates"]]:
    """The pool by its groups, and these by their golds."""
    found: dict[str | None, dict[int, list[Item]]] = collections.defaultdict(
      lambda: collections.defaultdict(list)
    )
    for item in self.pool:
      found[item.group][item.gold if self.balanced else 0].append(item)
    return {
      group: {gold: _Candidates(of_gold[gold]) for gold in sorted(of_gold)}
      for group, of_gold in found.items()
    }

  def demonstrations(self, item: Item, shots: int, seed: int) -> list[Item]:
    """Returns `shots` other items of the same group, of every answer as many, or one more of some.

    Those of fewer shots are the first of those of more. Where they are written down, these are the first.
    """
    if not shots:
      return []
    if self.shown:
      if shots > len(self.pool):
        raise ConfigError(
          f"few-shot task {self.name!r}: has {len(self.pool)} `shown` demonstrations, shots need {shots}"
        )
      return list(self.pool[:shots])
    by_answer = self.by_group.get(item.group, {0: _Candidates(())})
    rounds = math.ceil(shots / len(by_answer))
    drawn = {gold: self._draw(item, by_answer, gold, rounds, seed) for gold in by_answer}
    golds = [
      gold
      for r in range(rounds)
      for gold in sorted(drawn, key=lambda gold, r=r: hashed(self.name, seed, item.id, "round", r, gold))
    ]
    remaining = {gold: iter(demonstrations) for gold, demonstrations in drawn.items()}
    return [next(remaining[gold]) for gold in golds[:shots]]

  def _draw(
    self, item: Item, by_answer: Mapping[int, _Candidates], gold: int, count: int, seed: int
  ) -> list[Item]:
    candidates = by_answer[gold]
    there = candidates.num_others(item)
    if there < count:
      of = f" of answer {gold}" if len(by_answer) > 1 else ""
      hint = "; a definition may say `balanced: false`" if of else ""
      of += "" if item.group is None else f" of group {item.group!r}"
      raise ConfigError(f"few-shot task {self.name!r}: has {there} examples{of}, shots need {count}{hint}")
    drawn: dict[str, Item] = {}
    draw = 0
    while len(drawn) < count:
      # Drawn again where it was drawn before, so that more shots only add to fewer.
      other = candidates.other(item, hashed(self.name, seed, item.id, gold, draw))
      drawn.setdefault(other.id, other)
      draw += 1
    return list(drawn.values())

  def context(self, item: Item, demonstrations: Sequence[Item], choice: int = 0) -> str:
    """Returns a prompt: what the model reads before an answer, or before a choice."""
    answered = [other.answered for other in demonstrations]
    description = self._description(item)
    first = [description] if description else []
    return self.separator.join([*first, *answered, item.context(choice) if item.contexts else item.query])

  def conversation(self, item: Item, demonstrations: Sequence[Item]) -> Conversation:
    """Returns a prompt as turns: the description as the system's, queries as the user's.

    Raises:
      ConfigError: where the answer goes on with the query's text, and so is nobody's turn.
    """
    if self.kind not in ("choice", "generation") or item.contexts is not None:
      raise ConfigError(
        f"task {self.name!r}: its answers go on with the text they come after; must be questions with "
        "answers to be asked in a conversation"
      )
    description = self._description(item)
    turns = [("system", description)] if description else []
    for other in demonstrations:
      answer = other.answered.removeprefix(other.query).strip()
      turns += [("user", other.query), ("assistant", answer)]
    return Conversation((*turns, ("user", item.query)))

  def _description(self, item: Item) -> str:
    return self.description if item.description is None else item.description

  def prompt(self, item: Item, shots: int, seed: int) -> str:
    """Returns the description, the demonstrations, answered, and the query."""
    return self.context(item, self.demonstrations(item, shots, seed))

  def sample(self, count: int | None) -> list[Item]:
    """Returns a fixed random choice of items, at most `count`; a smaller one is the beginning of a larger."""
    return sorted(self.items, key=lambda item: (hashed(self.name, item.id), item.id))[:count]


def relabeled(item: Item, labels: str, seed: int) -> Item:
  """Returns an item, to be shown as a demonstration, with another answer; raises ConfigError without choices.

  Args:
    labels: "gold"; "random", any of the choices, what the input says or not (Min et al., arXiv:2202.12837);
      "flipped", always a wrong one, the next (Wei et al., arXiv:2303.03846).
  """
  if labels == "gold":
    return item
  if len(item.choices) < 2 or item.contexts is not None:
    raise ConfigError(f"labels={labels!r}: an item {item.query[-30:]!r} has no choices of its own to change")
  num = len(item.choices)
  other = hashed("label", seed, item.id) % num if labels == "random" else (item.gold + 1) % num
  return dataclasses.replace(item, gold=other)


def reordered(task: FewShotTask, item: Item, demonstrations: Sequence[Item], order: int) -> list[Item]:
  """Returns the demonstrations of an item in another order (Lu et al., arXiv:2104.08786).

  Args:
    order: 0: as they were drawn; another number: a random permutation that belongs to (task, order, item).
  """
  if not order:
    return list(demonstrations)
  places = range(len(demonstrations))
  return [
    demonstrations[i] for i in sorted(places, key=lambda i: hashed(task.name, "order", order, item.id, i))
  ]


def text_id(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def hashed(*words: Any) -> int:
  return int.from_bytes(hashlib.sha256("\0".join(map(str, words)).encode()).digest()[:8], "big")
