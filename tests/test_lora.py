"""LoRA: starts at the model as it was, and is W + alpha / r * A B for the kernels it names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax import lora, param_paths
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig, resolve
from lm_jax.strict import ConfigError

KEY = jax.random.key(0)
TOKENS = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)


def model(**fields) -> ModelConfig:
  return resolve(ModelConfig(**{"d_model": 16, "num_layers": 2, "num_heads": 2} | fields), 12, 6)


def params_of(config: ModelConfig):
  return Transformer(config).init(jax.random.key(1), TOKENS)["params"]


def trained(factors: lora.Factors) -> lora.Factors:
  """Returns factors whose B is no longer 0."""
  keys = jax.random.split(jax.random.key(2), len(factors))
  return {
    path: (a, jax.random.normal(k, b.shape)) for (path, (a, b)), k in zip(factors.items(), keys, strict=True)
  }


@pytest.mark.parametrize("fields", [{}, {"scan_layers": True}, {"num_kv_heads": 1}])
def test_it_starts_at_the_model_as_it_was(fields):
  params = params_of(model(**fields))
  merged = lora.merge(params, lora.init(params, 4, KEY), alpha=8.0)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  for path, before in param_paths.flat(params).items():
    np.testing.assert_array_equal(param_paths.flat(merged)[path], before)


@pytest.mark.parametrize("fields", [{}, {"scan_layers": True}, {"num_kv_heads": 1}])
@pytest.mark.parametrize("targets", [("query", "value"), ("out", "up", "down", "key")])
def test_merged_kernels_are_the_sum_in_float64(fields, targets):
  params = params_of(model(**fields))
  factors = trained(lora.init(params, 3, KEY, targets))
  merged = param_paths.flat(lora.merge(params, factors, alpha=6.0))
  changed = set()
  for path, before in param_paths.flat(params).items():
    if path in factors:
      w, a, b = (np.asarray(x, np.float64) for x in (before, *factors[path]))
      expected = np.array(
        [w_ + 6.0 / 3 * a_ @ b_ for w_, a_, b_ in zip(*map(layered, (w, a, b)), strict=True)]
      )
      np.testing.assert_allclose(merged[path], expected.reshape(w.shape), rtol=1e-5, atol=1e-5)
      changed.add(path.split("/")[-2])
    else:
      np.testing.assert_array_equal(merged[path], before)
  assert changed == set(targets)


def layered(x: np.ndarray) -> np.ndarray:
  return x.reshape(-1, *x.shape[-2:])


def test_the_output_of_a_merged_model_is_that_of_two_paths():
  config = model(num_layers=1, attention_only=True, norm="layernorm", use_bias=False)
  params = params_of(config)
  factors = trained(lora.init(params, 2, KEY, ("out",)))
  merged = lora.merge(params, factors, alpha=2.0)
  # The output projection is linear: what it adds to the residual stream is that of W and that of A B.
  only = jax.tree.map(lambda x: x, params)
  a, b = factors["block_0/attention/out/kernel"]
  only["block_0"]["attention"]["out"]["kernel"] = a @ b
  streams = {name: residual(config, p) for name, p in (("base", params), ("lora", only), ("both", merged))}
  embedded = np.asarray(params["embedding"]["table"])[np.asarray(TOKENS)].reshape(-1, 16)
  np.testing.assert_allclose(streams["both"] + embedded, streams["base"] + streams["lora"], atol=1e-5)


def residual(config: ModelConfig, params) -> np.ndarray:
  """Returns what enters the final norm, [B * T, D]."""
  _, seen = Transformer(config).apply({"params": params}, TOKENS, capture_intermediates=True, mutable=True)
  (out,) = seen["intermediates"]["block_0"]["__call__"]
  return np.asarray(out).reshape(-1, 16)


def test_counts():
  params = params_of(model())
  factors = lora.init(params, 4, KEY)
  assert sum(x.size for x in jax.tree.leaves(factors)) == 2 * 2 * 4 * (16 + 16)
  up = lora.init(params, 4, KEY, ("up",))
  assert sum(x.size for x in jax.tree.leaves(up)) == 2 * 4 * (16 + 64)


def test_at_the_start_only_b_has_a_gradient():
  config = model()
  params = params_of(config)

  def loss(factors: lora.Factors) -> jax.Array:
    logits = Transformer(config).apply({"params": lora.merge(params, factors, 8.0)}, TOKENS)
    return jnp.square(logits).sum()

  for a, b in jax.grad(loss)(lora.init(params, 4, KEY)).values():
    assert not np.any(a)
    assert np.any(b)


def test_a_is_of_unit_scale_and_its_own_for_every_kernel():
  params = params_of(model(d_model=64, num_heads=2))
  factors = lora.init(params, 32, KEY)
  a = np.stack([a for a, _ in factors.values()])
  assert np.std(a) == pytest.approx(1 / 8, rel=0.05)
  assert len({x.tobytes() for x in a}) == len(a)


@pytest.mark.parametrize(
  ("rank", "targets", "said"),
  [
    (17, ("query",), "config.lora.rank=17: must be at most 16"),
    (4, ("gate",), "config.lora.targets='gate': the model has none"),
    (4, ("qeury",), "did you mean 'query'?"),
  ],
)
def test_errors(rank, targets, said):
  with pytest.raises(ConfigError) as error:
    lora.init(params_of(model()), rank, KEY, targets)
  assert said in str(error.value)
  assert "\n" not in str(error.value)
