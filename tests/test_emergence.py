"""Emergence statistics against hand computation, scipy, and simulated curves whose truth is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from emergence_rows import frame, logistic, of_probabilities
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import least_squares

from lm_jax.analysis.emergence import breakthroughness as breaks
from lm_jax.analysis.emergence import fits, shapes, table, verdict
from lm_jax.analysis.emergence.breakthroughness import breakthroughness
from lm_jax.analysis.emergence.curves import of_rows
from lm_jax.analysis.emergence.fits import Points, fit
from lm_jax.analysis.emergence.resample import resample
from lm_jax.analysis.emergence.rise import above_p_value, rise_p_value
from lm_jax.analysis.known_metrics import lookup
from lm_jax.strict import ConfigError

SHAPES = {shape.name: shape for shape in shapes.SHAPES}


def points_of(x_S, y_BS, sd=None, low=-math.inf, high=math.inf) -> Points:
  y_BS = np.atleast_2d(np.asarray(y_BS, np.float64))
  weight_S = np.ones(len(x_S)) if sd is None else 1 / np.broadcast_to(sd, len(x_S)) ** 2
  return Points(
    x_S, y_BS, weight_S, np.zeros(len(y_BS)), len(x_S), low, high, sd is not None, shapes.domain_of(x_S)
  )


# --- breakthroughness -------------------------------------------------------------------------------


def test_breakthroughness_by_hand():
  # Steps .1, .1, .6, .1: I = .9, the median square .01, the mean square .39 / 4.
  found = breakthroughness(np.arange(5.0), np.array([0.0, 0.1, 0.2, 0.8, 0.9]))
  assert found.status == "ok"
  assert found.value == pytest.approx(9)
  assert found.linearity_rms_step == pytest.approx(0.9 / math.sqrt(0.39 / 4))
  assert found.linearity_pearson == pytest.approx(
    stats.pearsonr(np.arange(5), [0.0, 0.1, 0.2, 0.8, 0.9]).statistic
  )
  # Even steps: the squares' median is between the middle two of an even number of them.
  even = breakthroughness(np.arange(5.0), np.array([0.0, 0.1, 0.1, 0.5, 0.3]))
  assert even.value == pytest.approx(0.5 / math.sqrt((0.1**2 + 0.2**2) / 2))
  falling = breakthroughness(np.arange(5.0), -np.array([0.0, 0.1, 0.2, 0.8, 0.9]))
  assert falling.value == pytest.approx(-9)


def test_steps_per_decade():
  # Steps of 1 decade, then of 2: per decade .1, .1, .4, .1, the median .1; the mean step is 6 / 4 decades.
  x_S = np.array([0.0, 1, 2, 4, 6])
  found = breakthroughness(x_S, np.array([0, 0.1, 0.2, 1.0, 1.2]))
  assert found.per_decade == pytest.approx(1.2 / (0.1 * 6 / 4))
  even = breakthroughness(2 * np.arange(6.0), np.array([0, 3, 1, 4, 1, 5.0]))
  assert even.per_decade == pytest.approx(even.value)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
  st.lists(st.integers(0, 40), min_size=4, max_size=9), st.integers(-3, 5), st.integers(-64, 64), st.randoms()
)
def test_breakthroughness_knows_no_scale_and_no_order_of_rows(ys, power, shift, random):
  x_S, y_S = np.arange(len(ys), dtype=np.float64), np.array(ys, np.float64)
  found = breakthroughness(x_S, y_S)
  # By powers of two, and shifts that round nothing, it is exact.
  exact = breakthroughness(x_S, y_S * 2.0**power + shift)
  for name in ("status", "value", "per_decade", "linearity_rms_step", "p_value"):
    assert getattr(exact, name) == getattr(found, name)
  moved = breakthroughness(x_S, (y_S - 7) / 3 + 0.1)
  for name in ("value", "per_decade", "linearity_rms_step", "linearity_pearson"):
    if found.status == "ok":
      assert getattr(moved, name) == pytest.approx(getattr(found, name))
  order = list(range(len(ys)))
  random.shuffle(order)
  assert breakthroughness(x_S[order], y_S[order]) == found


@pytest.mark.parametrize(
  ("ys", "status"),
  [
    ([0.1, 0.2, 0.3], "insufficient_data"),
    ([0.1, math.nan, 0.2, 0.3], "insufficient_data"),
    ([], "insufficient_data"),
    ([0.5] * 6, "constant"),
    ([0, 0, 0, 0, 1], "zero_median_step"),
    ([0, 0, 0.2, 0.3, 1], "ok"),
  ],
)
def test_what_has_no_breakthroughness_says_why(ys, status):
  found = breakthroughness(np.arange(len(ys), dtype=float), np.array(ys))
  assert found.status == status
  assert (found.value is None) == (status != "ok")
  assert (found.p_value is None) == (status != "ok")


@pytest.mark.parametrize(("n_sizes", "p95", "p99"), [(12, 5.35, 7.70), (8, 5.06, 7.98), (6, 4.74, 8.26)])
def test_what_noise_gives(n_sizes, p95, p99):
  null = breaks.null_distribution(n_sizes)
  assert len(null) >= 200_000
  assert np.quantile(null, [0.95, 0.99]) == pytest.approx([p95, p99], rel=0.015)
  # Noise has no direction.
  assert np.mean(null > 0) == pytest.approx(0.5, abs=0.005)
  rng = np.random.default_rng(9)
  p = [breakthroughness(np.arange(n_sizes), y).p_value for y in rng.standard_normal((300, n_sizes))]
  assert stats.kstest(p, "uniform").pvalue > 0.01


def test_q_values_are_scipys_and_missing_is_no_test():
  p = [0.001, 0.2, 0.04, 0.03, 0.8]
  assert breaks.q_values([p[0], None, *p[1:]]) == [
    pytest.approx(q) if q is not None else None
    for q in np.insert(stats.false_discovery_control(p).astype(object), 1, None)
  ]
  assert breaks.q_values([None]) == [None]


# --- fits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log_linear", "power_law", "logistic", "breakpoint"])
@pytest.mark.parametrize("seed", range(4))
def test_fits_are_scipys(name, seed):
  rng = np.random.default_rng(seed)
  shape = SHAPES[name]
  x_S = np.sort(rng.uniform(6, 11, 12))
  true = {"log_linear": [], "power_law": [math.log10(0.4)], "logistic": [8.5, 0.0], "breakpoint": [8.0]}[name]
  sd_S = rng.uniform(0.01, 0.03, 12)
  domain = shapes.domain_of(x_S)
  y_S = 0.2 + 0.5 * shape.feature(np.array(true), x_S, domain) + sd_S * rng.standard_normal(12)
  found = fit(shape, points_of(x_S, y_S, sd_S), fine=True)

  def residual(parameters):
    own = np.array(parameters[2:])
    return (parameters[0] + parameters[1] * shape.feature(own, x_S, domain) - y_S) / sd_S

  wanted = min(
    (least_squares(residual, [0.2, 0.5, *(np.array(true) + shift)], xtol=1e-12, ftol=1e-12)
     for shift in (-0.2, 0, 0.2)), key=lambda r: r.cost,
  )  # fmt: skip
  assert found.rss_B[0] == pytest.approx(2 * wanted.cost, rel=1e-6)
  assert [found.a_B[0], found.b_B[0], *found.own_BP[0]] == pytest.approx(list(wanted.x), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["power_law", "logistic"])
def test_bounded_fits_are_scipys(name):
  rng = np.random.default_rng(0)
  shape, x_S = SHAPES[name], np.linspace(6, 11, 10)
  domain = shapes.domain_of(x_S)
  own = np.array([-0.5]) if name == "power_law" else np.array([10.0, 0.4])
  f_S = shape.feature(own, x_S, domain)
  for _ in range(20):
    y_S = np.clip(rng.uniform(0, 0.1) + rng.uniform(0.7, 1.3) * f_S, 0, 1) + rng.normal(0, 0.05, 10)
    points = points_of(x_S, y_S, 0.05, 0.0, 1.0)
    a, b, rss = fits._at(shape, own[None, None], points)
    # In floor and ceiling the bounds are a box.
    wanted = least_squares(
      lambda ends, y_S=y_S: (ends[0] + (ends[1] - ends[0]) * f_S - y_S) / 0.05, [0.3, 0.6],
      bounds=([0, 0], [1, 1]), xtol=1e-12, ftol=1e-12, gtol=1e-12,
    )  # fmt: skip
    assert rss[0, 0] == pytest.approx(2 * wanted.cost, rel=1e-5)
    assert [a[0, 0], a[0, 0] + b[0, 0]] == pytest.approx(list(wanted.x), abs=1e-4)


def test_many_curves_at_once_are_each_alone():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 8)
  y_BS = 0.2 + 0.6 * logistic(x_S, 8.4, 0.8) + rng.normal(0, 0.05, (150, 8))
  for shape in shapes.SHAPES:
    together = fit(shape, points_of(x_S, y_BS, 0.05, 0.0, 1.0))
    alone = fit(shape, points_of(x_S, y_BS[140], 0.05, 0.0, 1.0))
    assert together.rss_B[140] == pytest.approx(alone.rss_B[0])
    # A resample's fit is a rough one, of the same minimum.
    fine = fit(shape, points_of(x_S, y_BS, 0.05, 0.0, 1.0), fine=True)
    assert (fine.rss_B <= together.rss_B + 1e-3).all()
    assert np.median(together.rss_B - fine.rss_B) < 0.1


def test_aicc_of_seeds_is_that_of_all_runs():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 9, 6)
  rows = frame(
    n_params=np.repeat(10**x_S, 3),
    value=rng.normal(0, 1, 18),
    metric="unheard_of",
    seed=np.tile([0.0, 1, 2], 6),
  )
  (curve,) = of_rows(rows, "n_params")
  points = curve.points()
  found = fits.aicc(SHAPES["log_linear"], fit(SHAPES["log_linear"], points), points)[0]
  line = stats.linregress(np.repeat(x_S, 3), rows["value"])
  slope = max(line.slope, 0)  # higher is better, so a line never falls
  intercept = rows["value"].mean() - slope * x_S.mean()
  rss = ((rows["value"] - intercept - slope * np.repeat(x_S, 3)) ** 2).sum()
  assert found == pytest.approx(18 * math.log(rss / 18) + 18 + 2 * 3 + 2 * 3 * 4 / (18 - 4))


def test_leaving_sizes_out_is_a_loop():
  rng = np.random.default_rng(0)
  x_S, y_S = np.linspace(6, 9, 6), rng.uniform(0.3, 0.6, 6) + np.linspace(0, 1, 6)
  found = fits.loo(SHAPES["log_linear"], points_of(x_S, y_S, 0.1), np.ones(6))[0]
  total = 0.0
  for i in range(6):
    kept = np.arange(6) != i
    line = stats.linregress(x_S[kept], y_S[kept])
    rss = (((y_S - line.intercept - line.slope * x_S)[kept] / 0.1) ** 2).sum()
    phi = max(rss / 5, 1)
    total += math.log(phi) + ((y_S[i] - line.intercept - line.slope * x_S[i]) / 0.1) ** 2 / phi
  assert found == pytest.approx(total)


# --- a rise, and resamples --------------------------------------------------------------------------


@pytest.mark.parametrize("sd", [None, 0.02])
def test_no_rise_is_found_in_noise_more_often_than_claimed(sd):
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 8)
  y_BS = 0.3 + 0.02 * rng.standard_normal((400, 8))
  p = [rise_p_value(points_of(x_S, y, sd)) for y in y_BS]
  assert np.mean(np.array(p) <= 0.05) <= 0.07
  late = [rise_p_value(points_of(x_S, y + 0.15 * (x_S > 10), sd)) for y in y_BS[:100]]
  slow = [rise_p_value(points_of(x_S, y + 0.03 * (x_S - 6), sd)) for y in y_BS[:100]]
  assert np.mean(np.array(late) < 0.05) > 0.9 and np.mean(np.array(slow) < 0.05) > 0.9
  above = [above_p_value(points_of(x_S, y, sd), 0.3) for y in y_BS]
  assert np.mean(np.array(above) <= 0.05) <= 0.07
  # Equal scores of the largest sizes are no proof that there is no noise.
  y_S = np.array([0.28, 0.33, 0.3, 0.31, 0.27, 0.32, 0.305, 0.305])
  assert above_p_value(points_of(x_S, y_S, sd), 0.3) > 0.05


def test_resamples_vary_as_runs_and_items_do():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 5)
  p_SR = np.tile(np.linspace(0.3, 0.8, 5)[:, None], 4) + rng.normal(0, 0.05, (5, 4))
  (curve,) = of_rows(of_probabilities(p_SR, x_S, 1000, rng), "n_params")
  drawn = resample(curve, np.zeros(5), 1.0, 4000, rng)
  assert drawn.mean((0, 2)) == pytest.approx(curve.mean_S, abs=0.003)
  assert drawn.mean(2).std(0) == pytest.approx(stats.sem(curve.y_SR, axis=1), rel=0.05)
  (single,) = of_rows(of_probabilities(p_SR[:, :1], x_S, 400, rng), "n_params")
  for scale in (1.0, 4.0):
    drawn = resample(single, np.zeros(5), scale, 4000, rng)
    sd = np.sqrt(scale * single.mean_S * (1 - single.mean_S) / 400)
    assert drawn[..., 0].std(0) == pytest.approx(sd, rel=0.05)


def test_the_noise_of_items_is_binomial_or_told():
  rows = of_probabilities(
    np.array([[0.0], [0.5], [0.5], [1.0]]), np.arange(4.0), 96, np.random.default_rng(0)
  )
  (curve,) = of_rows(rows, "n_params")
  p = (rows["value"] * 96 + 2) / 100
  assert curve.variance_S == pytest.approx((p * (1 - p) / 96).to_numpy())
  (told,) = of_rows(rows.assign(metric="nll", stderr=[0.1, 0.2, np.nan, 0.0]), "n_params")
  assert told.variance_S == pytest.approx(np.square([0.1, 0.2, 0.15, 0.15]))
  (percent,) = of_rows(rows.assign(value=rows["value"] * 100), "n_params")
  assert percent.variance_S is None and "another unit" in percent.notes[0]


# --- verdicts ---------------------------------------------------------------------------------------

N_CURVES = 20


@pytest.fixture(scope="module")
def simulated():
  """Curves of five kinds over 8 sizes with 3 seeds, and what is said of them."""
  rng = np.random.default_rng(0)
  x_S = np.linspace(6.5, 11, 8)
  truth, parts = {}, []
  for i in range(N_CURVES):
    x50, rise = rng.uniform(7.75, 9.75), rng.uniform(0.35, 0.7)
    kinds = {
      "null": np.full(8, 0.25),
      "log_linear": 0.25 + rng.uniform(0.2, 0.65) * (x_S - 6.5) / 4.5,
      "power_law": 0.25 + rise * (1 - 10 ** (-rng.uniform(0.1, 0.6) * (x_S - 6.5))),
      "wide": 0.25 + rise * logistic(x_S, x50, width := rng.uniform(2.5, 5)),
      "sharp": 0.25 + rise * logistic(x_S, x50, narrow := rng.uniform(0.1, 0.6)),
    }
    n_items = int(rng.integers(200, 2000))
    for kind, p_S in kinds.items():
      name = f"{kind}/{i}"
      truth[name] = {"wide": (x50, width), "sharp": (x50, narrow)}.get(kind)
      parts.append(of_probabilities(np.tile(p_S[:, None], 3), x_S, n_items, rng, task=name))
  found = table.analyze(pd.concat(parts, ignore_index=True), bootstrap=100)
  return found.assign(kind=found["task"].str.split("/").str[0]), truth


def test_smooth_curves_are_never_called_sharp_and_sharp_ones_are_seen(simulated):
  found, _ = simulated
  counts = found.groupby("kind")["verdict"].value_counts().unstack(fill_value=0)
  for kind in ("null", "log_linear", "power_law", "wide"):
    assert counts.loc[kind, "sharp"] == 0
  assert counts.loc["sharp", "sharp"] >= 0.7 * N_CURVES
  assert counts.loc["sharp", "smooth"] == 0
  assert counts.loc[["log_linear", "power_law", "wide"], "smooth"].sum() >= 0.9 * 3 * N_CURVES
  assert counts.loc["null", "below chance resolution"] >= 0.85 * N_CURVES


def test_intervals_hold_the_truth(simulated):
  found, truth = simulated
  known = found[found["kind"].isin(["wide", "sharp"]) & found["x50"].notna()]
  assert len(known) >= 30
  x50, width = np.array([truth[task] for task in known["task"]]).T
  held = (known["x50_low"] <= 10**x50) & (10**x50 <= known["x50_high"])
  held_width = (known["width_low"] <= width) & (width <= known["width_high"])
  # 95 % of 30 to 40: fewer than 85 % are one in a hundred.
  assert held.mean() >= 0.85 and held_width.mean() >= 0.85
  # And they are no wider than they must be: of a sharp rise, about the gap between two sizes.
  sharp = known[known["kind"] == "sharp"]
  decades = np.log10(sharp["x50_high"].astype(float) / sharp["x50_low"].astype(float))
  assert decades.median() < 4.5 / 7


def test_what_is_not_identified_is_missing(simulated):
  found, _ = simulated
  null = found[found["kind"] == "null"]
  without = null["verdict"].isin(["below chance resolution", "no rise resolved"])
  assert without.sum() > 10
  for name in ("x50", "x50_low", "x50_high", "width_decades", "width_low", "width_high"):
    assert null.loc[without, name].isna().all()
  assert (null.loc[without, "threshold_status"] == "no rise resolved").all()


def test_rows_are_json_and_redraw(simulated):
  found, _ = simulated
  rows = json.loads(json.dumps(found.to_dict("records"), allow_nan=False))
  assert set(table.COLUMNS) <= set(rows[0])
  for row in rows:
    assert row["verdict"] in verdict.VERDICTS
    y, mean = table.fitted(row, row["sizes"]), np.array(row["means"])
    assert np.std(y - mean) <= (1.0001 if row["kind"] == "null" else 0.7) * np.std(mean)
  text = table.flat(found)
  assert json.loads(text["sizes"].iloc[0]) == rows[0]["sizes"]


def test_the_order_of_rows_and_other_tasks_change_nothing():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 8)
  rows = of_probabilities(np.tile(0.25 + 0.5 * logistic(x_S, 8.5, 0.5)[:, None], 2), x_S, 500, rng)
  first = table.analyze(rows, bootstrap=50)
  other = of_probabilities(np.full((8, 1), 0.3), x_S, 500, rng, task="u")
  again = table.analyze(pd.concat([other, rows.iloc[::-1]]), bootstrap=50)
  of_all = {"rise_q_value", "q_value"}
  for name in set(table.COLUMNS) - of_all:
    a, b = first[name].iloc[0], again.loc[again["task"] == "t", name].iloc[0]
    assert a == b or a == pytest.approx(b, rel=1e-6), name
  assert table.analyze(rows, bootstrap=50, seed=1)["x50_low"].notna().all()


def test_a_falling_metric_is_its_mirror():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 9)
  y_S = 0.1 + 0.7 * logistic(x_S, 8.6, 0.6) + rng.normal(0, 0.01, 9)
  same = {"n_params": 10**x_S, "stderr": np.full(9, 0.01)}
  rising = table.analyze(frame(value=y_S, metric="choice_prob", **same), bootstrap=50).iloc[0]
  falling = table.analyze(frame(value=1 - y_S, metric="target_brier", **same), bootstrap=50).iloc[0]
  assert rising["verdict"] == falling["verdict"] == "sharp"
  assert falling["breakthroughness"] == pytest.approx(rising["breakthroughness"])
  assert falling["x50"] == pytest.approx(rising["x50"], rel=1e-4)
  assert falling["floor"] == pytest.approx(1 - rising["floor"], abs=1e-4)
  assert lookup("nll").higher_is_better is False and lookup("no such").kind == "unknown"


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({}, "sharp"),
    ({"n_sizes": 3}, "insufficient data"),
    ({"n_sizes": 5}, "not resolved"),
    ({"rise_q": 0.06}, "no rise resolved"),
    ({"rise_q": 0.06, "above_chance_p": 0.3}, "below chance resolution"),
    ({"rise_q": 0.06, "above_chance_p": None}, "no rise resolved"),
    ({"margin": 5.9}, "not resolved"),
    ({"width_high": 1.1}, "not resolved"),
    ({"x50_inside": False}, "not resolved"),
    ({"x50_inside": False, "smooth_margin": 4.0}, "smooth"),
  ],
)
def test_each_rule_decides(change, expected):
  sharp = {"n_sizes": 8, "rise_q": 0.01, "above_chance_p": 0.001, "margin": 7.0, "smooth_margin": -20.0,
           "width_high": 0.8, "x50_inside": True, "limit": 1.0}  # fmt: skip
  assert verdict.of_curve(verdict.Evidence(**(sharp | change))) == expected


def test_exact_match_of_a_smooth_probability_jumps_by_its_metric():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6.5, 11, 10)
  parts = []
  p_S = np.clip(0.1 + 0.89 * (x_S - 7.2) / 2.5, 0.1, 0.99)
  for length in (8, 12, 16):
    p_SR = np.tile(p_S[:, None], 3)
    exact = of_probabilities(p_SR**length, x_S, 1000, rng, task=f"length {length}", metric="exact_match")
    token = of_probabilities(p_SR, x_S, 1000, rng, task=f"length {length}", metric="token_accuracy")
    parts += [exact, token.assign(stderr=0.015)]
  jump = 0.1 + 0.8 * logistic(x_S, 8.7, 0.3)
  for metric in ("exact_match", "token_accuracy"):
    p_SR = np.tile((jump**2 if metric == "exact_match" else jump)[:, None], 3)
    parts.append(of_probabilities(p_SR, x_S, 1000, rng, task="jump", metric=metric).assign(stderr=0.015))
  found = table.analyze(pd.concat(parts, ignore_index=True).assign(chance=np.nan), bootstrap=50)
  found = found.set_index(["task", "metric"])
  for length in (8, 12, 16):
    exact = found.loc[(f"length {length}", "exact_match")]
    assert exact["verdict"] == "sharp under the thresholded metric only"
    assert (exact["paired_metric"], exact["paired_verdict"]) == ("token_accuracy", "smooth")
    token = found.loc[(f"length {length}", "token_accuracy")]
    assert (token["verdict"], token["paired_metric"]) == ("smooth", "exact_match")
  assert list(found.loc["jump", "verdict"]) == ["sharp under both"] * 2


# --- what cannot be analyzed ------------------------------------------------------------------------


def test_curves_with_little_data_say_so():
  few = frame(n_params=[1e6, 1e7, 1e8], value=[0.1, 0.2, 0.9], metric="accuracy")
  missing = frame(task="u", n_params=[1e6, 1e7, 1e8, 1e9], value=[0.1, np.nan, 0.2, 0.9], metric="accuracy")
  equal = frame(task="v", n_params=10.0 ** np.arange(6, 12), value=np.full(6, 0.5), metric="accuracy")
  found = table.analyze(pd.concat([few, missing, equal], ignore_index=True), bootstrap=20)
  assert list(found["verdict"]) == ["insufficient data"] * 2 + ["no rise resolved"]
  assert list(found["status"]) == ["insufficient_data"] * 2 + ["constant"]
  assert found["breakthroughness"].isna().all() and found["q_value"].isna().all()
  assert found["n_sizes"].tolist() == [3, 3, 6]


def test_one_size_of_many_models_is_no_curve():
  found = table.analyze(frame(n_params=[1e6] * 5, value=[0.1, 0.2, 0.3, 0.4, 0.5], metric="accuracy"))
  assert found["verdict"].tolist() == ["insufficient data"]


def test_earlier_steps_are_no_seeds():
  x = np.repeat(10.0 ** np.arange(6, 12), 2)
  rows = frame(n_params=x, value=np.linspace(0, 1, 12), step=np.tile([10.0, 20.0], 6), metric="accuracy")
  (row,) = table.analyze(rows, bootstrap=20).to_dict("records")
  assert row["n_seeds"] == 1 and row["notes"] == ["6 values of earlier steps are left out"]
  assert row["means"] == pytest.approx(np.linspace(0, 1, 12)[1::2], rel=1e-5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"bootstrap": 5}, "bootstrap=5: must be 20 or more"),
    ({"seed": -1}, "seed=-1: must be 0 or more"),
    ({"x": "flops"}, "x='flops': no row has both a size and a value"),
  ],
)
def test_options_that_make_no_sense(options, message):
  rows = frame(n_params=[1e6, 1e7, 1e8, 1e9], value=[0.1, 0.2, 0.3, 0.4], metric="accuracy")
  with pytest.raises(ConfigError, match=message):
    table.analyze(rows, **options)
