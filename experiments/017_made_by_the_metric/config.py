"""Addition over size, by exact match and by token, beside a task that is smooth: the cells of study 017.

lm-jax sweep --config=experiments/017_made_by_the_metric/config.py --workdir=runs/017_made_by_the_metric
lm-jax sweep --config=experiments/017_made_by_the_metric/config.py:smoke --workdir=runs/smoke    does it run
"""

import ml_collections

from lm_jax import scaling, sweep

STEPS, SEEDS = 2000, 5
WIDTHS = (4, 6, 8, 12, 16, 24, 32, 48)
# Wider models want a smaller rate; one for all would draw its own tuning into the curve.
RATES = {4: 6e-3, 6: 6e-3, 8: 4e-3, 12: 4e-3, 16: 4e-3, 24: 3e-3, 32: 3e-3, 48: 2e-3}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  smoke = sweep.arguments(argument, smoke=False)["smoke"]
  steps, seeds = (20, 2) if smoke else (STEPS, SEEDS)
  base = {
    "model": {"initializer": "xavier_uniform"},
    "train": {"num_steps": steps, "batch_size": 64},
    "optimizer": {"beta2": 0.98, "weight_decay": 0.01, "warmup_steps": steps // 20},
    "eval": {"first_step": steps},
  }
  tasks = sweep.chain(
    *(sweep.fixed(task={"name": "arithmetic", "num_digits": n, "num_items": 3}) for n in (1, 3)),
    sweep.fixed(task={"name": "noisy_majority"}),
  )
  sizes = sweep.chain(
    *(sweep.fixed(model=scaling.width_ladder(d), optimizer={"learning_rate": RATES[d]}) for d in WIDTHS)
  )
  cells = sweep.product(tasks, sweep.axis("seed", range(seeds)), sizes)
  return ml_collections.ConfigDict({"study": "017_made_by_the_metric", "base": base, "cells": cells})
