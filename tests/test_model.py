"""The Transformer: what it computes, what a position may depend on, and how it starts."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import random_params, tiny

from lm_jax import model_config
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig


@functools.partial(jax.jit, static_argnames=("model", "label_positions"))
def logits(params, tokens, *, model, label_positions=None, **data):
  return Transformer(model).apply({"params": params}, tokens, label_positions=label_positions, **data)


@functools.partial(jax.jit, static_argnames="model")
def dropped(params, tokens, key, *, model):
  return Transformer(model).apply({"params": params}, tokens, deterministic=False, rngs={"dropout": key})


def random_tokens(model: ModelConfig, B: int = 2, T: int = 6, seed: int = 0) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).integers(0, model.vocab_size, (B, T)), jnp.int32)


def preset(name: str, **fields) -> ModelConfig:
  # Two query heads for each kv-head where the preset does not say (PaLM: one kv-head for all).
  return tiny(preset=name, **({"num_kv_heads": 2} if name == "llama" else {}), **fields)


DECODERS = [name for name in reference.PRESETS if name != "bert"]

# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.PRESETS)
def test_preset_computes_what_its_paper_says(name):
  model = preset(name)
  params, tokens = random_params(model), random_tokens(model)
  out = logits(params, tokens, model=model)
  np.testing.assert_allclose(out, reference_logits(name, params, tokens, model), rtol=1e-5, atol=1e-5)
  assert out.std() > 0.5


def reference_logits(name: str, params: Any, tokens: jax.Array, model: ModelConfig) -> np.ndarray:
  w = reference.weights(params, model)
  return np.stack([reference.PRESETS[name](w, np.asarray(row), model.num_heads) for row in tokens])


@pytest.mark.parametrize("name", reference.PRESETS)
def test_gradients_are_the_slopes_of_the_reference(name):
  """By every parameter array, along a random direction, against a central difference in float64."""
  model = preset(name, num_layers=1)
  params, tokens = random_params(model), random_tokens(model)
  rng = np.random.default_rng(0)
  cotangent = rng.standard_normal((*tokens.shape, model.vocab_size))

  def loss(params):
    return (Transformer(model).apply({"params": params}, tokens) * cotangent.astype(np.float32)).sum()

  leaves, treedef = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), params))
  grads = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
  for i, grad in enumerate(grads):
    direction, step = rng.standard_normal(grad.shape), 1e-5
    ends = []
    for sign in (1, -1):
      moved = [leaf + sign * step * direction if j == i else leaf for j, leaf in enumerate(leaves)]
      ends.append((reference_logits(name, treedef.unflatten(moved), tokens, model) * cotangent).sum())
    # A key's bias adds the same to all scores of a query, so without rotation its gradient is zero.
    np.testing.assert_allclose(
      (grad * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-4
    )


def test_every_preset_is_tested():
  assert set(ModelConfig.PRESETS) == set(reference.PRESETS)


# --- what a position depends on ---------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_is_causal(name):
  by_input = reference.dependence(preset(name, context_length=6))
  later = np.triu(np.ones_like(by_input, bool), 1)
  np.testing.assert_array_equal(by_input[later], 0)
  assert by_input[~later].min() > 1e-6


@pytest.mark.parametrize("style", [{"preset": "gpt2", "causal": False}, {"preset": "bert"}])
def test_encoder_sees_the_future(style):
  assert reference.dependence(tiny(context_length=6, **style)).min() > 1e-6


def test_sequences_of_a_batch_are_independent():
  model = preset("llama")
  params, tokens = random_params(model), random_tokens(model, B=3)
  together = logits(params, tokens, model=model)
  changed = logits(params, tokens.at[0].set(0), model=model)
  np.testing.assert_array_equal(together[1:], changed[1:])
  np.testing.assert_allclose(together[1:2], logits(params, tokens[1:2], model=model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ("name", "positions"),
  [("llama", (1, 3, 5)), ("llama", (0, 1, 4)), ("llama", (2,)), ("llama", (5, 0)), ("original", (0, 2))],
)
def test_label_positions_select(name, positions):
  model = preset(name)
  params, tokens = random_params(model), random_tokens(model)
  every = logits(params, tokens, model=model)
  some = logits(params, tokens, model=model, label_positions=positions)
  assert some.shape == (2, len(positions), model.vocab_size)
  np.testing.assert_allclose(some, every[:, np.array(positions)], rtol=0, atol=1e-5)


def test_sequences_longer_than_the_context_are_refused():
  model = tiny(context_length=4)
  with pytest.raises(ValueError, match=r"5 tokens .* context_length=4"):
    jax.eval_shape(Transformer(model).init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32))


# --- equal programs ---------------------------------------------------------------------------------


def test_scanned_layers_are_the_unrolled_ones():
  unrolled, scanned = (preset("llama", scan_layers=scan) for scan in (False, True))
  params, tokens = random_params(unrolled), random_tokens(unrolled)

  def value_and_grad(model, params):
    def f(params):
      out = Transformer(model).apply({"params": params}, tokens)
      return jnp.square(out).mean(), out

    (_, out), grads = jax.jit(jax.value_and_grad(f, has_aux=True))(params)
    return out, grads

  out, grads = value_and_grad(unrolled, params)
  stacked_out, stacked_grads = value_and_grad(scanned, reference.stack_blocks(params, 2))
  np.testing.assert_allclose(stacked_out, out, rtol=0, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max())),
    stacked_grads, reference.stack_blocks(grads, 2),
  )  # fmt: skip


def test_a_tied_output_matrix_is_the_table():
  tied, untied = (tiny(tie_embeddings=tie) for tie in (True, False))
  params, tokens = random_params(tied), random_tokens(tied)
  assert "output" in reference.shapes(untied)
  assert "output" not in params
  output = {"output": {"kernel": reference.embeddings(params).T}}
  np.testing.assert_allclose(
    logits(params, tokens, model=tied), logits({**params, **output}, tokens, model=untied), rtol=0, atol=1e-5
  )


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("positions", [None, (1, 3, 4)])
def test_nll_of_targets_is_that_of_the_logits(positions, tie_embeddings, monkeypatch):
  """In chunks too, of a vocabulary taken for large."""
  model = tiny(tie_embeddings=tie_embeddings)
  params, tokens = random_params(model), random_tokens(model)
  targets = random_tokens(model, T=len(positions or tokens[0]), seed=1)
  log_p = jax.nn.log_softmax(logits(params, tokens, model=model, label_positions=positions))
  expected = -np.take_along_axis(np.asarray(log_p), np.asarray(targets)[..., None], -1)[..., 0]
  monkeypatch.setattr(model_config, "MIN_CHUNK_TOKENS", 1)
  for most in (model_config.DIRECT_LOGITS, 1):  # positions at a time: all; two
    monkeypatch.setattr(model_config, "DIRECT_LOGITS", most)
    monkeypatch.setattr(model_config, "CHUNK_LOGITS", 4 * model.vocab_size)
    assert model.loss_chunk(2, targets.shape[1]) == (targets.shape[1] if most > 1 else 2)
    out = Transformer(model).apply({"params": params}, tokens, label_positions=positions, targets_BP=targets)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    weights = jnp.arange(expected.size, dtype=jnp.float32).reshape(expected.shape)
    loss = Transformer(model).apply(
      {"params": params}, tokens, label_positions=positions, targets_BP=targets, weights_BP=weights
    )
    np.testing.assert_allclose(loss, (weights * expected).sum(), rtol=1e-6)


@pytest.mark.parametrize(("tokens", "chunk"), [(2048, 2048), (8192, 5336), (2**20, 5336)])
def test_an_accelerator_holds_more_logits_at_a_time(tokens, chunk):
  model = tiny(vocab_size=50_304)
  assert model.loss_chunk(1, tokens, "gpu") == chunk
  assert model.loss_chunk(1, tokens) == 512


# --- bfloat16 and rematerialization -------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.PRESETS)
def test_logits_of_bfloat16_are_float32_and_near(name):
  wide, narrow = (preset(name, dtype=dtype) for dtype in ("float32", "bfloat16"))
  params, tokens = random_params(wide), random_tokens(wide, B=4)
  assert reference.shapes(narrow) == reference.shapes(wide)
  exact, out = (logits(params, tokens, model=model) for model in (wide, narrow))
  assert out.dtype == jnp.float32
  error = np.abs(out - exact)
  assert 0 < error.mean() < 0.02 * exact.std()
  assert error.max() < 0.1 * exact.std()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("remat", ["block", "products"])
def test_what_is_computed_again_is_the_same(remat, scan_layers, dropout):
  """Gradients, and so the dropout masks of the second time."""
  plain = preset("llama", dropout=dropout, scan_layers=scan_layers)
  params, tokens = random_params(plain), random_tokens(plain)

  def value_and_grad(model):
    def f(params):
      rngs = {"dropout": jax.random.key(0)}
      out = Transformer(model).apply({"params": params}, tokens, deterministic=dropout == 0, rngs=rngs)
      return jnp.square(out).mean()

    return jax.jit(jax.value_and_grad(f))(params)

  again = dataclasses.replace(plain, remat=remat)
  assert reference.shapes(again) == reference.shapes(plain)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max()),
    value_and_grad(again), value_and_grad(plain),
  )  # fmt: skip


# --- dropout ----------------------------------------------------------------------------------------


def test_dropout_is_off_unless_asked_for():
  model = preset("gpt2", dropout=0.5)
  params, tokens = random_params(model), random_tokens(model)
  plain = logits(params, tokens, model=model)
  np.testing.assert_array_equal(plain, logits(params, tokens, model=preset("gpt2")))
  a, b, again = (dropped(params, tokens, jax.random.key(seed), model=model) for seed in (0, 1, 0))
  np.testing.assert_array_equal(a, again)
  assert np.abs(a - plain).max() > 0.1
  assert np.abs(a - b).max() > 0.1


@pytest.mark.parametrize("scan_layers", [True, False])
def test_dropout_keeps_the_mean(scan_layers):
  """On a network made linear: uniform attention, no MLP, norms whose epsilon outweighs any variance."""
  model = tiny(dropout=0.25, positions="none", attention_only=True, norm_epsilon=1e8, scan_layers=scan_layers)

  def linearize(path: tuple, leaf: jax.Array) -> jax.Array:
    names = {entry.key for entry in path}
    if "scale" in names:
      return jnp.full_like(leaf, 1e4)
    return jnp.zeros_like(leaf) if "query" in names else leaf

  params = jax.tree_util.tree_map_with_path(linearize, random_params(model))
  row = random_tokens(model, B=1, T=4)
  plain = logits(params, row, model=model)[0]
  out = dropped(params, jnp.tile(row, (8192, 1)), jax.random.key(0), model=model)
  error = np.abs(out.mean(0) - plain) / (out.std(0) / math.sqrt(len(out)))
  assert out.std(0).min() > 0.1
  assert error.max() < 4.5  # standard errors, over 44 logits


# --- initialization ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def initial():
  """Returns a function from a style to (model, initial parameters, logits at random tokens)."""

  def start(**style):
    model = tiny(vocab_size=512, context_length=32, d_model=64, **style)
    key = jax.random.key(0, impl="rbg")  # compiles several times faster than the default
    params = jax.jit(Transformer(model).init)(key, jnp.zeros((1, 32), jnp.int32))["params"]
    return model, params, logits(params, random_tokens(model, B=8, T=32), model=model)

  return functools.cache(start)


# Norms end in unit variance, so logits have the standard deviation of sqrt(D) output weights.
@pytest.mark.parametrize(
  ("name", "std"), [("original", 1), ("gpt2", 0.02 * 8), ("palm", 1), ("llama", 0.02 * 8), ("bert", 0.02 * 8)]
)
def test_initial_logits_are_small(initial, name, std):
  _, _, out = initial(preset=name)
  assert 0.8 * std < out.std() < 1.25 * std
  nll = jax.nn.logsumexp(out, axis=-1).mean() - out.mean()
  # Of targets independent of the input: std^2 / 2 above the uniform guess, and more with a scaled and
  # tied table, by which each token at first predicts itself.
  assert nll < math.log(512) + std**2 + 0.01


def test_gpt2_scales_residual_writers_by_depth(initial):
  model, params, _ = initial(preset="gpt2")
  w = reference.weights(params, model)
  for block in w["blocks"]:
    for name in ("out", "down", "query", "up"):
      expected = 0.02 / math.sqrt(2 * model.num_layers) if name in ("out", "down") else 0.02
      assert 0.95 * expected < block[name][0].std() < 1.05 * expected
  assert 0.95 * 0.02 < w["positions"].std() < 1.05 * 0.02


def test_every_matrix_of_bert_has_one_scale(initial):
  """But for biases and the 2 x 64 of segments and of the next sentence, too few to tell."""
  _, params, _ = initial(preset="bert")
  matrices = [x for x in jax.tree.leaves(params) if x.ndim == 2 and x.size > 1000]
  assert len(matrices) == 2 * 6 + 4  # of the layers; tokens, positions, transform, pooler
  assert all(0.95 * 0.02 < x.std() < 1.05 * 0.02 for x in matrices)


@pytest.mark.parametrize("initializer", ["fan_in", "xavier_uniform"])
def test_scanned_layers_start_different_and_at_the_right_scale(initial, initializer):
  model, params, _ = initial(initializer=initializer, scan_layers=True)
  first, second = (block["up"][0] for block in reference.weights(params, model)["blocks"])
  assert np.abs(first - second).max() > 0.01
  fan = model.d_model if initializer == "fan_in" else (model.d_model + model.d_ff) / 2
  assert 0.95 < first.std() * math.sqrt(fan) < 1.05
