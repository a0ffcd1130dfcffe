"""Few-shot prompts: what stands in them, and what scorers of known ability score on them."""

import collections
import json
import math

import numpy as np
import pytest
import reference

from lm_jax import few_shot, tokenizers
from lm_jax.few_shot import FewShotTask, Item
from lm_jax.few_shot_prompts import Asked
from lm_jax.few_shot_scores import Result, means, of_choice
from lm_jax.pretrained import Pretrained
from lm_jax.reader import ModelReader
from lm_jax.scorer import Likelihood
from lm_jax.scores import Score
from lm_jax.strict import ConfigError

TASK = few_shot.association()
NAMED = ("mr", "cr", "subj", "poem_sentiment")


class Endless:
  """Has room for everything."""

  def excess(self, requests):
    return [0] * len(requests)


class Uniform(Endless):
  """Knows nothing: every token has the same probability, every choice as many tokens."""

  def loglikelihood(self, requests, progress=None):
    return [Likelihood(-2 * math.log(100), 2, False) for _ in requests]


class Oracle(Endless):
  """Gives the right answers of a task a log p of -`nats`, and others -1."""

  def __init__(self, task: FewShotTask, nats: float = 0.1):
    self._right = {item.answered for item in task.items}
    self._separator, self._nats = task.separator, nats

  def loglikelihood(self, requests, progress=None):
    last = [context.split(self._separator)[-1] + choice for context, choice in requests]
    return [Likelihood(-self._nats if asked in self._right else -1.0, 4, False) for asked in last]


@pytest.fixture(scope="module")
def tasks(shared) -> dict[str, FewShotTask]:
  return {name: few_shot.make(name) for name in NAMED}


@pytest.fixture(scope="module", params=[*NAMED, "association"])
def task(request) -> FewShotTask:
  return TASK if request.param == "association" else request.getfixturevalue("tasks")[request.param]


# --- prompts ----------------------------------------------------------------------------------------


def test_demonstrations_are_nested_balanced_and_others(task):
  answers = {item.gold for item in task.pool}
  for item in task.sample(20):
    most = task.demonstrations(item, 10, seed=3)
    for k in range(10):
      assert task.demonstrations(item, k, seed=3) == most[:k]
      counts = collections.Counter(other.gold for other in most[: k + 1])
      assert max(counts.values()) - min(counts[gold] for gold in answers) <= 1
    assert len({other.id for other in most}) == 10
    assert item.id not in {other.id for other in most}
    assert item.query not in {other.query for other in most}
    assert set(most) <= set(task.pool)


def test_a_prompt_is_the_demonstrations_and_the_query_without_its_answer(task):
  for item in task.sample(20):
    for k in (0, 1, 4):
      *answered, query = task.prompt(item, k, seed=0).split(task.separator)
      assert query == item.query
      assert answered == [other.answered for other in task.demonstrations(item, k, seed=0)]
      # Of an association the answer stands in the text, once, beside its name; of others, nowhere.
      right = query.rsplit("\n", 1)[-1] + item.choices[item.gold]
      assert query.count(right) == (task.name == "association")
      assert not any(right in other and item.query in other for other in answered)


def test_prompts_depend_on_the_task_the_seed_and_the_item_alone():
  item = TASK.items[0]
  reordered = FewShotTask(TASK.name, TASK.items[::-1], TASK.pool[::-1])
  assert reordered.prompt(item, 4, 0) == TASK.prompt(item, 4, 0)
  assert reordered.sample(9) == TASK.sample(9) == TASK.sample(20)[:9]
  others = [
    TASK.prompt(item, 4, 1), FewShotTask("other", TASK.items, TASK.pool).prompt(item, 4, 0),
    TASK.prompt(TASK.items[1], 4, 0),
  ]  # fmt: skip
  first = [prompt.split("\n\n")[:4] for prompt in (TASK.prompt(item, 4, 0), *others)]
  assert len({tuple(parts) for parts in first}) == 4


def test_the_evaluated_example_is_never_a_demonstration_though_it_is_in_the_pool():
  pool = tuple(Item(str(i), f"q{i}:", (" a", " b"), i % 2) for i in range(6))
  task = FewShotTask("small", pool, pool)
  for item in pool:
    drawn = task.demonstrations(item, 4, seed=0)
    assert item not in drawn
    assert len(set(drawn)) == 4
  with pytest.raises(ConfigError, match="'small': has 2 examples of answer 0, shots need 3"):
    task.demonstrations(pool[0], 5, seed=0)


def test_associations_have_four_pairs_and_no_preferred_answer():
  assert set(map(len, (item.choices for item in TASK.items))) == {4}
  golds = np.bincount([item.gold for item in TASK.items])
  assert (abs(golds / len(TASK.items) - 0.25) < 0.05).all()
  for item in TASK.items[:50]:
    *lines, asked = item.query.split("\n")
    pairs = dict(line.split(":") for line in lines)
    assert len(pairs) == len(set(pairs.values())) == 4
    assert pairs[asked[:-1]] == item.choices[item.gold]
  assert not {item.id for item in TASK.items} & {item.id for item in TASK.pool}


