"""Plans: every row is read whole, common beginnings once, and no more programs than pay."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import row_scorer, shared_prefixes
from lm_jax.shared_prefixes import Cost, Group, Row, Trie, plan

CHEAP = Cost(token=1.0, pair=0.0, program=0.0)
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9)


def row(tokens: list[int], targets: int = 1) -> Row:
  """Returns a row of which the tokens after the last `targets` are predicted."""
  return Row(tuple(tokens), len(tokens) - targets, (0,) * targets)


def above(trie: Trie, index: int) -> list[int]:
  """Returns where the tokens stand that a token sees: by the definition of `ends` alone."""
  return [j for j in range(index + 1) if trie.ends[j] > index]


def tokens_read(groups: list[Group]) -> int:
  return sum(len(group.stem) + sum(len(trie.tokens) for trie in group.tries) for group in groups)


def check(rows: list[Row], groups: list[Group]) -> None:
  """Asserts that each row is in one trie, and sees its own tokens in their order and no others."""
  found = [i for group in groups for trie in group.tries for i in trie.rows]
  assert sorted(found) == list(range(len(rows)))
  for group in groups:
    for trie in group.tries:
      for i, path in zip(trie.rows, trie.paths, strict=True):
        assert len(path) == len(rows[i].targets)
        seen = above(trie, path[-1])
        assert (*group.stem, *trie.tokens[seen].tolist()) == rows[i].tokens
        assert trie.depths[seen].tolist() == list(range(len(group.stem), len(rows[i].tokens)))
        assert seen[-len(path) :] == path.tolist()


def distinct_beginnings(rows: list[Row]) -> int:
  """Returns the nodes of the trie of all rows: what has to be read at least."""
  return len({row.tokens[:n] for row in rows for n in range(1, len(row.tokens) + 1)})


@settings(deadline=None, max_examples=200)
@given(st.lists(TOKENS, min_size=1, max_size=12), st.integers(1, 40), st.sampled_from([0.0, 5.0]))
def test_every_row_is_read_as_it_is(texts, most, pair):
  rows = [row(text, 1 + i % len(text)) for i, text in enumerate(texts)]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shared_prefixes, "MIN_STEM", 1)
    groups = plan(rows, Cost(1.0, pair, 0.0), most)
  check(rows, groups)
  for group in groups:
    for trie in group.tries:
      longest = max(len(rows[i].tokens) for i in trie.rows)
      assert len(trie.tokens) + len(group.stem) <= max(most, longest)


@settings(deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=12))
def test_nothing_is_read_twice_where_length_costs_nothing(texts):
  rows = [row(text) for text in texts]
  assert tokens_read(plan(rows, CHEAP)) == distinct_beginnings(rows)


def items(stem: int, count: int, context: int = 20, choices: int = 4) -> list[Row]:
  """Returns rows that begin with one stem, then an item's context, then one of its choices, of 3 tokens."""
  rng = np.random.default_rng(0)
  found = []
  for _ in range(count):
    before = [*range(1000, 1000 + stem), *rng.integers(0, 900, context).tolist()]
    found += [row([*before, 2000 + c, 7, 7], 3) for c in range(choices)]
  return found


def test_choices_of_an_item_are_one_row_and_items_are_not():
  rows = items(stem=0, count=5)
  (group,) = plan(rows, Cost(1.0, 0.01, 100.0))
  assert not group.stem
  assert sorted(sorted(trie.rows) for trie in group.tries) == [list(range(i, i + 4)) for i in range(0, 20, 4)]
  assert {len(trie.tokens) for trie in group.tries} == {20 + 4 * 3}


def test_demonstrations_of_many_items_are_read_before_them_if_that_pays():
  few, many = items(stem=60, count=2), items(stem=60, count=12)
  cost = Cost(1.0, 0.01, 100.0)
  assert [group.stem for group in plan(few, cost)] == [()]
  (group,) = plan(many, cost)
  assert group.stem == tuple(range(1000, 1060))
  assert len(group.tries) == 12
  check(many, [group])


