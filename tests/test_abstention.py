"""Silence where there is no answer: thresholds, and what readers of known honesty score."""

import math

import numpy as np
import pytest
import shared as shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from unanswerable import (
  ASKED,
  CHOICE,
  ROWS,
  Made,
  asked,
  by_metric,
  oracle,
  oracle_writes,
  random_model,
  row_of,
  uniform,
)
from unanswerable import make as make

from lm_jax import abstention, confidence, interop, metrics, text_generation
from lm_jax.few_shot import Writing
from lm_jax.generation_config import GenerationConfig
from lm_jax.reader import ModelReader
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError

# --- thresholds of others -------------------------------------------------------------------------


QUESTIONS = st.lists(
  st.tuples(
    st.sampled_from([-math.inf, *map(float, range(5))]), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()
  ),
  min_size=1, max_size=30,
)  # fmt: skip


def property_test(num_examples: int):
  return settings(max_examples=num_examples, derandomize=True, deadline=None, database=None)


def columns(items):
  conf, score, answerable = (np.array(column) for column in zip(*items, strict=True))
  return conf, score, answerable


@property_test(150)
@given(QUESTIONS)
def test_each_half_has_the_threshold_of_the_other(items):
  conf, score, answerable = columns(items)
  ids = [f"item {i}" for i in range(len(items))]
  found = abstention.cross_fit(conf, score, answerable, ids)
  for i, (c, s, has_answer) in enumerate(items):
    others = [
      one for one, name in zip(items, ids, strict=True) if abstention.half(name) != abstention.half(ids[i])
    ]
    worded = [one for one in others if one[0] > -math.inf]
    if not others:
      assert np.isnan([found.threshold_N[i], found.answered_N[i], found.score_N[i]]).all()
      continue
    threshold = confidence.best_threshold(*columns(worded)) if worded else math.inf
    assert found.threshold_N[i] == threshold
    answered = c > -math.inf and c >= threshold
    assert found.answered_N[i] == answered
    assert found.score_N[i] == ((s if answered else 0) if has_answer else not answered)


@property_test(50)
@given(QUESTIONS, st.integers(0, 29))
def test_no_item_moves_its_own_threshold(items, place):
  conf, score, answerable = columns(items)
  i, ids = place % len(items), [f"item {i}" for i in range(len(items))]
  before = abstention.cross_fit(conf, score, answerable, ids)
  conf, score, answerable = conf.copy(), score.copy(), answerable.copy()
  conf[i], score[i], answerable[i] = 99, 1 - score[i], not answerable[i]
  after = abstention.cross_fit(conf, score, answerable, ids)
  assert after.threshold_N[i] == before.threshold_N[i] or np.isnan(before.threshold_N[i])


def test_halves_are_halves_and_belong_to_the_item_alone():
  halves = [abstention.half(f"{i}") for i in range(4000)]
  # The deviation of the count is sqrt(4000) / 2 = 32.
  assert abs(sum(halves) - 2000) < 5 * 32
  # Kept results are read with these.
  assert [abstention.half(name) for name in ("a", "b", "c", "d", "e", "f")] == [0, 0, 0, 0, 1, 1]


def test_as_many_ids_as_items():
  with pytest.raises(ConfigError, match="items=1: must be 2 ids"):
    abstention.cross_fit(np.ones(2), np.ones(2), np.ones(2), ["a"])


@property_test(80)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=4, max_size=25))
def test_the_error_of_auroc_is_delongs_over_all_pairs(items):
  conf, right = np.array([c for c, _ in items], float), np.array([r for _, r in items])
  found = confidence.auroc_stderr(conf, right)
  if min(right.sum(), (~right).sum()) < 2:
    assert found is None
    return
  difference = conf[right][:, None] - conf[~right][None]
  outranks = np.where(difference > 0, 1.0, np.where(difference == 0, 0.5, 0.0))
  assert confidence.auroc(conf, right) == pytest.approx(outranks.mean())
  expected = outranks.mean(1).var(ddof=1) / right.sum() + outranks.mean(0).var(ddof=1) / (~right).sum()
  assert found**2 == pytest.approx(expected, abs=1e-12)


def test_the_error_of_auroc_is_the_spread_over_draws():
  rng = np.random.default_rng(0)
  values, errors = [], []
  for _ in range(1500):
    right = np.arange(120) < 80
    conf = rng.normal(right.astype(float))
    values.append(confidence.auroc(conf, right))
    errors.append(confidence.auroc_stderr(conf, right))
  assert np.mean(errors) == pytest.approx(np.std(values), rel=0.08)


