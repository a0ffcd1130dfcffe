"""Independent float64 numpy forward passes, slow and literal, of what the package computes in JAX.

Each preset is written out from its paper, one sequence at a time, and reads no config switch. The helpers
at the top are the only place in the tests that knows how the parameter tree is laid out.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import config as configs
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig

# --- models and parameters ----------------------------------------------------------------------


def tiny(**fields: Any) -> ModelConfig:
  """Returns a resolved model of 16 x 2 layers, 11 tokens, 8 positions; `fields` override."""
  model = {"vocab_size": 11, "context_length": 8, "d_model": 16, "num_layers": 2, "num_heads": 4, **fields}
  task = {"name": "noisy_majority", "num_symbols": 2, "length": 2}
  return configs.from_mapping({"model": model, "task": task}).model


@functools.cache
def shapes(model: ModelConfig) -> Any:
  """Returns the tree of parameter shapes, without computing anything."""
  tokens = jax.ShapeDtypeStruct((1, model.context_length), jnp.int32)
  return jax.eval_shape(Transformer(model).init, jax.random.key(0), tokens)["params"]


@functools.cache
def random_params(model: ModelConfig, seed: int = 0) -> Any:
  """Returns parameters with nothing special about them: no zero bias, no unit scale."""
  rng = np.random.default_rng(seed)

  def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    x, name = rng.standard_normal(leaf.shape), path[-1].key
    vector = name in ("scale", "bias")
    return jnp.asarray((name == "scale") + 0.2 * x if vector else x / math.sqrt(leaf.shape[-2]), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes(model))


def stack_blocks(params: Any, num_layers: int) -> Any:
  """Returns the parameters of the scanned model, given those of the unrolled one."""
  rest = {name: value for name, value in params.items() if not name.startswith("block_")}
  blocks = [params[f"block_{layer}"] for layer in range(num_layers)]
  return {**rest, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def embeddings(params: Any) -> jax.Array:
  return params["embedding"]["table"]


def with_embeddings(params: Any, table: jax.Array) -> Any:
  return {**params, "embedding": {"table": table}}


def non_block_sizes(params: Any) -> int:
  """Returns the number of parameters in tables of tokens, positions and segments and in the output layer."""
  return sum(leaf.size for part in ("embedding", "positions", "segments", "output")
             for leaf in jax.tree.leaves(params.get(part, {})))  # fmt: skip


def weights(params: Any, model: ModelConfig) -> dict[str, Any]:
  """Returns float64 arrays under plain names; a linear map is (matrix, bias), a norm (scale, bias)."""
  tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def linear(node: dict) -> tuple:
    return node["kernel"], node.get("bias", 0.0)

  def norm(node: dict) -> tuple:
    return node["scale"], node.get("bias", 0.0)

  def block(node: dict) -> dict[str, Any]:
    parts = {name: linear(node["attention"][name]) for name in ("query", "key", "value", "out")}
    parts |= {name: linear(leaf) for name, leaf in node.get("mlp", {}).items()}
    return parts | {name: norm(node[name]) for name in node if "norm" in name}

  result = {"tokens": embeddings(tree), "blocks": []}
  for layer in range(model.num_layers):
    stacked = "blocks" in tree
    node = jax.tree.map(lambda x, i=layer: x[i], tree["blocks"]) if stacked else tree[f"block_{layer}"]
    result["blocks"].append(block(node))
  result |= {name: tree[name] for name in ("positions", "segments") if name in tree}
  result |= {name: norm(tree[name]) for name in ("final_norm", "embedding_norm") if name in tree}
  result |= {name: linear(tree[name]) for name in ("pooler", "next_sentence", "classifier") if name in tree}
  if "output_transform" in tree:
    transform = tree["output_transform"]
    result |= {"dense": linear(transform["dense"]), "dense_norm": norm(transform["norm"])}
  output = tree.get("output", {})
  return result | {{"kernel": "output", "bias": "output_bias"}[name]: leaf for name, leaf in output.items()}


def dependence(model: ModelConfig, **data: Any) -> np.ndarray:
  """Returns [T, S]: the largest |d logits[t] / d embedding of input token s|, given one sequence's `data`.

  Token s is s, so the gradient by row s of the table is that by input s. A tied table is the output
  matrix too, but the logit looked at is that of a token that is not in the input.
  """
  T = model.context_length
  assert T < model.vocab_size
  params, tokens = random_params(model), jnp.arange(T, dtype=jnp.int32)[None]

  def last_logit(table: jax.Array) -> jax.Array:
    given = with_embeddings(params, table)
    return Transformer(model).apply({"params": given}, tokens, **data)[0, :, -1]

  return np.abs(jax.jit(jax.jacrev(last_logit))(embeddings(params)))[:, :T].max(-1)


# --- parts --------------------------------------------------------------------------------------


def linear(x: np.ndarray, matrix_and_bias: tuple) -> np.ndarray:
  matrix, bias = matrix_and_bias
  return x @ matrix + bias


def layernorm(x: np.ndarray, scale_and_bias: tuple, epsilon: float = 1e-5) -> np.ndarray:
  scale, bias = scale_and_bias
  rows = [(row - np.mean(row)) / math.sqrt(np.var(row) + epsilon) for row in x]
  return np.stack(rows) * scale + bias


def rmsnorm(x: np.ndarray, scale_and_bias: tuple, epsilon: float = 1e-5) -> np.ndarray:
  rows = [row / math.sqrt(np.dot(row, row) / len(row) + epsilon) for row in x]
  return np.stack(rows) * scale_and_bias[0]


def gelu(x: np.ndarray) -> np.ndarray:
  """The tanh form of arXiv:1606.08415, section 2, which GPT-2 uses."""
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
  return x / (1 + np.exp(-x))


def sinusoids(length: int, d_model: int) -> np.ndarray:
  """arXiv:1706.03762, section 3.5, element by element."""
  table = np.zeros((length, d_model))
  for pos in range(length):
    for i in range(d_model // 2):
      table[pos, 2 * i] = math.sin(pos / 10000 ** (2 * i / d_model))
      table[pos, 2 * i + 1] = math.cos(pos / 10000 ** (2 * i / d_model))
  return table


def rope(x: np.ndarray, theta: float = 10_000.0) -> np.ndarray:
  """Rotates x [T, N, H]: the pair (i, i + H/2) is a complex number times exp(1j pos theta^(-2i/H))."""
  half = x.shape[-1] // 2
  result = np.zeros_like(x)
  for pos in range(x.shape[0]):
    for i in range(half):
      z = (x[pos, :, i] + 1j * x[pos, :, i + half]) * np.exp(1j * pos * theta ** (-i / half))
      result[pos, :, i], result[pos, :, i + half] = z.real, z.imag
  return result


def visible(
  T: int,
  *,
  causal: bool = True,
  window: int | None = None,
  documents: np.ndarray | None = None,
  prefix: np.ndarray | None = None,
) -> np.ndarray:
  """Whether query t sees key s, [T, S], of one sequence: by the rule, for one pair at a time."""

  def sees(t: int, s: int) -> bool:
    if documents is not None and documents[t] != documents[s]:
      return False
    if prefix is not None and prefix[s]:
      return True
    if causal:
      return s <= t and (window is None or s > t - window)
    return window is None or abs(t - s) <= window // 2

  return np.array([[sees(t, s) for s in range(T)] for t in range(T)])


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
  """Attention of q [T, N, H] over k, v [S, K, H], one query of one head at a time; visible [T, S]."""
  T, N, H = q.shape
  out = np.zeros((T, N, H))
  for n in range(N):
    kv = n // (N // k.shape[1])
    for t in range(T):
      keys = np.flatnonzero(visible[t])
      scores = np.array([q[t, n] @ k[s, kv] / math.sqrt(H) for s in keys])
      chances = np.exp(scores - scores.max())
      chances /= chances.sum()
      out[t, n] = sum(p * v[s, kv] for p, s in zip(chances, keys, strict=True))
  return out


def self_attention(x: np.ndarray, b: dict, heads: int, *, rotary: bool, **who: Any) -> np.ndarray:
  """Args: who: see `visible`."""
  T = len(x)
  H = b["query"][0].shape[1] // heads
  q, k, v = (linear(x, b[name]).reshape(T, -1, H) for name in ("query", "key", "value"))
  if rotary:
    q, k = rope(q), rope(k)
  return linear(attend(q, k, v, visible(T, **who)).reshape(T, -1), b["out"])


# --- presets: logits [T, V] of one sequence of tokens [T] -----------------------------------------


def original(w: dict, tokens: np.ndarray, heads: int, **who: Any) -> np.ndarray:
  """Vaswani et al., arXiv:1706.03762, as a decoder-only model."""
  d_model = w["tokens"].shape[1]
  x = w["tokens"][tokens] * math.sqrt(d_model) + sinusoids(len(tokens), d_model)
  for b in w["blocks"]:
    x = layernorm(x + self_attention(x, b, heads, rotary=False, **who), b["attention_norm"])
    x = layernorm(x + linear(np.maximum(linear(x, b["up"]), 0), b["down"]), b["mlp_norm"])
  return x @ w["tokens"].T


def gpt2(w: dict, tokens: np.ndarray, heads: int, **who: Any) -> np.ndarray:
  """Radford et al. 2019."""
  x = w["tokens"][tokens] + w["positions"][: len(tokens)]
  for b in w["blocks"]:
    x = x + self_attention(layernorm(x, b["attention_norm"]), b, heads, rotary=False, **who)
    x = x + linear(gelu(linear(layernorm(x, b["mlp_norm"]), b["up"])), b["down"])
  return layernorm(x, w["final_norm"]) @ w["tokens"].T


def palm(w: dict, tokens: np.ndarray, heads: int, **who: Any) -> np.ndarray:
  """Chowdhery et al., arXiv:2204.02311, section 2."""
  x = w["tokens"][tokens] * math.sqrt(w["tokens"].shape[1])
  for b in w["blocks"]:
    h = layernorm(x, b["norm"])
    mlp = linear(silu(linear(h, b["gate"])) * linear(h, b["up"]), b["down"])
    x = x + mlp + self_attention(h, b, heads, rotary=True, **who)
  return layernorm(x, w["final_norm"]) @ w["tokens"].T


def llama(w: dict, tokens: np.ndarray, heads: int, **who: Any) -> np.ndarray:
  """Touvron et al., arXiv:2302.13971."""
  x = w["tokens"][tokens]
  for b in w["blocks"]:
    x = x + self_attention(rmsnorm(x, b["attention_norm"]), b, heads, rotary=True, **who)
    h = rmsnorm(x, b["mlp_norm"])
    x = x + linear(silu(linear(h, b["gate"])) * linear(h, b["up"]), b["down"])
  return rmsnorm(x, w["final_norm"]) @ w["output"]


def bert_states(w: dict, tokens: np.ndarray, heads: int, segments: Any = 0, **who: Any) -> np.ndarray:
  """Devlin et al., arXiv:1810.04805, and the released modeling.py: what the last layer gives, [T, D]."""
  epsilon = 1e-12
  x = w["tokens"][tokens] + w["positions"][: len(tokens)] + w["segments"][segments]
  x = layernorm(x, w["embedding_norm"], epsilon)
  for b in w["blocks"]:
    attended = self_attention(x, b, heads, rotary=False, **{"causal": False, **who})
    x = layernorm(x + attended, b["attention_norm"], epsilon)
    x = layernorm(x + linear(gelu(linear(x, b["up"])), b["down"]), b["mlp_norm"], epsilon)
  return x


def bert(w: dict, tokens: np.ndarray, heads: int, segments: Any = 0, **who: Any) -> np.ndarray:
  """The logits of masked tokens: get_masked_lm_output of run_pretraining.py."""
  x = bert_states(w, tokens, heads, segments, **who)
  return layernorm(gelu(linear(x, w["dense"])), w["dense_norm"], 1e-12) @ w["tokens"].T + w["output_bias"]


def pooled(w: dict, states: np.ndarray, head: str) -> np.ndarray:
  """The logits of classes: get_next_sentence_output there, and create_model of run_classifier.py."""
  return linear(np.tanh(linear(states[:1], w["pooler"])), w[head])[0]


PRESETS = {"original": original, "gpt2": gpt2, "palm": palm, "llama": llama, "bert": bert}
