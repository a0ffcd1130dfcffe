"""Prompts are chosen on dev alone, by what is better there, and what that is worth and costs is told."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pandas
import pytest
import reference
from scipy import stats
from test_cli import assert_refused, call

from lm_jax import few_shot, few_shot_runs, pretrained, prompt_selection, prompt_tasks, tokenizers
from lm_jax.few_shot_settings import Prompt, Settings
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError

SPLITS = {"train": 20, "dev": 8, "test": 12}


@pytest.fixture(scope="module")
def model() -> Pretrained:
  config = reference.tiny(vocab_size=257, context_length=160, positions="learned")
  made = pretrained.untrained(Pretrained(config, None, tokenizers.Bytes(), {"end": 256}, (256,)))
  return dataclasses.replace(made, identity={"test": 1})


@pytest.fixture
def definition(tmp_path):
  """A task with all three splits and two templates, whose texts are all of one length."""
  for split, count in SPLITS.items():
    rows = [{"text": f"{split:5} {i:02}", "label": i % 2} for i in range(count)]
    (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  path = tmp_path / "small.yaml"
  path.write_text(
    "train: train.jsonl\ndev: dev.jsonl\ntest: test.jsonl\n"
    'query: "T: {{text}}\\nL:"\nchoices: [bad, fine]\ngold: label\n'
    'templates: {long: {query: "Text: {{text}}\\nLabel:"}}\n'
  )
  return path


class Knowing:
  """Prefers the right choice by 9 nats where a prompt is of the right kind, and the wrong one elsewhere."""

  def __init__(self, is_right, room=lambda context: True):
    self._is_right, self._room, self.requests = is_right, room, []

  def excess(self, requests):
    return [0 if self._room(context) else 1 for context, _ in requests]

  def loglikelihood(self, requests, progress=None):
    self.requests += requests
    return [Likelihood(self._log_p(*request), 3, False) for request in requests]

  def _log_p(self, context, choice):
    gold = int(asked_text(context)[-2:]) % 2
    first = choice.strip() in ("bad", "no")
    return -1.0 if (first == (gold == 0)) == self._is_right(context, choice) else -10.0

  @property
  def contexts(self):
    return [context for context, _ in self.requests]


def asked_text(context):
  """Returns the text that a prompt of `definition` asks about."""
  return re.findall(r"(?:train|dev  |test ) \d\d", context)[-1]


def settings(definition, **fields):
  return Settings(
    (str(definition),), **{"shots": (0, 2), "seeds": (0, 1), "orders": (0, 1), "templates": ("all",),
                           "label_words": ("task", "no|yes")} | fields,
  )  # fmt: skip


def of_order(definition, order):
  """Returns all prompts of an order that differ from those of order 0."""
  found = set()
  for split in ("dev", "test"):
    task = prompt_tasks.make(str(definition), split=split)
    plans = [few_shot.plan(task, Knowing(None), (2,), None, 0, order=which) for which in (order, 0)]
    found |= {one.contexts[0] for one in plans[0]} - {one.contexts[0] for one in plans[1]}
  return found


# --- what is chosen -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("is_right", "expected"),
  [
    (lambda context, choice: "Text:" in context, {"template": "long", "label_words": "task", "shots": 0}),
    (lambda context, choice: choice in (" no", " yes"), {"template": "default", "label_words": "no|yes"}),
    (lambda context, choice: context.count("\n\n") == 2, {"template": "default", "shots": 2}),
  ],
  ids=["template", "words", "shots"],
)
def test_what_a_model_is_better_with_is_chosen_on_dev_alone(model, definition, is_right, expected):
  reader = Knowing(is_right)
  (found,) = prompt_selection.select(model, settings(definition), name="m", quiet=True, reader=reader)
  assert expected.items() <= dataclasses.asdict(found.chosen).items()
  assert (found.metric, found.dev_score, found.chosen_on_test.value) == ("accuracy", 1, 1)
  own = Prompt("default", "task", found.chosen.shots, 0 if found.chosen.shots else None, 0)
  assert found.default == own
  # The default one has as many shots as the chosen one.
  on_default = float("shots" in expected and expected["shots"] == 2)
  assert (found.default_on_test.value, found.difference.value) == (on_default, 1 - on_default)
  assert (found.optimism, found.dev_rows) == (0, "dev")
  # All of dev, and then two prompts of test.
  texts = [asked_text(context)[:5].strip() for context in reader.contexts]
  num_dev = 2 * 2 * 5 * SPLITS["dev"] * 2
  assert texts[:num_dev] == ["dev"] * num_dev
  num_test = len({found.chosen, found.default}) * SPLITS["test"] * 2
  assert texts[num_dev:] == ["test"] * num_test
  scores = [one.dev_score for one in found.candidates]
  assert len(scores) == len({one.prompt for one in found.candidates}) == 2 * 2 * 5
  spread = found.spread
  assert (spread.mean, spread.sd) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
  assert (spread.min, spread.max, spread.n_items) == (0, 1, SPLITS["dev"])
  task = prompt_tasks.make(str(definition), found.chosen.template)
  task = prompt_tasks.with_label_words(task, found.chosen.label_words)
  assert found.prompt == task.prompt(task.sample(1)[0], found.chosen.shots, found.chosen.seed or 0)


def test_an_order_that_a_model_is_better_with_is_chosen(model, definition):
  better = of_order(definition, 3)
  s = settings(definition, shots=(2,), seeds=(0,), orders=(0, 3, 4), templates=("default",),
               label_words=("task",))  # fmt: skip
  (found,) = prompt_selection.select(
    model, s, name="m", quiet=True, reader=Knowing(lambda context, choice: context in better)
  )
  assert (found.chosen.order, found.default.order) == (3, 0)
  # Of two demonstrations a permutation is the other order for about half of the items.
  asked = {split: sum(asked_text(one).startswith(split) for one in better) for split in ("dev", "test")}
  assert 0 < asked["dev"] < 8 and found.dev_score == asked["dev"] / 8
  assert found.chosen_on_test.value == pytest.approx(asked["test"] / 12)
  assert found.optimism == pytest.approx(asked["dev"] / 8 - asked["test"] / 12)
  a = np.array([1.0] * asked["test"] + [0.0] * (12 - asked["test"]))
  expected = stats.bootstrap((a,), np.mean, method="percentile", n_resamples=20_000, rng=0)
  assert found.difference.stderr == pytest.approx(expected.standard_error, rel=0.1)
  low, high = expected.confidence_interval
  assert (found.difference.interval.low, found.difference.interval.high) == pytest.approx(
    (low, high), abs=0.09
  )


def test_of_equals_the_cheapest_and_then_the_first_is_chosen(model, definition):
  def equal(context, choice):
    return True

  (found,) = prompt_selection.select(model, settings(definition), name="m", quiet=True, reader=Knowing(equal))
  assert found.chosen == Prompt("default", "task", 0, None, 0)
  assert (found.spread.sd, found.difference.value) == (0, 0)
  s = settings(definition, shots=(2,), seeds=(7, 3), orders=(5, 0), label_words=("task", "evil|fin"))
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, reader=Knowing(equal))
  tokens = {one.prompt: one.tokens_read for one in found.candidates}
  cheapest = [prompt for prompt, count in tokens.items() if count == min(tokens.values())]
  assert len(cheapest) > 1 and found.chosen == cheapest[0]
  assert found.chosen.seed == 7 and found.chosen.order == 5 and found.chosen.template == "default"


def test_a_lower_nll_is_better(model, definition):
  (found,) = prompt_selection.select(
    model, settings(definition, shots=(0,)), name="m", metric="nll", quiet=True,
    reader=Knowing(lambda context, choice: "Text:" in context),
  )  # fmt: skip
  assert found.chosen.template == "long" and found.dev_score == pytest.approx(1 / 3)
  assert found.difference.value == pytest.approx(1 / 3 - 10 / 3) and found.optimism == pytest.approx(0)


def test_the_best_of_many_that_know_nothing_looks_good_on_dev_only(model, definition):
  def by_chance(context, choice):
    return hash_bit(context)

  s = settings(definition, shots=(2,), seeds=tuple(range(40)), orders=(0,), templates=("default",),
               label_words=("task",))  # fmt: skip
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, reader=Knowing(by_chance))
  scores = [one.dev_score for one in found.candidates]
  # The best of 40 draws is right about 6 of 8 items or more with probability 0.998.
  assert found.dev_score == max(scores) >= 0.75 and abs(found.spread.mean - 0.5) < 0.1
  assert found.optimism == found.dev_score - found.chosen_on_test.value > 0
  assert found.cost.candidates == 40


def hash_bit(text):
  return bool(prompt_tasks.items.hashed("bit", text) % 2)


# --- what it costs --------------------------------------------------------------------------------------


def test_nothing_is_computed_twice_and_the_cost_is_what_was_read(model, definition, tmp_path):
  reader, s = Knowing(lambda context, choice: "Text:" in context), settings(definition)
  select = {"name": "m", "folder": tmp_path / "w", "quiet": True, "reader": reader}
  (first,) = prompt_selection.select(model, s, **select)
  on_dev = [(one, choice) for one, choice in reader.requests if asked_text(one).startswith("dev")]
  # A prompt counts once for its two choices, which are three tokens each to this reader.
  read = sum(len(context.encode()) for context, _ in on_dev) // 2 + 3 * len(on_dev)
  assert first.cost.tokens_read == read == sum(one.tokens_read for one in first.candidates)
  assert first.cost.prompts_read == first.cost.prompts_in_full == len(on_dev) // 2 == 20 * 8
  assert (first.cost.labeled_examples, first.cost.candidates) == (8, 20)
  asked = len(reader.requests)
  (again,) = prompt_selection.select(model, s, **select)
  assert len(reader.requests) == asked
  assert dataclasses.replace(again.cost, seconds=first.cost.seconds) == first.cost
  assert dataclasses.replace(again, cost=first.cost) == first
  more = dataclasses.replace(s, seeds=(0, 1, 2))
  prompt_selection.select(model, more, **select)
  assert len(reader.requests) == asked + 2 * 2 * 2 * 8 * 2  # a seed: templates, words, orders, items, choices
  rows = pandas.read_json(tmp_path / "w" / "results.jsonl", lines=True)
  assert set(rows["split"]) == {"dev", "test"} and rows["key"].nunique() == 28 + 2


def test_halving_reads_less_and_finds_what_is_always_better(model, definition):
  reader = Knowing(lambda context, choice: "Text:" in context and choice in (" no", " yes"))
  s = settings(definition, shots=(0, 2), orders=(0,))
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, halving=True, reader=reader)
  assert found.chosen == Prompt("long", "no|yes", 0, None, 0)
  assert prompt_selection.rungs(12, 8) == [1, 2, 4, 8]
  assert found.cost.prompts_read == 12 * 1 + 6 * 2 + 3 * 4 + 2 * 8 < found.cost.prompts_in_full == 12 * 8
  on_dev = [one for one in reader.contexts if asked_text(one).startswith("dev")]
  assert len(on_dev) == 2 * found.cost.prompts_read
  assert sorted(one.dev_items for one in found.candidates) == [1] * 6 + [2] * 3 + [4] + [8] * 2
  assert (found.spread.n_items, found.cost.labeled_examples) == (1, 8)
  # Parts are nested: the first rung's item is in all others.
  order = [asked_text(one) for one in on_dev[::2]]
  assert set(order[:12]) <= set(order[12:24]) <= set(order[24:36]) <= set(order[36:])
  assert len(set(order[:12])) == 1 and len(set(order[24:36])) == 4


@pytest.mark.parametrize("num", range(1, 40))
def test_rungs_end_with_two_candidates_on_all_items(num):
  sizes = prompt_selection.rungs(num, 100)
  left = num
  for _ in sizes[:-1]:
    left = -(-left // 2)
  assert sizes[-1] == 100 and left == min(num, 2) and sizes == sorted(sizes)
  assert all(b - 2 * a in (0, 1) for a, b in itertools.pairwise(sizes))


# --- what there is no room for ---------------------------------------------------------------------------


def test_candidates_are_compared_on_the_items_that_all_have_room_for(model, definition):
  """The long template has no room for item 03 of dev, and is right about all others but 05."""

  def right(context, choice):
    return ("Text:" in context) == (asked_text(context) != "dev   05")

  reader = Knowing(right, lambda context: not ("Text:" in context and context.count("dev   03")))
  s = settings(definition, shots=(0,), label_words=("task",))
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, reader=reader)
  assert {one.prompt.template: (one.dev_score, one.dev_items) for one in found.candidates} == {
    "default": (pytest.approx(1 / 7), 7), "long": (pytest.approx(6 / 7), 7),
  }  # fmt: skip
  assert found.cost.prompts_read == 15 and found.cost.labeled_examples == 8
  reader = Knowing(right, lambda context: "Text:" not in context)
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, reader=reader)
  assert found.chosen.template == "default" and found.spread.n_items == 8
  unread = next(one for one in found.candidates if one.prompt.template == "long")
  assert (unread.dev_score, unread.dev_items, unread.tokens_read) == (None, 0, 0)
  with pytest.raises(ConfigError, match=r"has room for no dev item in all 2 prompts"):
    prompt_selection.select(model, s, name="m", quiet=True, reader=Knowing(right, lambda context: False))
  only_dev = Knowing(right, lambda context: not asked_text(context).startswith("test"))
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, reader=only_dev)
  assert (found.chosen_on_test.value, found.difference.value, found.optimism, found.prompt) == (None,) * 4
  assert found.dev_score == pytest.approx(7 / 8) and found.chosen_on_test.n_items == 0


# --- dev rows where there are none ------------------------------------------------------------------------


def test_a_part_of_train_is_dev_and_no_demonstration(model, definition):
  definition.write_text(definition.read_text().replace("dev: dev.jsonl\n", ""))
  whole = prompt_tasks.make(str(definition))
  dev, test = prompt_tasks.hold_out(whole)
  assert test.items == whole.items and len(dev.items) == 4 and len(test.pool) == 16
  assert dev.pool == test.pool and {*dev.items, *test.pool} == set(whole.pool)
  shuffled = dataclasses.replace(whole, pool=whole.pool[::-1])
  assert prompt_tasks.hold_out(shuffled)[0].items == dev.items
  reader = Knowing(lambda context, choice: "Text:" in context)
  s = settings(definition, templates=("all",), label_words=("task",))
  (found,) = prompt_selection.select(model, s, name="m", quiet=True, reader=reader)
  assert (found.dev_rows, found.chosen.template, found.cost.labeled_examples) == ("train", "long", 4)
  held_out = {item.fields["text"] for item in dev.items}
  asked = {asked_text(one) for one in reader.contexts}
  assert {one for one in asked if one.startswith("train")} == held_out
  shown = {text for one in reader.contexts for text in re.findall(r"train \d\d", one)[: one.count("\n\n")]}
  assert shown and not shown & held_out


def test_association_and_a_file_of_texts_have_dev_rows_of_train(tmp_path):
  rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(60)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  for name in ("association", str(tmp_path / "rows.jsonl")):
    assert not prompt_tasks.has_dev(name)
    dev, test = prompt_tasks.hold_out(prompt_tasks.make(name))
    assert dev.items and not {item.id for item in dev.items} & {i.id for i in (*test.items, *test.pool)}


def test_test_is_never_dev(shared, model, definition):
  text = definition.read_text().replace("dev: dev.jsonl\n", "").replace("train: train.jsonl\n", "")
  definition.write_text(text)
  for name in (str(definition), "boolq"):
    with pytest.raises(ConfigError, match=r"has no dev rows, and 0 train rows that are not of test: must"):
      prompt_selection.select(model, Settings((name,)), name="m", quiet=True, reader=Knowing(None))
  assert prompt_tasks.has_dev("mr")


# --- scores, the command --------------------------------------------------------------------------------


def test_scores_of_items_are_those_that_a_run_has(shared, model, definition):
  task = prompt_tasks.make(str(definition))
  (cell,) = {row["key"] for row in few_shot_runs.run(
    model, Settings((str(definition),)), name="m", quiet=True, reader=Knowing(lambda *_: True)
  )}  # fmt: skip
  tables = few_shot_runs.measure(
    model, Settings((str(definition),)), [("default", task)], name="m", quiet=True,
    reader=Knowing(lambda *_: True),
  )[1]  # fmt: skip
  names = prompt_selection.item_metrics(task)
  assert set(names) <= set(tables[cell].columns) and names[0] == "accuracy"
  assert prompt_selection.item_metrics(prompt_tasks.make("lambada")) == ("exact_match", "nll")
  assert prompt_selection.item_metrics(prompt_tasks.make("gsm8k"))[0] == "final_number"
  assert prompt_selection.item_metrics(prompt_tasks.make("humaneval")) == ("pass_at_1",)


def test_the_command_as_a_person_types_it(shared, definition, tmp_path, capsys):
  words = (
    "prompts", f"--model={shared}/models/stories260K", f"--tasks=mr,{definition}", "--shots=0,2",
    "--label_words=task,bad|good", "--dev_limit=4", "--limit=5",
    f"--workdir={tmp_path}/w", "--quiet",
  )  # fmt: skip
  code, out, _ = call(capsys, *words, "--json")
  (mr, small) = json.loads(out)
  assert code == 0 and (mr["task"], small["task"]) == ("mr", "small")
  assert len(mr["candidates"]) == 4 and mr["cost"]["labeled_examples"] == 4
  assert mr["chosen_on_test"]["n_items"] == mr["default_on_test"]["n_items"] == 5
  assert mr["dev_score"] == max(one["dev_score"] for one in mr["candidates"])
  code, out, _ = call(capsys, *words, "--show_prompt")
  assert code == 0 and mr["prompt"] in out and small["prompt"] in out
  assert "chosen - default on test" in out and "4 candidates" in out and "4 labeled examples" in out


BAD = {
  "no such metric": ("--tasks=mr --metric=acuracy", "--metric=acuracy: task 'mr'", "mean 'accuracy'"),
  "a metric of a corpus": ("--tasks=tatoeba_en_de", "task 'tatoeba_en_de': its scores, bleu, chrf, are of a"),
  "no dev items": ("--tasks=mr --dev_limit=0", "--dev_limit=0: must be greater than 0"),
  "nothing to choose on": ("--tasks=boolq", "task 'boolq': has no dev rows, and 0 train rows"),
  "words of another number": ("--tasks=mr --label_words=a|b|c", "has 3 words, but task 'mr' 2 labels: neg"),
  "no shots": ("--tasks=mr --shots=", "--shots='': must be one number or more"),
  "code": ("--tasks=mbpp", "task 'mbpp': runs code", "--allow_code_execution"),
  "a split": ("--tasks=mr --split=test", "--split: no such flag of lm-jax prompts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(shared, capsys, case):
  words, *said = BAD[case]
  found = call(capsys, "prompts", f"--model={shared}/models/stories260K", *words.split())
  assert_refused(*found, *said)
