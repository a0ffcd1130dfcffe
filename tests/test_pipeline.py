"""Batches are a function of (seed, step), whoever asks and in whatever order."""

import numpy as np
import pytest

from lm_jax.data import pipeline

NUM = 50


class Numbers:
  def __init__(self, first):
    self.first = first

  def __len__(self):
    return NUM

  def __getitem__(self, i):
    return self.first + i


def noisy(element, rng):
  return {"value": np.array([element]), "noise": rng.random(2)}


def dataset(seed=0, sources=1, weights=(1,)):
  return pipeline.endless([Numbers(1000 * i) for i in range(sources)], weights, noisy, seed)


def take(seed, first, n, rows=slice(None), batch=10):
  batches = pipeline.batches(dataset(seed), batch, rows, first)
  return [next(batches) for _ in range(n)]


def test_a_run_goes_on_where_it_stopped():
  whole, rest = take(0, 0, 30), take(0, 17, 13)
  for a, b in zip(whole[17:], rest, strict=True):
    np.testing.assert_array_equal(a["value"], b["value"])
    np.testing.assert_array_equal(a["noise"], b["noise"])


def test_hosts_read_their_own_rows_of_one_batch():
  (whole,) = take(0, 7, 1)
  for rows in (slice(0, 5), slice(5, 10), slice(2, 3)):
    (own,) = take(0, 7, 1, rows)
    np.testing.assert_array_equal(own["value"], whole["value"][rows])
    np.testing.assert_array_equal(own["noise"], whole["noise"][rows])


def test_every_epoch_has_everything_once_in_another_order():
  values = np.concatenate([batch["value"][:, 0] for batch in take(0, 0, 15)]).reshape(3, NUM)
  np.testing.assert_array_equal(np.sort(values, axis=1), np.tile(np.arange(NUM), (3, 1)))
  assert len({tuple(epoch) for epoch in values}) == 3
  assert not (values[0] == np.arange(NUM)).all()


def test_the_same_text_is_hidden_otherwise_in_another_epoch():
  noise = {}
  for batch in take(0, 0, 10):
    for value, drawn in zip(batch["value"][:, 0], batch["noise"][:, 0], strict=True):
      noise.setdefault(value, []).append(drawn)
  assert all(len(set(drawn)) == 2 for drawn in noise.values())


def test_seeds_differ():
  assert not all((a["value"] == b["value"]).all() for a, b in zip(take(0, 0, 5), take(1, 0, 5), strict=True))


def test_a_mixture_has_its_weights():
  mixed = dataset(0, 2, (3, 1))
  first = pipeline.first_batch(mixed, 4000)["value"][:, 0]
  assert (first >= 1000).mean() == pytest.approx(0.25, abs=0.01)
  # Each source goes through its epochs by itself.
  np.testing.assert_array_equal(np.unique(first[first >= 1000][:NUM]), 1000 + np.arange(NUM))
