"""A population: replica r equals its solo run, on one device or several, side by side or one by one."""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import ROOT, RUN, StopAfter, lasting_rows, lm_jax, merged, status, write_config

from lm_jax import config as configs
from lm_jax import loop, population, programs, records, rundir, strict, sweep, tasks
from lm_jax.checkpoint import Checkpoints
from lm_jax.launch import packing
from lm_jax.strict import ConfigError

NUM_STEPS = 20
CADENCES = {"steps_per_dispatch": 5, "log_every": 5, "checkpoint_every": 10}
BASE = merged(RUN, train={"num_steps": NUM_STEPS}, runtime=CADENCES)
# All that members may differ in.
MEMBERS = (
  {},
  {"seed": 1, "optimizer": {"learning_rate": 1e-2}},
  {"data_seed": 5, "optimizer": {"weight_decay": 0.3, "warmup_steps": 3}},
)


def member(*changes):
  return configs.from_mapping(functools.reduce(lambda tree, change: merged(tree, **change), changes, BASE))


CONFIGS = [member(change) for change in MEMBERS]


@pytest.fixture(scope="module")
def solo(tmp_path_factory):
  """Returns the folders of the members' solo runs."""
  folders = [tmp_path_factory.mktemp("solo") for _ in CONFIGS]
  for config, folder in zip(CONFIGS, folders, strict=True):
    loop.train(config, folder)
  return folders


def final_state(config, directory):
  checkpoints = Checkpoints(rundir.RunDir(directory).checkpoints, keep=9)
  try:
    like = jax.eval_shape(lambda: programs.make([config])[1].start([config]))
    return jax.device_get(checkpoints.restore(checkpoints.latest_step(), like)[0])
  finally:
    checkpoints.close()


