"""Associative recall (Arora et al., arXiv:2312.04927): look up the value that a key was paired with."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks.base import Batch, Split, Task, next_token_batch


class AssociativeRecall(Task):
  """Predict the value of each queried key from the pairs before it (see `task_configs.AssociativeRecall`).

  Keys are tokens 0..num_keys - 1, distinct within a sequence; values are the tokens after them, drawn
  with replacement. Every query is followed by its value, so all targets are next tokens.

  "shuffled": k1 v1 .. kP vP, then all keys with their values in random order; every label counts.

  "power_law": after the pairs come (T - 2P)/2 slots of two tokens. Each key takes one of them, without
  replacement, with probability proportional to a g^(a-1) for the g-th slot; the other slots are filler,
  uniform over the vocabulary. Labels stand at every slot, and weights are 1 at the queries only.
  The authors' code differs in details: there filler follows a query, not its value, values are distinct
  and token 0 is no key. None changes what must be looked up, since each key is asked once.
  """

  def __init__(self, config: task_configs.AssociativeRecall):
    c = config
    num_queries = len(c.label_positions)
    self.config = c
    self.choices = np.arange(c.num_keys, c.vocab_size, dtype=np.int32)
    self.chance = 1 / c.num_values
    self.shots = np.full(num_queries, c.num_pairs, np.int32)
    self.answer_length = 1
    self.window = num_queries

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    key_key, value_key, query_key, filler_key = jax.random.split(key, 4)
    key_BP = _draw_without_replacement(key_key, np.zeros(c.num_keys), batch_size, c.num_pairs)
    value_BP = jax.random.randint(value_key, (batch_size, c.num_pairs), c.num_keys, c.vocab_size)
    pairs_BP2 = jnp.stack([key_BP, value_BP], axis=2)
    slot_BP = _draw_without_replacement(query_key, self._slot_log_weights(), batch_size, c.num_pairs)
    rows_B1 = np.arange(batch_size)[:, None]
    slots_BQ2 = self._filler(filler_key, batch_size).at[rows_B1, slot_BP].set(pairs_BP2)
    asked_BQ = jnp.zeros(slots_BQ2.shape[:2]).at[rows_B1, slot_BP].set(1)
    sequence_BS = jnp.concatenate([pairs_BP2, slots_BQ2], axis=1).reshape(batch_size, -1)
    # The last filler of "power_law" has no successor; its target is a 0 of no weight.
    sequence_BS = jnp.pad(sequence_BS, ((0, 0), (0, c.sequence_length + 1 - sequence_BS.shape[1])))
    batch = next_token_batch(sequence_BS, ())
    return batch.replace(weights=batch.weights.at[:, np.array(c.label_positions)].set(asked_BQ))

  def _slot_log_weights(self) -> np.ndarray:
    """Returns the log of the unnormalized probability of each query slot, float64 [Q]."""
    num_slots = len(self.shots)
    if self.config.layout == "shuffled":
      return np.zeros(num_slots)
    return (self.config.power - 1) * np.log(np.arange(1, num_slots + 1))

  def _filler(self, key: jax.Array, batch_size: int) -> jax.Array:
    shape_BQ2 = (batch_size, len(self.shots), 2)
    if self.config.layout == "shuffled":
      return jnp.zeros(shape_BQ2, jnp.int32)  # all of it is overwritten
    return jax.random.randint(key, shape_BQ2, 0, self.config.vocab_size)

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns all mass on the value paired with the token, float32 [B, Q, num_values].

    Uniform where the token is no key of the sequence. Exact at queries; where weights are 0 (filler) it
    means nothing.
    """
    c = self.config
    query_BQ = batch.tokens[:, np.array(c.label_positions)]
    key_BP = batch.tokens[:, : 2 * c.num_pairs : 2]
    value_BPV = jax.nn.one_hot(batch.tokens[:, 1 : 2 * c.num_pairs : 2] - c.num_keys, c.num_values)
    match_BQP = (query_BQ[:, :, None] == key_BP[:, None]).astype(jnp.float32)
    found_BQ1 = match_BQP.any(axis=2, keepdims=True)
    return jnp.where(found_BQ1, jnp.einsum("BQP,BPV->BQV", match_BQP, value_BPV), self.chance)

  def bayes_accuracy(self) -> np.ndarray:
    return np.ones(len(self.shots))


def _draw_without_replacement(
  key: jax.Array, log_weight_N: np.ndarray, batch_size: int, num: int
) -> jax.Array:
  """Returns `num` successive weighted draws out of N without replacement, int32 [B, num].

  By the Gumbel top-k trick (Kool et al., arXiv:1903.06059).
  """
  noise_BN = jax.random.gumbel(key, (batch_size, len(log_weight_N)))
  return jax.lax.top_k(noise_BN + log_weight_N[None].astype(np.float32), num)[1]
