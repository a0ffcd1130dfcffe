"""Does the best learning rate move with width? Four widths, seven rates, two parametrizations.

    lm-jax sweep --config=configs/sweeps/learning_rate_transfer.py --workdir=runs/learning_rate_transfer
    make study NAME=003_learning_rate_transfer        two seeds, and the figure

A two-layer causal LM on the bytes of the Python standard library, 250 steps of 1,024 bytes. Cost: about 8
minutes on 2 cores a seed (`:seeds=2`). Expected: the best rate falls from .013 at d=32 to .0019 at d=256 in
the standard parametrization and stays at .013 under muP, where the base is d=32.
"""

import ml_collections

from lm_jax import sweep

WIDTHS = (32, 64, 128, 256)
RATES = tuple(2.0**-k for k in range(10, 3, -1))


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  n = sweep.arguments(argument, seeds=1, steps=250)
  base = {
    "task": {"name": "python_stdlib", "context_length": 64},
    # Heads of 32 at every width, as families have them: their number grows.
    "model": {"num_layers": 2, "head_dim": 32, "base_d_model": WIDTHS[0]},
    "optimizer": {"beta2": 0.95, "weight_decay": 0.0, "warmup_steps": n["steps"] // 10},
    "train": {"num_steps": n["steps"], "batch_size": 16},
    "eval": {"num_examples": 512, "first_step": n["steps"]},
    "runtime": {"log_every": 25, "checkpoint_every": n["steps"]},
  }
  sizes = [sweep.fixed(model={"d_model": d, "num_heads": d // 32}) for d in WIDTHS]
  families = [sweep.fixed(family=name, model={"parametrization": name}) for name in ("standard", "mup")]
  cells = sweep.product(
    sweep.axis("seed", range(n["seeds"])), sweep.chain(*families), sweep.chain(*sizes),
    sweep.axis("optimizer.learning_rate", RATES),
  )  # fmt: skip
  return ml_collections.ConfigDict({"study": "learning_rate_transfer", "base": base, "cells": cells})
