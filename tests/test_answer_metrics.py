"""Generated answers against sacrebleu, rouge-score, nltk and the harness, and against hand-made cases."""

import dataclasses
import fractions
import itertools
import math
import random
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import answer_metrics, metrics, uncertainty
from lm_jax.answer_metrics import METRICS
from lm_jax.strict import ConfigError

sacrebleu = pytest.importorskip("sacrebleu")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
pytest.importorskip("rapidfuzz")

WORDS = [
  "The",
  "a",
  "cat",
  "cats",
  "sat.",
  "on",
  "mats,",
  "Größe",
  "naïve",
  "貓",
  "-5",
  "$1,000",
  "(B)",
  "e\u0301",
  "",
]
# Texts of known words, which share some, and any texts at all.
TEXTS = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join) | st.text(max_size=12)
REFERENCES = st.lists(TEXTS, min_size=1, max_size=3)
ANY_REFERENCE = ("exact_match", "quasi_exact_match", "f1", "edit_similarity", "rouge1", "rouge2", "rougeL")


def property_test(num_examples: int):
  return settings(max_examples=num_examples, derandomize=True, deadline=None, database=None)


def corpus(seed: int, size: int) -> tuple[list[str], list[list[str]]]:
  """Returns predictions, and one to three references of each, of words that overlap; some are empty."""
  rng = random.Random(seed)

  def text(words):
    return " ".join(rng.choices(words, k=rng.randrange(0, 12)))

  references = [[text(WORDS) for _ in range(rng.randrange(1, 4))] for _ in range(size)]
  return [text(refs[0].split() + WORDS[:4]) for refs in references], references


# --- every metric -----------------------------------------------------------------------------------


@property_test(150)
@given(TEXTS, REFERENCES, st.randoms())
def test_scores_of_an_item_have_bounds_and_references_no_order(prediction, references, rng):
  for name in ANY_REFERENCE:
    score = METRICS[name].of_item
    value = score(prediction, references)
    if math.isnan(value):
      assert name.startswith("rouge")
      assert math.isnan(score("another", references))
      continue
    assert 0 <= value <= 1
    each = [score(prediction, [reference]) for reference in references]
    assert value == np.nanmax(each)
    assert METRICS[name].continuous or value in (0, 1)
    shuffled = references.copy()
    rng.shuffle(shuffled)
    assert score(prediction, shuffled) == value
    if name != "rouge2":  # undefined for a single word, which the package calls 0
      assert score(references[0], references) == 1 or math.isnan(score("", references[:1]))


@property_test(100)
@given(TEXTS, TEXTS)
def test_what_counts_as_similar_is_so_both_ways(a, b):
  for name in ("exact_match", "quasi_exact_match", "f1", "edit_similarity", "rouge1", "rougeL"):
    there, back = METRICS[name].of_item(a, [b]), METRICS[name].of_item(b, [a])
    assert there == pytest.approx(back) or math.isnan(there) or math.isnan(back)
  assert answer_metrics.exact_match(a, [b]) <= answer_metrics.quasi_exact_match(a, [b])
  assert answer_metrics.quasi_exact_match(a, [b]) <= answer_metrics.f1(a, [b])


@pytest.mark.parametrize("name", METRICS)
def test_a_right_answer_is_perfect_and_a_wrong_one_is_nothing(name):
  metric = METRICS[name]
  right = "The number of cats (A) that sat on mats: the answer is 12"
  items = metric.items([right, right], [["no: D 7", right], [right]])
  assert metric.value(items) == pytest.approx(metric.highest)
  assert metric.value(metric.items(["B;34"] * 2, [["A cats 12"]] * 2)) == 0
  assert metric.value(metric.items(["", ""], [[right]] * 2)) == 0


@pytest.mark.parametrize("name", METRICS)
def test_references_must_be_a_list_and_not_empty(name):
  for references in ([], (), "a text"):
    with pytest.raises(ConfigError, match=r"references=.*: must be a list of one or more texts"):
      METRICS[name].of_item("A 5", references)


