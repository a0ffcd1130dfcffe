"""Whether a model knows when it is right: calibration, selective answering, questions without an answer.

Definitions, of items with a confidence and whether the answer was correct (0 or 1):
  expected_calibration_error   sum over bins of n_bin / N |mean confidence - accuracy|, in bins of equal mass
                (Nguyen and O'Connor, arXiv:1508.05154; 10 of them in HELM, arXiv:2211.09110). Items of equal
                confidence share a bin, that of their middle rank, so bins are equal up to ties.
  brier         sum over the options of (p - 1[gold])^2: 0 to 2 (Brier 1950; lm-evaluation-harness).
  brier_mean    the same averaged over the options: 0 to 2 / options (BIG-bench, arXiv:2206.04615).
  target_brier  (1 - p of the gold option)^2: 0 to 1 (target-conditioned; Wu and Lo, arXiv:2410.01692).
  selective accuracy   accuracy over the most confident items; coverage is their share of all.
  aurc          area under the risk-coverage curve: 1 - selective accuracy, averaged over coverages 1/N, ...,
                N/N (Geifman et al., arXiv:1805.08206); 0 is best. The order within items of equal confidence
                is unknown: its average is taken.
  auroc         chance that a correct answer is given more confidence than a wrong one, ties counting 1/2.
  abstention    a question is answered where confidence >= threshold. An answer to an answerable question has
                its score, silence about an unanswerable one 1, all else 0 (SQuAD 2.0, arXiv:1806.03822). The
                threshold is chosen on a dev split and reported on another.
Calibration and Brier scores take probabilities; for all else any order of items will do, e.g. log p.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from lm_jax import uncertainty
from lm_jax.strict import ConfigError, require


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
  """One point of a reliability diagram.

  Attributes:
    confidence: mean over the bin's items.
    accuracy: share of correct answers, with its 95 % Wilson interval.
  """

  confidence: float
  accuracy: float
  interval: uncertainty.Interval
  n_items: int


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
  """Selective accuracy of the 1, 2, ..., N most confident items."""

  coverage_N: np.ndarray
  accuracy_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class Abstention:
  """How well questions are answered, and left unanswered, at one threshold.

  Attributes:
    score: mean of the items' scores, with its standard error.
    coverage: share of questions answered.
    accuracy: share of questions that are answered if, and only if, they have an answer.
    f1: of leaving questions unanswered, unanswerable ones being the positives; None where there are neither.
  """

  threshold: float
  score: float
  stderr: float | None
  coverage: float
  accuracy: float
  f1: float | None
  n_items: int


# --- calibration ------------------------------------------------------------------------------------


def reliability(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 10) -> list[ReliabilityBin]:
  """Returns the bins of equal mass that hold items, by ascending confidence."""
  n_K, confidence_K, right_K = _bins(confidence_N, correct_N, bins)
  return [
    ReliabilityBin(float(total / n), float(right / n), uncertainty.wilson(int(right), int(n)), int(n))
    for n, total, right in zip(n_K, confidence_K, right_K, strict=True)
  ]


def _bins(
  confidence_N: np.ndarray, correct_N: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns of each bin that holds items how many, the sum of their confidences, and how many are right."""
  confidence_N, correct_N = _checked(confidence_N, correct_N)
  require(bins > 0, "bins", bins, "greater than 0")
  _require_probabilities("confidence_N", confidence_N)
  ordered_N, N = np.sort(confidence_N), len(confidence_N)
  # Twice the middle rank, in whole numbers: no rounding decides about a bin.
  below_N, up_to_N = (np.searchsorted(ordered_N, confidence_N, side) for side in ("left", "right"))
  bin_N = (below_N + up_to_N) * bins // (2 * N)
  n_K, confidence_K, right_K = (np.bincount(bin_N, w) for w in (None, confidence_N, correct_N))
  there_K = n_K > 0
  return n_K[there_K], confidence_K[there_K], right_K[there_K]


def expected_calibration_error(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 10) -> float:
  """Returns the mean distance of confidence from accuracy, 0 to 1."""
  n_K, confidence_K, right_K = _bins(confidence_N, correct_N, bins)
  return float(np.abs(confidence_K - right_K).sum() / n_K.sum())


def brier(p_NC: np.ndarray, gold_N: np.ndarray) -> np.ndarray:
  """Returns the Brier score of each item, summed over its options (NaN: an option that it does not have)."""
  return np.nansum(_squared_errors(p_NC, gold_N), axis=1)


