"""Closed forms against the program itself: parameter shapes, the products in its jaxpr, XLA's own counts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from processes import ROOT

from lm_jax import config as configs
from lm_jax import config_file, optimizer, scaling, step, task_configs, tasks
from lm_jax.config import Config
from lm_jax.model import Classifier, Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError
from lm_jax.tasks.base import Batch

# --- random models ----------------------------------------------------------------------------------


@st.composite
def models(draw) -> ModelConfig:
  """Any combination of choices that a config accepts."""
  heads = draw(st.sampled_from([1, 2, 4, 6]))
  parallel = draw(st.booleans())
  fields = {
    "vocab_size": draw(st.integers(5, 13)),
    "context_length": draw(st.integers(6, 9)),
    "d_model": 12 * draw(st.integers(1, 3)),
    "num_layers": draw(st.integers(1, 3)),
    "num_heads": heads,
    "num_kv_heads": draw(st.sampled_from([n for n in (1, 2, 3, 4, 6) if heads % n == 0])),
    "head_dim": draw(st.sampled_from([2, 4, 10])),
    "d_ff": draw(st.sampled_from([None, 7, 40])),
    "positions": draw(st.sampled_from(["learned", "sinusoidal", "rope", "none"])),
    "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
    "norm_position": "pre" if parallel else draw(st.sampled_from(["pre", "post"])),
    "activation": draw(st.sampled_from(["relu", "gelu", "swiglu"])),
    "parallel_block": parallel,
    "attention_only": not parallel and draw(st.booleans()),
    "attention_block": draw(st.sampled_from([1, 4, 64])),
    "attention_window": draw(st.sampled_from([None, None, 1, 3, 4, 20])),
    "num_segments": draw(st.sampled_from([0, 2])),
  }
  for flag in ("tie_embeddings", "use_bias", "scale_embeddings", "causal", "scan_layers", "embedding_norm",
               "output_transform", "output_bias", "next_sentence_head"):  # fmt: skip
    fields[flag] = draw(st.booleans())
  fields["next_sentence_head"] &= not fields["causal"]
  return reference.tiny(**fields)


def property_test(num_examples: int):
  # Shrinking a failure would trace the model for minutes.
  return settings(
    max_examples=num_examples, derandomize=True, deadline=None, database=None, phases=[Phase.generate]
  )


# --- parameters -------------------------------------------------------------------------------------


@property_test(50)
@given(models())
def test_parameter_counts_are_those_of_the_model(model):
  params = reference.shapes(model)
  count = scaling.count_params(model)
  assert count.total == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count.nonembedding == count.total - reference.non_block_sizes(params)
  assert count.total == sum(scaling.param_breakdown(model).values())


@property_test(10)
@given(models(), st.integers(1, 5))
def test_parameter_counts_of_a_classifier(model, num_classes):
  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  params = jax.eval_shape(Classifier(model, num_classes).init, jax.random.key(0), tokens)["params"]
  count = scaling.count_params(model, num_classes)
  assert count.total == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count.nonembedding == count.total - reference.non_block_sizes(params)


def test_published_size_of_bert():
  """110,106,428: the sum of the tensors of bert-base-uncased, whose decoder is its token table."""
  model = reference.tiny(
    preset="bert", vocab_size=30522, context_length=512, d_model=768, num_layers=12, num_heads=12
  )
  assert scaling.count_params(model).total == 110_106_428


def test_published_size_of_gpt2():
  """124,439,808 parameters: the sum of the tensors in the released checkpoint."""
  model = reference.tiny(
    preset="gpt2", vocab_size=50257, context_length=1024, d_model=768, num_layers=12, num_heads=12
  )
  assert scaling.count_params(model).total == 124_439_808


# --- FLOPs --------------------------------------------------------------------------------------------


def product_flops(jaxpr) -> int:
  """Returns the FLOPs of all matrix products in a jaxpr, a scan's body times its length."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      contracted = eqn.params["dimension_numbers"][0][0]
      total += 2 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
      continue
    inner = sum(product_flops(sub) for sub in map(as_jaxpr, eqn.params.values()) if sub is not None)
    assert not (inner and eqn.primitive.name in ("while", "cond")), "the number of runs is not known"
    total += inner * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
  return total


