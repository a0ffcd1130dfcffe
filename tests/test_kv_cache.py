"""A KV cache changes what is computed when, and not the numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax import kv_cache, model_config
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig, RopeScaling
from lm_jax.presets import PRESETS

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 40}
NEOX = {"positions": "rope", "rotary_fraction": 0.5, "norm": "layernorm", "activation": "gelu_erf",
        "use_bias": True, "parallel_block": True, "parallel_norms": True}  # fmt: skip
STYLES = {
  "gpt2": PRESETS["gpt2"], "palm": PRESETS["palm"], "original": PRESETS["original"], "gpt_neox": NEOX,
  "llama": PRESETS["llama"] | {"num_kv_heads": 2}, "qwen2": PRESETS["llama"] | {"qkv_bias": True},
  "window": PRESETS["llama"] | {"attention_window": 5},
  "scanned": PRESETS["llama"] | {"scan_layers": True},
  "rope_scaling": PRESETS["llama"] | {"rope_scaling": RopeScaling("llama3", 4.0, original_context_length=8)},
  "no_positions": PRESETS["llama"] | {"positions": "none"},
  "multipliers": PRESETS["gpt2"] | {"parametrization": "completep", "base_d_model": 16},
}  # fmt: skip


def make(**fields) -> tuple[ModelConfig, dict]:
  c = model_config.resolve(ModelConfig(**SIZES | fields), 37, 48)
  params = jax.jit(Transformer(c).init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  # Biases and scales too.
  noisy = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return c, jax.tree.unflatten(tree, noisy)


def padded(rows: list[np.ndarray]) -> tuple[jax.Array, jax.Array]:
  """Returns tokens, zeros on their left, and where each row begins."""
  T = max(map(len, rows))
  first = np.array([T - len(row) for row in rows], np.int32)
  tokens = [np.concatenate([np.zeros(T - len(row), np.int32), row]) for row in rows]
  return jnp.asarray(np.stack(tokens)), jnp.asarray(first)


@pytest.mark.parametrize("style", STYLES)
def test_reading_in_parts_gives_the_logits_of_reading_at_once(style):
  c, params = make(**STYLES[style])
  rng = np.random.default_rng(0)
  rows = [rng.integers(0, 37, n).astype(np.int32) for n in (23, 9, 17)]
  apply = jax.jit(Transformer(c).apply)
  alone = [np.asarray(apply({"params": params}, jnp.asarray(row[None]))[0]) for row in rows]
  tokens, first = padded(rows)
  # The prompt, then several tokens, then one at a time.
  prefill = jax.jit(lambda params, tokens: kv_cache.read(c, params, tokens, kv_cache.empty(c, first, 32)))
  read = jax.jit(functools.partial(kv_cache.read, c))
  logits, cache = prefill(params, tokens[:, :16])
  got = [np.asarray(logits)]
  for start, stop in ((16, 20), (20, 21), (21, 22), (22, 23)):
    logits, cache = read(params, tokens[:, start:stop], cache)
    got.append(np.asarray(logits))
  got = np.concatenate(got, axis=1)
  assert int(cache.length) == 23 and cache.num_slots == 32
  for b, (row, logits) in enumerate(zip(rows, alone, strict=True)):
    np.testing.assert_allclose(got[b, first[b] :], logits, atol=2e-5, err_msg=f"{len(row)} tokens")


def test_tokens_in_the_cache_are_read():
  c, params = make(**STYLES["llama"])
  tokens, first = jnp.arange(10)[None], jnp.zeros(1, jnp.int32)
  _, cache = kv_cache.read(c, params, tokens, kv_cache.empty(c, first, 16))
  other, _ = kv_cache.read(c, params, tokens[:, ::-1], kv_cache.empty(c, first, 16))
  next_token = jnp.array([[3]])
  known, _ = kv_cache.read(c, params, next_token, cache)
  forgotten = dataclasses.replace(cache, layers=jax.tree.map(jnp.zeros_like, cache.layers))
  unknown, _ = kv_cache.read(c, params, next_token, forgotten)
  assert np.abs(np.asarray(known - unknown)).max() > 1e-2
  assert np.isfinite(np.asarray(other)).all()


def test_one_prompt_read_once_serves_many_sequences():
  c, params = make(**STYLES["llama"])
  prompt, rest = jnp.arange(11), jnp.array([[1, 2, 3], [4, 5, 6], [1, 7, 9]])
  _, cache = kv_cache.read(c, params, prompt[None], kv_cache.empty(c, jnp.zeros(1, jnp.int32), 11))
  cache = kv_cache.resized(kv_cache.take(cache, jnp.zeros(3, jnp.int32)), 14)
  logits, _ = kv_cache.read(c, params, rest, cache)
  whole = jnp.concatenate([jnp.broadcast_to(prompt, (3, 11)), rest], axis=1)
  wanted = Transformer(c).apply({"params": params}, whole)[:, 11:]
  np.testing.assert_allclose(np.asarray(logits), np.asarray(wanted), atol=2e-5)


def test_an_encoder_has_no_cache():
  c, params = make(**PRESETS["bert"])
  with pytest.raises(ValueError, match="causal=false"):
    kv_cache.read(c, params, jnp.zeros((1, 3), int), kv_cache.empty(c, jnp.zeros(1, jnp.int32), 4))
