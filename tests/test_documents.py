"""Documents, prefixes and windows through the whole model: packed is one by one, and nobody sees more."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import random_params, tiny

from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig

T = 10
# Two sequences; the second ends in padding, a document of its own.
DOCUMENTS = np.array([[5, 5, 5, 5, 2, 2, 2, 9, 9, 9], [0, 1, 1, 1, 1, 1, 1, 7, 7, 7]], np.int32)
KINDS = ("learned", "sinusoidal", "rope", "none")


def model_of(**fields) -> ModelConfig:
  return tiny(**{"context_length": T, "vocab_size": 13, **fields})


@functools.partial(jax.jit, static_argnames="model")
def apply(params, tokens, *, model, **data):
  return Transformer(model).apply({"params": params}, tokens, **data)


def random_tokens(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 13, (2, T)).astype(np.int32)


def runs(documents_T: np.ndarray) -> list[slice]:
  """Returns where each document of a sequence is."""
  cuts = [0, *(np.flatnonzero(np.diff(documents_T)) + 1), len(documents_T)]
  return [slice(a, b) for a, b in itertools.pairwise(cuts)]


# --- packing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "window"), [*((kind, None) for kind in KINDS), ("learned", 3)])
@pytest.mark.parametrize("causal", [True, False])
def test_a_packed_document_has_the_loss_it_has_alone(positions, causal, window):
  model = model_of(positions=positions, causal=causal, attention_window=window)
  params, tokens, targets = random_params(model), random_tokens(), random_tokens(1)
  packed = apply(params, tokens, model=model, targets_BP=targets, documents_BT=DOCUMENTS)
  alone = np.zeros((2, T), np.float32)
  for row, documents in enumerate(DOCUMENTS):
    for where in runs(documents):
      one, its_targets = (jnp.asarray(x[row : row + 1, where]) for x in (tokens, targets))
      alone[row, where] = Transformer(model).apply({"params": params}, one, targets_BP=its_targets)[0]
  np.testing.assert_allclose(packed, alone, rtol=0, atol=2e-5)
  whole = apply(params, tokens, model=model, targets_BP=targets)
  assert np.abs(whole - packed)[:, 4:].max() > 0.01


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing_for_the_others_whatever_it_holds(causal):
  model = model_of(preset="gpt2", causal=causal)
  params, tokens, documents = random_params(model), random_tokens(), jnp.asarray(DOCUMENTS)
  other = jnp.where(documents == 7, (tokens + 1) % 13, tokens)
  first, second = (apply(params, x, model=model, documents_BT=documents) for x in (tokens, other))
  np.testing.assert_array_equal(first[:, :7], second[:, :7])
  assert np.abs(first - second)[1, 7:].max() > 0.1


# --- who has influence --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
  ("style", "limits"),
  [
    ({}, {"documents"}),
    ({}, {"documents", "prefix"}),
    ({"attention_window": 3}, {}),
    ({"attention_window": 3}, {"documents", "prefix"}),
    ({"attention_window": 4, "causal": False}, {"documents"}),
    ({"positions": "learned"}, {"documents"}),
  ],
)
def test_only_what_a_token_sees_has_influence(style, limits, num_layers):
  """By gradients; with two layers, what is seen by what is seen."""
  model = model_of(num_layers=num_layers, **style)
  documents, prefix = DOCUMENTS[0], np.isin(np.arange(T), (0, 2, 5, 6))
  given = {"documents": documents, "prefix": prefix}
  given = {name: value for name, value in given.items() if name in limits}
  who = {"causal": model.causal, "window": model.attention_window}
  seen = reference.visible(T, **who, **given)
  assert not seen.all()
  by_input = reference.dependence(model, **{f"{k}_BT": jnp.asarray(v[None]) for k, v in given.items()})
  reached = np.linalg.matrix_power(seen.astype(int), num_layers) > 0
  np.testing.assert_array_equal(by_input[~reached], 0)
  assert by_input[reached].min() > 1e-6


def test_a_prefix_is_seen_as_the_reference_says():
  model = model_of(preset="gpt2")
  params, tokens, w = random_params(model), random_tokens(), reference.weights(random_params(model), model)
  prefix = np.arange(T)[None] < np.array([[4], [0]])
  out = apply(params, tokens, model=model, prefix_BT=prefix)
  expected = [
    reference.gpt2(w, row, model.num_heads, prefix=p) for row, p in zip(tokens, prefix, strict=True)
  ]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  # No prefix is a causal LM; a prefix of all is an encoder.
  np.testing.assert_allclose(out[1], apply(params, tokens, model=model)[1], rtol=0, atol=1e-5)
  everything = apply(params, tokens, model=model, prefix_BT=np.ones((2, T), bool))
  encoder = apply(params, tokens, model=model_of(preset="gpt2", causal=False))
  np.testing.assert_allclose(everything, encoder, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("window", "causal"), [(1, True), (3, True), (4, False), (5, False)])
def test_a_window_is_that_of_the_reference(window, causal):
  model = model_of(preset="llama", attention_window=window, causal=causal, attention_block=3)
  params, tokens = random_params(model), random_tokens()
  w = reference.weights(params, model)
  expected = [reference.llama(w, row, model.num_heads, causal=causal, window=window) for row in tokens]
  np.testing.assert_allclose(apply(params, tokens, model=model), expected, rtol=1e-5, atol=1e-5)


# --- equal programs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "how", [{"scan_layers": True}, {"remat": "block"}, {"scan_layers": True, "remat": "products"}]
)
def test_scanned_and_recomputed_layers_know_documents_and_prefixes(how):
  plain, other = model_of(), model_of(**how)
  params, tokens = random_params(plain), random_tokens()
  stack = functools.partial(reference.stack_blocks, num_layers=2) if other.scan_layers else lambda p: p
  data = {"documents_BT": jnp.asarray(DOCUMENTS), "prefix_BT": jnp.asarray(DOCUMENTS == 2)}

  def grads(model, params):
    return jax.jit(jax.grad(lambda p: jnp.square(apply(p, tokens, model=model, **data)).mean()))(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max())),
    grads(other, stack(params)), stack(grads(plain, params)),
  )  # fmt: skip


def test_positions_as_data_are_the_static_ones():
  model = model_of()
  params, tokens, targets = random_params(model), jnp.asarray(random_tokens()), random_tokens(1)[:, :3]
  every = apply(params, tokens, model=model)
  rows = jnp.asarray([[0, 4, 9], [1, 1, 2]])
  got = apply(params, tokens, model=model, positions_BP=rows)
  np.testing.assert_allclose(got, every[jnp.arange(2)[:, None], rows], rtol=0, atol=1e-5)

  def value_and_grad(**where):
    def loss(params):
      out = Transformer(model).apply({"params": params}, tokens, targets_BP=jnp.asarray(targets), **where)
      return out.sum()

    return jax.jit(jax.value_and_grad(loss))(params)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    value_and_grad(positions_BP=jnp.asarray([[0, 4, 9]] * 2)), value_and_grad(label_positions=(0, 4, 9)),
  )  # fmt: skip


def test_bfloat16_is_near():
  wide, narrow = (model_of(preset="gpt2", dtype=dtype) for dtype in ("float32", "bfloat16"))
  params, tokens = random_params(wide), random_tokens()
  data = {"documents_BT": DOCUMENTS, "prefix_BT": DOCUMENTS == 5}
  exact, out = (apply(params, tokens, model=model, **data) for model in (wide, narrow))
  error = np.abs(out - exact)
  assert out.dtype == jnp.float32
  assert 0 < error.mean() < 0.02 * exact.std()


# --- bad calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("style", "data", "message"),
  [
    (
      {"causal": False},
      {"prefix_BT": jnp.zeros((2, T), bool)},
      "a prefix given to a model with causal=false",
    ),
    ({}, {"segments_BT": jnp.zeros((2, T), int)}, "segments given to a model with num_segments=0"),
    ({}, {"with_next_sentence": True}, "of a model with next_sentence_head=false"),
    (
      {},
      {"positions_BP": jnp.zeros((2, 1), int), "label_positions": (1,)},
      "label_positions and positions_BP given",
    ),
  ],
)
def test_what_a_model_cannot_use_is_refused(style, data, message):
  model = model_of(**style)
  call = functools.partial(Transformer(model).apply, **data)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(call, {"params": reference.shapes(model)}, jnp.zeros((2, T), jnp.int32))


def test_the_loss_of_padding_is_not_hidden():
  """A document of padding has ordinary losses; it is the batch's weights that leave them out."""
  model = model_of()
  data = {"documents_BT": DOCUMENTS, "targets_BP": random_tokens(1)}
  nll = apply(random_params(model), random_tokens(), model=model, **data)
  assert np.isfinite(nll).all()
  assert nll[1, 7:].mean() > 0.1 * math.log(13)
