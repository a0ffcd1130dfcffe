"""Optimizers and schedules against their formulas, written out in float64."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import RUN, merged

from lm_jax import config as configs
from lm_jax import optimizer, state, step, tasks
from lm_jax.config import OptimizerConfig

PARAMS = {
  "block_0": {"query": {"kernel": (6, 4), "bias": (4,)}, "norm": {"scale": (6,)}},
  "embedding": {"table": (7, 6)},
}


def random_tree(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
    PARAMS,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def float64(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


# --- schedules ------------------------------------------------------------------------------------


def closed_form(name, done, *, peak, warmup, total, final, decay):
  """Returns the learning rate of update number `done`, counted from 1."""
  if done < warmup:
    return peak * done / warmup
  u = min((done - warmup) / max(total - warmup, 1), 1)
  if name == "cosine":
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * u)) / 2)
  if name == "linear":
    return peak * (1 - u * (1 - final))
  if name == "wsd":
    start = total * (1 - decay)
    return peak if done <= start else peak * (1 - (1 - final) * (done - start) / (total - start))
  if name == "rsqrt":
    return peak * math.sqrt(max(warmup, 1) / done)
  return peak


@pytest.mark.parametrize("warmup", [0, 1, 20])
@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "rsqrt", "constant"])
def test_schedule(name, warmup):
  c = OptimizerConfig(schedule=name, learning_rate=3e-3, warmup_steps=warmup, final_fraction=0.1)
  h = optimizer.hyperparams(
    dataclasses.replace(configs.Config(), optimizer=c, train=configs.TrainConfig(num_steps=200))
  )
  steps = jnp.array([0, 1, 9, 18, 19, 20, 100, 158, 159, 160, 180, 198, 199])
  rates = jax.vmap(lambda s: optimizer.learning_rate(c, h, s))(steps)
  expected = [
    closed_form(name, int(s) + 1, peak=3e-3, warmup=warmup, total=200, final=0.1, decay=0.2) for s in steps
  ]
  np.testing.assert_allclose(rates, expected, rtol=2e-5)
  assert rates[-1] == pytest.approx({"rsqrt": expected[-1], "constant": 3e-3}.get(name, 3e-4), rel=1e-5)
  assert float(rates.max()) <= 3e-3 * (1 + 1e-6)
  assert np.all(np.asarray(rates) > 0)


def test_the_step_reports_the_rate_it_used():
  config = configs.from_mapping(RUN)
  task = tasks.make_task(config.task)
  s = jax.jit(lambda: state.init_state(config))()
  _, metrics = jax.jit(step.make_train_step(config))(s, task.sample(jax.random.key(0), 8))
  assert float(metrics["learning_rate"]) == pytest.approx(3e-3 / 10)


# --- AdamW ----------------------------------------------------------------------------------------


def adamw(params, gradients, c, rate):
  """Loshchilov & Hutter, arXiv:1711.05101, algorithm 2, with the decay multiplied by the rate alone."""
  p, m, v = dict(params), dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
  for t, g in enumerate(gradients, start=1):
    norm = math.sqrt(sum((x**2).sum() for x in g.values()))
    for name, x in p.items():
      clipped = g[name] * min(1, c.clip_norm / norm)
      m[name] = c.beta1 * m[name] + (1 - c.beta1) * clipped
      v[name] = c.beta2 * v[name] + (1 - c.beta2) * clipped**2
      mean, square = m[name] / (1 - c.beta1**t), v[name] / (1 - c.beta2**t)
      decay = 0.0 if name.endswith(("bias", "scale")) else c.weight_decay
      p[name] = x - rate * (mean / (np.sqrt(square) + c.epsilon) + decay * x)
  return p


def flat(tree):
  return {jax.tree_util.keystr(k, simple=True, separator="/"): v
          for k, v in jax.tree_util.tree_leaves_with_path(float64(tree))}  # fmt: skip


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_adamw_with_clipping_and_decay_mask(clip_norm):
  c = OptimizerConfig(weight_decay=0.1, clip_norm=clip_norm)
  params, gradients = random_tree(0), [random_tree(i) for i in (1, 2, 3)]
  tx = optimizer.make_optimizer(c, 0.01, c.weight_decay)
  p, s = params, tx.init(params)
  for g in gradients:
    updates, s = tx.update(g, s, p)
    p = jax.tree.map(jnp.add, p, updates)
  expected = adamw(flat(params), [flat(g) for g in gradients], c, 0.01)
  for name, value in flat(p).items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
@pytest.mark.parametrize("mask", ["matrices", "all"])
def test_decay_shrinks_what_the_mask_says(name, mask):
  """By rate x decay of the parameter, in all optimizers: the difference that weight decay makes."""
  params, gradient = random_tree(0), random_tree(1)

  def update(decay):
    c = OptimizerConfig(name=name, decay_mask=mask)
    tx = optimizer.make_optimizer(c, jnp.float32(0.01), jnp.float32(decay))
    return flat(tx.update(gradient, tx.init(params), params)[0])

  with_decay, without = update(0.5), update(0.0)
  for key, p in flat(params).items():
    decayed = mask == "all" or not key.endswith(("bias", "scale"))
    expected = -0.01 * 0.5 * p if decayed else 0 * p
    np.testing.assert_allclose(with_decay[key] - without[key], expected, atol=1e-6, err_msg=key)


def test_the_mask_splits_a_model_into_matrices_and_vectors():
  config = configs.from_mapping(merged(RUN, model={"preset": "gpt2"}))
  params = jax.eval_shape(lambda: state.init_state(config)).params
  mask = optimizer.decay_mask(params)
  assert jax.tree.map(lambda p: p.ndim == 2, params) == mask


def test_muon_orthogonalizes_the_blocks_matrices_and_leaves_the_rest_to_adam():
  params, gradient = random_tree(0), random_tree(1)
  c = OptimizerConfig(name="muon", clip_norm=None)
  tx = optimizer.make_optimizer(c, 1.0, 0.0)
  update = flat(tx.update(gradient, tx.init(params), params)[0])
  singular = np.linalg.svd(update["block_0/query/kernel"], compute_uv=False)
  # Newton-Schulz brings them near one value, 0.2 sqrt(largest side) (arXiv:2502.16982).
  np.testing.assert_allclose(singular, 0.2 * math.sqrt(6), rtol=0.35)
  # Adam's first update is the sign of the gradient, and that of its Nesterov form (Dozat 2016) is longer.
  for name in ("embedding/table", "block_0/norm/scale", "block_0/query/bias"):
    expected = -np.sign(flat(gradient)[name]) * (1 + c.beta1 / (1 + c.beta1))
    np.testing.assert_allclose(update[name], expected, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_training_reduces_the_loss(name):
  config = configs.from_mapping(
    merged(RUN, optimizer={"name": name, "learning_rate": 1e-2}, runtime={"steps_per_dispatch": 60})
    | {"task": {"name": "noisy_majority", "num_symbols": 3, "length": 8}}
  )
  run_steps = jax.jit(step.make_run_steps(config, tasks.make_task(config.task)))
  s, metrics = run_steps(jax.jit(lambda: state.init_state(config))(), (), (), jnp.int32(60))
  losses = np.asarray(metrics["loss"])
  assert np.isfinite(losses).all()
  assert losses[-10:].mean() < losses[:5].mean() - 0.1
  assert int(s.step) == 60
