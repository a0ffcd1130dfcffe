"""What a metric's name tells: which way is better, where its values end, and whether it has a threshold.

A thresholded metric turns an item into right or wrong; a continuous one follows the probabilities behind it.
A jump of the first beside a smooth curve of the second is made by the metric (arXiv:2304.15004).
"""

import dataclasses
import math
from typing import Literal

Kind = Literal["thresholded", "continuous", "unknown"]


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric's direction and range.

  Attributes:
    low, high: the least and the most that it can be.
  """

  kind: Kind
  higher_is_better: bool = True
  low: float = -math.inf
  high: float = math.inf


_SHARE = Metric("thresholded", low=0, high=1)
_OVERLAP = Metric("continuous", low=0, high=1)
_PROBABILITY = Metric("continuous", low=0, high=1)
_PERCENT = Metric("continuous", low=0, high=100)
_LOSS = Metric("continuous", higher_is_better=False, low=0)

# Of a pair's continuous metrics the first that is there is taken, so their order here is one of preference:
# those of the right answer among its choices come before those that the choices have no part in.
METRICS: dict[str, Metric] = {
  "choice_prob": _PROBABILITY,
  "target_brier": Metric("continuous", higher_is_better=False, low=0, high=1),
  "brier": Metric("continuous", higher_is_better=False, low=0, high=2),
  "nll": _LOSS, "kl_bayes": _LOSS, "token_accuracy": _PROBABILITY, "bits_per_byte": _LOSS, "loss": _LOSS,
  "perplexity": Metric("continuous", higher_is_better=False, low=1),
  # It falls and rises again while a model goes from the one predictor to the other.
  "kl_baseline": Metric("unknown", higher_is_better=False, low=0),
  "icl_score": Metric("continuous", higher_is_better=False),
  "bleu": _PERCENT, "chrf": _PERCENT, "f1": _OVERLAP, "rouge_1": _OVERLAP,
  "rouge_2": _OVERLAP, "rouge_l": _OVERLAP,
  **dict.fromkeys((
    "accuracy", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "exact_str_match",
    "multiple_choice_grade", "quasi_exact_match", "pass@1", "final_number_match", "beats_baseline",
  ), _SHARE),
}  # fmt: skip
# Scores whose way from the loss is a sigmoid: bounded, from 0 to 1.
ABILITIES = tuple(name for name, m in METRICS.items() if m.higher_is_better and (m.low, m.high) == (0, 1))
# Losses that a scaling law may be of, the first that a table has is fitted.
LOSSES = ("loss", "nll", "bits_per_byte")
CONTINUOUS = tuple(name for name, metric in METRICS.items() if metric.kind == "continuous")

_UNKNOWN = Metric("unknown")


def lookup(name: str) -> Metric:
  """Returns what is known of a metric; of an unknown one higher is better, and nothing else is said."""
  return METRICS.get(name, _UNKNOWN)
