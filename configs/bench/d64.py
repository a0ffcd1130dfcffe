"""Benchmark: GPT-2 preset without biases, d=64, 2 heads, 2 layers, T=64, batch 64, vocabulary 256.

lm-jax bench --config=configs/bench/d64.py --core=0
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      "study": "bench",
      "task": {"name": "noisy_majority", "num_symbols": 256, "length": 64},
      "model": {
        "preset": "gpt2",
        "use_bias": False,
        "d_model": 64,
        "num_heads": 2,
        "num_layers": 2,
      },
      "optimizer": {"beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
      "train": {"batch_size": 64},
    }
  )
