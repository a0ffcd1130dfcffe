"""Hops of induction against layers: the cells of study 021.

    lm-jax sweep --config=experiments/021_k_hops/config.py --workdir=runs/021_k_hops
    lm-jax sweep --config=experiments/021_k_hops/config.py:smoke --workdir=runs/smoke    does it run

Sanford et al. (arXiv:2402.09268) scaled down to strings of 32 letters and k up to 4; widths and lengths of
training are lines, and their points depths. `configs/sweeps/khop.py:published` has the paper's own sizes.
"""

import ml_collections

from lm_jax import scaling, sweep

STEPS, LONG_STEPS = 1500, 6000
SEEDS, LONG_SEEDS = 5, 3
DEPTHS, LONG_DEPTHS = (1, 2, 3, 4), (2, 3, 4)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  smoke = sweep.arguments(argument, smoke=False)["smoke"]
  base = {
    "task": {"name": "khop", "length": 32, "num_letters": 4, "max_hops": 4},
    "model": {"initializer": "xavier_uniform"},
    "train": {"batch_size": 64},
    "optimizer": {
      "learning_rate": 3e-3,
      "beta2": 0.98,
      "weight_decay": 0.01,
      "warmup_steps": 20 if smoke else 100,
    },
    "eval": {"num_examples": 1000, "batch_size": 250},
  }

  def family(name: str, width: int, depths: tuple[int, ...], steps: int, seeds: int) -> list[sweep.Overrides]:
    rungs = [
      sweep.fixed(family=name, model=scaling.width_ladder(width, num_layers=layers),
                  train={"num_steps": steps // 40 if smoke else steps})
      for layers in depths
    ]  # fmt: skip
    return sweep.product(sweep.axis("seed", range(1 if smoke else seeds)), sweep.chain(*rungs))

  cells = sweep.chain(
    family("d32", 32, DEPTHS, STEPS, SEEDS),
    family("d64", 64, DEPTHS, STEPS, SEEDS),
    family("d64, 4 x the steps", 64, LONG_DEPTHS, LONG_STEPS, LONG_SEEDS),
  )
  return ml_collections.ConfigDict({"study": "021_k_hops", "base": base, "cells": cells})
