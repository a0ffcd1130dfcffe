"""Small Transformers learn Markov chains in context: the cells of study 018.

    lm-jax sweep --config=experiments/018_markov_phases/config.py --workdir=runs/018_markov_phases
    lm-jax sweep --config=experiments/018_markov_phases/config.py:smoke --workdir=runs/smoke    does it run

The model of Edelman et al. (arXiv:2402.11004): attention alone, two layers of one head, d = 16, a constant
rate; with learned and with rotary positions, at two rates; and beside it one layer, and MLPs. Evaluated 4
times in every doubling of the steps.
"""

import ml_collections

from lm_jax import sweep

STEPS, SEEDS = 3000, 5
RATES = {"rate .0005": 5e-4, "rate .002": 2e-3}
MIDDLE = 2e-3  # of what stands beside the main model


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  smoke = sweep.arguments(argument, smoke=False)["smoke"]
  steps, seeds = (40, 2) if smoke else (STEPS, SEEDS)
  base = {
    "task": {"name": "markov_chain", "num_symbols": 2, "length": 100},
    "model": {"d_model": 16, "num_heads": 1, "num_layers": 2, "attention_only": True},
    "train": {"num_steps": steps, "batch_size": 64},
    "optimizer": {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0},
    "eval": {"num_examples": 512, "first_step": 1, "per_doubling": 4},
  }

  def family(name: str, rate: float, **model) -> list[sweep.Overrides]:
    return sweep.fixed(family=name, optimizer={"learning_rate": rate}, model=model)

  main = [
    family(f"{positions}, {name}", rate, positions=positions)
    for positions in ("learned", "rope")
    for name, rate in RATES.items()
  ]
  families = sweep.chain(
    *main, family("1 layer", MIDDLE, positions="learned", num_layers=1),
    family("with MLPs", MIDDLE, positions="learned", attention_only=False),
  )  # fmt: skip
  cells = sweep.product(families, sweep.axis("seed", range(seeds)))
  return ml_collections.ConfigDict({"study": "018_markov_phases", "base": base, "cells": cells})
