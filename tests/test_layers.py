"""The parts of a Transformer against literal float64 references."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm_jax import kernels, layers


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


# --- attention ------------------------------------------------------------------------------------


def reference_attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  return np.stack([reference.attend(*sequence) for sequence in zip(q, k, v, visible, strict=True)])


attend = jax.jit(kernels.attend, static_argnames="causal")


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_attend(num_kv_heads, causal, padded):
  B, T, N, H = 3, 5, 4, 6
  q, k, v = normal(B, T, N, H), normal(B, T, num_kv_heads, H, seed=1), normal(B, T, num_kv_heads, H, seed=2)
  padding = np.zeros((B, T), bool)
  if padded:
    padding[1, 3:] = padding[2, 1] = True  # never the first key: a causal query would be left with none
  visible = np.broadcast_to(~padding[:, None, :], (B, T, T))
  if causal:
    visible = visible & (np.arange(T)[None, None, :] <= np.arange(T)[None, :, None])
  out = attend(q, k, v, causal=causal, padding_BS=jnp.asarray(padding) if padded else None)
  np.testing.assert_allclose(out, reference_attend(q, k, v, visible), rtol=0, atol=2e-6)


def test_attend_to_more_keys_than_queries():
  q, k, v = normal(2, 1, 4, 6), normal(2, 7, 2, 6, seed=1), normal(2, 7, 2, 6, seed=2)
  expected = reference_attend(q, k, v, np.ones((2, 1, 7), bool))
  np.testing.assert_allclose(attend(q, k, v, causal=False), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_blocks_of_queries_do_not_change_attention(size):
  T = 7
  q, k, v = normal(2, T, 4, 6), normal(2, T, 2, 6, seed=1), normal(2, T, 2, 6, seed=2)
  padding = jnp.zeros((2, T), bool).at[0, 1:3].set(True)
  blocks = reference.tiny(attention_block=size).query_blocks(T)
  out = jax.jit(lambda *x: kernels.attend(*x, causal=True, padding_BS=padding, blocks=blocks))(q, k, v)
  whole = attend(q, k, v, causal=True, padding_BS=padding)
  np.testing.assert_allclose(out, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_weights_computed_again_change_neither_attention_nor_its_gradient(size, causal):
  """Against float64, and against autodiff of one block whose weights are kept."""
  T = 7
  x = normal(2, T, 4, 6), normal(2, T, 2, 6, seed=1), normal(2, T, 2, 6, seed=2)
  cotangent = normal(2, T, 4, 6, seed=3)
  padding = np.zeros((2, T), bool)
  padding[0, 1:3] = True
  blocks = [(0, 4, 4), (4, T, T)] if causal else None

  def value_and_grad(**how):
    def f(q, k, v):
      out = kernels.attend(q, k, v, causal=causal, padding_BS=jnp.asarray(padding), **how)
      return (out * cotangent).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(f, (0, 1, 2), has_aux=True))(*x)
    return out, *grads

  ours, kept = value_and_grad(blocks=blocks, recompute=size), value_and_grad()
  visible = ~padding[:, None, :] & (np.tril(np.ones((T, T), bool)) | (not causal))
  np.testing.assert_allclose(ours[0], reference_attend(*x, visible), rtol=0, atol=2e-6)
  for a, b in zip(ours, kept, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=5e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_a_long_sequence_attends_as_one_block_would(causal):
  """1100 tokens: beyond the length where weights are kept, and no multiple of anything."""
  T = 1100
  model = reference.tiny(causal=causal, num_heads=2, num_kv_heads=1, context_length=T)
  x = normal(1, T, 2, 8), normal(1, T, 1, 8, seed=1), normal(1, T, 1, 8, seed=2)
  cotangent, padding = normal(1, T, 2, 8, seed=3), jnp.zeros((1, T), bool).at[0, 5:90].set(True)
  assert model.recomputed_queries(T) is not None

  def value_and_grad(f):
    return jax.jit(jax.value_and_grad(lambda *x: (f(*x) * cotangent).sum(), (0, 1, 2)))(*x)

  value, grads = value_and_grad(lambda *x: layers.attend(model, *x, padding))
  plain, plain_grads = value_and_grad(lambda *x: kernels.attend(*x, causal=causal, padding_BS=padding))
  np.testing.assert_allclose(value, plain, rtol=1e-4)
  for a, b in zip(grads, plain_grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recompute", [None, 2])
def test_scale_of_attention(recompute):
  q, k, v = normal(1, 5, 2, 6), normal(1, 5, 2, 6, seed=1), normal(1, 5, 2, 6, seed=2)
  out = kernels.attend(*map(jnp.asarray, (q, k, v)), causal=True, scale=0.1, recompute=recompute)
  expected = reference_attend(q * (0.1 * math.sqrt(6)), k, v, np.tril(np.ones((1, 5, 5), bool)))
  np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


def test_attention_of_bfloat16_is_near_that_of_float32():
  """Its output has 8 bits; scores rounded to as many would be wrong by up to exp(5 / 256)."""
  q, k, v = (jnp.asarray(normal(2, 6, 2, 16, seed=s), jnp.bfloat16) for s in range(3))
  out = kernels.attend(4 * q, k, v, causal=True)
  wide = [np.asarray(x, np.float32) for x in (4 * q, k, v)]
  expected = reference_attend(*wide, np.broadcast_to(np.tril(np.ones((6, 6), bool)), (2, 6, 6)))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0.01, atol=0.01)


# --- cuDNN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_arguments_of_fused_attention(causal, padded, scale):
  """By the same function without cuDNN: shapes, grouping, masks and scale are those of `attend`."""
  q, k, v = (jnp.asarray(normal(2, 6, n, 8, seed=s)) for s, n in enumerate((4, 2, 2)))
  padding = jnp.zeros((2, 6), bool).at[0, 1:3].set(True) if padded else None
  same = {"causal": causal, "padding_BS": padding, "scale": scale}
  out = kernels.attend_fused(q, k, v, implementation="xla", **same)
  np.testing.assert_allclose(out, kernels.attend(q, k, v, **same), rtol=0, atol=2e-6)


@pytest.mark.skipif(kernels.attention_backend() != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_cudnn_attention_and_its_gradient(causal, padded):
  x = [jnp.asarray(normal(2, 64, n, 32, seed=s), jnp.bfloat16) for s, n in enumerate((4, 2, 2))]
  padding = jnp.zeros((2, 64), bool).at[0, 10:30].set(True) if padded else None

  def value_and_grad(f, inputs):
    def total(*x):
      out = f(*x, causal=causal, padding_BS=padding)
      return out.astype(jnp.float32).sum(), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*inputs)
    return [np.asarray(y, np.float32) for y in (out, *grads)]

  fused = value_and_grad(kernels.attend_fused, x)
  for a, b in zip(fused, value_and_grad(kernels.attend, [y.astype(jnp.float32) for y in x]), strict=True):
    np.testing.assert_allclose(a, b, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_query_blocks_cover_each_query_once_and_all_it_may_see(size, causal):
  T = 7
  blocks = reference.tiny(attention_block=size, causal=causal).query_blocks(T)
  assert [t for start, end, _ in blocks for t in range(start, end)] == list(range(T))
  assert all(keys == (end if causal else T) for _, end, keys in blocks)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000, 1024, 1025, 4096, 5000, 100_000])
@pytest.mark.parametrize("size", [8, 64, 200])
def test_there_are_few_query_blocks_of_whole_loops(length, size):
  blocks = reference.tiny(attention_block=size).query_blocks(length)
  assert len(blocks) <= (16 if length <= 1024 else 4)
  assert all((end - start) % size == 0 for start, end, _ in blocks[:-1])


def test_a_query_with_every_key_masked_is_finite_and_so_is_its_gradient():
  q, k, v = normal(1, 3, 2, 4), normal(1, 3, 2, 4, seed=1), normal(1, 3, 2, 4, seed=2)
  padding = jnp.array([[True, False, True]])

  def total(q, k, v):
    out = kernels.attend(q, k, v, causal=True, padding_BS=padding)
    return out.sum(), out

  grads, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
  assert all(np.isfinite(x).all() for x in (out, *grads))
  np.testing.assert_allclose(out[0, 1:], np.stack([v[0, 1]] * 2), rtol=0, atol=1e-6)


def test_attend_survives_large_scores():
  q, k, v = 100 * normal(1, 4, 1, 8), 100 * normal(1, 4, 1, 8, seed=1), normal(1, 4, 1, 8, seed=2)
  expected = reference_attend(q, k, v, np.tril(np.ones((1, 4, 4), bool)))
  np.testing.assert_allclose(attend(q, k, v, causal=True), expected, rtol=0, atol=1e-5)


def test_gradient_of_attend_is_that_of_a_plain_softmax():
  q, k, v = normal(2, 4, 2, 4), normal(2, 4, 2, 4, seed=1), normal(2, 4, 2, 4, seed=2)
  cotangent, visible = normal(2, 4, 2, 4, seed=3), np.tril(np.ones((4, 4), bool))

  def plain(q, k, v):
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / 2
    chances = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1)
    return (jnp.einsum("BNTS,BSNH->BTNH", chances, v) * cotangent).sum()

  def ours(q, k, v):
    return (kernels.attend(q, k, v, causal=True) * cotangent).sum()

  for ours_x, plain_x in zip(*(jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (ours, plain)), strict=True):
    np.testing.assert_allclose(ours_x, plain_x, rtol=0, atol=2e-6)


# --- positions ------------------------------------------------------------------------------------


def rotate_at(x_BTNH: np.ndarray, theta: float = 10_000.0) -> np.ndarray:
  return np.asarray(layers.rotate(jnp.asarray(x_BTNH), *layers.rope_tables(*x_BTNH.shape[1::2], theta)))


@pytest.mark.parametrize("theta", [10_000.0, 100.0])
def test_rotation_is_multiplication_by_a_complex_number(theta):
  x = normal(2, 9, 3, 8)
  expected = [reference.rope(sequence.astype(np.float64), theta) for sequence in x]
  np.testing.assert_allclose(rotate_at(x, theta), expected, rtol=0, atol=2e-6)


def test_rotated_products_depend_on_distance_only():
  T, H = 12, 8
  q, k = (np.broadcast_to(normal(H, seed=s), (1, T, 1, H)) for s in (0, 1))
  products = np.einsum("tnh,snh->ts", rotate_at(q)[0], rotate_at(k)[0])
  for distance in range(-T + 1, T):
    diagonal = np.diagonal(products, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=1e-5)
  assert np.ptp(products[0]) > 0.1  # and do depend on it


def test_rotation_keeps_lengths_and_the_first_position():
  x = normal(1, 6, 2, 4)
  np.testing.assert_allclose(np.linalg.norm(rotate_at(x), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
  np.testing.assert_array_equal(rotate_at(x)[:, 0], x[:, 0])


@pytest.mark.parametrize(("length", "d_model"), [(1, 2), (7, 6), (50, 16)])
def test_sinusoids(length, d_model):
  np.testing.assert_allclose(
    layers.sinusoids(length, d_model), reference.sinusoids(length, d_model), rtol=0, atol=1e-7
  )


# --- norms and MLP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms(norm, use_bias):
  x = 3 * normal(5, 16) + 2
  x[0] *= 1e-3  # a variance of the order of epsilon
  params = {"scale": normal(16, seed=1)}
  if norm == "layernorm" and use_bias:
    params["bias"] = normal(16, seed=2)
  out = layers.Norm(reference.tiny(norm=norm, use_bias=use_bias)).apply({"params": params}, jnp.asarray(x))
  expected = getattr(reference, norm)(x.astype(np.float64), (params["scale"], params.get("bias", 0.0)))
  np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_mlp(activation):
  model = reference.tiny(activation=activation, use_bias=True)
  params = reference.random_params(model)
  block = reference.weights(params, model)["blocks"][0]
  x = normal(5, 16)
  out = layers.Mlp(model).apply({"params": params["block_0"]["mlp"]}, jnp.asarray(x))
  up = reference.linear(x.astype(np.float64), block["up"])
  if activation == "swiglu":
    hidden = reference.silu(reference.linear(x, block["gate"])) * up
  else:
    hidden = {"relu": lambda x: np.maximum(x, 0), "gelu": reference.gelu}[activation](up)
  np.testing.assert_allclose(out, reference.linear(hidden, block["down"]), rtol=0, atol=1e-5)
