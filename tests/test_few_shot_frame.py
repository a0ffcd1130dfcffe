"""What is read of few-shot results: means are recomputed from items, and a bad folder is one line."""

import json

import numpy as np
import pytest
from few_shot_folders import NUM_ITEMS, ask, by_hand, items_of
from few_shot_folders import folder as folder
from few_shot_folders import pixels_only as pixels_only
from few_shot_folders import task as task

from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_report import few_shot_report
from lm_jax.strict import ConfigError


def test_means_are_the_summaries_of_the_run_itself(task, tmp_path):
  rows = ask(tmp_path, task, seeds=(0, 1, 2), templates=("all",))
  means = few_shot_frame.means(few_shot_frame.load(tmp_path)).set_index(["n_shots", "metric"])
  summaries = [row for row in rows if row["prompt_id"] == "all"]
  assert len(summaries) > 10
  for row in summaries:
    mean = means.loc[row["n_shots"], row["metric"]]
    for ours, theirs in (
      ("value", "value"), ("stderr", "stderr"), ("n_items", "n_items"), ("n_seeds", "n_seeds"),
      ("n_templates", "n_templates"), ("chance", "chance"), ("variance_items", "variance_items"),
      ("variance_seeds", "variance_seeds"), ("variance_templates", "variance_templates"),
    ):  # fmt: skip
      expected = np.nan if row[theirs] is None else row[theirs]
      assert mean[ours] == pytest.approx(expected, nan_ok=True), (row["metric"], ours)
  ece = [row for row in rows if row["metric"] == "ece" and row["n_shots"] == 2]
  values = [row["value"] for row in ece]
  assert means.loc[2, "ece"][["value", "low", "high"]].tolist() == pytest.approx(
    [np.mean(values), min(values), max(values)]
  )
  assert np.isnan(means.loc[2, "ece"]["stderr"])


def test_one_cell_is_its_own_row(task, tmp_path):
  rows = ask(tmp_path, task, shots=(2,))
  means = few_shot_frame.means(few_shot_frame.load(tmp_path)).set_index("metric")
  assert len(rows) == len(means)
  for row in rows:
    mean = means.loc[row["metric"]]
    assert (mean["value"], mean["stderr"], mean["n_items"]) == (row["value"], row["stderr"], NUM_ITEMS)


def test_a_missing_seed_leaves_variances_missing(task, tmp_path):
  ask(tmp_path, task, shots=(2,), seeds=(0, 1))
  rows = ask(tmp_path, task, shots=(2,), templates=("words",))
  results = few_shot_frame.load(tmp_path)
  mean = few_shot_frame.means(results).set_index("metric").loc["accuracy"]
  cells = results.rows[results.rows["metric"] == "accuracy"]["value"]
  assert len(rows) and len(cells) == 3 and mean["value"] == pytest.approx(np.mean(cells))
  assert np.isnan(mean["stderr"]) and np.isnan(mean["variance_seeds"])


def test_of_the_same_asked_again_most_items_count(task, tmp_path, pixels_only):
  del pixels_only
  ask(tmp_path, task, shots=(0,))
  (few, *_), (all_of_them, *_) = ask(tmp_path, task, shots=(0,), limit=7), ask(tmp_path, task, shots=(0,))
  results = few_shot_frame.load(tmp_path)
  assert set(results.rows["key"]) == {all_of_them["key"]}
  assert results.left_out[["key", "instead"]].values.tolist() == [[few["key"], all_of_them["key"]]]
  page = few_shot_report.write(tmp_path).read_text()
  assert "1 results are not shown" in page and few["key"] in page


