"""Figures of few-shot results show what the results say: what is drawn is recomputed from items."""

import numpy as np
import pytest
from few_shot_folders import NUM_ITEMS, ask, by_hand, drawn, items_of, lines
from few_shot_folders import folder as folder
from few_shot_folders import loaded as loaded
from few_shot_folders import pixels_only as pixels_only
from few_shot_folders import task as task
from scipy import special

from lm_jax import confidence, uncertainty
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_report import (
  few_shot_confidence_figures,
  few_shot_figures,
  few_shot_look,
  few_shot_report,
)

BINS = 10


def test_scores_against_shots(loaded):
  results, means = loaded
  figure = few_shot_figures.against_shots(results.rows, means, ["accuracy", "choice_prob"])
  for ax, metric in zip(drawn(figure).axes, ("accuracy", "choice_prob"), strict=True):
    assert len(lines(ax, 0.5)) == 2 * 9  # models; seeds and templates
    for container, series in zip(ax.containers, ("small", "large"), strict=True):
      keys = results.rows.loc[results.rows["series"] == series].drop_duplicates("key")
      expected = [
        np.mean([results.items[key][metric].mean() for key in keys.loc[keys["n_shots"] == k, "key"]])
        for k in (0, 2)
      ]
      line, _, (bars,) = container
      assert line.get_xdata().tolist() == [0, 2] and line.get_ydata() == pytest.approx(expected)
      own = means[(means["series"] == series) & (means["metric"] == metric)].sort_values("n_shots")
      half = [np.diff(segment[:, 1]).item() / 2 for segment in bars.get_segments()]
      assert half == pytest.approx(own["stderr"].tolist())
      low, high = ax.get_ylim()
      assert all(low <= y <= high for segment in bars.get_segments() for y in segment[:, 1])
    assert [line.get_ydata()[0] for line in lines(ax, 0.9)] == [0.5]  # chance
  assert "60 items" in figure._supxlabel.get_text()
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]


