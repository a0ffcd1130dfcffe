"""Few-shot fine-tuning: which runs there are, what each is trained and scored on, and the rows it leaves.

A run is (method, k, draw). All draws of one (method, k) that are missing are one group, which is trained and
scored as a whole, and whose rows are then written at once. The test split is scored once, at the step that
dev chose, and is not there while a run is trained.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import classifier, finetune_config, lora, metrics, records, scaling, strict
from lm_jax.data import classifier_inputs, labelled
from lm_jax.data.classifier_inputs import Encoder
from lm_jax.finetune_config import FinetuneConfig
from lm_jax.finetune_programs import ITEM_SCORES, Draw, Examples, Programs, Result, trunk
from lm_jax.pretrained import Pretrained
from lm_jax.records import Record
from lm_jax.strict import ConfigError

PARAMS_TRAINED = "params_trained"  # a row of every run, split "train"
# The rows that make a run whole.
ROWS = {(split, metric) for split in ("test", "dev") for metric in ITEM_SCORES} | {("train", PARAMS_TRAINED)}


class Diverged(Exception):
  """A run's loss is no number."""


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs of one method and k that are trained together."""

  method: str
  shots: int
  draws: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The scores of one run at the chosen step: {metric: per item} on dev and on test."""

  draw: int
  step: int
  dev: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


