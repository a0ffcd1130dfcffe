"""Tasks against independent enumeration: every sequence of a small task, with its exact probability."""

import collections
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lm_jax import config as configs
from lm_jax import task_configs
from lm_jax.strict import ConfigError
from lm_jax.tasks import TASKS, Batch, Task, make_task
from lm_jax.tasks.markov_chain import stationary
from lm_jax.tasks.occupancy import binomial_pmf, max_count_pmf

DEFAULT = [
  task_configs.RuleInduction(),
  task_configs.AssociativeRecall(),
  task_configs.MarkovChain(),
  task_configs.Arithmetic(),
  task_configs.NoisyMajority(),
]
VARIANTS = [
  task_configs.RuleInduction(num_attributes=3, num_labels=8, num_items=5, holdout=0.25, loss="all"),
  task_configs.AssociativeRecall(num_keys=12, num_values=6, num_pairs=3, layout="power_law", length=30),
  task_configs.MarkovChain(num_symbols=3, length=9, concentration=0.3),
  task_configs.Arithmetic(num_digits=11, num_items=2, reverse_answer=True, loss="all"),
  task_configs.NoisyMajority(num_symbols=2, length=3, num_levels=2),
]
ALL = DEFAULT + VARIANTS

# Small enough that every sequence can be listed.
LISTABLE = [
  task_configs.RuleInduction(num_attributes=2, num_values=2, num_labels=2, num_items=3),
  task_configs.RuleInduction(num_attributes=2, num_values=2, num_labels=3, num_items=3),
  task_configs.RuleInduction(num_attributes=2, num_values=3, num_labels=3, num_items=3),
  task_configs.RuleInduction(num_attributes=3, num_values=2, num_labels=2, num_items=3),
  task_configs.RuleInduction(num_attributes=1, num_values=3, num_labels=4, num_items=4),
  task_configs.NoisyMajority(num_symbols=2, length=7, num_levels=3),
  task_configs.NoisyMajority(num_symbols=3, length=5, num_levels=4, max_signal=0.6),
  task_configs.AssociativeRecall(num_keys=3, num_values=2, num_pairs=2),
  task_configs.AssociativeRecall(
    num_keys=2, num_values=2, num_pairs=1, layout="power_law", length=6, power=0.5
  ),
  task_configs.Arithmetic(num_digits=1, num_items=2),
]


def _name(config):
  changed = {k: v for k, v in vars(config).items() if v != getattr(type(config), k)}
  return "-".join([config.name, *(f"{k}={v}" for k, v in changed.items())])


