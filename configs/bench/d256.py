"""Benchmark: GPT-2 preset without biases, d=256, 4 heads, 4 layers, T=256, batch 8, vocabulary 256.

lm-jax bench --config=configs/bench/d256.py --core=0
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      "study": "bench",
      "task": {"name": "noisy_majority", "num_symbols": 256, "length": 256},
      "model": {
        "preset": "gpt2",
        "use_bias": False,
        "d_model": 256,
        "num_heads": 4,
        "num_layers": 4,
      },
      "optimizer": {"beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
      "train": {"batch_size": 8},
    }
  )
