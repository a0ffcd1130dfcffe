"""Metrics against their definitions in float64, and the few-shot evaluation of models of known ability."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import RUN, merged
from scipy import special, stats

from lm_jax import config as configs
from lm_jax import evaluate, metrics, parallel, state, tasks
from lm_jax.model import Transformer

# --- metrics --------------------------------------------------------------------------------------

CHOICES = np.array([2, 3, 5, 6])


def random_case(seed=0, B=3, P=4, V=8):
  rng = np.random.default_rng(seed)
  logits = rng.standard_normal((B, P, V)).astype(np.float32) * 3
  return logits, rng.choice(CHOICES, (B, P)), rng.dirichlet(np.ones(len(CHOICES)), (B, P)).astype(np.float32)


def test_token_scores_are_what_their_definitions_say():
  logits, targets, bayes = random_case()
  baseline = np.flip(bayes, axis=0)
  scores = metrics.token_scores(
    *map(jnp.asarray, (logits, targets)), CHOICES, *map(jnp.asarray, (bayes, baseline))
  )
  for b, row in enumerate(logits.astype(np.float64)):
    for t, z in enumerate(row):
      gold = targets[b, t]
      p_all, p = special.softmax(z), special.softmax(z[CHOICES])
      onehot = (gold == CHOICES).astype(float)
      expected = {
        "nll": -math.log(p_all[gold]),
        "accuracy": float(CHOICES[p.argmax()] == gold),
        "exact_match": float(z.argmax() == gold),
        "choice_prob": p @ onehot,
        "brier": ((p - onehot) ** 2).sum(),
        "kl_bayes": stats.entropy(bayes[b, t].astype(np.float64), p),
        "kl_baseline": stats.entropy(baseline[b, t].astype(np.float64), p),
      }
      assert set(scores) == set(expected)
      for name, value in expected.items():
        assert float(scores[name][b, t]) == pytest.approx(value, rel=2e-5, abs=1e-6), name


def test_a_whole_vocabulary_of_choices_is_no_special_case():
  logits, targets, _ = random_case()
  shuffled = np.random.default_rng(1).permutation(8)
  one = metrics.token_scores(jnp.asarray(logits), jnp.asarray(targets), np.arange(8))
  np.testing.assert_allclose(one["accuracy"], one["exact_match"])
  other = metrics.token_scores(jnp.asarray(logits[..., shuffled]), jnp.asarray(np.argsort(shuffled)[targets]),
                               np.arange(8))  # fmt: skip
  for name in one:
    np.testing.assert_allclose(one[name], other[name], rtol=1e-5, err_msg=name)


def test_kl_with_certain_predictions():
  p = jnp.array([[1.0, 0.0], [0.5, 0.5]])
  np.testing.assert_allclose(metrics.kl(p, jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))), [math.log(2), 0])
  # Where the reference has no mass the model's does not matter, not even if it is none at all.
  assert float(metrics.kl(jnp.array([1.0, 0.0]), jnp.array([0.0, -jnp.inf]))) == 0


def test_mean_and_stderr():
  x = np.array([1.0, np.nan, 4.0, 7.0])
  mean, stderr, n = metrics.mean_and_stderr(x)
  assert (mean, n) == (4.0, 3)
  assert stderr == pytest.approx(stats.sem([1.0, 4.0, 7.0]))
  assert metrics.mean_and_stderr(np.array([2.0]))[1:] == (None, 1)
  mean, stderr, n = metrics.mean_and_stderr(np.array([np.nan]))
  assert math.isnan(mean)
  assert (stderr, n) == (None, 0)


# --- aggregation ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Shape:
  """What `aggregate` reads of a task."""

  shots: np.ndarray | None
  answer_length: int = 1
  window: int = 2
  chance: float = 0.5


def by_key(scores):
  scores = [score for score in scores if score.task is None]
  found = {(s.metric, s.n_shots, s.prompt_id): s for s in scores}
  assert len(found) == len(scores)
  return found


def test_shots_window_and_exact_match_of_single_tokens():
  right = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1]], float)
  scores = by_key(evaluate.aggregate({"accuracy": right, "exact_match": right}, Shape(np.arange(4))))
  for k in range(4):
    assert scores["accuracy", k, None].value == pytest.approx(right[:, k].mean())
    assert scores["accuracy", k, None].stderr == pytest.approx(stats.sem(right[:, k]))
  assert scores["accuracy", None, "window"].value == pytest.approx(right[:, 2:].mean())
  assert scores["accuracy", None, "window"].stderr == pytest.approx(stats.sem(right[:, 2:].mean(1)))
  # Exact match asks for two queries in a row, and there is only one at zero shots.
  assert ("exact_match", 0, None) not in scores
  assert scores["exact_match", 1, None].value == pytest.approx(1 / 3)
  assert scores["exact_match", 2, None].value == pytest.approx(2 / 3)
  assert scores["exact_match", None, "window"] == dataclasses.replace(
    scores["exact_match", 3, None], n_shots=None, prompt_id="window"
  )
  assert scores["exact_match", 3, None].chance == pytest.approx(0.25)
  assert scores["accuracy", 3, None].chance == 0.5
  assert scores["accuracy", 3, None].n_items == 3


def test_an_answer_of_several_tokens_is_right_when_all_are():
  right = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], float)  # two queries of two tokens
  scores = by_key(
    evaluate.aggregate({"accuracy": right, "exact_match": right}, Shape(np.arange(2), 2, window=1))
  )
  assert scores["exact_match", 0, None].value == 1
  assert scores["exact_match", 1, None].value == 0.5
  assert scores["accuracy", 1, None].value == 0.75
  assert scores["exact_match", 1, None].chance == pytest.approx(0.25)


def test_a_position_that_does_not_count_is_missing_and_not_zero():
  right = np.array([[1, np.nan, 1, np.nan], [np.nan, 1, 0, 1], [np.nan] * 4])
  scores = by_key(
    evaluate.aggregate({"accuracy": right, "exact_match": right}, Shape(np.full(4, 7), window=4))
  )
  one = scores["accuracy", 7, None]
  assert (one.value, one.n_items) == (pytest.approx(np.mean([1, 2 / 3])), 2)
  assert scores["exact_match", 7, None].value == 0.5
  # Items that ask two and three things; the third asks nothing and has no chance to be right.
  empty = by_key(
    evaluate.aggregate(
      {"accuracy": np.full((2, 2), np.nan), "exact_match": np.full((2, 2), np.nan)}, Shape(np.arange(2))
    )
  )
  assert empty == {}


def test_chance_of_exact_match_is_that_of_the_items_that_ask():
  exact = np.array([[1, np.nan], [np.nan, np.nan], [1, 1]])
  score = by_key(evaluate.aggregate({"exact_match": exact}, Shape(np.full(2, 3))))["exact_match", 3, None]
  assert score.n_items == 2
  assert score.chance == pytest.approx((0.5 + 0.25) / 2)


# --- models of known ability ----------------------------------------------------------------------

TASKS = {
  "rule_induction": {"num_items": 6},
  "associative_recall": {"num_keys": 8, "num_values": 8, "num_pairs": 4},
  "power_law": {"name": "associative_recall", "num_keys": 8, "num_values": 8, "num_pairs": 4,
                "layout": "power_law"},
  "markov_chain": {"length": 12},
  "arithmetic": {"num_digits": 1, "num_items": 3},
  "noisy_majority": {"length": 8},
  "khop": {"length": 5, "num_letters": 3, "max_hops": 1},
}  # fmt: skip
NUM_EXAMPLES = 512


def make(name, **groups):
  task = {"name": name, **TASKS[name]}
  tree = {**RUN, "task": task, "eval": {"num_examples": NUM_EXAMPLES, "batch_size": NUM_EXAMPLES}}
  config = configs.from_mapping(merged(tree, **groups))
  return config, tasks.make_task(config.task)


class Recorded:
  """Stands in for the model: its parameters are its logits [B, P, V], of the one batch there is."""

  def __init__(self, config):
    del config

  def apply(self, variables, tokens, label_positions):
    del tokens, label_positions
    return variables["params"]


def evaluator(config, task):
  """Returns the evaluator of a single run."""
  return evaluate.Evaluator(config, task, parallel.Solo(config, task, parallel.make_layout(config)))


def scores_of(monkeypatch, config, task, logits):
  monkeypatch.setattr(evaluate, "Transformer", Recorded)
  s = state.TrainState(None, jnp.asarray(logits, jnp.float32), None, None, None, None)
  return by_key(evaluator(config, task)(s)[0])


@pytest.mark.parametrize("name", TASKS)
def test_a_model_that_knows_nothing_scores_chance(monkeypatch, name):
  config, task = make(name)
  V, P = config.model.vocab_size, len(config.task.label_positions)
  # Uniform but for what breaks ties at random.
  noise = 1e-4 * np.random.default_rng(0).standard_normal((NUM_EXAMPLES, P, V))
  scores = scores_of(monkeypatch, config, task, noise)
  assert {metric for metric, *_ in scores} >= {"accuracy", "exact_match", "nll", "choice_prob", "brier"}
  for (metric, *_), score in scores.items():
    if metric == "accuracy":
      assert abs(score.value - task.chance) < 4 * score.stderr
    exact = {"nll": math.log(V), "choice_prob": task.chance, "brier": 1 - task.chance}
    if metric in exact:
      assert score.value == pytest.approx(exact[metric], rel=1e-3)
    if metric in ("accuracy", "choice_prob"):
      assert score.chance == task.chance


# Strings of khop differ in how many answers they ask for.
@pytest.mark.parametrize("name", [name for name in TASKS if name != "khop"])
def test_exact_match_by_chance_asks_for_a_whole_window(monkeypatch, name):
  config, task = make(name)
  V, P = config.model.vocab_size, len(config.task.label_positions)
  noise = np.random.default_rng(0).standard_normal((NUM_EXAMPLES, P, V))
  # Only choices are ever answered, so that chance is that of a guess among them.
  noise += np.where(np.isin(np.arange(V), task.choices), 100, 0)
  asked = config.task.num_pairs if hasattr(config.task, "num_pairs") else task.window * task.answer_length
  for (metric, *_), score in scores_of(monkeypatch, config, task, noise).items():
    if metric == "exact_match":
      assert score.chance == pytest.approx(task.chance**asked)
      assert abs(score.value - score.chance) < 4 * math.sqrt(score.chance / NUM_EXAMPLES)


@pytest.mark.parametrize("name", TASKS)
def test_the_bayes_predictor_scores_what_theory_says(monkeypatch, name):
  config, task = make(name)
  batch = evaluate.evaluation_batch(config, task)
  bayes = np.asarray(jax.jit(task.bayes_predict)(batch))
  logits = np.full((*bayes.shape[:2], config.model.vocab_size), -100.0)
  logits[..., task.choices] = np.log(np.maximum(bayes, 1e-30))
  scores = scores_of(monkeypatch, config, task, logits)
  theory = task.bayes_accuracy()
  for (metric, shots, where), score in scores.items():
    if metric == "kl_bayes":
      assert score.value == pytest.approx(0, abs=1e-5)
    if metric == "accuracy" and theory is not None:
      queries = slice(-task.window, None) if where else task.shots == shots
      assert abs(score.value - theory[queries].mean()) <= 4 * score.stderr + 1e-9
    if metric == "beats_baseline":
      assert score.value > 0.95
  assert ("kl_bayes", None, "window") in scores


def test_the_simpler_predictor_is_told_from_bayes(monkeypatch):
  config, task = make("markov_chain")
  batch = evaluate.evaluation_batch(config, task)
  logits = np.log(np.asarray(jax.jit(task.baseline_predict)(batch)))
  scores = scores_of(monkeypatch, config, task, logits)
  window = {metric: score.value for (metric, _, where), score in scores.items() if where == evaluate.WINDOW}
  assert window["kl_baseline"] == pytest.approx(0, abs=1e-5)
  assert window["kl_bayes"] > 0.01
  assert window["beats_baseline"] == 0


# --- the evaluation set ---------------------------------------------------------------------------


def test_every_cell_answers_the_same_questions(cache):
  config, task = make("rule_induction")
  batch = evaluate.evaluation_batch(config, task)
  other, _ = make("rule_induction", model={"d_model": 16}, optimizer={"learning_rate": 1e-4}, seed=7)
  again = evaluate.evaluation_batch(other, tasks.make_task(other.task))
  for field in ("tokens", "targets", "weights"):
    np.testing.assert_array_equal(getattr(batch, field), getattr(again, field))
  fresh, _ = make("rule_induction", eval={"seed": 1})
  assert (evaluate.evaluation_batch(fresh, task).tokens != batch.tokens).any()
  # One set on disk for each question asked, none for each cell.
  assert len(list((cache / "evaluation_sets").glob("rule_induction_*"))) >= 2


def test_training_never_draws_the_evaluation_set():
  """Sequences of a seed used for evaluation come from another stream than those of any training seed."""
  config, task = make("rule_induction", seed=20_000)
  assert config.seed == config.eval.seed
  batch = evaluate.evaluation_batch(config, task)
  key = jax.random.key_data(jax.random.key(config.seed))  # as `state.init_state` makes it
  drawn = task.sample(state.stream(key, state.DATA, 0), NUM_EXAMPLES, (), "train")
  assert (np.asarray(drawn.tokens) != batch.tokens).any(axis=1).mean() > 0.9


def test_the_evaluator_scores_the_model_it_is_given():
  """Against the same numbers put together by hand from the model's logits."""
  config, task = make("rule_induction")
  s = jax.jit(lambda: state.init_state(config))()
  params, scores = s.params, by_key(evaluator(config, task)(s)[0])
  batch = evaluate.evaluation_batch(config, task)
  logits = np.asarray(jax.jit(Transformer(config.model).apply)({"params": params}, batch.tokens), np.float64)
  log_p = special.log_softmax(logits, axis=-1)
  for k, position in enumerate(config.task.label_positions):
    gold = batch.targets[:, position]
    nll = -log_p[np.arange(NUM_EXAMPLES), position, gold]
    assert scores["nll", k, None].value == pytest.approx(nll.mean(), rel=1e-5)
    assert scores["nll", k, None].stderr == pytest.approx(stats.sem(nll), rel=1e-4)
    best = task.choices[logits[:, position][:, task.choices].argmax(-1)]
    assert scores["accuracy", k, None].value == pytest.approx((best == gold).mean())
