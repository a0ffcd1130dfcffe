"""Weights in fewer bits: what is held, what products of them are, and what they cost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax import generate, kernels, model_config, param_paths, quantize
from lm_jax.generation_config import GenerationConfig
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.presets import PRESETS
from lm_jax.strict import ConfigError

SIZES = {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 40}
STYLES = {
  "gpt2": PRESETS["gpt2"], "llama": PRESETS["llama"] | {"num_kv_heads": 2}, "bert": PRESETS["bert"],
  "scanned": PRESETS["llama"] | {"scan_layers": True, "num_layers": 2},
  "bfloat16": PRESETS["gpt2"] | {"dtype": "bfloat16"},
}  # fmt: skip


def make(style: str, **fields) -> tuple[ModelConfig, dict]:
  c = model_config.resolve(ModelConfig(**SIZES | STYLES[style] | fields), 37, 48)
  params = Transformer(c).init(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return c, jax.tree.unflatten(tree, noisy)


def held(w: np.ndarray, kind: str) -> quantize.Rows:
  return quantize.quantized({"kernel": {"kernel": jnp.asarray(w)}}, kind)["kernel"]["kernel"]


def wide(w: quantize.Rows) -> np.ndarray:
  """Returns W [D, F] in float64."""
  rows = np.asarray(w.rows_FD, np.float64)
  return (rows if w.scale_F is None else rows * np.asarray(w.scale_F, np.float64)[:, None]).T


def bfloat16(x: np.ndarray) -> np.ndarray:
  return np.asarray(jnp.asarray(x).astype(jnp.bfloat16), np.float64)


# One token, few, more than products with the weights on the left are for, and many, which are in chunks.
@pytest.mark.parametrize("M", [1, 2, 17, 200])
@pytest.mark.parametrize("kind", quantize.KINDS)
def test_a_product_is_that_of_the_weights_held(kind, M):
  rng = np.random.default_rng(0)
  w, x = rng.normal(size=(70, 420)).astype(np.float32), rng.normal(size=(M, 70)).astype(np.float32)
  x[:, 3] *= 1000  # an outlier, beside which 8 bits would leave little of the rest
  narrow = held(w, kind)
  got = np.asarray(jax.jit(kernels.project)(jnp.asarray(x), narrow), np.float64)
  factor = bfloat16(x) if kind == "bfloat16" else x.astype(np.float64)
  wanted = factor @ wide(narrow)
  # Numbers are off by a 64516th of a token's largest one at most, each independently: this is six sigma.
  atol = 6 * np.sqrt(70 / 3) * np.abs(x).max() / 64516 if kind == "int8" else 1e-2
  np.testing.assert_allclose(got, wanted, atol=atol)
  assert np.abs(wanted).max() > 1000


@pytest.mark.parametrize("M", [1, 3, 200])
@pytest.mark.parametrize("kind", quantize.KINDS)
def test_zeros_stay_zeros(kind, M):
  w, x = np.ones((8, 6), np.float32), np.ones((M, 8), np.float32)
  w[:, 5] = 0
  x[-1] = 0
  got = np.asarray(jax.jit(kernels.project)(jnp.asarray(x), held(w, kind)))
  assert not got[-1].any() and not got[:, 5].any()
  np.testing.assert_allclose(got[:-1, :5], 8, rtol=1e-6)


@pytest.mark.parametrize("M", [1, 2, 17, 200])
@pytest.mark.parametrize("kind", quantize.KINDS)
def test_the_number_of_tokens_changes_last_bits_only(kind, M):
  rng = np.random.default_rng(1)
  w, x = rng.normal(size=(64, 48)).astype(np.float32), rng.normal(size=(200, 64)).astype(np.float32)
  narrow, project = held(w, kind), jax.jit(kernels.project)
  some, all_ = project(jnp.asarray(x[:M]), narrow), project(jnp.asarray(x), narrow)
  np.testing.assert_allclose(np.asarray(some), np.asarray(all_)[:M], atol=2e-3 if kind == "int8" else 2e-5)


def test_int8_is_within_half_a_step_of_every_weight():
  w = np.random.default_rng(2).standard_t(3, size=(50, 20)).astype(np.float32)
  narrow = held(w, "int8")
  step_F = np.abs(w).max(0) / 127
  np.testing.assert_allclose(np.asarray(narrow.scale_F), step_F, rtol=1e-6)
  assert (np.abs(w - wide(narrow)) <= step_F * (0.5 + 1e-5)).all()
  assert np.abs(np.asarray(narrow.rows_FD)).max() == 127


def test_float32_is_the_same_numbers():
  _, params = make("gpt2")
  back = quantize.dequantized(quantize.quantized(params, "float32"))
  for path, x in param_paths.flat(params).items():
    np.testing.assert_array_equal(param_paths.flat(back)[path], x, err_msg=path)


@pytest.mark.parametrize("kind", quantize.KINDS)
@pytest.mark.parametrize("style", STYLES)
def test_a_model_computes_with_the_weights_held(style, kind):
  """Everywhere a matrix is used, scanned blocks, tied and untied tables, encoders' heads among them."""
  c, params = make(style)
  narrow = quantize.quantized(params, kind)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 37, (2, 11)))
  model = jax.jit(lambda p: Transformer(c).apply({"params": p}, tokens))
  logits = lambda p: np.asarray(model(p))  # noqa: E731
  got, restored, full = logits(narrow), logits(quantize.dequantized(narrow)), logits(params)
  # The rounding of activations is bfloat16's in the first two cases.
  near = 0.2 if c.dtype == "bfloat16" else 0.1 if kind == "bfloat16" else 2e-3
  np.testing.assert_allclose(got, restored, atol=near)
  error = np.abs(got - full).max()
  assert error < 0.4
  assert kind == "float32" or error > 1e-3