class Finetuning:
  """All that the runs of one config share: data as tokens, the pretrained trunk, a program a method.

  Attributes:
    encoder: how texts become sequences, all of the length of its max_length.
    facts: of the data and the model, for task.json.
  """

  def __init__(self, c: FinetuneConfig, pretrained: Pretrained):
    model = pretrained.model
    if c.max_length > model.context_length:
      raise ConfigError(
        f"config.max_length={c.max_length}: must be at most the model's context_length={model.context_length}"
      )
    self.c, self.model, self.pretrained = c, model, pretrained
    self.data = labelled.read(c.data)
    self.classes = self.data.classes
    self.base = trunk(model, pretrained.params, len(self.classes))
    self._test_rows = labelled.sample(self.data.test, c.data.num_test, "test")
    self._encode()
    self._programs: dict[str, Programs] = {}
    self.facts = self._facts()

  # --- data -------------------------------------------------------------------------------------

  def train_rows(self, shots: int, draw: int) -> np.ndarray:
    """Returns the rows of the train split that a run is trained on."""
    return labelled.draw(self.data.train, self.classes, shots, draw, "train")

  def dev_rows(self, shots: int, draw: int) -> np.ndarray:
    """Returns the rows of the valid split that choose its step."""
    if self.c.data.num_dev is None:
      return labelled.draw(self.data.valid, self.classes, shots, draw, "valid")
    return labelled.sample(self.data.valid, self.c.data.num_dev, "valid")

  def _encode(self) -> None:
    """Makes the tables of examples: train, then valid, in one, and test in another."""
    p, causal = self.pretrained, self.model.causal
    tokenizer = p.require_tokenizer("config.checkpoint")
    encoder = Encoder(tokenizer, p.specials, causal, self.c.max_length, p.begin if causal else ())
    train, valid = self.data.train, self.data.valid
    sequences = encoder.sequences(train.texts + valid.texts)
    # Of all of train and valid, so that it does not depend on which runs there are.
    length = classifier_inputs.common_length(sequences, self.c.max_length)
    self.encoder = dataclasses.replace(encoder, max_length=length)
    self.pool = self._examples(sequences, np.concatenate([train.labels, valid.labels]))
    test = self.data.test.take(self._test_rows)
    self.test = self._examples(self.encoder.sequences(test.texts), test.labels)

  def _examples(self, sequences: Sequence[Sequence[int]], labels: np.ndarray) -> Examples:
    inputs = self.encoder.inputs(sequences)
    return Examples(*map(jax.numpy.asarray, (inputs.tokens, inputs.lengths, labels)))

  def draw(self, shots: int, draw: int) -> Draw:
    """Returns what a run is trained on, a function of the data and the draw."""
    batches = _batches(self.train_rows(shots, draw), self.c.max_steps, self.c.batch_size, draw)
    dev = (len(self.data.train) + self.dev_rows(shots, draw)).astype(np.int32)
    return Draw(np.array([0, draw], np.uint32), batches, dev)

  def _facts(self) -> dict[str, Any]:
    c, test = self.c, self.data.test.take(self._test_rows)
    begin = {"begin": list(self.encoder.begin)} if self.encoder.begin else {}
    return {
      "name": Path(c.data.name).name, "classes": list(self.classes), "chance": 1 / len(self.classes),
      "majority_share": labelled.majority_share(test), "num_train": len(self.data.train),
      "num_valid": len(self.data.valid), "num_dev": c.data.num_dev, "num_test": len(test),
      "sequence_length": self.encoder.max_length, "initial": c.initial, "data_digest": self.data.digest,
      "model": self.pretrained.identity | begin, "settings": finetune_config.identity(c),
    }  # fmt: skip

  # --- runs -------------------------------------------------------------------------------------

  def programs(self, method: str) -> Programs:
    if method not in self._programs:
      self._programs[method] = Programs(self.c, self.model, len(self.classes), method, self.base)
    return self._programs[method]

  def train(self, group: Group) -> Result:
    """Trains a group's runs; raises Diverged if one has no finite loss at any look."""
    draws = [self.draw(group.shots, draw) for draw in group.draws]
    result = self.programs(group.method).train(self.pool, jax.tree.map(lambda *xs: np.stack(xs), *draws))
    for draw, step in zip(group.draws, np.asarray(result.step), strict=True):
      if step == 0:
        raise Diverged(
          f"{group.method}, k={group.shots}, draw {draw}: the loss on dev is no number; lower "
          f"config.optimizer.learning_rate.{group.method}"
        )
    return result

  def score(self, group: Group, result: Result) -> list[Outcome]:
    """Scores a group's runs at their chosen steps."""
    programs, runs = self.programs(group.method), len(group.draws)
    dev_rows = np.stack([self.draw(group.shots, draw).dev for draw in group.draws])
    test_rows = np.broadcast_to(np.arange(len(self._test_rows), dtype=np.int32), (runs, len(self._test_rows)))
    dev = programs.score(result.trained, self.pool, dev_rows)
    test = programs.score(result.trained, self.test, test_rows)
    return [
      Outcome(draw, int(result.step[i]), *({m: scores[m][i] for m in scores} for scores in (dev, test)))
      for i, draw in enumerate(group.draws)
    ]

  def classifier(self, group: Group, result: Result) -> classifier.Classifier:
    """Returns the run of a group that is best on dev, the first of equal ones."""
    best = int(np.lexsort((np.asarray(result.nll), -np.asarray(result.accuracy)))[0])
    params = self.programs(group.method).assemble(jax.tree.map(lambda x: x[best], result.trained))
    return classifier.Classifier(
      self.model, self.classes, jax.tree.map(np.asarray, params), self.encoder,
      facts={
        "method": group.method, "shots": group.shots, "draw": group.draws[best],
        "step": int(result.step[best]), "dev_accuracy": float(result.accuracy[best]),
        "dev_nll": float(result.nll[best]), "data": self.facts["name"],
      },
    )  # fmt: skip

  # --- rows -------------------------------------------------------------------------------------

  def rows(self, group: Group, outcomes: Sequence[Outcome], wall_s: float) -> Iterator[Record]:
    """Yields the records of a group's runs."""
    for outcome in outcomes:
      shared = self._shared_fields(group, outcome, round(wall_s / len(outcomes), 3))
      for split, scores in (("test", outcome.test), ("dev", outcome.dev)):
        for metric, items in scores.items():
          value, stderr, n = metrics.mean_and_stderr(items)
          chance = self.facts["chance"] if metric in ("accuracy", "choice_prob") else None
          yield Record(
            split=split, metric=metric, value=value, stderr=stderr, n_items=n, chance=chance, **shared
          )
      trained = self.programs(group.method).params_trained
      yield Record(split="train", metric=PARAMS_TRAINED, value=trained, stderr=None, n_items=None,
                   chance=None, **shared)  # fmt: skip

  def _shared_fields(self, group: Group, outcome: Outcome, wall_s: float) -> dict[str, Any]:
    total, nonembedding = self.programs(group.method).params_total()
    tokens = outcome.step * self.c.batch_size * self.encoder.max_length
    what = [self.facts[key] for key in ("settings", "model", "data_digest")]
    return {
      "study": self.c.study, "cell_id": strict.digest([*what, group.method, group.shots, outcome.draw]),
      "family": group.method, "objective": f"finetune_{group.method}", "params_total": total,
      "params_nonembedding": nonembedding, "flops_6nd": 6.0 * total * tokens,
      "flops_6nd_nonembedding": 6.0 * nonembedding * tokens,
      "flops_exact": float(outcome.step * self.c.batch_size * self._sequence_flops(group.method)),
      "tokens": tokens, "step": outcome.step, "seed": outcome.draw, "task": self.facts["name"],
      "n_shots": group.shots, "prompt_id": None, "wall_s": wall_s,
      "device": jax.devices()[0].device_kind, **records.provenance(),
    }  # fmt: skip

  def _sequence_flops(self, method: str) -> int:
    """Returns the matrix-product FLOPs of one sequence's update, without the head's few.

    Gradients of activations and of kernels cost a forward pass each: full has both, the head alone neither,
    LoRA the first, and the second for the kernels that it changes.
    """
    forward = scaling.forward_flops(self.model, self.encoder.max_length, 0)
    if method == "head":
      return forward
    if method == "full":
      return scaling.FORWARD_AND_BACKWARD * forward
    shapes = lora.target_paths(self.base, self.c.lora.targets).values()
    return 2 * forward + sum(2 * self.encoder.max_length * int(np.prod(shape)) for shape in shapes)


