"""A model without knowledge, a task of ten rows, and a reader that knows the answers or nothing."""

import dataclasses
import hashlib
import json

import pytest
import reference

from lm_jax import pretrained, tokenizers
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import Likelihood

CONTEXT = 160


@pytest.fixture(scope="module")
def model() -> Pretrained:
  """A random model of bytes, with room for some demonstrations of `association`."""
  config = reference.tiny(vocab_size=257, context_length=CONTEXT, positions="learned")
  made = pretrained.untrained(Pretrained(config, None, tokenizers.Bytes(), {"end": 256}, (256,)))
  return dataclasses.replace(made, identity={"test": 1})


@pytest.fixture
def definition(tmp_path):
  """A task of ten rows, as a person writes it."""
  rows = [{"text": f"row {i}", "label": i % 2} for i in range(10)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  path = tmp_path / "small.yaml"
  path.write_text('test: rows.jsonl\nquery: "T: {{text}}\\nL:"\nchoices: [bad, good]\ngold: label\n')
  return path


class Reading:
  """Has room for all; gives choices random numbers that depend on them alone, or knows the answers."""

  def __init__(self, answers=None, write=None):
    self._answers, self._write, self.asked = answers, write, 0

  def excess(self, requests):
    return [0] * len(requests)

  def loglikelihood(self, requests, progress=None):
    self.asked += len(requests)
    return [Likelihood(self._log_p(*request), 3, self._answers is not None) for request in requests]

  def _log_p(self, context, choice):
    if self._answers is not None:
      return -0.1 if any((context + choice).endswith(answer) for answer in self._answers) else -9.0
    return -1 - int(hashlib.sha256((context + choice).encode()).hexdigest()[:8], 16) / 2**32

  def write(self, contexts, g, progress=None):
    self.asked += len(contexts)
    return [[self._write(context)] * g.num_return_sequences for context in contexts]


def by_metric(rows):
  return {row["metric"]: row for row in rows}