def test_losses_of_a_large_vocabulary():
  c, params = make("llama", vocab_size=20_000)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 20_000, (2, 40)))
  nll = functools.partial(Transformer(c).apply, targets_BP=tokens[:, ::-1])
  narrow = quantize.quantized(params, "int8")
  got, wanted = (nll({"params": p}, tokens) for p in (narrow, quantize.dequantized(narrow)))
  np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), atol=1e-3)


@pytest.mark.parametrize(("kind", "bytes_a_weight"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_memory(kind, bytes_a_weight):
  _, params = make("llama")
  leaves = param_paths.flat(params)
  matrices = {path: x for path, x in leaves.items() if path.endswith(("kernel", "table"))}
  outputs = sum(x.shape[0 if path.endswith("table") else 1] for path, x in matrices.items())
  vectors = 4 * sum(x.size for path, x in leaves.items() if path not in matrices)
  scales = 4 * outputs if kind == "int8" else 0
  wanted = bytes_a_weight * sum(x.size for x in matrices.values()) + scales + vectors
  assert quantize.num_bytes(quantize.quantized(params, kind)) == wanted
  assert vectors > 0 and len(matrices) == 7 + 2


def test_generation():
  """Prompts are read by products of many tokens, and the rest a token at a time."""
  c, params = make("llama")
  narrow = quantize.quantized(params, "int8")
  prompts, g = [[1, 2, 3], [4, 5, 6, 7]], GenerationConfig(max_new_tokens=6, temperature=0)
  got, wanted = (generate.generate(c, p, prompts, g) for p in (narrow, quantize.dequantized(narrow)))
  assert [x[0].tokens for x in got] == [x[0].tokens for x in wanted]
  log_p = [np.array([x[0].log_p for x in found]) for found in (got, wanted)]
  np.testing.assert_allclose(*log_p, atol=2e-3)


def test_bad_input():
  c, params = make("gpt2")
  with pytest.raises(ConfigError, match=r"weights='int4': must be one of .*; did you mean 'int8'"):
    quantize.quantized(params, "int4")
  other = dataclasses.replace(c, d_ff=24)
  with pytest.raises(ValueError, match="block_0/mlp/up/kernel is"):
    Transformer(other).apply({"params": quantize.quantized(params, "int8")}, jnp.zeros((1, 3), jnp.int32))
