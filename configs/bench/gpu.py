"""Benchmark for one GPU: published sizes in bfloat16, of 124M, 354M and 1.2B parameters, layers scanned.

lm-jax bench --config=configs/bench/gpu.py:gpt2 --steps=20
lm-jax bench --config=configs/bench/gpu.py:gpt2_medium --config=configs/bench/gpu.py:llama_1b --steps=10

Tokens are drawn on the device. The largest holds 20 GB of parameters, gradients and optimizer. Measured
beside nanoGPT in experiments/023_one_gpu.
"""

import ml_collections

# Names of sizes, and the sequences of a step.
SIZES = {
  "gpt2": ({"preset": "gpt2", "use_bias": False, "d_model": 768, "num_layers": 12, "num_heads": 12}, 32),
  "gpt2_medium": (
    {"preset": "gpt2", "use_bias": False, "d_model": 1024, "num_layers": 24, "num_heads": 16}, 16
  ),
  # Llama 3.2 1B but for its vocabulary.
  "llama_1b": (
    {"preset": "llama", "d_model": 2048, "num_layers": 16, "num_heads": 32, "num_kv_heads": 8, "d_ff": 8192,
     "tie_embeddings": True}, 16
  ),
}  # fmt: skip
# GPT-2's 50,257 rounded up to a multiple of 128, which products are faster with.
VOCABULARY, LENGTH = 50_304, 1024


def get_config(argument: str = "gpt2") -> ml_collections.ConfigDict:
  if argument not in SIZES:
    raise ValueError(f"--config=configs/bench/gpu.py:{argument}: must be one of {', '.join(SIZES)}")
  model, batch_size = SIZES[argument]
  return ml_collections.ConfigDict(
    {
      "study": "bench",
      "task": {"name": "noisy_majority", "num_symbols": VOCABULARY, "length": LENGTH},
      "model": model | {"dtype": "bfloat16", "scan_layers": True},
      "optimizer": {"beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
      "train": {"batch_size": batch_size},
    }
  )
