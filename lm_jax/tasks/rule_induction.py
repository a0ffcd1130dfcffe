"""Rule induction: which attribute decides the label, and how, must be inferred from the items seen.

Each item has A attributes of v values each, uniform and independent, and a label out of L. A sequence
hides an attribute j and an injection pi of the values into the labels; every label is pi(value of j).
The staircase of abilities: labels alone (1/L), one attribute always, the right attribute.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks.base import Batch, Split, Task, next_token_batch
from lm_jax.tasks.occupancy import binomial_pmf, max_count_pmf

# Fixes which maps are held out, for every seed of every study.
_HOLDOUT_SEED = 2024


class RuleInduction(Task):
  """Predict the label of item k from k labelled items (see `task_configs.RuleInduction`).

  With `holdout` > 0, training draws only maps of one part of all L!/(L-v)! maps and testing only maps of
  the other. The yardsticks are then those of a learner that knows the full set of maps, not which part
  of it the split draws from. Its accuracy is the same on every map, since renaming the labels carries
  any map to any other, and so does not depend on `holdout`.
  """

  def __init__(self, config: task_configs.RuleInduction):
    c = config
    self.config = c
    self._first_label = c.num_attributes * c.num_values
    self.choices = np.arange(self._first_label, c.vocab_size, dtype=np.int32)
    self.chance = 1 / c.num_labels
    self.shots = np.arange(c.num_items, dtype=np.int32)
    self.answer_length = 1
    self.window = min(4, c.num_items)
    self._maps = _split_maps(c) if c.holdout else None

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    value_key, attribute_key, map_key = jax.random.split(key, 3)
    x_BKA = jax.random.randint(value_key, (batch_size, c.num_items, c.num_attributes), 0, c.num_values)
    j_B = jax.random.randint(attribute_key, (batch_size,), 0, c.num_attributes)
    map_BV = self._sample_maps(map_key, batch_size, split)
    relevant_BK = jnp.take_along_axis(x_BKA, j_B[:, None, None], axis=2)[..., 0]
    y_BK = jnp.take_along_axis(map_BV, relevant_BK, axis=1)
    first_11A = np.arange(c.num_attributes, dtype=np.int32)[None, None] * c.num_values
    items_BKI = jnp.concatenate([x_BKA + first_11A, y_BK[..., None] + self._first_label], axis=2)
    return next_token_batch(items_BKI.reshape(batch_size, -1), task_configs.loss_positions(c))

  def _sample_maps(self, key: jax.Array, batch_size: int, split: Split) -> jax.Array:
    """Returns uniform injections of values into labels, int32 [B, v]."""
    if self._maps is not None:
      maps_MV = jnp.asarray(self._maps[split])
      return maps_MV[jax.random.randint(key, (batch_size,), 0, len(maps_MV))]
    order_BL = jnp.argsort(jax.random.uniform(key, (batch_size, self.config.num_labels)), axis=1)
    return order_BL[:, : self.config.num_values].astype(jnp.int32)

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns the posterior predictive over the labels, float32 [B, K, L].

    The sum over all (attribute, map) hypotheses in closed form. An attribute is alive if the labels
    seen are an injective function of its values. With s distinct labels seen, it then has seen s
    distinct values, (L-s)!/(L-v)! maps fit whichever attribute it is, and all alive attributes are
    equally likely. One foretells the label of a value it has seen, and is uniform over the labels not
    yet seen for a new value.
    """
    c = self.config
    label_at = np.array(c.label_positions)
    attribute_at_KA = label_at[:, None] + np.arange(1 - c.num_attributes, 1)
    x_BKA = batch.tokens[:, attribute_at_KA]
    y_BK = batch.targets[:, label_at]
    earlier_1KK1 = np.tri(c.num_items, k=-1, dtype=bool)[None, :, :, None]  # [k, i]: item i precedes item k
    same_x_BKIA = x_BKA[:, :, None] == x_BKA[:, None]
    same_y_BKI = y_BK[:, :, None] == y_BK[:, None]
    conflict_BKA = ((same_x_BKIA != same_y_BKI[..., None]) & earlier_1KK1).any(axis=2)
    alive_BKA = _before(conflict_BKA) == 0

    label_BKL = (y_BK[..., None] == self.choices[None, None]).astype(jnp.float32)
    matches_BKIA = (same_x_BKIA & earlier_1KK1).astype(jnp.float32)
    recalled_BKAL = jnp.minimum(jnp.einsum("BKIA,BIL->BKAL", matches_BKIA, label_BKL), 1)
    unseen_BKL = (_before(label_BKL) == 0).astype(jnp.float32)
    guess_BKL = unseen_BKL / jnp.maximum(unseen_BKL.sum(axis=2, keepdims=True), 1)
    has_seen_BKA1 = recalled_BKAL.any(axis=3, keepdims=True)
    predict_BKAL = jnp.where(has_seen_BKA1, recalled_BKAL, guess_BKL[:, :, None])
    return jnp.mean(predict_BKAL, axis=2, where=alive_BKA[..., None])

  def bayes_accuracy(self) -> np.ndarray:
    """Returns the exact accuracy at k = 0..K-1 shots, float64 [K].

    Given the s distinct values of the relevant attribute among k items, each of the other attributes
    is still alive iff it repeats its values in the same pattern: v!/(v-s)! of its v^k sequences. With
    m alive, the next item's m values are uniform: independently, each recalls any one of the s labels
    with probability 1/v or is new.
    """
    c = self.config
    alive_m = 1 + np.arange(c.num_attributes)
    hit_SM = np.array([[_hit_rate(c, s, m) for m in alive_m] for s in range(c.num_values + 1)])
    distinct_S = np.eye(c.num_values + 1)[0]
    accuracy_K = np.zeros(c.num_items)
    for k in range(c.num_items):
      for s in np.flatnonzero(distinct_S):
        p_alive = math.perm(c.num_values, int(s)) / c.num_values**k
        others_m = binomial_pmf(c.num_attributes - 1, p_alive)[-1]
        accuracy_K[k] += distinct_S[s] * (others_m @ hit_SM[s])
      distinct_S = _draw_another(distinct_S)
    return accuracy_K