@pytest.mark.parametrize("name", METRICS)
def test_scores_carry_the_number_of_items_and_their_error(name):
  predictions = ["A 5 cats sat on the mat", "B 6 dogs sat on a mat here", "A 5 birds"] * 3
  references = [["A 5 cats sat on the mats"]] * 9
  found = answer_metrics.score(name, predictions, references)
  items = METRICS[name].items(predictions, references)
  assert (found.metric, found.n_items) == (name, 9)
  assert found.value == METRICS[name].value(items)
  if METRICS[name].of_corpus is None:
    assert found.stderr == metrics.mean_and_stderr(items)[1]
  else:
    assert found.stderr == uncertainty.bootstrap(items, METRICS[name].value).stderr > 0
  one = answer_metrics.score(name, predictions[:1], references[:1])
  assert (one.n_items, one.stderr) == (1, None)


def test_an_unknown_metric_is_told_the_nearest():
  with pytest.raises(ConfigError, match="metric='rouge_l': unknown; did you mean 'rougeL'"):
    answer_metrics.score("rouge_l", ["a"], [["a"]])


def test_predictions_and_references_must_be_as_many():
  with pytest.raises(ConfigError, match="2 predictions, but references of 1"):
    answer_metrics.score("f1", ["a", "b"], [["a"]])
  with pytest.raises(ConfigError, match=r"predictions=\[\]: must be a list"):
    answer_metrics.score("f1", [], [])


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.package])
def test_an_absent_package_is_named_with_its_extra(name, monkeypatch):
  package = METRICS[name].package
  for module in [m for m in sys.modules if m.split(".")[0] == package] + [package]:
    monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(
    ConfigError, match=rf"metric {name} needs the package {package}: .*lm_jax\[evaluation\]"
  ):
    METRICS[name].of_item("a", ["a"])


# --- matches and overlaps ---------------------------------------------------------------------------


def test_exact_match_is_the_harness():
  harness = pytest.importorskip("lm_eval.api.metrics")
  predictions, references = corpus(0, 200)
  for prediction, refs in zip(predictions, references, strict=True):
    wanted = harness.exact_match_hf_evaluate([prediction.strip()], [refs[0].strip()])["exact_match"]
    assert answer_metrics.exact_match(prediction, refs[:1]) == wanted


@property_test(200)
@given(TEXTS, TEXTS)
def test_words_are_those_of_the_squad_script(prediction, reference):
  squad = pytest.importorskip("lm_eval.tasks.qasper.metrics")
  assert answer_metrics.normalize(prediction) == squad.normalize_answer(prediction)
  same = squad.normalize_answer(prediction) == squad.normalize_answer(reference)
  assert answer_metrics.quasi_exact_match(prediction, [reference]) == same
  both_empty = not squad.normalize_answer(prediction) and not squad.normalize_answer(reference)
  wanted = 1 if both_empty else squad.f1_abstractive([prediction], [reference])
  assert answer_metrics.f1(prediction, [reference]) == pytest.approx(wanted)


@pytest.mark.parametrize(
  ("prediction", "reference", "exact", "quasi", "f1"),
  [
    (" Paris\n", "Paris", 1, 1, 1),
    ("paris.", "Paris", 0, 1, 1),
    ("The Eiffel  Tower!", "an eiffel tower", 0, 1, 1),
    ("in Paris", "Paris", 0, 0, 2 / 3),
    ("Paris Paris", "Paris", 0, 0, 2 / 3),
    ("", "Paris", 0, 0, 0),
    ("", "", 1, 1, 1),
    ("Größe", "größe", 0, 1, 1),
    ("ΣΊΣΥΦΟΣ", "Σίσυφος", 0, 1, 1),
    ("«Paris»", "Paris", 0, 0, 0),  # only ASCII punctuation is left out
  ],
)
def test_matches_by_hand(prediction, reference, exact, quasi, f1):
  assert answer_metrics.exact_match(prediction, [reference]) == exact
  assert answer_metrics.quasi_exact_match(prediction, [reference]) == quasi
  assert answer_metrics.f1(prediction, [reference]) == pytest.approx(f1)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_package_with_its_stemmer(name):
  scorer = rouge_scorer.RougeScorer([name], use_stemmer=True)
  for prediction, refs in zip(*corpus(1, 200), strict=True):
    readable = [ref for ref in refs if any(c.isascii() and c.isalnum() for c in ref)]
    value = METRICS[name].of_item(prediction, refs)
    if readable:
      assert value == scorer.score_multi(readable, prediction)[name].fmeasure
    else:
      assert math.isnan(value)
  assert answer_metrics.rouge1("running cats", ["run cat"]) == 1