def _batches(rows: np.ndarray, steps: int, size: int, draw: int) -> np.ndarray:
  """Returns int32 [steps, size]: the rows in one random order after another, cut into batches.

  Fewer rows than a batch has are in it several times, which leaves the mean of their gradients as it is (to a
  part that shrinks with the batch, where their number does not divide it).
  """
  rng = np.random.default_rng(draw)
  orders = [rng.permutation(rows) for _ in range(-(-steps * size // len(rows)))]
  return np.concatenate(orders)[: steps * size].reshape(steps, size).astype(np.int32)


def check_data(c: FinetuneConfig) -> None:
  """Raises ConfigError if the data cannot be read, or has too few examples; it costs a second at most."""
  data = labelled.read(c.data)
  labelled.draw(data.train, data.classes, max(c.shots), 0, "train")
  if c.data.num_dev is None:
    labelled.draw(data.valid, data.classes, max(c.shots), 0, "valid")


# --- what is there, and what is missing -----------------------------------------------------------


def finished(rows: Sequence[dict[str, Any]]) -> set[tuple[str, int, int]]:
  """Returns the (method, k, draw) that have all their rows."""
  found: dict[tuple[str, int, int], set[tuple[str, str]]] = {}
  for row in rows:
    run = row["family"], row["n_shots"], row["seed"]
    found.setdefault(run, set()).add((row["split"], row["metric"]))
  return {run for run, there in found.items() if there >= ROWS}


def read_finished(path: Path) -> set[tuple[str, int, int]]:
  """Returns the finished runs of records.jsonl, and drops what unfinished ones have left there."""
  if not path.exists():
    return set()
  rows = records.read(path)
  done = finished(rows)
  kept = [row for row in rows if (row["family"], row["n_shots"], row["seed"]) in done]
  text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept)
  if text.encode() != path.read_bytes():
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
  return done


def missing(c: FinetuneConfig, done: set[tuple[str, int, int]]) -> list[Group]:
  """Returns the groups that are to be run, by method and k; none of their draws is done."""
  groups = [
    Group(method, k, tuple(draw for draw in range(c.draws) if (method, k, draw) not in done))
    for method in c.methods
    for k in sorted(c.shots)
  ]
  return [group for group in groups if group.draws]


def run_group(f: Finetuning, group: Group, path: Path, keep: Path | None) -> list[Outcome]:
  """Trains and scores a group and appends its rows to `path`.

  Args:
    keep: folder for the best classifier of the group; none: not kept.
  """
  start = time.monotonic()
  result = f.train(group)
  outcomes = f.score(group, result)
  # Before the rows: a group without them is run again, and its classifier is then written once more.
  if keep is not None:
    classifier.save_if_better(f.classifier(group, result), keep)
  records.append(path, f.rows(group, outcomes, time.monotonic() - start))
  return outcomes


def is_kept(c: FinetuneConfig, group: Group) -> bool:
  """Whether the best of a group is the classifier that is kept: the first method at the largest k."""
  return group.method == c.methods[0] and group.shots == max(c.shots)
