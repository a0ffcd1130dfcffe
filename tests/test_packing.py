"""Rows of whole documents: nothing is lost, nothing is doubled, little room is left."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data import packing


def bounds(lengths):
  starts = np.concatenate([[0], np.cumsum(lengths)])
  return starts[:-1], starts[1:]


def covered(rows):
  return sorted(part for row in range(len(rows)) for part in rows[row])


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 12), st.integers(0, 3))
def test_every_token_is_in_one_row(lengths, most, overhead):
  capacity = most + overhead
  starts, ends = bounds(lengths)
  for rows in (
    packing.one_a_row(starts, ends, most),
    packing.best_fit(starts, ends, most, capacity, overhead),
  ):
    parts = covered(rows)
    np.testing.assert_array_equal(np.concatenate([np.arange(*part) for part in parts]), np.arange(ends[-1]))
    document_of = np.searchsorted(starts, [start for start, _ in parts], side="right")
    assert all(end <= ends[d - 1] for (_, end), d in zip(parts, document_of, strict=True))
    for row in range(len(rows)):
      assert sum(end - start + overhead for start, end in rows[row]) <= capacity


def test_only_documents_longer_than_a_row_are_cut():
  rows = packing.best_fit(*bounds([5, 3, 9, 4]), 8, 8)
  assert covered(rows) == [(0, 5), (5, 8), (8, 16), (16, 17), (17, 21)]
  # 8 | 5 + 3 | 4 + 1: three rows are the fewest that hold 21 tokens.
  assert len(rows) == 3


def test_few_rows_have_room_left():
  lengths = np.random.default_rng(0).integers(1, 300, 20_000)
  rows = packing.best_fit(*bounds(lengths), 256, 256)
  assert lengths.sum() / (256 * len(rows)) > 0.999