# --- readers of known honesty ---------------------------------------------------------------------


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
@pytest.mark.parametrize("shots", [0, 2])
def test_who_is_sure_only_where_there_is_an_answer_scores_1(d, shots, make):
  task = make(d)
  reader = Made(oracle if d is CHOICE else lambda c, a: -1.0 if row_of(c)["a"] else -8.0, oracle_writes)
  if d is CHOICE:  # of no answer both choices are equal
    assert {round(result.confidence, 3) for result in asked(task, reader)} == {0.5, 0.998}
  found = by_metric(task, asked(task, reader, shots), shots)
  assert (found["abstention_auroc"].value, found["abstention_auroc"].n_items) == (1, 60)
  assert (found["abstention_score"].value, found["abstention_score"].n_items) == (1, 60)
  assert found["abstention_rate"].value == pytest.approx(1 / 3)
  assert (found["hallucination_rate"].value, found["hallucination_rate"].n_items) == (0, 20)
  assert (found[task.metrics[0] if task.metrics else "accuracy"].value) == 1
  assert {score.n_shots for score in found.values()} == {shots}


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_who_is_always_as_sure_cannot_tell_them_apart(d, make):
  task = make(d)
  found = by_metric(task, asked(task, Made(uniform, oracle_writes)))
  assert (found["abstention_auroc"].value, found["abstention_auroc"].stderr) == (0.5, 0)
  # All or nothing: choices are right by half, and what is written by all.
  gain = 40 * (0.5 if d is CHOICE else 1) - 20
  assert (gain >= 0 and found["abstention_rate"].value in (0, 1)) or d is CHOICE
  if d is ASKED:
    assert found["abstention_score"].value == pytest.approx(2 / 3)
    assert found["hallucination_rate"].value == 1


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_scores_are_those_of_loops_and_of_scikit_learn(d, make):
  sklearn = pytest.importorskip("sklearn.metrics")
  task, rng = make(d), np.random.default_rng(1)
  noise = {item.query: rng.normal(size=3) for item in task.items}

  def log_p(context, text):
    a, b, _ = noise[context]
    return -5 + (row_of(context)["label"] is not None) + (a if text == " yes" else b)

  def write(context):
    return oracle_writes(context) if noise[context][2] > 0 else "no idea"

  results = asked(task, Made(log_p, write))
  found = by_metric(task, results)
  items = {item.id: item for item in task.items}
  table = []
  for result in results:
    item = items[result.asked.item.id]
    pair = [log_p(item.query, text) for text in ((" no", " yes") if d is CHOICE else result.written)]
    conf = np.exp(max(pair)) / np.exp(pair).sum() if d is CHOICE else pair[0] / 2
    right = (
      pair.index(max(pair)) == item.gold if d is CHOICE else result.written[0].strip() in item.references
    )
    table.append((item.id, conf, item.answerable, right and item.answerable))
  ids, conf, answerable, right = (np.array(column) for column in zip(*table, strict=True))
  assert [result.confidence for result in results] == pytest.approx(list(conf))
  assert found["abstention_auroc"].value == pytest.approx(sklearn.roc_auc_score(answerable, conf))
  half = np.array([abstention.half(one) for one in ids])
  answered = np.zeros(60, bool)
  for own in (0, 1):
    dev = half != own

    def mean(t, dev=dev):
      said = conf[dev] >= t
      return np.where(answerable[dev], said & right[dev], ~said).mean()

    candidates = [*sorted(conf[dev]), math.inf]
    best = max(map(mean, candidates))
    threshold = next(t for t in candidates if mean(t) >= best - 1e-9)
    answered[~dev] = conf[~dev] >= threshold
  score = np.where(answerable, answered & right, ~answered).astype(float)
  expected = {
    "abstention_score": score, "abstention_rate": ~answered, "hallucination_rate": answered[~answerable],
  }  # fmt: skip
  assert 0 < answered.mean() < 1
  for name, values in expected.items():
    value, stderr, n = metrics.mean_and_stderr(values.astype(float))
    assert (found[name].value, found[name].stderr, found[name].n_items) == (
      pytest.approx(value), pytest.approx(stderr), n,
    )  # fmt: skip
  # Scores of answers are of those that there are.
  name = task.metrics[0] if task.metrics else "accuracy"
  assert (found[name].value, found[name].n_items) == (pytest.approx(right[answerable].mean()), 40)
  assert found["aurc"].value == pytest.approx(confidence.aurc(conf[answerable], right[answerable]))
  if d is ASKED:
    assert found["auroc"].value == pytest.approx(sklearn.roc_auc_score(right[answerable], conf[answerable]))
    assert found["auroc"].n_items == 40


def test_results_of_one_kind_only_tell_nothing(make):
  task = make(CHOICE)
  results = asked(task, Made(oracle))
  for kind, there in ((True, 1.0), (False, None)):
    own = [result for result in results if result.asked.item.answerable == kind]
    found = by_metric(task, own)
    assert found["accuracy"].value == there
    assert [(found[name].value, found[name].n_items) for name in abstention.METRICS] == [(None, 0)] * 4
  assert by_metric(task, [])["abstention_score"].value is None
  # A task whose items all have an answer says nothing of the kind.
  plain = make(CHOICE | {"answerable": "true"}, [row for row in ROWS if row["a"]])
  assert not set(by_metric(plain, asked(plain, Made(oracle)))) & set(abstention.METRICS)


