"""Few-shot multi-digit addition, the control for jumps that the metric makes (arXiv:2304.15004)."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks.base import Batch, Split, Task, next_token_batch

PLUS, EQUALS, SEMICOLON = 10, 11, 12  # tokens; a digit is its own


class Arithmetic(Task):
  """Predict the D + 1 answer digits of zero-padded sums `ddd+ddd=dddd;` (see `task_configs.Arithmetic`).

  Operands are uniform over 0..10^D - 1. Exact match asks for all digits of one answer, and so compounds
  a per-token accuracy that improves smoothly. "Bayes" here is a learner that knows addition and the
  format: the answer follows from the operands, so it is right at any number of shots.
  """

  def __init__(self, config: task_configs.Arithmetic):
    self.config = config
    self.choices = np.arange(10, dtype=np.int32)
    self.chance = 0.1
    self.shots = np.arange(config.num_items, dtype=np.int32)
    self.answer_length = config.num_digits + 1
    self.window = 1

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    digits_2BKD = jax.random.randint(key, (2, batch_size, c.num_items, c.num_digits), 0, 10)
    items_BKI = jnp.concatenate(
      [
        _append(digits_2BKD[0], PLUS),
        _append(digits_2BKD[1], EQUALS),
        _append(self._answer(*digits_2BKD), SEMICOLON),
      ],
      axis=2,
    )
    sequence_BS = items_BKI.reshape(batch_size, -1)[:, :-1]  # nothing follows the last answer
    return next_token_batch(sequence_BS, task_configs.loss_positions(c))

  def _answer(self, a_D: jax.Array, b_D: jax.Array) -> jax.Array:
    """Adds digit arrays [..., D], most significant first, into [..., D + 1] in the order they are written.

    Column by column, since an integer sum would overflow int32 beyond nine digits.
    """
    carry = jnp.zeros(a_D.shape[:-1], jnp.int32)
    digits = []
    for i in reversed(range(a_D.shape[-1])):
      column = a_D[..., i] + b_D[..., i] + carry
      carry = (column >= 10).astype(jnp.int32)
      digits.append(column - 10 * carry)
    digits.append(carry)
    return jnp.stack(digits if self.config.reverse_answer else digits[::-1], axis=-1)

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns all mass on the true digit, computed from the operands, float32 [B, P, 10]."""
    c = self.config
    first_K1 = c.item_length * np.arange(c.num_items)[:, None]
    digit_D = np.arange(c.num_digits)
    a_BKD = batch.tokens[:, first_K1 + digit_D]
    b_BKD = batch.tokens[:, first_K1 + c.num_digits + 1 + digit_D]
    answer_BP = self._answer(a_BKD, b_BKD).reshape(len(batch.tokens), -1)
    return jax.nn.one_hot(answer_BP, 10)

  def bayes_accuracy(self) -> np.ndarray:
    return np.ones(self.config.num_items)


def _append(digits_BKD: jax.Array, token: int) -> jax.Array:
  return jnp.pad(digits_BKD, ((0, 0), (0, 0), (0, 1)), constant_values=token)
