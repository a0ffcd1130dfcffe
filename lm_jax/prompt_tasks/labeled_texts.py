"""Labeled texts that nobody wrote a definition for: a file or a folder of `text` and `label`."""

from pathlib import Path

from lm_jax.data import labelled
from lm_jax.finetune_config import DataConfig
from lm_jax.prompt_tasks.items import FewShotTask, Item, text_id
from lm_jax.strict import ConfigError


def from_labeled_texts(path: Path) -> FewShotTask:
  """Reads them: train is the pool, test has the items, and the choices are the labels."""
  try:
    data = labelled.read(DataConfig(name=str(path)))
  except ConfigError as error:
    # There, the name is a field of another config.
    raise ConfigError(f"few-shot task: {str(error).replace('config.data.', '')}") from None
  choices = tuple(f" {name}" for name in data.classes)

  def items(split: labelled.Split) -> tuple[Item, ...]:
    pairs = zip(split.texts, split.labels.tolist(), strict=True)
    return tuple(Item(text_id(text), f"Text: {text}\nLabel:", choices, label) for text, label in pairs)

  return FewShotTask(path.stem if path.is_file() else path.name, items(data.test), items(data.train))
