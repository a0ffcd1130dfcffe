"""Benchmark: text from disk to a training step, d=128, 4 heads, 4 layers, T=256, batch 16, 4096 BPE tokens.

lm-jax bench --config=configs/bench/text.py --config=configs/bench/text.py:masked --core=0
"""

import ml_collections

from lm_jax import sweep


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  masked = sweep.arguments(argument, masked=False)["masked"]
  return ml_collections.ConfigDict(
    {
      "study": "bench",
      "task": {
        "name": "text",
        "tokenizer": {"kind": "bpe", "vocab_size": 4096},
        "objective": "masked_lm" if masked else "causal_lm",
      },
      "model": {"d_model": 128, "num_heads": 4, "num_layers": 4, "causal": not masked},
      "train": {"batch_size": 16},
      "runtime": {"steps_per_dispatch": 20},
    }
  )
