"""Scores of generated text against references: one or more texts, each a right answer.

Definitions, for a prediction and the best of its references, 0 to 1 unless said otherwise:
  exact_match        1 if equal without the white space around (HELM, arXiv:2211.09110).
  quasi_exact_match  1 if equal when lower-cased, without ASCII punctuation, the words a, an, the, and with
                     single spaces (HELM; SQuAD, arXiv:1606.05250). "A" and "the" become nothing, "-5" becomes
                     5: letters are for choice_letter, numbers for final_number.
  f1                 harmonic mean of precision and recall of words, counted with multiplicity, so normalized
                     (SQuAD; HELM's counts each word once). No words: 1 if on both sides (SQuAD 2.0).
  rouge1, rouge2, rougeL   F-measure of single words, pairs, longest common subsequence (Lin 2004), by the
                     package rouge-score with its Porter stemmer on, as in HELM. Its words are of a-z and 0-9:
                     NaN, missing, where no reference has any. rouge2 of one word is 0.
  final_number       1 if the last number of the prediction equals that of the reference, after "####" where
                     that is (GSM8K, arXiv:2110.14168), without commas and $: 18 = 18.0. No number in the
                     prediction is a wrong answer. Let generation stop before it invents a next question.
  final_answer       1 if what follows the last "the answer is" of the prediction, to the end of its line and
                     without its last period, equals that of the reference, or the reference that has none
                     (chain of thought: arXiv:2201.11903, arXiv:2210.09261). "(B) blue" and "B" are (B). An
                     answer that is not given is a wrong one.
  choice_letter      1 if the first label named in the prediction is the reference's; A to D by default.
  edit_similarity    1 - Levenshtein distance / characters of the longer text, by the package rapidfuzz.
  bleu, chrf         0 to 100, of the corpus: functions of the sums of the items' counts (Papineni et al.
                     2002; Popovic 2015), by the package sacrebleu with its defaults: case matters, tokenizer
                     13a (not for Chinese or Japanese), exponential smoothing; chrF of 6 characters, beta 2.
Of several samples of an answer:
  majority           the most frequent of the extracted answers (self-consistency, arXiv:2203.11171).
  pass_at_k          chance that at least one of k samples is right, 1 - C(n-c, k) / C(n, k) where c of n are
                     (arXiv:2107.03374).
"""

import collections
import dataclasses
import math
import re
import string
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import TypeVar

import numpy as np

from lm_jax import metrics, uncertainty
from lm_jax.scores import Score
from lm_jax.strict import ConfigError, choose, require

T = TypeVar("T", bound=Hashable)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# A minus after a word or a number is one of arithmetic or a hyphen: 10-5 names 5.
_NUMBER = re.compile(r"((?<![\w)])-)?\$?((?<=\$)-)?(\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+)")
_ANSWER_IS = re.compile(r"\bthe answer is\b:?", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-Z])\)(?!\w)|([A-Z])$")
_WORD_OF_ROUGE = re.compile("[a-z0-9]")


@dataclasses.dataclass(frozen=True)
class Metric:
  """How predictions are scored.

  Attributes:
    of_item: (prediction, references) -> the item's score; of a metric of the corpus, its counts [S].
    of_corpus: sums of the items' counts [S] -> score; None for a mean over items.
    continuous: whether a slightly better answer scores slightly better; thresholded metrics are 0 or 1.
    highest: score of a perfect answer.
    package: what it needs of the extra `evaluation`.
  """

  of_item: Callable[[str, Sequence[str]], float | np.ndarray]
  of_corpus: Callable[[np.ndarray], float] | None = None
  continuous: bool = False
  highest: float = 1.0
  package: str | None = None

  def items(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the items' scores [N], or counts [N, S], float64; NaN where an item cannot be scored."""
    require(not isinstance(predictions, str) and len(predictions) > 0, "predictions", predictions, "a list")
    if len(predictions) != len(references):
      raise ConfigError(f"{len(predictions)} predictions, but references of {len(references)}")
    return np.array([self.of_item(p, r) for p, r in zip(predictions, references, strict=True)], np.float64)

  def value(self, items: np.ndarray) -> float:
    """Returns the score of `items`: a statistic for `uncertainty.bootstrap` and `paired_bootstrap`."""
    return float(items.mean()) if self.of_corpus is None else self.of_corpus(items.sum(0))


def score(
  name: str,
  predictions: Sequence[str],
  references: Sequence[Sequence[str]],
  n_resamples: int = 1000,
  seed: int = 0,
) -> Score:
  """Returns a metric of METRICS by its name; its error is analytic, or of a corpus metric the bootstrap's."""
  metric = choose(METRICS, name, "metric")
  items = metric.items(predictions, references)
  if metric.of_corpus is not None:
    found = uncertainty.bootstrap(items, metric.value, n_resamples=n_resamples, seed=seed)
    return Score(name, found.value, found.stderr, found.n_items)
  if np.isnan(items).all():
    raise ConfigError(f"metric={name!r}: no item has a reference that it can read")
  return Score(name, *metrics.mean_and_stderr(items))


# --- one prediction ---------------------------------------------------------------------------------


def exact_match(prediction: str, references: Sequence[str]) -> float:
  """Returns 1 if the prediction is a reference, but for white space around it."""
  return _best(lambda reference: prediction.strip() == reference.strip(), references)


def quasi_exact_match(prediction: str, references: Sequence[str]) -> float:
  """Returns 1 if the normalized prediction is a normalized reference."""
  return _best(lambda reference: normalize(prediction) == normalize(reference), references)


def f1(prediction: str, references: Sequence[str]) -> float:
  """Returns the F1 of the prediction's normalized words."""
  found = normalize(prediction).split()

  def of(reference: str) -> float:
    wanted = normalize(reference).split()
    if not found or not wanted:
      return found == wanted
    shared = (collections.Counter(found) & collections.Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted))

  return _best(of, references)


