"""All that a run carries from step to step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_jax import optimizer
from lm_jax.config import Config
from lm_jax.model import Transformer

# Independent streams of random numbers of one seed.
PARAMS, DATA, DROPOUT = range(3)


class TrainState(struct.PyTreeNode):
  """A pure value: the step function maps it to the next one, and a checkpoint is a copy of it.

  Attributes:
    step: int32 [], updates done.
    params, opt_state: float32 trees.
    key: uint32 [2], the run's seed; every random number is a function of it and the step, but for
    data_key: uint32 [2], the seed of the training data.
    hyperparams: float32 scalars (learning rate, weight decay, ...), data to the compiled program.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  key: jax.Array
  data_key: jax.Array
  hyperparams: optimizer.Hyperparams


def stream(key: jax.Array | np.ndarray, name: int, step: jax.Array | int = 0) -> jax.Array:
  """Returns the random key of one stream at one step."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(key), name), step)


def seed_key(seed: int) -> np.ndarray:
  """Returns `jax.random.key_data(jax.random.key(seed))`, uint32 [2], without running a program for it."""
  return np.array([0, seed], np.uint32)


def data_seed(config: Config) -> int:
  """Returns the seed of the training data."""
  return config.seed if config.data_seed is None else config.data_seed


def inputs(config: Config) -> tuple[np.ndarray, np.ndarray, optimizer.Hyperparams]:
  """Returns what of a config is data to its program: key, data key, hyperparameters; all on the host."""
  return seed_key(config.seed), seed_key(data_seed(config)), optimizer.hyperparams(config)


def init_state(config: Config) -> TrainState:
  """Returns the state before the first step; jit-able, a pure function of the config."""
  return init_from(config, *inputs(config))


def init_from(
  config: Config,
  key: jax.Array | np.ndarray,
  data_key: jax.Array | np.ndarray,
  hyperparams: optimizer.Hyperparams,
) -> TrainState:
  """`init_state` with its data as arrays, so that cells of one shape share a program."""
  tokens = jnp.zeros((1, config.model.context_length), jnp.int32)
  params = Transformer(config.model).init(stream(key, PARAMS), tokens)["params"]
  rate, decay = hyperparams["learning_rate"], hyperparams["weight_decay"]
  tx = optimizer.make_optimizer(config.optimizer, rate, decay, config.model)
  return TrainState(
    jnp.int32(0), params, tx.init(params), jnp.asarray(key), jnp.asarray(data_key),
    jax.tree.map(jnp.asarray, hyperparams),
  )  # fmt: skip
