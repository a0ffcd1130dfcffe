"""BERT's embedding and heads against its paper and against transformers, and classifiers on any model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import random_params, tiny

from lm_jax import model_config
from lm_jax.model import Classifier, Transformer
from lm_jax.model_config import ModelConfig

B, T = 2, 6
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0]], np.int32)
POSITIONS = np.array([[1, 4], [0, 5]], np.int32)


def random_tokens(model: ModelConfig, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, model.vocab_size, (B, T)).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("model", "with_next_sentence"))
def apply(params, tokens, *, model, with_next_sentence=True, **data):
  return Transformer(model).apply(
    {"params": params}, tokens, with_next_sentence=with_next_sentence, **data
  )  # fmt: skip


# --- pretraining --------------------------------------------------------------------------------------


def expected(params: Any, model: ModelConfig, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns logits at POSITIONS and of the next sentence, float64."""
  w, heads = reference.weights(params, model), model.num_heads
  logits = [
    reference.bert(w, *row, heads, s)[at] for *row, s, at in zip(tokens, SEGMENTS, POSITIONS, strict=True)
  ]
  states = [reference.bert_states(w, row, heads, s) for row, s in zip(tokens, SEGMENTS, strict=True)]
  return np.stack(logits), np.stack([reference.pooled(w, x, "next_sentence") for x in states])


def test_both_heads_compute_what_the_paper_says():
  model = tiny(preset="bert")
  params, tokens = random_params(model), random_tokens(model)
  got = apply(params, tokens, model=model, segments_BT=SEGMENTS, positions_BP=POSITIONS)
  for a, b in zip(got, expected(params, model, tokens), strict=True):
    assert a.dtype == jnp.float32
    assert b.std() > 0.3
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_of_both_heads_are_the_slopes_of_the_reference():
  """By every parameter array, along a random direction, against a central difference in float64."""
  model = tiny(preset="bert", num_layers=1)
  params, tokens, rng = random_params(model), random_tokens(model), np.random.default_rng(0)
  cotangents = [rng.standard_normal(x.shape) for x in expected(params, model, tokens)]

  def total(outputs) -> Any:
    return sum((x * c.astype(x.dtype)).sum() for x, c in zip(outputs, cotangents, strict=True))

  @jax.grad
  def gradient(params):
    return total(apply(params, tokens, model=model, segments_BT=SEGMENTS, positions_BP=POSITIONS))

  leaves, treedef = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), params))
  for i, (path, grad) in enumerate(jax.tree_util.tree_leaves_with_path(gradient(params))):
    direction, step = rng.standard_normal(grad.shape), 1e-5
    ends = []
    for sign in (1, -1):
      moved = [leaf + sign * step * direction if j == i else leaf for j, leaf in enumerate(leaves)]
      ends.append(total(expected(treedef.unflatten(moved), model, tokens)))
    slope, name = (ends[0] - ends[1]) / (2 * step), jax.tree_util.keystr(path)
    np.testing.assert_allclose((grad * direction).sum(), slope, rtol=1e-4, atol=2e-4, err_msg=name)
    # A key's bias adds the same to all scores of a query; every other array has a gradient.
    assert abs(slope) > 1e-3 or "'key'" in name, name


def test_segments_default_to_the_first():
  model = tiny(preset="bert")
  params, tokens = random_params(model), random_tokens(model)
  first, default, other = (apply(params, tokens, model=model, **segments)[0] for segments in (
    {"segments_BT": np.zeros((B, T), np.int32)}, {}, {"segments_BT": SEGMENTS}))  # fmt: skip
  np.testing.assert_array_equal(first, default)
  assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_chunks_of_logits_have_the_bias_and_its_gradient(tie_embeddings, monkeypatch):
  model = tiny(preset="bert", tie_embeddings=tie_embeddings)
  params, tokens, targets = random_params(model), *(jnp.asarray(random_tokens(model, s)) for s in (0, 1))

  def value_and_grad():
    def loss(params):
      weights = jnp.ones(targets.shape)
      return Transformer(model).apply({"params": params}, tokens, targets_BP=targets, weights_BP=weights)

    return jax.value_and_grad(loss)(params)

  whole = value_and_grad()
  monkeypatch.setattr(model_config, "MIN_CHUNK_TOKENS", 1)
  monkeypatch.setattr(model_config, "DIRECT_LOGITS", 1)
  monkeypatch.setattr(model_config, "CHUNK_LOGITS", 4 * model.vocab_size)
  assert model.loss_chunk(B, T) == 2
  chunked = value_and_grad()
  assert np.abs(chunked[1]["output"]["bias"]).max() > 0.1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), chunked, whole)