def rouge1(prediction: str, references: Sequence[str]) -> float:
  """Returns the F-measure of single words; NaN where no reference has a-z or 0-9."""
  return _rouge("rouge1", prediction, references)


def rouge2(prediction: str, references: Sequence[str]) -> float:
  """Returns the F-measure of pairs of words; NaN where no reference has a-z or 0-9."""
  return _rouge("rouge2", prediction, references)


def rougeL(prediction: str, references: Sequence[str]) -> float:
  """Returns the F-measure of the longest common subsequence; NaN where no reference has a-z or 0-9."""
  return _rouge("rougeL", prediction, references)


def final_number(prediction: str, references: Sequence[str]) -> float:
  """Returns 1 if the prediction's last number is that of a reference."""
  found = last_number(prediction)

  def of(reference: str) -> bool:
    wanted = last_number(reference.rpartition("####")[2])
    if wanted is None:
      raise ConfigError(f"final_number: reference {reference!r} ends in no number")
    return found == wanted

  return _best(of, references)


def final_answer(prediction: str, references: Sequence[str]) -> float:
  """Returns 1 if the answer that the prediction comes to is that of a reference."""
  found = last_answer(prediction)

  def of(reference: str) -> bool:
    wanted = last_answer(reference) or _answer(reference)
    if wanted is None:
      raise ConfigError(f"final_answer: reference {reference!r} is no answer")
    return found == wanted

  return _best(of, references)


def choice_letter(prediction: str, references: Sequence[str], labels: Sequence[str] = "ABCD") -> float:
  """Returns 1 if the first label that the prediction names is that of a reference."""
  found = first_label(prediction, labels)

  def of(reference: str) -> bool:
    wanted = first_label(reference, labels)
    if wanted is None:
      raise ConfigError(f"choice_letter: reference {reference!r} names none of {', '.join(labels)}")
    return found == wanted

  return _best(of, references)


def edit_similarity(prediction: str, references: Sequence[str]) -> float:
  """Returns the share of characters that need no edit."""
  try:
    from rapidfuzz.distance import Levenshtein
  except ImportError:
    raise _absent("edit_similarity", "rapidfuzz") from None
  return _best(lambda reference: Levenshtein.normalized_similarity(prediction, reference), references)


def _best(of: Callable[[str], float], references: Sequence[str]) -> float:
  _require_references(references)
  return float(max(of(reference) for reference in references))


def _require_references(references: Sequence[str]) -> None:
  ok = not isinstance(references, str) and len(references) > 0
  require(ok, "references", references, "a list of one or more texts")


def _rouge(name: str, prediction: str, references: Sequence[str]) -> float:
  try:
    from rouge_score import rouge_scorer
  except ImportError:
    raise _absent(name, "rouge_score") from None
  _require_references(references)
  readable = [reference for reference in references if _WORD_OF_ROUGE.search(reference.lower())]
  if not readable:
    return math.nan
  scorer = rouge_scorer.RougeScorer([name], use_stemmer=True)
  return _best(lambda reference: scorer.score(reference, prediction)[name].fmeasure, readable)


def _absent(name: str, package: str) -> ConfigError:
  return ConfigError(f"metric {name} needs the package {package}: pip install 'lm_jax[evaluation]'")


# --- what an answer says ----------------------------------------------------------------------------


def normalize(text: str) -> str:
  """Returns a text in lower case, without ASCII punctuation and articles, with single spaces (SQuAD)."""
  return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def last_number(text: str) -> Decimal | None:
  """Returns the last number that a text names, exactly; None if it names none."""
  named = _NUMBER.findall(text.replace("−", "-"))  # the minus sign of typography
  if not named:
    return None
  minus, minus_after_dollar, digits = named[-1]
  return Decimal(("-" if minus or minus_after_dollar else "") + digits.replace(",", ""))


