"""Noisy majority: the smooth control, on which no analysis may find emergence."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks.base import Batch, Split, Task
from lm_jax.tasks.occupancy import max_count_pmf


class NoisyMajority(Task):
  """Name the hidden symbol of a sequence of noisy copies of it (see `task_configs.NoisyMajority`).

  At signal s a token is the hidden symbol with probability p = s + (1 - s)/S, and any other with
  (1 - s)/S. The target at every position is the hidden symbol, so the label at position k follows k + 1
  tokens.

  Why accuracy is smooth. At every level a symbol is the likelier the more often it came, so the ideal
  learner names the most frequent one. A token more can then help only where r > 1 symbols share the top
  count; if each of them is right with probability q <= 1/r, it adds exactly (r - 1) q s. So accuracy
  never falls, and a token adds at most the mean over levels of s P(tie). Each level has its knee, near
  1/s^2 tokens, and graded levels spread the knees over all lengths, so that their mean has none. A
  model that counts badly (drops or confuses tokens) is an ideal learner of a shorter or noisier
  sequence, and lies on the same smooth curves.
  """

  def __init__(self, config: task_configs.NoisyMajority):
    self.config = config
    self.choices = np.arange(config.num_symbols, dtype=np.int32)
    self.chance = 1 / config.num_symbols
    self.shots = np.arange(1, config.length + 1, dtype=np.int32)
    self.answer_length = 1
    self.window = min(4, config.length)

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    hidden_key, level_key, signal_key, noise_key = jax.random.split(key, 4)
    shape_BT = (batch_size, c.length)
    hidden_B1 = jax.random.randint(hidden_key, (batch_size, 1), 0, c.num_symbols)
    level_B1 = jax.random.randint(level_key, (batch_size, 1), 0, c.num_levels)
    signal_B1 = jnp.asarray(_signals(c), jnp.float32)[level_B1]
    is_signal_BT = jax.random.uniform(signal_key, shape_BT) < signal_B1
    noise_BT = jax.random.randint(noise_key, shape_BT, 0, c.num_symbols)
    return Batch(
      tokens=jnp.where(is_signal_BT, hidden_B1, noise_BT),
      targets=jnp.broadcast_to(hidden_B1, shape_BT),
      weights=jnp.ones(shape_BT),
    )

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns the posterior of the hidden symbol after tokens 0..k, float32 [B, T, S]."""
    c = self.config
    count_BTS1 = jnp.cumsum(jax.nn.one_hot(batch.tokens, c.num_symbols), axis=1)[..., None]
    log_ratio_L = np.log(_hidden_ratio(c)).astype(np.float32)
    tokens_T = np.arange(1, c.length + 1)
    log_base_TL = (tokens_T[:, None] * np.log(_other_probability(c))).astype(np.float32)
    log_joint_BTSL = count_BTS1 * log_ratio_L[None, None, None] + log_base_TL[None, :, None]
    log_likelihood_BTS = jax.nn.logsumexp(log_joint_BTSL, axis=3)
    return jax.nn.softmax(log_likelihood_BTS, axis=2)

  def bayes_accuracy(self) -> np.ndarray:
    """Returns the exact accuracy after 1..T tokens, float64 [T].

    The sum over sequences of max over hidden symbols of P(sequence, symbol) is an average over
    *uniform* sequences of the likelihood ratio of the most frequent symbol (count m of t), mean over
    levels, divided by S:  mean_s [ratio_s^m (S (1 - s)/S)^t] / S.
    """
    c = self.config
    pmf_TM = max_count_pmf(c.length, c.num_symbols)[1:]
    m = np.arange(c.length + 1)[:, None]
    t = np.arange(1, c.length + 1)[:, None, None]
    log_ratio_TML = m * np.log(_hidden_ratio(c)) + t * np.log(c.num_symbols * _other_probability(c))
    return np.einsum("TM,TML->T", pmf_TM, np.exp(log_ratio_TML)) / (c.num_symbols * c.num_levels)


def _signals(c: task_configs.NoisyMajority) -> np.ndarray:
  """Returns the signal levels s, float64 [num_levels], all equally likely."""
  return np.linspace(0, c.max_signal, c.num_levels)


def _other_probability(c: task_configs.NoisyMajority) -> np.ndarray:
  """Returns, for each level, the probability of a token other than the hidden symbol."""
  return (1 - _signals(c)) / c.num_symbols


def _hidden_ratio(c: task_configs.NoisyMajority) -> np.ndarray:
  """Returns how many times likelier, at each level, a token is the hidden symbol than any other."""
  return 1 + _signals(c) / _other_probability(c)
