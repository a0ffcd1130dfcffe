"""pmap = data parallel = fsdp = tensor = one device; what moves between devices; what cannot be laid out."""

import functools
import math
import re

import jax
import numpy as np
import pytest
from processes import RUN, StopAfter, merged

from lm_jax import config as configs
from lm_jax import loop, parallel, rundir, scaling, tasks
from lm_jax.checkpoint import Checkpoints
from lm_jax.strict import ConfigError

NUM_STEPS = 20
LAYOUTS = {
  "pmap": {"kind": "pmap"},
  "data": {"kind": "mesh"},
  "fsdp": {"kind": "mesh", "fsdp": 8},
  "tensor": {"kind": "mesh", "tensor": 4},
  "all three": {"kind": "mesh", "data": 2, "fsdp": 2, "tensor": 2},
  "four devices": {"kind": "mesh", "fsdp": 2, "num_devices": 4},
}
SINGLE = {"kind": "single"}

BASE = merged(
  RUN, model={"d_model": 32, "num_layers": 1, "num_heads": 4},
  train={"num_steps": NUM_STEPS, "batch_size": 16}, runtime={"steps_per_dispatch": NUM_STEPS},
)  # fmt: skip
# Every kind of parameter, of optimizer state and of block is in one of them.
MODELS = {
  "plain": {},
  "llama": {"model": {"preset": "llama", "num_kv_heads": 4, "num_heads": 8}, "optimizer": {"name": "muon"}},
  "gpt2": {"model": {"preset": "gpt2", "scan_layers": True, "num_layers": 2}},
  "palm": {"model": {"preset": "palm", "d_model": 128}, "optimizer": {"name": "adafactor"}},
  "accumulated": {"train": {"grad_accum_steps": 2}},
  # Batches that the host makes.
  "text": {"task": {"name": "text", "context_length": 32, "attend_across": False}},
}


def configured(parallel_fields, changes=None, **groups):
  tree = merged(BASE, **(changes or {})) | {"parallel": parallel_fields} | groups
  if changes and "task" in changes:  # another task has other fields
    tree["task"] = changes["task"]
  return configs.from_mapping(tree)


@functools.cache
def engine(config):
  return parallel.Solo(config, tasks.make_task(config.task), parallel.make_layout(config))


def trained(config):
  """Returns the losses, and the parameters and optimizer state on the host, after a run's steps."""
  e = engine(config)
  s, metrics = e.run(e.start([config]), 0, NUM_STEPS)
  return np.asarray(metrics["loss"]), jax.device_get((s.params, s.opt_state))


ONE_DEVICE = functools.cache(lambda model: trained(configured(SINGLE, MODELS[model])))

# The plain model everywhere; the others where most that is theirs can go wrong.
PAIRS = [("plain", layout) for layout in LAYOUTS]
PAIRS += [("llama", "all three"), ("gpt2", "all three"), ("palm", "fsdp"), ("accumulated", "all three")]
PAIRS += [("text", "all three"), ("text", "pmap")]


@pytest.mark.parametrize(("model", "layout"), PAIRS)
def test_every_layout_computes_the_same_numbers(model, layout):
  losses, state = ONE_DEVICE(model)
  own_losses, own_state = trained(configured(LAYOUTS[layout], MODELS[model]))
  assert losses[-1] < losses[0]
  np.testing.assert_allclose(own_losses, losses, rtol=2e-5)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(own_state), jax.tree.leaves(state), strict=True
  ):
    # Adam divides by the root of v: where gradients vanish, rounding decides the direction of a step.
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4, err_msg=jax.tree_util.keystr(path))


# --- what a device holds, and what moves ----------------------------------------------------------


def share_held(config) -> float:
  """Returns the largest device's share of a state's parameters and moments."""
  e = engine(config)
  leaves = jax.tree.leaves(e.start([config]).params)
  held = sum(max(shard.data.size for shard in x.addressable_shards) for x in leaves)
  return held / sum(x.size for x in leaves)


def test_a_device_of_an_fsdp_mesh_holds_its_part():
  assert share_held(configured(LAYOUTS["pmap"])) == share_held(configured(LAYOUTS["data"])) == 1
  # All but the norms' scales.
  assert share_held(configured(LAYOUTS["fsdp"])) < 1.1 / 8
  assert share_held(configured(LAYOUTS["tensor"])) < 1.2 / 4


@functools.cache
def program(config) -> str:
  return engine(config).compile([config]).as_text()


Moves = list[tuple[str, int]]  # (operation, floats that come out of it on one device)


def collectives(config) -> Moves:
  found = []
  for line in program(config).splitlines():
    match = re.search(
      r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", line
    )
    if match:
      shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
      sizes = [math.prod(int(n) for n in dims.split(",") if n) for dims in shapes]
      found.append((match[2], sum(sizes)))
  return found


def assert_reduced_once(config):
  moves = collectives(config)
  assert {name for name, _ in moves} == {"all-reduce"}
  # The gradients in one operation; the loss's sum and count with it or apart.
  params = scaling.count_params(config.model).total
  (size,) = (size for _, size in moves if size > 1)
  assert params <= size <= params + 2
  assert len(moves) <= 3


