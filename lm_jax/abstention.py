"""Silence where there is no answer, at a threshold of confidence that is chosen on other items.

Definitions, of items with a confidence, some of which have an answer and some none:
  cross-fitting       items are in two halves, by a hash of their ids, so the same ones for every model and
                      prompt. A half is answered where confidence >= the threshold that is best on the other
                      half (confidence.best_threshold): no dev split is needed, and no item has a part in
                      choosing what it is judged by (Chernozhukov et al., arXiv:1608.00060).
  abstention_auroc    chance that an item with an answer has more confidence than one without, ties counting
                      1/2: how well the two can be told apart, whatever the threshold.
  abstention_score    mean over the items: an answer to an answerable question has its score, silence about an
                      unanswerable one 1, all else 0 (SQuAD 2.0, arXiv:1806.03822).
  abstention_rate     share of the items that are not answered.
  hallucination_rate  share of the unanswerable items that are answered.
An answer without words, whose confidence is -inf, is silence at any threshold.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from lm_jax import confidence
from lm_jax.strict import require

METRICS = ("abstention_auroc", "abstention_score", "abstention_rate", "hallucination_rate")


@dataclasses.dataclass(frozen=True)
class CrossFit:
  """Items at the threshold of the other half; NaN where that half has no item.

  Attributes:
    threshold_N: inf where it is best never to answer.
    answered_N: 1 or 0.
    score_N: what an item adds to abstention_score.
  """

  threshold_N: np.ndarray
  answered_N: np.ndarray
  score_N: np.ndarray


def half(item: str) -> int:
  """Returns the half of an item, 0 or 1, by its id."""
  return hashlib.sha256(f"abstention\0{item}".encode()).digest()[0] % 2


def cross_fit(
  confidence_N: np.ndarray, score_N: np.ndarray, answerable_N: np.ndarray, items: Sequence[str]
) -> CrossFit:
  """Returns items judged at thresholds of others; arguments as of confidence.best_threshold, and ids."""
  confidence_N, score_N = (np.asarray(values, np.float64) for values in (confidence_N, score_N))
  answerable_N = np.asarray(answerable_N, np.float64)
  require(len(items) == len(confidence_N), "items", len(items), f"{len(confidence_N)} ids")
  half_N, has_words_N = np.array([half(item) for item in items], int), confidence_N > -math.inf
  threshold_N = np.full(len(items), math.nan)
  for own in (0, 1):
    others_N = half_N != own
    if others_N.any():
      worded = others_N & has_words_N
      threshold_N[~others_N] = (
        confidence.best_threshold(confidence_N[worded], score_N[worded], answerable_N[worded])
        if worded.any()
        else math.inf
      )
  answered_N = (confidence_N >= threshold_N) & has_words_N
  judged_N = np.where(answerable_N == 1, np.where(answered_N, score_N, 0), ~answered_N)
  missing_N = np.isnan(threshold_N)
  return CrossFit(threshold_N, *(np.where(missing_N, math.nan, values) for values in (answered_N, judged_N)))
