"""GINC against enumeration: every path of hidden states of a small mixture, in float64."""

import collections
import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from lm_jax import config as configs
from lm_jax import task_configs
from lm_jax.strict import ConfigError
from lm_jax.tasks import hidden_markov, make_task

SMALL = {"num_documents": 40, "document_length": 80}
TINY = task_configs.Ginc(num_symbols=4, num_values=2, num_slots=3, num_concepts=2, max_shots=3, **SMALL)
PAIRS = task_configs.Ginc(
  num_symbols=5, num_values=3, num_slots=3, num_concepts=3, example_length=2, max_shots=5,
  transition_temperature=1.0, **SMALL,
)  # fmt: skip
LONGER = task_configs.Ginc(
  num_symbols=6, num_values=2, num_slots=4, num_concepts=2, example_length=4, max_shots=2, context_length=20,
  persistence=0.5, transition_temperature=0.5, **SMALL,
)  # fmt: skip
PUBLISHED = task_configs.Ginc(
  num_symbols=50, num_values=10, num_slots=10, example_length=10, max_shots=64, context_length=1024,
  num_documents=20, document_length=10_240,
)  # fmt: skip
ENUMERATED = [TINY, PAIRS, LONGER]
ALL = [task_configs.Ginc(num_documents=40), *ENUMERATED]


def name(c):
  return f"{c.num_symbols}-{c.num_values}-{c.num_slots}-{c.example_length}-{c.max_shots}"


@functools.cache
def task_of(config):
  return make_task(config)


@functools.cache
def prompts(config, batch_size=400):
  task = task_of(config)
  sample = jax.jit(lambda key: task.sample(key, batch_size, split="test"))
  return jax.tree.map(np.asarray, sample(jax.random.key(5)))


@functools.cache
def examples_of(config, concept, slot):
  """Returns {k tokens: probability} of an example of a concept from a slot, over all hidden paths."""
  m = task_of(config).mixture
  # A state is value * S + slot, as the paper's appendix has it; then moves are a Kronecker product.
  moves, emits = np.kron(m.value_NN, m.slot_CSS[concept]), m.memory_NS.ravel()
  found = collections.defaultdict(float)
  for path in itertools.product(range(len(emits)), repeat=config.example_length):
    p = (path[0] % config.num_slots == slot) / config.num_values
    for i, j in itertools.pairwise(path):
      p *= moves[i, j]
    if p:
      found[tuple(emits[list(path)].tolist())] += p
  return found


def last_token(config, concept, slot, x):
  """Returns p(x and then each token), float64 [V]."""
  p = np.zeros(config.vocab_size)
  for tokens, joint in examples_of(config, concept, slot).items():
    if tokens[:-1] == x:
      p[tokens[-1]] += joint
  return p


def hypotheses(config):
  return list(itertools.product(range(config.num_concepts), range(1, config.num_slots)))


def split_up(config, row):
  """Returns the examples of a prompt, the last without its last token, and asserts its delimiters."""
  stride, rest, row = config.example_length + 1, row[config.prompt_length :], row[: config.prompt_length]
  examples = [tuple(row[i : i + stride].tolist()) for i in range(0, len(row), stride)]
  assert all(example[-1] == 0 and len(example) == stride for example in examples[:-1])
  assert len(examples[-1]) == stride - 2 and not rest.any()
  return [example[: config.example_length] for example in examples]


# --- the mixture ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=name)
def test_moves_are_mixtures_of_permutations_and_memory_has_one_delimiter(config):
  m = task_of(config).mixture
  assert m.documents_DL.shape == (config.num_documents, config.document_length)
  assert not m.memory_NS[:, 0].any() and (m.memory_NS[:, 1:] > 0).all()
  assert m.memory_NS.max() < config.num_symbols and set(np.unique(m.documents_DL)) <= set(m.memory_NS.ravel())
  for moves in (m.value_NN[None], m.slot_CSS):  # doubly stochastic, as permutations are
    np.testing.assert_allclose(moves.sum(axis=1), 1)
    np.testing.assert_allclose(moves.sum(axis=2), 1)
  assert (np.diagonal(m.value_NN) >= config.persistence).all()
  np.testing.assert_allclose(m.start_CNS.sum(axis=(1, 2)), 1)
  ratio_C = m.start_CNS.max(axis=(1, 2)) / m.start_CNS.min(axis=(1, 2))
  assert (ratio_C <= np.exp(1 / config.start_temperature)).all()