def test_labels_have_their_words(tasks):
  assert {name: task.items[0].choices for name, task in tasks.items()} == {
    "mr": (" negative", " positive"), "cr": (" negative", " positive"), "subj": (" objective", " subjective"),
    "poem_sentiment": (" negative", " no impact", " positive", " mixed"),
  }  # fmt: skip
  awful = next(item for item in tasks["mr"].pool if item.query.startswith("Review: unwieldy contraption"))
  assert awful.answered == "Review: unwieldy contraption .\nSentiment: negative"


def test_any_labeled_file_is_a_task(tmp_path):
  path = tmp_path / "fruit.jsonl"
  rows = [{"text": f"{{number}} {i} {i % 3}", "label": ["apple", "pear", "fig"][i % 3]} for i in range(200)]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  task = few_shot.make(str(path))
  assert task.name == "fruit"
  assert task.items[0].choices == (" apple", " fig", " pear")
  assert task.items[0].query.startswith("Text: {number} ")
  assert all(item.answered.endswith((" apple", " fig", " pear")[item.gold]) for item in task.items)


# --- scores -----------------------------------------------------------------------------------------


def by_metric(scores: list, shots: int) -> dict:
  return {score.metric: score for score in scores if score.n_shots == shots}


def test_knowing_nothing_scores_chance(task):
  scores = few_shot.evaluate(task, Uniform(), (0, 3), 50, seed=0)
  C = len(task.items[0].choices)
  for shots in (0, 3):
    found = by_metric(scores, shots)
    assert found["accuracy"].value == found["accuracy"].chance == pytest.approx(1 / C)
    assert found["choice_prob"].value == pytest.approx(1 / C)
    assert found["brier"].value == pytest.approx((1 - 1 / C) ** 2 + (C - 1) / C**2)
    assert found["nll"].value == pytest.approx(math.log(100))
    assert {score.task for score in scores} == {task.name}
    assert {score.n_items for score in scores} == {50}


def test_knowing_all_scores_1(task):
  found = by_metric(few_shot.evaluate(task, Oracle(task), (4,), 50, seed=0), 4)
  C, p = len(task.items[0].choices), math.exp(-0.1)
  p_gold, p_other = p / (p + (C - 1) * math.exp(-1)), math.exp(-1) / (p + (C - 1) * math.exp(-1))
  assert (found["accuracy"].value, found["accuracy"].stderr) == (1, 0)
  assert found["nll"].value == pytest.approx(0.1 / 4)
  assert found["choice_prob"].value == pytest.approx(p_gold)
  assert found["brier"].value == pytest.approx((1 - p_gold) ** 2 + (C - 1) * p_other**2)
  assert found["target_brier"].value == pytest.approx((1 - p_gold) ** 2)
  assert set(found) - {"balanced_accuracy"} == {
    "accuracy", "accuracy_norm", "accuracy_bytes", "nll", "choice_prob", "brier", "target_brier",
    "ece", "aurc",
  }  # fmt: skip
  every_place = {item.gold for item in task.sample(50)} == set(range(C))
  assert ("balanced_accuracy" in found) == every_place
  assert not every_place or found["balanced_accuracy"].value == 1
  without = [name for name, score in found.items() if score.chance is None]
  assert without == ["nll", "brier", "target_brier", "ece", "aurc"]
  # Worse than the others: never right.
  assert by_metric(few_shot.evaluate(task, Oracle(task, 2), (4,), 50, seed=0), 4)["accuracy"].value == 0


def answered(golds: list[int], answers: list[int], num_choices: int) -> dict[str, Score]:
  """Returns the scores of items of which a model gives one answer each."""
  choices = tuple(f" {c}" for c in range(num_choices))
  items = tuple(Item(str(i), f"q{i}:", choices, gold) for i, gold in enumerate(golds))
  results = []
  for item, answer in zip(items, answers, strict=True):
    found = [Likelihood(-1.0 - (c != answer), 1, False) for c in range(num_choices)]
    log_p = tuple(one.log_p for one in found)
    results.append(Result(Asked(item, 0, (), ()), of_choice(item, found), log_p=log_p))
  return {score.metric: score for score in means(FewShotTask("t", items, ()), results, 0)}


@pytest.mark.parametrize("answer", [0, 1])
def test_an_answer_that_is_always_the_same_has_a_balanced_accuracy_of_chance(answer):
  found = answered([0] * 31 + [1] * 19, [answer] * 50, 2)
  assert found["accuracy"].value == pytest.approx([0.62, 0.38][answer])
  balanced = found["balanced_accuracy"]
  assert (balanced.value, balanced.stderr, balanced.chance, balanced.n_items) == (0.5, 0, 0.5, 50)


