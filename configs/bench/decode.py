"""Benchmark: generation at the sizes of SmolLM2-135M, or of GPT-2 124M, with random weights.

lm-jax bench --config=configs/bench/decode.py --json                     6 min on 2 cores, cold compiler
lm-jax bench --config=configs/bench/decode.py:gpt2
lm-jax bench --config=configs/bench/decode.py:MODEL          a path, or a name on Hugging Face's hub
"""

import ml_collections

SIZES = {
  "smollm2": {
    "preset": "llama", "tie_embeddings": True, "vocab_size": 49152, "context_length": 2048, "d_model": 576,
    "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "d_ff": 1536, "rope_theta": 100_000.0,
  },
  "gpt2": {
    "preset": "gpt2", "vocab_size": 50257, "context_length": 1024, "d_model": 768, "num_layers": 12,
    "num_heads": 12,
  },
}  # fmt: skip


def get_config(argument: str = "smollm2") -> ml_collections.ConfigDict:
  where = {"model": SIZES[argument]} if argument in SIZES else {"path": argument}
  longest = 1023 if argument == "gpt2" else 1024
  # Most of the time goes into compiling: a program for each of these.
  decoding = {"prompt_lengths": [16, 128, longest], "weights": ["float32", "int8"]}
  return ml_collections.ConfigDict({"study": "bench", "decoding": decoding, **where})
