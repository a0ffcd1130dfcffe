"""Few-shot prompting: multiple choice by a scorer's log-likelihoods, after k demonstrations.

For an item with choices C and gold g, log p(c) the sum over a choice's tokens:
  accuracy        1 if log p(g) is the largest; where m choices share it, g among them, 1/m.
  accuracy_norm   the same of log p(c) / characters of c, without the space before it.
  nll             -log p(g) / tokens of g, nats a token.
  choice_prob     p(g) normalized over the choices.
  brier           sum over the choices of (p - 1[gold])^2, p normalized over the choices: 0 to 2.
Contexts longer than the model's lose their first demonstrations (see lm_jax/scorer.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax import metrics
from lm_jax.config import Config
from lm_jax.data.few_shot_tasks import FewShotTask, Item, association, make
from lm_jax.scorer import CausalScorer, Likelihood, PseudoScorer, Scorer
from lm_jax.scores import Score
from lm_jax.strict import require
from lm_jax.tasks.text import Text

__all__ = ["FewShotTask", "Item", "association", "evaluate", "evaluate_params", "make"]

WITH_CHANCE = ("accuracy", "accuracy_norm", "choice_prob")


def evaluate(
  task: FewShotTask, scorer: Scorer, shots: Sequence[int], num_examples: int, seed: int
) -> list[Score]:
  """Returns the scores for each number of shots.

  Args:
    num_examples: at most so many items, the same for any `shots` and `seed`.
    seed: of the demonstrations.
  """
  for k in shots:
    require(k >= 0, "shots", k, "0 or greater")
  require(num_examples > 0, "num_examples", num_examples, "greater than 0")
  items = task.sample(num_examples)
  asked = [(k, item, task.prompt(item, k, seed)) for k in shots for item in items]
  requests = [(prompt, choice) for _, item, prompt in asked for choice in item.choices]
  found = iter(scorer.loglikelihood(requests))
  per_item = [item_scores(item, [next(found) for _ in item.choices]) for _, item, _ in asked]
  return [
    score
    for i, k in enumerate(shots)
    for score in _aggregate(task, items, per_item[i * len(items) : (i + 1) * len(items)], k)
  ]


def evaluate_params(config: Config, task: Text, params: Any) -> list[Score]:
  """Returns the scores of a text model on all tasks that `config.eval` asks for."""
  e, make_scorer = config.eval, PseudoScorer if config.task.is_masked else CausalScorer
  scorer = make_scorer(config.model, params, task.prepared.tokenizer, task.prepared.ids)
  return [
    score
    for name in e.few_shot
    for score in evaluate(make(name), scorer, e.shots, e.few_shot_examples, e.seed)
  ]


def item_scores(item: Item, found: Sequence[Likelihood]) -> dict[str, float]:
  """Returns the scores of one item, given the likelihood of each of its choices."""
  log_p = np.array([choice.log_p for choice in found])
  characters = np.array([len(choice.strip()) for choice in item.choices])
  p = np.exp(log_p - np.logaddexp.reduce(log_p))
  gold = np.arange(len(p)) == item.gold
  return {
    "accuracy": _is_best(log_p, item.gold),
    "accuracy_norm": _is_best(log_p / characters, item.gold),
    "nll": -log_p[item.gold] / found[item.gold].num_tokens,
    "choice_prob": p[item.gold],
    "brier": np.square(p - gold).sum(),
  }


def _is_best(score: np.ndarray, gold: int) -> float:
  best = score == score.max()
  return float(best[gold]) / best.sum()


def _aggregate(
  task: FewShotTask, items: Sequence[Item], per_item: Sequence[dict[str, float]], shots: int
) -> list[Score]:
  chance = float(np.mean([1 / len(item.choices) for item in items]))
  scores = []
  for name in per_item[0]:
    value, stderr, n = metrics.mean_and_stderr(np.array([scores[name] for scores in per_item]))
    of_name = chance if name in WITH_CHANCE else None
    scores.append(Score(name, value, stderr, n, n_shots=shots, chance=of_name, task=task.name))
  return scores
