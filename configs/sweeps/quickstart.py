"""The quickstart: an ability that appears as a Transformer grows from 1,000 to 100,000 parameters.

    lm-jax sweep --config=configs/sweeps/quickstart.py --workdir=runs/quickstart        1 seed
    lm-jax sweep --config=configs/sweeps/quickstart.py:seeds=3 --workdir=runs/quickstart
    lm-jax sweep --config=configs/sweeps/quickstart.py:smoke --workdir=runs/smoke       does it run: 60 steps

Rule induction: each sequence hides which of two attributes decides the label, and how. Cost: under 2
minutes on 2 cores a seed. Expected few-shot accuracy (last four shots, chance .25; seed 0): .38 at
d=8, a plateau near .63 at d=32 (one attribute learnt), above .80 at d=64; one layer instead of two
(the depth control) stays below .45. Other seeds: experiments/001_rule_induction.
"""

import ml_collections

from lm_jax import scaling, sweep


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  n = sweep.arguments(argument, seeds=1, steps=2000, smoke=False)
  if n["smoke"]:
    n["steps"] = 60
  base = {
    "task": {"name": "rule_induction"},
    "model": {"initializer": "xavier_uniform"},
    "train": {"num_steps": n["steps"], "batch_size": 64},
    "optimizer": {"beta2": 0.98, "weight_decay": 0.01, "warmup_steps": min(100, n["steps"])},
  }

  def rate(d_model: int) -> float:
    # Wider models want a smaller learning rate; a fixed one would draw its own tuning into the curve.
    return 3e-3 if d_model < 48 else 2e-3

  rungs = [
    sweep.fixed(model=scaling.width_ladder(d), optimizer={"learning_rate": rate(d)})
    for d in (8, 16, 32, 48, 64)
  ]
  # One layer at both ends of the ladder: whether the ability comes with width or needs depth.
  depth_control = [
    sweep.fixed(family="depth control", model=scaling.width_ladder(d, num_layers=1),
                optimizer={"learning_rate": rate(d)})
    for d in (8, 64)
  ]  # fmt: skip
  cells = sweep.product(sweep.axis("seed", range(n["seeds"])), sweep.chain(*rungs, *depth_control))
  return ml_collections.ConfigDict({"study": "quickstart", "base": base, "cells": cells})
