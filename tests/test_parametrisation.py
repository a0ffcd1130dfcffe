"""Parametrizations: the papers' tables, equality at the base, activations flat in width and depth."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from processes import RUN, merged
from reference import random_params, tiny

from lm_jax import config as configs
from lm_jax import layers, optimizer, parametrization, state, step
from lm_jax.config import Config, OptimizerConfig
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError
from lm_jax.tasks.base import Batch

# Sizes at which nothing of the papers' tables happens to be 1; base_head_dim 1 where heads have 4.
GROWN = {"d_model": 16, "base_d_model": 4, "num_layers": 2, "base_num_layers": 1, "base_head_dim": 1}


def compiled(function, *args):
  """Returns function(*args), compiled in a fraction of the time for one that runs little."""
  return jax.jit(function).lower(*args).compile({"xla_backend_optimization_level": 0})(*args)


def leaves_by_name(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def rms(x):
  return jnp.sqrt(jnp.square(x).mean())


# --- the tables -----------------------------------------------------------------------------------


def completep_table_1(m_N, m_L, alpha):
  """arXiv:2505.01618, Table 1, right column: {row: factor of the base's value}."""
  return {
    "Embed Init. Var.": 1, "Embed LR": 1, "Pre-LN LR": m_L ** (alpha - 1), "Hidden Init. Var.": m_N**-1,
    "Hidden LR": m_N**-1 * m_L ** (alpha - 1), "Hidden Bias LR": m_L ** (alpha - 1), "Hidden WD": m_N,
    "Residual": m_L**-alpha, "Final-LN LR": 1, "Unembed Init. Var.": 1, "Unembed LR": 1,
    "Unembed Fwd.": m_N**-1, "AdamW eps (residual blocks)": m_N**-1 * m_L**-alpha,
  }  # fmt: skip


def rows(c: ModelConfig):
  """Returns what the package says, in the words of that table."""
  t = parametrization.table(c)
  matrix, vector = t["hidden_matrix"], t["hidden_vector"]
  assert matrix.epsilon == vector.epsilon
  return {
    "Embed Init. Var.": t["embedding"].init_variance, "Embed LR": t["embedding"].learning_rate,
    "Pre-LN LR": vector.learning_rate, "Hidden Init. Var.": matrix.init_variance,
    "Hidden LR": matrix.learning_rate, "Hidden Bias LR": vector.learning_rate,
    "Hidden WD": matrix.weight_decay, "Residual": parametrization.residual_multiplier(c),
    "Final-LN LR": t["head_vector"].learning_rate, "Unembed Init. Var.": t["output"].init_variance,
    "Unembed LR": t["output"].learning_rate, "Unembed Fwd.": parametrization.output_multiplier(c),
    "AdamW eps (residual blocks)": matrix.epsilon,
  }  # fmt: skip


@pytest.mark.parametrize(("d_model", "num_layers"), [(64, 2), (256, 2), (64, 16), (1024, 7), (16, 1)])
def test_factors_are_those_of_the_papers(d_model, num_layers):
  def grown(name):
    return ModelConfig(parametrization=name, d_model=d_model, num_layers=num_layers)

  m_N, m_L = d_model / 64, num_layers / 2
  assert rows(grown("completep")) == pytest.approx(completep_table_1(m_N, m_L, alpha=1))
  # The table's middle column, and arXiv:2203.03466, Table 8: no factor of depth.
  assert rows(grown("mup")) == pytest.approx(completep_table_1(m_N, 1, alpha=0))
  assert set(rows(grown("standard")).values()) == {1.0}


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("preset", reference.PRESETS)
def test_every_parameter_has_a_role(preset, scan_layers):
  outside = {
    "embedding/table": "embedding", "positions": "embedding", "segments": "embedding",
    "embedding_norm/scale": "embedding", "embedding_norm/bias": "embedding",
    "final_norm/scale": "head_vector", "final_norm/bias": "head_vector",
    "output_transform/dense/kernel": "head_matrix", "output_transform/dense/bias": "head_vector",
    "output_transform/norm/scale": "head_vector", "output_transform/norm/bias": "head_vector",
    "pooler/kernel": "head_matrix", "pooler/bias": "head_vector",
    "output/kernel": "output", "output/bias": "output_bias",
    "next_sentence/kernel": "output", "next_sentence/bias": "output_bias",
  }  # fmt: skip
  for path in leaves_by_name(reference.shapes(tiny(preset=preset, scan_layers=scan_layers))):
    hidden = "hidden_vector" if path.endswith(("scale", "bias")) else "hidden_matrix"
    expected = hidden if path.startswith("block") else outside[path]
    assert parametrization.role(path.split("/")) == expected


def test_a_parameter_without_a_role_is_an_error():
  with pytest.raises(ValueError, match="router/kernel has no role"):
    parametrization.role(["router", "kernel"])


# --- initial scales ---------------------------------------------------------------------------------


@pytest.mark.parametrize("initializer", ["fan_in", "gpt2", "xavier_uniform"])
def test_initial_variances(initializer):
  """A model four times as wide and as deep as the base, against the base in the standard parametrization."""

  def variances(**fields):
    model = tiny(initializer=initializer, positions="learned", attention_only=True, scan_layers=True,
                 vocab_size=400, context_length=64, **fields)  # fmt: skip
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = compiled(lambda key: Transformer(model).init(key, tokens), jax.random.key(0, impl="rbg"))
    return {name: np.var(leaf) for name, leaf in leaves_by_name(params["params"]).items()}

  base = variances(d_model=32, num_layers=2)
  grown = variances(d_model=128, num_layers=8, parametrization="completep", base_d_model=32)
  assert {"positions", "embedding/table", "output/kernel", "blocks/attention/out/kernel"} < set(base)
  for name, variance in base.items():
    if name.endswith("scale"):
      assert variance == grown[name] == 0
    else:
      expected = 1 / 4 if name.startswith("blocks") else 1
      assert grown[name] / variance == pytest.approx(expected, rel=0.2), name


# --- equality at the base ---------------------------------------------------------------------------


def training_config(**fields) -> Config:
  return configs.from_mapping(merged(RUN, model={"d_model": 16, "num_layers": 2, "num_heads": 4, **fields}))


def programs(config: Config):
  """Returns the text of the programs that make a state and that take a training step."""
  key, h = jax.random.key_data(jax.random.key(0)), optimizer.hyperparams(config)
  tokens = jax.ShapeDtypeStruct((8, config.task.sequence_length), jnp.int32)
  batch = Batch(tokens, tokens, jax.ShapeDtypeStruct(tokens.shape, jnp.float32))
  start = jax.jit(lambda key, h: state.init_from(config, key, key, h))
  initial = jax.eval_shape(start, key, h)
  return start.lower(key, h).as_text(), jax.jit(step.make_train_step(config)).lower(initial, batch).as_text()


@pytest.mark.parametrize("preset", reference.PRESETS)
def test_at_the_base_all_are_the_standard_program(preset):
  bases = {"base_d_model": 16, "base_num_layers": 2, "base_head_dim": 4}
  standard = programs(training_config(preset=preset, **bases))
  for name in ("mup", "completep"):
    assert programs(training_config(preset=preset, parametrization=name, **bases)) == standard


def test_completep_is_mup_at_the_base_depth_only():
  def program(name, **bases):
    return programs(training_config(parametrization=name, base_d_model=8, **bases))

  mup = program("mup")
  assert program("completep") == mup != program("standard")
  assert program("completep", base_num_layers=1) != mup


# --- the forward pass -------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", reference.PRESETS)
def test_forward_multipliers_are_scaled_weights(preset):
  """The grown model is the plain one of its preset's paper, with the multipliers moved into its weights."""
  model = tiny(preset=preset, parametrization="completep", **GROWN)
  params = random_params(model)
  tokens = np.random.default_rng(0).integers(0, model.vocab_size, 6)
  w = reference.weights(params, model)
  for block in w["blocks"]:
    for name, factor in (("query", math.sqrt(1 / 4)), ("out", 1 / 2), ("down", 1 / 2)):
      block[name] = tuple(factor * part for part in block[name])
  # Where the reference multiplies embeddings by sqrt(16), the grown model does by sqrt(4), the base's. The
  # output matrix is this table too.
  embedding = math.sqrt(4 / 16) if model.scale_embeddings else 1
  w["tokens"] = embedding * w["tokens"]
  bias = w.get("output_bias", 0)
  expected = (reference.PRESETS[preset](w, tokens, model.num_heads) - bias) / (4 * embedding) + bias
  out = jax.jit(Transformer(model).apply)({"params": params}, jnp.asarray(tokens, jnp.int32)[None])[0]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


# --- the optimizer ------------------------------------------------------------------------------------

TREE = {
  "block_0": {"query": {"kernel": (6, 4), "bias": (4,)}, "norm": {"scale": (6,)}},
  "blocks": {"mlp": {"up": {"kernel": (2, 6, 4)}}},
  "embedding": {"table": (7, 6)},
  "positions": (5, 6),
  "final_norm": {"scale": (6,)},
  "output": {"kernel": (6, 7)},
}


def random_tree(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
    TREE, is_leaf=lambda x: isinstance(x, tuple),
  )  # fmt: skip


def adamw(params, gradients, c, settings):
  """AdamW in float64 (arXiv:1711.05101, algorithm 2) with (rate, decay, epsilon) of each parameter."""
  p, m, v = dict(params), dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0)
  for t, g in enumerate(gradients, start=1):
    norm = math.sqrt(sum((x**2).sum() for x in g.values()))
    for name, x in p.items():
      rate, decay, epsilon = settings(name)
      clipped = g[name] * min(1, c.clip_norm / norm)
      m[name] = c.beta1 * m[name] + (1 - c.beta1) * clipped
      v[name] = c.beta2 * v[name] + (1 - c.beta2) * clipped**2
      mean, square = m[name] / (1 - c.beta1**t), v[name] / (1 - c.beta2**t)
      p[name] = x - rate * (mean / (np.sqrt(square) + epsilon) + decay * x)
  return p


