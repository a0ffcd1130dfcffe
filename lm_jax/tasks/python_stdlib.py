"""Causal language modeling on bytes of the Python standard library: every position predicts the next byte."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.data import python_stdlib
from lm_jax.tasks.base import Batch, Split, Task, next_token_batch


class PythonStdlib(Task):
  """Windows of context_length + 1 bytes at uniform offsets, drawn with replacement."""

  def __init__(self, config: task_configs.PythonStdlib):
    self.config = config
    self.choices = np.arange(256, dtype=np.int32)
    self.chance = 1 / 256
    self.shots = None
    self.answer_length = 1
    self.window = 1
    self.bytes_per_token = 1.0
    self.arrays = {split: jnp.asarray(text) for split, text in python_stdlib.load().items()}
    self.data_digest = python_stdlib.digest()

  def sample(self, key: jax.Array, batch_size: int, arrays: Any = (), split: Split = "train") -> Batch:
    text, length = arrays[split], self.config.context_length + 1
    start_B1 = jax.random.randint(key, (batch_size, 1), 0, len(text) - length + 1)
    window_BS = text[start_B1 + jnp.arange(length)[None]]
    return next_token_batch(window_BS, self.config.label_positions)
