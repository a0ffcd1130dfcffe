"""What may be drawn, and how often, against float64 numpy and a chi-square test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lm_jax import generation_config, sampling
from lm_jax.generation_config import GenerationConfig
from lm_jax.strict import ConfigError

VOCAB = 700  # more than two segments of a draw, the last of them not full


def logits(seed: int = 0, rows: int = 3, scale: float = 3.0) -> np.ndarray:
  return (scale * np.random.default_rng(seed).normal(size=(rows, VOCAB))).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
  e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def reference(x_BV: np.ndarray, g: GenerationConfig) -> np.ndarray:
  """Returns the probabilities by sorting, a filter after the other."""
  x_BV = x_BV.astype(np.float64) / g.temperature
  for x_V in x_BV:
    if g.top_k is not None:
      x_V[np.argsort(-x_V)[g.top_k :]] = -np.inf
    if g.top_p is not None:
      order = np.argsort(-x_V)
      before = np.concatenate([[0], np.cumsum(softmax(x_V)[order])[:-1]])
      x_V[order[before >= g.top_p]] = -np.inf
    if g.min_p is not None:
      p_V = softmax(x_V)
      x_V[p_V < g.min_p * p_V.max()] = -np.inf
  return softmax(x_BV)


@pytest.mark.parametrize("fields", [
  {}, {"temperature": 0.3}, {"top_k": 1}, {"top_k": 5}, {"top_k": VOCAB}, {"top_k": 10**9}, {"top_p": 0.9},
  {"top_p": 1e-6}, {"top_p": 1.0}, {"min_p": 0.1}, {"min_p": 1.0},
  {"temperature": 1.7, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
])  # fmt: skip
def test_probabilities_are_those_of_sorting(fields):
  g = GenerationConfig(**fields)
  got = np.asarray(sampling.probabilities(jnp.asarray(logits()), sampling.settings(g)))
  np.testing.assert_allclose(got, reference(logits(), g), rtol=2e-5, atol=1e-9)


def test_tokens_that_tie_with_the_last_one_kept_are_kept():
  x = jnp.array([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]])
  got = sampling.probabilities(x, sampling.settings(GenerationConfig(top_k=2)))
  assert (np.asarray(got[0]) > 0).tolist() == [True, False, True, True, True, False]


def test_impossible_tokens_stay_impossible():
  x = jnp.asarray(logits()).at[:, ::2].set(-jnp.inf)
  got = np.asarray(sampling.probabilities(x, sampling.settings(GenerationConfig(top_k=600, top_p=0.999))))
  assert (got[:, ::2] == 0).all() and np.isfinite(got).all()


def test_penalty_divides_positive_logits_and_multiplies_negative_ones():
  x, seen = np.array([[2.0, -2.0, 2.0, -2.0]], np.float32), np.array([[True, True, False, False]])
  got = sampling.penalized(jnp.asarray(x), jnp.asarray(seen), jnp.float32(1.25))
  np.testing.assert_allclose(np.asarray(got), [[1.6, -2.5, 2.0, -2.0]], rtol=1e-6)


def test_a_draw_is_where_the_running_sum_passes_u():
  p_V = softmax(logits())[0].astype(np.float32)
  p_V[:300:2] = 0
  u_N = np.linspace(0, 1, 4001, endpoint=False, dtype=np.float32)
  got = np.asarray(jax.vmap(sampling.drawn, (None, 0))(jnp.asarray(p_V), jnp.asarray(u_N)))
  ends_V = np.cumsum(p_V.astype(np.float64))
  wanted = np.searchsorted(ends_V, u_N.astype(np.float64) * ends_V[-1], side="right")
  # Rounding of sums may move a draw that lies at the edge of a token, to its neighbor.
  assert (got != wanted).mean() < 2e-3
  assert (p_V[got] > 0).all()


@pytest.mark.parametrize("u", [0.0, 0.5, 0.99999994])
def test_only_what_is_possible_is_drawn_at_the_edges(u):
  for possible in (0, 255, 256, 699):
    p_V = jnp.zeros(VOCAB).at[possible].set(1e-30)
    assert int(sampling.drawn(p_V, jnp.float32(u))) == possible


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.7, "top_k": 12}, {"top_p": 0.7}, {"min_p": 0.1}])
def test_frequencies_are_the_probabilities(fields):
  g, draws = GenerationConfig(**fields), 40_000
  x_V = logits(3, rows=1, scale=2.0)
  keys = jax.random.split(jax.random.key(5), draws)
  x_BV, seen_BV = jnp.broadcast_to(x_V, (draws, VOCAB)), jnp.zeros((draws, VOCAB), bool)
  token_B = np.asarray(jax.jit(sampling.choose)(x_BV, seen_BV, sampling.settings(g), keys))
  p_V, counts = reference(x_V, g)[0], np.bincount(token_B, minlength=VOCAB)
  assert counts[p_V == 0].sum() == 0
  common = p_V * draws >= 5
  observed = np.append(counts[common], counts[~common].sum())
  expected = np.append(p_V[common], p_V[~common].sum()) * draws
  keep = expected > 0
  assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


def test_temperature_0_takes_the_most_likely_token():
  x, s = jnp.asarray(logits()), sampling.settings(GenerationConfig(temperature=0))
  got = sampling.choose(x, jnp.zeros(x.shape, bool), s, jax.random.split(jax.random.key(0), 3))
  assert np.asarray(got).tolist() == logits().argmax(-1).tolist()


@pytest.mark.parametrize(("fields", "message"), [
  ({"temperature": -1.0}, "temperature=-1.0: must be 0 or greater"),
  ({"top_k": 0}, "top_k=0: must be greater than 0"),
  ({"top_p": 0.0}, r"top_p=0.0: must be in \(0, 1\]"),
  ({"min_p": 1.5}, r"min_p=1.5: must be in \[0, 1\]"),
  ({"max_new_tokens": 0}, "max_new_tokens=0: must be greater than 0"),
  ({"num_return_sequences": -1}, "num_return_sequences=-1: must be greater than 0"),
  ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: must be greater than 0"),
  ({"stop": ("",)}, "stop=.*texts that are not empty"),
  ({"seed": 2**32}, "seed=.*must be in"),
  ({"num_beams": 2, "top_k": 3}, "top_k=3: must be unset for num_beams=2"),
  ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3: must be at most num_beams=2"),
  ({"temperature": 0, "num_return_sequences": 2}, "num_return_sequences=2: must be 1 for temperature=0"),
])  # fmt: skip
def test_impossible_settings_are_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    generation_config.check(GenerationConfig(**fields))
