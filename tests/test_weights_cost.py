"""What weights in fewer bits cost is the difference of two NLLs of the same text."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models

from lm_jax import quantize, weights_cost
from lm_jax.model import Transformer

TEXT = "Names refer to objects. " * 9  # longer than three windows


def nll(p, params, tokens) -> np.ndarray:
  """Returns -log p of all tokens but the first, from all logits, in float64."""
  logits = np.asarray(
    Transformer(p.model).apply({"params": params}, jnp.asarray([tokens[:-1]]))[0], np.float64
  )
  logits -= logits.max(-1, keepdims=True)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -log_p[np.arange(len(tokens) - 1), tokens[1:]]


def test_every_token_is_predicted_once():
  p = small_models.of_bytes()
  narrow = quantize.quantized(p.params, "int8")
  got = weights_cost.cost(p, narrow, TEXT)
  ids = p.tokenizer.encode(TEXT)
  windows = [[256, *ids[i : i + 64]] for i in range(0, len(ids), 64)]
  full, fewer = (
    np.concatenate([nll(p, params, window) for window in windows]) for params in (p.params, narrow)
  )
  assert (got.num_tokens, got.num_bytes) == (len(full), len(TEXT)) == (216, 216)
  np.testing.assert_allclose([got.full, got.narrow], [full.mean(), fewer.mean()], rtol=1e-4)
  np.testing.assert_allclose(got.nats, (fewer - full).mean(), atol=1e-4)
  np.testing.assert_allclose(got.stderr, (fewer - full).std() / np.sqrt(216), rtol=1e-2)
  # A byte is a token here.
  assert got.bits_per_byte == pytest.approx(got.nats / np.log(2))


def test_without_a_token_that_begins_a_text_the_first_is_not_predicted():
  p = dataclasses.replace(small_models.of_bytes(), begin=())
  got = weights_cost.cost(p, p.params, TEXT)
  ids = p.tokenizer.encode(TEXT)
  windows = [ids[i : i + 65] for i in range(0, len(ids) - 1, 64)]
  wanted = np.concatenate([nll(p, p.params, window) for window in windows])
  assert (got.num_tokens, got.num_bytes) == (len(wanted), len(TEXT) - 1)
  assert got.full == pytest.approx(wanted.mean(), rel=1e-5)
  assert got.nats == got.stderr == 0


def test_noise_in_the_weights_costs_more_than_rounding_them():
  p = small_models.of_pieces()
  leaves, tree = jax.tree.flatten(p.params)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  noisy = [x + jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  rounded = weights_cost.cost(p, quantize.quantized(p.params, "int8"), TEXT)
  assert weights_cost.cost(p, jax.tree.unflatten(tree, noisy), TEXT).nats > 10 * abs(rounded.nats)


def test_a_report():
  p = small_models.of_bytes()
  narrow = quantize.quantized(p.params, "int8")
  line = weights_cost.weights_report(p, narrow)
  found = re.fullmatch(
    r"weights int8: (\S+) GB instead of (\S+); \S+ ± \S+ nats a token, \S+ bits a byte, "
    r"on 4096 tokens of Python's documentation \(\S+ nats a token before\)",
    line,
  )
  assert found, line
  assert float(found[1]) == round(quantize.num_bytes(narrow) / 1e9, 3)
  bare = weights_cost.weights_report(dataclasses.replace(p, tokenizer=None), narrow)
  assert line.startswith(bare + ";")
