"""In-context Markov chains (Edelman et al., arXiv:2402.11004): uniform, then unigram, then bigram."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks.base import Batch, Split, Task, next_token_batch


class MarkovChain(Task):
  """Predict the next symbol of a chain whose transition matrix must be inferred (`task_configs.MarkovChain`).

  Rows are Dirichlet(concentration) and the first symbol is drawn from the chain's stationary
  distribution. `shots` at position t is t, the transitions seen by then (symbols 0..t).
  """

  def __init__(self, config: task_configs.MarkovChain):
    self.config = config
    self.choices = np.arange(config.num_symbols, dtype=np.int32)
    self.chance = 1 / config.num_symbols
    self.shots = np.arange(config.sequence_length, dtype=np.int32)
    self.answer_length = 1
    self.window = min(4, config.sequence_length)

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    row_key, chain_key = jax.random.split(key)
    alpha_S = jnp.full((c.num_symbols,), c.concentration)
    transition_BSS = jax.random.dirichlet(row_key, alpha_S, (batch_size, c.num_symbols))
    uniform_TB1 = jax.random.uniform(chain_key, (c.length, batch_size, 1))
    # The first S - 1 cumulative sums: rounding in the last must not let a uniform pass all of them.
    first_B = _invert(jnp.cumsum(stationary(transition_BSS), axis=1)[:, :-1], uniform_TB1[0])
    cdf_BSS = jnp.cumsum(transition_BSS, axis=2)[..., :-1]

    def step(symbol_B, uniform_B1):
      row_BS = jnp.take_along_axis(cdf_BSS, symbol_B[:, None, None], axis=1)[:, 0]
      following_B = _invert(row_BS, uniform_B1)
      return following_B, following_B

    _, following_TB = jax.lax.scan(step, first_B, uniform_TB1[1:])
    sequence_BS = jnp.concatenate([first_B[None], following_TB]).T
    return next_token_batch(sequence_BS, c.label_positions)

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns the bigram estimator, float32 [B, T, S]: (count + alpha) / (total + S alpha).

    Counts are of transitions out of the current symbol. It is the exact posterior predictive given the
    first symbol as an arbitrary start, and leaves out, as the paper does, the little that a stationary
    start tells about the matrix. For two symbols and alpha = 1 the exact predictive is, on average,
    0.017 nats away at t = 0, 0.003 at t = 10 and below 0.0004 from t = 40.
    """
    c = self.config
    onehot_BTS = jax.nn.one_hot(batch.tokens, c.num_symbols)
    pair_BTSS = onehot_BTS[:, :-1, :, None] * onehot_BTS[:, 1:, None, :]
    count_BTSS = jnp.pad(jnp.cumsum(pair_BTSS, axis=1), ((0, 0), (1, 0), (0, 0), (0, 0)))
    row_BTS = jnp.einsum("BTSN,BTS->BTN", count_BTSS, onehot_BTS)
    return _smooth(row_BTS, c.concentration)

  def baseline_predict(self, batch: Batch) -> jax.Array:
    """Returns the unigram estimator, float32 [B, T, S]: (symbols 0..t counted + alpha), normalized.

    What a model predicts that knows the frequencies of a sequence and not its order.
    """
    count_BTS = jnp.cumsum(jax.nn.one_hot(batch.tokens, self.config.num_symbols), axis=1)
    return _smooth(count_BTS, self.config.concentration)


def _invert(cdf_BS: jax.Array, uniform_B1: jax.Array) -> jax.Array:
  """Returns the symbol whose share of [0, 1) holds the uniform, int32 [B]; cdf without its final 1."""
  return jnp.sum(uniform_B1 >= cdf_BS, axis=1, dtype=jnp.int32)


def _smooth(count_BTS: jax.Array, alpha: float) -> jax.Array:
  smoothed_BTS = count_BTS + alpha
  return smoothed_BTS / smoothed_BTS.sum(axis=2, keepdims=True)


def stationary(transition_BSS: jax.Array) -> jax.Array:
  """Returns the stationary distribution of each chain, float32 [B, S].

  By censoring states one by one (Grassmann, Taksar & Heyman 1985, Operations Research 33(5)), which
  subtracts nothing and so stays accurate for chains that hardly mix. For two symbols it is the
  closed form (p10, p01) / (p10 + p01).
  """
  num_symbols = transition_BSS.shape[-1]
  p_BSS = transition_BSS
  for n in reversed(range(1, num_symbols)):
    # Small concentrations give rows whose exits are all 0 in float32; such a state keeps the chain.
    exit_B1 = jnp.maximum(p_BSS[:, n, :n].sum(axis=1, keepdims=True), 1e-12)
    inflow_BS = p_BSS[:, :n, n] / exit_B1
    p_BSS = p_BSS.at[:, :n, n].set(inflow_BS)
    p_BSS = p_BSS.at[:, :n, :n].add(inflow_BS[:, :, None] * p_BSS[:, None, n, :n])
  weight_BS = jnp.ones_like(p_BSS[:, :1, 0])
  for n in range(1, num_symbols):
    inflow_B1 = jnp.einsum("BS,BS->B", weight_BS, p_BSS[:, :n, n])[:, None]
    weight_BS = jnp.concatenate([weight_BS, inflow_B1], axis=1)
  return weight_BS / weight_BS.sum(axis=1, keepdims=True)
