"""Benchmark: GPT-2 preset without biases, d=384, 6 heads, 6 layers, T=256, batch 8, vocabulary 65.

lm-jax bench --config=configs/bench/d384.py --core=0
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      "study": "bench",
      "task": {"name": "noisy_majority", "num_symbols": 65, "length": 256},
      "model": {
        "preset": "gpt2",
        "use_bias": False,
        "d_model": 384,
        "num_heads": 6,
        "num_layers": 6,
      },
      "optimizer": {"beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
      "train": {"batch_size": 8},
    }
  )
