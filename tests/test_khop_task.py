"""k-hop induction against its definition, written out for one string at a time."""

import collections
import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from lm_jax import config as configs
from lm_jax import evaluate, task_configs
from lm_jax.strict import ConfigError
from lm_jax.tasks import make_task

PUBLISHED = task_configs.KHop(length=98, num_letters=4, max_hops=16)
CONFIGS = [
  task_configs.KHop(), PUBLISHED, task_configs.KHop(length=4, num_letters=3, max_hops=2),
  task_configs.KHop(length=20, num_letters=9, max_hops=1),
]  # fmt: skip


def name(config):
  return f"{config.length}-{config.num_letters}-{config.max_hops}"


@functools.cache
def drawn(config, split="train", batch_size=600):
  sample = jax.jit(lambda key: make_task(config).sample(key, batch_size, split=split))
  return jax.tree.map(np.asarray, sample(jax.random.key(3)))


def find(text: str, place: int, hops: int) -> int | None:
  """Returns where `hops` hops from `place` lead, None where one of them leads nowhere."""
  if hops == 0:
    return place
  last = text.rfind(text[place], 0, place)
  return None if last < 0 else find(text, last + 1, hops - 1)


def answers(text: str, hops: int) -> str:
  found = [find(text, place, hops) for place in range(len(text))]
  return "".join("~" if place is None else text[place] for place in found)


def test_the_reference_by_hand():
  assert find("abcabdacda", 9, 1) == 7  # the a before it is at 6
  assert answers("abcabdacda", 1) == "~~~bc~baac"
  assert answers("abab", 2) == "~~~b"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_targets_are_what_the_definition_says(config, split):
  batch, letters = drawn(config, split), "abcdefghi"[: config.num_letters] + "~"
  assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (600, config.sequence_length)
  assert [a.dtype for a in (batch.tokens, batch.targets, batch.weights)] == [np.int32, np.int32, np.float32]
  assert batch.tokens.min() >= 0 and batch.tokens.max() < config.vocab_size
  assert not batch.weights[:, 0].any()
  for tokens, targets, weights in zip(batch.tokens, batch.targets[:, 1:], batch.weights[:, 1:], strict=True):
    text, hops = "".join(letters[t] for t in tokens[1:]), tokens[0] - config.num_letters - 1
    assert "~" not in text and all(a != b for a, b in itertools.pairwise(text))
    assert 0 <= hops <= config.max_hops
    expected = answers(text, hops)
    assert "".join(letters[t] for t in targets) == expected
    assert weights.tolist() == [split == "train" or letter != "~" for letter in expected]


@pytest.mark.parametrize("split", ["train", "test"])
def test_strings_and_numbers_of_hops_are_uniform(split):
  config = task_configs.KHop(length=4, num_letters=3, max_hops=2)
  seen = collections.Counter(map(tuple, drawn(config, split, 14_400).tokens.tolist()))
  assert len(seen) == 3 * (3 * 2**3)
  assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_every_number_of_hops_is_tested_as_often():
  tokens = drawn(PUBLISHED, "test", 17 * 30).tokens
  assert np.bincount(tokens[:, 0])[5:].tolist() == [30] * 17


def test_sampling_is_a_pure_function_of_its_key():
  task, config = make_task(CONFIGS[0]), CONFIGS[0]
  again = task.sample(jax.random.key(3), 600)
  jax.tree.map(np.testing.assert_array_equal, again, drawn(config))
  assert (np.asarray(task.sample(jax.random.key(4), 600).tokens) != drawn(config).tokens).any(
    axis=1
  ).mean() > 0.9


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_the_yardsticks(config):
  task, batch = make_task(config), drawn(config, "test", 6000)
  asked = batch.weights[:, 1:] > 0
  labels, hops = batch.targets[:, 1:], batch.tokens[:, :1] - config.num_letters - 1
  predicted = np.asarray(jax.jit(task.bayes_predict)(batch))
  np.testing.assert_allclose(predicted.sum(axis=2), 1)
  assert (predicted.argmax(axis=2) == labels)[asked].all() and (predicted.max(axis=2) == 1)[asked].all()
  assert task.bayes_accuracy().tolist() == [1] * config.length
  # No letter is a better blind guess than another, at any number of hops.
  for k in range(config.max_hops + 1):
    per_sequence = np.where(asked & (hops == k), labels, -1)
    counts = np.stack([(per_sequence == a).sum(axis=1) for a in range(config.num_letters)], axis=1)
    counts = counts[counts.sum(axis=1) > 0]
    share = counts / counts.sum(axis=1, keepdims=True)
    stderr = share.std(axis=0) / np.sqrt(len(share))
    assert (abs(share.mean(axis=0) - task.chance) < 4 * stderr + 1e-9).all()
  current = batch.tokens[:, 1:]
  assert (current == labels)[asked & (hops == 0)].all()
  assert (current != labels)[asked & (hops == 1)].all()


def test_each_number_of_hops_is_scored_on_its_own():
  config = task_configs.KHop(length=8, num_letters=3, max_hops=2)
  task, batch = make_task(config), drawn(config, "test", 30)
  asked = batch.weights[:, 1:] > 0
  right = np.where(asked, np.random.default_rng(0).integers(0, 2, asked.shape), np.nan)
  found = {
    (s.task, s.metric): s
    for s in evaluate.aggregate({"accuracy": right, "exact_match": right}, task, task.parts(batch))
    if s.task is not None
  }
  assert {where for where, _ in found} == {"khop_k0", "khop_k1", "khop_k2"}
  for k in range(3):
    of_k = [row[~np.isnan(row)] for row in right[batch.tokens[:, 0] == k + 4]]
    of_k = [row for row in of_k if len(row)]
    for metric in ("accuracy", "token_accuracy"):
      score = found[f"khop_k{k}", metric]
      assert score.value == pytest.approx(np.mean([row.mean() for row in of_k]))
      assert (score.n_items, score.n_shots, score.prompt_id) == (len(of_k), None, None)
    assert found[f"khop_k{k}", "accuracy"].chance == pytest.approx(1 / 3)
    assert found[f"khop_k{k}", "exact_match"].value == pytest.approx(np.mean([row.all() for row in of_k]))


@pytest.mark.parametrize(("changed", "message"), [
  ({"num_letters": 2}, "config.task.num_letters=2: must be at least 3"),
  ({"length": 5}, r"config.task.length=5: must be at least max_hops \+ 2 = 6"),
  ({"max_hops": 0}, "config.task.max_hops=0: must be"),
])  # fmt: skip
def test_sizes_that_make_no_task_are_refused(changed, message):
  with pytest.raises(ConfigError, match=message):
    configs.resolve(configs.Config(task=task_configs.KHop(**changed)))
