"""How many hops does a layer buy? k-hop induction (Sanford et al., arXiv:2402.09268), 1 to 4 layers.

    lm-jax sweep --config=configs/sweeps/khop.py --workdir=runs/khop
    lm-jax sweep --config=configs/sweeps/khop.py:smoke --workdir=runs/khop_smoke     does it run: 60 steps
    lm-jax sweep --config=configs/sweeps/khop.py:published --workdir=runs/khop_gpu    100k steps, on a GPU
    lm-jax sweep --config=configs/sweeps/khop.py:published,width=256,deepest=3 --workdir=runs/khop_gpu

Strings of 32 of 4 letters, k = 0 to 4; two widths, whose lines join depths. Cost: 4 minutes on 2 cores a seed
(6 of CPU time). Error is 1 - `token_accuracy` in the rows of the tasks khop_k0 to khop_k4: the share of
the answers that are letters, of which a blind guess misses .75. Five seeds, and four times the steps, are in
experiments/021_k_hops: two layers find k = 1, three k = 2, four k = 3 and, by the median seed, k = 4.

`published` has the sizes and the optimizer of the paper, whose errors stand beside ours in that study. It was
planned here and not run.
"""

import ml_collections

from lm_jax import scaling, sweep

# A step of the published runs takes a millisecond on a GPU.
LONG = {"steps_per_dispatch": 500, "log_every": 500, "checkpoint_every": 10_000}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  n = sweep.arguments(argument, seeds=1, steps=1500, smoke=False, published=False, width=0, deepest=6)
  depths, widths = ((2, 3, 4, 5, 6), (128, 256)) if n["published"] else ((1, 2, 3, 4), (32, 64))
  depths = [layers for layers in depths if layers <= n["deepest"]]
  widths = (n["width"],) if n["width"] else widths
  base = published() if n["published"] else small(60 if n["smoke"] else n["steps"])
  # A line is a width, and its points are depths.
  rungs = [
    sweep.fixed(family=f"d{d}", model=scaling.width_ladder(d, num_layers=layers))
    for d in widths for layers in depths
  ]  # fmt: skip
  cells = sweep.product(sweep.axis("seed", range(n["seeds"])), sweep.chain(*rungs))
  return ml_collections.ConfigDict({"study": "khop", "base": base, "cells": cells})


def small(steps: int) -> dict:
  return {
    "task": {"name": "khop"},
    "model": {"initializer": "xavier_uniform"},
    "train": {"num_steps": steps, "batch_size": 64},
    "optimizer": {
      "learning_rate": 3e-3,
      "beta2": 0.98,
      "weight_decay": 0.01,
      "warmup_steps": min(100, steps),
    },
    "eval": {"num_examples": 1000, "batch_size": 250},
  }


def published() -> dict:
  return {
    # The authors' program reads the first 98 letters of its strings of 100.
    "task": {"name": "khop", "length": 98, "num_letters": 4, "max_hops": 16},
    "model": {"preset": "gpt2"},
    "train": {"num_steps": 100_000, "batch_size": 32},
    "optimizer": {"learning_rate": 1e-4, "schedule": "linear", "final_fraction": 0.0, "beta2": 0.999,
                  "weight_decay": 0.01, "decay_mask": "all", "warmup_steps": 1000, "clip_norm": None},
    "eval": {"num_examples": 1700, "batch_size": 340},
    "runtime": LONG,
  }  # fmt: skip
