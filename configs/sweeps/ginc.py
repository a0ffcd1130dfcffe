"""In-context learning from a mixture of HMMs: GINC (Xie et al., arXiv:2111.02080), accuracy by examples.

    lm-jax sweep --config=configs/sweeps/ginc.py --workdir=runs/ginc
    lm-jax sweep --config=configs/sweeps/ginc.py:smoke --workdir=runs/ginc_smoke     does it run: 60 steps
    lm-jax sweep --config=configs/sweeps/ginc.py:published,symbols=50,k=10 --workdir=runs/ginc_gpu    on a GPU

Three concepts of 32 states, examples of 4 tokens; two layers at three widths. Cost: 2 to 3 minutes on 2
cores a seed. Three seeds, and other depths, are in experiments/022_ginc: d16 learns nothing from examples
(.66 to .69 after 0 and 16 of them, chance .10), d64 does (.72 to .86).

A model of documents need not reach what is best on prompts, 1.00: a prompt's delimiters are no move that a
document would make. With five concepts instead of three d64 learnt none of it in 2000 steps at 3e-3 (.583 to
.598).

`published` has the data, sizes and optimizer of the paper, for one k; the paper's accuracies stand beside
ours in that study. Four layers were run, once, on a GPU (34 s of steps), and no others. Windows of documents
are drawn anew at each step, and prompts of unseen concepts are not asked.
"""

import ml_collections

from lm_jax import scaling, sweep


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  n = sweep.arguments(
    argument, seeds=1, steps=2500, symbols=50, k=10, smoke=False, published=False, deepest=16
  )
  if n["published"]:
    base = published(n["symbols"], n["k"])
    rungs = sweep.axis("model.num_layers", [layers for layers in (4, 12, 16) if layers <= n["deepest"]])
  else:
    base = small(60 if n["smoke"] else n["steps"])
    rungs = sweep.chain(*(sweep.fixed(model=scaling.width_ladder(d)) for d in (16, 32, 64)))
  cells = sweep.product(sweep.axis("seed", range(n["seeds"])), rungs)
  return ml_collections.ConfigDict({"study": "ginc", "base": base, "cells": cells})


def small(steps: int) -> dict:
  return {
    "task": {"name": "ginc"},
    "model": {"initializer": "xavier_uniform"},
    "train": {"num_steps": steps, "batch_size": 32},
    "optimizer": {
      "learning_rate": 2e-3,
      "beta2": 0.98,
      "weight_decay": 0.01,
      "warmup_steps": min(100, steps),
    },
  }


def published(symbols: int, k: int) -> dict:
  documents, length, context, batch_size, epochs = 1000, 10_240, 1024, 8, 5
  return {
    "task": {"name": "ginc", "num_symbols": symbols, "num_values": 10, "num_slots": 10, "num_concepts": 5,
             "transition_temperature": 0.1, "example_length": k, "max_shots": 64, "context_length": context,
             "num_documents": documents, "document_length": length},
    "model": {"preset": "gpt2", "d_model": 768, "num_heads": 12},
    "train": {"num_steps": epochs * documents * length // (batch_size * context), "batch_size": batch_size},
    "optimizer": {"learning_rate": 8e-4, "schedule": "linear", "final_fraction": 0.0, "beta2": 0.999,
                  "weight_decay": 0.0, "warmup_steps": 1000},
    "eval": {"num_examples": 2500, "batch_size": 50},
  }  # fmt: skip
