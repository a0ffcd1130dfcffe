"""Prompts for models of a mixture of hidden Markov models: the cells of study 022.

    lm-jax sweep --config=experiments/022_ginc/config.py --workdir=runs/022_ginc
    lm-jax sweep --config=experiments/022_ginc/config.py:smoke --workdir=runs/smoke    does it run

GINC (Xie et al., arXiv:2111.02080) scaled down: three concepts of 32 states, examples of 4 tokens; widths at
two layers, and depths at d = 32. `configs/sweeps/ginc.py:published` has the paper's own sizes.
"""

import ml_collections

from lm_jax import scaling, sweep

STEPS, SEEDS = 2500, 3
# (width, layers)
SIZES = {"width": ((16, 2), (32, 2), (64, 2)), "depth": ((32, 1), (32, 4))}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  smoke = sweep.arguments(argument, smoke=False)["smoke"]
  base = {
    "task": {"name": "ginc"},
    "model": {"initializer": "xavier_uniform"},
    "train": {"num_steps": 40 if smoke else STEPS, "batch_size": 32},
    "optimizer": {
      "learning_rate": 2e-3,
      "beta2": 0.98,
      "weight_decay": 0.01,
      "warmup_steps": 20 if smoke else 100,
    },
  }
  rungs = [
    sweep.fixed(family=name, model=scaling.width_ladder(width, num_layers=layers))
    for name, sizes in SIZES.items()
    for width, layers in sizes
  ]
  cells = sweep.product(sweep.axis("seed", range(1 if smoke else SEEDS)), sweep.chain(*rungs))
  return ml_collections.ConfigDict({"study": "022_ginc", "base": base, "cells": cells})
