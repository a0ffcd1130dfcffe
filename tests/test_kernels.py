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


WEIGHTS = np.array([1.0, 0.0, 2.0, 1.0, 0.5, 1.0])


def chunked_loss(size):
  """Of two sequences of three positions, `size` positions at a time."""

  def loss(x, w, bias=None):
    targets, weights = (jnp.asarray(y.reshape(2, 3)) for y in (TARGETS, WEIGHTS))
    return kernels.chunked_loss(x.reshape(2, 3, D), w, bias, targets, weights, size)

  return loss


def plain_loss(x, w, bias=None):
  return (plain_nll(x @ w if bias is None else x @ w + bias[None]) * WEIGHTS).sum()


CASES = {
  "project, D < F": (kernels.project, plain_project, [(M, D), (D, F)]),
  "project, D > F": (kernels.project, plain_project, [(M, F), (F, D)]),
  "gelu": (kernels.gelu, plain_gelu, [(M, F)]),
  "layernorm": (lambda x, s: kernels.normalize(x, s, 1e-3, True), plain_normalize(1), [(M, D), (D,)]),
  "rmsnorm": (lambda x, s: kernels.normalize(x, s, 1e-3, False), plain_normalize(0), [(M, D), (D,)]),
  "nll": (lambda x: kernels.token_nll(x, jnp.asarray(TARGETS)), plain_nll, [(M, D)]),
  "loss in chunks of 1": (chunked_loss(1), plain_loss, [(M, D), (D, F)]),
  "loss in chunks of 2": (chunked_loss(2), plain_loss, [(M, D), (D, F)]),
  "loss in chunks of 2, with a bias": (chunked_loss(2), plain_loss, [(M, D), (D, F), (F,)]),
  "loss in one chunk": (chunked_loss(3), plain_loss, [(M, D), (D, F)]),
  "rows": (lambda x: kernels.rows_by_product(x, jnp.asarray(TARGETS)), lambda x: x[TARGETS], [(F, D)]),
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


# --- bfloat16: rounded once, at the end ---------------------------------------------------------------


def bfloat16(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


@pytest.mark.parametrize(
  "f", [kernels.gelu, lambda x: kernels.normalize(x, jnp.ones(64), 1e-5, True)], ids=["gelu", "layernorm"]
)
def test_elementwise_work_on_bfloat16_is_that_on_float32_rounded(f):
  x, dy = bfloat16(32, 64), bfloat16(32, 64, seed=1)
  (narrow, pull), (wide, wide_pull) = jax.vjp(f, x), jax.vjp(f, x.astype(jnp.float32))
  np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
  (dx,), (wide_dx,) = pull(dy), wide_pull(dy.astype(jnp.float32))
  assert dx.dtype == jnp.bfloat16
  np.testing.assert_allclose(dx.astype(jnp.float32), wide_dx, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("rows", "columns"), [(16, 48), (48, 16)])
def test_weight_gradients_of_bfloat16_activations_are_summed_in_float32(rows, columns):
  """Over 4096 tokens a sum in bfloat16, of 8 bits, would stop growing after some 256 of them."""
  x = jnp.ones((4096, rows), jnp.bfloat16)
  y, pull = jax.vjp(kernels.project, x, jnp.ones((rows, columns), jnp.float32))
  dx, dw = pull(jnp.full(y.shape, 1 + 2**-7, y.dtype))
  assert (y.dtype, dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
  np.testing.assert_array_equal(dw, 4096 + 32)


def test_products_of_bfloat16_are_float32_and_their_gradients_near_the_exact_ones():
  a, b, dy = bfloat16(6, 32), bfloat16(32, 9, seed=1), np.random.default_rng(2).normal(size=(6, 9))
  y, pull = jax.vjp(lambda a, b: kernels.multiply("MD,DF->MF", a, b), a, b)
  da, db = pull(jnp.asarray(dy, jnp.float32))
  assert (y.dtype, da.dtype, db.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  np.testing.assert_allclose(y, a @ b, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(np.asarray(da, np.float64), dy @ b.T, rtol=0.02, atol=0.1)
  np.testing.assert_allclose(np.asarray(db, np.float64), a.T @ dy, rtol=0.02, atol=0.1)
