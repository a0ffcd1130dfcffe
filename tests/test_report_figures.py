"""The figures at rest: their CSV holds what they draw, intervals and envelopes are as defined."""

import io

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from scipy import stats

from lm_jax.analysis import frame, seed_intervals
from lm_jax.analysis.figures import figure_parts, plots, run_plots, size_plots
from lm_jax.analysis.report import report


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("ladder")
  synthetic.realistic(workdir)
  return frame.load(workdir)


def heights(figure):
  """Returns every height at which a figure has drawn a point of data."""
  found = []
  for ax in figure.axes:
    for line in ax.lines:
      found.append(np.asarray(line.get_ydata(), float))
    for collection in ax.collections:
      if isinstance(collection, PathCollection):
        found.append(np.asarray(collection.get_offsets(), float)[:, 1])
      elif isinstance(collection, LineCollection) and len(collection.get_segments()[0]) > 2:
        found += [segment[:, 1] for segment in collection.get_segments()]
  values = np.concatenate(found)
  return np.unique(values[np.isfinite(values)].round(9))


def test_numbers_of_a_figure_are_what_it_draws(study):
  stems = set()
  for drawing in plots.drawings(study):
    back = pd.read_csv(io.StringIO(drawing.numbers.to_csv(index=False)))
    values = np.unique(back["value"].dropna().to_numpy().round(9))
    drawn = heights(drawing.figure)
    np.testing.assert_allclose(drawn, values, rtol=0, atol=1e-8, err_msg=drawing.stem)
    stems.add(drawing.stem)
  assert {"accuracy_vs_params", "seeds_by_size", "best_vs_flops", "loss_curves"} <= stems


def test_report_writes_a_table_beside_each_figure(study):
  report.write(study.workdir)
  folder = study.workdir / "report"
  stems = {path.stem for path in (folder / "figures").glob("*.png")}
  tables = {path.stem for path in (folder / "tables").glob("*.csv")}
  assert len(stems) == 9 and tables == stems | {"cells", "final", "emergence"}
  scaling = pd.read_csv(folder / "tables" / "accuracy_vs_params.csv")
  seeds = scaling[(scaling["kind"] == "seed") & (scaling["family"] == "decoder")]
  final = frame.final(study)
  expected = final[
    (final["metric"] == "accuracy") & (final["shots"] == "window") & (final["family"] == "decoder")
  ]
  pd.testing.assert_series_equal(
    seeds.set_index("cell_id")["value"].sort_index(), expected.set_index("cell_id")["value"].sort_index(),
    check_index_type=False, check_dtype=False,
  )  # fmt: skip
  (folder / "tables" / "nll_vs_params.csv").write_text("of an earlier report\n")
  report.write(study.workdir)
  assert not (folder / "tables" / "nll_vs_params.csv").exists()


def test_interval_over_seeds_is_the_t_interval():
  rng = np.random.default_rng(0)
  values = {"a": rng.normal(size=7), "b": rng.normal(3, 2, size=2), "c": rng.normal(size=1)}
  table = pd.DataFrame([(k, v) for k, own in values.items() for v in own], columns=["label", "value"])
  found = seed_intervals.means(table, ["label"]).set_index("label")
  for label in ("a", "b"):
    expected = stats.ttest_1samp(values[label], 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.loc[label, ["low", "high"]].astype(float), expected, rtol=1e-12)
    assert found.loc[label, "value"] == pytest.approx(values[label].mean())
  assert found.loc["c", "value"] == values["c"][0] and found.loc["c", ["low", "high"]].isna().all()


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_envelope_is_the_best_at_this_compute(direction):
  rng = np.random.default_rng(1)
  x, y = rng.integers(1, 20, size=60).astype(float), rng.normal(size=60).round(1)
  sign = 1 if direction == "higher" else -1
  # By the definition: no point of as little compute is as good, but those of the same compute and value.
  expected = {
    (a, b) for a, b in zip(x, y, strict=True)
    if not any((sign * v > sign * b and u <= a) or (v == b and u < a) for u, v in zip(x, y, strict=True))
  }  # fmt: skip
  places = run_plots.envelope(x, y, direction)
  assert {(x[i], y[i]) for i in places} == expected and len(places) == len(expected)
  assert (np.diff(x[places]) > 0).all() and (sign * np.diff(y[places]) > 0).all()


def test_best_line_is_the_greatest_so_far(study):
  curves = frame.evaluations(study)
  numbers = figure_parts.Numbers()
  run_plots.pareto_figure(study, curves, "rule_induction", "accuracy", numbers)
  table = numbers.table()
  best = table[table["kind"] == "best"]
  own = curves[(curves["metric"] == "accuracy") & (curves["shots"] == "window") & (curves["flops_exact"] > 0)]
  for row in best.itertuples():
    assert row.value == own.loc[own["flops_exact"] <= row.flops_exact, "value"].max()


def test_a_line_joins_sizes_that_were_trained_in_one_way(study, tmp_path):
  synthetic.two_ways(tmp_path)
  several = frame.load(tmp_path)
  figures = {}
  for name, own in (("one", study), ("two", several)):
    rows = frame.final(own)
    ax = size_plots.scaling_figure(
      own, rows, "rule_induction", "accuracy", "params_total", figure_parts.Numbers()
    ).axes[0]
    figures[name] = ax
  marks = [line for line in figures["two"].lines if len(line.get_xdata()) == 8]
  assert len(marks) == 1 and marks[0].get_linestyle() == "None" and marks[0].get_marker() == "o"
  assert not any(isinstance(c, PolyCollection) and c.get_paths() for c in figures["two"].collections)
  bars = [c for c in figures["two"].collections if isinstance(c, LineCollection)]
  assert sum(len(c.get_segments()) for c in bars) == 8  # an interval a mean of two seeds
  names = [t.get_text() for t in figures["two"].child_axes[0].get_xticklabels()]
  assert names == ["d8 L2", "d16 L2", "d32 L2", "d64 L2"]
  assert "not joined" in " ".join(t.get_text().replace("\n", " ") for t in figures["two"].texts)
  assert any(line.get_linestyle() == "-" for line in figures["one"].lines)
  assert any(isinstance(c, PolyCollection) and c.get_paths() for c in figures["one"].collections)
