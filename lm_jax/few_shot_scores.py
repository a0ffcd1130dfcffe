"""What an answer is worth, item by item, and the means of it.

Of a choice among C, gold g, log p(c) the sum over a choice's tokens:
  accuracy        1 if log p(g) is the largest; where m choices share it, g among them, 1/m.
  accuracy_norm   the same of log p(c) / characters of c, without the space before it.
  accuracy_bytes  the same of log p(c) / UTF-8 bytes of c, without the space before it.
  nll             -log p(g) / tokens of g, nats a token.
  choice_prob     p(g) normalized over the choices.
  brier           sum over the choices of (p - 1[gold])^2, p normalized over the choices: 0 to 2.
  target_brier    (1 - p(g))^2.
Of a text that goes on in one way:
  exact_match     1 if each of its tokens is the likeliest one: greedy decoding would write it.
  nll             nats a token.
"""

from collections.abc import Sequence

import numpy as np

from lm_jax import metrics
from lm_jax.prompt_tasks import Item
from lm_jax.scorer import Likelihood
from lm_jax.scores import Score

WITH_CHANCE = ("accuracy", "accuracy_norm", "accuracy_bytes", "choice_prob")


def of_choice(item: Item, found: Sequence[Likelihood]) -> dict[str, float]:
  """Returns the scores of one item, given the likelihood of each of its choices."""
  log_p = np.array([choice.log_p for choice in found])
  bare = [choice.strip() for choice in item.choices]
  characters, num_bytes = (
    np.array([len(text) for text in texts]) for texts in (bare, [b.encode() for b in bare])
  )
  p = choice_probabilities(log_p)
  gold = np.arange(len(p)) == item.gold
  return {
    "accuracy": _is_best(log_p, item.gold),
    "accuracy_norm": _is_best(log_p / characters, item.gold),
    "accuracy_bytes": _is_best(log_p / num_bytes, item.gold),
    "nll": -log_p[item.gold] / found[item.gold].num_tokens,
    "choice_prob": float(p[item.gold]),
    "brier": float(np.square(p - gold).sum()),
    "target_brier": float(1 - p[item.gold]) ** 2,
  }


def choice_probabilities(log_p: np.ndarray) -> np.ndarray:
  return np.exp(log_p - np.logaddexp.reduce(log_p))


def _is_best(score: np.ndarray, gold: int) -> float:
  best = score == score.max()
  return float(best[gold]) / best.sum()


def of_continuation(found: Likelihood) -> dict[str, float]:
  return {"exact_match": float(found.is_greedy), "nll": -found.log_p / found.num_tokens}


def means(
  per_item: Sequence[dict[str, float]], items: Sequence[Item], task: str, shots: int, prompt_id: str | None
) -> list[Score]:
  """Returns the mean of every score over the items, with its standard error."""
  chance = float(np.mean([1 / len(item.choices) for item in items])) if items and items[0].choices else None
  scores = []
  for name in per_item[0] if per_item else ():
    value, stderr, n = metrics.mean_and_stderr(np.array([scores[name] for scores in per_item]))
    of_name = chance if name in WITH_CHANCE else None
    scores.append(
      Score(name, value, stderr, n, n_shots=shots, prompt_id=prompt_id, chance=of_name, task=task)
    )
  return scores
