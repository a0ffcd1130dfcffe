"""A model asked with many settings: what fits is asked whole, kept, and computed once."""

import dataclasses
import json

import jax
import numpy as np
import pandas
import pytest
from few_shot_readers import CONTEXT, Reading, by_metric
from few_shot_readers import definition as definition
from few_shot_readers import model as model

from lm_jax import few_shot, few_shot_prompts, few_shot_runs, prompt_tasks, strict, uncertainty
from lm_jax.few_shot_settings import Settings
from lm_jax.prompt_tasks import FewShotTask, Item, items
from lm_jax.reader import ModelReader
from lm_jax.strict import ConfigError

# --- what fits ------------------------------------------------------------------------------------


def test_what_is_too_long_loses_whole_demonstrations_and_nothing_else(model):
  task, reader = prompt_tasks.association(), ModelReader(model)
  asked = few_shot.plan(task, reader, (0, 2, 8), 20, 0)
  assert {one.shots for one in asked} == {0, 2, 8}
  for one in asked:
    all_of_them = task.demonstrations(one.item, one.shots, 0)
    left = list(one.demonstrations)
    assert left == all_of_them[len(all_of_them) - len(left) :]
    assert one.contexts == (task.context(one.item, left),)
    longest = max(len(one.contexts[0] + choice) for choice in one.item.choices)
    assert longest <= CONTEXT  # and one token before, and one that is not read
    if len(left) < len(all_of_them):
      more = task.context(one.item, all_of_them[-len(left) - 1 :])
      assert max(len(more + choice) for choice in one.item.choices) > CONTEXT
  assert all(len(one.demonstrations) == one.shots for one in asked if not one.shots)
  assert any(0 < len(one.demonstrations) < 8 for one in asked)
  requests = [(one.contexts[0], choice) for one in asked for choice in one.item.choices]
  assert {found.cut for found in reader.loglikelihood(requests)} == {0}


def test_a_query_that_is_too_long_is_missing_and_not_cut(model):
  items = (Item("short", "q:", (" a", " b"), 0), Item("long", "q" * CONTEXT, (" a", " b"), 1))
  task, reader = FewShotTask("lengths", items, items), ModelReader(model)
  asked = few_shot.plan(task, reader, (0,), None, 0)
  assert {one.item.id: one.demonstrations for one in asked} == {"short": (), "long": None}
  (result,) = few_shot.ask(task, reader, asked)
  assert result.asked.item.id == "short"
  with pytest.raises(ConfigError, match=r"task 'lengths': 1 prompts are too long .*0 shots"):
    few_shot.plan(task, reader, (0,), None, 0, "refuse")
  nothing = few_shot.means(task, [], 0)
  assert [(score.metric, score.value, score.n_items) for score in nothing] == [("accuracy", None, 0)]


# --- what is kept ---------------------------------------------------------------------------------


def test_nothing_is_computed_twice(model, definition, tmp_path):
  folder, reader = tmp_path / "results", Reading()
  settings = Settings((str(definition),), shots=(0, 2), seeds=(0, 1))
  first = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)
  # Ten items of two choices: once without demonstrations, and for each seed with them.
  assert reader.asked == 3 * 20
  cells = [row for row in first if row["key"]]
  assert {(row["n_shots"], row["seed"]) for row in cells} == {(0, None), (2, 0), (2, 1)}
  again = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)
  assert again == first and reader.asked == 60
  more = dataclasses.replace(settings, shots=(0, 1, 2))
  found = few_shot_runs.run(model, more, name="m", folder=folder, quiet=True, reader=reader)
  assert reader.asked == 100
  assert [row for row in found if row["n_shots"] != 1] == first
  table = pandas.read_json(folder / "results.jsonl", lines=True)
  assert set(table["key"]) == {row["key"] for row in found} - {None}
  assert len(table) == sum(row["key"] is not None for row in found)
  others = dataclasses.replace(model, identity={"test": 2})
  few_shot_runs.run(others, settings, name="o", folder=folder, quiet=True, reader=reader)
  assert reader.asked == 160
  lines = definition.read_text()
  definition.write_text(lines.replace("T:", "Text:"))
  few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)
  assert reader.asked == 220