def test_rouge_by_hand():
  prediction, reference = "the cat sat on the mat", "on the mat the cat lay"
  assert answer_metrics.rouge1(prediction, [reference]) == pytest.approx(5 / 6)
  assert answer_metrics.rouge2(prediction, [reference]) == pytest.approx(3 / 5)
  assert answer_metrics.rougeL(prediction, [reference]) == pytest.approx(3 / 6)


def test_a_script_that_rouge_cannot_read_is_missing_and_not_zero():
  found = answer_metrics.score("rouge1", ["貓坐", "cat", "dog"], [["貓坐"], ["cat"], ["貓", "cat"]])
  assert (found.value, found.n_items) == (0.5, 2)
  with pytest.raises(ConfigError, match="metric='rougeL': no item has a reference that it can read"):
    answer_metrics.score("rougeL", ["貓"], [["貓"]])


@property_test(200)
@given(TEXTS, TEXTS)
def test_edit_similarity_is_nltks_distance(prediction, reference):
  nltk = pytest.importorskip("nltk.metrics.distance")
  longest = max(len(prediction), len(reference))
  wanted = 1 - nltk.edit_distance(prediction, reference) / longest if longest else 1
  assert answer_metrics.edit_similarity(prediction, [reference]) == pytest.approx(wanted)


# --- numbers and labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("She has 3 + 4 = 7 eggs.", "7"),
    ("It costs $1,234.50.", "1234.5"),
    ("#### -3", "-3"),
    ("a loss of -$20", "-20"),
    ("a loss of $-20", "-20"),
    ("x=−8", "-8"),  # a minus sign
    ("10-4", "4"),
    ("10 - 4", "4"),
    ("(2)-4", "4"),
    ("COVID-19", "19"),
    ("about .5 kg", "0.5"),
    ("see step.2", "2"),
    ("version 1.2.3", "3"),
    ("75%", "75"),
    ("**42**", "42"),
    (r"\boxed{42}", "42"),
    ("٤٢", "42"),  # decimal digits of any script
    ("0.1000", "0.1"),
    ("-123456789012345678901234567890123456789", "-123456789012345678901234567890123456789"),
    ("1" * 5000, "1" * 5000),
  ],
)
def test_the_last_number_of_a_text(text, number):
  assert answer_metrics.last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "$", "-", ".", ",", "x²", "seven"])
def test_a_text_without_a_number(text):
  assert answer_metrics.last_number(text) is None
  assert answer_metrics.final_number(text, ["0"]) == 0
  with pytest.raises(ConfigError, match="ends in no number"):
    answer_metrics.final_number("5", [text])


@property_test(100)
@given(st.decimals(-(10**9), 10**9, places=2), st.integers(0, 99), TEXTS)
def test_a_number_is_found_however_it_is_written(number, other, text):
  for written in (f"{number:f}", f"{number:,f}", f"{number:,f}00", f"${number:,f}"):
    answer = f"{text} {other} so it is {written}."
    assert answer_metrics.last_number(answer) == number
    assert answer_metrics.final_number(answer, [f"{other} steps <<1+1=2>>\n#### {number:f}"]) == 1
    assert answer_metrics.final_number(answer, [f"#### {number + 1}", f"{number}"]) == 1
    assert answer_metrics.final_number(answer, [f"{number:f}\n#### {number + 1:f}"]) == 0


def test_final_number_is_the_harness_on_plain_answers():
  extraction = pytest.importorskip("lm_eval.filters.extraction")
  flexible = extraction.RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
  rng = random.Random(0)
  agreed = 0
  for _ in range(200):
    gold, said = rng.randrange(-50, 5000), rng.randrange(-50, 5000)
    said = gold if rng.random() < 0.5 else said
    answer = f"First {rng.randrange(9)} and then {said:,} in all"
    ((extracted,),) = flexible.apply([[answer]], [{}])
    wanted = extracted.replace(",", "").replace("$", "").rstrip(".") == str(gold)
    assert answer_metrics.final_number(answer, [f"reason 3\n#### {gold:,}"]) == wanted
    agreed += wanted
  assert 80 < agreed < 130


