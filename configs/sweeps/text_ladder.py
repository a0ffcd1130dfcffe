"""A ladder of language models on real text: the same Transformer, read on or filled in.

    lm-jax sweep --config=configs/sweeps/text_ladder.py --workdir=runs/text_ladder
    lm-jax sweep --config=configs/sweeps/text_ladder.py:smoke --workdir=runs/text_ladder_smoke
    lm-jax sweep --config=configs/sweeps/text_ladder.py:corpus=python_stdlib --workdir=runs/stdlib_ladder

Six widths of a decoder (causal LM) on 10 MB of public-domain books, and of an encoder (masked LM) that may
spend as many FLOPs. Bits per byte and the in-context-learning score are the decoder's; few-shot accuracy is
both's, an encoder's by pseudo-log-likelihood. The corpus `classics` is a folder in
$LM_JAX_SHARED/data/corpora (default: ../shared). Cost: 15 minutes on 2 cores; `smoke` 1.5. Expected: 2.19
bits per byte at d=16 to 1.87 at d=128, prompted accuracy at chance (experiments/009_text_ladder).
"""

import ml_collections

from lm_jax import config as configs
from lm_jax import scaling, sweep

WIDTHS, SMOKE_WIDTHS = (16, 32, 48, 64, 96, 128), (8, 12, 16, 24, 32, 48)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
  n = sweep.arguments(argument, seeds=1, steps=1000, corpus="classics", smoke=False)
  steps, widths = (40, SMOKE_WIDTHS) if n["smoke"] else (n["steps"], WIDTHS)
  base = {
    "task": {
      "name": "text",
      "corpus": [n["corpus"]],
      "tokenizer": {"kind": "bpe", "vocab_size": 512 if n["smoke"] else 2048},
      "context_length": 128,
    },
    # A learning rate serves every width (experiments/003_learning_rate_transfer), but not both objectives.
    "model": {"parametrization": "mup", "base_d_model": 64, "base_head_dim": 32},
    "optimizer": {"weight_decay": 0.01, "warmup_steps": steps // 10},
    "train": {"batch_size": 32},
    "eval": {
      "num_examples": 64 if n["smoke"] else 256,
      "batch_size": 64,
      "few_shot": ["association", "mr"],
      "shots": [0, 1, 4],
      "few_shot_examples": 40 if n["smoke"] else 200,
    },
    "runtime": {"steps_per_dispatch": 20, "log_every": 50, "checkpoint_every": 400},
  }

  def rung(d_model: int) -> list[sweep.Overrides]:
    size = scaling.width_ladder(d_model, num_layers=3)
    decoder = {
      "family": "causal LM",
      "model": size,
      "task": {"objective": "causal_lm"},
      "optimizer": {"learning_rate": 1.6e-2},
      "train": {"num_steps": steps},
    }
    encoder = {
      "family": "masked LM",
      "model": size | {"causal": False},
      "task": {"objective": "masked_lm"},
      "optimizer": {"learning_rate": 4e-3},
    }
    flops = scaling.train_flops(resolved(decoder))
    encoder["train"] = {"num_steps": scaling.steps_for_flops(resolved(encoder), flops)}
    return sweep.chain(sweep.fixed(**decoder), sweep.fixed(**encoder))

  def resolved(groups: dict) -> configs.Config:
    names = base | groups
    return configs.from_mapping(
      {name: base.get(name, {}) | groups.get(name, {}) for name in names if name != "family"}
    )

  cells = sweep.product(sweep.axis("seed", range(n["seeds"])), sweep.chain(*map(rung, widths)))
  return ml_collections.ConfigDict({"study": "text_ladder", "base": base, "cells": cells})
