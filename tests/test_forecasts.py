"""Forecasts: fits that agree with scipy's, bands that hold as often as they say, files nobody can change."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import synthetic_study as synthetic
from scipy import special

from lm_jax.analysis import curve_table
from lm_jax.analysis.forecasts import (
  ability_curve,
  extrapolation,
  freeze,
  least_squares,
  power_law,
  rungs,
  scores,
)

LAW = {"E": 0.3, "A": 2.0, "alpha": 0.35}
CURVE = {"chance": 0.25, "ceiling": 0.95, "midpoint": 1.1, "width": 0.25}
X50 = 1e6 * ((CURVE["midpoint"] - LAW["E"]) / LAW["A"]) ** (-1 / LAW["alpha"])


def loss_of(x):
  return LAW["E"] + LAW["A"] * (np.asarray(x) / 1e6) ** -LAW["alpha"]


def ability_of(loss):
  c = CURVE
  return c["chance"] + (c["ceiling"] - c["chance"]) * special.expit((c["midpoint"] - loss) / c["width"])


def table_of_runs(x, seeds=2, n_items=500, noise=0.01, rng=None, flat=False):
  """Returns a table of simulated runs; without `rng` exact values."""
  rows = []
  for size in x:
    for seed in range(seeds):
      loss = float(loss_of(size)) + (0 if rng is None else rng.normal(0, noise))
      p = CURVE["chance"] if flat else float(np.clip(ability_of(loss_of(size)), 0, 1))
      share = p if rng is None else rng.binomial(n_items, p) / n_items
      shared = {"task": "t", "family": "f", "run": f"{size:g}-{seed}", "flops": size, "n_params": size**0.5,
                "seed": float(seed), "shots": "all"}  # fmt: skip
      rows.append(shared | {"metric": "nll", "value": loss})
      rows.append(
        shared | {"metric": "accuracy", "value": share, "chance": CURVE["chance"], "n_items": n_items}
      )
  data = pd.DataFrame(rows)
  columns = {name: data.get(name, pd.Series(np.nan, index=data.index)) for name in curve_table.ALIASES}
  frame = pd.DataFrame(columns).astype(
    {n: "string" if n in curve_table.TEXT else "float64" for n in curve_table.ALIASES}
  )
  return curve_table.CurveTable(frame, "simulated", {})


def rungs_of(table, x="flops"):
  (found,) = rungs.of_rows(table.rows, x)
  return found


SIZES = np.geomspace(1e6, 1e6 * 10**2.8, 8)


def test_power_law_recovers_its_parameters():
  x = np.geomspace(1e6, 1e9, 9)
  losses = np.stack([loss_of(x), 0.5 + 0 * x, 4 * (x / 1e6) ** -0.2])
  laws = power_law.fit(x, losses, np.ones(9))
  A = laws.A * laws.scale**laws.alpha / 1e6**laws.alpha
  np.testing.assert_allclose([laws.E[0], A[0], laws.alpha[0]], list(LAW.values()), rtol=2e-3)
  np.testing.assert_allclose(laws(x), losses, rtol=2e-4)
  assert laws.E[2] == pytest.approx(0, abs=0.02)
  np.testing.assert_allclose(laws.inverse(laws(x[4:5])[:, 0])[[0, 2]], x[4], rtol=1e-6)
  assert np.isinf(laws.inverse(laws.E - 0.01)).all()


def test_power_law_is_the_best_of_its_form():
  rng = np.random.default_rng(0)
  x, weights = np.geomspace(1, 1e3, 8), rng.uniform(0.5, 2, 8)
  losses = loss_of(x * 1e6) + rng.normal(0, 0.03, (20, 8))
  laws = power_law.fit(x, losses, weights)
  mine = (weights * (laws(x) - losses) ** 2).sum(1)

  def misfit(alpha, y):
    root = np.sqrt(weights)
    design = np.stack([np.ones(8), x**-alpha], 1) * root[:, None]
    return scipy.optimize.nnls(design, y * root)[1] ** 2

  best = [min(misfit(a, y) for a in np.geomspace(0.01, 3, 3000)) for y in losses]
  assert (mine <= np.array(best) * (1 + 1e-9)).all()
  np.testing.assert_allclose(mine, best, rtol=1e-3)


def test_ability_curve_is_the_best_of_its_form():
  rng = np.random.default_rng(1)
  loss = np.linspace(2.2, 0.5, 10)
  abilities = ability_of(loss) + rng.normal(0, 0.02, (6, 10))
  curves = ability_curve.fit(np.tile(loss, (6, 1)), abilities, np.ones(10), 0.25)
  mine = ((curves(np.tile(loss, (6, 1))) - abilities) ** 2).sum(1)
  for got, y in zip(mine, abilities, strict=True):

    def residuals(p, y=y):
      return 0.25 + p[0] * special.expit((p[1] - loss) / np.exp(p[2])) - y

    bounds = ([0, -5, -6], [0.75, 5, 3])
    starts = [(0.5, m, s) for m in (0.5, 1.0, 1.6) for s in (-2.0, -0.5)]
    best = min(2 * scipy.optimize.least_squares(residuals, s, bounds=bounds).cost for s in starts)
    assert got == pytest.approx(best, rel=2e-2)


def test_least_squares_finds_what_scipy_finds():
  rng = np.random.default_rng(2)
  t, data = np.linspace(0, 2, 12), rng.normal(0, 0.05, (7, 12))
  data += 1.5 * np.exp(-0.8 * t) + 0.3

  def residuals(theta):
    return theta[:, :1] * np.exp(-theta[:, 1:2] * t) + theta[:, 2:] - data

  found, cost = least_squares.minimize(residuals, np.ones((7, 3)))
  for r in range(7):
    best = scipy.optimize.least_squares(
      lambda p, r=r: p[0] * np.exp(-p[1] * t) + p[2] - data[r], np.ones(3), xtol=1e-14, ftol=1e-14
    )
    assert cost[r] == pytest.approx(2 * best.cost, rel=1e-6)
    np.testing.assert_allclose(found[r], best.x, rtol=1e-3)


@pytest.mark.parametrize("method", ["two_step", "joint"])
def test_exact_data_give_the_true_curve(method):
  draws = extrapolation.draw(rungs_of(table_of_runs(SIZES)), 20, 0, method)
  beyond = np.array([3e9, 1e10])
  curve = draws.of_curve(beyond)
  np.testing.assert_allclose(curve["nll"][0], loss_of(beyond), atol=3e-3)
  np.testing.assert_allclose(curve["accuracy"][0], ability_of(loss_of(beyond)), atol=6e-3)


@pytest.mark.parametrize(("method", "num"), [("two_step", 200), ("joint", 100)])
def test_bands_hold_as_often_as_they_say(method, num):
  rng = np.random.default_rng(3)
  checked, thresholds = [], []
  for i in range(25 if method == "two_step" else 8):
    own = rungs_of(table_of_runs(SIZES, rng=rng))
    checked += extrapolation.rolling(own, num, i, method)
    found = extrapolation.threshold(extrapolation.draw(own, num, i, method))
    thresholds.append(found["status"] == "ok" and found["low"] <= X50 <= found["high"])
  for metric in ("nll", "accuracy"):
    covered = extrapolation.coverage(checked, metric)
    assert covered["n"] == len(checked) // 2
    assert 0.85 <= covered["coverage"][0.95] <= 1
    assert 0.35 <= covered["coverage"][0.5] <= 0.85
  assert np.mean(thresholds) >= 0.85


def test_a_band_of_more_seeds_is_narrower():
  own = rungs_of(table_of_runs(SIZES, rng=np.random.default_rng(4), noise=0.05))
  draws = extrapolation.draw(own, 400)
  one, many = (np.ptp(np.quantile(draws.of_run(SIZES[-1:], n)["nll"], [0.1, 0.9])) for n in (1, 16))
  mean = np.ptp(np.quantile(draws.of_curve(SIZES[-1:])["nll"], [0.1, 0.9]))
  assert mean < many < one


def test_thresholds_that_cannot_be_known_say_so():
  rng = np.random.default_rng(5)
  flat = extrapolation.threshold(extrapolation.draw(rungs_of(table_of_runs(SIZES, rng=rng, flat=True)), 200))
  assert flat["status"] == "no rise" and flat["median"] is None and flat["high"] is None
  # Only the foot of the curve is seen: a rise there is, its middle may be anywhere above.
  foot = table_of_runs(np.geomspace(1e5, 2e6, 5), seeds=1, n_items=4000, rng=rng)
  found = extrapolation.threshold(extrapolation.draw(rungs_of(foot), 300))
  assert found["status"] == "not identifiable" and found["median"] is None
  assert found["low"] < X50
  three = rungs_of(table_of_runs(SIZES[:3]))
  assert extrapolation.draw(three) is None and list(extrapolation.rolling(three)) == []


def test_an_ability_without_a_loss_is_a_curve_of_size():
  table = table_of_runs(SIZES)
  alone = dataclasses.replace(table, rows=table.rows[table.rows["metric"] == "accuracy"])
  draws = extrapolation.draw(rungs_of(alone), 200)
  found = extrapolation.threshold(draws)
  # What is midway of a sigmoid of the loss is not quite so of one of the size's logarithm.
  assert found["status"] == "ok" and 0.5 < found["median"] / X50 < 2
  assert set(draws.of_curve(SIZES)) == {"accuracy"}


def test_item_noise_is_not_counted_per_seed():
  own = rungs_of(table_of_runs(SIZES, seeds=5, rng=np.random.default_rng(6)))
  p = (own.ability.mean * 500 + 1) / 502
  assert (own.ability.variance >= 0.8 * p * (1 - p) / 500).all()
  assert own.ability.n_items == 500 and own.loss.n_items is None
  assert own.loss.seed_variance == pytest.approx(1e-4, rel=0.6)


def forecast_of(table, **options):
  targets = [{"x": 4e9, "label": "big", "n_seeds": 1}]
  return freeze.make(table, targets, "flops", num=100, **options)


def test_a_frozen_forecast_cannot_be_changed(tmp_path):
  table = table_of_runs(SIZES, rng=np.random.default_rng(7))
  forecast = forecast_of(table)
  path = freeze.write(forecast, tmp_path)
  assert json.loads(path.read_text()) == forecast
  with pytest.raises(FileExistsError):
    freeze.write(forecast, tmp_path)
  assert [found for _, found in freeze.read_all(tmp_path)] == [forecast]
  path.write_text(path.read_text().replace('"label": "big"', '"label": "bug"'))
  assert [found for _, found in freeze.read_all(tmp_path)] == [None]
  card = scores.score_card(table, tmp_path)
  assert card["status"].tolist() == ["altered"] and card["median"].isna().all()


def test_equal_data_and_seed_give_an_equal_forecast():
  table = table_of_runs(SIZES, rng=np.random.default_rng(8))
  shuffled = dataclasses.replace(table, rows=table.rows.sample(frac=1, random_state=1))
  one, other, third = (forecast_of(t, seed=s) for t, s in ((table, 0), (shuffled, 0), (table, 1)))
  assert one["data_sha256"] == other["data_sha256"]
  assert one["curves"][0]["threshold"] == pytest.approx(other["curves"][0]["threshold"])
  assert one["curves"] != third["curves"]


def test_a_forecast_is_scored_by_new_runs_only(tmp_path):
  rng = np.random.default_rng(9)
  table = table_of_runs(SIZES, rng=rng)
  forecast = forecast_of(table)
  freeze.write(forecast, tmp_path)
  waiting = scores.score_card(table, tmp_path)
  assert set(waiting["status"]) == {"waiting"} and waiting["observed"].isna().all()
  assert waiting["inside_95"].isna().all()
  later = table_of_runs([4e9], rng=rng)
  grown = dataclasses.replace(table, rows=pd.concat([table.rows, later.rows], ignore_index=True))
  card = scores.score_card(grown, tmp_path).set_index("metric")
  assert set(card["status"]) == {"scored"} and set(card.index) == {"nll", "accuracy"}
  observed = later.rows[later.rows["metric"] == "nll"]["value"].mean()
  assert card.loc["nll", "observed"] == pytest.approx(observed)
  assert card.loc["nll", "error"] == pytest.approx(card.loc["nll", "median"] - observed)
  assert card.loc["nll", "inside_95"] == (card.loc["nll", "low"] <= observed <= card.loc["nll", "high"])
  # A run that was there when the forecast was made is no test of it.
  named = forecast | {"fitted_runs": sorted(set(grown.rows["run"]))}
  again = tmp_path / "again"
  freeze.write(named | {"sha256": freeze.content_hash(named)}, again)
  assert set(scores.score_card(grown, again)["status"]) == {"waiting"}


def test_summaries_stand_for_shots_unless_asked(tmp_path):
  synthetic.realistic(tmp_path)
  table = curve_table.load(tmp_path)
  curves = freeze.make(table, [{"x": 1e12}], "flops", num=20, family="decoder")["curves"]
  assert {(c["shots"], c["metric"]) for c in curves} == {
    ("window", m) for m in ("accuracy", "exact_match", "choice_prob")
  }
  # The loss beside all three is forecast once.
  assert [f["metric"] for c in curves for f in c["forecasts"]].count("nll") == 1
  at_3 = freeze.make(table, [{"x": 1e12}], "flops", num=20, family="decoder", shots="3", metric="accuracy")
  assert [(c["shots"], c["metric"]) for c in at_3["curves"]] == [("3", "accuracy")]