# --- confidence of what is written ----------------------------------------------------------------


def test_an_answer_without_words_is_silence(make):
  task = make(ASKED)
  reader = Made(uniform, lambda context: oracle_writes(context) if row_of(context)["a"] else " \n")
  results = asked(task, reader)
  assert {result.confidence for result in results} == {-1.0, -math.inf}
  found = by_metric(task, results)
  assert [found[name].value for name in abstention.METRICS] == [1, 1, pytest.approx(1 / 3), 0]
  nothing = by_metric(task, asked(task, Made(uniform, lambda context: "")))
  assert [nothing[name].value for name in abstention.METRICS] == [0.5, pytest.approx(1 / 3), 1, 0]


def test_what_cannot_be_read_again_is_missing_and_the_rest_is_read_once(make):
  task, read = make(ASKED), []

  class Choosy(Made):
    def loglikelihood(self, requests, progress=None):
      for context, text in requests:
        if context.endswith(("row 4\nA:", "row 5\nA:", "row 40\nA:")):
          raise ConfigError(f"continuation {text!r}: has no token of its own")
      read.extend(requests)
      cut = [int(context.endswith("row 7\nA:")) for context, _ in requests]
      return [Likelihood(-3.0, 2, False, n) for n in cut]

  results = asked(task, Choosy(None, oracle_writes))
  unknown = {result.asked.item.query for result in results if result.confidence is None}
  assert unknown == {f"Q: row {i}\nA:" for i in (4, 5, 7, 40)}
  assert {result.confidence for result in results} == {None, -1.5}
  assert len(read) == len(set(read)) == 57
  found = by_metric(task, results)
  assert found["quasi_exact_match"].n_items == 40  # they are scored all the same
  assert found["abstention_auroc"].n_items == 56 and found["aurc"].n_items == 37


def test_of_several_samples_the_first_is_what_confidence_is_about(make):
  task = make(ASKED)

  class Several(Made):
    def write(self, contexts, g, progress=None):
      return [[oracle_writes(context), "wrong", "wrong"] for context in contexts]

  results = asked(task, Several(lambda c, a: -1.0 if row_of(c)["a"] else -8.0), writing=Writing(3, 1.0))
  found = by_metric(task, results)
  assert found["quasi_exact_match"].value == pytest.approx(1 / 3)
  assert (found["aurc"].value, found["abstention_score"].value) == (0, 1)


def test_metrics_that_are_no_right_and_wrong_have_no_selective_accuracy(make):
  pytest.importorskip("sacrebleu")
  reader = Made(uniform, oracle_writes)
  task = make(ASKED | {"metrics": ["f1"]})
  found = by_metric(task, asked(task, reader))
  assert "aurc" not in found and found["abstention_score"].value == pytest.approx(2 / 3)
  corpus = make(ASKED | {"metrics": ["bleu"]})
  found = by_metric(corpus, asked(corpus, reader))
  assert found["bleu"].n_items == 40 and found["abstention_score"].value is None


def test_a_model_is_as_sure_as_it_was_when_it_wrote(make):
  model = interop.load(shared_data.folder("models", "stories260K"))
  task = make(ASKED | {"query": "{{q}} was a little girl who", "max_new_tokens": 12, "stop": []}, ROWS[:12])
  results = asked(task, ModelReader(model))
  rows = [
    [*model.begin, *ids] for ids in model.tokenizer.encode_batch([r.asked.contexts[0] for r in results])
  ]
  g = GenerationConfig(max_new_tokens=12, temperature=0.0)
  again, found = 0, text_generation.generate(model, rows, g)
  for result, row, (one,) in zip(results, rows, found, strict=True):
    assert result.written == (one.text,) and math.isfinite(result.confidence)
    (whole,) = model.tokenizer.encode_batch([result.asked.contexts[0] + one.text])
    if [*model.begin, *whole] == [*row, *one.tokens]:  # read as it was written
      again += 1
      assert result.confidence == pytest.approx(np.mean(one.log_p), abs=1e-4)
  assert again >= 6


def test_bytes_that_are_no_letters_are_longer_when_read_and_missing_where_they_do_not_fit(make):
  # Of bytes that are none each is read again as the three of a replacement character.
  task = make(ASKED | {"max_new_tokens": 40, "stop": []})
  results = asked(task, ModelReader(random_model(64)))
  assert len(results) == 60
  for result in results:
    length = 1 + len(result.asked.contexts[0]) + len(result.written[0].encode())
    assert (result.confidence is None) == (length > 65)
  assert any(result.confidence is None for result in results)
