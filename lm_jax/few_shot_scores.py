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
  balanced_accuracy   the mean over places of the gold choice, first to last, of the accuracy of the items
                  that have it there: a model that names the same label, or letter, whatever is asked, gets
                  1/C. Where all items have C choices, and each place is gold in some.
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
  aurc, auroc     over all items of the task's first score, where that is 0 or 1: lm_jax/confidence.py, the
                  confidence being log p / tokens of the first sample, which is what is scored here.
Of items without an answer none of these. Of a task that has such items, lm_jax/abstention.py, the score of an
answer being its accuracy or the task's first one, of the first sample:
  abstention_auroc, abstention_score, abstention_rate, hallucination_rate
Of code:
  pass_at_k       the chance that one of k samples passes its tests (arXiv:2107.03374), for k that are asked.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm_jax import abstention, answer_metrics, confidence, metrics, uncertainty
from lm_jax.abstention import CrossFit
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
    confidence: in the answer: of a choice the largest p, normalized over the choices; of a written one
      log p / tokens of the first sample, nats (length-normalized as by Malinin and Gales, arXiv:2002.07650:
      a sum falls with every token, whatever it says), -inf of one without words. None: it is not known.
  """

  asked: Asked
  scores: dict[str, float]
  log_p: tuple[float, ...] = ()
  num_tokens: tuple[int, ...] = ()
  written: tuple[str, ...] = ()
  outcomes: tuple[str, ...] = ()
  confidence: float | None = None


# --- one item ---------------------------------------------------------------------------------------


def of_choice(
  item: Item,
  found: Sequence[Likelihood],
  premise: Sequence[Likelihood] | None = None,
  *neutral: Sequence[Likelihood],
) -> dict[str, float]:
  """Returns the scores of one item, given the likelihood of each of its choices; none without an answer.

  Args:
    premise: the same after a mere "Answer:"; with it, accuracy_mutual_info is added.
    neutral: the same after each query without content; with any, calibrated scores are added.
  """
  if not item.answerable:
    return {}
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
  """Returns the scores of a written answer; those of a corpus are of no single item.

  There are none where there is no right answer.
  """
  if not item.answerable:
    return {}
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
  where: dict[str, Any] = {"n_shots": shots, "prompt_id": task.template, "task": task.name}
  scores = _of_answers(task, [result for result in results if result.asked.item.answerable])
  if any(not item.answerable for item in task.items):
    scores += _of_abstention(task, results)
  return [dataclasses.replace(score, **where) for score in scores]


def _of_answers(task: FewShotTask, results: Sequence[Result]) -> list[Score]:
  if not results:
    return [Score(name, None, None, 0) for name in task.metrics or MAIN[task.kind]]
  items = [result.asked.item for result in results]
  chance = float(np.mean([1 / len(item.choices) for item in items])) if task.kind == "choice" else None
  scores = []
  for name in results[0].scores:
    value, stderr, n = metrics.mean_and_stderr(np.array([result.scores[name] for result in results]))
    scores.append(Score(name, value, stderr, n, chance=chance if name in WITH_CHANCE else None))
  if task.kind == "choice":
    scores += _of_balance(results) + _of_confidence(results)
  if task.kind == "generation":
    scores += _of_corpus(task, results) + _of_written_confidence(task, results)
  return scores


def _of_balance(results: Sequence[Result]) -> list[Score]:
  numbers = {len(result.asked.item.choices) for result in results}
  places = [result.asked.item.gold for result in results]
  if len(numbers) > 1 or set(places) != set(range(*numbers)):
    return []
  (C,), place_N = numbers, np.array(places)
  right_N = np.array([result.scores["accuracy"] for result in results])
  recalls = [metrics.mean_and_stderr(right_N[place_N == place]) for place in range(C)]
  squares = [math.nan if stderr is None else stderr**2 for _, stderr, _ in recalls]
  stderr = math.sqrt(sum(squares)) / C
  value = float(np.mean([recall for recall, *_ in recalls]))
  # Of one item of a place the variance is not known.
  return [
    Score("balanced_accuracy", value, None if math.isnan(stderr) else stderr, len(results), chance=1 / C)
  ]


def _of_confidence(results: Sequence[Result]) -> list[Score]:
  p = [choice_probabilities(np.array(result.log_p)) for result in results]
  confidence_N = np.array([one.max() for one in p])
  correct_N = np.array([one.argmax() == r.asked.item.gold for one, r in zip(p, results, strict=True)])
  measures = {"ece": confidence.expected_calibration_error, "aurc": confidence.aurc}
  return [_with_bootstrap(name, of, confidence_N, correct_N) for name, of in measures.items()]


def _with_bootstrap(
  name: str, of: Callable[[np.ndarray, np.ndarray], float], confidence_N: np.ndarray, correct_N: np.ndarray
) -> Score:
  both_N2 = np.stack([confidence_N, correct_N], axis=1)
  found = uncertainty.bootstrap(both_N2, lambda rows: of(rows[:, 0], rows[:, 1]), n_resamples=_RESAMPLES)
  return Score(name, found.value, found.stderr, found.n_items)


def _auroc(name: str, confidence_N: np.ndarray, correct_N: np.ndarray) -> Score:
  value, stderr = (of(confidence_N, correct_N) for of in (confidence.auroc, confidence.auroc_stderr))
  return Score(name, value, stderr, len(confidence_N))


def _of_written_confidence(task: FewShotTask, results: Sequence[Result]) -> list[Score]:
  name, (judged, score_N) = _first_of_items(task), _judged(task, results)
  if not judged or answer_metrics.METRICS[name].continuous:
    return []
  confidence_N = np.array([result.confidence for result in judged])
  return [
    _with_bootstrap("aurc", confidence.aurc, confidence_N, score_N), _auroc("auroc", confidence_N, score_N)
  ]  # fmt: skip


def _of_corpus(task: FewShotTask, results: Sequence[Result]) -> list[Score]:
  first = [result.written[0] for result in results]
  references = [result.asked.item.references for result in results]
  return [
    answer_metrics.score(name, first, references)
    for name in task.metrics
    if answer_metrics.METRICS[name].of_corpus is not None
  ]


# --- items without an answer ------------------------------------------------------------------------


def thresholds(task: FewShotTask, results: Sequence[Result]) -> list[float | None]:
  """Returns the threshold of confidence that each item is judged at; None where there is none."""
  judged, fit = _cross_fit(task, results)
  if fit is None:
    return [None] * len(results)
  found = zip((result.asked.item.id for result in judged), fit.threshold_N.tolist(), strict=True)
  of_item = {item: None if math.isnan(threshold) else threshold for item, threshold in found}
  return [of_item.get(result.asked.item.id) for result in results]


def _of_abstention(task: FewShotTask, results: Sequence[Result]) -> list[Score]:
  judged, fit = _cross_fit(task, results)
  if fit is None:
    return [Score(name, None, None, 0) for name in abstention.METRICS]
  answerable_N = np.array([result.asked.item.answerable for result in judged])
  per_item = {
    "abstention_score": fit.score_N, "abstention_rate": 1 - fit.answered_N,
    "hallucination_rate": fit.answered_N[~answerable_N],
  }  # fmt: skip
  found = [_auroc("abstention_auroc", np.array([result.confidence for result in judged]), answerable_N)]
  for name, x_N in per_item.items():
    value, stderr, n = metrics.mean_and_stderr(x_N)
    found.append(Score(name, value if n else None, stderr, n))
  return found


def _cross_fit(task: FewShotTask, results: Sequence[Result]) -> tuple[list[Result], CrossFit | None]:
  """Returns the results that can be judged, as they are; no judgment where these are of one kind only."""
  judged, score_N = _judged(task, results)
  answerable_N = np.array([result.asked.item.answerable for result in judged])
  if len(set(answerable_N.tolist())) < 2:
    return judged, None
  confidence_N = np.array([result.confidence for result in judged])
  ids = [result.asked.item.id for result in judged]
  return judged, abstention.cross_fit(confidence_N, score_N, answerable_N, ids)


def _judged(task: FewShotTask, results: Sequence[Result]) -> tuple[list[Result], np.ndarray]:
  """Returns the results whose confidence is known, and the score of the answers that it is about.

  That is the accuracy, or the task's first score of single items; of no account where there is no answer.
  Where the task has none, or an item's is missing, there is no result.
  """
  name = _first_of_items(task)
  if name is None:
    return [], np.zeros(0)
  known = [result for result in results if result.confidence is not None]
  score_N = np.array([_score(name, result) if result.asked.item.answerable else 0.0 for result in known])
  there_N = ~np.isnan(score_N)
  return [result for result, there in zip(known, there_N, strict=True) if there], score_N[there_N]


def _first_of_items(task: FewShotTask) -> str | None:
  names = task.metrics or MAIN[task.kind]
  written = task.kind == "generation"
  return next((n for n in names if not written or answer_metrics.METRICS[n].of_corpus is None), None)


def _score(name: str, result: Result) -> float:
  """Returns a score of the answer whose confidence is known: of several samples the first."""
  if not result.written:
    return result.scores[name]
  return float(answer_metrics.METRICS[name].of_item(result.written[0], result.asked.item.references))