def brier_mean(p_NC: np.ndarray, gold_N: np.ndarray) -> np.ndarray:
  """Returns the Brier score of each item, averaged over its options (NaN as in `brier`)."""
  return np.nanmean(_squared_errors(p_NC, gold_N), axis=1)


def target_brier(p_gold_N: np.ndarray) -> np.ndarray:
  """Returns the squared distance of each gold option's probability from 1."""
  p_gold_N = np.asarray(p_gold_N, np.float64)
  _require_probabilities("p_gold_N", p_gold_N)
  return np.square(1 - p_gold_N)


def _squared_errors(p_NC: np.ndarray, gold_N: np.ndarray) -> np.ndarray:
  p_NC, gold_N = np.asarray(p_NC, np.float64), np.asarray(gold_N)
  if p_NC.ndim != 2 or gold_N.shape != p_NC.shape[:1] or not np.issubdtype(gold_N.dtype, np.integer):
    raise ConfigError(
      f"p_NC has shape {p_NC.shape}, gold_N {gold_N.shape} of {gold_N.dtype}: must be items x options, and "
      "the index of one option for each item"
    )
  there_NC = ~np.isnan(p_NC)
  _require_probabilities("p_NC", p_NC[there_NC])
  C = p_NC.shape[1]
  is_option_N = (gold_N >= 0) & (gold_N < C)
  is_option_N[is_option_N] = there_NC[is_option_N, gold_N[is_option_N]]
  if not is_option_N.all():
    raise ConfigError(
      f"gold_N: {int((~is_option_N).sum())} items have a gold option that is not among theirs"
    )
  off_N = np.abs(np.nansum(p_NC, axis=1) - 1)
  if off_N.max(initial=0) > 1e-3:
    raise ConfigError(
      f"p_NC: the options of item {int(off_N.argmax())} do not sum to 1; normalize them first"
    )
  return np.square(p_NC - (np.arange(C)[None] == gold_N[:, None]))


# --- selective answering ----------------------------------------------------------------------------


def risk_coverage(confidence_N: np.ndarray, correct_N: np.ndarray) -> RiskCoverage:
  """Returns the selective accuracy at each coverage, averaged over the orders of equal confidences."""
  confidence_N, correct_N = _checked(confidence_N, correct_N)
  _, group_N, size_G = np.unique(-confidence_N, return_inverse=True, return_counts=True)
  accuracy_G = np.bincount(group_N, weights=correct_N) / size_G
  rank_N = np.arange(1, len(confidence_N) + 1)
  return RiskCoverage(rank_N / len(rank_N), np.cumsum(np.repeat(accuracy_G, size_G)) / rank_N)


def aurc(confidence_N: np.ndarray, correct_N: np.ndarray) -> float:
  """Returns the area under the risk-coverage curve, 0 to 1; lower is better."""
  return float(1 - risk_coverage(confidence_N, correct_N).accuracy_N.mean())


def accuracy_at_coverage(confidence_N: np.ndarray, correct_N: np.ndarray, coverage: float) -> float:
  """Returns the accuracy over the most confident items, the fewest whose share is at least `coverage`."""
  require(0 < coverage <= 1, "coverage", coverage, "greater than 0 and at most 1")
  curve = risk_coverage(confidence_N, correct_N)
  # 0.7 of 10 items are 7, although 0.7 * 10 is not.
  return float(curve.accuracy_N[np.searchsorted(curve.coverage_N, coverage - 1e-9)])


def auroc(confidence_N: np.ndarray, correct_N: np.ndarray) -> float | None:
  """Returns how well confidence tells right from wrong, 1/2 for not at all; None where all are the same."""
  confidence_N, correct_N = _checked(confidence_N, correct_N)
  right, wrong = int(correct_N.sum()), int((1 - correct_N).sum())
  if not right or not wrong:
    return None
  rank_sum = stats.rankdata(confidence_N)[correct_N == 1].sum()
  return float((rank_sum - right * (right + 1) / 2) / (right * wrong))