def test_a_cell_without_its_rows_is_computed_again(model, definition, tmp_path):
  folder, reader = tmp_path / "results", Reading()
  settings = Settings((str(definition),))
  first = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)
  (folder / "cells" / f"{first[0]['key']}.json").unlink()
  again = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)
  assert again == first and reader.asked == 40
  # One that is deleted while others are put together is seen, and cannot be read any more.
  (folder / "cells" / "deleted.json").symlink_to(folder / "nothing")
  assert few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader) == first
  (folder / "cells" / f"{first[0]['key']}.json").write_text("[")
  with pytest.raises(ConfigError, match=r"cells/.*\.json: is not JSON .*delete it"):
    few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)


def test_every_item_is_kept_with_what_it_scored(model, definition, tmp_path):
  folder = tmp_path / "results"
  settings = Settings((str(definition),), shots=(2,))
  rows = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=Reading())
  items = pandas.read_parquet(folder / "items" / f"{rows[0]['key']}.parquet")
  assert len(items) == 10 and items["prompt_hash"].is_unique
  for name in ("accuracy", "nll", "choice_prob", "brier"):
    row = by_metric(rows)[name]
    assert row["value"] == pytest.approx(items[name].mean())
    assert row["stderr"] == pytest.approx(items[name].std() / np.sqrt(10))
  best = items["log_p"].map(np.argmax) == items["gold"]
  assert (best == items["accuracy"]).all()
  assert all(len(ids) == 2 for ids in items["demonstrations"])


def test_all_models_see_the_same_prompts_in_any_order_of_rows(model, definition, tmp_path):
  settings = Settings((str(definition),), shots=(3,))
  runs = {}
  for name, reverse in (("a", False), ("b", True)):
    if reverse:
      path = definition.parent / "rows.jsonl"
      path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    given = dataclasses.replace(model, identity={"name": name})
    rows = few_shot_runs.run(given, settings, name=name, folder=tmp_path / name, quiet=True, reader=Reading())
    items = pandas.read_parquet(tmp_path / name / "items" / f"{rows[0]['key']}.parquet")
    runs[name] = (set(items["prompt_hash"]), {row["metric"]: row["value"] for row in rows})
  assert runs["a"][0] == runs["b"][0]
  assert runs["a"][1] == pytest.approx(runs["b"][1])


def test_items_seeds_and_templates_vary_apart(model, definition, tmp_path):
  with definition.open("a") as file:
    file.write('templates: {words: {choices: [awful, great]}, long: {query: "Text: {{text}}\\nLabel:"}}\n')
  settings = Settings((str(definition),), shots=(0, 2), seeds=(0, 1, 2, 3), templates=("all",))
  folder = tmp_path / "results"
  rows = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=Reading())
  nothing_new = Reading()
  assert few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=nothing_new) == rows
  assert nothing_new.asked == 0
  all_of_them = {(row["n_shots"], row["metric"]): row for row in rows if row["prompt_id"] == "all"}
  for shots, num_seeds in ((0, 1), (2, 4)):
    row = all_of_them[shots, "nll"]
    assert (row["n_items"], row["n_seeds"], row["n_templates"]) == (10, num_seeds, 3)
    parts = [one for one in rows if one["n_shots"] == shots and one["metric"] == "nll" and one["key"]]
    assert len(parts) == 3 * num_seeds
    assert row["value"] == pytest.approx(np.mean([one["value"] for one in parts]))
    cubes = [
      [
        pandas.read_parquet(folder / "items" / f"{one['key']}.parquet").set_index("item")["nll"].sort_index()
        for one in sorted(parts, key=lambda one: one["prompt_id"])
        if one["seed"] == seed
      ]
      for seed in dict.fromkeys(one["seed"] for one in parts)
    ]
    expected = uncertainty.variance_components(np.array(cubes).transpose(2, 0, 1))
    assert row["variance_items"] == pytest.approx(expected.item)
    assert row["variance_seeds"] == (None if shots == 0 else pytest.approx(expected.seed))
    assert row["variance_templates"] == pytest.approx(expected.template)
    assert row["stderr"] == pytest.approx(expected.stderr)
  one_way = dataclasses.replace(settings, seeds=(0,), templates=("default",))
  found = few_shot_runs.run(model, one_way, name="m", folder=folder, quiet=True, reader=Reading())
  assert all(row["key"] for row in found)


