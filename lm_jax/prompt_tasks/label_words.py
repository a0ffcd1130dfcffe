"""Label words: what the answers of a choice are called in a prompt (verbalizers; arXiv:2001.07676).

Words are written with bars between, such as "terrible|great", in the order of the task's own choices. They
stand for those as choices of the item that is asked, in its demonstrations, and after queries without
content. What a template says about its labels in the query or the description stays as it is.
"""

import dataclasses

from lm_jax.prompt_tasks.items import OWN_WORDS, FewShotTask, Item
from lm_jax.strict import ConfigError, require


def split(text: str) -> tuple[str, ...]:
  """Returns the words of "bad|good"; raises ConfigError."""
  words = tuple(word.strip() for word in text.split("|"))
  ok = len(words) > 1 and all(words) and len(set(words)) == len(words)
  require(ok, "--label_words", text, f"{OWN_WORDS!r}, or different words with bars between, such as bad|good")
  return words


def with_label_words(task: FewShotTask, text: str) -> FewShotTask:
  """Returns a task with other words for its choices; raises ConfigError where these differ between rows."""
  if text == OWN_WORDS:
    return task
  words = split(text)
  own = {item.choices for item in (*task.items, *task.pool)}
  in_context = any(item.contexts is not None for item in task.items)
  if task.kind != "choice" or len(own) != 1 or in_context:
    raise ConfigError(
      f"--label_words={text}: task {task.name!r} has no labels to rename; must be a task whose choices are "
      "the same for every row"
    )
  (labels,) = own
  if len(words) != len(labels):
    shown = "|".join(label.removeprefix(task.gap) for label in labels[:9]) + "|..." * (len(labels) > 9)
    raise ConfigError(
      f"--label_words={text}: has {len(words)} words, but task {task.name!r} {len(labels)} labels: {shown}"
    )
  choices = tuple(task.gap + word for word in words)

  def renamed(items: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(dataclasses.replace(item, choices=choices) for item in items)

  return dataclasses.replace(task, items=renamed(task.items), pool=renamed(task.pool), label_words=text)
