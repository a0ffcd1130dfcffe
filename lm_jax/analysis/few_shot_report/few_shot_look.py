"""Names, colors and pairs of metrics of few-shot results, which their figures and page share."""

import dataclasses
import textwrap
from collections.abc import Collection, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lm_jax.analysis.figures import look
from lm_jax.analysis.figures.style import GREY, HUES, LINES, MARKERS, palette

NAMES = look.NAMES | {
  "accuracy_norm": "Accuracy, by characters", "accuracy_bytes": "Accuracy, by bytes",
  "accuracy_calibrated": "Accuracy, calibrated", "balanced_accuracy": "Balanced accuracy",
  "choice_prob_calibrated": "Probability of the right choice, calibrated",
  "target_brier": "Target Brier score", "ece": "Expected calibration error",
  "aurc": "Area under the risk-coverage curve", "auroc": "AUROC, right from wrong answers",
  "abstention_auroc": "AUROC, questions with an answer from those without",
  "abstention_score": "Score with silence", "abstention_rate": "Abstention rate",
  "hallucination_rate": "Hallucination rate", "quasi_exact_match": "Quasi-exact match", "f1": "Token F1",
  "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "final_number": "Final number",
  "final_answer": "Final answer",
  "choice_letter": "Letter of the choice", "edit_similarity": "Edit similarity", "bleu": "BLEU",
  "chrf": "chrF",
}  # fmt: skip
DEFINITIONS = {
  "accuracy": "share of items whose right choice has the largest log-likelihood; discontinuous, higher is "
  "better",
  "accuracy_norm": "the same of log-likelihoods divided by a choice's characters",
  "accuracy_bytes": "the same of log-likelihoods divided by a choice's UTF-8 bytes",
  "accuracy_calibrated": "the same of p(choice) divided by its mean after queries without content "
  "(arXiv:2102.09690)",
  "balanced_accuracy": "mean over places of the right choice of the share of items that are right; the same "
  "answer whatever is asked gets chance; discontinuous, higher is better",
  "exact_match": "share of items answered in the very words of a reference; of a continuation, those that "
  "greedy decoding would write; discontinuous, higher is better",
  "nll": "mean negative log-likelihood of the right answer, nats a token; continuous, lower is better",
  "choice_prob": "mean probability of the right choice, normalized over the choices; continuous, higher is "
  "better",
  "brier": "mean over items of sum over choices of (probability - 1 if right)^2; continuous, 0 is best",
  "target_brier": "mean over items of (1 - probability of the right choice)^2; continuous, 0 is best",
  "ece": "mean distance of confidence from accuracy in 10 bins of equal mass; confidence is the largest "
  "probability of a choice; 0 is best",
  "aurc": "share of wrong answers among the most confident items, averaged over all coverages "
  "(arXiv:1805.08206); 0 is best",
  "auroc": "chance that a right answer has more confidence than a wrong one; 1 is best, 0.5 tells nothing; "
  "confidence in a written answer is its log-likelihood divided by its tokens",
  "abstention_auroc": "chance that an answer to a question that has one has more confidence than an answer "
  "to one that has none; 1 is best, 0.5 tells nothing",
  "abstention_score": "mean over items where answers of too little confidence are withheld: an answer to a "
  "question that has one has its score, silence about one that has none is 1, all else 0 (arXiv:1806.03822); "
  "the threshold of each half of the items is the one that is best for the other half",
  "abstention_rate": "share of items whose answer is withheld at that threshold",
  "hallucination_rate": "share of the items without an answer that are answered at that threshold; 0 is best",
}
DISCONTINUOUS = (
  "accuracy", "exact_match", "quasi_exact_match", "final_number", "final_answer", "choice_letter",
  "pass_at_1",
)  # fmt: skip
CONTINUOUS = ("choice_prob", "nll", "f1", "rougeL", "chrf", "bleu", "edit_similarity", "rouge1", "rouge2")
_LETTERS_PER_INCH = 23  # of the key
_OF_ALL_ITEMS = (
  "balanced_accuracy", "ece", "aurc", "auroc", "abstention_auroc", "abstention_score", "abstention_rate",
  "hallucination_rate",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Style:
  color: str
  marker: str
  line: str


def name(metric: str) -> str:
  return NAMES.get(metric, metric.replace("_", " "))


def pair(present: Sequence[str]) -> list[str]:
  """Returns a discontinuous metric and a continuous one of the same items (arXiv:2304.15004).

  Where a task has none of a kind, its first other metric stands in, and where it has one metric, that alone.
  """
  others = [metric for metric in present if metric not in _OF_ALL_ITEMS]
  jumps = [metric for metric in DISCONTINUOUS if metric in others]
  smooth = [metric for metric in CONTINUOUS if metric in others]
  unknown = [metric for metric in others if metric not in (*DISCONTINUOUS, *CONTINUOUS)]
  first = (jumps + unknown + smooth)[:1]
  second = [metric for metric in smooth + unknown + jumps if metric not in first][:1]
  return first + second


def styles(rows: pd.DataFrame) -> dict[str, Style]:
  """Returns {series: style}: a color and a marker a model, a kind of line a way of asking."""
  names, variants = (list(rows[column].drop_duplicates()) for column in ("name", "variant"))
  colors = HUES if len(names) <= len(HUES) else palette(len(names))
  found = {}
  for row in rows.drop_duplicates("series").itertuples():
    i, j = names.index(row.name), variants.index(row.variant)
    found[row.series] = Style(colors[i], MARKERS[i % len(MARKERS)], LINES[j % len(LINES)])
  return found


def some(values: Collection[float], most: int = 4) -> list[float]:
  """Returns a few of the numbers, evenly chosen, the least and the greatest among them."""
  ordered = sorted(values)
  if len(ordered) <= most:
    return ordered
  return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def shots(k: float) -> str:
  return "1 shot" if k == 1 else f"{int(k)} shots"


def count(values: Collection[float], what: str) -> str:
  """Returns "100 items", or "95 to 100 items" where numbers differ."""
  low, high = int(min(values)), int(max(values))
  return f"{high:,} {what}" if low == high else f"{low:,} to {high:,} {what}"


def key(figure: Figure, text: str) -> None:
  """Says below a figure what its marks are, so that it can be read without its page."""
  folded = textwrap.fill(text, int(figure.get_figwidth() * _LETTERS_PER_INCH))
  figure.supxlabel(folded, x=0.01, ha="left", fontsize=6, color=GREY)


def legend(figure: Figure, styles: dict[str, Style]) -> None:
  handles = [
    mpl.lines.Line2D([], [], color=s.color, marker=s.marker, linestyle=s.line, markersize=3.2, label=series)
    for series, s in styles.items()
  ]
  columns = max(1, int(figure.get_figwidth() * 14 / (8 + max(map(len, styles)))))
  figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=7, frameon=False)
