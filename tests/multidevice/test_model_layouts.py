"""A model with documents, segments, a window, a prefix and heads gives one device's numbers on any layout."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import linen as nn
from jax.sharding import NamedSharding

from lm_jax import config as configs
from lm_jax import parallel, sharding
from lm_jax.model import Classifier, Transformer

B, T, P = 16, 12, 4
LAYOUTS = {
  "data": {"kind": "mesh"},
  "fsdp": {"kind": "mesh", "fsdp": 8},
  "all three": {"kind": "mesh", "data": 2, "fsdp": 2, "tensor": 2},
}
SIZES = {"d_model": 16, "num_layers": 2, "num_heads": 4}
MODELS = {
  "bert": {"preset": "bert", **SIZES},
  "prefix": {"preset": "gpt2", **SIZES},
  "window": {"preset": "llama", "attention_window": 3, "attention_block": 4, "scan_layers": True, **SIZES},
}


def config(model: str, layout: dict[str, Any]) -> configs.Config:
  task = {"name": "noisy_majority", "num_symbols": 14, "length": T}
  return configs.from_mapping(
    {"task": task, "model": MODELS[model], "train": {"batch_size": B}, "parallel": layout}
  )


def batch(model: str) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  documents = np.sort(rng.integers(0, 3, (B, T)), axis=1).astype(np.int32)
  tokens, targets = (rng.integers(0, 14, (B, n)).astype(np.int32) for n in (T, P))
  positions = np.sort(rng.integers(0, T, (B, P)), axis=1).astype(np.int32)
  data = {"tokens": tokens, "targets_BP": targets, "positions_BP": positions, "documents_BT": documents}
  if model == "prefix":
    data["prefix_BT"] = rng.random((B, T)) < 0.3
  if model == "bert":
    data["segments_BT"] = (documents > 0).astype(np.int32)
  return data


def loss(model: Transformer, params: Any, data: dict[str, jax.Array]) -> jax.Array:
  tokens, rest = data["tokens"], {name: value for name, value in data.items() if name != "tokens"}
  out = model.apply({"params": params}, tokens, with_next_sentence=model.config.next_sentence_head, **rest)
  if not model.config.next_sentence_head:
    return out.sum()
  return out[0].sum() - jax.nn.log_softmax(out[1])[:, 1].sum()


def value_and_grad(model: str):
  return jax.value_and_grad(functools.partial(loss, Transformer(config(model, {"kind": "single"}).model)))


@functools.cache
def on_one_device(model: str) -> Any:
  params = reference.random_params(config(model, {"kind": "single"}).model)
  return params, jax.device_get(jax.jit(value_and_grad(model))(params, batch(model)))


def assert_near(got: Any, expected: Any) -> None:
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4, err_msg=jax.tree_util.keystr(path))


def put(layout: parallel.Layout, tree: Any) -> Any:
  """Places parameters as a state's would be."""

  def place(path: tuple, x: jax.Array) -> jax.Array:
    axes = nn.logical_to_mesh_axes(sharding.parameter_axes(path, x.ndim), layout.rules)
    return jax.device_put(x, NamedSharding(layout.mesh, axes))

  return jax.tree_util.tree_map_with_path(place, tree)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_a_mesh_gives_the_same_loss_and_gradients(model, layout):
  params, expected = on_one_device(model)
  mesh = parallel.make_layout(config(model, LAYOUTS[layout]))
  placed = put(mesh, params), mesh.put(batch(model), mesh.over_batch(0, B))
  assert not placed[1]["documents_BT"].sharding.is_fully_replicated
  assert_near(jax.jit(mesh.traced(value_and_grad(model)))(*placed), expected)


@pytest.mark.parametrize("model", MODELS)
def test_pmap_gives_the_same_loss_and_gradients(model):
  params, expected = on_one_device(model)
  rows = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch(model))
  each = jax.pmap(
    lambda p, data: jax.lax.psum(value_and_grad(model)(p, data), "devices"), "devices", in_axes=(None, 0)
  )(params, rows)
  assert_near(jax.tree.map(lambda x: x[0], each), expected)


@pytest.mark.parametrize("model", ["bert", "prefix"])
def test_a_classifier_on_a_mesh_gives_the_same_logits(model):
  mesh, data = parallel.make_layout(config(model, LAYOUTS["all three"])), batch(model)
  classifier = Classifier(config(model, {}).model, 3)
  params = classifier.init(jax.random.key(0), jnp.zeros((1, T), jnp.int32))["params"]
  last_B = data["positions_BP"][:, 0]

  def logits(params, tokens, documents, last_B):
    return classifier.apply({"params": params}, tokens, documents_BT=documents, last_B=last_B)

  args = data["tokens"], data["documents_BT"], last_B
  placed = mesh.put(args, mesh.over_batch(0, B))
  out = jax.jit(mesh.traced(logits))(put(mesh, params), *placed)
  np.testing.assert_allclose(out, jax.jit(logits)(params, *args), rtol=1e-5, atol=1e-5)