@pytest.mark.parametrize(
  ("text", "labels", "label"),
  [
    ("B", "ABCD", "B"),
    ("The answer is (C), not D.", "ABCD", "C"),
    ("a cat: B", "ABCD", "B"),
    ("Because: D", "ABCD", "D"),
    ("E", "ABCD", None),
    ("", "ABCD", None),
    ("Yes, it is", ("yes", "no"), "yes"),
    ("Nothing. NO!", ("yes", "no"), "no"),
    ("not entailment", ("entailment", "not entailment"), "not entailment"),
    ("it is entailment", ("entailment", "not entailment"), "entailment"),
    ("1) x", ("1", "2"), "1"),
    ("12", ("1", "2"), None),
    ("c++ or c", ("c", "c++"), "c++"),
    ("größer", ("kleiner", "größer"), "größer"),
    ("a.b", ("a.b", "axb"), "a.b"),
  ],
)
def test_the_first_label_of_a_text(text, labels, label):
  assert answer_metrics.first_label(text, labels) == label


def test_choice_letter_by_hand():
  assert answer_metrics.choice_letter("I would say (B).", ["B"]) == 1
  assert answer_metrics.choice_letter("I would say (B).", ["A", "D"]) == 0
  assert answer_metrics.choice_letter("None.", ["A"]) == 0
  assert answer_metrics.choice_letter("E", ["E"], labels="ABCDE") == 1
  with pytest.raises(ConfigError, match="reference 'E' names none of A, B, C, D"):
    answer_metrics.choice_letter("E", ["E"])


@pytest.mark.parametrize("labels", [(), ("",), ("yes", "Yes"), "AA"])
def test_labels_must_be_told_apart(labels):
  with pytest.raises(ConfigError, match=r"labels=.*one or more texts that differ"):
    answer_metrics.first_label("yes", labels)


# --- several samples --------------------------------------------------------------------------------


def test_majority_by_hand():
  assert answer_metrics.majority(["a", "b", "b"]) == "b"
  assert answer_metrics.majority(["b", "a", "a", "b"]) == "b"
  assert answer_metrics.majority([None, None, None, "a"]) == "a"
  assert answer_metrics.majority([None, None]) is None
  assert answer_metrics.majority([Decimal("18.0"), Decimal("3"), Decimal("18")]) == 18
  with pytest.raises(ConfigError, match=r"answers=\[\]"):
    answer_metrics.majority([])


@property_test(100)
@given(st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=12))
def test_no_answer_has_more_votes_than_the_majority(answers):
  found = answer_metrics.majority(answers)
  named = [answer for answer in answers if answer is not None]
  most = max((named.count(answer) for answer in named), default=0)
  assert found == next((answer for answer in named if named.count(answer) == most), None)


@property_test(200)
@given(st.integers(1, 60), st.data())
def test_pass_at_k_is_the_exact_fraction(n, data):
  c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
  wanted = 1 - fractions.Fraction(math.comb(n - c, k), math.comb(n, k))
  found = answer_metrics.pass_at_k(n, c, k)
  assert found == pytest.approx(float(wanted), rel=1e-12)
  assert k == n or found <= answer_metrics.pass_at_k(n, c, k + 1) + 1e-15
  assert c == n or found <= answer_metrics.pass_at_k(n, c + 1, k) + 1e-15
  assert answer_metrics.pass_at_k(n, c, 1) == pytest.approx(c / n)


def test_pass_at_k_is_the_share_of_all_draws():
  for n, c, k in [(6, 2, 3), (6, 0, 2), (6, 6, 1), (7, 1, 4), (5, 3, 3)]:
    draws = list(itertools.combinations(range(n), k))
    share = sum(any(sample < c for sample in draw) for draw in draws) / len(draws)
    assert answer_metrics.pass_at_k(n, c, k) == pytest.approx(share)


