"""The architectures of GGUF that are read: metadata as a ModelConfig, and a table of tensors each."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lm_jax import layers
from lm_jax.interop.families.base import MAX_SIZE, TRANSPOSE, Row, Shape, Transform, linear, norm
from lm_jax.model_config import ModelConfig, RopeScaling, resolve
from lm_jax.presets import PRESETS
from lm_jax.strict import ConfigError, require

Read = Callable[[str], np.ndarray]
# llama.cpp's factors over the rotary frequencies, in the place of a rule for them.
FREQUENCIES = "rope_freqs.weight"


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Attributes:
  family: of the Pretrained that it becomes.
  model: (metadata, shapes of the tensors, reader) -> the model, and tensors that are no parameters.
  rows: the tensors of a model.
  """

  family: str
  model: Callable[[Any, Mapping[str, Shape], Read], tuple[ModelConfig, tuple[str, ...]]]
  rows: Callable[[ModelConfig], list[Row]]


def _size(facts: Any, key: str, default: int | None = None) -> int:
  value = facts.get(key, int, default)
  require(0 < value <= MAX_SIZE, key, value, "greater than 0 and below 2^31")
  return value


def _shared(facts: Any, name: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
  table = shapes.get("token_embd.weight")
  if table is None or len(table) != 2:
    raise ConfigError(f"{name}: has no token_embd.weight of two axes")
  return {
    "vocab_size": table[0], "context_length": _size(facts, f"{name}.context_length"),
    "d_model": _size(facts, f"{name}.embedding_length"), "num_layers": _size(facts, f"{name}.block_count"),
    "num_heads": _size(facts, f"{name}.attention.head_count"),
    "d_ff": _size(facts, f"{name}.feed_forward_length"), "tie_embeddings": "output.weight" not in shapes,
  }  # fmt: skip


def _resolved(fields: dict[str, Any]) -> ModelConfig:
  return resolve(ModelConfig(**fields), fields["vocab_size"], fields["context_length"])


# --- llama --------------------------------------------------------------------------------------


def pairs_apart(heads: Callable[[ModelConfig], int]) -> Callable[[ModelConfig], Transform]:
  """Returns the transform of queries or keys whose rotary pairs are neighbors, (2 i, 2 i + 1).

  Ours are (i, i + H/2), as in transformers.
  """

  def transform(m: ModelConfig) -> Transform:
    def load(x: np.ndarray, _: int) -> list[np.ndarray]:
      return [x.reshape(heads(m), m.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(x.shape).T]

    return dataclasses.replace(TRANSPOSE, load=load)

  return transform


QUERY, KEY = pairs_apart(lambda m: m.num_heads), pairs_apart(lambda m: m.num_kv_heads)


def _llama_rows(m: ModelConfig) -> list[Row]:
  table = [Row("token_embd.weight", ("embedding/table",))]
  for i in range(m.num_layers):
    theirs, ours = f"blk.{i}", f"block_{i}"
    table += norm(f"{theirs}.attn_norm", f"{ours}/attention_norm", False)
    table.append(Row(f"{theirs}.attn_q.weight", (f"{ours}/attention/query/kernel",), QUERY(m)))
    table.append(Row(f"{theirs}.attn_k.weight", (f"{ours}/attention/key/kernel",), KEY(m)))
    table += linear(f"{theirs}.attn_v", f"{ours}/attention/value", False)
    table += linear(f"{theirs}.attn_output", f"{ours}/attention/out", False)
    table += norm(f"{theirs}.ffn_norm", f"{ours}/mlp_norm", False)
    for name in ("gate", "up", "down"):
      table += linear(f"{theirs}.ffn_{name}", f"{ours}/mlp/{name}", False)
  return table + _ends(m, False)


def _ends(m: ModelConfig, has_bias: bool) -> list[Row]:
  output = [] if m.tie_embeddings else [Row("output.weight", ("output/kernel",), TRANSPOSE)]
  return norm("output_norm", "final_norm", has_bias) + output


def _llama(facts: Any, shapes: Mapping[str, Shape], read: Read) -> tuple[ModelConfig, tuple[str, ...]]:
  name = "llama"
  heads = _size(facts, f"{name}.attention.head_count")
  experts = facts.get(f"{name}.expert_count", int, 0)
  require(experts == 0, f"{name}.expert_count", experts, "0: mixtures of experts are not supported")
  fields = _shared(facts, name, shapes) | {
    "num_kv_heads": _size(facts, f"{name}.attention.head_count_kv", heads),
    "rope_theta": facts.get(f"{name}.rope.freq_base", float, 10_000.0),
    "norm_epsilon": _single(facts.get(f"{name}.attention.layer_norm_rms_epsilon", float)),
    "positions": "rope", "norm": "rmsnorm", "activation": "swiglu", "initializer": "normal",
    "rope_scaling": _scaling(facts, name),
  }  # fmt: skip
  if facts.has(f"{name}.attention.key_length"):
    fields["head_dim"] = _size(facts, f"{name}.attention.key_length")
  model = _resolved(fields)
  rotated = facts.get(f"{name}.rope.dimension_count", int, model.head_dim)
  require(rotated == model.head_dim, f"{name}.rope.dimension_count", rotated, f"head_dim={model.head_dim}")
  if FREQUENCIES not in shapes:
    return model, ()
  factors = read(FREQUENCIES)
  return dataclasses.replace(model, rope_scaling=_llama3(model, factors)), (FREQUENCIES,)


def _single(value: float) -> float:
  """Returns the shortest number that is the same in float32: 1e-5, and not 9.999999747e-6."""
  return float(str(np.float32(value)))


def _scaling(facts: Any, name: str) -> RopeScaling:
  kind = facts.get(f"{name}.rope.scaling.type", str, "none")
  require(kind in ("none", "linear"), f"{name}.rope.scaling.type", kind, "none or linear")
  if kind == "none":
    return RopeScaling()
  return RopeScaling("linear", facts.get(f"{name}.rope.scaling.factor", float))


def _llama3(model: ModelConfig, factors: np.ndarray) -> RopeScaling:
  """Returns the rule of Llama 3.1 that gives these factors; ConfigError if none of Llama 3's does."""
  if np.allclose(factors, 1):
    return model.rope_scaling
  # The largest is the rule's factor, but for the rounding of frequencies.
  scaling = RopeScaling("llama3", float(f"{factors.max():.5g}"))
  plain, scaled = (_frequencies(dataclasses.replace(model, rope_scaling=s)) for s in (RopeScaling(), scaling))
  if factors.shape != plain.shape or not np.allclose(plain / factors, scaled, rtol=1e-4):
    raise ConfigError(f"{FREQUENCIES}: has other factors than those of Llama 3; that is not supported")
  return scaling


def _frequencies(m: ModelConfig) -> np.ndarray:
  """Returns the rotary frequencies, radians a token [H/2]: the angles of the second token."""
  cos, sin = layers.rotary_tables(m, 2)
  return np.arctan2(sin[1], cos[1])


# --- gpt2 ---------------------------------------------------------------------------------------

# Queries, keys and values one after another: [3 D, D].
STACKED = Transform(
  lambda x, n: [part.T for part in np.split(x, 3)],
  lambda xs, n: np.concatenate([x.T for x in xs]),
  lambda shapes: (sum(shape[-1] for shape in shapes), *shapes[0][:-1]),
)


def _gpt2_rows(m: ModelConfig) -> list[Row]:
  table = [Row("token_embd.weight", ("embedding/table",)), Row("position_embd.weight", ("positions",))]
  for i in range(m.num_layers):
    theirs, ours = f"blk.{i}", f"block_{i}"
    qkv = [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
    table += norm(f"{theirs}.attn_norm", f"{ours}/attention_norm", True)
    table.append(Row(f"{theirs}.attn_qkv.weight", tuple(f"{path}/kernel" for path in qkv), STACKED))
    table.append(Row(f"{theirs}.attn_qkv.bias", tuple(f"{path}/bias" for path in qkv), STACKED))
    table += linear(f"{theirs}.attn_output", f"{ours}/attention/out", True)
    table += norm(f"{theirs}.ffn_norm", f"{ours}/mlp_norm", True)
    table += linear(f"{theirs}.ffn_up", f"{ours}/mlp/up", True)
    table += linear(f"{theirs}.ffn_down", f"{ours}/mlp/down", True)
  return table + _ends(m, True)


def _gpt2(facts: Any, shapes: Mapping[str, Shape], read: Read) -> tuple[ModelConfig, tuple[str, ...]]:
  del read
  style = {k: v for k, v in PRESETS["gpt2"].items() if k != "tie_embeddings"}
  epsilon = _single(facts.get("gpt2.attention.layer_norm_epsilon", float, 1e-5))
  return _resolved(style | _shared(facts, "gpt2", shapes) | {"norm_epsilon": epsilon}), ()


ARCHITECTURES = {
  "llama": Architecture("llama", _llama, _llama_rows),
  "gpt2": Architecture("gpt2", _gpt2, _gpt2_rows),
}
