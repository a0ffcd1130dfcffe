"""Items as a model is asked them: with the demonstrations that its context has room for.

A prompt that is too long for a model loses whole demonstrations, the first ones first; how many are left is
part of what is known of it. An item that is too long without any is not asked, and missing in the means.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

from lm_jax.prompt_tasks import Conversation, FewShotTask, Item
from lm_jax.prompt_tasks.items import relabeled, reordered
from lm_jax.reader import Prompt, Reader
from lm_jax.strict import ConfigError, require

TooLong = Literal["drop", "refuse"]
Labels = Literal["gold", "random", "flipped"]
PREMISE = "Answer:"


@dataclasses.dataclass(frozen=True)
class Asked:
  """An item as it is asked.

  Attributes:
    shots: demonstrations that are asked for.
    demonstrations: those that there is room for, the last ones; None where there is none for the query.
    contexts: what is read before each choice, where these differ; else the one prompt.
  """

  item: Item
  shots: int
  demonstrations: tuple[Item, ...] | None
  contexts: tuple[Prompt, ...]

  def context(self, choice: int) -> Prompt:
    return self.contexts[choice if len(self.contexts) > 1 else 0]

  @property
  def is_chat(self) -> bool:
    return bool(self.contexts) and isinstance(self.contexts[0], Conversation)

  @property
  def digest(self) -> str:
    """A hash of what is read and of the choices."""
    text = "\0".join([*map(str, self.contexts), "", *self.item.choices])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(
  task: FewShotTask,
  reader: Reader,
  shots: Sequence[int],
  num_examples: int | None,
  seed: int,
  too_long: TooLong = "drop",
  labels: Labels = "gold",
  order: int = 0,
  chat: bool = False,
) -> list[Asked]:
  """Returns the items with their prompts, for each number of shots in turn.

  Args:
    num_examples: at most so many items, the same for any `shots` and `seed`; None: all.
    seed: of the demonstrations.
    labels: of the demonstrations, see `items.relabeled`.
    order: of the demonstrations, see `items.reordered`. The first of this order are those that are dropped.
    too_long: "refuse": a prompt that does not fit is an error.
    chat: ask in a conversation, see `items.FewShotTask.conversation`.
  """
  for k in shots:
    require(k >= 0, "shots", k, "0 or greater")
  require(num_examples is None or num_examples > 0, "num_examples", num_examples, "greater than 0")
  items = task.sample(num_examples)
  asked = []
  for k in shots:
    for item in items:
      demonstrations = reordered(task, item, task.demonstrations(item, k, seed), order)
      drawn = (relabeled(other, labels, seed) for other in demonstrations)
      asked.append(_asked(task, item, k, tuple(drawn), chat))
  pending = list(range(len(asked)))
  while pending:
    excess = reader.excess([_longest(task, asked[i]) for i in pending])
    pending = [i for i, over in zip(pending, excess, strict=True) if over > 0]
    if pending and too_long == "refuse":
      one = asked[pending[0]]
      raise ConfigError(
        f"task {task.name!r}: {len(pending)} prompts are too long for the model's context, e.g. one of "
        f"{one.shots} shots; ask for fewer, or let demonstrations be dropped"
      )
    for i in pending:
      one = asked[i]
      left = one.demonstrations[1:] if one.demonstrations else None
      asked[i] = _asked(task, one.item, one.shots, left, chat)
    pending = [i for i in pending if asked[i].demonstrations is not None]
  return asked


def _asked(
  task: FewShotTask, item: Item, shots: int, demonstrations: tuple[Item, ...] | None, chat: bool
) -> Asked:
  if demonstrations is None:
    return Asked(item, shots, None, ())
  if chat:
    return Asked(item, shots, demonstrations, (task.conversation(item, demonstrations),))
  differing = range(len(item.contexts)) if item.contexts else range(1)
  return Asked(item, shots, demonstrations, tuple(task.context(item, demonstrations, c) for c in differing))


def neutral_contexts(task: FewShotTask, asked: Asked) -> list[Prompt]:
  """Returns the same prompt with each of the item's queries without content."""
  items = [dataclasses.replace(asked.item, query=query) for query in asked.item.neutral]
  prompt = task.conversation if asked.is_chat else task.context
  return [prompt(item, asked.demonstrations) for item in items]


def premise(asked: Asked) -> Prompt | None:
  """Returns what says that an answer follows and nothing else; None where choices come after other texts.

  It is GPT-3's (arXiv:2005.14165, section 2.4).
  """
  if asked.item.contexts is not None:
    return None
  return Conversation((("user", PREMISE),)) if asked.is_chat else PREMISE


def _longest(task: FewShotTask, asked: Asked) -> tuple[Prompt, str | int]:
  """Returns the longest of what is read and comes after it, by characters."""
  if not asked.item.choices:
    return asked.contexts[0], task.max_new_tokens
  pairs = [(asked.context(c), choice) for c, choice in enumerate(asked.item.choices)]
  pairs += [(context, choice) for context in neutral_contexts(task, asked) for choice in asked.item.choices]
  return max(pairs, key=lambda pair: len(str(pair[0])) + len(pair[1]))
