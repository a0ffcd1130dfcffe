"""BERT (arXiv:1810.04805) and encoders like it: MiniLM, sentence encoders."""

from collections.abc import Collection, Mapping
from typing import Any

from lm_jax.interop.families.base import (
  ACTIVATIONS,
  Family,
  Field,
  Row,
  Transform,
  linear,
  norm,
  value_of,
)
from lm_jax.model_config import ModelConfig
from lm_jax.presets import PRESETS
from lm_jax.strict import require

# Their classes are (next, not next), ours are (not next, next).
SWAPPED_KERNEL = Transform(
  lambda x, n: [x[::-1].T], lambda xs, n: xs[0].T[::-1], lambda shapes: shapes[0][::-1]
)
SWAPPED_BIAS = Transform(lambda x, n: [x[::-1]], lambda xs, n: xs[0][::-1], lambda shapes: shapes[0])
PREDICTIONS, NEXT = "cls.predictions", "cls.seq_relationship"
FOR_MASKED, FOR_PRETRAINING = "BertForMaskedLM", "BertForPreTraining"
# Which parts of a layer are whose.
LAYER = {
  "attention.self.query": "attention/query", "attention.self.key": "attention/key",
  "attention.self.value": "attention/value", "attention.output.dense": "attention/out",
  "intermediate.dense": "mlp/up", "output.dense": "mlp/down",
}  # fmt: skip
NORMS = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "mlp_norm"}


def rows(m: ModelConfig) -> list[Row]:
  tables = {"word": "embedding/table", "position": "positions", "token_type": "segments"}
  table = [Row(f"embeddings.{theirs}_embeddings.weight", (ours,)) for theirs, ours in tables.items()]
  table += norm("embeddings.LayerNorm", "embedding_norm", True)
  for i in range(m.num_layers):
    theirs, ours = f"encoder.layer.{i}", f"block_{i}"
    for name, path in LAYER.items():
      table += linear(f"{theirs}.{name}", f"{ours}/{path}", True)
    for name, path in NORMS.items():
      table += norm(f"{theirs}.{name}", f"{ours}/{path}", True)
  return table + _heads(m)


def _heads(m: ModelConfig) -> list[Row]:
  table = []
  if m.pooler or m.next_sentence_head:
    table += linear("pooler.dense", "pooler", True)
  if m.next_sentence_head:
    table.append(Row(f"{NEXT}.weight", ("next_sentence/kernel",), SWAPPED_KERNEL))
    table.append(Row(f"{NEXT}.bias", ("next_sentence/bias",), SWAPPED_BIAS))
  if not m.lm_head:
    return table
  table += linear(f"{PREDICTIONS}.transform.dense", "output_transform/dense", True)
  table += norm(f"{PREDICTIONS}.transform.LayerNorm", "output_transform/norm", True)
  return [*table, Row(f"{PREDICTIONS}.bias", ("output/bias",))]


def _read_more(config: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
  """Returns which heads there are: those of the architecture, and those whose weights are there.

  bert-base-uncased calls itself a BertForMaskedLM, and has the next-sentence head too.
  """
  there = config.get("architectures") or []
  next_sentence = FOR_PRETRAINING in there or f"{NEXT}.weight" in names
  has_head = any(name.startswith(PREDICTIONS) for name in names)
  lm_head = next_sentence or FOR_MASKED in there or has_head
  # Untied, versions of transformers differ in which of two biases they add.
  tied = value_of(config, "tie_word_embeddings", bool, True, where)
  require(tied or not lm_head, f"{where}: tie_word_embeddings", tied, "true for a model with a head")
  return {
    "lm_head": lm_head, "next_sentence_head": next_sentence, "tie_embeddings": True,
    "pooler": "pooler.dense.weight" in names and not next_sentence,
    "output_transform": lm_head, "output_bias": lm_head,
  }  # fmt: skip


def _write_more(m: ModelConfig) -> dict[str, Any]:
  return {
    "tie_word_embeddings": True, "attention_probs_dropout_prob": 0.0,
    "position_embedding_type": "absolute", "initializer_range": 0.02,
  }  # fmt: skip


def _architecture(m: ModelConfig) -> str:
  if m.next_sentence_head:
    return FOR_PRETRAINING
  return FOR_MASKED if m.lm_head else "BertModel"


def _aliases(m: ModelConfig) -> dict[str, str]:
  if not m.lm_head:
    return {}
  return {
    f"{PREDICTIONS}.decoder.bias": f"{PREDICTIONS}.bias",
    f"{PREDICTIONS}.decoder.weight": "embeddings.word_embeddings.weight",
  }


# What its fields and heads decide.
_DECIDED = ("norm_epsilon", "activation", "num_segments", "tie_embeddings", "output_transform", "output_bias",
            "next_sentence_head")  # fmt: skip

FAMILY = Family(
  model_type="bert",
  architectures=("BertModel", FOR_MASKED, FOR_PRETRAINING),
  fields=(
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    Field("hidden_size", "d_model"),
    Field("num_hidden_layers", "num_layers"),
    Field("num_attention_heads", "num_heads"),
    Field("intermediate_size", "d_ff"),
    Field("type_vocab_size", "num_segments"),
    Field("hidden_act", "activation", str, "gelu", ACTIVATIONS),
    Field("layer_norm_eps", "norm_epsilon", float, 1e-12),
    Field("hidden_dropout_prob", "dropout", float, 0.1),
  ),
  style={k: v for k, v in PRESETS["bert"].items() if k not in _DECIDED},
  fixed={"position_embedding_type": "absolute", "is_decoder": False},
  rows=rows,
  prefix="bert.",
  heads=("cls.",),
  buffers=r"embeddings\.(position_ids|token_type_ids)",
  synonyms={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
  aliases=_aliases,
  architecture=_architecture,
  read_more=_read_more,
  write_more=_write_more,
)
