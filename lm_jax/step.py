"""One training step, and many of them in one dispatch. Pure functions; devices are added elsewhere."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax import objectives, optimizer, sharding, state
from lm_jax.config import Config
from lm_jax.model import Transformer
from lm_jax.state import TrainState
from lm_jax.task_configs import loss_positions
from lm_jax.tasks.base import Batch, Task

Metrics = dict[str, jax.Array]  # float32 scalars


def _whole(value: Any) -> Any:
  return value


@dataclasses.dataclass(frozen=True)
class Share:
  """What of a step falls to one device, where the program is one device's; by default all of it.

  Attributes:
    own: takes this device's sequences out of the batch.
    reduce: adds (loss sum, count, gradients) up over the devices; called once a step.
    own_key: makes a random key this device's own.
  """

  own: Callable[[Batch], Batch] = _whole
  reduce: Callable[[Any], Any] = _whole
  own_key: Callable[[jax.Array], jax.Array] = _whole


def make_loss(config: Config) -> Callable:
  """Returns loss(params, batch, dropout_key) -> (sum, count) in nats and tokens."""
  model, positions = Transformer(config.model), loss_positions(config.task)

  def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    dropout_key = None if config.model.dropout == 0 else key
    total = objectives.predict(model, params, batch, positions, loss=True, dropout_key=dropout_key)
    weights = objectives.at_positions(batch.weights, batch, positions)
    if batch.next_sentence is not None:
      total = objectives.with_next_sentence(total[0], weights, total[1], batch.next_sentence)
    return total, weights.sum()

  return loss


def make_train_step(
  config: Config, share: Share = Share()
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Returns the pure step (state, batch) -> (state, metrics).

  Metrics: loss (nats a counted token), grad_norm (before clipping), learning_rate.
  """
  grad = jax.value_and_grad(make_loss(config), has_aux=True)
  splits = config.train.grad_accum_steps

  def accumulate(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    if splits == 1:
      (total, count), grads = grad(params, batch, key)
      return total, count, grads

    def add(carry: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
      (total, count), grads = grad(params, *part)
      return jax.tree.map(jnp.add, carry, (total, count, grads)), None

    # Every splits-th sequence, so that a batch split over devices stays where it is.
    parts = jax.tree.map(lambda x: x.reshape(-1, splits, *x.shape[1:]).swapaxes(0, 1), batch)
    parts = _over_batch(parts, 1)
    zeros = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, (parts, jax.random.split(key, splits)))[0]

  def train_step(s: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    dropout_key = share.own_key(state.stream(s.key, state.DROPOUT, s.step))
    total, count, grads = share.reduce(accumulate(s.params, batch, dropout_key))
    count = jnp.maximum(count, 1)
    grads = jax.tree.map(lambda g: g / count, grads)
    rate = optimizer.learning_rate(config.optimizer, s.hyperparams, s.step)
    tx = optimizer.make_optimizer(config.optimizer, rate, s.hyperparams["weight_decay"], config.model)
    updates, opt_state = tx.update(grads, s.opt_state, s.params)
    metrics = {"loss": total / count, "grad_norm": optax.tree.norm(grads), "learning_rate": rate}
    new = s.replace(step=s.step + 1, params=optax.apply_updates(s.params, updates), opt_state=opt_state)
    return new, metrics

  return train_step


def _over_batch(batch: Batch, axis: int = 0) -> Batch:
  """Says that an axis of a batch's arrays runs over its sequences."""
  return jax.tree.map(
    lambda x: sharding.constrain(
      x, *[None] * axis, sharding.BATCH, *[None] * (x.ndim - axis - 1)
    ), batch,
  )  # fmt: skip


def make_run_steps(
  config: Config, task: Task, share: Share = Share()
) -> Callable[[TrainState, Any, Any, jax.Array], Any]:
  """Returns run(state, fed, arrays, n) -> (state, metrics [K]): up to K = steps_per_dispatch steps.

  `n` is data: a dispatch of any length runs the same compiled loop body, so that where dispatches
  begin and end (logging, evaluation, a resume) cannot change a single bit, nor cost a compilation.
  Rows of the metrics from n on are NaN. The batch is a pure function of (seed, step): drawn here from the
  task's `arrays`, or, of a fed task, the i-th of `fed`, a Batch of arrays [K, ...]; else `()`.
  """
  train_step, size = make_train_step(config, share), config.runtime.steps_per_dispatch

  def batch_of(s: TrainState, i: jax.Array, fed: Any, arrays: Any) -> Batch:
    if task.is_fed:
      return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), fed)
    return task.sample(state.stream(s.data_key, state.DATA, s.step), config.train.batch_size, arrays)

  def run(s: TrainState, fed: Any, arrays: Any, n: jax.Array) -> tuple[TrainState, Metrics]:
    def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
      s, rows = carry
      batch = _over_batch(share.own(batch_of(s, i, fed, arrays)))
      s, metrics = train_step(s, batch)
      return s, jax.tree.map(lambda row, value: row.at[i].set(value), rows, metrics)

    names = ("loss", "grad_norm", "learning_rate")
    rows = {name: jnp.full((size,), jnp.nan, jnp.float32) for name in names}
    return jax.lax.fori_loop(0, jnp.minimum(n, size), body, (s, rows))

  return run
