"""Tasks of which a third of the questions have no answer, and readers of known honesty."""

import json

import pytest
import reference

from lm_jax import few_shot, pretrained, prompt_tasks, tokenizers
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import Likelihood

CHOICE = {
  "kind": "choice", "test": "t.jsonl", "query": "Q: {{q}}\nA:", "choices": ["no", "yes"], "gold": "label",
  "answerable": "label is not none",
}  # fmt: skip
ASKED = {
  "kind": "generation", "test": "t.jsonl", "query": "Q: {{q}}\nA:", "answer": "{{a}}",
  "metrics": ["quasi_exact_match", "f1"], "answerable": "a != ''",
}  # fmt: skip
# Of every three the last has no answer.
ROWS = [
  {"q": f"row {i}", "label": None if i % 3 == 2 else i % 2, "a": "" if i % 3 == 2 else f"word {i}"}
  for i in range(60)
]


@pytest.fixture
def make(tmp_path):
  """Makes a task of a definition and of rows of its files."""

  def of(d: dict, rows=ROWS, split="test", **files) -> few_shot.FewShotTask:
    for name, content in {"t": rows, **files}.items():
      (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "task.yaml").write_text(json.dumps(d))  # JSON is YAML
    return prompt_tasks.make(str(tmp_path / "task.yaml"), split=split)

  return of


class Made:
  """Has room for all, and reads and writes by functions."""

  def __init__(self, log_p, write=None):
    self._log_p, self._write = log_p, write

  def excess(self, requests):
    return [0] * len(requests)

  def loglikelihood(self, requests, progress=None):
    return [Likelihood(self._log_p(*request), 2, False) for request in requests]

  def write(self, contexts, g, progress=None):
    return [[self._write(context)] * g.num_return_sequences for context in contexts]


def row_of(context: str) -> dict:
  return ROWS[int(context.rpartition("row ")[2].split("\n")[0])]


def oracle(context, text):
  """Knows the answers, and is sure where there is one only; of what is written it is as sure."""
  row = row_of(context)
  if row["label"] is None:
    return -9.0
  right = text in (f" {('no', 'yes')[row['label']]}", f" {row['a']}")
  return -0.5 if right else -7.0


def oracle_writes(context):
  return " " + (row_of(context)["a"] or "something")


def uniform(context, text):
  return -2.0


def asked(task, reader, shots=0, **options):
  return few_shot.ask(task, reader, few_shot.plan(task, reader, (shots,), None, 0), **options)


def by_metric(task, results, shots=0):
  return {score.metric: score for score in few_shot.means(task, results, shots)}


def random_model(context_length: int) -> Pretrained:
  config = reference.tiny(vocab_size=257, context_length=context_length, positions="learned")
  return pretrained.untrained(Pretrained(config, None, tokenizers.Bytes(), {"end": 256}, (256,)))
