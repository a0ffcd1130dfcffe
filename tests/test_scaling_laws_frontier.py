"""Compute-optimal sizes: noise-free profiles, envelopes and allocations; held-out error; the panel."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import allocation, fitting, holdout, isoflop, resampling, sensitivity
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.strict import ConfigError

TRUE = {"A": 480.0, "B": 2100.0, "E": 1.8, "alpha": 0.35, "beta": 0.37}
A_EXPONENT = 0.37 / 0.72
BUDGETS = np.geomspace(1e19, 1e22, 7)


def law(N, D, A, B, E, alpha, beta):
  return E + A / N**alpha + B / D**beta


def optimal_n(C):
  """Returns N*(C) by a search, without the closed form."""
  found = optimize.minimize_scalar(
    lambda log_n: law(np.exp(log_n), C / 6 / np.exp(log_n), **TRUE), bounds=(10, 35), method="bounded",
    options={"xatol": 1e-10},
  )  # fmt: skip
  return np.exp(found.x)


def table(N, D, noise=0.0, run=None) -> LossPoints:
  loss = law(N, D, **TRUE) * np.exp(noise * np.random.default_rng(0).normal(size=len(N)))
  names = np.array([f"run {i}" for i in range(len(N))]) if run is None else run
  return LossPoints(N, D, 6 * N * D, loss, names)


def iso_points(low=0.25, high=4.0, noise=0.0, n_sizes=9, budgets=BUDGETS) -> LossPoints:
  """Returns profiles of sizes from `low` to `high` times the optimal one."""
  C = np.repeat(budgets, n_sizes)
  factor = np.tile(np.geomspace(low, high, n_sizes), len(budgets))
  N = factor * np.repeat([optimal_n(c) for c in budgets], n_sizes)
  return table(N, C / (6 * N), noise)


# --- isoFLOP profiles -------------------------------------------------------------------------------


def test_noise_free_profiles_give_the_exponents_of_the_law():
  found = isoflop.isoflop(iso_points(), 50)
  for method in isoflop.METHODS:
    assert found.exponents[method]["a"] == pytest.approx(A_EXPONENT, abs=2e-3)
    assert found.exponents[method]["b"] == pytest.approx(1 - A_EXPONENT, abs=2e-3)
    rows = [row for row in found.rows if row["method"] == method]
    assert [row["flops"] for row in rows] == pytest.approx(list(BUDGETS), rel=1e-9)
    for row in rows:
      assert row["n_params"] == pytest.approx(optimal_n(row["flops"]), rel=0.05)
      assert 6 * row["n_params"] * row["n_tokens"] == pytest.approx(row["flops"], rel=1e-6)


def test_the_parabola_is_the_more_biased_the_farther_sizes_reach_to_one_side():
  """arXiv:2603.22339: losses rise faster to the side of few tokens, or of few parameters."""
  even, uneven = isoflop.isoflop(iso_points(), 2), isoflop.isoflop(iso_points(0.5, 32), 2)

  def bias(frontier, method):
    rows = [r for r in frontier.rows if r["method"] == method]
    return np.mean([abs(np.log(r["n_params"] / optimal_n(r["flops"]))) for r in rows])

  assert bias(uneven, "parabola") > 4 * bias(even, "parabola")
  assert bias(uneven, "akima") < 0.1 * bias(uneven, "parabola")


def test_a_parabola_is_found_exactly():
  x = np.log(np.geomspace(1e7, 1e9, 6))
  N = np.exp(x)
  loss = 2.5 + 0.1 * (x - np.log(2e8)) ** 2
  points = LossPoints(N, 1e19 / 6 / N, np.full(6, 1e19), loss, np.arange(6).astype(str))
  row = isoflop.isoflop(points, 20).rows[0]
  assert row["n_params"] == pytest.approx(2e8, rel=1e-9)
  assert row["loss"] == pytest.approx(2.5, rel=1e-9)
  assert row["n_params_ci95"] == pytest.approx([2e8, 2e8], rel=1e-6)


def test_weighted_minima_are_numpys():
  rng = np.random.default_rng(0)
  x = np.sort(rng.normal(size=7))
  y = (x - 0.2) ** 2 + 0.1 * rng.normal(size=7)
  weight = rng.integers(1, 4, 7).astype(float)
  at, lowest = isoflop._parabola_minima(x, y[None], weight[None])
  c2, c1, c0 = np.polyfit(x, y, 2, w=np.sqrt(weight))
  assert at[0] == pytest.approx(-c1 / (2 * c2))
  assert lowest[0] == pytest.approx(c0 - c1**2 / (4 * c2))


@pytest.mark.parametrize("method", isoflop.METHODS)
def test_the_curve_of_a_profile_has_the_minimum_that_is_told(method):
  found = isoflop.isoflop(iso_points(noise=2e-3), 2)
  rows = [row for row in found.rows if row["method"] == method]
  assert len(found.profiles) == len(rows) == len(BUDGETS)
  for part, row in zip(found.profiles, rows, strict=True):
    at = np.linspace(part.log_n_S[0], part.log_n_S[-1], 20001)
    curve = part.curve(at, method)
    assert np.exp(at[np.argmin(curve)]) == pytest.approx(row["n_params"], rel=1e-3)
    assert curve.min() == pytest.approx(row["loss"], rel=1e-6)
    if method == "akima":
      assert part.curve(np.sort(part.log_n_P), method) == pytest.approx(part.loss_P[np.argsort(part.log_n_P)])


def test_intervals_hold_the_truth_and_shrink_with_noise():
  wide, narrow = (isoflop.isoflop(iso_points(noise=noise), 200) for noise in (3e-3, 3e-4))
  for method in isoflop.METHODS:
    low, high = wide.exponents[method]["a_ci95"]
    assert low < A_EXPONENT < high
    tight_low, tight_high = narrow.exponents[method]["a_ci95"]
    assert tight_high - tight_low < 0.5 * (high - low)


def test_a_profile_whose_minimum_lies_outside_has_none():
  found = isoflop.isoflop(iso_points(2.0, 8.0), 20)
  for row in found.rows:
    if row["method"] == "akima":
      assert (row["n_params"], row["n_tokens"], row["loss"], row["n_params_ci95"]) == (None,) * 4
      assert row["status"] == "no minimum between the smallest and the largest size"
  assert found.exponents["akima"]["a"] is None
  assert found.exponents["akima"]["status"] == "fewer than 2 budgets have a minimum"


def test_points_that_are_no_profiles():
  N = np.geomspace(1e7, 1e10, 60)
  with pytest.raises(ConfigError, match="no isoFLOP profiles: no budget has 4 sizes"):
    isoflop.isoflop(table(N, 20 * N))
  rng = np.random.default_rng(0)
  N, D = np.exp(rng.uniform(16, 23, 3000)), np.exp(rng.uniform(21, 27, 3000))
  with pytest.raises(ConfigError, match="their compute runs on without gaps"):
    isoflop.profiles(table(N, D).keep(np.argsort(N * D)[100:-100]))


# --- the envelope -----------------------------------------------------------------------------------


def test_the_envelope_is_what_no_point_beats():
  rng = np.random.default_rng(0)
  flops, loss = rng.integers(1, 20, 40).astype(float), rng.integers(1, 20, 40).astype(float)
  on = set(isoflop.lower_envelope(flops, loss))
  corners = {(flops[i], loss[i]) for i in on}
  for i in range(40):
    beaten = any((flops[j] <= flops[i] and loss[j] < loss[i]) or (flops[j] < flops[i] and loss[j] <= loss[i])
                 for j in range(40))  # fmt: skip
    assert ((flops[i], loss[i]) in corners) == (not beaten)


def test_curves_of_many_sizes_give_the_exponent():
  N = np.repeat(np.geomspace(1e7, 1e11, 60), 60)
  D = np.tile(np.geomspace(1e8, 1e13, 60), 60)
  points = table(N, D, run=np.repeat([f"size {i}" for i in range(60)], 60))
  inner = points.keep((points.flops > 3e18) & (points.flops < 1e23))
  found = isoflop.envelope(inner, 50)
  line = found.exponents["envelope"]
  assert line["a"] == pytest.approx(A_EXPONENT, abs=0.02)
  assert line["a"] + line["b"] == pytest.approx(1, abs=1e-9)
  assert line["a_ci95"][0] < line["a"] < line["a_ci95"][1]


def test_a_hair_less_compute_makes_no_optimum():
  """Runs of one budget differ in compute by rounding; each must not be an envelope of its own."""
  points = iso_points(0.25, 8.0)
  order = np.argsort(np.tile(np.arange(9), 7), kind="stable")
  # The larger of a budget, which are the worse, have the less compute.
  hair = 1 - 1e-3 * np.tile(np.arange(9), 7)
  jittered = dataclasses.replace(points, flops=points.flops * hair).keep(order)
  found = isoflop.envelope(jittered, 50)
  best = [n[np.argmin(loss)] for n, loss in zip(*(v.reshape(7, 9) for v in (points.n_params, points.loss)),
                                                strict=True)]  # fmt: skip
  assert [row["n_params"] for row in found.rows] == best
  slope = np.polyfit(np.log([row["flops"] for row in found.rows]), np.log(best), 1)[0]
  assert found.exponents["envelope"]["a"] == pytest.approx(slope, rel=1e-9)
  assert found.exponents["envelope"]["a"] == pytest.approx(A_EXPONENT, abs=0.05)


def test_bins_are_budgets_or_even_in_log_compute():
  budgets = np.repeat([1e10, 3e10, 9e10], 4) * np.tile([0.997, 1.0, 1.003, 1.08], 3)
  assert isoflop.compute_bins(budgets).tolist() == np.repeat([0, 1, 2], 4).tolist()
  dense = np.geomspace(1e12, 1e14, 2000)
  shuffled = np.random.default_rng(0).permutation(2000)
  bins = isoflop.compute_bins(dense[shuffled])
  of_dense = np.empty(2000, int)
  of_dense[shuffled] = bins
  assert (np.diff(of_dense) >= 0).all()
  assert of_dense.max() + 1 == int(np.log(100) / np.log(isoflop.SAME_BUDGET)) + 1
  for b in range(of_dense.max() + 1):
    assert np.ptp(np.log(dense[of_dense == b])) <= np.log(isoflop.SAME_BUDGET)


def test_dense_checkpoints_give_the_exponent_of_curves_that_are_interpolated():
  """arXiv:2203.15556, approach 1: at each of 1500 values of compute, the run of least interpolated loss."""
  sizes = np.geomspace(3e7, 3e10, 40)
  curves = [np.geomspace(1e18 / 6 / n, 1e23 / 6 / n, 150) for n in sizes]
  points = table(np.repeat(sizes, 150), np.concatenate(curves), run=np.repeat(np.arange(40), 150).astype(str))
  at = np.geomspace(1e19, 1e22, 1500)
  losses = [np.interp(np.log(at), np.log(6 * n * d), law(n, d, **TRUE))
            for n, d in zip(sizes, curves, strict=True)]  # fmt: skip
  wanted = np.polyfit(np.log(at), np.log(sizes[np.argmin(losses, axis=0)]), 1)[0]
  inner = points.keep((points.flops >= 1e19) & (points.flops <= 1e22))
  found = isoflop.envelope(inner, 20).exponents["envelope"]
  assert found["a"] == pytest.approx(wanted, abs=0.02)
  assert found["a"] == pytest.approx(A_EXPONENT, abs=0.02)


# --- allocation -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit() -> fitting.Fit:
  rng = np.random.default_rng(0)
  return fitting.fit(fitting.sample("chinchilla", table(np.exp(rng.uniform(16, 23, 80)),
                                                        np.exp(rng.uniform(21, 27, 80)), 0.005)))  # fmt: skip


def test_the_closed_form_is_the_minimum_along_a_budget():
  for C in (1e18, 1e21, 1e25):
    n, d, loss = allocation.optimal(**TRUE, flops=C)
    assert n == pytest.approx(optimal_n(C), rel=1e-4)
    assert 6 * n * d == pytest.approx(C)
    assert loss == pytest.approx(law(n, d, **TRUE))
    for factor in (0.9, 1.1):
      assert law(n * factor, d / factor, **TRUE) > loss


def test_rows_of_budgets_have_bands_around_them(fit):
  refits = resampling.bootstrap(fit, 200)
  near, far = allocation.rows(fit, [1e21, 1e26], refits)
  for row in (near, far):
    for name in ("n_params", "n_tokens", "loss"):
      low, high = row[f"{name}_ci95"]
      assert low < row[name] < high
    assert row["tokens_per_param"] == pytest.approx(row["n_tokens"] / row["n_params"])
    low, high = row["n_params_ci95"]
    assert low < optimal_n(row["flops"]) < high

  def width(row):
    return np.log(row["n_params_ci95"][1] / row["n_params_ci95"][0])

  assert width(far) > 2 * width(near)
  assert far["times_largest_flops"] == pytest.approx(1e26 / fit.sample.points.flops.max())
  assert allocation.rows(fit, [1e21])[0]["loss_ci95"] is None


def test_rows_of_a_frontier_go_on_along_its_line():
  found = isoflop.isoflop(iso_points(noise=3e-4), 100)
  rows = allocation.frontier_rows(found, [1e20, 1e24], 1e22)
  assert [(r["method"], r["flops"]) for r in rows] == [
    (m, c) for m in isoflop.METHODS for c in (1e20, 1e24)
  ]  # fmt: skip
  for row in rows:
    assert row["n_params"] == pytest.approx(optimal_n(row["flops"]), rel=0.1)
    assert row["n_params_ci95"][0] < row["n_params"] < row["n_params_ci95"][1]


def test_budgets_that_are_none(fit):
  with pytest.raises(ConfigError, match=r"budgets=\[-1.0\]: must be numbers of FLOPs greater than 0"):
    allocation.rows(fit, [-1.0])
  power = fitting.fit(fitting.sample("power", fit.sample.points))
  with pytest.raises(ConfigError, match="budgets: are for law='chinchilla'"):
    allocation.rows(power, [1e20])


# --- held-out error ---------------------------------------------------------------------------------


def test_a_law_predicts_what_it_was_not_fitted_to_and_the_last_loss_does_not():
  rng = np.random.default_rng(0)
  points = table(np.exp(rng.uniform(16, 23, 80)), np.exp(rng.uniform(21, 27, 80)))
  rows = holdout.rows(fitting.sample("chinchilla", points), Estimator())
  assert len(rows) == len(holdout.QUANTILES)
  for row in rows:
    below, above = points.flops <= row["cutoff_flops"], points.flops > row["cutoff_flops"]
    assert (row["n_fitted"], row["n_predicted"]) == (below.sum(), above.sum())
    assert row["law_rms"] < 1e-6
    last = points.loss[below][np.argmax(points.flops[below])]
    errors = np.log(last / points.loss[above])
    assert row["naive_rms"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert row["naive_bias"] == pytest.approx(errors.mean())
    assert row["wins"] == "law"


def test_the_naive_baseline_wins_on_a_curve_that_stops_falling():
  N = np.geomspace(1e7, 1e10, 40)
  loss = np.maximum(400 / N**0.3, 400 / 3e8**0.3) * np.exp(1e-3 * np.random.default_rng(0).normal(size=40))
  points = LossPoints(N, N, 6 * N**2, loss, np.arange(40).astype(str))
  row = holdout.row(fitting.sample("power", points), Estimator(), 6 * 4e8**2)
  assert row["wins"] == "naive"
  assert row["law_bias"] < -0.05


def test_cutoffs_that_leave_too_little(fit):
  with pytest.raises(ConfigError, match="cutoff=1: must leave points below and above it"):
    holdout.row(fit.sample, Estimator(), 1.0)
  few = holdout.row(fit.sample, Estimator(), np.sort(fit.sample.points.flops)[3])
  assert (few["law_rms"], few["wins"], few["n_fitted"]) == (None, None, 4)
  assert few["status"] == "4 points below the cutoff: too few for 5 parameters"
  assert few["naive_rms"] > 0


# --- the panel --------------------------------------------------------------------------------------


def test_the_panel_has_a_row_a_choice_and_says_what_cannot_be_done():
  points = iso_points(noise=2e-3)
  smaller = LossPoints(points.n_params * 0.8, points.n_tokens, points.flops, points.loss, points.run)
  rows = sensitivity.rows({("total", "6nd"): points, ("nonembedding", "exact"): smaller}, drop=2)
  kinds = [(r["approach"], r["loss"], r["delta"], r["n"], r["c"], r["dropped"]) for r in rows]
  assert len(set(kinds)) == len(kinds) == 5 + 1 + 3 + 1 + 3
  for row in rows:
    assert row["status"] == "ok"
    assert row["a"] == pytest.approx(A_EXPONENT, abs=0.1)
  # A scale of all N moves no exponent.
  by_kind = dict(zip(kinds, rows, strict=True))
  assert by_kind["3 parametric", "huber", 1e-3, "total", "6nd", 2]["a"] == pytest.approx(
    by_kind["3 parametric", "huber", 1e-3, "nonembedding", "exact", 2]["a"], rel=1e-6
  )
  few = sensitivity.rows({("total", "6nd"): points.keep(np.arange(4))}, drop=0)
  refused = [r for r in few if r["approach"] == "3 parametric"]
  assert all(r["a"] is None and "needs more points" in r["status"] for r in refused)
