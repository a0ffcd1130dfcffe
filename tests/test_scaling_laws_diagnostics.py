"""Fits that arrived and yet say little: exponents without bounds, starts astray, residuals with a trend."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import diagnostics, fitting, profile, resampling, summary

N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e8, 1e11, 6)))


def made(loss, noise=0.0) -> LossPoints:
  loss = loss * np.exp(noise * np.random.default_rng(0).normal(size=len(loss)))
  return LossPoints(N, D, 6 * N * D, loss, np.arange(len(loss)).astype(str))


def summarized(points, **options) -> dict:
  return summary.summarize({("total", "6nd"): points}, summary.Options(bootstrap=100, **options)).tree


def test_a_law_that_its_points_identify_has_no_doubts():
  tree = summarized(made(1.8 + 480 / N**0.35 + 2100 / D**0.37, 2e-3))
  assert tree["status"] == "ok" and tree["notes"] == []
  assert None not in tree["ci95"].values() and set(tree["profile95"]) == {"E", "alpha", "beta"}


def test_an_exponent_that_the_points_do_not_bound_is_missing():
  # Noise as large as what N does: any exponent of N goes.
  points = made(1.8 + 2.0 / N**0.35 + 2100 / D**0.37, 0.01)
  tree = summarized(points)
  fit = fitting.fit(fitting.sample("chinchilla", points))
  interval = resampling.bootstrap(fit, 100).interval("alpha")
  assert interval[0] <= 0 or interval[1] / interval[0] > 10
  assert tree["status"].startswith("not identifiable: A, alpha (")
  assert f"have alpha from {interval[0]:.3g} to {interval[1]:.3g}" in tree["status"]
  assert (tree["A"], tree["alpha"], tree["a"]) == (None, None, None)
  assert tree["ci95"]["alpha"] is None and "alpha" not in tree["profile95"]
  assert tree["beta"] == pytest.approx(0.37, abs=0.1)
  assert tree["allocation"] == []


def test_a_profile_without_ends_has_no_exponent():
  fit = fitting.fit(fitting.sample("chinchilla", made(1.8 + 480 / N**0.35 + 2100 / D**0.37, 2e-3)))
  ends = profile.intervals(fit)
  assert diagnostics.unbounded(fit, None, ends) == {}
  open_ended = ends | {"beta": [None, None]}
  reasons = diagnostics.unbounded(fit, None, open_ended)
  found = diagnostics.without(fit, reasons)
  assert found.status == ("not identifiable: B, beta (the profile likelihood of beta is open to both sides)")
  assert found.a is None and found.parameters["alpha"] == fit.parameters["alpha"]
  # One end that is open is a bound still.
  assert diagnostics.unbounded(fit, None, ends | {"beta": [None, 0.4]}) == {}


def test_a_variable_that_the_law_lacks_is_named():
  points = made(1.8 + 480 / N**0.35 + 2100 / D**0.37, 2e-3)
  fit = fitting.fit(fitting.sample("power", points))
  (note,) = [n for n in diagnostics.notes(fit) if "residuals" in n]
  rho = stats.spearmanr(points.loss / fit.predict(points), D).statistic
  assert rho < -0.5
  assert f"residuals go with log D (rank correlation {rho:.2f})" in note and "factor of 1e+03" in note
  assert note in summarized(points, law="power")["notes"]
  # What does not vary explains nothing, and a law that has the variable needs no word.
  fixed = made(1.8 + 480 / N**0.35, 2e-3)
  assert diagnostics.notes(fitting.fit(fitting.sample("power", fixed))) == []
  both = dataclasses.replace(points, n_tokens=np.full_like(D, 1e9))
  assert not any("log D" in n for n in diagnostics.notes(fitting.fit(fitting.sample("power", both))))


def test_few_starts_at_the_optimum_are_told():
  fit = fitting.fit(fitting.sample("chinchilla", made(1.8 + 480 / N**0.35 + 2100 / D**0.37, 2e-3)))
  assert fit.starts_at_optimum > 0.2 and diagnostics.notes(fit) == []
  astray = dataclasses.replace(fit, starts_at_optimum=1 / 32)
  (note,) = diagnostics.notes(astray)
  assert note.startswith("3% of 32 starts reach the optimum")
