"""Models of transformers in small, randomly drawn, beside ours; needs torch."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.model import Transformer
from lm_jax.pretrained import Pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, LENGTH = 97, 37
SIZES = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH, "num_hidden_layers": 3,
         "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_positions": LENGTH, "n_layer": 3, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = SIZES | {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 2,
                   "intermediate_size": 52}  # fmt: skip
NEOX = SIZES | {"hidden_size": 60, "num_attention_heads": 3, "intermediate_size": 44}
BERT = SIZES | {"hidden_size": 36, "num_attention_heads": 4, "intermediate_size": 52, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
  """A class of transformers, its config's class, and the fields of the config."""

  model: str
  config: str
  fields: dict[str, Any]

  def build(self, seed: int = 0) -> Any:
    """Returns a model whose weights are so large that logits are of the size of trained ones."""
    config = getattr(transformers, self.config)(**self.fields)
    model = getattr(transformers, self.model)(config).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
      for name, p in model.named_parameters():
        drawn = torch.randn(p.shape, generator=rng)
        p.copy_(1 + 0.2 * drawn if "norm" in name.lower() and name.endswith("weight") else 0.3 * drawn)
    return model


DECODERS = {
  "gpt2": Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"n_embd": 36, "n_head": 3}),
  "gpt2_untied": Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {
    "n_embd": 20, "n_head": 5, "n_inner": 44, "tie_word_embeddings": False, "activation_function": "relu"}),
  "gpt_neox": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX | {"rope_parameters": {
    "rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.4}}),
  "gpt_neox_sequential": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX | {
    "use_parallel_residual": False, "tie_word_embeddings": True, "hidden_act": "gelu_new",
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e4, "partial_rotary_factor": 1.0}}),
  "llama": Case("LlamaForCausalLM", "LlamaConfig", GROUPED),
  "llama_biases": Case("LlamaForCausalLM", "LlamaConfig", GROUPED | {
    "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
  "llama3": Case("LlamaForCausalLM", "LlamaConfig", GROUPED | {
    "head_dim": 10, "tie_word_embeddings": True, "rope_parameters": LLAMA3}),
  "mistral": Case("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 5}),
  "mistral_full": Case("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": None}),
  "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
  "qwen2_window": Case("Qwen2ForCausalLM", "Qwen2Config", GROUPED | {
    "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "tie_word_embeddings": True}),
}  # fmt: skip
ENCODERS = {
  "bert": Case("BertModel", "BertConfig", BERT),
  "bert_masked": Case("BertForMaskedLM", "BertConfig", BERT | {"hidden_act": "gelu_new"}),
  "bert_pretraining": Case("BertForPreTraining", "BertConfig", BERT | {"type_vocab_size": 3}),
}  # fmt: skip
CASES = DECODERS | ENCODERS


def save(model: Any, folder: Path) -> Path:
  model.save_pretrained(folder)
  return folder


def tokens(batch: int = 3, length: int = LENGTH, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(3, VOCAB, (batch, length), dtype=np.int32)


def run(model: Any, ids: np.ndarray, **inputs: np.ndarray) -> Any:
  """Returns what a model of transformers says."""
  given = {name: torch.from_numpy(np.asarray(x)).long() for name, x in inputs.items()}
  with torch.no_grad():
    return model(input_ids=torch.from_numpy(ids).long(), **given)


def logits(model: Any, ids: np.ndarray, **inputs: np.ndarray) -> np.ndarray:
  """Returns logits, or the last hidden states of a model without a head."""
  out = run(model, ids, **inputs)
  for name in ("logits", "prediction_logits", "last_hidden_state"):
    if hasattr(out, name):
      return getattr(out, name).numpy()
  raise AssertionError(f"no logits in {list(out)}")


def ours(p: Pretrained, ids: np.ndarray, **inputs: Any) -> Any:
  """Returns what our model says of the same ids."""
  given = {name: jnp.asarray(x, jnp.int32) if name.endswith("_BT") else x for name, x in inputs.items()}
  return Transformer(p.model).apply(
    {"params": jax.tree.map(jnp.asarray, p.params)}, jnp.asarray(ids), **given
  )