def as_jaxpr(value):
  value = getattr(value, "jaxpr", value)
  return value if hasattr(value, "eqns") else None


def apply(model: ModelConfig, positions: tuple[int, ...] | None = None, **data):
  def f(params, tokens):
    return Transformer(model).apply({"params": params}, tokens, label_positions=positions, **data)

  return f


def token_shape(B: int, T: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((B, T), jnp.int32)


@property_test(30)
@given(models(), st.integers(5, 6), st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True))
def test_forward_flops_are_the_products_of_the_program(model, T, positions):
  B = 3
  forward = apply(model, tuple(positions))
  jaxpr = jax.make_jaxpr(forward)(reference.shapes(model), token_shape(B, T)).jaxpr
  assert product_flops(jaxpr) == B * scaling.forward_flops(model, T, len(positions))


@property_test(12)
@given(models())
def test_a_training_step_is_three_forward_passes(model):
  """With a prefix where there can be one, and the next sentence where a head is."""
  B, T, nsp = 3, 6, model.next_sentence_head
  prefix = jnp.zeros((B, T), bool) if model.causal else None

  def loss(params, tokens):
    out = apply(model, prefix_BT=prefix, with_next_sentence=nsp)(params, tokens)
    return sum(jnp.square(x).mean() for x in jax.tree.leaves(out))

  grad = jax.make_jaxpr(jax.value_and_grad(loss))(reference.shapes(model), token_shape(B, T)).jaxpr
  forward = scaling.forward_flops(model, T, T, prefix=model.causal, next_sentence=nsp)
  assert product_flops(grad) == scaling.FORWARD_AND_BACKWARD * B * forward


@property_test(6)
@given(models(), st.integers(1, 4))
def test_flops_of_a_classifier(model, num_classes):
  classifier, tokens = Classifier(model, num_classes), token_shape(3, 5)
  variables = jax.eval_shape(classifier.init, jax.random.key(0), tokens)
  jaxpr = jax.make_jaxpr(classifier.apply)(variables, tokens).jaxpr
  assert product_flops(jaxpr) == 3 * scaling.classifier_flops(model, 5, num_classes)


def test_xla_counts_the_same_flops():
  """Within 5 %: XLA adds elementwise work, which is small at this width."""
  model = reference.tiny(vocab_size=256, context_length=64, d_model=256, num_heads=4, activation="relu")
  compiled = jax.jit(apply(model)).lower(reference.shapes(model), token_shape(2, 64)).compile()
  assert compiled.cost_analysis()["flops"] == pytest.approx(
    2 * scaling.forward_flops(model, 64, 64), rel=0.05
  )


def make_config(model: dict, T: int, V: int, **groups: dict) -> Config:
  task = {"name": "noisy_majority", "num_symbols": V, "length": T}
  return configs.from_mapping({"task": task, "model": model, **groups})


def test_run_totals():
  config = configs.from_mapping(
    {"task": {"num_items": 12}, "train": {"num_steps": 200, "batch_size": 16}, "model": {"d_model": 32}}
  )
  sequence = scaling.forward_flops(config.model, 35, 12)
  assert scaling.tokens_per_step(config) == 16 * 35
  assert scaling.train_flops(config) == 200 * 16 * 3 * sequence
  assert scaling.train_flops(config, 50) == scaling.train_flops(config) / 4
  assert scaling.flops_6nd(config) == 6 * scaling.count_params(config.model).total * 200 * 16 * 35
  assert scaling.flops_6nd_nonembedding(config) == 6 * scaling.count_params(config.model).nonembedding * (
    scaling.tokens_per_step(config) * 200
  )
  assert scaling.flops_6nd(config, 0) == scaling.train_flops(config, 0) == 0
  assert scaling.seconds(config, 1e9) == 200 * scaling.seconds_per_step(config, 1e9)


