"""GGUF files of models of transformers, written by the field's own library as llama.cpp's converter does."""

from pathlib import Path

import numpy as np
import pytest
from foreign import VOCAB

gguf = pytest.importorskip("gguf")

EVEN = {"vocab_size": VOCAB, "max_position_embeddings": 40, "num_hidden_layers": 2, "hidden_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}  # fmt: skip
LLAMA = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip
GPT2 = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}  # fmt: skip
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "transformer.wte": "token_embd", "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm"}  # fmt: skip


def their_name(name: str) -> str:
  """Returns what llama.cpp calls a tensor of transformers."""
  owner, _, kind = name.rpartition(".")
  if owner in ENDS:
    return f"{ENDS[owner]}.{kind}"
  _, _, layer, inner = owner.split(".", 3)
  return f"blk.{layer}.{(LLAMA | GPT2)[inner]}.{kind}"


def as_written(name: str, x: np.ndarray, config) -> np.ndarray:
  """Returns a tensor as llama.cpp's converter lays it out."""
  if ".c_" in name and x.ndim == 2:
    return x.T
  for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", "num_key_value_heads")):
    if part in name:
      n = getattr(config, heads) if isinstance(heads, str) else heads
      return x.reshape(n, 2, x.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(x.shape)
  return x


def write(path: Path, model, kind: str = "F32", more=lambda writer: None) -> Path:
  """Writes a model of transformers as GGUF, its matrices quantized."""
  c = model.config
  name = "gpt2" if c.model_type == "gpt2" else "llama"
  writer = gguf.GGUFWriter(path, name)
  writer.add_context_length(c.max_position_embeddings)
  writer.add_embedding_length(c.hidden_size)
  writer.add_block_count(c.num_hidden_layers)
  writer.add_head_count(c.num_attention_heads)
  if name == "gpt2":
    writer.add_feed_forward_length(c.n_inner or 4 * c.n_embd)
    writer.add_layer_norm_eps(c.layer_norm_epsilon)
  else:
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_key_length(c.head_dim)
  for key, x in model.state_dict().items():
    if key == "lm_head.weight" and c.tie_word_embeddings:
      continue
    array = np.ascontiguousarray(as_written(key, x.float().numpy(), c))
    quantized = getattr(gguf.GGMLQuantizationType, kind if array.ndim == 2 else "F32")
    writer.add_tensor(their_name(key), gguf.quantize(array, quantized), raw_dtype=quantized)
  more(writer)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def with_tokenizer(writer, spec: dict, split: str) -> None:
  """Writes a byte-level BPE, a token of users after it, and a chat template."""
  vocab = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(split)
  writer.add_token_list([*vocab, "<|user|>"])
  writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(vocab) - 1)
                         + [gguf.TokenType.USER_DEFINED])  # fmt: skip
  writer.add_token_merges([" ".join(merge) for merge in spec["model"]["merges"]])
  writer.add_eos_token_id(0)
  writer.add_bos_token_id(0)
  writer.add_add_bos_token(True)
  writer.add_chat_template("{{ messages }}")