def test_a_token_that_is_predicted_after_the_stem_alone_stays_out_of_it():
  # Of one row the last token of what all begin with has a prediction.
  rows = [*items(stem=60, count=12), row(list(range(1000, 1060)))]
  groups = plan(rows, Cost(1.0, 0.01, 1.0))
  check(rows, groups)
  assert {len(group.stem) for group in groups} == {59}


def test_several_sets_of_demonstrations_have_stems_of_their_own():
  rows = items(stem=60, count=12)
  others = [Row(tuple(t + 5000 for t in r.tokens), r.first, r.targets) for r in items(stem=40, count=12)]
  groups = plan(rows + others, Cost(1.0, 0.01, 100.0))
  assert sorted(len(group.stem) for group in groups) == [40, 60]
  check(rows + others, groups)


def test_a_chain_of_texts_each_the_beginning_of_the_next():
  rows = [row(list(range(n))) for n in range(1, 1500)]
  groups = plan(rows, CHEAP)
  check(rows[::100], plan(rows[::100], CHEAP))
  assert tokens_read(groups) == 1499


def test_no_rows_no_plan():
  assert plan([], CHEAP) == shared_prefixes.apart([]) == []


# --- shapes -------------------------------------------------------------------------------------


@given(st.integers(1, 10**5), st.integers(1, 64), st.sampled_from([1, 4]))
def test_sizes_are_from_a_grid(n, least, steps):
  size = row_scorer.round_up(n, least, steps)
  assert size >= n and row_scorer.round_up(size, least, steps) == size
  assert size == least or size < n * (1 + 1 / steps) + 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 500))
def test_lengths_cost_least(sizes, program):
  cost = Cost(1.0, 0.1, float(program))
  grid = sorted({row_scorer.round_up(size, row_scorer.MIN_LENGTH) for size in sizes})

  def total(ends: list[int]) -> float:
    found, before = 0.0, 0
    for end in ends:
      rows = sum(before < row_scorer.round_up(size, row_scorer.MIN_LENGTH) <= end for size in sizes)
      found, before = found + program + rows * cost.read(end, 3), end
    return found

  subsets = [some for n in range(len(grid)) for some in itertools.combinations(grid[:-1], n)]
  chosen = row_scorer.choose_lengths(sizes, cost, 64, before=3, packs=False)
  assert all(size == length for size, length in chosen)
  assert total([size for size, _ in chosen]) == pytest.approx(
    min(total([*some, grid[-1]]) for some in subsets)
  )


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_short_texts_share_rows(sizes):
  asked = [row_scorer._asked([row([0] * n)], plan([row([0] * n)], CHEAP)[0].tries[0]) for n in sizes]
  bins = row_scorer.pack(asked, 20)
  assert sorted(one.size for packed in bins for one in packed) == sorted(sizes)
  assert max(sum(one.size for one in packed) for packed in bins) <= 20
  # First fit decreasing: at most 11/9 of the best, and 6/9 (Dósa 2007).
  assert len(bins) <= max(-(-sum(sizes) // 20), sum(n > 10 for n in sizes)) * 1.5 + 1


def test_packing_replaces_padding_and_programs():
  chosen = row_scorer.choose_lengths(list(range(20, 60)) * 8, Cost(1.0, 1e-4, 1000.0), 1024)
  assert len(chosen) == 1 and chosen[0][1] >= 60


def test_batches_have_little_padding():
  assert row_scorer.choose_rows([64], most=64, length=32) == 64
  assert row_scorer.choose_rows([1], most=64, length=32) == 1
  assert row_scorer.choose_rows([70], most=64, length=500) in (14, 24, 35, 40)
  assert row_scorer.choose_rows([3, 3, 3], most=64, length=500) == 3
