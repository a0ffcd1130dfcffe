"""Scores of language modeling from token scores, against plain arithmetic."""

import math
import types

import numpy as np
import pytest

from lm_jax import text_scores


def by_name(scores, bytes_per_token=1.0):
  task = types.SimpleNamespace(bytes_per_token=bytes_per_token)
  return {score.metric: score for score in text_scores.aggregate(scores, task)}


def test_nats_a_token_become_bits_a_byte():
  nll = np.array([[0.5, 1.5], [1.0, 2.0]])
  scores = by_name({"nll": nll, "accuracy": nll > 1}, bytes_per_token=4.0)
  assert scores["nll"].value == 1.25
  assert scores["accuracy"].value == 0.5
  assert scores["bits_per_byte"].value == pytest.approx(1.25 / math.log(2) / 4)
  # Means of the two sequences are 1 and 1.5.
  assert scores["nll"].stderr == pytest.approx(0.25)
  assert scores["bits_per_byte"].stderr == pytest.approx(0.25 / math.log(2) / 4)


def test_only_causal_lm_has_bits_per_byte():
  nll = np.ones((2, 100))
  assert set(by_name({"nll": nll, "accuracy": nll}, bytes_per_token=None)) == {"nll", "accuracy"}


def test_tokens_count_alike_whatever_sequence_they_are_in():
  nll = np.array([[1.0, np.nan, np.nan], [4.0, 4.0, 4.0]])
  assert by_name({"nll": nll, "accuracy": nll})["nll"].value == 13 / 4


def test_the_error_of_a_mean_over_tokens_is_that_of_resampled_sequences():
  rng = np.random.default_rng(0)
  nll = rng.gamma(2, 1, (400, 1)) + rng.normal(0, 1, (400, 30))
  nll[rng.random((400, 30)) < rng.random((400, 1))] = np.nan
  nll[:, 0] = 2
  means = []
  for _ in range(2000):
    again = nll[rng.integers(0, 400, 400)]
    means.append(np.nanmean(again))
  assert text_scores.token_mean("nll", nll).stderr == pytest.approx(np.std(means), rel=0.08)


def test_the_icl_score_is_late_minus_early():
  nll = np.tile(np.linspace(3, 2, 100), (5, 1))
  nll += np.arange(5)[:, None]
  scores = by_name({"nll": nll, "accuracy": nll})
  assert scores["icl_score"].value == pytest.approx(nll[0, 90:].mean() - nll[0, 5:15].mean())
  assert scores["icl_score"].stderr == pytest.approx(0, abs=1e-12)
  assert "icl_score" not in by_name({"nll": nll[:, :20], "accuracy": nll[:, :20]})


def test_next_sentences_are_scored_a_pair():
  nll = np.ones((4, 3))
  right = np.array([[1.0], [1], [1], [0]])
  scores = by_name({"nll": nll, "accuracy": nll, "next_sentence_accuracy": right, "next_sentence_nll": right})
  assert scores["next_sentence_accuracy"].value == 0.75
  assert scores["next_sentence_accuracy"].chance == 0.5
  assert scores["next_sentence_nll"].chance is None
