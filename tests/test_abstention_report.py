"""Questions without an answer: what is kept of them, and what a report shows."""

import math

import numpy as np
import pandas
import pytest
from unanswerable import ASKED, CHOICE, ROWS, Made, asked, oracle, oracle_writes, random_model, row_of
from unanswerable import make as make

from lm_jax import few_shot_runs, prompt_selection
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_report import few_shot_confidence_figures, few_shot_report
from lm_jax.analysis.figures import plots
from lm_jax.few_shot_settings import Settings

# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_items_are_kept_with_confidence_and_threshold(d, make, tmp_path):
  task = make(d)
  reader = Made(oracle if d is CHOICE else lambda c, a: -1.0 if row_of(c)["a"] else -8.0, oracle_writes)
  rows = few_shot_runs.run(
    random_model(64), Settings((str(tmp_path / "task.yaml"),), seeds=(0, 1), shots=(0, 1)), name="m",
    folder=tmp_path / "w", quiet=True, reader=reader,
  )  # fmt: skip
  by_key = {row["key"] for row in rows if row["key"]}
  assert len(by_key) == 3
  for key in by_key:
    table = pandas.read_parquet(tmp_path / "w" / "items" / f"{key}.parquet")
    own = {row["metric"]: row for row in rows if row["key"] == key}
    assert table["answerable"].sum() == 40 and table["gold"].notna().sum() == (40 if d is CHOICE else 0)
    answered = table["confidence"] >= table["threshold"]
    assert answered.tolist() == table["answerable"].tolist()
    assert own["hallucination_rate"]["value"] == 0 == answered[~table["answerable"]].mean()
    name = task.metrics[0] if task.metrics else "accuracy"
    # Missing and not zero: the mean is of the others.
    assert table[name].isna().tolist() == (~table["answerable"]).tolist()
    assert own[name]["value"] == table[name].mean() == 1
    assert own[name]["n_items"] == 40
  summary = next(row for row in rows if row["key"] is None and row["n_shots"] == 1)
  assert summary["n_items"] == 40


def test_prompts_are_chosen_by_what_has_an_answer(make, tmp_path):
  task = make(CHOICE, list(reversed(ROWS)))
  assert not task.items[0].answerable
  assert "accuracy" in prompt_selection.item_metrics(task)
  written = make(ASKED, list(reversed(ROWS)))
  assert prompt_selection.item_metrics(written) == ("quasi_exact_match", "f1")
  silent = [result for result in asked(task, Made(oracle)) if not result.asked.item.answerable]
  table = pandas.DataFrame([{"item": result.asked.item.id, **result.scores} for result in silent])
  assert prompt_selection.item_scores(table, "accuracy").empty


# --- the report -----------------------------------------------------------------------------------


def kept(make, folder, d):
  """Keeps the results of a reader with opinions of its own, and returns {key: the table of its items}."""
  make(d)
  rng = np.random.default_rng(2)
  noise = {row["q"]: rng.normal(size=3) for row in ROWS}

  def log_p(context, text):
    row = row_of(context)
    return -6 + 2 * (row["label"] is not None) + noise[row["q"]][int(text == " yes")]

  def write(context):
    row = row_of(context)
    return "" if row["q"] == "row 2" else oracle_writes(context) if noise[row["q"]][2] > -0.5 else "no idea"

  few_shot_runs.run(
    random_model(64), Settings((str(folder / "task.yaml"),), shots=(0, 1)), name="m", folder=folder / "w",
    quiet=True, reader=Made(log_p, write),
  )  # fmt: skip
  return few_shot_frame.load(folder / "w")


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_the_figure_shows_confidence_thresholds_and_rates(d, make, tmp_path):
  results = kept(make, tmp_path, d)
  figure = few_shot_confidence_figures.abstention(results, results.rows)
  figure.draw_without_rendering()
  for ax, k in zip(figure.axes, (0, 1), strict=True):
    rows = results.rows[results.rows["n_shots"] == k].set_index("metric")
    items = results.items[rows["key"].iloc[0]]
    dotted = sorted(line.get_xdata()[0] for line in ax.lines)
    assert dotted == sorted(items["threshold"].unique()) and len(dotted) == 2
    for patch, kind in zip(ax.patches, (True, False), strict=True):
      sure = items.loc[items["answerable"] == kind, "confidence"].to_numpy()
      x, y = patch.get_xy().T
      counts, _ = np.histogram(sure[np.isfinite(sure)], np.unique(x))
      # The outline goes up and down at the edges, from 0 to 0.
      np.testing.assert_allclose(y[1:-1:2], counts / len(sure))
    (text,) = (text.get_text() for text in ax.texts)
    assert f"AUROC {rows.loc['abstention_auroc', 'value']:.3f}" in text
    assert f"silent {rows.loc['abstention_rate', 'value']:.0%}" in text
    assert f"hallucinates {rows.loc['hallucination_rate', 'value']:.0%}" in text
  assert ("without words" in " ".join(figure.get_supxlabel().split())) == (d is ASKED)
  answers = few_shot_frame.abstention(items)
  assert 1 - answers["answered"].mean() == pytest.approx(rows.loc["abstention_rate", "value"])


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_answers_that_there_are_not_are_mistakes(d, make, tmp_path):
  results = kept(make, tmp_path, d)
  mistakes = few_shot_frame.mistakes(results, most=100)
  made_up = mistakes[mistakes["gold"].isna()].set_index("item")
  tables = [table.set_index("item") for table in results.items.values()]
  expected = {}
  for table in tables:
    silent = table[~table["answerable"]]
    for item, row in silent[silent["confidence"] >= silent["threshold"]].iterrows():
      expected[item] = max(expected.get(item, -math.inf), row["confidence"])
  assert 0 < len(expected) < 20
  assert made_up["confidence"].to_dict() == pytest.approx(expected)
  assert set(made_up["n_asked"]) == {2}
  for item, row in made_up.iterrows():
    own = tables[0].loc[item]
    assert row["chosen"] == (np.argmax(own["log_p"]) if d is CHOICE else own["written"][0])
  others = mistakes[mistakes["gold"].notna()]
  assert (len(others) > 0) == (d is CHOICE) and (others["gold"] != others["chosen"]).all()


def test_the_page_has_the_figure_of_such_tasks_and_says_nothing_of_others(make, tmp_path, monkeypatch):
  monkeypatch.setattr(plots, "FORMATS", ("png",))
  kept(make, tmp_path, ASKED)
  page = few_shot_report.write(tmp_path / "w")
  assert (page.parent / "figures" / "abstention.task.png").is_file()
  text = page.read_text()
  assert "Confidence in answers to questions that have one" in text and "Hallucination rate" in text
  assert "something" in text.partition("Most confident mistakes")[2]
  (tmp_path / "plain").mkdir()
  make(CHOICE | {"answerable": "true"}, [row for row in ROWS if row["a"]])
  settings = Settings((str(tmp_path / "task.yaml"),))
  few_shot_runs.run(
    random_model(64), settings, name="m", folder=tmp_path / "plain", quiet=True, reader=Made(oracle)
  )
  text = few_shot_report.write(tmp_path / "plain").read_text()
  assert "that have none" not in text and "Hallucination" not in text
