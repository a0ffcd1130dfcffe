"""Few-shot multiple choice as text: items, the demonstrations before them, and where both come from.

What stands in a prompt is a function of the task, the seed, the item and the number of shots, and of nothing
else: every model sees the same prompts, in any order and on any machine.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax import finetune_config
from lm_jax.data import labelled
from lm_jax.finetune_config import DataConfig
from lm_jax.strict import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Item:
  """A question with its choices; a demonstration is the query and the right choice.

  Attributes:
    query: what is read, without a space at its end.
    choices: each begins with what separates it from the query.
    gold: index of the right one.
  """

  id: str
  query: str
  choices: tuple[str, ...]
  gold: int

  @property
  def answered(self) -> str:
    return self.query + self.choices[self.gold]


@dataclasses.dataclass(frozen=True)
class FewShotTask:
  """Items to score, and a pool that demonstrations are drawn from."""

  name: str
  items: tuple[Item, ...]
  pool: tuple[Item, ...]
  separator: str = "\n\n"

  @functools.cached_property
  def by_answer(self) -> dict[int, list[Item]]:
    """The pool by its golds, in an order that is no file's."""
    pool = sorted(self.pool, key=lambda item: item.id)
    golds = sorted({item.gold for item in pool})
    return {gold: [item for item in pool if item.gold == gold] for gold in golds}

  def demonstrations(self, item: Item, shots: int, seed: int) -> list[Item]:
    """Returns `shots` other items, of every answer as many, or one more of some.

    Those of fewer shots are the first of those of more.
    """
    if not shots:
      return []
    rounds = math.ceil(shots / max(1, len(self.by_answer)))
    drawn = {gold: self._draw(item, gold, rounds, seed) for gold in self.by_answer}
    golds = [
      gold
      for r in range(rounds)
      for gold in sorted(drawn, key=lambda gold, r=r: _hash(self.name, seed, item.id, "round", r, gold))
    ]
    remaining = {gold: iter(demonstrations) for gold, demonstrations in drawn.items()}
    return [next(remaining[gold]) for gold in golds[:shots]]

  def _draw(self, item: Item, gold: int, count: int, seed: int) -> list[Item]:
    candidates = [other for other in self.by_answer[gold] if other.id != item.id]
    if len({other.id for other in candidates}) < count:
      raise ConfigError(
        f"few-shot task {self.name!r}: has {len(candidates)} examples of answer {gold}, shots need {count}"
      )
    drawn: dict[str, Item] = {}
    draw = 0
    while len(drawn) < count:
      # Drawn again where it was drawn before, so that more shots only add to fewer.
      other = candidates[_hash(self.name, seed, item.id, gold, draw) % len(candidates)]
      drawn.setdefault(other.id, other)
      draw += 1
    return list(drawn.values())

  def prompt(self, item: Item, shots: int, seed: int) -> str:
    """Returns the demonstrations, answered, and the query."""
    answered = [other.answered for other in self.demonstrations(item, shots, seed)]
    return self.separator.join([*answered, item.query])

  def sample(self, count: int) -> list[Item]:
    """Returns a fixed random choice of items, at most `count`; a smaller one is the beginning of a larger."""
    return sorted(self.items, key=lambda item: (_hash(self.name, item.id), item.id))[:count]


def _hash(*words: Any) -> int:
  return int.from_bytes(hashlib.sha256("\0".join(map(str, words)).encode()).digest()[:8], "big")


# --- labeled texts --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Template:
  """How a labeled text is asked; choices are the names of the labels after a space."""

  query: str = "Text: {text}\nLabel:"

  def item(self, text: str, names: Sequence[str], label: int) -> Item:
    identity = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Item(identity, self.query.format(text=text), tuple(f" {name}" for name in names), label)


# Of the data sets in finetune_config.KNOWN, where the names of their labels are.
TEMPLATES = {
  "mr": Template("Review: {text}\nSentiment:"), "cr": Template("Review: {text}\nSentiment:"),
  "subj": Template("Sentence: {text}\nType:"), "poem_sentiment": Template("Verse: {text}\nSentiment:"),
}  # fmt: skip


def from_labeled_texts(name: str) -> FewShotTask:
  """Reads a data set: train is the pool, test has the items."""
  path, config = Path(name), DataConfig(name=name, **finetune_config.KNOWN.get(name, {}))
  try:
    data = labelled.read(config)
  except ConfigError as error:
    # There, the name is a field of another config.
    raise ConfigError(f"few-shot task: {str(error).replace('config.data.', '')}") from None
  template = TEMPLATES.get(name, Template())

  def items(split: labelled.Split) -> tuple[Item, ...]:
    pairs = zip(split.texts, split.labels.tolist(), strict=True)
    return tuple(template.item(text, data.classes, label) for text, label in pairs)

  return FewShotTask(path.stem if path.is_file() else path.name, items(data.test), items(data.train))


# --- association ----------------------------------------------------------------------------------

NAMES = (
  "Ann", "Ben", "Carl", "Dan", "Eve", "Fred", "Grace", "Hans", "Ivan", "Jack", "Kate", "Leo", "Mary", "Nick",
  "Olga", "Paul", "Rose", "Sam", "Tom", "Vera",
)  # fmt: skip
COLORS = ("red", "blue", "green", "black", "white", "brown", "pink", "gray", "orange", "purple")
PAIRS = 4


def association(num_items: int = 1000, num_pool: int = 200) -> FewShotTask:
  """Names with colors, then one of the names again: what was its color? Needs no files.

  An item is 4 lines "name: color", all different, and a fifth with one of the names. The choices are the 4
  colors, so that chance is 1/4 for any number of shots; each shot is another such item, answered.
  """
  items = tuple(_association_item(f"test {i}") for i in range(num_items))
  return FewShotTask("association", items, tuple(_association_item(f"train {i}") for i in range(num_pool)))


def _association_item(identity: str) -> Item:
  names, colors = (
    sorted(words, key=lambda word: _hash("association", identity, word))[:PAIRS] for words in (NAMES, COLORS)
  )
  gold = _hash("association", identity, "asked") % PAIRS
  lines = [f"{name}: {color}" for name, color in zip(names, colors, strict=True)]
  return Item(identity, "\n".join([*lines, f"{names[gold]}:"]), tuple(f" {color}" for color in colors), gold)


def make(name: str) -> FewShotTask:
  """Returns a task by its name, or of labeled texts by their path; raises ConfigError."""
  if name == "association":
    return association()
  if name not in TEMPLATES and not Path(name).exists():
    known = ("association", *TEMPLATES)
    raise ConfigError(
      f"few-shot task {name!r}: no path to labeled texts, nor a known one{nearest(name, known)}"
    )
  return from_labeled_texts(name)