def test_heads_are_there_from_the_start_whatever_is_asked_first():
  """Parameters come of one call without the next sentence; a later one asks for it."""
  params = reference.shapes(tiny(preset="bert"))
  assert {"pooler", "next_sentence", "output_transform", "segments", "embedding_norm"} < set(params)
  assert set(params["output"]) == {"bias"}
  assert set(reference.shapes(tiny(preset="bert", tie_embeddings=False))["output"]) == {"bias", "kernel"}


def test_pre_norm_encoders_have_the_heads_too():
  model = tiny(preset="bert", norm_position="pre", norm="rmsnorm", activation="swiglu", use_bias=False)
  params, tokens = random_params(model), random_tokens(model)
  assert set(params["output_transform"]["dense"]) == {"kernel"}
  logits, next_sentence = apply(params, tokens, model=model, segments_BT=SEGMENTS)
  assert logits.shape == (B, T, model.vocab_size)
  assert next_sentence.shape == (B, 2)
  # The pooler reads what the output layer reads: after the final norm.
  grown = jax.tree.map(lambda x: x, params) | {"final_norm": {"scale": 2 * params["final_norm"]["scale"]}}
  assert np.abs(apply(grown, tokens, model=model, segments_BT=SEGMENTS)[1] - next_sentence).max() > 1e-3


# --- classifiers --------------------------------------------------------------------------------------


