"""Fits of scaling laws: published optima, scipy from the published start, invariances, recovery."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize
from shared import folder

from lm_jax.analysis import curve_table, loss_points
from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import fitting, influence, laws, newton, profile
from lm_jax.analysis.scaling_laws.estimators import Estimator
from lm_jax.strict import ConfigError

TRUE = {"A": 480.0, "B": 2100.0, "E": 1.8, "alpha": 0.35, "beta": 0.37}


@pytest.fixture(scope="module")
def everything() -> LossPoints:
  """Returns the 245 points of arXiv:2404.10102."""
  path = folder("data", "curves", "epoch_chinchilla", "svg_extracted_data.csv")
  return loss_points.of_table(curve_table.read(path))


@pytest.fixture(scope="module")
def published() -> dict:
  return json.loads(folder("data", "curves", "epoch_chinchilla", "published.json").read_text())


@pytest.fixture(scope="module")
def points(everything) -> LossPoints:
  return fitting.drop_highest(everything, 5)


def chinchilla(points: LossPoints, *estimator) -> fitting.Fit:
  return fitting.fit(fitting.sample("chinchilla", points), Estimator(*estimator))


@pytest.fixture(scope="module")
def fit(points) -> fitting.Fit:
  return chinchilla(points)


def drawn(seed: int = 0, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  return np.exp(rng.uniform(np.log(1e7), np.log(1e10), n)), np.exp(rng.uniform(np.log(1e9), np.log(1e12), n))


def made(n_params, n_tokens, loss, noise=0.0, seed=0, **fields) -> LossPoints:
  loss = loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
  run = np.array([f"run {i}" for i in range(len(loss))])
  return LossPoints(n_params, n_tokens, 6 * n_params * n_tokens, loss, run, **fields)


def by_formula(n_params, n_tokens, A, B, E, alpha, beta):
  return E + A / n_params**alpha + B / n_tokens**beta


def synthetic(noise=0.0, seed=0, **parameters) -> LossPoints:
  N, D = drawn(seed)
  return made(N, D, by_formula(N, D, **(TRUE | parameters)), noise, seed)


def reference_objective(theta, points, loss, delta=1e-3):
  """Returns the objective of (A, B, E, alpha, beta) by plain loops' arithmetic in numpy."""
  r = np.log(by_formula(points.n_params, points.n_tokens, *theta)) - np.log(points.loss)
  if loss == "lad":
    return np.abs(r).sum()
  if loss == "mse":
    return (r**2).sum()
  return np.where(np.abs(r) <= delta, r**2 / 2, delta * (np.abs(r) - delta / 2)).sum()


# --- published numbers ------------------------------------------------------------------------------


def test_the_huber_optimum_of_the_published_points(fit, published):
  wanted = published["our_check"]["global_huber_sum_optimum"]
  assert len(fit.sample.points) == 240
  assert fit.objective == pytest.approx(1.018274017801e-3, rel=1e-12)
  assert fit.objective <= wanted["objective_sum"] * (1 + 1e-14)
  assert fit.parameters == pytest.approx({k: wanted[k] for k in fit.parameters}, rel=2e-7)
  assert fit.parameters["A"] == pytest.approx(477.8258, abs=1e-4)
  assert fit.parameters["B"] == pytest.approx(2143.417, abs=1e-3)
  assert fit.parameters["E"] == pytest.approx(1.817218, abs=5e-7)
  assert fit.a == pytest.approx(0.51390, abs=5e-6)
  assert fit.status == "ok"
  assert fit.gradient <= newton.GRADIENT_TOLERANCE
  assert fit.starts_at_optimum > 0.8
  values = [fit.parameters[k] for k in ("A", "B", "E", "alpha", "beta")]
  assert fit.objective == pytest.approx(reference_objective(values, fit.sample.points, "huber"), rel=1e-12)


def test_the_least_absolute_deviations_optimum(points, published):
  found = chinchilla(points, "lad")
  wanted = published["our_check"]["LAD_optimum"]
  assert found.parameters == pytest.approx({k: wanted[k] for k in found.parameters}, rel=1e-7)
  assert found.objective == pytest.approx(wanted["sum_abs"], rel=1e-8)
  # As many points are met exactly as there are parameters: a vertex.
  residual = found.sample.residuals(found.theta_K[None])[0]
  assert (np.abs(residual) < 1e-12).sum() == 5