def test_documents_follow_the_chain():
  # Documents that begin anywhere alike stay so, and a document's pairs of tokens have one distribution.
  config = task_configs.Ginc(
    num_symbols=5, num_values=2, num_slots=3, num_concepts=2, num_documents=3000, document_length=50,
    start_temperature=1e9, transition_temperature=1.0,
  )  # fmt: skip
  m = hidden_markov.draw(config)
  onehot = np.eye(5)[m.memory_NS.ravel()]
  expected = np.mean([onehot.T @ (np.kron(m.value_NN, slot) / 6) @ onehot for slot in m.slot_CSS], axis=0)
  token = np.eye(5)[m.documents_DL]
  share = np.einsum("DLA,DLB->DAB", token[:, :-1], token[:, 1:]) / 49
  stderr = share.std(axis=0) / np.sqrt(len(share))
  assert (abs(share.mean(axis=0) - expected) <= 4 * stderr + 1e-12).all()


def test_the_mixture_is_a_function_of_the_config():
  assert task_of(TINY).data_digest == hidden_markov.draw(TINY).digest()
  other = task_configs.Ginc(**{**vars(TINY), "concept_seed": 2})
  assert hidden_markov.draw(other).digest() != task_of(TINY).data_digest


# --- sequences ------------------------------------------------------------------------------------


