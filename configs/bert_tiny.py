"""A tiny BERT: masked language modeling and next-sentence prediction on 22 books, with their own WordPiece.

lm-jax train --config=configs/bert_tiny.py --workdir=runs/bert_tiny
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      "study": "bert_tiny",
      "task": {
        "name": "text",
        "corpus": ["classics"],
        "tokenizer": {"kind": "wordpiece", "vocab_size": 4096},
        "objective": "masked_lm_nsp",
        "context_length": 128,
      },
      "model": {"preset": "bert", "d_model": 128, "num_layers": 2, "num_heads": 2},
      "optimizer": {"learning_rate": 1e-3, "warmup_steps": 100},
      "train": {"num_steps": 2000, "batch_size": 32},
      "eval": {"num_examples": 256, "batch_size": 64},
    }
  )
