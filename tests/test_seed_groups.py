"""Seeds of two groups: found where they are, and where half of them are past, beside an independent fit."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic
from emergence_rows import logistic, of_probabilities
from scipy import optimize, stats

from lm_jax import cli
from lm_jax.analysis.emergence import figure, seeds, table
from lm_jax.analysis.emergence.curves import of_rows
from lm_jax.analysis.emergence.seeds import Past
from lm_jax.analysis.report import report


def test_seeds_that_jump_one_by_one_are_two_groups():
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 8)
  x50_R = np.array([7.0, 8.0, 8.6, 9.3, 10.0])
  p_SR = 0.05 + 0.9 * logistic(x_S[:, None], x50_R, 0.1)
  row = table.analyze(of_probabilities(p_SR, x_S, 500, rng), bootstrap=50).iloc[0]
  assert row["seeds_bimodal"] is True
  inside = (x_S > 7.1) & (x_S < 9.9)
  assert row["bimodal_sizes"] == pytest.approx(list(10 ** x_S[inside]), rel=1e-4)
  assert row["fraction_past"] == pytest.approx([(x50_R < x).mean() for x in x_S])
  interval = stats.binomtest(2, 5).proportion_ci(method="wilson")
  assert row["fraction_past"][3] == pytest.approx(0.4)
  assert (row["fraction_past_low"][3], row["fraction_past_high"][3]) == pytest.approx(
    tuple(interval), rel=1e-5
  )
  assert row["verdict"] in ("smooth", "not resolved")


@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_seeds_of_one_group(spread):
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 8)
  p_SR = np.clip(0.2 + 0.6 * logistic(x_S, 8.5, 1.0)[:, None] + spread * rng.standard_normal((8, 5)), 0, 1)
  (curve,) = of_rows(of_probabilities(p_SR, x_S, 500, rng), "n_params")
  assert seeds.bimodal_sizes(curve) == []
  # Two runs are no groups, and a gap means nothing without the noise of items.
  two = of_probabilities(p_SR[:, :2], x_S, 500, rng)
  assert seeds.bimodal_sizes(next(of_rows(two, "n_params"))) is None
  unknown = of_probabilities(p_SR, x_S, 500, rng).assign(n_items=np.nan)
  assert seeds.bimodal_sizes(next(of_rows(unknown, "n_params"))) is None


# --- where half are past ------------------------------------------------------------------------------


def pasts(x_S, past_S, runs_S):
  return [Past(*one, 0.0, 1.0) for one in zip(x_S, past_S, runs_S, strict=True)]


def reference(x_S, past_S, runs_S):
  """Returns x50, width and log likelihood of the best logistic, and a profile of it over x50, by scipy."""

  def loss(x50, log_width):
    p_S = np.clip(logistic(x_S, x50, np.exp(log_width)), 1e-12, 1 - 1e-12)  # a finite likelihood everywhere
    return -stats.binom.logpmf(past_S, runs_S, p_S).sum()

  best = min(
    (optimize.minimize(lambda v: loss(*v), (x50, w), method="Nelder-Mead",
                       options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})
     for x50 in x_S for w in (-1, 1)), key=lambda found: found.fun,
  )  # fmt: skip

  def excess(x50):
    widths = optimize.minimize_scalar(lambda w: loss(x50, w), bounds=(-3, 4), method="bounded",
                                      options={"xatol": 1e-9})  # fmt: skip
    return 2 * (widths.fun - best.fun) - seeds._DEVIANCE

  return best.x[0], np.exp(best.x[1]), excess


@pytest.mark.parametrize(
  ("past_S", "runs_S"),
  [
    ((0, 1, 2, 3, 4), (5, 5, 5, 5, 5)),
    ((0, 0, 1, 1, 4, 5, 5), (5, 4, 5, 3, 5, 5, 5)),
    ((0, 2, 1, 3, 2, 3), (3, 3, 3, 3, 3, 3)),
  ],
)
def test_half_are_past_where_an_independent_fit_has_them(past_S, runs_S):
  x_S = np.linspace(3.4, 4.5, len(past_S)) + 0.03 * np.cos(np.arange(len(past_S)))
  past_S, runs_S = np.array(past_S), np.array(runs_S)
  found = seeds.half_past(pasts(x_S, past_S, runs_S))
  x50, width, excess = reference(x_S, past_S, runs_S)
  step = 3 * np.ptp(x_S) / 600
  assert found.x == pytest.approx(x50, abs=step)
  assert found.width == pytest.approx(width, rel=0.15)
  span = np.ptp(x_S)
  for end, far in ((found.low, x_S[0] - span), (found.high, x_S[-1] + span)):
    if end is None:
      assert excess(far) < 0
    else:
      assert end == pytest.approx(optimize.brentq(excess, min(x50, far), max(x50, far)), abs=1.5 * step)
  share_S = seeds.share_past(x_S, found.x, found.width)
  np.testing.assert_allclose(share_S, logistic(x_S, x50, width), atol=0.03)


def test_a_step_is_midway_of_the_sizes_that_it_is_between():
  x_S = np.array([3.0, 3.5, 4.1, 4.7])
  found = seeds.half_past(pasts(x_S, (0, 0, 5, 5), (5,) * 4))
  assert found.x == pytest.approx(3.8, abs=0.01) and found.width == 0
  # Five that have it, of five, where the half would be: 10 log 2 > 5.
  assert 3.5 <= found.low < 3.52 and 4.08 < found.high <= 4.1
  np.testing.assert_array_equal(seeds.share_past(x_S, found.x, found.width), [0, 0, 1, 1])


@pytest.mark.parametrize("past_S", [(5, 4, 3, 1), (1, 1, 1, 1), (0, 0, 0, 1), (4, 4, 4, 5)])
def test_half_are_not_past_at_any_size(past_S):
  assert seeds.half_past(pasts(np.array([3.0, 3.5, 4.0, 4.5]), past_S, (5,) * 4)) is None


def test_what_the_sizes_do_not_bound_has_no_end():
  found = seeds.half_past(pasts(np.array([3.0, 3.5, 4.0, 4.5]), (1, 1, 1, 2), (3,) * 4))
  assert found is not None and found.low is None and found.high is None


def test_the_interval_holds_the_truth_and_that_of_many_runs_would_not(monkeypatch):
  """Of runs that each have it or not; .94 to .97 of 300 curves in experiments/013_emergence_statistics."""
  rng, curves = np.random.default_rng(0), []
  for sizes, runs in ((5, 5), (6, 3), (8, 3)):
    for width in (1.0, 2.2):
      for _ in range(150):
        x_S = np.linspace(6.5, 11, sizes) + rng.uniform(-0.1, 0.1, sizes)
        x50 = rng.uniform(7.5, 10)
        past_S = rng.binomial(runs, logistic(x_S, x50, width))
        curves.append((x50, pasts(x_S, past_S, np.full(sizes, runs))))

  def share_held() -> float:
    found = [(x50, half) for x50, past in curves if (half := seeds.half_past(past))]
    assert len(found) > 500
    return np.mean([(h.low or -np.inf) <= x50 <= (h.high or np.inf) for x50, h in found])

  assert share_held() > 0.945
  monkeypatch.setattr(seeds, "_DEVIANCE", stats.chi2.ppf(0.95, 1))
  assert share_held() < 0.94


def grouped(metric="accuracy", **columns):
  """Returns rows of five seeds that jump one by one, 500 items each."""
  x_S, rng = np.linspace(6, 11, 8), np.random.default_rng(0)
  p_SR = 0.05 + 0.9 * logistic(x_S[:, None], np.array([7.0, 8.0, 8.6, 9.3, 10.0]), 0.1)
  return of_probabilities(p_SR, x_S, 500, rng, metric=metric, **columns)


def test_a_row_tells_where_half_of_its_runs_are_past():
  row = table.analyze(grouped(), bootstrap=20).iloc[0]
  half = seeds.half_past(pasts(np.log10(row["sizes"]), np.array(row["fraction_past"]) * 5, (5,) * 8))
  assert row["past_x50"] == pytest.approx(10**half.x, rel=1e-4)
  assert (row["past_x50_low"], row["past_x50_high"]) == pytest.approx((10**half.low, 10**half.high), rel=1e-4)
  assert row["past_width_decades"] == pytest.approx(half.width, rel=1e-4)
  assert row["past_x50_low"] < 10**8.6 < row["past_x50_high"]
  # One by chance among runs that have nothing is no threshold.
  lone = of_probabilities(np.full((6, 5), 0.25), np.linspace(6, 11, 6), 500, np.random.default_rng(1))
  lone.loc[7, "value"] = 0.6
  (row,) = table.analyze(lone, bootstrap=20).to_dict("records")
  assert row["seeds_bimodal"] is True and row["verdict"] in ("no rise resolved", "below chance resolution")
  assert row["past_x50"] is row["past_x50_low"] is row["past_width_decades"] is None


def test_the_command_tells_it(capsys, tmp_path):
  def told(rows):
    rows[["task", "metric", "seed", "n_params", "value", "n_items", "chance"]].to_csv(path, index=False)
    with pytest.raises(SystemExit) as ended:
      cli.main(["emergence", f"--table={path}", "--bootstrap=20"])
    assert ended.value.code == 0
    return capsys.readouterr().out

  path = tmp_path / "rows.csv"
  (row,) = table.analyze(grouped(), bootstrap=20).to_dict("records")
  text = told(grouped())
  assert "half past at" in text
  assert f"{len(row['bimodal_sizes'])} of 8 sizes; {row['past_x50']:.2g}" in text
  x_S = np.linspace(6, 11, 8)
  p_SR = np.tile(0.3 + 0.6 * logistic(x_S, 8.5, 2.0)[:, None], 5)
  assert "two groups" not in told(of_probabilities(p_SR, x_S, 500, np.random.default_rng(0)))


def test_a_figure_has_the_shares_and_where_half_are_past():
  rows = pd.concat([grouped(family="one"), grouped(family="other <b>")], ignore_index=True)
  rows = table.analyze(rows, bootstrap=20).to_dict("records")
  (ax,) = figure.figure(rows).axes
  assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one, past 0.5", "other <b>, past 0.5"]
  numbers = figure.numbers(rows)
  assert len(numbers) == 16 and list(numbers["share"][:8]) == rows[0]["fraction_past"]
  assert ax.get_xlabel() == "Parameters" and "Accuracy" in ax.get_ylabel()
  bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2]
  np.testing.assert_allclose(bars, [[row["past_x50_low"], row["past_x50_high"]] for row in rows])


def test_the_report_shows_it(tmp_path):
  cells = []
  for s, n in enumerate((1_000, 2_000, 4_000, 8_000, 16_000, 32_000)):
    for seed in range(5):
      cell = synthetic.cell(f"n{n}", n, "<fam>", seed=seed) | {"cell_id": f"n{n}-{seed}"}
      value = 0.26 + 0.01 * seed if seed >= s else 0.93 + 0.01 * seed
      rows = [synthetic.row(cell, "accuracy", value, step=2000, prompt_id="window")]
      synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows)
      cells.append(cell)
  synthetic.write_sweep(tmp_path, cells)
  page = report.write(tmp_path).read_text()
  summary = json.loads((tmp_path / "report/summary.json").read_text())
  (row,) = (row for row in summary["emergence"] if row["metric"] == "accuracy")
  assert row["fraction_past"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
  assert "Runs of one size fall into two groups at 4 of 6 sizes: half of them are past" in summary["told"][0]
  assert "<h3>Two groups: " in page and 'alt="share of runs past, ' in page
  (numbers,) = (tmp_path / "report/tables").glob("seed_groups.*.csv")
  assert list(pd.read_csv(numbers)["share"]) == pytest.approx(row["fraction_past"])
  assert (tmp_path / "report/figures" / numbers.name).with_suffix(".svg").exists()