def test_ways_of_asking_stay_apart(task, tmp_path, pixels_only):
  del pixels_only
  gold, flipped = (ask(tmp_path, task, shots=(2,), labels=labels) for labels in ("gold", "flipped"))
  path = tmp_path / "results.jsonl"
  results = few_shot_frame.load(tmp_path)
  assert set(results.rows["series"]) == {"m, labels gold", "m, labels flipped"}
  assert {row["key"] for row in gold + flipped} == set(results.rows["key"])
  # A folder may know other ways of asking, which we have not seen, or none.
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    own = row.pop("labels") == "gold"
    row |= {"order": None if own else "reversed", "label_words": ["no", "yes"] if own else None}
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  results = few_shot_frame.load(tmp_path)
  assert set(results.rows["series"]) == {'m, label words ["no", "yes"]', "m, order reversed"}
  assert few_shot_report.write(tmp_path).exists()
  for row in rows:
    del row["order"], row["label_words"]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["key"] == gold[0]["key"]))
  assert set(few_shot_frame.load(tmp_path).rows["series"]) == {"m"}


def test_names_are_the_ends_of_paths_unless_two_share_it(task, folder, tmp_path):
  assert set(few_shot_frame.load(folder).rows["name"]) == {"small", "large"}
  for name in ("a/model", "b/model"):
    ask(tmp_path, task, name, shots=(0,))
  assert set(few_shot_frame.load(tmp_path).rows["name"]) == {"a/model", "b/model"}


def test_order_is_that_of_sizes_and_not_of_hashes(folder):
  rows = few_shot_frame.load(folder).rows
  assert list(rows["name"].drop_duplicates()) == ["small", "large"]
  assert list(rows["prompt_id"].drop_duplicates()) == ["default", "long", "words"]
  assert rows.loc[rows["n_shots"] == 2, "seed"].drop_duplicates().tolist() == [0, 1, 2]
  assert rows["metric"].iloc[:2].tolist() == ["accuracy", "accuracy_norm"]


def test_most_confident_mistakes(folder):
  results = few_shot_frame.load(folder)
  table = few_shot_frame.mistakes(results, most=5)
  for series in ("small", "large"):
    best, wrong_of = {}, {}
    for key in results.rows.loc[results.rows["series"] == series, "key"].unique():
      items = items_of(folder, key)
      for item, sure, right in zip(items["item"], *by_hand(items), strict=True):
        wrong_of.setdefault(item, []).append(not right)
        if not right:
          best[item] = max(sure, best.get(item, 0))
    own = table[table["series"] == series]
    assert own["confidence"].tolist() == pytest.approx(sorted(best.values(), reverse=True)[:5])
    for row in own.itertuples():
      assert best[row.item] == pytest.approx(row.confidence) and row.gold != row.chosen
      assert (row.n_wrong, row.n_asked) == (sum(wrong_of[row.item]), len(wrong_of[row.item]))
      assert row.n_asked == 3 + 9


BAD = {
  "not JSON": ("results.jsonl", "{", r"results\.jsonl: line 1 is not JSON"),
  "not a row": ("results.jsonl", "[1]", r"line 1 is no row of lm-jax evaluate; it lacks key, model"),
  "a column is absent": ("results.jsonl", '{"key": "a"}', r"it lacks model, task, n_shots"),
  "empty": ("results.jsonl", "", r"results\.jsonl: holds no results yet"),
  "value is a word": ("results.jsonl", None, r"value: must be a number or null in every row"),
  "items are gone": ("items", None, r"parquet: is not there, though results\.jsonl has rows of it"),
  "items are no parquet": ("items", "x", r"parquet: cannot be read as Parquet"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_clear_line(task, tmp_path, case):
  where, text, words = BAD[case]
  rows = ask(tmp_path, task, shots=(0,))
  path = tmp_path / where
  if where == "items":
    path /= f"{rows[0]['key']}.parquet"
    path.unlink() if text is None else path.write_text(text)
  else:
    path.write_text(json.dumps(rows[0] | {"value": "high"}) + "\n" if text is None else text)
  with pytest.raises(ConfigError, match=words) as caught:
    few_shot_frame.load(tmp_path)
  assert "\n" not in str(caught.value)
