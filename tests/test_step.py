"""The training step as compiled: what it holds in memory, and in what precision it works."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm_jax import config as configs
from lm_jax import model_config, state, step, tasks
from lm_jax.config import Config


def make_config(T: int, V: int, B: int, **model) -> Config:
  task = {"name": "noisy_majority", "num_symbols": V, "length": T}
  return configs.from_mapping(
    {
      "task": task,
      "model": {"d_model": 16, "num_layers": 1, "num_heads": 2, **model},
      "train": {"batch_size": B},
    }
  )


def lower(config: Config) -> jax.stages.Lowered:
  """Returns the loss of a batch and its gradient, by the shapes alone."""
  task = tasks.make_task(config.task)
  batch = jax.eval_shape(lambda: task.sample(jax.random.key(0), config.train.batch_size, task.arrays))
  grad = jax.jit(jax.value_and_grad(step.make_loss(config), has_aux=True))
  return grad.lower(reference.shapes(config.model), batch, jax.random.key(0))


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
  return compiled.memory_analysis().temp_size_in_bytes


def shapes(compiled: jax.stages.Compiled) -> list[tuple[int, ...]]:
  """Returns the shapes of all arrays in a compiled program."""
  found = set(re.findall(r"\w\[(\d+(?:,\d+)*)\]", compiled.as_text()))
  assert found
  return [tuple(map(int, shape.split(","))) for shape in found]


# --- memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_memory_grows_with_the_length_and_not_with_its_square(causal):
  compiled = {T: lower(make_config(T, 8, 1, causal=causal)).compile() for T in (2048, 4096)}
  size = {T: temporary_bytes(c) for T, c in compiled.items()}
  assert size[4096] < 2.3 * size[2048]
  heads, kept = 2, 4096 * 4096 * 4
  assert size[4096] < heads * kept / 4
  assert not any(sum(n >= 4096 for n in shape) > 1 for shape in shapes(compiled[4096]))


def test_logits_of_a_large_vocabulary_are_never_held():
  V, B = 50_257, 4
  compiled = {P: lower(make_config(P, V, B)).compile() for P in (256, 512)}
  size = {P: temporary_bytes(c) for P, c in compiled.items()}
  assert size[512] < 1.1 * size[256]
  rows = max(np.prod(shape) // V for shape in shapes(compiled[512]) if V in shape)
  assert rows == model_config.MIN_CHUNK_TOKENS
  assert rows < B * 512


@pytest.mark.parametrize("scan_layers", [True, False])
def test_blocks_computed_again_hold_less(scan_layers):
  kinds = ("none", "products", "block")
  sizes = [
    temporary_bytes(
      lower(make_config(64, 8, 8, remat=remat, scan_layers=scan_layers, num_layers=6)).compile()
    )
    for remat in kinds
  ]
  assert sizes[0] > 1.4 * sizes[1]
  assert sizes[1] > 1.4 * sizes[2]


# --- chunks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("tie_embeddings", "dtype"), [(True, "float32"), (False, "float32"), (True, "bfloat16")]
)
def test_chunks_of_logits_change_neither_loss_nor_gradients(tie_embeddings, dtype, monkeypatch):
  config = make_config(12, 40, 4, tie_embeddings=tie_embeddings, dtype=dtype)
  task = tasks.make_task(config.task)
  batch, params = task.sample(jax.random.key(0), 4, task.arrays), reference.random_params(config.model)

  def loss_and_grad():
    grad = jax.jit(jax.value_and_grad(step.make_loss(config), has_aux=True))
    (total, count), grads = grad(params, batch, jax.random.key(0))
    assert count == 4 * 12
    return total, grads

  direct = loss_and_grad()
  for name, value in (("DIRECT_LOGITS", 1), ("MIN_CHUNK_TOKENS", 20)):
    monkeypatch.setattr(model_config, name, value)
  monkeypatch.setattr(model_config, "CHUNK_LOGITS", 1)
  assert config.model.loss_chunk(4, 12) == 5
  tolerance = 1e-5 if dtype == "float32" else 2e-2
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max()),
    loss_and_grad(), direct,
  )  # fmt: skip


# --- bfloat16 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["gpt2", "llama", "palm", "original"])
def test_all_products_of_a_bfloat16_step_are_of_bfloat16(preset):
  text = lower(make_config(16, 8, 4, preset=preset, dtype="bfloat16")).as_text()
  products = [line.split(" : ")[-1] for line in text.splitlines() if "dot_general" in line]
  assert len(products) > 20
  for types in products:
    factors = re.findall(r"x([a-z]+\d+)>", types)[:2]
    assert factors == ["bf16", "bf16"], types


def test_a_bfloat16_model_learns_with_float32_parameters():
  config = configs.from_mapping({"model": {"dtype": "bfloat16"}, "optimizer": {"warmup_steps": 5}})
  task = tasks.make_task(config.task)
  before = jax.jit(lambda: state.init_state(config))()
  after, metrics = jax.jit(step.make_run_steps(config, task))(before, (), task.arrays, jnp.int32(30))
  assert metrics["loss"][29] < 0.8 * metrics["loss"][0]
  assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, before)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(after.params)} == {"float32"}
  # Rounded to 8 bits, parameters would not have moved by a hundredth of themselves.
  bits = np.asarray(jax.tree.leaves(after.params)[0])
  assert (bits != bits.astype(jnp.bfloat16)).mean() > 0.9
