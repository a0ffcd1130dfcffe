"""What a model's answers are worth, item by item, and the means of it.

Of a choice among C, gold g, log p(c) the sum over a choice's tokens:
  accuracy        1 if log p(g) is the largest; where m choices share it, g among them, 1/m.
  accuracy_norm   the same of log p(c) / characters of c, without the space before it.
  accuracy_bytes  the same of log p(c) / UTF-8 bytes of c, without the space before it.
  nll             -log p(g) / tokens of g, nats a token.
  choice_prob     p(g) normalized over the choices.
  brier           sum over the choices of (p - 1[gold])^2, p normalized over the choices: 0 to 2.
  target_brier    (1 - p(g))^2.
  accuracy_calibrated, choice_prob_calibrated   of p(c) / q(c), q the mean of p(c) after the same prompt whose
                  last query has no content (contextual calibration, arXiv:2102.09690).
  accuracy_mutual_info   accuracy of log p(c) - log p(c | "Answer:"): what the question adds to how likely a
                  choice is anyway (arXiv:2005.14165, section 2.4).
  ece, aurc       over all items: lm_jax/confidence.py, the confidence being the largest p.
Of a text that goes on in one way:
  exact_match     1 if each of its tokens is the likeliest one: greedy decoding would write it.
  nll             nats a token.
Of a written answer: what its task names of lm_jax/answer_metrics.py. Of n samples an item's score is their
mean, of a corpus metric that of the first; NAME_majority is that of the answer that most samples agree on
(self-consistency, arXiv:2203.11171).
  recall_at_k, reciprocal_rank   where passages of a knowledge base are retrieved, r the rank of the first one
                  that holds the answer: 1 if r <= k (the top-k retrieval accuracy of arXiv:2004.04906); 1/r.
                  Both are 0 where no passage that was retrieved holds it.
Of code:
  pass_at_k       the chance that one of k samples passes its tests (arXiv:2107.03374), for k that are asked.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from lm_jax import answer_metrics, confidence, metrics, uncertainty
from lm_jax.few_shot_prompts import Asked
from lm_jax.prompt_tasks import FewShotTask, Item
from lm_jax.sandbox import Outcome
from lm_jax.scorer import Likelihood
from lm_jax.scores import Score

WITH_CHANCE = (
  "accuracy", "accuracy_norm", "accuracy_bytes", "accuracy_mutual_info", "accuracy_calibrated",
  "choice_prob", "choice_prob_calibrated",
)  # fmt: skip
PASS_AT = (1, 10, 100)
RECALL_AT = (1, 3, 5, 10, 20, 50, 100)  # and at the number that is retrieved
# What is first asked about a task of a kind, where it does not say itself.
MAIN = {
  "choice": ("accuracy",),
  "continuation": ("exact_match",),
  "generation": ("exact_match",),
  "code": ("pass_at_1",),
}
# What two samples agree on, by the metric that compares it.
_EXTRACT: dict[str, Callable[[str], object]] = {
  "exact_match": str.strip, "quasi_exact_match": answer_metrics.normalize,
  "final_number": answer_metrics.last_number, "final_answer": answer_metrics.last_answer,
}  # fmt: skip
_RESAMPLES = 200


@dataclasses.dataclass(frozen=True)
class Result:
  """What a model made of an item.

  Attributes:
    scores: {metric: value}.
    log_p: of each choice, nats.
    num_tokens: of each choice.
    written: samples of an answer, where the model writes.
    outcomes: of each sample of code: "passed", or why not.
  """

  asked: Asked
  scores: dict[str, float]
  log_p: tuple[float, ...] = ()
  num_tokens: tuple[int, ...] = ()
  written: tuple[str, ...] = ()
  outcomes: tuple[str, ...] = ()


# --- one item ---------------------------------------------------------------------------------------


def of_choice(
  item: Item,
  found: Sequence[Likelihood],
  premise: Sequence[Likelihood] | None = None,
  *neutral: Sequence[Likelihood],
) -> dict[str, float]:
  """Returns the scores of one item, given the likelihood of each of its choices.

  Args:
    premise: the same after a mere "Answer:"; with it, accuracy_mutual_info is added.
    neutral: the same after each query without content; with any, calibrated scores are added.
  """
  log_p = np.array([choice.log_p for choice in found])
  bare = [choice.strip() for choice in item.choices]
  characters, num_bytes = (np.array([len(x) for x in texts]) for texts in (bare, [b.encode() for b in bare]))
  p = choice_probabilities(log_p)
  gold = np.arange(len(p)) == item.gold
  calibrated = {}
  if premise is not None:
    unconditional = np.array([choice.log_p for choice in premise])
    calibrated["accuracy_mutual_info"] = _is_best(log_p - unconditional, item.gold)
  if neutral:
    bias = np.mean([choice_probabilities(np.array([one.log_p for one in of])) for of in neutral], axis=0)
    without = log_p - np.log(bias)
    calibrated |= {
      "accuracy_calibrated": _is_best(without, item.gold),
      "choice_prob_calibrated": float(choice_probabilities(without)[item.gold]),
    }
  return {
    "accuracy": _is_best(log_p, item.gold),
    "accuracy_norm": _is_best(log_p / characters, item.gold),
    "accuracy_bytes": _is_best(log_p / num_bytes, item.gold),
    "nll": -log_p[item.gold] / found[item.gold].num_tokens,
    "choice_prob": float(p[item.gold]),
    "brier": float(np.square(p - gold).sum()),
    "target_brier": float(1 - p[item.gold]) ** 2,
    **calibrated,
  }


def choice_probabilities(log_p: np.ndarray) -> np.ndarray:
  return np.exp(log_p - np.logaddexp.reduce(log_p))


def _is_best(score: np.ndarray, gold: int) -> float:
  best = score == score.max()
  return float(best[gold]) / best.sum()


def of_continuation(found: Likelihood) -> dict[str, float]:
  return {"exact_match": float(found.is_greedy), "nll": -found.log_p / found.num_tokens}


def of_written(task: FewShotTask, item: Item, samples: Sequence[str]) -> dict[str, float]:
  """Returns the scores of a written answer; those of a corpus are of no single item."""
  scores = {}
  for name in task.metrics or MAIN[task.kind]:
    metric = answer_metrics.METRICS[name]
    if metric.of_corpus is not None:
      continue
    scores[name] = float(np.mean([metric.of_item(sample, item.references) for sample in samples]))
    if len(samples) > 1 and name in _EXTRACT:
      agreed = answer_metrics.majority([_EXTRACT[name](sample) for sample in samples])
      first = next((sample for sample in samples if _EXTRACT[name](sample) == agreed), samples[0])
      scores[f"{name}_majority"] = float(metric.of_item(first, item.references))
  return scores | of_retrieval(task, item)


def of_retrieval(task: FewShotTask, item: Item) -> dict[str, float]:
  """Returns the scores of what was retrieved for an item; none where the task retrieves nothing."""
  if not task.passages:
    return {}
  rank = item.rank or math.inf
  at = [*(k for k in RECALL_AT if k < task.passages), task.passages]
  return {**{f"recall_at_{k}": float(rank <= k) for k in at}, "reciprocal_rank": 1 / rank}


def of_code(outcomes: Sequence[Outcome]) -> dict[str, float]:
  n, passed = len(outcomes), sum(one.passed for one in outcomes)
  return {f"pass_at_{k}": answer_metrics.pass_at_k(n, passed, k) for k in PASS_AT if k <= n}


# --- all items --------------------------------------------------------------------------------------


def means(task: FewShotTask, results: Sequence[Result], shots: int) -> list[Score]:
  """Returns the mean of every score over items of one number of shots, with its standard error.

  Of no items at all the main scores are there, and missing.
  """
  where = {"n_shots": shots, "prompt_id": task.template, "task": task.name}
  if not results:
    return [Score(name, None, None, 0, **where) for name in task.metrics or MAIN[task.kind]]
  items = [result.asked.item for result in results]
  chance = float(np.mean([1 / len(item.choices) for item in items])) if task.kind == "choice" else None
  scores = []
  for name in results[0].scores:
    value, stderr, n = metrics.mean_and_stderr(np.array([result.scores[name] for result in results]))
    scores.append(Score(name, value, stderr, n, chance=chance if name in WITH_CHANCE else None))
  if task.kind == "choice":
    scores += _of_confidence(results)
  if task.kind == "generation":
    scores += _of_corpus(task, results)
  return [dataclasses.replace(score, **where) for score in scores]


def _of_confidence(results: Sequence[Result]) -> list[Score]:
  p = [choice_probabilities(np.array(result.log_p)) for result in results]
  confidence_N = np.array([one.max() for one in p])
  correct_N = np.array([one.argmax() == r.asked.item.gold for one, r in zip(p, results, strict=True)])
  both_N2 = np.stack([confidence_N, correct_N], axis=1)
  found = []
  for name, of in (("ece", confidence.expected_calibration_error), ("aurc", confidence.aurc)):
    estimate = uncertainty.bootstrap(
      both_N2, lambda rows, of=of: of(rows[:, 0], rows[:, 1]), n_resamples=_RESAMPLES
    )
    found.append(Score(name, estimate.value, estimate.stderr, estimate.n_items))
  return found


def _of_corpus(task: FewShotTask, results: Sequence[Result]) -> list[Score]:
  first = [result.written[0] for result in results]
  references = [result.asked.item.references for result in results]
  return [
    answer_metrics.score(name, first, references)
    for name in task.metrics
    if answer_metrics.METRICS[name].of_corpus is not None
  ]