@pytest.mark.parametrize("mask", ["matrices", "all"])
@pytest.mark.parametrize("name", ["mup", "completep"])
def test_updates_are_adamw_with_settings_of_each_parameter(name, mask):
  # Clipped gradients are about .05 an entry: this epsilon is half of the updates' size.
  c = OptimizerConfig(weight_decay=0.1, clip_norm=0.5, epsilon=0.05, decay_mask=mask)
  model = tiny(parametrization=name, **GROWN)
  m_N, m_L = 4, {"mup": 1, "completep": 2}[name]

  def settings(path):
    vector = path.endswith(("bias", "scale"))
    decay = 0.0 if vector and mask == "matrices" else c.weight_decay
    if not path.startswith("block"):
      return 0.01, decay, c.epsilon / m_N
    return 0.01 * (1 if vector else 1 / m_N), decay * (1 if vector else m_N), c.epsilon / (m_N * m_L)

  params, gradients = random_tree(0), [random_tree(i) for i in (1, 2, 3)]
  tx = optimizer.make_optimizer(c, jnp.float32(0.01), jnp.float32(c.weight_decay), model)

  def train(p):
    s = tx.init(p)
    for g in gradients:
      updates, s = tx.update(g, s, p)
      p = jax.tree.map(jnp.add, p, updates)
    return p

  p = compiled(train, params)
  flat = [{k: np.asarray(x, np.float64) for k, x in leaves_by_name(t).items()} for t in (params, *gradients)]
  expected = adamw(flat[0], flat[1:], c, settings)
  for path, value in leaves_by_name(p).items():
    np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