def test_reliability_diagram(folder, loaded):
  calibration = pytest.importorskip("sklearn.calibration")
  results, _ = loaded
  figure = drawn(few_shot_confidence_figures.reliability(results, results.rows))
  rows = results.rows[(results.rows["prompt_id"] == "default") & (results.rows["seed"].fillna(0) == 0)]
  for i, series in enumerate(("small", "large")):
    for j, k in enumerate((0, 2)):
      ax, below = figure.axes[4 * i + j], figure.axes[4 * i + 2 + j]
      cell = rows[(rows["series"] == series) & (rows["n_shots"] == k)].set_index("metric")
      sure, right = by_hand(items_of(folder, cell["key"].iloc[0]))
      accuracy, mean = calibration.calibration_curve(right, sure, n_bins=BINS, strategy="quantile")
      ((line, _, (bars,)),) = ax.containers
      np.testing.assert_allclose(line.get_xydata(), np.stack([mean, accuracy], 1))
      for segment, share in zip(bars.get_segments(), accuracy, strict=True):
        assert segment[:, 1] == pytest.approx(_wilson(share, NUM_ITEMS // BINS))
      assert f"ECE {cell.loc['ece', 'value']:.3f}" in [text.get_text() for text in ax.texts]
      assert sum(bar.get_height() for bar in below.patches) == NUM_ITEMS
      assert len(lines(ax, 0.5)) == (2 if k == 0 else 8)  # other seeds and templates


def _wilson(share, n, z=1.959963984540054):
  middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  return [middle - half, middle + half]


def test_selective_accuracy(folder, loaded):
  results, _ = loaded
  figure = drawn(few_shot_confidence_figures.selective(results, results.rows))
  for ax, k in zip(figure.axes, (0, 2), strict=True):
    for line, series in zip(lines(ax, 1.4), ("small", "large"), strict=True):
      own = results.rows[(results.rows["series"] == series) & (results.rows["n_shots"] == k)]
      curves = []
      for key in own["key"].unique():
        sure, right = by_hand(items_of(folder, key))
        curves.append(np.cumsum(right[np.argsort(-sure)]) / np.arange(1, NUM_ITEMS + 1))
      np.testing.assert_allclose(line.get_xdata(), np.arange(1, NUM_ITEMS + 1) / NUM_ITEMS)
      np.testing.assert_allclose(line.get_ydata(), np.mean(curves, 0))
      metrics = own.groupby("metric")["value"].mean()
      assert line.get_ydata()[-1] == pytest.approx(metrics["accuracy"])
      assert line.get_label() == f"AURC {metrics['aurc']:.3f}"
      assert f"{1 - np.mean(curves):.3f}" == f"{metrics['aurc']:.3f}"
    assert [line.get_ydata()[0] for line in lines(ax, 0.9)] == [0.5]


def test_spread_over_prompts(loaded):
  results, _ = loaded
  figure = drawn(few_shot_figures.over_prompts(results, results.rows, "accuracy"))
  above, below = figure.axes[1], figure.axes[3]
  own = results.rows[(results.rows["n_shots"] == 2) & (results.rows["metric"] == "accuracy")]
  dots = [line for line in above.lines if line.get_linestyle() == "None"]
  for line, series in zip(dots, ("small", "large"), strict=True):
    assert sorted(line.get_xdata()) == sorted(own.loc[own["series"] == series, "value"])
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert names == list(results.rows["prompt_id"].drop_duplicates()) and len(names) == 3
  widths = [bar.get_width() for bar in below.patches]
  expected = []
  for series in ("small", "large"):
    cells = own[own["series"] == series]
    score_NST = np.array([
      [
        results.items[cells.loc[(cells["seed"] == seed) & (cells["prompt_id"] == name), "key"].item()]
        .set_index("item")["accuracy"].sort_index()
        for name in names
      ]
      for seed in (0, 1, 2)
    ]).transpose(2, 0, 1)  # fmt: skip
    v = uncertainty.variance_components(score_NST)
    expected += [np.sqrt(max(x, 0)) for x in (v.template, v.seed, v.seed_template)]
    expected.append(few_shot_figures.standard_deviations(v)["items"])
  assert widths == pytest.approx(expected)
  once = results.rows[(results.rows["prompt_id"] == "default") & results.rows["seed"].isin([0])]
  assert few_shot_figures.over_prompts(results, once, "accuracy") is None


def test_standard_deviations_are_those_that_scores_are_made_with():
  rng = np.random.default_rng(0)
  N, S, T, sd = 200, 60, 60, {"seed": 0.2, "template": 0.4, "seed_template": 0.1, "items": 0.05}
  score_NST = (
    sd["seed"] * rng.standard_normal((1, S, 1)) + sd["template"] * rng.standard_normal((1, 1, T))
    + sd["seed_template"] * rng.standard_normal((1, S, T))
    + sd["items"] * np.sqrt(N / 2) * rng.standard_normal((N, 1, 1))
    + sd["items"] * np.sqrt(N / 2) * rng.standard_normal((N, S, T))
  )  # fmt: skip
  found = few_shot_figures.standard_deviations(uncertainty.variance_components(score_NST))
  assert found == pytest.approx(sd, rel=0.25)
  alone = few_shot_figures.standard_deviations(uncertainty.variance_components(score_NST[:, :1, :]))
  assert set(alone) == {"template", "items"}


def test_scores_against_parameters(loaded):
  _, means = loaded
  figure = drawn(few_shot_figures.against_size(means, ["accuracy", "nll"]))
  for ax, metric in zip(figure.axes, ("accuracy", "nll"), strict=True):
    for (line, *_), k in zip(ax.containers, (0, 2), strict=True):
      own = means[(means["metric"] == metric) & (means["n_shots"] == k)].sort_values("params_total")
      assert line.get_xdata().tolist() == own["params_total"].tolist()
      assert line.get_ydata().tolist() == own["value"].tolist()
  assert len(set(means["params_total"])) == 2
  assert few_shot_figures.against_size(means[means["series"] == "small"], ["accuracy"]) is None
  assert few_shot_figures.against_step(means, ["accuracy"]) is None


def test_scores_against_steps_and_only_the_last_step_is_compared(task, tmp_path, pixels_only):
  del pixels_only
  for step, skill in ((10, 0.1), (20, 1.0), (40, 3.0)):
    ask(tmp_path, task, "run", skill, step=step)
  results = few_shot_frame.load(tmp_path)
  means = few_shot_frame.means(results)
  figure = drawn(few_shot_figures.against_step(means, ["accuracy"]))
  (ax,) = figure.axes
  values = []
  for (line, *_), k in zip(ax.containers, (0, 2), strict=True):
    own = means[(means["metric"] == "accuracy") & (means["n_shots"] == k)].set_index("step")["value"]
    assert line.get_xdata().tolist() == [10, 20, 40]
    assert line.get_ydata().tolist() == [own[step] for step in (10, 20, 40)]
    values.append(own)
  assert values[0][40] > values[0][10]
  assert set(few_shot_frame.last_steps(results.rows)["step"]) == {40}
  page = few_shot_report.write(tmp_path)
  assert (page.parent / "figures/score_vs_step.small.png").exists()
  assert "<td" in page.read_text() and ">Step<" in page.read_text()


def test_a_discontinuous_metric_stands_beside_a_continuous_one():
  assert few_shot_look.pair(["accuracy", "nll", "choice_prob", "ece"]) == ["accuracy", "choice_prob"]
  assert few_shot_look.pair(["exact_match", "nll"]) == ["exact_match", "nll"]
  assert few_shot_look.pair(["rougeL", "exact_match", "f1"]) == ["exact_match", "f1"]
  assert few_shot_look.pair(["bleu", "chrf"]) == ["chrf", "bleu"]
  assert few_shot_look.pair(["recall_at_1", "recall_at_5"]) == ["recall_at_1", "recall_at_5"]
  assert few_shot_look.pair(["pass_at_1"]) == ["pass_at_1"]


def test_a_few_of_many_numbers_of_shots_hold_both_ends():
  assert few_shot_look.some([4, 0, 1]) == [0, 1, 4]
  assert few_shot_look.some(range(9)) == [0, 3, 5, 8]


def test_answers_are_the_choices_with_the_largest_p(loaded):
  results, _ = loaded
  for items in results.items.values():
    found = few_shot_frame.answers(items)
    p = special.softmax(np.stack(items["log_p"]), axis=1)
    assert found["confidence"].tolist() == pytest.approx(p.max(1).tolist())
    assert (found["correct"] == (items["accuracy"] == 1)).all()
    ece = confidence.expected_calibration_error(found["confidence"].to_numpy(), found["correct"].to_numpy())
    key = next(key for key, table in results.items.items() if table is items)
    rows = results.rows[(results.rows["key"] == key) & (results.rows["metric"] == "ece")]
    assert rows["value"].item() == pytest.approx(ece)