def test_least_squares_are_scipys(points):
  found = chinchilla(points, "mse")

  def residuals(theta):
    A, B, E = np.exp(theta[:3])
    return np.log(by_formula(points.n_params, points.n_tokens, A, B, E, *theta[3:])) - np.log(points.loss)

  wanted = optimize.least_squares(residuals, [6, 7, 0.6, 0.35, 0.37], x_scale="jac", xtol=1e-15, ftol=1e-15,
                                  gtol=1e-15)  # fmt: skip
  assert found.objective == pytest.approx(2 * wanted.cost, rel=1e-10)
  values = [found.parameters[k] for k in ("A", "B", "E", "alpha", "beta")]
  assert values == pytest.approx([*np.exp(wanted.x[:3]), *wanted.x[3:]], rel=1e-4)


@pytest.mark.parametrize("loss", ["huber", "lad", "mse"])
def test_no_published_parameters_have_a_lower_objective(everything, points, published, loss):
  logs = {
    "headline": (points, published["headline_point_estimate_cell25"]["log_params"]),
    "Hoffmann et al.": (points, published["hoffmann_TeX_unrounded_log_params"]),
    "with all points": (everything, published["with_outliers_cell54_log_params"]),
  }
  for used, theta in logs.values():
    other = reference_objective([*np.exp(theta[:3]), *theta[3:]], used, loss)
    assert chinchilla(used, loss).objective < other * (1 + 1e-9)


def test_dropping_the_highest_losses_moves_the_exponent(everything):
  rows = influence.drop_highest_rows(fitting.sample("chinchilla", everything), Estimator())
  assert [row["dropped"] for row in rows] == [0, 1, 3, 5, 10, 20]
  assert [row["n_points"] for row in rows] == [245, 244, 242, 240, 235, 225]
  assert [round(row["a"], 3) for row in rows] == [0.565, 0.544, 0.524, 0.514, 0.509, 0.484]


def test_each_point_left_out_is_a_fit_without_it(fit):
  rows = influence.leave_one_out_rows(fit, top=3)
  assert len(rows) == 3
  for row in rows:
    rest = fit.sample.points.keep(fit.sample.points.run != row["run"])
    assert len(rest) == 239
    alone = fitting.fit(fitting.sample("chinchilla", rest), Estimator(), fitting.FEW_STARTS)
    assert row["a_without"] == pytest.approx(alone.a, abs=1e-8)
  changes = [abs(row["a_change"]) for row in rows]
  assert changes == sorted(changes, reverse=True)


# --- properties -------------------------------------------------------------------------------------


def test_mean_and_sum_are_one_after_scaling(fit):
  """The minimizer sees neither: repeating every point multiplies the sum and moves nothing."""
  points = fit.sample.points
  for times in (2, 7):
    repeated = chinchilla(points.keep(np.tile(np.arange(len(points)), times)))
    assert repeated.objective == pytest.approx(times * fit.objective, rel=1e-10)
    assert repeated.parameters == pytest.approx(fit.parameters, rel=1e-6)
  # In the mean's own scale a general solver stops early, and says that it has arrived.
  start = [6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083]

  def mean(theta):
    return reference_objective([*np.exp(theta[:3]), *theta[3:]], points, "huber") / len(points)

  early = optimize.minimize(mean, start, method="BFGS")
  assert early.success
  assert early.fun > 1.05 * fit.objective / len(points)


def test_the_order_of_points_is_of_no_matter(fit):
  order = np.random.default_rng(0).permutation(240)
  other = chinchilla(fit.sample.points.keep(order))
  assert other.objective == pytest.approx(fit.objective, rel=1e-12)
  assert other.parameters == pytest.approx(fit.parameters, rel=1e-6)


@pytest.mark.parametrize("loss", ["huber", "lad", "mse"])
def test_units_of_n_and_d_move_their_coefficients_only(points, loss):
  one = chinchilla(points, loss)
  other = chinchilla(
    dataclasses.replace(points, n_params=points.n_params / 1e6, n_tokens=points.n_tokens * 1e3), loss
  )
  wanted = dict(one.parameters)
  wanted["A"] *= 1e-6 ** wanted["alpha"]
  wanted["B"] *= 1e3 ** wanted["beta"]
  assert other.parameters == pytest.approx(wanted, rel=1e-6)
  assert other.objective == pytest.approx(one.objective, rel=1e-10)


def test_the_unit_of_loss_moves_the_coefficients_only(fit, points):
  bits = chinchilla(dataclasses.replace(points, loss=points.loss / np.log(2)))
  scaled = {k: fit.parameters[k] / np.log(2) for k in ("A", "B", "E")}
  assert bits.parameters == pytest.approx(fit.parameters | scaled, rel=1e-6)