# --- coordinate checks ----------------------------------------------------------------------------------
#
# arXiv:2203.03466, appendix D.1, and arXiv:2505.01618, figure 7: after a few steps at a large rate, how do
# the sizes of activations, and of their changes, depend on width or depth?

T, VOCAB, STEPS, SEEDS = 16, 16, 8, 2
WIDTHS, DEPTHS = (32, 96, 256), (2, 6, 16)


def grown(name, d_model=32, num_layers=2) -> Config:
  model = {"parametrization": name, "d_model": d_model, "num_layers": num_layers, "num_heads": d_model // 16,
           "base_d_model": 32, "base_num_layers": 2, "base_head_dim": 16, "scan_layers": True}  # fmt: skip
  return configs.from_mapping({
    "task": {"name": "noisy_majority", "num_symbols": VOCAB, "length": T}, "model": model,
    "optimizer": {"learning_rate": 0.01, "schedule": "constant", "warmup_steps": 0},
    "train": {"num_steps": STEPS, "batch_size": 8},
  })  # fmt: skip


def fixed_batch() -> Batch:
  tokens, targets = (jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (8, T))) for seed in (0, 1))
  return Batch(tokens.astype(jnp.int32), targets.astype(jnp.int32), jnp.ones((8, T), jnp.float32))