def test_calibration_takes_off_what_a_model_prefers_without_content(model, definition, tmp_path):
  """A model that knows the answers, but has 3 nats more for `good` than for `bad` after any query."""
  definition.write_text(definition.read_text() + "content: text\n")
  task = prompt_tasks.make(str(definition))
  right = {item.query: item.choices[item.gold] for item in task.items}

  class Biased(Reading):
    def _log_p(self, context, choice):
      query = next((query for query in right if context.endswith(query)), None)
      return 3 * (choice == " good") + (right.get(query) == choice) - 10

  settings = Settings((str(definition),), shots=(2,), calibrate=True)
  rows = few_shot_runs.run(model, settings, name="m", quiet=True, reader=(reader := Biased()))
  assert reader.asked == 10 * 2 * 5
  found = {row["metric"]: row["value"] for row in rows}
  assert (found["accuracy"], found["accuracy_calibrated"]) == (0.5, 1)
  # Without the preference the right one has 1 nat more.
  assert found["choice_prob_calibrated"] == pytest.approx(1 / (1 + np.exp(-1)))
  neutral = task.items[0].neutral
  assert neutral == ("T: N/A\nL:", "T: [MASK]\nL:", "T: \nL:")
  plain = few_shot_runs.run(model, dataclasses.replace(settings, calibrate=False), name="m", quiet=True,
                            reader=Biased())  # fmt: skip
  assert {row["metric"] for row in rows} - {row["metric"] for row in plain} == {
    "accuracy_mutual_info", "accuracy_calibrated", "choice_prob_calibrated",
  }  # fmt: skip


def test_labels_of_demonstrations_are_a_control(model):
  task = few_shot.make("association")
  asked = {
    labels: few_shot.plan(task, Reading(), (0, 8), 50, 1, labels=labels)
    for labels in ("gold", "random", "flipped")
  }
  agree = {}
  for labels, those in asked.items():
    assert [one.item for one in those] == [one.item for one in asked["gold"]]
    right = {item.id: item.gold for item in task.pool}
    shown = [other for one in those for other in one.demonstrations]
    assert [other.id for other in shown] == [o.id for one in asked["gold"] for o in one.demonstrations]
    agree[labels] = np.mean([other.gold == right[other.id] for other in shown])
    assert all(
      one.contexts[0] == asked["gold"][i].contexts[0] for i, one in enumerate(those) if not one.shots
    )
    assert all(other.answered in one.contexts[0] for one in those for other in one.demonstrations)
  assert (agree["gold"], agree["flipped"]) == (1, 0)
  assert abs(agree["random"] - 1 / 4) < 0.1  # one draw an item of the pool, of 200
  lambada = FewShotTask(
    "words", task.items, tuple(dataclasses.replace(i, choices=(" a",), gold=0) for i in task.pool)
  )
  with pytest.raises(ConfigError, match=r"labels='random': .* has no choices"):
    few_shot.plan(lambada, Reading(), (1,), 1, 0, labels="random")
  settings = Settings(("association",), shots=(2,), limit=3)
  keys = [
    few_shot_runs.run(
      model, dataclasses.replace(settings, labels=labels), name="m", quiet=True, reader=Reading()
    )[0]
    for labels in asked
  ]
  assert len({row["key"] for row in keys}) == 3 and [row["labels"] for row in keys] == list(asked)


def test_what_a_model_had_to_cut_is_missing(definition):
  class Cutting(Reading):
    def loglikelihood(self, requests, progress=None):
      found = super().loglikelihood(requests)
      cut = [int(context.endswith("row 3\nL:") and choice == " good") for context, choice in requests]
      return [dataclasses.replace(one, cut=n) for one, n in zip(found, cut, strict=True)]

  task = prompt_tasks.make(str(definition))
  results = few_shot.ask(task, Cutting(), few_shot.plan(task, Reading(), (0,), None, 0))
  assert {r.asked.item.query for r in results} == {item.query for item in task.items} - {"T: row 3\nL:"}
  assert few_shot.means(task, results, 0)[0].n_items == 9


def test_shorter_answers_leave_more_room(model, tmp_path):
  """A prompt of 100 tokens, in a context of 160, with an answer of 64 by its task or of 40 by the flag."""
  (tmp_path / "rows.jsonl").write_text(json.dumps({"q": "x" * 99, "a": "y"}) + "\n")
  path = tmp_path / "written.yaml"
  path.write_text("kind: generation\ntest: rows.jsonl\nquery: '{{q}}'\nanswer: '{{a}}'\n")
  told, found = [], {}
  for most in (None, 40):
    settings = Settings((str(path),), max_new_tokens=most)
    rows = few_shot_runs.run(model, settings, name="m", quiet=True, report=told.append)
    found[most] = {
      (row["n_items"], row["n_left_out"], row["key"]) for row in rows if row["metric"] == "exact_match"
    }
  ((*none, key),), ((*one, other),) = found[None], found[40]
  assert (none, one) == ([0, 1], [1, 0]) and key != other
  assert told == ["written, 0 shots: 1 of 1 items are too long for the model with 64 tokens of an answer"]


