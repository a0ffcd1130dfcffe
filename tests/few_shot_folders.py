"""Folders of few-shot results of models that know the right answers by a given margin."""

import dataclasses
import functools
import hashlib
import io
import json
import re

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import reference

from lm_jax import few_shot_runs, few_shot_scores, pretrained, tokenizers
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.figures import figure_parts
from lm_jax.few_shot_settings import Settings
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import Likelihood

NUM_ITEMS = 60
TASK = """
test: rows.jsonl
query: "T: {{text}}\\nL:"
choices: [bad, good]
gold: label
templates:
  words: {choices: [awful, great]}
  long: {query: "Text: {{text}}\\nLabel:"}
"""


class Skilled:
  """Tells the right choice by `skill` nats from a wrong one, and has random opinions beside that."""

  def __init__(self, skill):
    self._skill = skill

  def excess(self, requests):
    return [0] * len(requests)

  def loglikelihood(self, requests, progress=None):
    return [Likelihood(self._log_p(*request), 3, False) for request in requests]

  def _log_p(self, context, choice):
    right = int(re.findall(r"row (\d+)", context)[-1]) % 2 == (choice in (" good", " great"))
    noise = int(hashlib.sha256((context + choice).encode()).hexdigest()[:8], 16) / 2**32
    return self._skill * right - 4 * noise - 5

  def write(self, contexts, g, progress=None):
    return [["a b"] * g.num_return_sequences for _ in contexts]


def made(name, d_model=16, step=0) -> Pretrained:
  config = reference.tiny(vocab_size=257, context_length=160, positions="learned", d_model=d_model)
  model = pretrained.untrained(Pretrained(config, None, tokenizers.Bytes(), {"end": 256}, (256,)))
  return dataclasses.replace(model, identity={"name": name, "step": step}, step=step, family="llama")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  folder = tmp_path_factory.mktemp("task")
  rows = [{"text": f"row {i}", "label": i % 2} for i in range(NUM_ITEMS)]
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (folder / "small.yaml").write_text(TASK)
  return folder / "small.yaml"


def ask(folder, task, name="m", skill=1.0, *, d_model=16, step=0, **settings):
  """Returns the rows of a made model on the task, kept in a folder."""
  s = Settings((str(task),), **({"shots": (0, 2)} | settings))
  model = made(name, d_model, step)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(few_shot_scores, "_RESAMPLES", 10)  # of errors that no test here looks at
    return few_shot_runs.run(model, s, name=name, folder=folder, quiet=True, reader=Skilled(skill))


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
  """Two models of two sizes, three seeds and templates: not to be written to."""
  where = tmp_path_factory.mktemp("results")
  for name, skill, width in (("models/small", 0.5, 16), ("models/large", 2.0, 32)):
    ask(where, task, name, skill, d_model=width, seeds=(0, 1, 2), templates=("all",))
  return where


def lines(ax, width=None):
  return [line for line in ax.lines if width is None or line.get_linewidth() == width]


def items_of(folder, key):
  return pd.read_parquet(folder / "items" / f"{key}.parquet")


def by_hand(items):
  """Returns confidence and correct of each item."""
  p = np.array([np.exp(x) / np.exp(x).sum() for x in items["log_p"]])
  return p.max(1), p.argmax(1) == items["gold"].to_numpy()


def drawn(figure):
  """Draws a figure, so that what cannot be drawn fails here."""
  image = matplotlib.image.imread(io.BytesIO(figure_parts.encoded(figure, formats=("png",))["png"]))
  assert image[..., :3].std() > 0.01
  return figure


@pytest.fixture(scope="module")
def loaded(folder):
  results = few_shot_frame.load(folder)
  return results, few_shot_frame.means(results)


@pytest.fixture
def pixels_only(monkeypatch):
  one = functools.partial(figure_parts.encoded, formats=("png",))
  monkeypatch.setattr(figure_parts, "encoded", one)
