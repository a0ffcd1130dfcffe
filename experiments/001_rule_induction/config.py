"""Two in-context abilities over size, depth, learning rate and seed: the cells of study 001.

    lm-jax sweep --config=experiments/001_rule_induction/config.py --workdir=runs/001_rule_induction
    lm-jax sweep --config=experiments/001_rule_induction/config.py:smoke --workdir=runs/smoke    does it run

Rule induction and associative recall, 2000 steps of 64 sequences. A family is one learning rate, and three
controls: one layer, four times the steps, and the small initializer of GPT-2.
"""

import ml_collections

from lm_jax import scaling, sweep

STEPS, SEEDS = 2000, 5
RATES = {"rate .001": 1e-3, "rate .002": 2e-3, "rate .004": 4e-3}
MIDDLE = 2e-3  # the rate of the controls
WIDTHS = {"rule_induction": (8, 16, 32, 48, 64), "associative_recall": (8, 12, 16, 24, 32)}
ONE_LAYER = {"rule_induction": (8, 16, 32, 64), "associative_recall": (16, 32, 64)}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  smoke = sweep.arguments(argument, smoke=False)["smoke"]
  steps, seeds = (20, 2) if smoke else (STEPS, SEEDS)
  base = {
    "model": {"initializer": "xavier_uniform"},
    "train": {"num_steps": steps, "batch_size": 64},
    "optimizer": {"beta2": 0.98, "weight_decay": 0.01, "warmup_steps": steps // 20},
  }

  def sizes(widths: tuple[int, ...], num_layers: int = 2) -> list[sweep.Overrides]:
    return sweep.chain(*(sweep.fixed(model=scaling.width_ladder(d, num_layers=num_layers)) for d in widths))

  def family(name: str, rate: float, **groups) -> list[sweep.Overrides]:
    return sweep.fixed(family=name, optimizer={"learning_rate": rate}, **groups)

  def cells(task: str, seeds: int, families: list[sweep.Overrides], sizes: list[sweep.Overrides]):
    return sweep.product(sweep.fixed(task={"name": task}), sweep.axis("seed", range(seeds)), families, sizes)

  rates = sweep.chain(*(family(name, rate) for name, rate in RATES.items()))
  one_layer = family("1 layer", MIDDLE)
  long = family("4 x the steps", MIDDLE, train={"num_steps": 4 * steps})
  small = family("GPT-2's initializer", MIDDLE, model={"initializer": "gpt2"})
  both = [
    part
    for task in WIDTHS
    for part in (
      cells(task, seeds, rates, sizes(WIDTHS[task])),
      cells(task, seeds, one_layer, sizes(ONE_LAYER[task], num_layers=1)),
    )
  ]
  few = min(seeds, 3)
  controls = [
    cells("rule_induction", few, long, sizes((16, 32))),
    cells("rule_induction", few, small, sizes((8, 16, 32, 64))),
  ]
  return ml_collections.ConfigDict({
    "study": "001_rule_induction", "base": base, "cells": sweep.chain(*both, *controls),
  })  # fmt: skip
