"""What is hidden and what is predicted: the statistics of masking, and that nothing of the text is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.data import masking
from lm_jax.data.masking import Masker
from lm_jax.text_config import span_geometry

V, MASK = 100, 97
SPECIAL = np.arange(V) >= 95


def masker(rate=0.15, count=38, starts=None):
  return Masker(rate, count, MASK, SPECIAL, starts)


def test_masking_follows_bert():
  """15 % of the tokens are predicted; of them 80 % are masked, 10 % random, 10 % left."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 95, 256)
  masked = drawn = kept = 0
  where, replacements = np.zeros(256), []
  for _ in range(2000):
    s = masker()(tokens, rng)
    predicted = s["weights"] > 0
    assert predicted.sum() == round(0.15 * 256) == 38
    assert (s["tokens"][~predicted] == tokens[~predicted]).all()
    assert (s["targets"] == tokens).all()
    np.testing.assert_array_equal(np.flatnonzero(predicted), s["positions"])
    read = s["tokens"][predicted]
    masked += (read == MASK).sum()
    kept += (read == tokens[predicted]).sum()
    changed = (read != MASK) & (read != tokens[predicted])
    drawn += changed.sum()
    replacements.extend(read[changed])
    where += predicted
  total = 2000 * 38
  # A random token is the same as before once in 95 times. Errors of five standard deviations fail.
  for count, share in ((masked, 0.8), (drawn, 0.1 * 94 / 95), (kept, 0.1 + 0.1 / 95)):
    assert abs(count / total - share) < 5 * np.sqrt(share * (1 - share) / total)
  # Every position is as likely, and so is every ordinary token.
  p = 38 / 256
  assert np.abs(where / 2000 - p).max() < 5 * np.sqrt(p * (1 - p) / 2000)
  counts = np.bincount(replacements, minlength=V)
  assert counts[95:].sum() == 0
  expected = len(replacements) / 95
  assert np.abs(counts[:95] - expected).max() < 6 * np.sqrt(expected)


def test_special_tokens_are_never_predicted():
  tokens = np.array([95, 1, 2, 96, 96, 96, 96, 96])
  for seed in range(200):
    s = masker(rate=0.5, count=4)(tokens, np.random.default_rng(seed))
    # One of two candidates; the other predictions of the four are none, at position 0.
    assert set(np.flatnonzero(s["weights"])) <= {1, 2}
    assert s["weights"].sum() == 1
    assert (s["positions"][:3] == 0).all()
    assert s["weights"][s["positions"]].sum() == 1


def test_whole_words_are_hidden_whole():
  starts = np.zeros(V, bool)
  starts[:30] = True
  rng = np.random.default_rng(1)
  shares = []
  for _ in range(500):
    tokens = np.concatenate([[95], rng.integers(0, 95, 200), [96]])
    s = masker(count=30, starts=starts)(tokens, rng)
    word = np.cumsum(starts[tokens])
    inside = np.arange(1, 201)
    for one in np.unique(word[inside]):
      members = inside[word[inside] == one]
      assert len(set(s["weights"][members])) == 1, "a word is predicted whole or not at all"
    shares.append(s["weights"].sum() / 200)
    assert s["weights"].sum() <= 30
  assert np.mean(shares) == pytest.approx(0.15, abs=0.005)


@given(st.integers(16, 600), st.floats(0.05, 0.5), st.floats(1, 10), st.integers(0, 2**32 - 1))
def test_corrupted_spans_and_targets_are_the_text(T, rate, mean_span, seed):
  """Putting each span where its sentinel stands gives the text back, whatever was drawn."""
  spans = span_geometry(T, rate, mean_span)
  rng = np.random.default_rng(seed)
  text = rng.integers(0, 1000, spans.text_length)
  s = masking.corrupt_spans(text, spans, 1000, 2000, rng)
  assert len(s["tokens"]) == len(s["targets"]) == T
  sequence = np.append(s["tokens"], s["targets"][-1])
  source, target = sequence[: spans.input_length], sequence[spans.input_length :]
  assert target[-1] == 2000
  hidden = np.split(target[:-1], np.flatnonzero(target[:-1] >= 1000))[1:]
  assert [part[0] for part in hidden] == [1000 + i for i in range(spans.count)]
  assert all(len(part) > 1 for part in hidden)
  restored = []
  for token in source:
    restored.extend(hidden[token - 1000][1:] if token >= 1000 else [token])
  np.testing.assert_array_equal(restored, text)
  # All of the targets are predicted, and nothing else.
  np.testing.assert_array_equal(s["targets"][s["weights"] > 0], target)
  assert s["prefix"].sum() == spans.input_length


@pytest.mark.parametrize("T", [32, 128, 512])
def test_span_corruption_hides_what_it_was_asked_to(T):
  spans = span_geometry(T, 0.15, 3.0)
  assert spans.num_noise / spans.text_length == pytest.approx(0.15, abs=0.02)
  assert spans.num_noise / spans.count == pytest.approx(3, abs=1)


def test_spans_are_uniform_over_all_divisions():
  """Of 5 tokens into 3 parts there are 6 ways."""
  rng = np.random.default_rng(0)
  drawn = [tuple(masking._composition(5, 3, rng).tolist()) for _ in range(6000)]
  counts = np.array([drawn.count(one) for one in set(drawn)])
  assert len(counts) == 6
  assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_a_prefix_is_seen_and_not_predicted():
  lengths = []
  for seed in range(3000):
    s = masking.prefix(np.arange(9), np.random.default_rng(seed))
    length = int(s["prefix"].sum())
    assert s["prefix"][:length].all()
    np.testing.assert_array_equal(s["weights"], np.arange(8) >= length - 1)
    np.testing.assert_array_equal(s["targets"], s["tokens"] + 1)
    lengths.append(length)
  counts = np.bincount(lengths)
  assert set(lengths) == set(range(1, 8))
  assert np.abs(counts[1:] - 3000 / 7).max() < 5 * np.sqrt(3000 / 7)
