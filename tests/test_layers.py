"""The parts of a Transformer against literal float64 references."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm_jax import layers


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


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
