"""Error bars against scipy, closed forms and simulated coverage; variance components by expectations."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lm_jax import metrics, uncertainty
from lm_jax.strict import ConfigError

NAMES = ("item", "seed", "template", "item_seed", "item_template", "seed_template", "residual")
AXES = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))

# --- Wilson -----------------------------------------------------------------------------------------


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_the_closed_form(n, data, level):
  k = data.draw(st.integers(0, n))
  z, p = stats.norm.ppf((1 + level) / 2), k / n
  center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
  found = uncertainty.wilson(k, n, level)
  assert found.low == pytest.approx(max(center - half, 0), abs=1e-12)
  assert found.high == pytest.approx(min(center + half, 1), abs=1e-12)
  mirrored = uncertainty.wilson(n - k, n, level)
  assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-12)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((0, 0), "n=0: must be greater than 0"),
    ((3, 2), "successes=3: must be from 0 to 2"),
    ((1, 2, 95), "level=95: must be between 0 and 1"),
  ],
)
def test_wilson_of_what_is_no_proportion(arguments, message):
  with pytest.raises(ConfigError, match=message):
    uncertainty.wilson(*arguments)


# --- bootstrap --------------------------------------------------------------------------------------


def test_the_bootstrap_error_of_a_mean_is_the_analytic_one():
  x = np.random.default_rng(0).gamma(2, 1, 200)
  found = uncertainty.bootstrap(x, np.mean, n_resamples=4000)
  mean, stderr, n = metrics.mean_and_stderr(x)
  assert (found.value, found.n_items) == (mean, n)
  assert found.stderr == pytest.approx(stderr, rel=0.05)
  assert found.interval.low == pytest.approx(mean - 1.96 * stderr, abs=0.2 * stderr)
  assert found.interval.high == pytest.approx(mean + 1.96 * stderr, abs=0.2 * stderr)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_resampling_by_rows_is_scipys_of_values(method):
  x = np.random.default_rng(1).gamma(2, 1, 40)
  found = uncertainty.bootstrap(x, np.median, n_resamples=500, method=method, level=0.9, seed=7)
  wanted = stats.bootstrap(
    (x,), np.median, n_resamples=500, method=method, confidence_level=0.9, vectorized=False,
    rng=np.random.default_rng(7),
  )  # fmt: skip
  assert found.stderr == wanted.standard_error
  assert (found.interval.low, found.interval.high) == tuple(wanted.confidence_interval)


def test_bca_follows_skewness():
  x = np.exp(np.random.default_rng(0).normal(0, 1, 60))
  plain = uncertainty.bootstrap(x, np.mean, n_resamples=3000).interval
  corrected = uncertainty.bootstrap(x, np.mean, n_resamples=3000, method="BCa").interval
  assert corrected.low > plain.low and corrected.high > plain.high


def test_the_bootstrap_covers_what_it_claims_to():
  rng = np.random.default_rng(0)
  covered = 0
  for trial in range(200):
    interval = uncertainty.bootstrap(rng.random(60), np.mean, level=0.8, n_resamples=200, seed=trial).interval
    covered += interval.low <= 0.5 <= interval.high
  # 160 expected; 2.5 standard deviations of a binomial, and the percentile method is slightly short.
  assert 140 <= covered <= 175


def test_the_seed_decides():
  x = np.random.default_rng(0).random(30)
  first, again, other = (uncertainty.bootstrap(x, np.mean, n_resamples=99, seed=s) for s in (1, 1, 2))
  assert first == again
  assert first.stderr != other.stderr


def test_batches_of_draws_are_the_draws_at_once(monkeypatch):
  x = np.random.default_rng(0).random(30)
  at_once = uncertainty.bootstrap(x, np.mean, n_resamples=99)
  monkeypatch.setattr(uncertainty, "_DRAWS_AT_ONCE", 60)
  assert uncertainty.bootstrap(x, np.mean, n_resamples=99) == at_once


def test_rows_of_statistics_stay_together():
  correct, total = np.random.default_rng(0).integers(0, 5, 50), np.full(50, 4)
  of_rows = uncertainty.bootstrap(np.stack([correct, total], 1), lambda r: r[:, 0].sum() / r[:, 1].sum())
  of_shares = uncertainty.bootstrap(correct / 4, np.mean)
  assert of_rows.stderr == pytest.approx(of_shares.stderr)


def test_one_item_has_no_error():
  assert uncertainty.bootstrap(np.array([0.5]), np.mean) == uncertainty.Estimate(0.5, None, None, 1)


def test_an_undefined_statistic_is_none_and_not_a_number():
  x = np.array([0.0, 0.0, 1.0])
  nowhere = uncertainty.bootstrap(x, lambda rows: None)
  assert nowhere == uncertainty.Estimate(None, None, None, 3)
  # Undefined on those resamples that miss the last item.
  somewhere = uncertainty.bootstrap(x, lambda rows: 1.0 if rows.any() else math.nan)
  assert somewhere == uncertainty.Estimate(1.0, None, None, 3)
  same = uncertainty.bootstrap(np.ones(9), np.mean, method="BCa")
  assert same == uncertainty.Estimate(1.0, 0.0, None, 9)


def test_a_paired_difference_leaves_out_what_both_share():
  rng = np.random.default_rng(0)
  difficulty = rng.normal(0, 1, 300)
  a, b = difficulty + 0.1 + rng.normal(0, 0.1, 300), difficulty + rng.normal(0, 0.1, 300)
  found = uncertainty.paired_bootstrap(a, b, np.mean, n_resamples=2000)
  mean, stderr, n = metrics.mean_and_stderr(a - b)
  assert (found.value, found.n_items) == (pytest.approx(mean), n)
  assert found.stderr == pytest.approx(stderr, rel=0.06)
  assert found.stderr < 0.2 * metrics.mean_and_stderr(a)[1]
  reversed_ = uncertainty.paired_bootstrap(b, a, np.mean, n_resamples=2000)
  assert reversed_.interval.low == pytest.approx(-found.interval.high)
  assert reversed_.stderr == pytest.approx(found.stderr)
  assert uncertainty.paired_bootstrap(a, a, np.mean).stderr == 0
  assert uncertainty.paired_bootstrap(a, a, lambda rows: None).value is None


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"method": "bca"}, "method='bca': unknown; allowed: percentile, BCa"),
    ({"level": 1.0}, "level=1.0"),
    ({"n_resamples": 1}, "n_resamples=1: must be greater than 1"),
  ],
)
def test_a_bootstrap_of_wrong_options(options, message):
  with pytest.raises(ConfigError, match=message):
    uncertainty.bootstrap(np.ones(3), np.mean, **options)


def test_a_bootstrap_of_nothing_and_of_different_items():
  with pytest.raises(ConfigError, match="one or more rows"):
    uncertainty.bootstrap(np.ones(0), np.mean)
  with pytest.raises(ConfigError, match=r"items_a has shape \(3,\), but items_b \(4,\)"):
    uncertainty.paired_bootstrap(np.ones(3), np.ones(4), np.mean)


# --- variance components ----------------------------------------------------------------------------


def by_loops(y: np.ndarray) -> dict[str, float]:
  """Returns the components by the sums of squares for three crossed factors, one cell at a time."""
  a, b, c = y.shape
  m = y.mean()
  A, B, C = y.mean((1, 2)), y.mean((0, 2)), y.mean((0, 1))
  AB, AC, BC = y.mean(2), y.mean(1), y.mean(0)
  ms = dict.fromkeys(NAMES, 0.0)
  for i, j, k in itertools.product(range(a), range(b), range(c)):
    ms["item"] += (A[i] - m) ** 2 / (a - 1)
    ms["seed"] += (B[j] - m) ** 2 / (b - 1)
    ms["template"] += (C[k] - m) ** 2 / (c - 1)
    ms["item_seed"] += (AB[i, j] - A[i] - B[j] + m) ** 2 / ((a - 1) * (b - 1))
    ms["item_template"] += (AC[i, k] - A[i] - C[k] + m) ** 2 / ((a - 1) * (c - 1))
    ms["seed_template"] += (BC[j, k] - B[j] - C[k] + m) ** 2 / ((b - 1) * (c - 1))
    rest = y[i, j, k] - AB[i, j] - AC[i, k] - BC[j, k] + A[i] + B[j] + C[k] - m
    ms["residual"] += rest**2 / ((a - 1) * (b - 1) * (c - 1))
  e = ms["residual"]
  ab, ac, bc = ((ms[n] - e) / size for n, size in zip(NAMES[3:6], (c, b, a), strict=True))
  return {
    "item": (ms["item"] - ms["item_seed"] - ms["item_template"] + e) / (b * c),
    "seed": (ms["seed"] - ms["item_seed"] - ms["seed_template"] + e) / (a * c),
    "template": (ms["template"] - ms["item_template"] - ms["seed_template"] + e) / (a * b),
    "item_seed": ab, "item_template": ac, "seed_template": bc, "residual": e,
  }  # fmt: skip


def components(found: uncertainty.VarianceComponents) -> dict[str, float]:
  return {name: getattr(found, name) for name in NAMES}


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.tuples(*[st.integers(2, 4)] * 3), st.integers(0, 2**31))
def test_components_are_the_textbooks(shape, seed):
  y = np.random.default_rng(seed).normal(3, 1, shape)
  found = uncertainty.variance_components(y)
  assert components(found) == pytest.approx(by_loops(y), abs=1e-12)
  assert found.mean == pytest.approx(y.mean())
  assert (found.n_items, found.n_seeds, found.n_templates) == shape
  # The levels of a factor have no order, and a constant is no variance.
  moved = uncertainty.variance_components(y[::-1, ::-1, ::-1] + 5)
  assert components(moved) == pytest.approx(components(found), abs=1e-12)


@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 1, 3), (4, 3, 1), (4, 1, 1), (1, 3, 2), (1, 3, 1)])
def test_components_are_unbiased(shape):
  """The expectation of a quadratic form y'Qy with y of covariance LL' is its sum over the columns of L."""
  true = dict(zip(NAMES, (1.0, 0.5, 0.25, 0.75, 0.3, 0.2, 2.0), strict=True))
  levels = np.indices(shape).reshape(3, -1)
  expected = dict.fromkeys(NAMES, 0.0)
  for name, axes in zip(NAMES, AXES, strict=True):
    _, group = np.unique(levels[list(axes)], axis=1, return_inverse=True)
    for column in np.eye(group.max() + 1)[group.reshape(-1)].T:
      found = uncertainty.variance_components(math.sqrt(true[name]) * column.reshape(shape))
      for part, value in components(found).items():
        expected[part] = None if value is None else expected[part] + value
  # An effect of a factor of one level is one more of the factors that remain, or of nothing.
  varying = [axis for axis in range(3) if shape[axis] > 1]
  wanted = dict.fromkeys(NAMES)
  for size in range(1, len(varying) + 1):
    for axes in itertools.combinations(varying, size):
      merged = [n for n, a in zip(NAMES, AXES, strict=True) if set(a) & set(varying) == set(axes)]
      is_last = len(axes) == len(varying) > 1
      name = "residual" if is_last else NAMES[AXES.index(axes)]
      wanted[name] = sum(true[n] for n in merged)
  assert expected == pytest.approx(wanted)


def test_the_error_of_the_grand_mean_is_that_of_new_items_seeds_and_templates():
  rng = np.random.default_rng(0)
  N, S, T = 40, 12, 10

  def draw():
    y = rng.normal(0, 1.0, (N, 1, 1)) + rng.normal(0, 0.4, (1, S, 1)) + rng.normal(0, 0.3, (1, 1, T))
    return y + rng.normal(0, 0.5, (N, S, 1)) + rng.normal(0, 1, (N, S, T))

  found = [uncertainty.variance_components(draw()) for _ in range(400)]
  spread = np.std([f.mean for f in found])
  assert np.sqrt(np.mean([f.stderr**2 for f in found])) == pytest.approx(spread, rel=0.12)
  # Items alone would be too sure.
  assert spread > 1.15 * math.sqrt(1 / N)


def test_the_error_of_one_seed_and_template_is_that_of_items():
  x = np.random.default_rng(0).random(50)
  found = uncertainty.variance_components(x[:, None, None])
  assert found.stderr == pytest.approx(metrics.mean_and_stderr(x)[1])
  assert found.item == pytest.approx(x.var(ddof=1))
  assert components(found) == {**dict.fromkeys(NAMES), "item": found.item}


def test_an_estimate_below_0_is_reported_and_widens_no_error():
  # Scores that alternate: items do not differ, yet noise within them does.
  y = np.tile([[1.0, -1.0], [-1.0, 1.0]], (5, 1))[:, :, None]
  found = uncertainty.variance_components(y)
  assert found.item < 0
  assert found.residual == pytest.approx(by_two_factors(y[:, :, 0]))
  assert found.stderr == pytest.approx(math.sqrt(found.residual / y.size))


def by_two_factors(y):
  rest = y - y.mean(1, keepdims=True) - y.mean(0, keepdims=True) + y.mean()
  return (rest**2).sum() / ((y.shape[0] - 1) * (y.shape[1] - 1))


def test_one_cell_has_no_variance_and_no_error():
  found = uncertainty.variance_components(np.array([[[0.5]]]))
  assert (found.mean, found.stderr) == (0.5, None)
  assert set(components(found).values()) == {None}


def test_missing_cells_and_other_shapes_are_refused():
  y = np.zeros((3, 2, 2))
  y[0, 0, 0] = np.nan
  with pytest.raises(ConfigError, match="1 of 12 cells are missing"):
    uncertainty.variance_components(y)
  with pytest.raises(ConfigError, match=r"score_NST=\(3, 2\): must be items x seeds x templates"):
    uncertainty.variance_components(np.zeros((3, 2)))
