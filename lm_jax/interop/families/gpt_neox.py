"""GPT-NeoX (arXiv:2204.06745) and Pythia (arXiv:2304.01373)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax.interop.families import rope
from lm_jax.interop.families.base import ACTIVATIONS, TRANSPOSE, Family, Field, Row, Transform, linear, norm
from lm_jax.model_config import ModelConfig


def _split(x: np.ndarray, num_heads: int) -> list[np.ndarray]:
  """Returns query, key and value, [D, D] or [D], of [N, 3, H] rows."""
  parts = x.reshape(num_heads, 3, -1, *x.shape[1:])
  return [parts[:, i].reshape(-1, *x.shape[1:]).T for i in range(3)]


def _interleave(xs: Sequence[np.ndarray], num_heads: int) -> np.ndarray:
  parts = [x.T.reshape(num_heads, -1, *x.T.shape[1:]) for x in xs]
  stacked = np.stack(parts, axis=1)
  return stacked.reshape(-1, *stacked.shape[3:])


# Queries, keys and values of one head, then those of the next: [N 3 H, D], or [N 3 H].
A_HEAD_EACH = Transform(
  _split, _interleave, lambda shapes: (sum(shape[-1] for shape in shapes), *shapes[0][:-1])
)
QKV = ("query", "key", "value")


def rows(m: ModelConfig) -> list[Row]:
  table = [Row("embed_in.weight", ("embedding/table",))]
  for i in range(m.num_layers):
    theirs, ours = f"layers.{i}", f"block_{i}"
    table += norm(f"{theirs}.input_layernorm", f"{ours}/attention_norm", True)
    table += norm(f"{theirs}.post_attention_layernorm", f"{ours}/mlp_norm", True)
    table += [
      Row(f"{theirs}.attention.query_key_value.{t}",
          tuple(f"{ours}/attention/{name}/{o}" for name in QKV), A_HEAD_EACH)
      for t, o in (("weight", "kernel"), ("bias", "bias"))
    ]  # fmt: skip
    table += linear(f"{theirs}.attention.dense", f"{ours}/attention/out", True)
    table += linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}/mlp/up", True)
    table += linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}/mlp/down", True)
  table += norm("final_layer_norm", "final_norm", True)
  if not m.tie_embeddings:
    table.append(Row("embed_out.weight", ("output/kernel",), TRANSPOSE))
  return table


def _read_more(config: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
  del names
  # A norm each where attention and MLP are parallel, as where they follow each other.
  parallel = bool(config.get("use_parallel_residual", True))
  more = rope.read(config, where, "rotary_emb_base", "rotary_pct", 0.25)
  return more | {"parallel_block": parallel, "parallel_norms": parallel}


def _write_more(m: ModelConfig) -> dict[str, Any]:
  fields = {"use_parallel_residual": m.parallel_block, "rotary_pct": m.rotary_fraction}
  fields |= {"attention_bias": True, "attention_dropout": 0.0, "initializer_range": 0.02}
  return fields | rope.write(m, "rotary_emb_base")


def _aliases(m: ModelConfig) -> dict[str, str]:
  return {"embed_out.weight": "embed_in.weight"} if m.tie_embeddings else {}


FAMILY = Family(
  model_type="gpt_neox",
  architectures=("GPTNeoXForCausalLM",),
  fields=(
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    Field("hidden_size", "d_model"),
    Field("num_hidden_layers", "num_layers"),
    Field("num_attention_heads", "num_heads"),
    Field("intermediate_size", "d_ff"),
    Field("hidden_act", "activation", str, "gelu", ACTIVATIONS),
    Field("layer_norm_eps", "norm_epsilon", float, 1e-5),
    Field("tie_word_embeddings", "tie_embeddings", bool, False),
    Field("hidden_dropout", "dropout", float, 0.0),
  ),
  style={"positions": "rope", "norm": "layernorm", "use_bias": True, "initializer": "normal"},
  fixed={"attention_bias": True, "is_decoder": False},
  rows=rows,
  prefix="gpt_neox.",
  heads=("embed_out.",),
  buffers=r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
  aliases=_aliases,
  architecture=lambda m: "GPTNeoXForCausalLM",
  read_more=_read_more,
  write_more=_write_more,
)