def laws_with_coordinates():
  for law, theta in (
    (laws.CHINCHILLA, [0.1, -0.3, 0.5, 0.3, 0.4]), (laws.power("C"), [0.1, 0.4, 0.2]),
    (laws.KAPLAN, [0.3, 0.2, -1.0, -0.5]), (laws.bnsl(), [0.1, 0.3, 0.2, 0.4, 0.1, -1.0]),
    (laws.bnsl("D", 2), [0.1, 0.3, 0.2, 0.4, -0.5, -1.0, -0.1, 0.6, 0.2]),
    (laws.data_constrained(np.array([20.0, 24.0, 23.5])), [0.1, -0.3, 0.5, 0.3, 0.4, 1.0, 2.0]),
  ):  # fmt: skip
    yield pytest.param(law, np.array(theta), id=f"{law.name} {law.n_parameters}")


@pytest.mark.parametrize(("law", "theta_K"), list(laws_with_coordinates()))
def test_derivatives_are_those_of_differences(law, theta_K):
  log_x_VP = np.random.default_rng(0).normal(size=(len(law.variables), 40))
  J_PK = laws.jacobian(law, theta_K[None], log_x_VP)[0]
  for k in range(len(theta_K)):
    step = np.zeros(len(theta_K))
    step[k] = 1e-6
    high, low = (law.log_loss((theta_K + s * step)[None], log_x_VP)[0] for s in (1, -1))
    assert J_PK[:, k] == pytest.approx((high - low) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("delta", [np.inf, 0.1, 1e-2])
def test_the_closed_form_of_a_sum_of_powers_is_the_general_one(delta):
  rng = np.random.default_rng(0)
  problem = newton.Problem(laws.CHINCHILLA, rng.normal(size=(2, 60)), rng.normal(0.8, 0.3, 60), delta)
  theta_RK, weight_RP = rng.normal(size=(4, 5)) * 0.5, rng.integers(0, 4, (4, 60)).astype(float)
  closed = newton._powers(problem, theta_RK, weight_RP)
  general = newton._general(problem, theta_RK, weight_RP)
  assert closed.value == pytest.approx(general.value, rel=1e-12)
  assert closed.gradient == pytest.approx(general.gradient, rel=1e-9, abs=1e-9)
  assert closed.majorizer == pytest.approx(general.majorizer, rel=1e-9, abs=1e-9)
  for k in range(5):
    step = np.zeros(5)
    step[k] = 1e-7
    high, low = (newton._powers(problem, theta_RK + s * step, weight_RP).gradient for s in (1, -1))
    assert closed.hessian[:, :, k] == pytest.approx((high - low) / 2e-7, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("loss", ["huber", "lad", "mse"])
def test_the_objective_is_its_definition(loss):
  r = np.array([[0.0, 5e-4, -1e-3, 2e-3, -0.5]])
  wanted = {
    "huber": 0 + 5e-4**2 / 2 + 1e-3**2 / 2 + 1e-3 * (2e-3 - 5e-4) + 1e-3 * (0.5 - 5e-4),
    "lad": 5e-4 + 1e-3 + 2e-3 + 0.5, "mse": 5e-4**2 + 1e-3**2 + 2e-3**2 + 0.25,
  }  # fmt: skip
  assert Estimator(loss).total(r) == pytest.approx([wanted[loss]])


# --- recovery ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["huber", "lad", "mse"])
@pytest.mark.parametrize("parameters", [{}, {"alpha": 0.7, "A": 1e5}, {"E": 0.3}, {"beta": 0.15, "B": 40.0}])
def test_chinchilla_recovers_its_parameters(loss, parameters):
  found = chinchilla(synthetic(**parameters), loss)
  assert found.parameters == pytest.approx(TRUE | parameters, rel=1e-6)
  assert found.status == "ok"


def effective(N, D, U, A, B, E, alpha, beta, R_N, R_D):
  """Returns the data-constrained loss as the paper writes it."""
  U_N = np.minimum(N, (alpha * A / (beta * B)) ** (1 / alpha) * U ** (beta / alpha))
  U_D = np.minimum(D, U)
  N_ = U_N + U_N * R_N * (1 - np.exp(-(N / U_N - 1) / R_N))
  D_ = U_D + U_D * R_D * (1 - np.exp(-(D / U_D - 1) / R_D))
  return E + A / N_**alpha + B / D_**beta


def other_laws():
  N, D = drawn()
  U = D / np.exp(np.random.default_rng(1).uniform(-1, 4, len(D))).clip(1)
  kaplan = {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
  bnsl = {"a": 1.2, "b": 30.0, "c0": 0.1, "c1": 0.25, "d1": 3e8, "f1": 0.3}
  repeated = TRUE | {"R_N": 5.3, "R_D": 15.4}
  C = 6 * N * D
  yield "power", {}, {"A": 400.0, "E": 1.7, "alpha": 0.3}, made(N, D, 1.7 + 400 / N**0.3)
  yield "power", {"x": "D"}, {"A": 400.0, "E": 1.7, "alpha": 0.3}, made(N, D, 1.7 + 400 / D**0.3)
  yield "power", {"x": "C"}, {"A": 40.0, "E": 1.7, "alpha": 0.08}, made(N, D, 1.7 + 40 / C**0.08)
  yield "kaplan", {}, kaplan, made(N, D, ((8.8e13 / N) ** (0.076 / 0.095) + 5.4e13 / D) ** 0.095)
  loss = 1.2 + 30 * N**-0.1 * (1 + (N / 3e8) ** (1 / 0.3)) ** (-0.25 * 0.3)
  yield "bnsl", {}, bnsl, made(N, D, loss)
  yield "data_constrained", {}, repeated, made(N, D, effective(N, D, U, **repeated), unique_tokens=U)


@pytest.mark.parametrize(("name", "options", "true", "points"), list(other_laws()))
def test_other_laws_recover_their_parameters(name, options, true, points):
  found = fitting.fit(fitting.sample(name, points, **options))
  assert found.status == "ok"
  assert found.parameters == pytest.approx(true, rel=1e-5)
  assert found.predict(points) == pytest.approx(points.loss, rel=1e-9)
  # With noise they are near, and the objective is no more than that of the truth.
  noisy = made(points.n_params, points.n_tokens, points.loss, 0.002, unique_tokens=points.unique_tokens)
  refit = fitting.fit(fitting.sample(name, noisy, **options))
  truth = Estimator().total(np.log(points.loss / noisy.loss))
  assert refit.objective < truth
  assert refit.predict(points) == pytest.approx(points.loss, rel=0.004)


def test_repeated_tokens_without_repetition_are_chinchilla():
  points = synthetic()
  unique = dataclasses.replace(points, unique_tokens=points.n_tokens)
  log_x_VP = np.log([points.n_params, points.n_tokens, points.n_tokens])
  law = laws.data_constrained(np.zeros(3))
  # R_N without bound: every parameter counts in full.
  theta = [np.log(480), np.log(2100), np.log(1.8), 0.35, 0.37, 20.0, 3.0]
  assert np.exp(law.log_loss(np.array([theta]), log_x_VP))[0] == pytest.approx(unique.loss, rel=1e-6)


# --- what the points do not say ---------------------------------------------------------------------


def test_parameters_that_the_points_do_not_identify_are_missing():
  N, D = drawn()
  same_size = made(np.full_like(N, 1e9), D, by_formula(1e9, D, **TRUE), 0.002)
  found = chinchilla(same_size)
  assert found.status == "not identifiable: A, E, alpha"
  assert [k for k, v in found.parameters.items() if v is None] == ["A", "E", "alpha"]
  assert found.parameters["beta"] == pytest.approx(0.37, abs=0.05)
  assert found.a is None and found.condition is None


def test_a_constant_that_is_not_there_is_missing():
  N, D = drawn()
  found = fitting.fit(fitting.sample("power", made(N, D, 400 / N**0.3)))
  assert found.status == "not identifiable: E"
  assert found.parameters["E"] is None
  assert found.parameters["A"] == pytest.approx(400, rel=1e-4)
  assert found.parameters["alpha"] == pytest.approx(0.3, rel=1e-5)


def test_a_plateau_is_not_an_optimum():
  """As many losses above as below a law that is flat: nothing tells the values between them apart."""
  N = np.repeat(np.geomspace(1e7, 1e9, 4), 6)
  D = np.tile(np.geomspace(1e8, 1e11, 6), 4)
  found = fitting.fit(fitting.sample("power", made(N, D, 1.5 + 3000 / D**0.4)))
  assert found.status.startswith("not identifiable: ")
  assert "alpha" in found.status and found.parameters["alpha"] is None
  assert found.condition is None


def test_a_law_that_fits_badly_is_brought_to_its_optimum():
  """A law of compute alone, of runs that spent it well and badly: 24 of experiments/014_isoflop."""
  path = Path(__file__).parents[1] / "experiments" / "014_isoflop" / "cells.csv"
  data = fitting.sample("power", loss_points.of_table(curve_table.read(path)), x="C")
  found = fitting.fit(data)
  assert found.gradient <= newton.GRADIENT_TOLERANCE and found.starts_at_optimum > 0.9
  low, high = np.log(data.points.loss).min(), np.log(data.points.loss).max()

  def objective(theta):  # in the law's own coordinates: log A, log E, alpha
    r = data.residuals(theta[None])[0]
    return np.where(np.abs(r) <= 1e-3, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4)).sum()

  rng = np.random.default_rng(0)
  for _ in range(20):
    start = np.array([rng.uniform(low, high), rng.uniform(-1, high), rng.uniform(0.02, 1)])
    best = optimize.minimize(objective, start, method="Nelder-Mead",
                             options={"maxiter": 4000, "xatol": 1e-10, "fatol": 1e-15})  # fmt: skip
    assert best.fun >= found.objective * (1 - 1e-9)


def bad(**changes) -> LossPoints:
  return dataclasses.replace(synthetic(), **changes)


@pytest.mark.parametrize(
  ("name", "points", "message"),
  [
    ("chinchilla", synthetic().keep(np.arange(5)), "has 5 parameters .* needs more points .*there are 5"),
    ("chinchilla", bad(loss=np.full(120, 2.5)), "all 120 losses are equal"),
    ("chinchilla", bad(loss=np.r_[np.nan, np.ones(119)]), "loss=nan: must be a finite number .*1 of 120"),
    ("chinchilla", bad(n_params=np.r_[0.0, np.ones(119)]), "n_params=0.0: must be a finite number"),
    ("chinchilla", bad(n_tokens=np.r_[-1.0, -1.0, np.ones(118)]), "n_tokens=-1.0: .*2 of 120"),
    ("data_constrained", synthetic(), "needs a column unique_tokens"),
    ("chinchila", synthetic(), "law='chinchila': unknown; did you mean 'chinchilla'"),
  ],
)
def test_points_that_cannot_be_fitted(name, points, message):
  with pytest.raises(ConfigError, match=message):
    fitting.sample(name, points)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("hubber",), "loss='hubber': unknown; did you mean 'huber'"),
    (("lad", 0.1), "delta=0.1: must be left out"),
    (("huber", 0.0), "delta=0.0: must be a number greater than 0"),
  ],
)
def test_estimators_that_are_none(arguments, message):
  with pytest.raises(ConfigError, match=message):
    Estimator(*arguments)