def test_6nd_is_the_exact_count_of_a_wide_model_on_short_sequences():
  config = make_config({"d_model": 1024, "num_heads": 16, "num_layers": 12, "tie_embeddings": True}, 64, 512)
  assert scaling.flops_6nd(config) == pytest.approx(scaling.train_flops(config), rel=0.02)
  # Of the tied table, which 6ND counts once for its product, the other measure knows nothing.
  table = 6 * 512 * 1024 * scaling.tokens_per_step(config) * config.train.num_steps
  assert scaling.flops_6nd(config) - scaling.flops_6nd_nonembedding(config) == pytest.approx(table)


# --- memory and time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("model", "T"), [({"d_model": 64}, 32), ({"d_model": 64, "preset": "gpt2", "num_layers": 3}, 128)]
)
def test_memory_is_near_what_xla_allocates(model, T):
  config = make_config(model, T, 64, train={"batch_size": 16})

  def loss(params, tokens):
    return jax.nn.log_softmax(apply(config.model)(params, tokens)).mean()

  args = reference.shapes(config.model), token_shape(16, T)
  memory = jax.jit(jax.value_and_grad(loss)).lower(*args).compile().memory_analysis()
  measured = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
  estimate = scaling.memory_bytes(config) - 4 * scaling.optimizer_floats(config)
  assert 1 / 1.5 < estimate / measured < 1.5


def measured_bytes(config: Config) -> int:
  """Returns XLA's bytes of a loss and its gradient: arguments, results and all between."""
  batch = batch_shape(config)
  grad = jax.jit(jax.value_and_grad(step.make_loss(config), has_aux=True))
  memory = grad.lower(reference.shapes(config.model), batch, jax.random.key(0)).compile().memory_analysis()
  return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes


def batch_shape(config: Config) -> Batch:
  task = tasks.make_task(config.task)
  return jax.eval_shape(lambda: task.sample(jax.random.key(0), config.train.batch_size, task.arrays))


@pytest.mark.parametrize(
  ("model", "T", "V", "B"),
  [
    ({"remat": "block"}, 128, 64, 8),
    ({"remat": "products"}, 128, 64, 8),
    ({"remat": "products", "scan_layers": True, "num_layers": 4}, 128, 64, 8),
    ({}, 2048, 64, 1),
    ({"remat": "block"}, 128, 10_000, 16),
    ({"attention_window": 256}, 2048, 64, 2),
    ({"attention_window": 64}, 512, 64, 4),
    ({"preset": "bert"}, 128, 64, 8),
  ],
)
def test_memory_of_what_is_computed_again_is_near_what_xla_allocates(model, T, V, B):
  config = make_config({"preset": "gpt2", "num_layers": 3, **model}, T, V, train={"batch_size": B})
  estimate = scaling.memory_bytes(config) - 4 * scaling.optimizer_floats(config)
  assert 1 / 1.5 < estimate / measured_bytes(config) < 1.5


def test_memory_on_a_gpu_is_near_what_was_measured():
  """With cuDNN's attention, which keeps no weights: GPT-2 124M, and a cell of GINC (study 023)."""
  gpt2 = config_file.load(str(ROOT / "configs/bench/gpu.py"))
  first, small = (
    pd.read_csv(ROOT / f"experiments/023_one_gpu/{name}.csv").query("run == 'first'")
    for name in ("training", "small")
  )
  expected = first.set_index("way").at["logits 2^28", "memory_gib"] * 2**30
  assert 0.85 < scaling.memory_bytes(gpt2, "gpu") / expected < 1.15
  assert scaling.memory_bytes(gpt2) > 2 * expected
  expected_of_ginc = small.set_index("study").at["ginc", "memory_gib"] * 2**30
  ginc = config_file.load(str(ROOT / "configs/sweeps/ginc.py:published"), [("model.dtype", "bfloat16")])
  assert 0.85 < scaling.memory_bytes(ginc.cells[0].config, "gpu") / expected_of_ginc < 1.15
  # Attention that is asked to keep them has them.
  blocks = dataclasses.replace(gpt2, model=dataclasses.replace(gpt2.model, attention="blocks"))
  assert scaling.memory_bytes(blocks, "gpu") > 2 * expected


