"""Functions with gradients of their own against autodiff of the plain formula, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax import kernels


def plain_project(x, w):
  return x @ w


def plain_gelu(x):
  return 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def plain_normalize(center):
  def normalize(x, scale):
    x = x - center * x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * scale[None]

  return normalize


def plain_nll(logits):
  return -jax.nn.log_softmax(logits)[jnp.arange(6), TARGETS]


TARGETS = np.array([0, 4, 4, 1, 2, 3])
M, D, F = 6, 5, 9

CASES = {
  "project, D < F": (kernels.project, plain_project, [(M, D), (D, F)]),
  "project, D > F": (kernels.project, plain_project, [(M, F), (F, D)]),
  "gelu": (kernels.gelu, plain_gelu, [(M, F)]),
  "layernorm": (lambda x, s: kernels.normalize(x, s, 1e-3, True), plain_normalize(1), [(M, D), (D,)]),
  "rmsnorm": (lambda x, s: kernels.normalize(x, s, 1e-3, False), plain_normalize(0), [(M, D), (D,)]),
  "nll": (lambda x: kernels.token_nll(x, jnp.asarray(TARGETS)), plain_nll, [(M, D)]),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_those_of_the_plain_formula(name):
  ours, plain, shapes = CASES[name]
  rng = np.random.default_rng(0)
  inputs = [rng.normal(size=shape) * 2 for shape in shapes]
  with jax.enable_x64(True):
    value, pull = jax.vjp(plain, *map(jnp.asarray, inputs))
    cotangent = rng.normal(size=value.shape)
    expected = [value, *pull(jnp.asarray(cotangent))]
    value, pull = jax.vjp(ours, *map(jnp.asarray, inputs))
    got = [value, *pull(jnp.asarray(cotangent))]
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_vmap_and_float32(name):
  """Replicas are vmapped; each must equal its own call."""
  ours, _, shapes = CASES[name]
  rng = np.random.default_rng(1)
  inputs = [jnp.asarray(rng.normal(size=(3, *shape)), jnp.float32) for shape in shapes]
  grad = jax.grad(lambda *x: (ours(*x) ** 2).sum(), argnums=tuple(range(len(shapes))))
  together = jax.vmap(grad)(*inputs)
  for r in range(3):
    for a, b in zip(together, grad(*(x[r] for x in inputs)), strict=True):
      np.testing.assert_allclose(a[r], b, rtol=2e-5, atol=2e-5)


def test_nll_of_extreme_logits_is_finite_and_exact():
  logits = jnp.asarray([[1e4, -1e4], [-1e4, 1e4]], jnp.float32)
  np.testing.assert_array_equal(kernels.token_nll(logits, jnp.asarray([0, 0])), [0, 2e4])
  assert np.isfinite(jax.grad(lambda x: kernels.token_nll(x, jnp.asarray([0, 0])).sum())(logits)).all()