def test_balanced_accuracy_is_the_mean_of_recalls():
  """Its standard error is that of the mean of independent samples, one a place."""
  rng = np.random.default_rng(0)
  golds, answers = rng.choice(3, 300, p=[0.6, 0.3, 0.1]), rng.integers(0, 3, 300)
  balanced = answered(golds.tolist(), answers.tolist(), 3)["balanced_accuracy"]
  right = [(answers == golds)[golds == place] for place in range(3)]
  assert balanced.value == pytest.approx(np.mean([r.mean() for r in right]))
  draws = [np.mean([rng.choice(r, len(r)).mean() for r in right]) for _ in range(4000)]
  assert balanced.stderr == pytest.approx(np.std(draws), rel=0.06)


def test_balanced_accuracy_is_missing_where_a_place_is_never_right():
  assert "balanced_accuracy" not in answered([0, 0, 1], [0, 0, 1], 3)
  alone = answered([0, 0, 1], [0, 0, 1], 2)["balanced_accuracy"]
  assert (alone.value, alone.stderr) == (1, None)


def test_accuracy_norm_divides_by_characters():
  item = Item("0", "q:", (" ab", " abcd"), 1)
  found = of_choice(item, [Likelihood(-2.0, 2, True), Likelihood(-3.0, 3, False)])
  assert (found["accuracy"], found["accuracy_norm"], found["nll"]) == (0, 1, 1)
  # -2 / 2 against -4 / 4 is a tie; with the spaces counted, -2 / 3 would win over -4 / 5.
  tied = of_choice(item, [Likelihood(-2.0, 2, True), Likelihood(-4.0, 4, False)])
  assert tied["accuracy_norm"] == 0.5


def test_choices_of_no_probability_that_floats_hold_are_compared():
  item = Item("0", "q:", (" a", " b"), 0)
  found = of_choice(item, [Likelihood(-2000.0, 2, True), Likelihood(-2001.0, 3, False)])
  assert found["choice_prob"] == pytest.approx(1 / (1 + math.exp(-1)))
  assert found["accuracy"] == 1


def test_each_item_counts_once_and_has_its_own_answer():
  half = set(TASK.sample(40)[:30])
  known = Oracle(FewShotTask(TASK.name, tuple(half), TASK.pool))
  found = by_metric(few_shot.evaluate(TASK, known, (2, 0), 40, seed=0), 2)["accuracy"]
  # Of the ten others all choices are equal: 1/4 each.
  assert found.value == pytest.approx((30 + 10 / 4) / 40)
  expected = np.array([1.0] * 30 + [0.25] * 10).std(ddof=1) / math.sqrt(40)
  assert found.stderr == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_models_are_scored_by_the_same_prompts(kind):
  model = reference.tiny(vocab_size=260, context_length=64, causal=kind == "causal", positions="learned")
  specials = {"end": 256, "cls": 257, "sep": 258, "mask": 259}
  own = ModelReader(Pretrained(model, reference.random_params(model), tokenizers.Bytes(), specials))
  scores = few_shot.evaluate(TASK, own, (0, 1), 8, seed=0)
  item = TASK.sample(1)[0]
  # The context is too short for a demonstration of such a task, and long enough for the query.
  found = own.loglikelihood([(TASK.prompt(item, 0, 0), choice) for choice in item.choices])
  alone = FewShotTask(TASK.name, (item,), TASK.pool)
  accuracy = by_metric(few_shot.evaluate(alone, own, (1,), 8, seed=0), 1)["accuracy"]
  assert accuracy.value == (np.argmax([f.log_p for f in found]) == item.gold)
  assert accuracy.stderr is None
  assert len(scores) == 20
  assert all(math.isfinite(score.value) for score in scores)


# --- errors -----------------------------------------------------------------------------------------


def test_an_unknown_task_is_one_line_with_the_nearest(monkeypatch, tmp_path):
  with pytest.raises(
    ConfigError, match=r"task 'asociation': no .yaml file or path .*; did you mean 'association'"
  ):
    few_shot.make("asociation")
  monkeypatch.setenv("LM_JAX_SHARED", str(tmp_path))
  with pytest.raises(ConfigError, match=r"name='mr': nothing of this name .*LM_JAX_SHARED"):
    few_shot.make("mr")
  (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n')
  with pytest.raises(ConfigError, match=r"few-shot task: .*bad.jsonl line 1: has no 'label'"):
    few_shot.make(str(tmp_path / "bad.jsonl"))


def test_impossible_numbers_are_one_line():
  with pytest.raises(ConfigError, match="shots=-1: must be 0 or greater"):
    few_shot.evaluate(TASK, Uniform(), (0, -1), 5, seed=0)
  with pytest.raises(ConfigError, match="num_examples=0: must be greater than 0"):
    few_shot.evaluate(TASK, Uniform(), (0,), 0, seed=0)