def test_nothing_fits_and_that_is_kept(model, tmp_path):
  (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "x" * CONTEXT, "label": 0}) + "\n")
  path = tmp_path / "long.yaml"
  path.write_text("test: rows.jsonl\nquery: '{{text}}'\nchoices: [bad, good]\ngold: label\n")
  settings, told = Settings((str(path),)), []
  for _ in range(2):
    (row,) = few_shot_runs.run(
      model, settings, name="m", folder=tmp_path / "w", quiet=True, report=told.append
    )
    assert (row["metric"], row["value"], row["n_items"], row["n_left_out"]) == ("accuracy", None, 0, 1)
  assert told == ["long, 0 shots: 1 of 1 items are too long for the model"]


def test_batches_and_shots_in_one_pass_change_no_score(model):
  task = prompt_tasks.association()
  together = few_shot.evaluate(task, ModelReader(model), (0, 1), 12, 0)
  apart = [
    score for k in (0, 1) for score in few_shot.evaluate(task, ModelReader(model), (k,), 12, 0)
  ]  # fmt: skip
  values = [[score.value for score in scores] for scores in (together, apart)]
  np.testing.assert_allclose(*values, rtol=2e-5, atol=1e-6)


def test_devices_do_not_change_scores(model):
  # Parameters stand on one device, whatever there are.
  task, scores = prompt_tasks.association(), []
  for device in jax.devices()[:2]:
    placed = dataclasses.replace(model, params=jax.device_put(model.params, device))
    scores.append([s.value for s in few_shot.evaluate(task, ModelReader(placed), (0,), 6, 0)])
  np.testing.assert_allclose(*scores, rtol=1e-6)


# --- other words, other orders --------------------------------------------------------------------


def words_and_prompts(asked):
  return [(one.item.id, one.contexts, one.item.choices, one.item.gold) for one in asked]


@pytest.mark.parametrize(("template", "words"), [("default", "bad|good"), ("question", "not my taste|fine")])
def test_label_words_are_those_of_a_task_defined_with_them(shared, tmp_path, template, words):
  del shared
  d = prompt_tasks.define("mr")
  t = dataclasses.replace(d.template(template), choices=tuple(words.split("|")))
  own = {f.name: getattr(t, f.name) for f in dataclasses.fields(t)}
  defined = prompt_tasks.build(dataclasses.replace(d, templates={}, **own))
  renamed = prompt_tasks.with_label_words(prompt_tasks.make("mr", template), words)
  plans = [
    few_shot.plan(task, Reading(), (0, 4), 30, 1, labels=labels)
    for task in (renamed, defined)
    for labels in ("gold", "flipped")
  ]
  assert words_and_prompts(plans[0]) == words_and_prompts(plans[2])
  assert words_and_prompts(plans[1]) == words_and_prompts(plans[3]) != words_and_prompts(plans[0])
  neutral = [few_shot_prompts.neutral_contexts(task, plan[-1]) for task, plan in
             ((renamed, plans[0]), (defined, plans[2]))]  # fmt: skip
  assert neutral[0] == neutral[1] and len(neutral[0]) == 3
  first = prompt_tasks.make("mr", template)
  assert [item.id for item in renamed.sample(30)] == [item.id for item in first.sample(30)]
  shown = "".join(one.contexts[0] for one in plans[0] if one.shots)
  assert all(f" {word}\n\n" in shown for word in words.split("|"))
  assert not any(f"{choice}\n\n" in shown for choice in first.items[0].choices)


def test_words_of_a_text_file_and_of_labels_that_stand_for_themselves(shared, tmp_path):
  rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  task = prompt_tasks.with_label_words(prompt_tasks.make(str(tmp_path / "rows.jsonl")), "x | y")
  assert {item.choices for item in (*task.items, *task.pool)} == {(" x", " y")}
  poems = prompt_tasks.with_label_words(prompt_tasks.make("poem_sentiment"), "sad|flat|glad|torn")
  own = {item.id: item for item in prompt_tasks.make("poem_sentiment").items}
  named = dict(zip((" negative", " no impact", " positive", " mixed"), poems.items[0].choices, strict=True))
  assert all(
    item.choices[item.gold] == named[own[item.id].choices[own[item.id].gold]] for item in poems.items
  )
  assert prompt_tasks.with_label_words(poems, "task") is poems


