"""Bootstrap of scaling laws: the published intervals, scipy row by row, clusters, coverage."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import optimize
from shared import folder

from lm_jax.analysis import curve_table, loss_points
from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import fitting, newton, resampling
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.strict import ConfigError

NAMES = ("A", "B", "E", "alpha", "beta")
START = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)  # of the published refits


@pytest.fixture(scope="module")
def fit() -> fitting.Fit:
  path = folder("data", "curves", "epoch_chinchilla", "svg_extracted_data.csv")
  points = fitting.drop_highest(loss_points.of_table(curve_table.read(path)), 5)
  return fitting.fit(fitting.sample("chinchilla", points))


@pytest.fixture(scope="module")
def refits(fit) -> resampling.Refits:
  return resampling.bootstrap(fit)


@pytest.fixture(scope="module")
def published() -> dict:
  return json.loads(folder("data", "curves", "epoch_chinchilla", "published.json").read_text())


def objective_and_gradient(theta, points, weight):
  n, d = np.log(points.n_params), np.log(points.n_tokens)
  terms = np.exp([theta[0] - theta[3] * n, theta[1] - theta[4] * d, np.full(len(n), theta[2])])
  r = np.log(terms.sum(0)) - np.log(points.loss)
  size = np.abs(r)
  value = np.where(size <= 1e-3, r**2 / 2, 1e-3 * (size - 5e-4))
  share, slope = terms / terms.sum(0), weight * np.clip(r, -1e-3, 1e-3)
  gradient = [slope @ share[0], slope @ share[1], slope @ share[2], -slope @ (share[0] * n),
              -slope @ (share[1] * d)]  # fmt: skip
  return weight @ value, np.array(gradient)


def test_the_published_intervals(refits, published):
  """Their lower end of A is the order statistic before ours: some published refits stopped elsewhere."""
  assert (refits.n_resamples, refits.n_converged) == (4000, 4000)
  wanted = published["bootstrap_95CI_cell26"]
  found = refits.intervals()
  # As many digits as were published.
  digits = {"B": 0.02, "E": 5.1e-4, "alpha": 5.1e-4, "beta": 5.1e-4}
  for name, error in digits.items():
    assert found[name] == pytest.approx(wanted[name], abs=error)
  assert found["A"][1] == pytest.approx(wanted["A"][1], abs=0.02)
  assert found["A"][0] == pytest.approx(286.085, abs=0.002)
  assert np.sort(refits.column("A"))[99] == pytest.approx(285.24, abs=0.01)
  assert refits.column("a").std() == pytest.approx(published["a_exponent_cell59"]["SE"], abs=0.001)


def test_row_0_is_the_published_one(fit, refits, published):
  row = dict(zip(NAMES, refits.parameters_RK[0], strict=True))
  # The published row stopped at a slope of 1e-5, with A and alpha right to 6 digits and B to 5.
  assert row == pytest.approx(published["bootstrap_row0"], rel=2e-5)
  drawn = np.random.RandomState(42).choice(240, 240, replace=True)
  weight = np.bincount(drawn, minlength=240).astype(float)
  exact = optimize.minimize(objective_and_gradient, START, (fit.sample.points, weight), "BFGS", jac=True,
                            options={"gtol": 1e-13, "maxiter": 5000})  # fmt: skip
  assert refits.parameters_RK[0] == pytest.approx([*np.exp(exact.x[:3]), *exact.x[3:]], rel=1e-7)


def test_rows_are_scipys_from_the_published_start(fit, refits):
  points = fit.sample.points
  random = np.random.RandomState(42)
  for i in range(6):
    weight = np.bincount(random.choice(240, 240, replace=True), minlength=240).astype(float)
    wanted = optimize.minimize(objective_and_gradient, START, (points, weight), "BFGS", jac=True,
                               options={"gtol": 1e-9})  # fmt: skip
    natural = [*np.exp(wanted.x[:3]), *wanted.x[3:]]
    assert refits.parameters_RK[i] == pytest.approx(natural, rel=2e-4)
    own = np.concatenate([np.log(refits.parameters_RK[i][:3]), refits.parameters_RK[i][3:]])
    assert objective_and_gradient(own, points, weight)[0] <= wanted.fun * (1 + 1e-12)


def test_draws_are_numpys():
  random = np.random.RandomState(7)
  wanted = [random.choice(11, 11, replace=True) for _ in range(3)]
  found = resampling.draw(11, 3, 7)
  for row, drawn in zip(found, wanted, strict=True):
    assert np.repeat(np.arange(11), row.astype(int)).tolist() == sorted(drawn)


def test_clusters_are_drawn_whole():
  run = np.array(["b", "a", "b", "c", "a", "b"])
  weight_RP = resampling.draw(6, 50, 0, run)
  for name in "abc":
    own = weight_RP[:, run == name]
    assert (own == own[:, :1]).all()
  first = [np.flatnonzero(run == name)[0] for name in "abc"]
  assert (weight_RP[:, first].sum(1) == 3).all()
  assert len(np.unique(weight_RP, axis=0)) > 3


def test_points_of_one_run_are_drawn_together_and_widen_the_interval():
  """Checkpoints that share the luck of their run say no more than the run does."""
  rng = np.random.default_rng(0)
  N, D = np.exp(rng.uniform(16, 23, 30)), np.exp(rng.uniform(21, 27, 30))
  N, D, luck = (np.repeat(v, 8) for v in (N, D, rng.normal(0, 0.01, 30)))
  D = D * np.tile(np.geomspace(0.3, 1, 8), 30)
  loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(luck)
  points = LossPoints(N, D, 6 * N * D, loss, np.repeat([f"run {i}" for i in range(30)], 8))
  fit = fitting.fit(fitting.sample("chinchilla", points))
  of_points = resampling.bootstrap(fit, 300)
  of_runs = resampling.bootstrap(fit, 300, cluster="run")
  assert (of_points.cluster, of_runs.cluster) == ("point", "run")
  assert of_runs.column("E").std() > 1.7 * of_points.column("E").std()


def test_intervals_cover_what_they_claim_to():
  true = {"A": 480.0, "B": 2100.0, "E": 1.8, "alpha": 0.35, "beta": 0.37, "a": 0.37 / 0.72}
  covered = dict.fromkeys(true, 0)
  for trial in range(100):
    rng = np.random.default_rng(trial)
    N, D = np.exp(rng.uniform(16, 24, 80)), np.exp(rng.uniform(20, 28, 80))
    loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.01 * rng.normal(size=80))
    points = LossPoints(N, D, 6 * N * D, loss, np.arange(80).astype(str))
    fit = fitting.fit(fitting.sample("chinchilla", points), n_starts=fitting.FEW_STARTS)
    refits = resampling.bootstrap(fit, 120, seed=trial)
    for name, value in true.items():
      low, high = refits.interval(name)
      covered[name] += low <= value <= high
  # 95 expected; 120 resamples of 80 points make percentile intervals slightly short.
  assert all(85 <= count <= 99 for count in covered.values()), covered


def test_refits_that_did_not_converge_are_counted(fit, monkeypatch):
  monkeypatch.setattr("lm_jax.analysis.scaling_laws.newton.minimize.__defaults__", (None, 4, 1e-9))
  found = resampling.bootstrap(fit, 50)
  assert found.n_resamples == 50
  assert 0 <= found.n_converged < 50
  assert len(found.parameters_RK) == found.n_converged


def test_other_laws_and_estimators_have_intervals_too():
  rng = np.random.default_rng(0)
  N = np.exp(rng.uniform(16, 23, 60))
  loss = (1.8 + 480 / N**0.35) * np.exp(0.003 * rng.normal(size=60))
  points = LossPoints(N, N, 6 * N * N, loss, np.arange(60).astype(str))
  for estimator in (Estimator("mse"), Estimator("lad")):
    fit = fitting.fit(fitting.sample("power", points), estimator)
    refits = resampling.bootstrap(fit, 200)
    assert refits.n_converged == 200
    for name, true in (("E", 1.8), ("alpha", 0.35)):
      low, high = refits.interval(name)
      assert low < fit.parameters[name] < high
      assert low < true < high


def test_refits_of_least_absolute_deviations_arrive(fit):
  lad = fitting.fit(fit.sample, Estimator("lad"), fitting.FEW_STARTS)
  refits = resampling.bootstrap(lad, 100)
  assert refits.n_converged >= 97
  # Each is a minimum: steps along the axes of its coordinates go up.
  weight_RP = resampling.draw(240, 100, 42)
  problem = fit.sample.problem(lad.estimator.smoothing)
  arrived = newton.follow(problem, np.repeat(lad.theta_K[None], 100, 0), weight_RP, 1e-3).converged_R
  assert arrived.sum() == refits.n_converged
  weight_RP = weight_RP[arrived]
  value = lad.estimator.total(fit.sample.residuals(refits.theta_RK), weight_RP)
  for k in range(5):
    for step in (-1e-3, 1e-3):
      moved = refits.theta_RK + step * np.eye(5)[k]
      assert (lad.estimator.total(fit.sample.residuals(moved), weight_RP) > value).all()


def test_what_is_not_identified_has_no_interval():
  rng = np.random.default_rng(0)
  D = np.exp(rng.uniform(20, 28, 60))
  N = np.full(60, 1e9)
  loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.002 * rng.normal(size=60))
  points = LossPoints(N, D, 6 * N * D, loss, np.arange(60).astype(str))
  refits = resampling.bootstrap(fitting.fit(fitting.sample("chinchilla", points)), 50)
  found = refits.intervals()
  assert (found["A"], found["E"], found["alpha"], refits.interval("a")) == (None,) * 4
  assert found["beta"][0] < 0.37 < found["beta"][1]


def test_wrong_options(fit):
  with pytest.raises(ConfigError, match="bootstrap=1: must be greater than 1"):
    resampling.bootstrap(fit, 1)
  with pytest.raises(ConfigError, match="cluster='seed': must be point or run"):
    resampling.bootstrap(fit, 10, cluster="seed")
  one_run = dataclasses.replace(fit.sample.points, run=np.full(240, "only"))
  alone = dataclasses.replace(fit, sample=dataclasses.replace(fit.sample, points=one_run))
  with pytest.raises(ConfigError, match="cluster='run': needs 3 runs to draw from, and there are 1"):
    resampling.bootstrap(alone, 10, cluster="run")
