"""A task that needs no files: names with colors, then one of the names again: what was its color?"""

from lm_jax.prompt_tasks.items import FewShotTask, Item, hashed

NAMES = (
  "Ann", "Ben", "Carl", "Dan", "Eve", "Fred", "Grace", "Hans", "Ivan", "Jack", "Kate", "Leo", "Mary", "Nick",
  "Olga", "Paul", "Rose", "Sam", "Tom", "Vera",
)  # fmt: skip
COLORS = ("red", "blue", "green", "black", "white", "brown", "pink", "gray", "orange", "purple")
PAIRS = 4


def association(num_items: int = 1000, num_pool: int = 200) -> FewShotTask:
  """Returns the task.

  An item is 4 lines "name: color", all different, and a fifth with one of the names. The choices are the 4
  colors, so that chance is 1/4 for any number of shots; each shot is another such item, answered.
  """
  items = tuple(_item(f"test {i}") for i in range(num_items))
  return FewShotTask("association", items, tuple(_item(f"train {i}") for i in range(num_pool)))


def _item(identity: str) -> Item:
  names, colors = (
    sorted(words, key=lambda word: hashed("association", identity, word))[:PAIRS] for words in (NAMES, COLORS)
  )
  gold = hashed("association", identity, "asked") % PAIRS
  lines = [f"{name}: {color}" for name, color in zip(names, colors, strict=True)]
  return Item(identity, "\n".join([*lines, f"{names[gold]}:"]), tuple(f" {color}" for color in colors), gold)