def last_answer(text: str) -> str | None:
  """Returns X of the last "the answer is X." of a text, to the end of its line; None if it gives none."""
  for line in reversed(text.split("\n")):
    _, *given = _ANSWER_IS.split(line)
    if given and (answer := _answer(given[-1])) is not None:
      return answer
  return None


def _answer(said: str) -> str | None:
  bare = said.strip().removesuffix(".").rstrip()
  letter = _LETTER.match(bare)
  return f"({letter[1] or letter[2]})" if letter else bare or None


def first_label(text: str, labels: Sequence[str]) -> str | None:
  """Returns the label that a text names first, as a word of its own; None if it names none.

  A label of one character keeps its case, so that "a" is not A, though at the start of a sentence "A" is;
  longer ones, e.g. "entailment", are found in any case. Where two begin together the longer one is meant.
  """
  distinct = {label if len(label) == 1 else label.lower() for label in labels}
  ok = len(labels) > 0 and all(labels) and len(distinct) == len(labels)
  require(ok, "labels", labels, "one or more texts that differ")
  by_length = sorted(labels, key=len, reverse=True)
  patterns = [re.escape(label) if len(label) == 1 else f"(?i:{re.escape(label)})" for label in by_length]
  found = re.search(rf"(?<!\w)(?:{'|'.join(f'({p})' for p in patterns)})(?!\w)", text)
  return None if found is None else by_length[found.lastindex - 1]


# --- several samples --------------------------------------------------------------------------------


def majority(answers: Sequence[T | None]) -> T | None:
  """Returns the most frequent answer, of equally frequent ones the first; None, no answer, has no vote."""
  require(len(answers) > 0, "answers", answers, "one or more")
  votes = collections.Counter(answer for answer in answers if answer is not None)
  return votes.most_common(1)[0][0] if votes else None


def pass_at_k(n: int, c: int, k: int) -> float:
  """Returns the unbiased estimate of the chance that one of k samples is right, c of n having been."""
  require(n > 0, "n", n, "greater than 0")
  require(0 <= c <= n, "c", c, f"from 0 to {n}, the number of samples")
  require(0 < k <= n, "k", k, f"from 1 to {n}, the number of samples")
  if n - c < k:
    return 1.0
  # C(n-c, k) / C(n, k) as a product of c factors, in logs so that a small chance keeps its digits.
  return float(0 - np.expm1(np.log1p(-k / np.arange(n - c + 1, n + 1)).sum()))


# --- corpora ----------------------------------------------------------------------------------------


def bleu_counts(prediction: str, references: Sequence[str]) -> np.ndarray:
  """Returns an item's counts [10]: two lengths in words, n-grams matched and n-grams made, n = 1 to 4."""
  return _counts(_sacrebleu("bleu").BLEU(), prediction, references)


def bleu(counts: np.ndarray) -> float:
  """Returns BLEU, 0 to 100, of summed counts."""
  return float(_sacrebleu("bleu").BLEU()._compute_score_from_stats(counts.tolist()).score)


def chrf_counts(prediction: str, references: Sequence[str]) -> np.ndarray:
  """Returns an item's counts [18]: n-grams of prediction, of reference, and matched, n = 1 to 6."""
  return _counts(_sacrebleu("chrf").CHRF(), prediction, references)


def chrf(counts: np.ndarray) -> float:
  """Returns chrF, 0 to 100, of summed counts."""
  return float(_sacrebleu("chrf").CHRF()._compute_score_from_stats(counts.tolist()).score)


def _sacrebleu(name: str):
  try:
    from sacrebleu import metrics as sacrebleu_metrics
  except ImportError:
    raise _absent(name, "sacrebleu") from None
  return sacrebleu_metrics


def _counts(metric, prediction: str, references: Sequence[str]) -> np.ndarray:
  _require_references(references)
  # Private in name, but the interface by which sacrebleu's own significance tests resample.
  counts = metric._extract_corpus_statistics([prediction], [[reference] for reference in references])
  return np.array(counts[0], np.float64)


METRICS = {
  "exact_match": Metric(exact_match),
  "quasi_exact_match": Metric(quasi_exact_match),
  "f1": Metric(f1, continuous=True),
  "rouge1": Metric(rouge1, continuous=True, package="rouge_score"),
  "rouge2": Metric(rouge2, continuous=True, package="rouge_score"),
  "rougeL": Metric(rougeL, continuous=True, package="rouge_score"),
  "final_number": Metric(final_number),
  "final_answer": Metric(final_answer),
  "choice_letter": Metric(choice_letter),
  "edit_similarity": Metric(edit_similarity, continuous=True, package="rapidfuzz"),
  "bleu": Metric(bleu_counts, bleu, continuous=True, highest=100.0, package="sacrebleu"),
  "chrf": Metric(chrf_counts, chrf, continuous=True, highest=100.0, package="sacrebleu"),
}