@functools.cache
def _task(config):
  return make_task(config)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
  """Each program runs once or twice here, so compiling it well would take longer than running it badly."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@functools.cache
def _batch(config, batch_size=2048, split="train"):
  sample = jax.jit(lambda key: _task(config).sample(key, batch_size, split=split))
  return jax.tree.map(np.asarray, sample(jax.random.key(0)))


def _predict(config, batch):
  return np.asarray(jax.jit(_task(config).bayes_predict)(batch))


def _labels(config, batch):
  """Returns the tokens asked for, [B, P], and which of them count."""
  positions = np.array(config.label_positions)
  return batch.targets[:, positions], batch.weights[:, positions] > 0


# --- all sequences of a small task, written without the code under test --------------------------


def _list_rule_induction(c):
  values = list(itertools.product(range(c.num_values), repeat=c.num_attributes))
  maps = list(itertools.permutations(range(c.num_labels), c.num_values))
  sequences = list(itertools.product(values, repeat=c.num_items))
  probability = 1 / (len(sequences) * len(maps) * c.num_attributes)
  for items, rule, j in itertools.product(sequences, maps, range(c.num_attributes)):
    full = []
    for item in items:
      full += [a * c.num_values + x for a, x in enumerate(item)]
      full.append(c.num_attributes * c.num_values + rule[item[j]])
    yield full[:-1], full[1:], probability


def _list_noisy_majority(c):
  for hidden, s in itertools.product(range(c.num_symbols), np.linspace(0, c.max_signal, c.num_levels)):
    for tokens in itertools.product(range(c.num_symbols), repeat=c.length):
      of_token = [s * (x == hidden) + (1 - s) / c.num_symbols for x in tokens]
      yield tokens, [hidden] * c.length, math.prod(of_token) / (c.num_symbols * c.num_levels)


def _list_associative_recall(c):
  num_slots = len(c.label_positions)
  power_law = c.layout == "power_law"
  slot_weight = [float(g) ** (c.power - 1) if power_law else 1.0 for g in range(1, num_slots + 1)]
  keys = list(itertools.permutations(range(c.num_keys), c.num_pairs))
  values = list(itertools.product(range(c.num_keys, c.vocab_size), repeat=c.num_pairs))
  fillers = list(itertools.product(range(c.vocab_size), repeat=2 * (num_slots - c.num_pairs)))
  for ks, vs, slots in itertools.product(keys, values, itertools.permutations(range(num_slots), c.num_pairs)):
    left, probability = sum(slot_weight), 1 / (len(keys) * len(values) * len(fillers))
    for slot in slots:
      probability *= slot_weight[slot] / left
      left -= slot_weight[slot]
    for filler in fillers:
      rest = iter(filler)
      full = [token for pair in zip(ks, vs, strict=True) for token in pair]
      for slot in range(num_slots):
        p = slots.index(slot) if slot in slots else None
        full += [next(rest), next(rest)] if p is None else [ks[p], vs[p]]
      full += [0] * power_law
      yield full[:-1], full[1:], probability


def _list_arithmetic(c):
  operands = list(itertools.product(range(10**c.num_digits), repeat=2 * c.num_items))
  for numbers in operands:
    full = []
    for a, b in zip(numbers[::2], numbers[1::2], strict=True):
      text = f"{a:0{c.num_digits}}+{b:0{c.num_digits}}={a + b:0{c.num_digits + 1}};"
      full += ["0123456789+=;".index(letter) for letter in text]
    full = full[:-1]
    yield full[:-1], full[1:], 1 / len(operands)


@functools.cache
def _listing(config):
  """Returns every (tokens, targets) of a task, int [N, T] twice, and their probabilities, [N]."""
  tokens, targets, probabilities = zip(*globals()[f"_list_{config.name}"](config), strict=True)
  np.testing.assert_allclose(sum(probabilities), 1)
  return np.array(tokens), np.array(targets), np.array(probabilities)


@functools.cache
def _posteriors(config):
  """Returns, for each label position, {context: probability of context and choice, [C]}."""
  tokens, targets, probabilities = _listing(config)
  tables = []
  for position in config.label_positions:
    table = collections.defaultdict(lambda: np.zeros(config.vocab_size))
    for context, target, p in zip(tokens[:, : position + 1].tolist(), targets[:, position], probabilities,
                                  strict=True):  # fmt: skip
      table[tuple(context)][target] += p
    tables.append({context: joint[_task(config).choices] for context, joint in table.items()})
  return tables


# --- geometry and purity -------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=_name)
def test_arrays_have_the_geometry_of_the_config(config):
  task, batch = _task(config), _batch(config)
  assert configs.resolve(configs.Config(task=config)).task == config
  assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (2048, config.sequence_length)
  assert [a.dtype for a in (batch.tokens, batch.targets, batch.weights)] == [np.int32, np.int32, np.float32]
  assert batch.tokens.min() >= 0 and max(batch.tokens.max(), batch.targets.max()) < config.vocab_size
  assert len(task.shots) * task.answer_length == len(config.label_positions)
  assert task.shots.dtype == task.choices.dtype == np.int32
  assert 1 <= task.window <= len(task.shots)
  assert task.chance == pytest.approx(1 / len(task.choices))
  labels, counted = _labels(config, batch)
  assert np.isin(labels, task.choices)[counted].all()


@pytest.mark.parametrize("config", ALL, ids=_name)
def test_targets_are_next_tokens_and_weights_mark_the_loss(config):
  batch = _batch(config)
  if config.name != "noisy_majority":
    np.testing.assert_array_equal(batch.targets[:, :-1], batch.tokens[:, 1:])
  expected = np.isin(np.arange(config.sequence_length), task_configs.loss_positions(config))
  if getattr(config, "layout", None) == "power_law":
    assert (batch.weights <= expected).all() and (batch.weights.sum(axis=1) == config.num_pairs).all()
  else:
    np.testing.assert_array_equal(batch.weights, np.broadcast_to(expected, batch.weights.shape))


@pytest.mark.parametrize("config", DEFAULT, ids=_name)
def test_sample_is_a_pure_function_of_its_key(config):
  task, jitted = _task(config), _batch(config)
  for _ in range(2):
    eager = task.sample(jax.random.key(0), 2048)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
  other = task.sample(jax.random.key(1), 2048)
  assert (np.asarray(other.tokens) != jitted.tokens).any(axis=1).mean() > 0.9


NOT_PROCEDURAL = (task_configs.PythonStdlib, task_configs.Text)


def test_every_procedural_config_has_a_task():
  procedural = {c for c in task_configs.TaskConfig.__args__ if c not in NOT_PROCEDURAL}
  assert procedural <= set(TASKS)
  assert all(cls.__name__ == config_cls.__name__ for config_cls, cls in TASKS.items())


def test_a_fed_task_that_is_asked_to_sample_says_that_it_is_fed():
  class Fed(Task):
    is_fed = True

  with pytest.raises(NotImplementedError, match="Fed is fed"):
    Fed().sample(jax.random.key(0), 2)


# --- the sampling distribution and the yardsticks, against the listing ---------------------------


@pytest.mark.parametrize("config", LISTABLE, ids=_name)
def test_samples_follow_the_listed_distribution(config):
  tokens, targets, probabilities = _listing(config)
  exact = collections.Counter()
  for row, p in zip(np.hstack([tokens, targets]).tolist(), probabilities, strict=True):
    exact[tuple(row)] += p
  batch = _batch(config, 20_000)
  seen = collections.Counter(map(tuple, np.hstack([batch.tokens, batch.targets]).tolist()))
  assert set(seen) <= set(exact)
  # Sequences in order of probability, joined into cells of at least ten expected samples.
  observed, expected = [0], [0.0]
  for row, p in sorted(exact.items(), key=lambda item: item[1]):
    if expected[-1] >= 10:
      observed.append(0)
      expected.append(0.0)
    observed[-1] += seen[row]
    expected[-1] += p * 20_000
  assert len(expected) > 8
  assert stats.chisquare(observed, np.array(expected) * (20_000 / sum(expected))).pvalue > 1e-3


# Labels at the filler slots of a power law are not asked, and the yardsticks mean nothing there.
@pytest.mark.parametrize("config", [c for c in LISTABLE if vars(c).get("layout") != "power_law"], ids=_name)
def test_bayes_accuracy_is_that_of_the_listing(config):
  best = [sum(joint.max() for joint in table.values()) for table in _posteriors(config)]
  best = np.array(best).reshape(-1, _task(config).answer_length)
  exact = _task(config).bayes_accuracy()
  assert exact.dtype == np.float64
  for answer_token in best.T:
    np.testing.assert_allclose(answer_token, exact, rtol=1e-12)


@pytest.mark.parametrize("config", LISTABLE, ids=_name)
def test_bayes_predict_is_the_posterior_of_the_listing(config):
  batch = jax.tree.map(lambda a: a[:200], _batch(config, 20_000))
  predicted = _predict(config, batch)
  _, counted = _labels(config, batch)
  assert predicted.dtype == np.float32
  for p, (position, table) in enumerate(zip(config.label_positions, _posteriors(config), strict=True)):
    joint = np.array([table[tuple(row)] for row in batch.tokens[:, : position + 1].tolist()])
    if vars(config).get("layout") == "power_law":  # the predictor is told which slots are queries
      joint = np.eye(config.num_values)[batch.targets[:, position] - config.num_keys]
    exact = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(predicted[counted[:, p], p], exact[counted[:, p]], atol=2e-6)


@pytest.mark.parametrize("config", ALL, ids=_name)
def test_bayes_predictor_is_calibrated_at_full_size(config):
  task, batch = _task(config), _batch(config, split="test" if getattr(config, "holdout", 0) else "train")
  predicted = _predict(config, batch).astype(np.float64)
  np.testing.assert_allclose(predicted.sum(axis=2), 1, atol=1e-5)
  labels, counted = _labels(config, batch)
  hit = labels == task.choices[predicted.argmax(axis=2)]
  confidence = predicted.max(axis=2)
  if config.name == "markov_chain":  # the start, left out of its predictor, matters in the first few
    hit, confidence, counted = hit[:, 10:], confidence[:, 10:], counted[:, 10:]
  # Of what the predictor calls p sure, a share p is right.
  difference = np.where(counted, hit - confidence, 0)
  stderr = difference.std(axis=0) / np.sqrt(len(hit))
  assert (abs(difference.mean(axis=0)) <= 4 * stderr + 1e-6).all()
  exact = task.bayes_accuracy()
  if exact is not None:
    assert (exact >= task.chance - 1e-12).all() and (exact <= 1 + 1e-12).all()
    assert (np.diff(exact) >= -1e-12).all()
    exact_P = np.repeat(exact, task.answer_length)
    num_P = np.maximum(counted.sum(axis=0), 1)
    accuracy_P = (hit & counted).sum(axis=0) / num_P
    error_P = np.sqrt(exact_P * (1 - exact_P) / num_P)
    present_P = counted.any(axis=0)
    assert (abs(accuracy_P - exact_P) <= 4 * error_P + 1e-6)[present_P].all()


# --- rule induction ------------------------------------------------------------------------------


@functools.cache
def _maps_drawn(config, split):
  """Returns how often each value -> label map was drawn, read off sequences of one attribute."""
  batch = jax.tree.map(np.asarray, _task(config).sample(jax.random.key(0), 4096, split=split))
  labels, _ = _labels(config, batch)
  counts = collections.Counter()
  for values, row in zip(batch.tokens[:, ::2].tolist(), labels.tolist(), strict=True):
    rule = dict(zip(values, row, strict=True))
    if len(rule) == config.num_values:
      counts[tuple(rule[value] for value in range(config.num_values))] += 1
  return counts


@pytest.mark.parametrize("holdout", [0.01, 0.25, 0.99])
def test_held_out_maps_are_never_trained_on(holdout):
  config = task_configs.RuleInduction(
    num_attributes=1, num_values=3, num_labels=4, num_items=14, holdout=holdout
  )
  train, test = _maps_drawn(config, "train"), _maps_drawn(config, "test")
  assert not set(train) & set(test)
  assert len(set(train) | set(test)) == 24
  assert len(test) == min(max(round(24 * holdout), 1), 23)
  for counts in (train, test):
    assert len(counts) == 1 or stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_without_holdout_both_splits_draw_all_maps():
  config = task_configs.RuleInduction(num_attributes=1, num_values=3, num_labels=4, num_items=14)
  for split in ("train", "test"):
    counts = _maps_drawn(config, split)
    assert len(counts) == 24 and stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("sizes", [{"num_values": 1, "num_labels": 1}, {"num_values": 9, "num_labels": 9}])
def test_maps_that_cannot_be_split_are_refused(sizes):
  with pytest.raises(ConfigError, match=r"config\.task\.holdout"):
    configs.resolve(configs.Config(task=task_configs.RuleInduction(holdout=0.5, **sizes)))


def test_bayes_accuracy_of_the_default_rule_induction_by_distinct_cells():
  """Recomputes the curve over all 2^16 sets of distinct (a1, a2) cells seen, for relevant a1.

  All sets of s cells are equally likely after k items, so the curve is a sum over sizes.
  """
  seen = (np.arange(2**16)[:, None] >> np.arange(16) & 1).reshape(-1, 4, 4).astype(bool)  # [set, a1, a2]
  size = seen.sum(axis=(1, 2))
  row_seen, column_seen = seen.any(axis=2), seen.any(axis=1)
  both = (seen.sum(axis=1).max(axis=1) <= 1) & (seen.sum(axis=2).max(axis=1) <= 1)  # a2 explains it too
  unseen = np.maximum(4 - row_seen.sum(axis=1), 1)
  true_mass = np.where(row_seen[:, :, None], np.eye(4), (~row_seen / unseen[:, None])[:, None])  # [., a1, y]
  recalled = seen.transpose(0, 2, 1).astype(float)  # a2 -> the a1 it came with, which names the label
  other_mass = np.where(column_seen[:, :, None], recalled, (~row_seen / unseen[:, None])[:, None])
  mixed = (true_mass[:, :, None] + other_mass[:, None]) / 2  # [., a1, a2, y]
  posterior = np.where(both[:, None, None, None], mixed, true_mass[:, :, None])
  of_set = posterior.max(axis=3).mean(axis=(1, 2))
  of_size = np.array([of_set[size == s].mean() for s in range(17)])
  size_pmf, curve = np.eye(17)[0], []
  for _ in range(12):
    curve.append(size_pmf @ of_size)
    repeat = size_pmf * np.arange(17) / 16
    size_pmf = repeat + np.append(0, (size_pmf - repeat)[:-1])
  exact = make_task(task_configs.RuleInduction()).bayes_accuracy()
  np.testing.assert_allclose(exact, curve, rtol=1e-12)
  assert exact[0] == 0.25


def test_more_attributes_and_labels_are_harder():
  def curve(**sizes):
    return make_task(task_configs.RuleInduction(**sizes)).bayes_accuracy()

  base = curve()
  assert (curve(num_attributes=3)[1:] < base[1:]).all()
  assert (curve(num_labels=8) < base).all()
  # One attribute is a table with four entries: known with the chance that the value came before.
  known = 1 - 0.75 ** np.arange(12)
  one = curve(num_attributes=1, num_labels=5)
  assert (one > known).all() and (one < known + (1 - known) * 0.51).all()


# --- associative recall --------------------------------------------------------------------------


@pytest.mark.parametrize("config", [c for c in ALL if c.name == "associative_recall"], ids=_name)
def test_recalled_value_is_the_one_paired_earlier(config):
  batch = _batch(config)
  labels, counted = _labels(config, batch)
  queries = batch.tokens[:, np.array(config.label_positions)]
  num_pairs = config.num_pairs
  for tokens, query, label, asked in zip(batch.tokens, queries, labels, counted, strict=True):
    pairs = dict(zip(tokens[: 2 * num_pairs : 2], tokens[1 : 2 * num_pairs : 2], strict=True))
    assert len(pairs) == num_pairs and max(pairs) < config.num_keys
    assert sorted(query[asked]) == sorted(pairs)
    assert [pairs[q] for q in query[asked]] == label[asked].tolist()


# --- Markov chain --------------------------------------------------------------------------------


@functools.cache
def _beta_grid(alpha):
  """Returns quadrature nodes p01, p10 and weights, exact for the polynomials of a few transitions."""
  x, w = np.polynomial.legendre.leggauss(40)
  x, w = (x + 1) / 2, w / 2
  density = w * (x * (1 - x)) ** (alpha - 1)
  a, b = np.meshgrid(x, x, indexing="ij")
  weight = np.outer(density, density)
  return a, b, weight / weight.sum()


def _chain_likelihood(symbols, a, b):
  step = {(0, 0): 1 - a, (0, 1): a, (1, 0): b, (1, 1): 1 - b}
  return math.prod((step[pair] for pair in itertools.pairwise(symbols)), start=np.ones_like(a))


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_bigram_predictor_is_the_posterior_given_the_first_symbol(alpha):
  config = task_configs.MarkovChain(length=9, concentration=alpha)
  contexts = np.array(list(itertools.product(range(2), repeat=8)), np.int32)
  predicted = _predict(config, Batch(tokens=contexts, targets=contexts, weights=np.ones(contexts.shape)))
  a, b, weight = _beta_grid(alpha)
  for context, rows in zip(contexts[::5], predicted[::5], strict=True):
    for t in range(8):
      seen = context[: t + 1]
      mass = [(weight * _chain_likelihood([*seen, s], a, b)).sum() for s in range(2)]
      np.testing.assert_allclose(rows[t], np.array(mass) / sum(mass), atol=1e-5)


def test_chains_start_in_their_stationary_distribution():
  batch = _batch(task_configs.MarkovChain(length=4), 20_000)
  a, b, weight = _beta_grid(1.0)
  paths = list(itertools.product(range(2), repeat=4))
  exact = [(weight * (a if p[0] else b) / (a + b) * _chain_likelihood(p, a, b)).sum() for p in paths]
  full = np.column_stack([batch.tokens, batch.targets[:, -1]])
  observed = np.bincount(full @ [8, 4, 2, 1], minlength=16)
  assert sum(exact) == pytest.approx(1, abs=1e-6)
  assert stats.chisquare(observed, 20_000 * np.array(exact) / sum(exact)).pvalue > 1e-3


@pytest.mark.parametrize("num_symbols", [2, 5])
def test_stationary_distribution_is_left_unchanged_by_the_chain(num_symbols):
  rows = np.random.default_rng(0).dirichlet(np.full(num_symbols, 0.3), (50, num_symbols))
  rows = np.maximum(rows, 1e-4) / np.maximum(rows, 1e-4).sum(axis=2, keepdims=True)
  pi = np.asarray(jax.jit(stationary)(jnp.asarray(rows, jnp.float32)), np.float64)
  values, vectors = np.linalg.eig(rows.transpose(0, 2, 1))
  exact = np.take_along_axis(vectors, abs(values - 1).argmin(axis=1)[:, None, None], axis=2)[..., 0].real
  np.testing.assert_allclose(pi, exact / exact.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_stationary_distribution_of_chains_that_hardly_move():
  rows = jnp.array([[[1 - 1e-7, 1e-7], [3e-7, 1 - 3e-7]], [[0.5, 0.5], [0.0, 1.0]]], jnp.float32)
  np.testing.assert_allclose(jax.jit(stationary)(rows), [[0.75, 0.25], [0, 1]], rtol=1e-5, atol=1e-6)


def test_bigram_predictor_beats_the_unigram_and_the_unigram_beats_chance():
  config = task_configs.MarkovChain()
  batch = _batch(config)
  predictors = (_predict(config, batch), jax.jit(_task(config).baseline_predict)(batch))
  bigram, unigram = (
    -np.log(np.take_along_axis(np.asarray(p), batch.targets[..., None], axis=2)).mean() for p in predictors
  )
  assert bigram < unigram - 0.05 < np.log(2) - 0.1


def test_baseline_predictor_counts_the_symbols_seen():
  config = next(c for c in VARIANTS if c.name == "markov_chain")
  batch = _batch(config)
  counts = np.cumsum(np.eye(config.num_symbols)[batch.tokens], axis=1) + config.concentration
  predicted = jax.jit(_task(config).baseline_predict)(batch)
  np.testing.assert_allclose(predicted, counts / counts.sum(axis=2, keepdims=True), rtol=1e-5)


# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [c for c in ALL if c.name == "arithmetic"], ids=_name)
def test_every_item_is_a_true_equation(config):
  batch = _batch(config)
  full = np.column_stack([batch.tokens, batch.targets[:, -1]])
  answers = _predict(config, batch).argmax(axis=2)
  np.testing.assert_array_equal(answers, _labels(config, batch)[0])
  for row in full:
    text = "".join("0123456789+=;"[token] for token in row)
    items = text.split(";")
    assert len(items) == config.num_items
    for item in items:
      operands, answer = item.split("=")
      a, b = operands.split("+")
      assert len(a) == len(b) == config.num_digits and len(answer) == config.num_digits + 1
      assert int(a) + int(b) == int(answer[::-1] if config.reverse_answer else answer)


# --- noisy majority ------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0, 1e-9, 0.25, 0.5, 1])
def test_binomial_law(probability):
  counts = np.arange(201)
  expected = stats.binom.pmf(counts, counts[:, None], probability)
  np.testing.assert_allclose(binomial_pmf(200, probability), expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize(("balls", "bins"), [(6, 1), (6, 2), (5, 4), (3, 6)])
def test_law_of_the_fullest_bin(balls, bins):
  pmf = max_count_pmf(balls, bins)
  for n in range(balls + 1):
    throws = np.array(list(itertools.product(range(bins), repeat=n)), np.int64).reshape(bins**n, n)
    fullest = (throws[:, :, None] == np.arange(bins)).sum(axis=1).max(axis=1)
    np.testing.assert_allclose(pmf[n], np.bincount(fullest, minlength=balls + 1) / bins**n, atol=1e-14)


@pytest.mark.parametrize("config", [c for c in LISTABLE if c.name == "noisy_majority"], ids=_name)
def test_one_token_adds_what_ties_allow(config):
  """The docstring's proof: at level s, accuracy grows by the mean of (r - 1) q s, r symbols being tied."""
  levels, gained = np.linspace(0, config.max_signal, config.num_levels), np.zeros(config.length - 1)
  for t in range(1, config.length):
    tokens = np.array(list(itertools.product(range(config.num_symbols), repeat=t)))
    counts = (tokens[:, :, None] == np.arange(config.num_symbols)).sum(axis=1)
    leads = counts == counts.max(axis=1, keepdims=True)
    for s in levels:
      other = (1 - s) / config.num_symbols
      joint = (s + other) ** counts * other ** (t - counts) / config.num_symbols  # [sequence, hidden]
      gained[t - 1] += (
        s * ((leads.sum(axis=1) - 1) * joint[np.arange(len(joint)), leads.argmax(axis=1)]).sum()
      )
  exact = _task(config).bayes_accuracy()
  np.testing.assert_allclose(np.diff(exact), gained / config.num_levels, atol=1e-12)


@pytest.mark.parametrize("sizes", [{}, {"num_symbols": 8}, {"length": 64, "max_signal": 0.5}])
def test_bayes_accuracy_of_the_smooth_control_has_no_step(sizes):
  exact = make_task(task_configs.NoisyMajority(**sizes)).bayes_accuracy()
  gain = np.diff(exact)
  assert (gain >= -1e-12).all() and gain.max() < 0.11
  # From three tokens on the curve is concave up to the parity of ties, and ever flatter.
  assert (np.diff(gain[2:]) < 0.005).all()