def test_pass_at_k_is_the_harness_and_stays_exact_for_many_samples():
  harness = pytest.importorskip("lm_eval.tasks.cruxeval.utils")
  for n, c, k in [(200, 13, 1), (200, 13, 100), (200, 0, 10), (10, 9, 5)]:
    assert answer_metrics.pass_at_k(n, c, k) == pytest.approx(harness._pass_at_k(n, c, k))
  n, c, k = 10**9, 3, 2
  wanted = 1 - fractions.Fraction((n - c) * (n - c - 1), n * (n - 1))
  assert answer_metrics.pass_at_k(n, c, k) == pytest.approx(float(wanted), rel=1e-12)
  assert math.copysign(1, answer_metrics.pass_at_k(5, 0, 1)) == 1  # 0 and not -0


@pytest.mark.parametrize(
  ("n", "c", "k", "message"),
  [(0, 0, 1, "n=0"), (5, 6, 1, "c=6: must be from 0 to 5"), (5, 1, 6, "k=6: must be from 1 to 5"),
   (5, 1, 0, "k=0"), (5, -1, 1, "c=-1")],
)  # fmt: skip
def test_numbers_that_are_no_samples(n, c, k, message):
  with pytest.raises(ConfigError, match=message):
    answer_metrics.pass_at_k(n, c, k)


# --- corpora ----------------------------------------------------------------------------------------


def of_sacrebleu(name: str, predictions: list[str], references: list[list[str]]) -> float:
  """Returns the package's own score, references padded with None to as many for each item."""
  padded = itertools.zip_longest(*references)
  score = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[name]
  return score(predictions, [list(column) for column in padded]).score


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("size", [1, 3, 60])
def test_summed_counts_give_the_score_of_sacrebleu(name, size):
  for seed in range(8):
    predictions, references = corpus(seed, size)
    wanted = of_sacrebleu(name, predictions, references)
    assert answer_metrics.score(name, predictions, references, n_resamples=2).value == wanted


@property_test(60)
@given(st.lists(st.tuples(TEXTS, REFERENCES), min_size=1, max_size=4), st.randoms())
def test_a_corpus_has_bounds_and_no_order(pairs, rng):
  shuffled = pairs.copy()
  rng.shuffle(shuffled)
  for name in ("bleu", "chrf"):
    value, other = (
      METRICS[name].value(METRICS[name].items(*zip(*some, strict=True))) for some in (pairs, shuffled)
    )
    assert 0 <= value <= 100 + 1e-9
    assert value == pytest.approx(other)
    assert value == pytest.approx(of_sacrebleu(name, [p for p, _ in pairs], [r for _, r in pairs]))


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_a_resampled_corpus_is_scored_as_if_it_were_read_again(name):
  predictions, references = corpus(3, 40)
  metric = METRICS[name]
  items = metric.items(predictions, references)
  rng = np.random.default_rng(0)
  for _ in range(10):
    rows = rng.integers(0, 40, 40)
    wanted = of_sacrebleu(name, [predictions[i] for i in rows], [references[i] for i in rows])
    assert metric.value(items[rows]) == pytest.approx(wanted, abs=1e-12)
  better = metric.items([refs[0] for refs in references], references)
  gain = uncertainty.paired_bootstrap(better, items, metric.value, n_resamples=200)
  assert gain.value == pytest.approx(metric.value(better) - metric.value(items))
  assert gain.interval.low > 0


def test_scoring_leaves_counts_as_they_were():
  items = METRICS["bleu"].items(*corpus(0, 20))
  before = items.copy()
  METRICS["bleu"].value(items)
  np.testing.assert_array_equal(items, before)


def test_what_the_table_says_of_metrics():
  assert {name for name, metric in METRICS.items() if metric.of_corpus} == {"bleu", "chrf"}
  thresholded = {name for name, metric in METRICS.items() if not metric.continuous}
  assert thresholded == {
    "exact_match", "quasi_exact_match", "final_number", "final_answer", "choice_letter",
  }  # fmt: skip
  with pytest.raises(dataclasses.FrozenInstanceError):
    METRICS["f1"].continuous = False