def _before(x_BK: jax.Array) -> jax.Array:
  """Returns the sums over the items before each item, [B, K, ...]."""
  return jnp.cumsum(x_BK, axis=1) - x_BK


def _draw_another(distinct_S: np.ndarray) -> np.ndarray:
  """Returns P(s distinct values) after one more uniform draw, from that before it; s = 0..v."""
  num_values = len(distinct_S) - 1
  old_S = np.arange(num_values + 1) / num_values
  return distinct_S * old_S + np.roll(distinct_S * (1 - old_S), 1)


def _hit_rate(c: task_configs.RuleInduction, seen: int, alive: int) -> float:
  """Returns the expected largest posterior mass of a label, with equal votes of `alive` attributes.

  Each recalls a uniform one of `seen` labels with probability seen/v; otherwise its value is new, and
  it spreads its vote evenly over the labels not yet seen.
  """
  new_m = np.arange(alive + 1)
  p_new_m = binomial_pmf(alive, 1 - seen / c.num_values)[-1]
  spread_m = new_m / max(c.num_labels - seen, 1)
  if seen == 0:
    return float(p_new_m @ spread_m) / alive
  recalled_NM = max_count_pmf(alive, seen)[::-1]  # n = alive - new balls, so row i has i new
  best_NM = np.maximum(np.arange(alive + 1), spread_m[:, None])
  return float(p_new_m @ (recalled_NM * best_NM).sum(axis=1)) / alive


def _split_maps(c: task_configs.RuleInduction) -> dict[Split, np.ndarray]:
  """Returns the injections of values into labels that each split draws from, int32 [M, v]."""
  maps_MV = np.array(list(itertools.permutations(range(c.num_labels), c.num_values)), np.int32)
  order = np.random.default_rng(_HOLDOUT_SEED).permutation(len(maps_MV))
  num_test = min(max(round(c.holdout * len(maps_MV)), 1), len(maps_MV) - 1)
  return {"test": maps_MV[order[:num_test]], "train": maps_MV[order[num_test:]]}