def activations(model: ModelConfig, params, tokens):
  """Returns the logits, the last residual stream, and what each of the blocks' branches gives before it is
  scaled, all layers stacked."""

  def block(x_MD, layer):
    x_MD, seen = layers.Block(model).apply(
      {"params": layer}, x_MD, len(tokens), None, None, True, mutable=["intermediates"],
      capture_intermediates=lambda module, _: isinstance(module, layers.Attention | layers.Mlp),
    )  # fmt: skip
    return x_MD, {name: seen["intermediates"][name]["__call__"][0] for name in ("attention", "mlp")}

  stream, branches = jax.lax.scan(block, params["embedding"]["table"][tokens.reshape(-1)], params["blocks"])
  return {"logits": Transformer(model).apply({"params": params}, tokens), "stream": stream, **branches}


@functools.cache
def sizes(config: Config) -> dict[str, float]:
  """Returns the geometric means over seeds of the RMS of activations after training, and of their change."""
  batch, train_step, h = fixed_batch(), step.make_train_step(config), optimizer.hyperparams(config)
  tx = optimizer.make_optimizer(config.optimizer, 0.01, 0.0, config.model)

  def measure(key):
    params = Transformer(config.model).init(key, batch.tokens)["params"]
    unused = jax.random.key_data(jax.random.key(0))
    s = state.TrainState(jnp.int32(0), params, tx.init(params), unused, unused, h)
    s = jax.lax.fori_loop(0, STEPS, lambda _, s: train_step(s, batch)[0], s)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, s.params)
    seen = jax.lax.map(lambda p: activations(config.model, p, batch.tokens), both)
    change = {f"{name} change": rms(x[1] - x[0]) for name, x in seen.items()}
    return change | {name: rms(x[1]) for name, x in seen.items()}

  keys = [jax.random.key(seed, impl="rbg") for seed in range(SEEDS)]
  run = jax.jit(measure).lower(keys[0]).compile({"xla_backend_optimization_level": 0})
  measured = [run(key) for key in keys]
  return {name: math.exp(np.mean([math.log(m[name]) for m in measured])) for name in measured[0]}


def slopes(name, **axis) -> dict[str, float]:
  """Returns d log(size) / d log(width or depth), least squares."""
  [(field, values)] = axis.items()
  measured = [sizes(grown(name, **{field: value})) for value in values]
  return {
    key: float(np.polyfit(np.log(values), [math.log(m[key]) for m in measured], 1)[0]) for key in measured[0]
  }


def test_activations_are_flat_in_width_under_mup():
  assert max(abs(s) for s in slopes("mup", d_model=WIDTHS).values()) < 0.2


def test_the_check_of_width_fails_for_standard():
  found = slopes("standard", d_model=WIDTHS)
  assert min(found[name] for name in ("stream", "stream change", "mlp change", "attention change")) > 0.8


