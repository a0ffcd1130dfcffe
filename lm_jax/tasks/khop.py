"""k-hop induction (Sanford et al., arXiv:2402.09268): induction heads in a row, k of them."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks.base import Batch, Split, Task


class KHop(Task):
  """Name, at each letter, what its k-th hop finds (see `task_configs.KHop`).

  Letters are tokens 0..a - 1, `~` is a, and the number k of hops a + 1 + k. k is uniform; in the test split
  every k comes as often as any other. A letter is uniform over those that differ from the one before it.

  Training counts every letter's target. Testing leaves `~` out, as the published errors do: they are shares
  of the positions whose target is a letter, over the whole string, where the most probable token is another.
  That is 1 - `token_accuracy` in the rows of each k (`parts`), whose task is `khop_kK`; `accuracy` lets the
  model choose among the letters only.

  By the symmetry of letters all answers are equally likely, so chance is 1/a. A model that sees the current
  letter and no other is right at k = 0, which asks for it, and scores 1/(a - 1) at k = 1, whose answer
  differs from it. `shots` are the letters before the one that asks.
  """

  def __init__(self, config: task_configs.KHop):
    self.config = config
    self.choices = np.arange(config.num_letters, dtype=np.int32)
    self.chance = 1 / config.num_letters
    self.shots = np.arange(config.length, dtype=np.int32)
    self.answer_length = 1
    self.window = config.length

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    hops_key, first_key, step_key = jax.random.split(key, 3)
    hops_B = jax.random.randint(hops_key, (batch_size,), 0, c.max_hops + 1)
    if split == "test":
      hops_B = jnp.arange(batch_size) % (c.max_hops + 1)
    first_B1 = jax.random.randint(first_key, (batch_size, 1), 0, c.num_letters)
    step_BT = jax.random.randint(step_key, (batch_size, c.length - 1), 1, c.num_letters)
    letter_BT = jnp.cumsum(jnp.concatenate([first_B1, step_BT], axis=1), axis=1) % c.num_letters
    target_BT = self._answers(letter_BT, hops_B)
    counts_BT = target_BT < c.num_letters if split == "test" else jnp.ones_like(target_BT)
    # Nothing is asked where k is read.
    asked = ((0, 0), (1, 0))
    tokens = jnp.concatenate([hops_B[:, None] + c.num_letters + 1, letter_BT], axis=1)
    return Batch(
      tokens=tokens.astype(jnp.int32),
      targets=jnp.pad(target_BT, asked),
      weights=jnp.pad(counts_BT.astype(jnp.float32), asked),
    )

  def _answers(self, letter_BT: jax.Array, hops_B: jax.Array) -> jax.Array:
    """Returns what each letter's k-th hop finds, int32 [B, T]; `~` where there is no such place."""
    c = self.config
    nowhere = c.length
    place_T = np.arange(c.length, dtype=np.int32)
    onehot_BTA = letter_BT[..., None] == self.choices[None, None]
    last_BTA = jax.lax.cummax(jnp.where(onehot_BTA, place_T[None, :, None], -1), axis=1)
    before_BTA = jnp.pad(last_BTA[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=-1)
    before_BT = jnp.take_along_axis(before_BTA, letter_BT[..., None], axis=2)[..., 0]
    hop_BT = jnp.where(before_BT >= 0, before_BT + 1, nowhere)
    hop_BS = jnp.pad(hop_BT, ((0, 0), (0, 1)), constant_values=nowhere)  # from nowhere, nowhere

    place_BT = jnp.broadcast_to(place_T[None], letter_BT.shape)
    # 1, 2, 4, ... hops at once: k of them are the powers of two that k is a sum of.
    for bit in range(c.max_hops.bit_length()):
      hops_here_B1 = (hops_B[:, None] >> bit) & 1 == 1
      place_BT = jnp.where(hops_here_B1, jnp.take_along_axis(hop_BS, place_BT, axis=1), place_BT)
      hop_BS = jnp.take_along_axis(hop_BS, hop_BS, axis=1)

    letter_BS = jnp.pad(letter_BT, ((0, 0), (0, 1)), constant_values=c.num_letters)
    return jnp.take_along_axis(letter_BS, place_BT, axis=1).astype(jnp.int32)

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns all mass on the answer, float32 [B, T, a]; uniform where it is `~`."""
    c = self.config
    answer_BT = self._answers(batch.tokens[:, 1:], self._hops(batch))
    is_letter_BT1 = answer_BT[..., None] < c.num_letters
    return jnp.where(is_letter_BT1, jax.nn.one_hot(answer_BT, c.num_letters), self.chance)

  def bayes_accuracy(self) -> np.ndarray:
    return np.ones(self.config.length)

  def parts(self, batch: Batch) -> dict[str, np.ndarray]:
    hops_B = np.asarray(self._hops(batch))
    return {f"k{k}": hops_B == k for k in range(self.config.max_hops + 1)}

  def _hops(self, batch: Batch) -> jax.Array:
    return batch.tokens[:, 0] - (self.config.num_letters + 1)