def test_training_reads_windows_of_documents_and_every_token_counts():
  config, task = LONGER, task_of(LONGER)
  batch = jax.jit(lambda key, a: task.sample(key, 500, a))(jax.random.key(0), task.arrays)
  rows = np.column_stack([batch.tokens, batch.targets[:, -1]]).tolist()
  windows = np.lib.stride_tricks.sliding_window_view(task.mixture.documents_DL, len(rows[0]), axis=1)
  known = {tuple(window): place for place, window in enumerate(windows.reshape(-1, len(rows[0])).tolist())}
  places = {known[tuple(row)] for row in rows}  # KeyError: no window of a document
  assert len(places) > 300 and len({place // windows.shape[1] for place in places}) == config.num_documents
  np.testing.assert_array_equal(batch.targets[:, :-1], batch.tokens[:, 1:])
  assert (np.asarray(batch.weights) == 1).all()


@pytest.mark.parametrize("config", [*ALL, PUBLISHED], ids=name)
def test_prompts_have_the_geometry_of_the_config(config):
  task, batch = task_of(config), prompts(config, 40)
  assert configs.resolve(configs.Config(task=config)).task == config
  assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (40, config.sequence_length)
  assert len(task.shots) == len(config.label_positions) == config.max_shots + 1
  for row in batch.tokens:
    assert len(split_up(config, row)) == config.max_shots + 1
  asked = np.isin(np.arange(config.sequence_length), config.label_positions)
  np.testing.assert_array_equal(batch.weights, np.broadcast_to(asked, batch.weights.shape))


def test_prompts_follow_the_listed_distribution():
  config = task_configs.Ginc(**{**vars(PAIRS), "max_shots": 1})
  batch, exact = prompts(config, 20_000), collections.Counter()
  for c, a in hypotheses(config):
    of_x = collections.Counter()
    for tokens, p in examples_of(config, c, a).items():
      of_x[tokens[:-1]] += p
    answer = {x: int(last_token(config, c, a, x).argmax()) for x in of_x}
    for (one, p), (x, q) in itertools.product(examples_of(config, c, a).items(), of_x.items()):
      exact[(*one, *x, answer[one[:-1]], answer[x])] += p * q / len(hypotheses(config))
  rows = np.column_stack([batch.tokens[:, [0, 1, 3]], batch.targets[:, list(config.label_positions)]])
  seen = collections.Counter(map(tuple, rows.tolist()))
  assert sum(exact.values()) == pytest.approx(1) and set(seen) <= set(exact)
  often = [key for key, p in exact.items() if 20_000 * p >= 10]
  rare = 20_000 - sum(seen[key] for key in often), 1 - sum(exact[key] for key in often)
  observed = [*(seen[key] for key in often), rare[0]]
  expected = [*(20_000 * exact[key] for key in often), 20_000 * rare[1]]
  assert len(often) > 20 and stats.chisquare(observed, expected).pvalue > 1e-3


# --- the yardsticks -------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ENUMERATED, ids=name)
def test_bayes_predict_is_the_posterior_over_all_hidden_paths(config):
  batch = prompts(config)
  predicted = np.asarray(jax.jit(task_of(config).bayes_predict)(batch))
  assert predicted.shape == (400, config.max_shots + 1, config.vocab_size)
  targets = batch.targets[:, list(config.label_positions)]
  for row, of_row, answers in zip(batch.tokens, predicted, targets, strict=True):
    weight = dict.fromkeys(hypotheses(config), 1.0)
    for n, (example, of_example, answer) in enumerate(
      zip(split_up(config, row), of_row, answers, strict=True)
    ):
      x, posterior = example[: config.example_length - 1], np.zeros(config.vocab_size)
      for (c, a), w in weight.items():
        joint = last_token(config, c, a, x)
        posterior[joint.argmax()] += w * joint.sum()
        if n < config.max_shots:
          weight[c, a] *= joint[example[-1]]
      np.testing.assert_allclose(of_example, posterior / posterior.sum(), atol=2e-5)
      assert posterior[answer] > 0
      total = sum(weight.values())
      weight = {key: w / total for key, w in weight.items()}


@pytest.mark.parametrize("config", ALL, ids=name)
def test_the_bayes_predictor_is_calibrated_and_no_blind_guess_beats_chance(config):
  task, batch = task_of(config), prompts(config, 4000)
  predicted = np.asarray(jax.jit(task.bayes_predict)(batch), np.float64)
  answers = batch.targets[:, list(config.label_positions)]
  difference = (predicted.argmax(axis=2) == answers) - predicted.max(axis=2)
  stderr = difference.std(axis=0) / np.sqrt(len(difference))
  assert (abs(difference.mean(axis=0)) <= 4 * stderr + 1e-6).all()
  curve = task.bayes_accuracy()
  assert curve.dtype == np.float64 and curve.shape == (config.max_shots + 1,)
  # Two samples of prompts: of 1,024 there, of 4,000 here.
  spread = predicted.max(axis=2).std(axis=0)
  assert (abs(curve - predicted.max(axis=2).mean(axis=0)) <= 4 * spread * np.sqrt(1 / 1024 + 1 / 4000)).all()
  assert curve[-1] > curve[0] >= task.chance > 1 / config.vocab_size
  most = np.bincount(answers[:, 0]).max() / len(answers)
  assert abs(most - task.chance) <= 4 * np.sqrt(task.chance * (1 - task.chance) / 4000)


def test_who_reads_prompts_as_documents_learns_from_examples_and_stays_below_the_yardstick():
  """What a perfect model of the default's documents scores, exactly but for .01 of uniform moves of slots.

  Without these a prompt may be impossible as a document of any concept.
  """
  config, B = task_configs.Ginc(num_documents=40), 1000
  task, m, (N, S) = task_of(config), task_of(config).mixture, (config.num_values, config.num_slots)
  slot_CSS = 0.99 * m.slot_CSS + 0.01 / S
  emits = np.eye(config.vocab_size)[m.memory_NS.ravel()]
  batch = jax.tree.map(np.asarray, jax.jit(lambda key: task.sample(key, B, split="test"))(jax.random.key(0)))
  state_BCNS, accuracy = np.full((B, len(slot_CSS), N, S), 1 / (len(slot_CSS) * N * S)), []
  for t, token_B in enumerate(batch.tokens.T):
    state_BCNS = state_BCNS * (token_B[:, None, None, None] == m.memory_NS)
    state_BCNS = m.value_NN.T @ (state_BCNS / state_BCNS.sum(axis=(1, 2, 3), keepdims=True)) @ slot_CSS
    if t in config.label_positions:
      said_B = (state_BCNS.sum(axis=1).reshape(B, -1) @ emits).argmax(axis=1)
      accuracy.append((said_B == batch.targets[:, t]).mean())
  assert task.chance + 0.3 < accuracy[0] < accuracy[-1] - 0.1
  assert (np.array(accuracy) < task.bayes_accuracy() + 4 * 0.5 / np.sqrt(B)).all()
  assert np.mean(accuracy[-4:]) < task.bayes_accuracy()[-1] - 0.05


@pytest.mark.parametrize(("changed", "message"), [
  ({"num_slots": 1}, "config.task.num_slots=1: must be at least 2"),
  ({"persistence": 1.0}, r"config.task.persistence=1.0: must be in \[0, 1\)"),
  ({"transition_temperature": 0.0}, "config.task.transition_temperature=0.0: must be greater than 0"),
  ({"context_length": 60}, "config.task.context_length=60: must be at least 83, the tokens of a prompt"),
  ({"concept_seed": 0}, "config.task.concept_seed=0: must be greater than 0"),
  ({"document_length": 83}, "config.task.document_length=83: must be more than the 83 tokens"),
])  # fmt: skip
def test_sizes_that_make_no_task_are_refused(changed, message):
  with pytest.raises(ConfigError, match=message):
    configs.resolve(configs.Config(task=task_configs.Ginc(**changed)))
