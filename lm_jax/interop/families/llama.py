"""Llama (arXiv:2302.13971) and what shares its tensors: SmolLM2, Mistral (arXiv:2310.06825), Qwen2."""

from collections.abc import Collection, Mapping
from typing import Any

from lm_jax.interop.families import rope
from lm_jax.interop.families.base import TRANSPOSE, Family, Field, Row, linear, norm, value_of
from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError, require

ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
MLP = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
MISTRAL_WINDOW = QWEN2_WINDOW = 4096  # transformers', where it is not written
QWEN2_FULL_LAYERS = 28


def rows(m: ModelConfig) -> list[Row]:
  table = [Row("embed_tokens.weight", ("embedding/table",))]
  for i in range(m.num_layers):
    theirs, ours = f"layers.{i}", f"block_{i}"
    table += norm(f"{theirs}.input_layernorm", f"{ours}/attention_norm", False)
    for name, path in ATTENTION.items():
      has_bias = m.use_bias or (m.qkv_bias and path != "out")
      table += linear(f"{theirs}.self_attn.{name}", f"{ours}/attention/{path}", has_bias)
    table += norm(f"{theirs}.post_attention_layernorm", f"{ours}/mlp_norm", False)
    for name, path in MLP.items():
      table += linear(f"{theirs}.mlp.{name}", f"{ours}/mlp/{path}", m.use_bias)
  table += norm("norm", "final_norm", False)
  if m.lm_head and not m.tie_embeddings:
    table.append(Row("lm_head.weight", ("output/kernel",), TRANSPOSE))
  return table


def _read_shared(config: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
  kv_heads = value_of(config, "num_key_value_heads", int | None, None, where)
  head_dim = value_of(config, "head_dim", int | None, None, where)
  bare = all(name.endswith("Model") for name in config.get("architectures") or ("?",))
  tied = value_of(config, "tie_word_embeddings", bool, False, where)
  return rope.read(config, where) | {
    "num_kv_heads": kv_heads, "head_dim": head_dim,
    "lm_head": tied or not bare or "lm_head.weight" in names,
  }  # fmt: skip


def _read_llama(config: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
  biases = {key: value_of(config, key, bool, False, where) for key in ("attention_bias", "mlp_bias")}
  if biases["attention_bias"] != biases["mlp_bias"]:
    raise ConfigError(
      f"{where}: attention_bias={biases['attention_bias']}, mlp_bias={biases['mlp_bias']}: is not supported; "
      "must be both or neither"
    )
  return _read_shared(config, names, where) | {"use_bias": biases["mlp_bias"]}


def _read_mistral(config: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
  window = value_of(config, "sliding_window", int | None, MISTRAL_WINDOW, where)
  return _read_shared(config, names, where) | {"attention_window": _all_layers(config, window, where)}


def _read_qwen2(config: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
  window = None
  if value_of(config, "use_sliding_window", bool, False, where):
    layers = value_of(config, "num_hidden_layers", int, 0, where)
    full = value_of(config, "max_window_layers", int, QWEN2_FULL_LAYERS, where)
    window = value_of(config, "sliding_window", int | None, QWEN2_WINDOW, where)
    if "layer_types" not in config:
      require(full <= 0 or full >= layers, f"{where}: max_window_layers", full,
              f"0 or at least num_hidden_layers={layers}: layers that differ are not supported")  # fmt: skip
      window = window if full <= 0 else None
  more = {"attention_window": _all_layers(config, window, where), "qkv_bias": True}
  return _read_shared(config, names, where) | more


def _all_layers(config: Mapping[str, Any], window: int | None, where: str) -> int | None:
  """Returns the window, none where all layers see everything; raises ConfigError if layers differ."""
  kinds = config.get("layer_types")
  if not kinds:
    return window
  if kinds == ["full_attention"] * len(kinds):
    return None
  if window is not None and kinds == ["sliding_attention"] * len(kinds):
    return window
  raise ConfigError(f"{where}: layer_types: layers that differ are not supported")


def _write_shared(m: ModelConfig) -> dict[str, Any]:
  fields = {"num_key_value_heads": m.num_kv_heads, "head_dim": m.head_dim, "hidden_act": "silu"}
  return fields | {"attention_dropout": 0.0, "initializer_range": 0.02} | rope.write(m)


def _write_llama(m: ModelConfig) -> dict[str, Any]:
  return _write_shared(m) | {"attention_bias": m.use_bias, "mlp_bias": m.use_bias}


def _write_mistral(m: ModelConfig) -> dict[str, Any]:
  return _write_shared(m) | {"sliding_window": m.attention_window}


def _write_qwen2(m: ModelConfig) -> dict[str, Any]:
  slides = m.attention_window is not None
  kind = "sliding_attention" if slides else "full_attention"
  return _write_shared(m) | {
    "use_sliding_window": slides, "sliding_window": m.attention_window, "layer_types": [kind] * m.num_layers,
    "max_window_layers": 0 if slides else m.num_layers,
  }  # fmt: skip


def _aliases(m: ModelConfig) -> dict[str, str]:
  return {"lm_head.weight": "embed_tokens.weight"} if m.tie_embeddings else {}


def _family(model_type: str, name: str, read: Any, write: Any, fixed: Mapping[str, Any]) -> Family:
  return Family(
    model_type=model_type,
    architectures=(f"{name}ForCausalLM", f"{name}Model"),
    fields=(
      Field("vocab_size", "vocab_size"),
      Field("max_position_embeddings", "context_length"),
      Field("hidden_size", "d_model"),
      Field("num_hidden_layers", "num_layers"),
      Field("num_attention_heads", "num_heads"),
      Field("intermediate_size", "d_ff"),
      Field("rms_norm_eps", "norm_epsilon", float, 1e-6),
      Field("tie_word_embeddings", "tie_embeddings", bool, False),
    ),
    style={"positions": "rope", "norm": "rmsnorm", "activation": "swiglu", "initializer": "normal"},
    fixed={"hidden_act": "silu", "rope_interleaved": False, **fixed},
    rows=rows,
    prefix="model.",
    heads=("lm_head.",),
    buffers=r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    aliases=_aliases,
    architecture=lambda m: f"{name}ForCausalLM" if m.lm_head else f"{name}Model",
    read_more=read,
    write_more=write,
  )


FAMILY = _family("llama", "Llama", _read_llama, _write_llama, {})
MISTRAL = _family("mistral", "Mistral", _read_mistral, _write_mistral, {})
QWEN2 = _family("qwen2", "Qwen2", _read_qwen2, _write_qwen2, {})
