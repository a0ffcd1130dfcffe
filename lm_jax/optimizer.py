"""Optimizers from optax, and learning-rate schedules as pure functions of the step.

`learning_rate`, `weight_decay` and the lengths of the schedule arrive as arrays: cells that differ only
in these share one compiled program, and a population can carry one value a replica.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers

from lm_jax import parametrization
from lm_jax.config import Config, OptimizerConfig
from lm_jax.model_config import ModelConfig

Number = float | np.float32 | Float[Array, ""]  # or a tracer
Hyperparams = dict[str, jax.Array | np.float32]  # float32 scalars, see `hyperparams`
STANDARD = ModelConfig()


def hyperparams(config: Config) -> Hyperparams:
  """Returns the numbers of the optimizer that are data to the program."""
  o = config.optimizer
  values = {
    "learning_rate": o.learning_rate,
    "weight_decay": o.weight_decay,
    "warmup_steps": o.warmup_steps,
    "num_steps": config.train.num_steps,
  }
  # Of numpy: as jax arrays each would be made by a small program of its own.
  return {name: np.float32(value) for name, value in values.items()}


def learning_rate(c: OptimizerConfig, h: Hyperparams, step: Int[Array, ""]) -> Float[Array, ""]:
  """Returns the learning rate of the step-th update (0 is the first).

  Linear warmup reaches the peak at the update number `warmup_steps` (counted from 1). Then, with
  u in [0, 1] the share of the remaining updates that is done:
    cosine, linear: from the peak to final_fraction of it;
    wsd: warmup-stable-decay (arXiv:2404.06395), linear decay in the last decay_fraction of all updates;
    rsqrt: peak * sqrt(warmup / step) (arXiv:1706.03762);
    constant: the peak.
  """
  done = step.astype(jnp.float32) + 1
  warmup, total = h["warmup_steps"], h["num_steps"]
  u = jnp.clip((done - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
  final = c.final_fraction
  if c.schedule == "cosine":
    factor = final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * u))
  elif c.schedule == "linear":
    factor = 1 - (1 - final) * u
  elif c.schedule == "wsd":
    left = (total - done) / (c.decay_fraction * total)
    factor = final + (1 - final) * jnp.clip(left, 0, 1)
  elif c.schedule == "rsqrt":
    factor = jnp.sqrt(jnp.maximum(warmup, 1) / jnp.maximum(done, jnp.maximum(warmup, 1)))
  else:
    factor = jnp.float32(1)
  ramp = jnp.minimum(done / jnp.maximum(warmup, 1), 1)
  return h["learning_rate"] * ramp * factor


def make_optimizer(
  c: OptimizerConfig,
  rate: Number,
  decay: Number,
  model: ModelConfig = STANDARD,
) -> optax.GradientTransformation:
  """Returns clipping followed by the optimizer at one learning rate and weight decay (numbers or tracers).

  Decoupled weight decay is multiplied by the learning rate in all three (as in PyTorch's AdamW).

  Args:
    model: its parametrization scales rate, decay and epsilon for each parameter (adamw only).
  """
  mask = decay_mask if c.decay_mask == "matrices" else None
  if parametrization.scales_updates(model):
    update = _parametrized_adamw(c, rate, decay, mask, parametrization.table(model))
  elif c.name == "adamw":
    update = optax.adamw(rate, c.beta1, c.beta2, c.epsilon, weight_decay=decay, mask=mask)
  elif c.name == "muon":
    muon = optax.contrib.muon(
      rate, beta=0.95, eps=c.epsilon, adam_b1=c.beta1, adam_b2=c.beta2,
      # Updates have the size Adam's would have, so one learning rate serves both (arXiv:2502.16982).
      consistent_rms=0.2, muon_weight_dimension_numbers=muon_dimensions,
    )  # fmt: skip
    # Its own mask does not reach the parameters that it leaves to Adam.
    update = optax.chain(muon, optax.add_decayed_weights(-rate * decay, mask))
  else:
    update = optax.adafactor(rate, weight_decay_rate=rate * decay, weight_decay_mask=mask)
  if c.clip_norm is None:
    return update
  return optax.chain(optax.clip_by_global_norm(c.clip_norm), update)


def _parametrized_adamw(
  c: OptimizerConfig,
  rate: Number,
  decay: Number,
  mask: Callable[[Any], Any] | None,
  table: dict[parametrization.Role, parametrization.Factors],
) -> optax.GradientTransformation:
  """Returns AdamW with each parameter's own rate, decay and epsilon.

  Adam of g / e with epsilon is Adam of g with e epsilon, so gradients are divided instead: clipping has
  seen the true ones.
  """

  def scale(factor: Callable[[parametrization.Factors], float]) -> optax.GradientTransformation:
    def by_role(path: tuple, x: jax.Array) -> jax.Array:
      return x * factor(table[parametrization.role(_names(path))])

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(by_role, updates))

  def add_decay(path: tuple, update: jax.Array, param: jax.Array) -> jax.Array:
    return update + decay * table[parametrization.role(_names(path))].weight_decay * param

  decayed = optax.stateless(lambda *trees: jax.tree_util.tree_map_with_path(add_decay, *trees))
  return optax.chain(
    scale(lambda f: 1 / f.epsilon),
    optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
    optax.masked(decayed, mask) if mask else decayed,
    scale(lambda f: f.learning_rate),
    optax.scale_by_learning_rate(rate),
  )


def _names(path: tuple) -> list[str]:
  return [str(getattr(entry, "key", entry)) for entry in path]


def decay_mask(params: Any) -> Any:
  """Returns true for matrices (kernels and tables), false for norms' scales and biases."""
  return jax.tree_util.tree_map_with_path(lambda path, _: _names(path)[-1] not in ("scale", "bias"), params)


def muon_dimensions(params: Any) -> Any:
  """Returns Muon's axes for the blocks' kernels and None (Adam) for tables, the output layer and vectors."""

  def axes(path: tuple, _: jax.Array) -> MuonDimensionNumbers | None:
    names = _names(path)
    hidden = names[-1] == "kernel" and names[0].startswith("block")
    return MuonDimensionNumbers(-2, -1) if hidden else None

  return jax.tree_util.tree_map_with_path(axes, params)
