"""Which size is best for a given compute? Models of six widths, each trained for the same FLOPs.

    lm-jax sweep --config=configs/sweeps/isoflop.py --workdir=runs/isoflop
    lm-jax fit   --workdir=runs/isoflop --law=isoflop --c=exact
    lm-jax fit   --workdir=runs/isoflop --law=chinchilla

A two-layer causal LM on the bytes of the Python standard library, at four budgets that are a factor of three
apart: approach 2 of Hoffmann et al. (arXiv:2203.15556). A learning rate serves all widths by muP
(experiments/003_learning_rate_transfer) and is decayed to the end of each run. Cost: about 10 minutes on 2
cores a seed. Expected: the best width grows with the budget (experiments/014_isoflop).
"""

import ml_collections

from lm_jax import config as configs
from lm_jax import scaling, sweep

WIDTHS = (16, 24, 32, 48, 64, 96)
BUDGETS = (1e11, 3e11, 9e11, 2.7e12)  # exact FLOPs of training


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  n = sweep.arguments(argument, seeds=1, smoke=False)
  budgets, widths = (BUDGETS[:2], WIDTHS[:4]) if n["smoke"] else (BUDGETS, WIDTHS)
  base = {
    "task": {"name": "python_stdlib", "context_length": 64},
    "model": {"num_layers": 2, "parametrization": "mup", "base_d_model": 32, "base_head_dim": 8},
    "optimizer": {"learning_rate": 1.3e-2, "beta2": 0.95, "weight_decay": 0.0},
    "train": {"batch_size": 16},
    "eval": {"num_examples": 512},
    "runtime": {"log_every": 25},
  }

  def cell(flops: float, d_model: int) -> list[sweep.Overrides]:
    size = {"d_model": d_model, "num_heads": 4, "head_dim": d_model // 4}
    config = configs.from_mapping(base | {"model": base["model"] | size})
    steps = scaling.steps_for_flops(config, flops)
    return sweep.fixed(
      model=size, train={"num_steps": steps}, optimizer={"warmup_steps": max(1, steps // 10)},
      eval={"first_step": steps}, runtime={"checkpoint_every": steps},
    )  # fmt: skip

  cells = sweep.product(
    sweep.axis("seed", range(n["seeds"])), sweep.chain(*(cell(c, d) for c in budgets for d in widths))
  )
  return ml_collections.ConfigDict({"study": "isoflop", "base": base, "cells": cells})
