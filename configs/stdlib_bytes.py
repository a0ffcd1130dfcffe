"""A causal LM on real text that is on every machine: the Python standard library's own sources, as bytes.

    lm-jax train --config=configs/stdlib_bytes.py --workdir=runs/stdlib_bytes

Cost: under 2 minutes on 2 cores. Expected: from 7.7 to about 2.25 bits per byte (Python 3.11.7's library).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      "study": "stdlib_bytes",
      "task": {"name": "python_stdlib", "context_length": 128},
      "model": {"preset": "gpt2", "use_bias": False, "d_model": 128, "num_layers": 4, "num_heads": 4},
      "optimizer": {"learning_rate": 3e-3, "beta2": 0.95, "weight_decay": 0.1, "warmup_steps": 50},
      "train": {"num_steps": 1000, "batch_size": 16},
      "eval": {"num_examples": 256, "batch_size": 32},
      "runtime": {"steps_per_dispatch": 25, "log_every": 25, "checkpoint_every": 250},
    }
  )
