"""Few-shot evaluation on a fixed set: what a model scores after k demonstrations, for every k."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import config as configs
from lm_jax import environment, metrics, strict, text_scores
from lm_jax.config import Config
from lm_jax.data.evaluation_sets import materialize
from lm_jax.model import Transformer, take_positions
from lm_jax.parallel import Engine
from lm_jax.scores import Score
from lm_jax.state import TrainState
from lm_jax.tasks.base import Batch, Task

WINDOW = "window"  # prompt_id of the summary over a task's last shots
_APART = "baseline from Bayes"  # what `aggregate` compares the model with; no score of a model


def evaluation_batch(config: Config, task: Task) -> Batch:
  """Returns the task's fixed evaluation set [N, T], drawn once and kept on disk as a TFDS dataset."""
  e = config.eval
  identity = [configs.SEMANTICS, strict.to_dict(config.task), e.num_examples, e.seed, task.data_digest]
  name = f"{config.task.name}_{strict.digest(identity)}"

  def draw() -> dict[str, np.ndarray]:
    batch = task.evaluation(e.num_examples, e.seed)
    return {field: np.asarray(value) for field, value in vars(batch).items() if value is not None}

  return Batch(**materialize(name, draw, environment.cache_dir() / "evaluation_sets"))


class Evaluator:
  """Scores the members of an engine's state (parallel.py) on the fixed set of their task."""

  def __init__(self, config: Config, task: Task, engine: Engine):
    batch = evaluation_batch(config, task)
    self._task, self._engine = task, engine
    if batch.positions is None:
      self._counted = batch.weights[:, config.task.label_positions] > 0
    else:
      self._counted = np.take_along_axis(batch.weights, batch.positions, 1) > 0
    self._parts = task.parts(batch)
    size = min(config.eval.batch_size, config.eval.num_examples)
    self._batches = engine.put_batches(
      jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)
    )  # fmt: skip
    score_batch = _make_score_batch(config, task)

    def score_tokens(s: TrainState, batches: Batch) -> dict[str, jax.Array]:
      return jax.lax.map(lambda batch: score_batch(s.params, batch), batches)

    self._score_tokens = engine.program(score_tokens)

  def __call__(self, s: TrainState) -> list[list[Score]]:
    """Returns the scores of every member."""
    scores = self._engine.by_member(self._score_tokens(s, self._batches))
    members = [
      {name: self._items(name, value[member]) for name, value in scores.items()}
      for member in range(self._engine.num_members)
    ]
    if self._task.shots is None:
      return [text_scores.aggregate(per_token, self._task) for per_token in members]
    return [aggregate(per_token, self._task, self._parts) for per_token in members]

  def _items(self, name: str, value: np.ndarray) -> np.ndarray:
    """Returns scores of batches by item; a position that does not count is missing, NaN, in every mean."""
    value = value.reshape(len(self._counted), -1)
    return value if name in text_scores.NEXT_SENTENCE else np.where(self._counted, value, np.nan)


def _make_score_batch(config: Config, task: Task) -> Callable[[Any, Batch], dict[str, jax.Array]]:
  if task.shots is None:
    return text_scores.make_score_batch(config)
  model, positions = Transformer(config.model), config.task.label_positions

  def score_batch(params: Any, batch: Batch) -> dict[str, jax.Array]:
    logits = model.apply({"params": params}, batch.tokens, label_positions=positions)
    targets = take_positions(batch.targets, positions)
    bayes, baseline = task.bayes_predict(batch), task.baseline_predict(batch)
    scores = metrics.token_scores(logits, targets, task.choices, bayes, baseline)
    if baseline is not None:
      scores[_APART] = metrics.kl(bayes, jnp.log(baseline))
    return scores

  return score_batch


def aggregate(
  per_token: dict[str, np.ndarray], task: Task, parts: Mapping[str, np.ndarray] | None = None
) -> list[Score]:
  """Turns token scores [N, P] (NaN where missing) into means with standard errors over the N items.

  Args:
    parts: {name: bool [N]}, items that are scored on their own too.
  """
  per_token = dict(per_token)
  apart = per_token.pop(_APART, None)
  num_queries, A = len(task.shots), task.answer_length
  per_query = {
    name: _nanmean(value.reshape(-1, num_queries, A), 2)
    for name, value in per_token.items()
    if name != "exact_match"
  }
  exact_NQA = per_token["exact_match"].reshape(-1, num_queries, A)
  scores = []
  for shots in sorted({int(s) for s in task.shots}):
    queries = np.flatnonzero(task.shots == shots)
    scores += _scores(per_query, queries, task, n_shots=shots)
    scores += _exact_match(exact_NQA, int(queries[-1]), task, n_shots=shots)
  last = np.arange(num_queries)[-task.window :]
  scores += _scores(per_query, last, task, prompt_id=WINDOW)
  scores += _exact_match(exact_NQA, num_queries - 1, task, prompt_id=WINDOW)
  if apart is not None:
    # Edelman et al.'s threshold: is the model closer to the Bayes predictor than half-way to the baseline?
    closer = _mean_over(per_query["kl_bayes"], last) < 0.5 * _mean_over(apart, last)
    value, stderr, n = metrics.mean_and_stderr(closer.astype(np.float64))
    scores.append(Score("beats_baseline", value, stderr, n, prompt_id=WINDOW))
  for name, items_N in (parts or {}).items():
    own = {metric: value[items_N] for metric, value in per_query.items()}
    own["token_accuracy"] = _nanmean(exact_NQA[items_N], 2)
    of_part = _scores(own, last, task) + _exact_match(exact_NQA[items_N], num_queries - 1, task)
    scores += [dataclasses.replace(score, task=f"{task.config.name}_{name}") for score in of_part]
  return scores


def _scores(per_query: dict[str, np.ndarray], queries: np.ndarray, task: Task, **where) -> list[Score]:
  scores = []
  for name, value in per_query.items():
    mean, stderr, n = metrics.mean_and_stderr(_mean_over(value, queries))
    if n:
      chance = task.chance if name in ("accuracy", "choice_prob") else None
      scores.append(Score(name, mean, stderr, n, chance=chance, **where))
  return scores


def _exact_match(exact_NQA: np.ndarray, last: int, task: Task, **where) -> list[Score]:
  """Exact match of the `window` queries that end at `last`; missing where there are fewer."""
  if last + 1 < task.window:
    return []
  asked = exact_NQA[:, last + 1 - task.window : last + 1].reshape(len(exact_NQA), -1)
  mean, stderr, n = metrics.mean_and_stderr(_all(asked, 1))
  if not n:
    return []
  # Where not every position asks something, an item's chance depends on how many do.
  counts = (~np.isnan(asked)).sum(1)
  chance = float(np.mean(task.chance ** counts[counts > 0]))
  return [Score("exact_match", mean, stderr, n, chance=chance, **where)]


def _mean_over(value_NQ: np.ndarray, queries: np.ndarray) -> np.ndarray:
  return _nanmean(value_NQ[:, queries], 1)


def _nanmean(x: np.ndarray, axis: int) -> np.ndarray:
  """Mean of the values that are there; NaN where none is (numpy's nanmean would warn)."""
  there = ~np.isnan(x)
  count = there.sum(axis)
  return np.where(count > 0, np.where(there, x, 0).sum(axis) / np.maximum(count, 1), np.nan)


def _all(x: np.ndarray, axis: int) -> np.ndarray:
  """1 where all values that are there are 1; NaN where none is."""
  there = ~np.isnan(x)
  return np.where(there.any(axis), np.where(there, x, 1).all(axis), np.nan)
