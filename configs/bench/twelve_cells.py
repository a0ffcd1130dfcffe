"""Twelve small cells of two shapes: what a sweep saves over running them one after another.

    lm-jax sweep --config=configs/bench/twelve_cells.py --workdir=runs/twelve

Cost: about 45 s on 2 cores with a cold compiler. Compared in experiments/006_populations.
"""

import ml_collections

from lm_jax import scaling, sweep


def get_config() -> ml_collections.ConfigDict:
  cells = sweep.product(
    sweep.chain(*(sweep.fixed(model=scaling.width_ladder(d)) for d in (16, 32))),
    sweep.axis("optimizer.learning_rate", [1e-3, 3e-3]),
    sweep.axis("seed", range(3)),
  )
  base = {"task": {"name": "rule_induction"}, "train": {"num_steps": 300}}
  return ml_collections.ConfigDict({"study": "twelve_cells", "base": base, "cells": cells})
