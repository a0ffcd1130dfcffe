"""Sentiment of film reviews from 1 to 2048 examples a class, by a tiny BERT: full, LoRA and head alone.

    lm-jax finetune --config=configs/finetune/mr_cls.py --workdir=runs/mr_cls
    lm-jax classify --workdir=runs/mr_cls --text="This movie is so great!"

It trains configs/bert_tiny.py first. The control, the same model untrained:

    lm-jax finetune --config=configs/finetune/mr_cls.py --workdir=runs/mr_cls_random \\
      --config.checkpoint=runs/mr_cls/pretraining --config.initial=random

The data is data/tasks/mr in $LM_JAX_SHARED (default: ../shared). Cost: 9 minutes of pretraining and 11 of
fine-tuning on one core. Expected: chance up to 32 examples a class, .595 with 2048 (experiments/010).
"""

import runpy
from pathlib import Path

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  pretraining = runpy.run_path(str(Path(__file__).parents[1] / "bert_tiny.py"))["get_config"]()
  return ml_collections.ConfigDict(
    {
      "study": "mr_cls",
      "pretraining": pretraining,
      "data": {"name": "mr", "num_dev": 128, "num_test": 500},
      "shots": (1, 2, 4, 8, 16, 32, 128, 512, 2048),
      "draws": 5,
      "methods": ("full", "lora", "head"),
      "max_steps": 400,
      "batch_size": 16,
      "eval_every": 20,
      "patience": 6,
      "max_length": 64,
    }
  )
