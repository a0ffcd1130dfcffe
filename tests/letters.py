"""Fine-tuning in small: a data set that a glance tells apart, and language models of bytes."""

import json
from pathlib import Path

import numpy as np

from lm_jax import config, finetune_config, interop
from lm_jax.finetune import Finetuning
from lm_jax.rundir import RunDir

ENCODER = {
  "task": {"name": "text", "objective": "masked_lm", "context_length": 16},
  "model": {
    "preset": "bert",
    "d_model": 32,
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.0,
    "initializer": "fan_in",
  },
}
DECODER = {
  "task": {"name": "python_stdlib", "context_length": 16},
  "model": {"preset": "gpt2", "d_model": 16, "num_layers": 1, "num_heads": 2},
  "optimizer": {"warmup_steps": 2},
  "train": {"num_steps": 4, "batch_size": 4},
  "eval": {"num_examples": 8, "batch_size": 8},
}


def save_run(folder: Path, tree: dict) -> Path:
  """Leaves what an untrained run has."""
  folder.mkdir(parents=True)
  RunDir(folder).write_config(config.from_mapping(tree))
  return folder


def texts(rng: np.random.Generator, label: int, count: int) -> list[dict]:
  """Returns rows that a glance tells apart: letters of the alphabet's first half, or of its second."""
  letters = list("abcdefghijklm" if label else "nopqrstuvwxyz")
  return [{"text": "".join(rng.choice(letters, rng.integers(6, 12))), "label": label} for _ in range(count)]


def write_data(folder: Path) -> Path:
  """Leaves train, valid and test; returns the folder."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 40), ("valid", 20), ("test", 50)):
    rows = texts(rng, 0, count) + texts(rng, 1, count)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return folder


def tree_of(folder: Path, model: Path, **fields) -> dict:
  return {
    "study": "letters", "checkpoint": str(model), "initial": "random",
    "data": {"name": str(folder), "num_dev": 16},
    "shots": [2], "draws": 2, "max_steps": 8, "eval_every": 4, "max_length": 16, "lora": {"rank": 2},
    "optimizer": {"warmup_steps": 2},
  } | fields  # fmt: skip


def tuning_of(tree: dict) -> Finetuning:
  c = finetune_config.from_mapping(tree)
  return Finetuning(
    c, interop.load(c.checkpoint, name="config.checkpoint", trained=c.initial == "pretrained")
  )
