"""Few-shot tasks as text: items, the demonstrations before them, and where both come from."""

import dataclasses
from pathlib import Path

from lm_jax.data import labelled
from lm_jax.prompt_tasks import definition, known
from lm_jax.prompt_tasks.association import association
from lm_jax.prompt_tasks.build import build
from lm_jax.prompt_tasks.definition import DEFAULT, Definition
from lm_jax.prompt_tasks.hold_out import hold_out
from lm_jax.prompt_tasks.items import Conversation, FewShotTask, Item
from lm_jax.prompt_tasks.label_words import with_label_words
from lm_jax.prompt_tasks.labeled_texts import from_labeled_texts
from lm_jax.strict import ConfigError, nearest

__all__ = [
  "Conversation", "FewShotTask", "Item", "association", "has_dev", "hold_out", "make", "names", "templates",
  "with_label_words",
]  # fmt: skip

ASSOCIATION = "association"


def names() -> tuple[str, ...]:
  return (ASSOCIATION, *known.KNOWN)


def make(name: str, template: str = DEFAULT, split: str = "test") -> FewShotTask:
  """Returns a task by its name, by the .yaml file of its definition, or of labeled texts by their path.

  Args:
    template: one of the definition's.
    split: whose rows are asked: "test", or "dev".

  Raises:
    ConfigError: no such task or template, files that are not there or not what they should be.
  """
  if name == ASSOCIATION:
    if template != DEFAULT or split != "test":
      raise ConfigError(f"few-shot task {name!r}: has one template, and no rows but those of test")
    return association()
  if not _is_defined(name) and Path(name).exists():
    if template != DEFAULT or split != "test":
      raise ConfigError(f"few-shot task {name!r}: has one template, and no split but test; write it a .yaml")
    return from_labeled_texts(Path(name))
  return build(define(name), template, split, known.ADAPT.get(name))


def templates(name: str) -> tuple[str, ...]:
  """Returns the names of a task's templates."""
  return (DEFAULT, *define(name).templates) if _is_defined(name) else (DEFAULT,)


def has_dev(name: str) -> bool:
  """Whether a task has rows of its own to choose by."""
  return _is_defined(name) and define(name).dev is not None


def _is_defined(name: str) -> bool:
  return name in known.KNOWN or Path(name).suffix in (".yaml", ".yml")


def define(name: str) -> Definition:
  """Returns the definition of a task of files."""
  path = Path(name).expanduser()
  if path.suffix in (".yaml", ".yml"):
    if not path.is_file():
      raise ConfigError(f"few-shot task {name!r}: no such file")
    return definition.read(path)
  if name in known.KNOWN:
    folder, mapping = known.KNOWN[name]
    d = dataclasses.replace(definition.from_mapping(mapping, f"task {name!r}"), name=name)
    # Whatever has the same name in the current folder is another thing.
    there = labelled.shared_tasks() / folder
    return definition.placed(d, there if there.is_dir() else labelled.find(folder), f"task {name!r}")
  raise ConfigError(
    f"few-shot task {name!r}: no .yaml file or path to labeled texts, nor a known one{nearest(name, names())}"
  )