def test_dropping_keeps_what_is_below_the_kth_highest(everything):
  assert len(fitting.drop_highest(everything, 0)) == 245
  kept = fitting.drop_highest(everything, 5)
  assert (kept.loss < np.sort(everything.loss)[-5]).all() and len(kept) == 240
  with pytest.raises(ConfigError, match="drop_highest=245: must be from 0 to 244, for 245 points"):
    fitting.drop_highest(everything, 245)


# --- profile likelihood -----------------------------------------------------------------------------


def test_the_profile_of_squares_is_the_f_test(points):
  """At the ends, everything else refitted by scipy, P log(S/S_min) is the quantile of chi-squared."""
  fit = chinchilla(points, "mse")
  ends = profile.intervals(fit)
  assert set(ends) == {"E", "alpha", "beta"}
  for name, k in (("E", 2), ("alpha", 3), ("beta", 4)):
    assert ends[name][0] < fit.parameters[name] < ends[name][1]
    fixed = np.log(ends[name][1]) if name == "E" else ends[name][1]
    start = np.array([np.log(fit.parameters["A"]), np.log(fit.parameters["B"]), np.log(fit.parameters["E"]),
                      fit.parameters["alpha"], fit.parameters["beta"]])  # fmt: skip

    def residuals(free, k=k, fixed=fixed):
      theta = np.insert(free, k, fixed)
      predicted = by_formula(points.n_params, points.n_tokens, *np.exp(theta[:3]), *theta[3:])
      return np.log(predicted) - np.log(points.loss)

    refit = optimize.least_squares(residuals, np.delete(start, k), x_scale="jac", xtol=1e-14, ftol=1e-14)
    assert 240 * np.log(2 * refit.cost / fit.objective) == pytest.approx(3.841459, rel=1e-3)
