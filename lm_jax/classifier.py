"""A fine-tuned classifier and its folder: parameters, labels and tokenizer, all that predicting needs.

classifier.json   model, labels, special tokens, and which run it is      params.npz   arrays by their paths
tokenizer/
"""

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import finetune_programs, pretrained, rundir, strict, tokenizers
from lm_jax.data.classifier_inputs import Encoder
from lm_jax.model_config import ModelConfig
from lm_jax.param_paths import flat, nested
from lm_jax.strict import ConfigError

FILE, PARAMS = "classifier.json", "params.npz"
# Texts are classified so many at a time, so that any number of them is one program.
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Classifier:
  """Attributes:
  classes: names of the labels.
  params: of lm_jax.model.Classifier, numpy.
  facts: which run this is: method, shots, draw, step, dev_accuracy, dev_nll, data.
  """

  model: ModelConfig
  classes: tuple[str, ...]
  params: Any
  encoder: Encoder
  facts: dict[str, Any]

  def probabilities(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the probability of every class for every text, float32 [N, C]."""
    if not texts:
      return np.zeros((0, len(self.classes)), np.float32)
    sequences = self.encoder.sequences(texts)
    inputs = self.encoder.inputs(sequences + sequences[:1] * (-len(texts) % _BATCH))
    parts = [
      self._program(self.params, inputs.tokens[i : i + _BATCH], inputs.lengths[i : i + _BATCH])
      for i in range(0, len(texts), _BATCH)
    ]
    return np.concatenate([np.asarray(part) for part in parts])[: len(texts)]

  @functools.cached_property
  def _program(self) -> Any:
    apply = functools.partial(finetune_programs.apply, self.model, len(self.classes))
    return jax.jit(lambda params, tokens, lengths: jax.nn.softmax(apply(params, tokens, lengths)))


def save(c: Classifier, folder: Path) -> None:
  """Writes beside `folder` and renames, in the place of what was there."""
  beside = folder.with_name(f".{folder.name}.{os.getpid()}")
  shutil.rmtree(beside, ignore_errors=True)
  beside.mkdir(parents=True)
  np.savez(beside / PARAMS, **flat(c.params))
  c.encoder.tokenizer.save(beside / pretrained.TOKENIZER)
  rundir.write_json(beside / FILE, {
    "model": strict.to_dict(c.model), "classes": list(c.classes), "max_length": c.encoder.max_length,
    "specials": dict(c.encoder.specials), "begin": list(c.encoder.begin),
    "tokenizer": c.encoder.tokenizer.digest, **c.facts,
  })  # fmt: skip
  # A folder cannot be replaced in one step; for a moment there is none, and never a half one.
  if folder.exists():
    old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
    folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old)
  else:
    beside.rename(folder)


def save_if_better(c: Classifier, folder: Path) -> None:
  """Saves, unless the folder has a better one on dev of the same method and k: of other draws."""
  path = folder / FILE
  there = json.loads(path.read_text()) if path.is_file() else None
  same = there is not None and all(there[key] == c.facts[key] for key in ("method", "shots", "data"))
  if not same or _rank(c.facts) > _rank(there):
    save(c, folder)


def _rank(facts: dict[str, Any]) -> tuple[float, float]:
  return facts["dev_accuracy"], -facts["dev_nll"]


def load(folder: Path) -> Classifier:
  """Opens what `save` wrote; raises ConfigError if there is none, or its parts do not fit each other."""
  path = folder / FILE
  if not path.is_file():
    raise ConfigError(f"--workdir={folder.parent}: has no classifier; lm-jax finetune makes one")
  saved = json.loads(path.read_text())
  model = strict.from_mapping(ModelConfig, saved["model"], "classifier.model")
  tokenizer = tokenizers.load(folder / pretrained.TOKENIZER)
  if tokenizer.digest != saved["tokenizer"]:
    raise ConfigError(
      f"{folder}: its tokenizer has digest {tokenizer.digest}, but the model's was {saved['tokenizer']}"
    )
  with np.load(folder / PARAMS, allow_pickle=False) as arrays:
    params = nested(dict(arrays))
  classes = tuple(saved["classes"])
  shapes = jax.eval_shape(lambda: finetune_programs.init_params(model, len(classes), np.zeros(2, np.uint32)))
  pretrained.check_fit(params, shapes, f"{folder / PARAMS} does not fit its {FILE}")
  # Those saved before there was a `begin` had none.
  begin = tuple(saved.get("begin", ()))
  encoder = Encoder(tokenizer, saved["specials"], model.causal, saved["max_length"], begin)
  facts = {key: saved[key] for key in ("method", "shots", "draw", "step", "dev_accuracy", "dev_nll", "data")}
  return Classifier(model, classes, params, encoder, facts)