def auroc_stderr(confidence_N: np.ndarray, correct_N: np.ndarray) -> float | None:
  """Returns the standard error of `auroc` for other items (DeLong et al. 1988, Biometrics 44, 837-845).

  It is that of the mean over the right answers of how many wrong ones each outranks, and the same the other
  way round, the two being independent; None where there are not two of each.
  """
  confidence_N, correct_N = _checked(confidence_N, correct_N)
  right_N = correct_N == 1
  right, wrong = int(right_N.sum()), int((~right_N).sum())
  if min(right, wrong) < 2:
    return None
  # An answer's rank among all less that among its own kind: how many of the other kind it outranks.
  rank_N = stats.rankdata(confidence_N)
  above_R = (rank_N[right_N] - stats.rankdata(confidence_N[right_N])) / wrong
  above_W = (rank_N[~right_N] - stats.rankdata(confidence_N[~right_N])) / right
  return math.sqrt(above_R.var(ddof=1) / right + above_W.var(ddof=1) / wrong)


# --- questions without an answer --------------------------------------------------------------------


def best_threshold(confidence_N: np.ndarray, score_N: np.ndarray, answerable_N: np.ndarray) -> float:
  """Returns the threshold of the best mean score on a dev split, the lowest of equal ones.

  Args:
    score_N: of the answers, e.g. F1 or exact match, 0 to 1; of no account where there is no answer.
    answerable_N: whether there is one.

  Returns:
    One of the confidences, or infinity where it is best never to answer.
  """
  confidence_N, score_N, answerable_N = _checked_answers(confidence_N, score_N, answerable_N)
  gain_N = np.where(answerable_N == 1, score_N, -1)  # of an answer over none
  value_G, group_N = np.unique(confidence_N, return_inverse=True)
  gain_G = np.bincount(group_N, weights=gain_N)
  # Entry g: all confidences from value g on are answered; the last: none.
  total = np.append(np.cumsum(gain_G[::-1])[::-1], 0.0)
  return float(np.append(value_G, math.inf)[(total >= total.max() - 1e-9).argmax()])


def abstention(
  confidence_N: np.ndarray, score_N: np.ndarray, answerable_N: np.ndarray, threshold: float
) -> Abstention:
  """Returns the scores of a test split at a threshold chosen elsewhere; arguments as of `best_threshold`."""
  confidence_N, score_N, answerable_N = _checked_answers(confidence_N, score_N, answerable_N)
  require(not math.isnan(threshold), "threshold", threshold, "a number")
  answered_N, has_answer_N = confidence_N >= threshold, answerable_N == 1
  item_N = np.where(has_answer_N, np.where(answered_N, score_N, 0), ~answered_N)
  n = len(item_N)
  stderr = float(stats.sem(item_N)) if n > 1 else None
  silent, unanswerable = int((~answered_N).sum()), int((~has_answer_N).sum())
  both = int((~answered_N & ~has_answer_N).sum())
  f1 = 2 * both / (silent + unanswerable) if silent + unanswerable else None
  accuracy = float((answered_N == has_answer_N).mean())
  return Abstention(threshold, float(item_N.mean()), stderr, float(answered_N.mean()), accuracy, f1, n)


def _checked_answers(
  confidence_N: np.ndarray, score_N: np.ndarray, answerable_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  confidence_N, answerable_N = _checked(confidence_N, answerable_N, "answerable_N")
  score_N = np.asarray(score_N, np.float64)
  if score_N.shape != confidence_N.shape:
    raise ConfigError(f"score_N has shape {score_N.shape}, but confidence_N {confidence_N.shape}")
  _require_probabilities("score_N", score_N[answerable_N == 1])
  return confidence_N, score_N, answerable_N


def _checked(
  confidence_N: np.ndarray, flag_N: np.ndarray, name: str = "correct_N"
) -> tuple[np.ndarray, np.ndarray]:
  confidence_N, flag_N = np.asarray(confidence_N, np.float64), np.asarray(flag_N, np.float64)
  if confidence_N.ndim != 1 or not len(confidence_N) or flag_N.shape != confidence_N.shape:
    raise ConfigError(
      f"confidence_N has shape {confidence_N.shape}, {name} {flag_N.shape}: must be one value for each of "
      "one or more items"
    )
  missing = int((~(confidence_N < math.inf)).sum())  # -inf is the log p of what cannot be
  if missing:
    raise ConfigError(f"confidence_N: {missing} of {len(confidence_N)} are NaN or infinite; leave them out")
  if not np.isin(flag_N, (0, 1)).all():
    raise ConfigError(f"{name}: must be 0 or 1 everywhere, not {flag_N[~np.isin(flag_N, (0, 1))][0]}")
  return confidence_N, flag_N


def _require_probabilities(name: str, values: np.ndarray) -> None:
  wrong = values[~((values >= 0) & (values <= 1))]
  if len(wrong):
    raise ConfigError(f"{name}: must be from 0 to 1 everywhere, not {wrong[0]}")