@pytest.mark.parametrize("layout", ["pmap", "data"])
def test_data_parallelism_reduces_the_gradients_once_and_moves_nothing_else(layout):
  config = configured(LAYOUTS[layout])
  assert_reduced_once(config)


def test_pmap_reduces_an_accumulated_gradient_once():
  assert_reduced_once(configured(LAYOUTS["pmap"], MODELS["accumulated"]))


def test_fsdp_gathers_parameters_and_never_activations():
  config = configured(LAYOUTS["fsdp"])
  moves = collectives(config)
  m, matrices = config.model, scaling.attention_matrices(config.model) + scaling.mlp_matrices(config.model)
  gathered = sum(size for name, size in moves if name == "all-gather")
  once = m.num_layers * sum(a * b for a, b in matrices) + 2 * m.vocab_size * m.d_model
  # Each matrix once, or once more in the backward pass.
  assert once <= gathered <= 2 * once
  activations = config.train.batch_size * config.task.sequence_length * m.d_model
  assert all(size < activations for name, size in moves if name == "all-gather")


def test_tensor_parallelism_never_gathers_a_matrix():
  config = configured({"kind": "mesh", "tensor": 4, "num_devices": 4})
  smallest = min(a * b for a, b in scaling.attention_matrices(config.model))
  assert all(size < smallest for name, size in collectives(config) if name == "all-gather")
  assert any(name == "all-reduce" for name, _ in collectives(config))


@pytest.mark.parametrize("layout", ["data", "fsdp"])
def test_every_device_draws_its_part_of_the_batch_only(layout):
  """No array of the program has the whole batch's tokens, on a mesh of 8."""
  config = configured(LAYOUTS[layout], task={"name": "python_stdlib", "context_length": 40})
  text = program(config)
  part, window = config.train.batch_size // 8, config.task.context_length + 1
  assert f"[{part},{window}]" in text
  assert f"[{config.train.batch_size},{window}]" not in text


# --- a run moves between layouts ------------------------------------------------------------------


def test_a_run_saved_on_8_devices_goes_on_on_1_and_4_and_back(tmp_path):
  changes = {"runtime": {"steps_per_dispatch": 5, "log_every": 5}}
  whole = configured(SINGLE, changes)
  loop.train(whole, tmp_path / "alone")
  order = [LAYOUTS["fsdp"], SINGLE, LAYOUTS["four devices"], LAYOUTS["pmap"]]
  for fields in order[:-1]:
    with pytest.raises(loop.Stopped):
      loop.train(configured(fields, changes), tmp_path / "moved", stop=StopAfter(1))
  loop.train(configured(order[-1], changes), tmp_path / "moved")
  last = []
  for name in ("alone", "moved"):
    checkpoints = Checkpoints(rundir.RunDir(tmp_path / name).checkpoints, keep=9)
    like = engine(whole).start([whole])
    last.append(jax.device_get(checkpoints.restore(NUM_STEPS, like)[0].params))
    checkpoints.close()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), *last)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("fields", "groups", "message"),
  [
    ({"kind": "mesh", "data": 3}, {}, "data 3 x fsdp 1 x tensor 1 = 3 must be the number of devices, 8"),
    ({"kind": "mesh", "fsdp": 16}, {}, "fsdp 16 x tensor 1 must divide the 8 devices"),
    ({"num_devices": 9}, {}, "config.parallel.num_devices=9: must be at most 8"),
    ({"kind": "pmap", "tensor": 2}, {}, "config.parallel.tensor=2: must be 1 for kind=pmap"),
    ({"kind": "single", "num_devices": 2}, {}, "config.parallel.num_devices=2: must be 1"),
    ({"kind": "pmap"}, {"train": {"batch_size": 12}}, "batch_size=12: must be a multiple of the 8 devices"),
    ({"kind": "mesh"}, {"train": {"batch_size": 12}}, "batch_size=12: must be a multiple of the 8 devices"),
    (
      {"kind": "mesh"}, {"train": {"batch_size": 8, "grad_accum_steps": 2}},
      "config.train.grad_accum_steps=2: must divide the 1 sequences a device",
    ),
    ({"kind": "mesh", "tensor": 8}, {}, "config.parallel.tensor=8: must be a divisor of model.num_heads=4"),
    (
      {"kind": "mesh", "tensor": 2}, {"model": {"num_kv_heads": 1}},
      "config.parallel.tensor=2: must be a divisor of model.num_kv_heads=1",
    ),
    (
      {"kind": "mesh", "fsdp": 3}, {}, "config.parallel.fsdp=3: must be a divisor of model.d_model=32",
    ),
    ({"kind": "shmap"}, {}, "config.parallel.kind='shmap': must be one of auto, single, pmap, mesh"),
  ],
)  # fmt: skip
def test_what_cannot_be_laid_out_is_one_line(fields, groups, message):
  with pytest.raises(ConfigError, match=re.escape(message)) as error:
    parallel.make_layout(configured(fields, groups))
  assert "\n" not in str(error.value)


def test_auto_takes_one_cpu_device_unless_more_are_asked_for():
  assert parallel.make_layout(configured({})).num_devices == 1
  assert parallel.make_layout(configured({"num_devices": 2})).num_devices == 2
  assert parallel.make_layout(configured({"fsdp": 2})).num_devices == 8