def classify(model: ModelConfig, num_classes: int = 3):
  """Returns a pretrained model's parameters with those of a fresh classifier, and a function of them."""
  classifier = Classifier(model, num_classes)
  fresh = jax.eval_shape(classifier.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
  pretrained, rng = random_params(model), np.random.default_rng(1)

  def pick(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    node: Any = pretrained
    for entry in path:
      node = node.get(entry.key) if node is not None else None
    new = path[0].key == "classifier" or (path[0].key == "pooler" and node is None)
    assert new == (node is None), path
    return jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32) if new else node

  params = jax.tree_util.tree_map_with_path(pick, fresh)
  return params, jax.jit(functools.partial(classifier.apply, {"params": params}))


def test_an_encoder_classifies_by_its_pooled_first_token():
  model = tiny(preset="bert")
  params, f = classify(model)
  tokens, w = random_tokens(model), reference.weights(params, model)
  states = [
    reference.bert_states(w, row, model.num_heads, s) for row, s in zip(tokens, SEGMENTS, strict=True)
  ]
  out = f(tokens, segments_BT=SEGMENTS)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(
    out, [reference.pooled(w, x, "classifier") for x in states], rtol=1e-5, atol=1e-5
  )
  # Padding is a document of its own.
  padded = f(tokens, documents_BT=np.array([[0] * 4 + [1] * 2] * 2, np.int32))
  np.testing.assert_allclose(padded, f(tokens[:, :4]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_classifies_by_its_last_token(name):
  model = tiny(preset=name, tie_embeddings=False)
  params, f = classify(model)
  assert not {"pooler", "output"} & set(params)
  tokens, pretrained = random_tokens(model), random_params(model)
  # The output layer of a language model whose vocabulary is the classes.
  asked = dict(
    pretrained, output={"kernel": jnp.zeros((16, 11)).at[:, :3].set(params["classifier"]["kernel"])}
  )
  logits = Transformer(model).apply({"params": asked}, jnp.asarray(tokens))[..., :3]
  logits += params["classifier"]["bias"][None, None]
  np.testing.assert_allclose(f(tokens), logits[:, -1], rtol=0, atol=1e-5)
  last = np.array([3, 0], np.int32)
  np.testing.assert_allclose(f(tokens, last_B=last), logits[np.arange(B), last], rtol=0, atol=1e-5)


def test_dropout_of_a_classifier_is_off_unless_asked_for():
  model = tiny(preset="bert", dropout=0.5)
  _, f = classify(model)
  tokens = random_tokens(model)
  np.testing.assert_array_equal(f(tokens), f(tokens))
  classifier, params = Classifier(model, 3), classify(model)[0]

  def dropped(seed):
    rngs = {"dropout": jax.random.key(seed)}
    return classifier.apply({"params": params}, jnp.asarray(tokens), deterministic=False, rngs=rngs)

  np.testing.assert_array_equal(dropped(0), dropped(0))
  assert np.abs(dropped(0) - dropped(1)).max() > 1e-3


# --- transformers ---------------------------------------------------------------------------------------


def test_it_is_the_bert_of_transformers():
  """All of BertForPreTraining, with our random weights, dropout off and the GELU of tanh."""
  torch = pytest.importorskip("torch", reason="transformers computes BERT with torch")
  transformers = pytest.importorskip("transformers", reason="transformers is the reference")
  model = tiny(
    preset="bert", vocab_size=97, context_length=32, d_model=48, num_layers=3, num_heads=4, d_ff=100
  )
  params = random_params(model)
  theirs = transformers.BertForPreTraining(
    transformers.BertConfig(
      vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=100,
      hidden_act="gelu_new", max_position_embeddings=32, type_vocab_size=2, layer_norm_eps=1e-12,
    )
  ).eval()  # fmt: skip
  state = {name: torch.tensor(np.array(x)) for name, x in their_names(params).items()}
  missing, unexpected = theirs.load_state_dict(state, strict=False)
  assert not unexpected
  # Tied, or constants.
  assert set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
                          "bert.embeddings.position_ids"}  # fmt: skip
  theirs.tie_weights()
  rng = np.random.default_rng(0)
  tokens, segments = (rng.integers(0, n, (3, 20)).astype(np.int32) for n in (97, 2))
  padding = np.arange(20)[None] >= np.array([[20], [13], [1]])
  with torch.no_grad():
    out = theirs(*(torch.tensor(x, dtype=torch.long) for x in (tokens, ~padding, segments)))
  documents = padding.astype(np.int32)
  logits, next_sentence = apply(params, tokens, model=model, segments_BT=segments, documents_BT=documents)
  np.testing.assert_allclose(
    np.asarray(logits)[~padding], out.prediction_logits.numpy()[~padding], rtol=1e-4, atol=5e-5
  )
  np.testing.assert_allclose(next_sentence, out.seq_relationship_logits.numpy(), rtol=1e-4, atol=5e-5)


def their_names(params: Any) -> dict[str, np.ndarray]:
  """Returns our parameters under the names of transformers, whose matrices are [out, in]."""
  found = {
    "bert.embeddings.word_embeddings.weight": params["embedding"]["table"],
    "bert.embeddings.position_embeddings.weight": params["positions"],
    "bert.embeddings.token_type_embeddings.weight": params["segments"],
    "cls.predictions.bias": params["output"]["bias"],
  }
  modules = {
    "bert.embeddings.LayerNorm": params["embedding_norm"],
    "bert.pooler.dense": params["pooler"],
    "cls.predictions.transform.dense": params["output_transform"]["dense"],
    "cls.predictions.transform.LayerNorm": params["output_transform"]["norm"],
    "cls.seq_relationship": params["next_sentence"],
  }
  layer = {
    "attention.self.query": ("attention", "query"), "attention.self.key": ("attention", "key"),
    "attention.self.value": ("attention", "value"), "attention.output.dense": ("attention", "out"),
    "attention.output.LayerNorm": ("attention_norm",), "intermediate.dense": ("mlp", "up"),
    "output.dense": ("mlp", "down"), "output.LayerNorm": ("mlp_norm",),
  }  # fmt: skip
  for i in range(sum(name.startswith("block_") for name in params)):
    for name, path in layer.items():
      modules[f"bert.encoder.layer.{i}.{name}"] = functools.reduce(
        dict.__getitem__, path, params[f"block_{i}"]
      )
  for name, node in modules.items():
    found[f"{name}.weight"] = node["scale"] if "scale" in node else node["kernel"].T
    found[f"{name}.bias"] = node["bias"]
  return found
