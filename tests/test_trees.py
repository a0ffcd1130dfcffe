"""Texts read as one trie score what they score alone, whatever the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kv_cache import STYLES, make

from lm_jax.model import Transformer
from lm_jax.row_scorer import RowScorer
from lm_jax.shared_prefixes import Row

STEM = tuple(range(1, 34))  # longer than the shortest that is read beforehand
FREE = 0.0  # FLOPs of compiling a program


def rows_of(rng: np.random.Generator, stem: tuple[int, ...], items: int) -> list[Row]:
  """Returns items of several choices, some of them a single token, some beginnings of others."""
  rows = []
  for _ in range(items):
    context = (*stem, *rng.integers(0, 37, rng.integers(1, 5)).tolist())
    for choice in ((3,), (4,), (3, 5), (3, 5, 6), (7, 8)):
      rows.append(Row((*context, *choice[:-1]), len(context) - 1, choice))
  return rows


def alone(config, params, rows: list[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns (log p, is greedy) of rows' targets by all of the logits; what is after a token it never sees."""
  T = max(len(row.tokens) for row in rows)
  tokens = jnp.array([[*row.tokens, *[0] * (T - len(row.tokens))] for row in rows])
  logits = Transformer(config).apply({"params": params}, tokens)
  log_p = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))
  found = []
  for row, of_row in zip(rows, log_p, strict=True):
    at, targets = of_row[row.first : len(row.tokens)], np.array(row.targets)
    found.append((at[np.arange(len(targets)), targets], at.argmax(-1) == targets))
  return found


@pytest.mark.parametrize("style", STYLES)
def test_scores_are_those_of_rows_alone(style, monkeypatch):
  monkeypatch.setattr("lm_jax.row_scorer.FLOPS_PER_PROGRAM_LAYER", FREE)
  config, params = make(**STYLES[style])
  rng = np.random.default_rng(0)
  rows = [*rows_of(rng, STEM, 3), *rows_of(rng, (), 3)]
  scorer = RowScorer(config, params)
  found = scorer(rows)
  assert scorer.tokens_read < sum(len(row.tokens) for row in rows) / 5
  for own, wanted in zip(found, alone(config, params, rows), strict=True):
    np.testing.assert_allclose(own[0], wanted[0], atol=3e-5)
    assert own[1].tolist() == wanted[1].tolist()


def test_in_bfloat16_it_is_as_close_as_that_allows():
  config, params = make(**STYLES["llama"], dtype="bfloat16")
  rows = rows_of(np.random.default_rng(0), (), 2)
  for own, wanted in zip(RowScorer(config, params)(rows), alone(config, params, rows), strict=True):
    np.testing.assert_allclose(own[0], wanted[0], atol=0.15)