def assert_equal_runs(config, one, other):
  assert status(one)["state"] == status(other)["state"] == rundir.DONE
  rows, others = lasting_rows(one), lasting_rows(other)
  assert len(rows) == len(others) > 10
  for row, twin in zip(rows, others, strict=True):
    assert row | {"value": 0, "stderr": 0} == twin | {"value": 0, "stderr": 0}
    assert row["value"] == pytest.approx(twin["value"], rel=1e-4, abs=1e-5), (row["metric"], row["step"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    final_state(config, one), final_state(config, other),
  )  # fmt: skip


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_a_replica_equals_its_solo_run(solo, tmp_path, num_devices):
  """Three replicas on one device, on two (one of which has a place to spare), and on one each."""
  fields = {"parallel": {"num_devices": num_devices}}
  spread = [member(change, fields) for change in MEMBERS]
  folders = [tmp_path / str(i) for i in range(3)]
  assert loop.train_population(spread, folders) == [None] * 3
  for config, one, other in zip(CONFIGS, folders, solo, strict=True):
    assert_equal_runs(config, one, other)
    if num_devices == 1:  # in turn, by the program of one: whoever trains together has no bit of influence
      assert lasting_rows(one) == lasting_rows(other)
  params = [final_state(CONFIGS[0], folder).params for folder in folders]
  # They are different runs: neither data nor seeds were shared by mistake.
  assert not np.allclose(params[0]["output"]["kernel"], params[1]["output"]["kernel"], atol=1e-3)
  assert not np.allclose(params[0]["output"]["kernel"], params[2]["output"]["kernel"], atol=1e-3)


def test_side_by_side_as_on_an_accelerator_is_the_same(solo):
  engine = population.Population(CONFIGS, tasks.make_task(CONFIGS[0].task), side_by_side=True)
  s = engine.start(CONFIGS)
  for i in range(NUM_STEPS // 5):
    s, _metrics = engine.run(s, 5 * i, 5)
  for config, folder, one in zip(CONFIGS, solo, engine.split(s), strict=True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), one, final_state(config, folder)
    )


def test_members_stopped_apart_go_on_and_end_the_same(solo, tmp_path):
  """Alone, together, two of three, from three different steps: whoever trains a run, it is the same run."""
  folders = [tmp_path / str(i) for i in range(3)]

  def go_on(which, looks):
    errors = loop.train_population(
      [CONFIGS[i] for i in which], [folders[i] for i in which], stop=StopAfter(looks)
    )
    assert all(isinstance(error, loop.Stopped) for error in errors)
    return [status(folder)["step"] if status(folder) else None for folder in folders]

  # The loop looks before every dispatch, and the first is of one step.
  assert go_on([0], 3) == [10, None, None]
  # The furthest go on first; then the stop finds the others where they are.
  assert go_on([0, 1, 2], 2) == [15, 0, 0]
  assert go_on([1, 2], 2) == [15, 5, 5]
  assert go_on([2], 2) == [15, 5, 10]
  assert loop.train_population(CONFIGS, folders) == [None] * 3
  for config, one, other in zip(CONFIGS, folders, solo, strict=True):
    assert_equal_runs(config, one, other)


def test_one_that_diverges_or_is_busy_leaves_the_others_alone(solo, tmp_path):
  bad = member({"optimizer": {"learning_rate": 1e30, "clip_norm": None, "warmup_steps": 0}})
  good = [member({"optimizer": {"clip_norm": None}}), member({"seed": 2, "optimizer": {"clip_norm": None}})]
  folders = [tmp_path / str(i) for i in range(3)]
  with rundir.RunDir(folders[2]).claim():
    errors = loop.train_population([good[0], bad, good[1]], folders)
  assert errors[0] is None
  assert isinstance(errors[1], loop.Diverged)
  assert isinstance(errors[2], rundir.Busy)
  assert status(folders[0])["state"] == rundir.DONE
  assert status(folders[1])["state"] == rundir.FAILED
  assert all(math.isfinite(r["value"]) for r in records.read(folders[0] / "records.jsonl"))


def test_members_of_other_shapes_are_one_line():
  wide = member({"model": {"d_model": 2 * CONFIGS[0].model.d_model}})
  with pytest.raises(ConfigError, match=r"config.model.d_model=\d+: member 1 of a population must have \d+"):
    loop.train_population([CONFIGS[0], wide], ["a", "b"])
  longer = member({"train": {"num_steps": 21}})
  with pytest.raises(ConfigError, match=r"config\.train\.num_steps=21"):
    population.check_members([CONFIGS[0], longer])


def test_what_is_data_is_no_shape():
  assert len({configs.shape(config) for config in CONFIGS}) == 1
  assert configs.shape(member({"optimizer": {"beta1": 0.5}})) != configs.shape(CONFIGS[0])


# --- packing --------------------------------------------------------------------------------------


def cells(*axes, **base):
  return sweep.from_tree({"study": "s", "base": merged(BASE, **base), "cells": sweep.product(*axes)}).cells


def test_cells_of_a_shape_are_shared_out_in_their_order():
  made = cells(sweep.axis("model.d_model", [8, 16]), sweep.axis("seed", range(3)))
  packs = packing.pack(made, 2, accelerator=False)
  assert sorted(map(len, packs)) == [1, 1, 2, 2]
  assert sorted(c.cell_id for pack in packs for c in pack) == sorted(c.cell_id for c in made)
  assert all(len({configs.shape(c.config) for c in pack}) == 1 for pack in packs)
  firsts = [made.index(pack[0]) for pack in packs]
  assert firsts == sorted(firsts)
  backwards = packing.pack(made[::-1], 2, accelerator=False)
  assert [pack[0].config.model.d_model for pack in backwards] == [16, 16, 8, 8]
  assert [len(pack) for pack in packing.pack(made, 1, accelerator=True)] == [3, 3]


def test_packs_have_a_limit():
  made = cells(sweep.axis("seed", range(20)))
  assert [len(p) for p in packing.pack(made, 1, accelerator=False)] == [7, 7, 6]
  assert [len(p) for p in packing.pack(made, 1, accelerator=True)] == [20]
  alone = cells(sweep.axis("seed", range(3)), runtime={"population": 1})
  assert [len(p) for p in packing.pack(alone, 1, accelerator=True)] == [1, 1, 1]
  meshed = [dataclasses.replace(c, config=dataclasses.replace(
    c.config, parallel=configs.ParallelConfig(kind="mesh"))) for c in made]  # fmt: skip
  assert {len(p) for p in packing.pack(meshed, 1, accelerator=True)} == {1}


def test_a_sweep_packs_by_itself_and_gives_the_same_records(tmp_path):
  tree = {"study": "s", "base": BASE, "cells": sweep.axis("seed", range(3))}
  file = write_config(tmp_path / "sweep.py", tree)
  for name, more in (("packed", []), ("apart", ["--config.runtime.population=1"])):
    done = lm_jax("sweep", f"--config={file}", f"--workdir={tmp_path / name}", "--workers=1", *more)
    assert done.returncode == 0, done.stderr
  folders = sorted((tmp_path / "packed" / "cells").iterdir())
  assert len(folders) == 3
  pids = {status(folder)["pid"] for folder in folders}
  assert len(pids) == 1
  for folder in folders:
    config = rundir.from_json(folder / "config.json")
    assert_equal_runs(config, folder, tmp_path / "apart" / "cells" / folder.name)


def test_a_worker_compiles_the_next_pack_while_it_trains_one(tmp_path):
  """As the launcher asks of workers on GPUs; a pack that cannot be compiled is only mentioned."""
  packs = [[member({"seed": seed}) for seed in range(2)], [member({"model": {"d_ff": 40}})]]
  sent = [[{"config": strict.to_dict(config)} for config in pack] for pack in packs]
  bad = [{"config": strict.to_dict(CONFIGS[0]) | {"seed": -1}}]
  for i, cells_of_pack in enumerate(sent):
    for j, cell in enumerate(cells_of_pack):
      cell["directory"] = str(tmp_path / f"{i}{j}")
      (tmp_path / f"{i}{j}").mkdir()
  requests = [{"run": sent[0]}, {"prepare": sent[1]}, {"prepare": bad}, {"run": sent[1]}]
  worker = subprocess.Popen(
    [sys.executable, "-m", "lm_jax.launch.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  with worker:
    for request in requests:
      worker.stdin.write(json.dumps(request) + "\n")
      worker.stdin.flush()
    replies = [json.loads(worker.stdout.readline()) for _ in range(2)]
    worker.stdin.close()
    assert "not compiled ahead: ConfigError: config.seed=-1" in worker.stderr.read()
  assert replies == [[["done", None, None]] * 2, [["done", None, None]]]


# --- ahead of time, and too much ------------------------------------------------------------------


def test_what_was_prepared_is_not_compiled_again():
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
  )
  one_device = {"model": {"d_ff": 24}, "parallel": {"num_devices": 1}}
  prepared = [member(one_device, change) for change in MEMBERS]
  programs.prepare(prepared)
  assert compiled
  compiled.clear()
  _, engine = programs.make(prepared)
  _state, metrics = engine.run(engine.start(prepared), 0, 2)
  assert np.isfinite(engine.by_member(metrics)["loss"][:, :2]).all()
  assert not compiled


def test_out_of_memory_is_one_line_that_says_what_helps(tmp_path):
  config = member({"model": {"d_ff": 100_000}, "train": {"batch_size": 200_000}})
  with pytest.raises(loop.OutOfMemory) as error:
    loop.train(config, tmp_path)
  message = str(error.value)
  assert "\n" not in message
  for field in ("train.batch_size", "train.grad_accum_steps", "model.remat=block", "model.dtype=bfloat16"):
    assert f"config.{field}" in message
  assert status(tmp_path)["state"] == rundir.FAILED
  assert status(tmp_path)["error"] == message
