"""Calibration and abstention against plain loops, scikit-learn and the harness; order never matters."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import confidence, metrics, uncertainty
from lm_jax.strict import ConfigError

# Few distinct values, so that ties are common.
ITEMS = st.lists(
  st.tuples(st.integers(0, 8).map(lambda i: i / 8), st.integers(0, 1)), min_size=1, max_size=25
)


def property_test(num_examples: int):
  return settings(max_examples=num_examples, derandomize=True, deadline=None, database=None)


def columns(items):
  return (np.array(column, np.float64) for column in zip(*items, strict=True))


# --- calibration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_bins_without_ties_are_equal_parts_of_the_ranks(bins):
  rng = np.random.default_rng(0)
  conf = rng.permutation(np.linspace(0.02, 0.98, 200))
  right = (rng.random(200) < conf**2).astype(np.float64)
  parts = np.array_split(np.argsort(conf), bins)
  wanted = sum(len(part) / 200 * abs(conf[part].mean() - right[part].mean()) for part in parts)
  assert confidence.expected_calibration_error(conf, right, bins) == pytest.approx(wanted)
  table = confidence.reliability(conf, right, bins)
  assert [b.n_items for b in table] == [200 // bins] * bins
  assert [b.confidence for b in table] == pytest.approx([conf[part].mean() for part in parts])
  assert [b.accuracy for b in table] == pytest.approx([right[part].mean() for part in parts])
  assert table[0].interval == uncertainty.wilson(int(right[parts[0]].sum()), 200 // bins)


def test_bins_without_ties_are_the_quantiles_of_scikit_learn():
  calibration = pytest.importorskip("sklearn.calibration")
  rng = np.random.default_rng(0)
  conf = (rng.permutation(1000) + 0.5) / 1000
  right = (rng.random(1000) < 0.5).astype(np.float64)
  accuracy, mean_confidence = calibration.calibration_curve(right, conf, n_bins=10, strategy="quantile")
  table = confidence.reliability(conf, right)
  assert [b.accuracy for b in table] == pytest.approx(list(accuracy))
  assert [b.confidence for b in table] == pytest.approx(list(mean_confidence))


@property_test(100)
@given(ITEMS, st.integers(1, 12), st.randoms())
def test_calibration_has_bounds_and_knows_no_order(items, bins, random):
  conf, right = columns(items)
  error = confidence.expected_calibration_error(conf, right, bins)
  assert abs(conf.mean() - right.mean()) - 1e-12 <= error <= 1
  table = confidence.reliability(conf, right, bins)
  assert sum(b.n_items for b in table) == len(items)
  assert len(table) <= bins
  # Each value is in one bin only: the bins' numbers of items are sums over whole groups of ties.
  ends = np.cumsum([b.n_items for b in table])
  assert set(ends) <= set(np.cumsum(np.unique(conf, return_counts=True)[1]))
  random.shuffle(items)
  assert confidence.expected_calibration_error(*columns(items), bins) == pytest.approx(error)
  # Calling right wrong and doubt confidence mirrors the diagram.
  assert confidence.expected_calibration_error(1 - conf, 1 - right, 1) == pytest.approx(
    confidence.expected_calibration_error(conf, right, 1)
  )


def test_perfect_confidence_is_calibrated_and_its_opposite_is_not():
  right = np.array([1.0, 0, 1, 1, 0])
  assert confidence.expected_calibration_error(right, right) == 0
  assert confidence.expected_calibration_error(1 - right, right) == 1
  assert confidence.expected_calibration_error(np.full(4, 0.5), np.array([1, 0, 1, 0])) == 0


@pytest.mark.parametrize(
  ("conf", "right", "message"),
  [
    ([], [], "one or more items"),
    ([0.5], [1, 0], r"confidence_N has shape \(1,\), correct_N \(2,\)"),
    ([1.5, 0.5], [1, 0], "confidence_N: must be from 0 to 1 everywhere, not 1.5"),
    ([-0.5, 0.5], [1, 0], "not -0.5"),
    ([np.nan, 0.5], [1, 0], "confidence_N: 1 of 2 are NaN"),
    ([0.5, 0.5], [1, 0.5], "correct_N: must be 0 or 1 everywhere, not 0.5"),
    ([0.5, 0.5], [1, np.nan], "correct_N: must be 0 or 1 everywhere, not nan"),
  ],
)
def test_what_cannot_be_calibrated(conf, right, message):
  with pytest.raises(ConfigError, match=message):
    confidence.expected_calibration_error(np.array(conf), np.array(right))


def test_no_bins():
  with pytest.raises(ConfigError, match="bins=0: must be greater than 0"):
    confidence.reliability(np.ones(2), np.ones(2), 0)


# --- Brier ------------------------------------------------------------------------------------------


def test_brier_is_the_harness_and_twice_scikit_learn_for_two_options():
  harness = pytest.importorskip("lm_eval.api.metrics")
  rng = np.random.default_rng(0)
  p, gold = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
  found = confidence.brier(p, gold)
  assert found.mean() == pytest.approx(harness.brier_score(list(zip(gold, p, strict=True))))
  assert confidence.brier_mean(p, gold) == pytest.approx(found / 4)
  assert confidence.target_brier(p[np.arange(50), gold]) == pytest.approx(
    [(1 - p[i, g]) ** 2 for i, g in enumerate(gold)]
  )
  sklearn = pytest.importorskip("sklearn.metrics")
  two = rng.dirichlet(np.ones(2), 50)
  of_two = gold % 2
  assert confidence.brier(two, of_two).mean() == pytest.approx(
    2 * sklearn.brier_score_loss(of_two, two[:, 1])
  )


def test_brier_goes_from_0_to_2_and_leaves_out_options_that_are_not_there():
  p = np.array([[1.0, 0.0, np.nan], [0.0, 1.0, np.nan], [0.2, 0.3, 0.5]])
  assert confidence.brier(p, np.array([0, 0, 2])) == pytest.approx([0, 2, 0.04 + 0.09 + 0.25])
  assert confidence.brier_mean(p, np.array([0, 0, 2])) == pytest.approx([0, 1, 0.38 / 3])


@pytest.mark.parametrize(
  ("p", "gold", "message"),
  [
    ([[0.5, 0.5]], [2], "1 items have a gold option that is not among theirs"),
    ([[0.5, 0.5]], [-1], "1 items have a gold option"),
    ([[0.5, 0.5, np.nan]], [2], "1 items have a gold option"),
    ([[0.5, 0.4]], [0], "options of item 0 do not sum to 1"),
    ([[1.5, -0.5]], [0], "p_NC: must be from 0 to 1 everywhere, not 1.5"),
    ([[0.5, 0.5]], [0.0], "index of one option"),
    ([[0.5, 0.5]], [0, 1], r"gold_N \(2,\)"),
  ],
)
def test_what_brier_refuses(p, gold, message):
  with pytest.raises(ConfigError, match=message):
    confidence.brier(np.array(p), np.array(gold))


# --- selective answering ----------------------------------------------------------------------------


def every_order(conf, right):
  """Yields the answers by descending confidence, in all the orders that ties allow."""
  groups = [right[conf == value] for value in sorted(set(conf), reverse=True)]
  for orders in itertools.product(*[list(itertools.permutations(group)) for group in groups]):
    yield np.concatenate([np.array(order) for order in orders])


@property_test(40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6))
def test_selective_accuracy_is_the_mean_over_all_orders_of_ties(items):
  conf, right = columns(items)
  N = len(items)
  curves = [np.cumsum(order) / np.arange(1, N + 1) for order in every_order(conf, right)]
  wanted = np.mean(curves, axis=0)
  found = confidence.risk_coverage(conf, right)
  assert found.accuracy_N == pytest.approx(wanted)
  assert found.coverage_N == pytest.approx(np.arange(1, N + 1) / N)
  assert confidence.aurc(conf, right) == pytest.approx(1 - wanted.mean())
  for k in range(1, N + 1):
    assert confidence.accuracy_at_coverage(conf, right, k / N) == pytest.approx(wanted[k - 1])
    assert confidence.accuracy_at_coverage(conf, right, (k - 0.5) / N) == pytest.approx(wanted[k - 1])


@property_test(60)
@given(ITEMS, st.randoms())
def test_selection_knows_no_order_and_no_scale(items, random):
  conf, right = columns(items)
  moved = conf * 3 - 7
  random.shuffle(items)
  shuffled = tuple(columns(items))
  for measure in (confidence.aurc, confidence.auroc):
    value = measure(conf, right)
    assert measure(moved, right) == value
    assert measure(*shuffled) == (None if value is None else pytest.approx(value))
  assert confidence.accuracy_at_coverage(conf, right, 1) == pytest.approx(right.mean())


def test_the_best_and_the_worst_selection():
  right = np.array([1.0, 1, 1, 0, 0])
  assert confidence.auroc(right, right) == 1
  assert confidence.auroc(-right, right) == 0
  assert confidence.auroc(np.zeros(5), right) == 0.5
  assert confidence.aurc(right, right) == pytest.approx(1 - np.mean([1, 1, 1, 3 / 4, 3 / 5]))
  assert confidence.aurc(np.zeros(5), right) == pytest.approx(2 / 5)
  assert confidence.accuracy_at_coverage(right, right, 0.6) == 1
  assert confidence.aurc(np.array([-math.inf, 0.0]), np.array([0, 1])) == pytest.approx(0.25)


def test_seven_of_ten_is_seven():
  # As a float 0.1 * 7 is just above 7 / 10.
  right = np.array([1.0] * 7 + [0.0] * 3)
  assert confidence.accuracy_at_coverage(np.arange(10)[::-1], right, 0.7) == 1
  assert confidence.accuracy_at_coverage(np.arange(10)[::-1], right, 0.1 * 7) == 1


@property_test(60)
@given(ITEMS)
def test_auroc_is_scikit_learns(items):
  sklearn = pytest.importorskip("sklearn.metrics")
  conf, right = columns(items)
  if len(set(right)) == 1:
    assert confidence.auroc(conf, right) is None
  else:
    assert confidence.auroc(conf, right) == pytest.approx(sklearn.roc_auc_score(right, conf))


@pytest.mark.parametrize("coverage", [0, 1.1, -0.1])
def test_a_coverage_that_is_none(coverage):
  with pytest.raises(ConfigError, match=r"coverage=.*greater than 0 and at most 1"):
    confidence.accuracy_at_coverage(np.ones(2), np.ones(2), coverage)


# --- questions without an answer --------------------------------------------------------------------

QUESTIONS = st.lists(
  st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 1)), min_size=1, max_size=20
)


@property_test(100)
@given(QUESTIONS)
def test_no_other_threshold_is_better_on_the_dev_split(items):
  conf, score, answerable = columns(items)
  found = confidence.best_threshold(conf, score, answerable)
  candidates = [*sorted(set(conf)), math.inf]
  means = [confidence.abstention(conf, score, answerable, t).score for t in candidates]
  assert found in candidates
  assert means[candidates.index(found)] == pytest.approx(max(means))
  assert all(mean < max(means) - 1e-12 for mean in means[: candidates.index(found)])


@property_test(100)
@given(QUESTIONS, st.integers(-1, 6))
def test_abstention_is_the_loop_over_questions(items, threshold):
  conf, score, answerable = columns(items)
  found = confidence.abstention(conf, score, answerable, threshold)
  values = np.array([(s if c >= threshold else 0.0) if a else float(c < threshold) for c, s, a in items])
  assert (found.score, found.stderr, found.n_items) == metrics.mean_and_stderr(values)
  assert found.coverage == pytest.approx(np.mean(conf >= threshold))
  sklearn = pytest.importorskip("sklearn.metrics")
  silent, unanswerable = conf < threshold, answerable == 0
  assert found.accuracy == pytest.approx(sklearn.accuracy_score(unanswerable, silent))
  if silent.any() or unanswerable.any():
    assert found.f1 == pytest.approx(sklearn.f1_score(unanswerable, silent))
  else:
    assert found.f1 is None


def test_a_threshold_from_dev_is_reported_on_test():
  dev = np.array([0.9, 0.8, 0.3, 0.2]), np.array([1.0, 1.0, 1.0, 0.0]), np.array([1, 1, 0, 0])
  threshold = confidence.best_threshold(*dev)
  assert threshold == 0.8
  assert confidence.abstention(*dev, threshold).score == 1
  test = np.array([0.85, 0.7, 0.9, 0.1]), np.array([0.5, 1.0, np.nan, np.nan]), np.array([1, 1, 0, 0])
  found = confidence.abstention(*test, threshold)
  # Half right; silent though it knew; answered what has no answer; silent with reason.
  assert (found.score, found.coverage, found.accuracy) == (1.5 / 4, 0.5, 0.5)
  assert found.f1 == 0.5
  nothing_right = np.ones(3), np.zeros(3), np.array([0, 0, 1])
  assert confidence.best_threshold(*nothing_right) == math.inf
  assert confidence.abstention(*nothing_right, math.inf).score == pytest.approx(2 / 3)


def test_one_question_has_no_error():
  found = confidence.abstention(np.ones(1), np.ones(1), np.ones(1), 0.5)
  assert (found.score, found.stderr, found.f1) == (1, None, None)


@pytest.mark.parametrize(
  ("conf", "score", "answerable", "message"),
  [
    ([1.0], [1.0, 1.0], [1], r"score_N has shape \(2,\), but confidence_N \(1,\)"),
    ([1.0], [np.nan], [1], "score_N: must be from 0 to 1 everywhere, not nan"),
    ([1.0], [100.0], [1], "score_N: must be from 0 to 1 everywhere, not 100"),
    ([1.0], [1.0], [2], "answerable_N: must be 0 or 1 everywhere, not 2"),
    ([math.inf], [1.0], [1], "confidence_N: 1 of 1 are NaN or infinite"),
  ],
)
def test_questions_that_cannot_be_scored(conf, score, answerable, message):
  with pytest.raises(ConfigError, match=message):
    confidence.best_threshold(np.array(conf), np.array(score), np.array(answerable))