def test_activations_are_flat_in_depth_under_completep():
  assert max(abs(s) for s in slopes("completep", num_layers=DEPTHS).values()) < 0.2


def test_the_check_of_depth_fails_for_standard():
  found = slopes("standard", num_layers=DEPTHS)
  assert min(found[key] for key in ("stream", "stream change")) > 0.8


def test_epsilon_follows_the_gradients():
  """Gradients shrink as the table says epsilon does, at four times the width and the depth of the base.

  Logits are small from the start here; large ones add a part to the gradients that shrinks with them.
  """
  batch, key = fixed_batch(), jax.random.key(0, impl="rbg")

  def gradient_sizes(**fields):
    config = grown("completep", **fields)
    model = dataclasses.replace(config.model, scale_embeddings=True, initializer="gpt2")
    loss = step.make_loss(dataclasses.replace(config, model=model))

    def measure(key):
      params = Transformer(model).init(key, batch.tokens)["params"]
      return jax.tree.map(rms, jax.grad(loss, has_aux=True)(params, batch, key)[0])

    return leaves_by_name(compiled(measure, key)), parametrization.table(model)

  base, _ = gradient_sizes()
  measured, table = gradient_sizes(d_model=128, num_layers=8)
  for path, value in measured.items():
    factor = 1 / 16 if path.startswith("blocks") else 1 / 4
    assert table[parametrization.role(path.split("/"))].epsilon == factor
    assert math.log(value / base[path]) == pytest.approx(math.log(factor), abs=math.log(1.6)), path


def test_epsilon_of_heads_follows_the_gradients():
  """The same of BERT's embedding norm, output transform and pooler, and of the biases of logits."""
  tokens, targets, key = fixed_batch().tokens, fixed_batch().targets, jax.random.key(0, impl="rbg")

  def gradient_sizes(**fields):
    model = dataclasses.replace(
      grown("completep", **fields).model, causal=False, initializer="normal", use_bias=True, num_segments=2,
      positions="learned", norm="layernorm",
      embedding_norm=True, output_transform=True, output_bias=True, next_sentence_head=True,
    )  # fmt: skip

    def loss(params):
      nll, logits = Transformer(model).apply(
        {"params": params}, tokens, targets_BP=targets, segments_BT=tokens % 2, with_next_sentence=True
      )
      return nll.mean() - jax.nn.log_softmax(logits)[:, 1].mean()

    def measure(key):
      return jax.tree.map(rms, jax.grad(loss)(Transformer(model).init(key, tokens)["params"]))

    return leaves_by_name(compiled(measure, key)), parametrization.table(model)

  base, _ = gradient_sizes()
  measured, table = gradient_sizes(d_model=128, num_layers=8)
  heads = {path for path in measured if not path.startswith("blocks")}
  assert len(heads) == 17
  for path in heads:
    factor = 1.0 if path in ("output/bias", "next_sentence/bias") else 1 / 4
    assert table[parametrization.role(path.split("/"))].epsilon == factor
    assert math.log(measured[path] / base[path]) == pytest.approx(math.log(factor), abs=math.log(1.6)), path


# --- configs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_other_optimizers_are_refused(name):
  tree = merged(RUN, optimizer={"name": name}, model={"parametrization": "mup"})
  message = f"config.optimizer.name='{name}': must be adamw for model.parametrization=mup"
  with pytest.raises(ConfigError, match=message):
    configs.from_mapping(tree)


def test_a_base_that_is_not_read_is_not_part_of_the_identity():
  def cell_id(**model):
    return configs.cell_id(training_config(**model))

  assert cell_id() == cell_id(base_d_model=8, base_num_layers=1, base_head_dim=8)
  mup = cell_id(parametrization="mup")
  assert mup == cell_id(parametrization="mup", base_num_layers=1)
  others = [cell_id(), cell_id(parametrization="completep"), cell_id(parametrization="mup", base_d_model=8)]
  assert len({mup, *others}) == 4