def test_an_order_is_a_permutation_of_the_same_demonstrations():
  task = prompt_tasks.association()
  asked = {order: few_shot.plan(task, Reading(), (1, 4), 40, 3, order=order) for order in range(4)}
  assert [one.demonstrations for one in asked[0]] == [
    tuple(task.demonstrations(one.item, one.shots, 3)) for one in asked[0]
  ]
  for order in (1, 2, 3):
    again = few_shot.plan(task, Reading(), (1, 4), 40, 3, order=order)
    assert again == asked[order]
    for drawn, other in zip(asked[0], asked[order], strict=True):
      assert other.item == drawn.item and set(other.demonstrations) == set(drawn.demonstrations)
      assert len(other.demonstrations) == drawn.shots
      assert other.contexts == (task.context(other.item, other.demonstrations),)
  # Of four demonstrations there are 24 orders, of which random ones of 40 items are not all the same.
  places = {
    tuple(drawn.demonstrations.index(one) for one in other.demonstrations)
    for order in (1, 2, 3)
    for drawn, other in zip(asked[0], asked[order], strict=True)
    if drawn.shots == 4
  }
  assert len(places) > 15
  renamed = dataclasses.replace(task, name="other")
  assert any(
    items.reordered(renamed, one.item, one.demonstrations, 1)
    != items.reordered(task, one.item, one.demonstrations, 1)
    for one in asked[0]
  )


def test_one_demonstration_has_one_order_and_other_words_and_orders_are_rows_apart(
  model, definition, tmp_path
):
  settings = Settings(
    (str(definition),), shots=(0, 1, 3), seeds=(0, 1), label_words=("task", "no|yes"), orders=(0, 5)
  )
  reader, folder = Reading(), tmp_path / "results"
  rows = few_shot_runs.run(model, settings, name="m", folder=folder, quiet=True, reader=reader)
  of_nll = [r for r in rows if r["metric"] == "nll" and r["key"]]
  cells = [(r["label_words"], r["n_shots"], r["seed"], r["order"]) for r in of_nll]
  expected = [(0, None, 0), (1, 0, 0), (1, 1, 0), *((3, seed, order) for seed in (0, 1) for order in (0, 5))]
  assert cells == [(words, *cell) for words in ("task", "no|yes") for cell in expected]
  assert reader.asked == 2 * 7 * 20
  means = [row for row in rows if row["key"] is None and row["metric"] == "nll"]
  assert {(row["label_words"], row["n_shots"], row["order"], row["n_seeds"]) for row in means} == {
    (words, k, order, 2) for words in ("task", "no|yes") for k, order in ((1, 0), (3, 0), (3, 5))
  }
  for mean in means:
    same = ("label_words", "n_shots", "order", "metric")
    parts = [r["value"] for r in rows if r["key"] and all(r[name] == mean[name] for name in same)]
    assert len(parts) == 2 and mean["value"] == pytest.approx(np.mean(parts))
  key = next(r["key"] for r in rows if (r["label_words"], r["order"]) == ("no|yes", 5))
  table = pandas.read_parquet(folder / "items" / f"{key}.parquet")
  assert set(table["label_words"]) == {"no|yes"} and set(table["order"]) == {5}


def test_results_that_are_kept_keep_their_keys(model, tmp_path):
  """A cell as it was kept before there were label words and orders."""
  task = prompt_tasks.association()
  assert task.digest == "02fc3ca4d0a3d145"
  cell = {
    "semantics": 1, "model": {"test": 1}, "weights": "float32", "task": task.digest, "limit": 3,
    "split": "test", "too_long": "drop", "context_length": CONTEXT, "seed": 0, "shots": 2,
  }  # fmt: skip
  settings, reader = Settings(("association",), shots=(2,), limit=3), Reading()
  (first, *_) = few_shot_runs.run(model, settings, name="m", folder=tmp_path, quiet=True, reader=reader)
  assert first["key"] == strict.digest(cell, 16)
  path = tmp_path / "cells" / f"{first['key']}.json"
  before = [
    {name: value for name, value in row.items() if name not in ("label_words", "order", "hold_out")}
    for row in json.loads(path.read_text())
  ]
  path.write_text(json.dumps(before))
  asked = reader.asked
  (again, *_) = few_shot_runs.run(model, settings, name="m", folder=tmp_path, quiet=True, reader=reader)
  assert again == first and reader.asked == asked
  assert json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["label_words"] == "task"