def test_activations_of_bfloat16_are_half_but_for_weights_and_logits():
  wide, narrow = (reference.tiny(dtype=dtype) for dtype in ("float32", "bfloat16"))
  sizes = [scaling.activation_bytes(m, 8, 2, 64) for m in (wide, narrow)]
  # 8 queries of one block see 8 keys in 4 heads and 2 layers; two logits and their softmax at 2 labels.
  floats = 2 * 4 * 8 * 8 + 2 * 2 * wide.vocab_size
  assert 2 * sizes[1] - sizes[0] == 64 * 1.5 * 4 * floats


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 5, 300, 900, 5000])
def test_flops_of_long_sequences(window, causal, prefix):
  """1100 tokens loop over queries: the program's products, run by run, are still those of the closed form."""
  T = 1100
  model = reference.tiny(
    context_length=T, num_layers=1, d_model=8, num_heads=2, attention_window=window, causal=causal
  )
  data = {"prefix_BT": jnp.zeros((1, T), bool)} if prefix and causal else {}
  jaxpr = jax.make_jaxpr(apply(model, **data))(reference.shapes(model), token_shape(1, T)).jaxpr
  assert product_flops(jaxpr) == scaling.forward_flops(model, T, T, prefix=bool(data))
  most = T * T if window is None or data else T * (2 * window + 2 * 64)
  assert scaling.attention_pairs(model, T, bool(data)) <= min(most, T * T)


def text_config(objective: str, **model) -> Config:
  task = {"name": "text", "objective": objective, "context_length": 32}
  return configs.from_mapping({"task": task, "model": {"d_model": 16, **model}})


def test_a_run_counts_what_its_objective_asks():
  """A prefix takes keys in full width; the next sentence its head, which is no use to masked LM alone."""
  bert = {"preset": "bert", "attention_block": 8}
  plain, pairs = text_config("masked_lm", **bert), text_config("masked_lm_nsp", **bert)
  assert scaling.step_flops(pairs) - scaling.step_flops(plain) == 3 * 64 * 2 * (16 * 16 + 16 * 2)
  causal, prefix = (text_config(name, attention_block=8) for name in ("causal_lm", "prefix_lm"))
  more = 32 * 32 - scaling.attention_pairs(causal.model, 32)
  assert scaling.step_flops(prefix) - scaling.step_flops(causal) == 3 * 64 * 2 * (2 * 2 * more * 16)
  assert scaling.memory_bytes(prefix) > scaling.memory_bytes(causal)


def test_what_is_computed_again_does_not_count_as_flops():
  flops = [scaling.step_flops(make_config({"remat": remat}, 16, 8)) for remat in ("none", "block")]
  assert flops[0] == flops[1]


def test_optimizers_hold_what_they_should():
  model = {"d_model": 256, "num_heads": 4}
  floats = {name: scaling.optimizer_floats(make_config(model, 32, 200, optimizer={"name": name}))
            for name in ("adamw", "muon", "adafactor")}  # fmt: skip
  total = scaling.count_params(make_config(model, 32, 200).model).total
  assert floats["adamw"] == 2 * total
  assert total < floats["muon"] < 1.2 * total
  assert floats["adafactor"] < 0.02 * total


