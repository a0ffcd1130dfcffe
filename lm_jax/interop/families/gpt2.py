"""GPT-2 (Radford et al. 2019)."""

import numpy as np

from lm_jax.interop.families.base import ACTIVATIONS, TRANSPOSE, Family, Field, Row, Transform, norm
from lm_jax.model_config import ModelConfig
from lm_jax.presets import PRESETS

# Queries, keys and values side by side: [D, 3 D], or [3 D].
SIDE_BY_SIDE = Transform(
  lambda x, n: np.split(x, 3, axis=-1),
  lambda xs, n: np.concatenate(xs, axis=-1),
  lambda shapes: (*shapes[0][:-1], sum(shape[-1] for shape in shapes)),
)
QKV = ("query", "key", "value")


def rows(m: ModelConfig) -> list[Row]:
  table = [Row("wte.weight", ("embedding/table",)), Row("wpe.weight", ("positions",))]
  for i in range(m.num_layers):
    theirs, ours = f"h.{i}", f"block_{i}"
    table += norm(f"{theirs}.ln_1", f"{ours}/attention_norm", True)
    table += [
      Row(f"{theirs}.attn.c_attn.{t}", tuple(f"{ours}/attention/{name}/{o}" for name in QKV), SIDE_BY_SIDE)
      for t, o in (("weight", "kernel"), ("bias", "bias"))
    ]
    table += _conv1d(f"{theirs}.attn.c_proj", f"{ours}/attention/out")
    table += norm(f"{theirs}.ln_2", f"{ours}/mlp_norm", True)
    table += _conv1d(f"{theirs}.mlp.c_fc", f"{ours}/mlp/up")
    table += _conv1d(f"{theirs}.mlp.c_proj", f"{ours}/mlp/down")
  table += norm("ln_f", "final_norm", True)
  if not m.tie_embeddings:
    table.append(Row("lm_head.weight", ("output/kernel",), TRANSPOSE))
  return table


def _conv1d(theirs: str, ours: str) -> list[Row]:
  # GPT-2's Conv1D holds [in, out], as ours.
  return [Row(f"{theirs}.weight", (f"{ours}/kernel",)), Row(f"{theirs}.bias", (f"{ours}/bias",))]


def _aliases(m: ModelConfig) -> dict[str, str]:
  return {"lm_head.weight": "wte.weight"} if m.tie_embeddings else {}


def _write_more(m: ModelConfig) -> dict:
  return {"attn_pdrop": 0.0, "embd_pdrop": m.dropout, "initializer_range": 0.02}


FAMILY = Family(
  model_type="gpt2",
  architectures=("GPT2LMHeadModel", "GPT2Model"),
  fields=(
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    Field("n_embd", "d_model"),
    Field("n_layer", "num_layers"),
    Field("n_head", "num_heads"),
    Field("n_inner", "d_ff", int | None, None),
    Field("activation_function", "activation", str, "gelu_new", ACTIVATIONS),
    Field("layer_norm_epsilon", "norm_epsilon", float, 1e-5),
    Field("tie_word_embeddings", "tie_embeddings", bool, True),
    Field("resid_pdrop", "dropout", float, 0.1),
  ),
  style={k: v for k, v in PRESETS["gpt2"].items() if k not in ("activation", "tie_embeddings")},
  fixed={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
  rows=rows,
  prefix="transformer.",
  heads=("lm_head.",),
  buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
  aliases=_aliases,
  architecture=lambda m: "GPT2LMHeadModel",
  write_more=_write_more,
)
