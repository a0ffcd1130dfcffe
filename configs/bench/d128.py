"""Benchmark: GPT-2 preset without biases, d=128, 4 heads, 4 layers, T=64, batch 12, vocabulary 65.

lm-jax bench --config=configs/bench/d128.py --core=0
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      "study": "bench",
      "task": {"name": "noisy_majority", "num_symbols": 65, "length": 64},
      "model": {
        "preset": "gpt2",
        "use_bias": False,
        "d_model": 128,
        "num_heads": 4,
        "num_layers": 4,
      },
      "optimizer": {"beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
      "train": {"batch_size": 12},
    }
  )