def test_adafactor_factors_heads_too():
  config = make_config(
    {"preset": "bert", "d_model": 256, "num_heads": 4}, 32, 200, optimizer={"name": "adafactor"}
  )
  shapes = reference.shapes(config.model)
  state = jax.eval_shape(optimizer.make_optimizer(config.optimizer, 0.1, 0.1, config.model).init, shapes)
  held = sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.float32)
  # optax keeps an array of one element for what a factored, or an unfactored, parameter does not have.
  unused = sum(1 if min((*x.shape, 0)[:2]) >= 128 else 2 for x in jax.tree.leaves(shapes))
  assert held - scaling.optimizer_floats(config) == unused


def test_accumulation_trades_activations_for_one_copy_of_the_gradients():
  whole, split = (
    scaling.memory_bytes(make_config({}, 64, 32, train={"batch_size": 64, "grad_accum_steps": n}))
    for n in (1, 8)
  )
  assert split < whole / 4


# (d_model, heads, layers, T, batch, vocabulary, labels) -> tokens/s of training, on one AVX-512 core.
MEASURED = {
  (64, 2, 2, 64, 64, 256, 64): 45_200,
  (128, 4, 4, 64, 12, 65, 64): 10_000,
  (256, 4, 4, 256, 8, 256, 256): 2_810,
  (384, 6, 6, 256, 8, 65, 256): 1_000,
  (16, 1, 2, 35, 64, 12, 12): 305_000,
  (32, 2, 2, 35, 64, 12, 12): 119_000,
  (64, 2, 2, 35, 64, 12, 12): 46_000,
}


@pytest.mark.parametrize("size", MEASURED)
def test_time_is_within_a_factor_of_one_and_a_half(size):
  d_model, heads, layers, T, B, V, labels = size
  model = {"d_model": d_model, "num_heads": heads, "num_layers": layers}
  config = make_config(model, T, V, train={"batch_size": B})
  if labels < T:
    config = configs.from_mapping({"model": model, "train": {"batch_size": B}})  # rule induction
  assert (len(task_configs.loss_positions(config.task)), config.model.vocab_size) == (labels, V)
  speed = scaling.tokens_per_step(config) / scaling.seconds_per_step(config, 100e9)
  assert 1 / 1.5 < speed / MEASURED[size] < 1.5


# --- one dial ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("d_model", "heads"), [(8, 1), (16, 1), (32, 2), (48, 2), (64, 2), (128, 4), (512, 16)]
)
def test_width_ladder(d_model, heads):
  assert scaling.width_ladder(d_model, 3) == {"d_model": d_model, "num_layers": 3, "num_heads": heads}


def test_every_rung_is_a_valid_model_with_heads_of_sensible_width():
  sizes = []
  for d_model in range(8, 513, 8):
    model = configs.from_mapping({"model": scaling.width_ladder(d_model)}).model
    assert model.num_heads * model.head_dim == d_model
    sizes.append(scaling.count_params(model).total)
    if d_model % 32 == 0:
      assert model.head_dim == (16 if d_model == 32 else 32)
  assert sizes == sorted(sizes)


@pytest.mark.parametrize("d_model", [0, -8, 7])
def test_width_ladder_refuses_odd_widths(d_model):
  with pytest.raises(ConfigError, match=f"d_model={d_model}"):
    scaling.width_ladder(d_model)


def test_chinchilla_tokens():
  assert scaling.chinchilla_tokens(70_000_000_000) == 1_400_000_000_000
  assert scaling.chinchilla_tokens(1000, ratio=1.5) == 1500


def test_counts_are_plain_integers():
  """They go into JSON; a numpy or jax scalar would not."""
  model = reference.tiny()
  values = [*dataclasses.astuple(scaling.count_params(model)), scaling.forward_flops(model, 4, 2)]
  assert all(type(value) is int for value in values)
  assert not any(isinstance(value, np.generic) for value in scaling.param_breakdown(model).values())
