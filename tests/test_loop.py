"""One run: what it records, what it refuses to go on with, and what does not change a bit of it."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import RUN, lasting_rows, lm_jax, merged, status, write_config

from lm_jax import config as configs
from lm_jax import lease, loop, records, rundir, scaling, schedule, state, step, tasks
from lm_jax.checkpoint import Checkpoints


def restored(config, directory, at=None):
  """Returns the state that a run has saved (the last one)."""
  like = jax.jit(lambda: state.init_state(config))()
  checkpoints = Checkpoints(rundir.RunDir(directory).checkpoints, keep=100)
  try:
    return checkpoints.restore(checkpoints.latest_step() if at is None else at, like)[0]
  finally:
    checkpoints.close()


def assert_equal_bits(a, b):
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def step_by_step(config):
  """Trains without a loop, a dispatch or an optimization of either; returns the states and losses."""
  task = tasks.make_task(config.task)

  @jax.jit
  def one(s):
    key = state.stream(s.data_key, state.DATA, s.step)
    return step.make_train_step(config)(s, task.sample(key, config.train.batch_size, task.arrays))

  states, losses = [state.init_state(config)], []
  for _ in range(config.train.num_steps):
    s, metrics = one(states[-1])
    states.append(s)
    losses.append(float(metrics["loss"]))
  return states, losses


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """Returns the config and directory of a finished run."""
  config = configs.from_mapping(merged(RUN, model={"dropout": 0.1}, train={"grad_accum_steps": 2}))
  directory = tmp_path_factory.mktemp("plain")
  loop.train(config, directory)
  return config, directory


@pytest.fixture(scope="module")
def alone(plain):
  """Returns the states and losses of the same run taken step by step."""
  return step_by_step(plain[0])


# --- records --------------------------------------------------------------------------------------


def test_recorded_losses_are_the_means_of_each_step_taken_alone(plain, alone):
  _, directory = plain
  _, losses = alone
  rows = [r for r in records.read(directory / "records.jsonl") if r["metric"] == "loss"]
  assert [r["step"] for r in rows] == [20, 40, 60]
  expected = [np.mean(losses[at - 20 : at]) for at in (20, 40, 60)]
  np.testing.assert_allclose([r["value"] for r in rows], expected, rtol=1e-5)


def test_the_run_ends_where_its_steps_taken_alone_end(plain, alone):
  config, directory = plain
  states, _ = alone
  final = restored(config, directory)
  assert int(final.step) == 60
  for x, y in zip(jax.tree.leaves(final.params), jax.tree.leaves(states[-1].params), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4)


def test_rows_say_what_was_measured_when_and_by_what(plain):
  config, directory = plain
  rows = records.read(directory / "records.jsonl")
  assert all(set(row) == set(records.FIELDS) for row in rows)
  tests = [row for row in rows if row["split"] == "test"]
  assert sorted({row["step"] for row in tests}) == [0, 16, 32, 60]
  assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
  count = scaling.count_params(config.model)
  for row in rows:
    assert (row["cell_id"], row["seed"], row["study"]) == (configs.cell_id(config), 0, "tiny")
    assert (row["params_total"], row["params_nonembedding"]) == (count.total, count.nonembedding)
    assert row["tokens"] == row["step"] * 8 * config.task.sequence_length
    assert row["flops_6nd"] == pytest.approx(6 * count.total * row["tokens"])
    assert row["flops_6nd_nonembedding"] == pytest.approx(6 * count.nonembedding * row["tokens"])
    assert row["flops_exact"] == pytest.approx(scaling.train_flops(config, row["step"]))
  walls = [row["wall_s"] for row in rows]
  assert walls == sorted(walls)
  # No row is written twice.
  keys = [tuple(row[k] for k in ("step", "split", "metric", "n_shots", "prompt_id")) for row in rows]
  assert len(set(keys)) == len(keys)


def test_a_run_that_is_done_is_left_alone(plain):
  config, directory = plain
  before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.name != "lock"}
  loop.train(config, directory)
  after = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.name != "lock"}
  changed = {path for path in before if before[path] != after.get(path)}
  assert changed <= {directory, directory / "config.json"}


def test_one_process_at_a_time(plain, tmp_path):
  config, directory = plain[0], tmp_path
  run = rundir.RunDir(directory)
  assert not lease.is_held(run.path)
  with run.claim():
    assert lease.is_held(run.path)
    with pytest.raises(rundir.Busy, match="another process is at work on it"):
      loop.train(config, directory)
  assert not lease.is_held(run.path)


# --- what must not change a bit -------------------------------------------------------------------


def with_runtime(config, **fields):
  other = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, **fields))
  assert configs.cell_id(other) == configs.cell_id(config)
  return other


@pytest.mark.parametrize("size", [1, 7, 50])
def test_where_dispatches_end_does_not_change_a_bit(plain, size):
  config, directory = plain
  run_steps = jax.jit(
    step.make_run_steps(with_runtime(config, steps_per_dispatch=size), tasks.make_task(config.task))
  )
  s = jax.jit(lambda: state.init_state(config))()
  for start in range(0, 60, size):
    s, _ = run_steps(s, (), (), jnp.int32(min(size, 60 - start)))
  assert_equal_bits(s, restored(config, directory))


def test_how_a_run_proceeds_does_not_change_a_bit(plain, tmp_path):
  config, directory = plain
  other = with_runtime(config, steps_per_dispatch=7, log_every=13, checkpoint_every=1000)
  loop.train(other, tmp_path)
  assert_equal_bits(restored(other, tmp_path), restored(config, directory))
  scores = [[r for r in lasting_rows(d) if r["split"] == "test"] for d in (directory, tmp_path)]
  assert scores[0] == scores[1]


def test_a_saved_state_is_not_overwritten_by_the_steps_after_it(plain, tmp_path):
  """Saving goes on in the background while the buffers are donated to the next step."""
  config = with_runtime(plain[0], checkpoint_every=2, keep_checkpoints=50)
  loop.train(config, tmp_path)
  run_steps = jax.jit(step.make_run_steps(config, tasks.make_task(config.task)))
  s = jax.jit(lambda: state.init_state(config))()
  for at in range(2, 61, 2):
    s, _ = run_steps(s, (), (), jnp.int32(2))
    if at % 20 == 2:
      assert_equal_bits(restored(config, tmp_path, at), s)


def test_hyperparameters_that_vary_within_a_sweep_are_data_to_one_program():
  """Cells that differ in these only must share one compiled program."""

  def program(**groups):
    config = configs.from_mapping(merged(RUN, **groups))
    s = jax.eval_shape(lambda: state.init_state(config))
    run = step.make_run_steps(config, tasks.make_task(config.task))
    return jax.jit(run).lower(s, (), (), jnp.int32(1)).as_text()

  base = program()
  assert program(optimizer={"learning_rate": 1e-4, "weight_decay": 0.5, "warmup_steps": 3}) == base
  assert program(seed=5) == base
  assert program(train={"num_steps": 77}) == base
  assert program(train={"batch_size": 16}) != base


def test_accumulated_gradients_equal_those_of_the_whole_batch():
  def trained(splits):
    config = configs.from_mapping(merged(RUN, train={"grad_accum_steps": splits, "num_steps": 10}))
    return step_by_step(config)

  (whole, losses), (parts, losses_of_parts) = trained(1), trained(4)
  np.testing.assert_allclose(losses_of_parts, losses, rtol=1e-5)
  for x, y in zip(jax.tree.leaves(whole[-1].params), jax.tree.leaves(parts[-1].params), strict=True):
    np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-5)


# --- divergence -----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_each_time(tmp_path):
  tree = merged(
    RUN,
    optimizer={"learning_rate": 1e30, "clip_norm": None, "warmup_steps": 0},
    runtime={"checkpoint_every": 1, "keep_checkpoints": 100},
  )
  workdir = tmp_path / "w"
  done = lm_jax("train", f"--config={write_config(tmp_path / 'run.py', tree)}", f"--workdir={workdir}")
  assert (done.returncode, done.stdout) == (1, "")
  message = done.stderr.splitlines()[-1].removeprefix("lm-jax: ")
  assert re.match(r"(loss|gradient norm) is (nan|inf) at step \d+; ", message)
  left = status(workdir)
  assert (left["state"], left["error"]) == (rundir.FAILED, message)
  assert f" at step {left['step']}; last good checkpoint: " in message
  losses = [r["value"] for r in records.read(workdir / "records.jsonl") if r["metric"] == "loss"]
  assert all(math.isfinite(loss) for loss in losses)
  with pytest.raises(loop.Diverged) as again:
    loop.train(configs.from_mapping(tree), workdir)
  assert str(again.value) == message
  assert status(workdir)["state"] == rundir.FAILED


def test_the_last_good_checkpoint_gives_a_finite_loss(tmp_path, monkeypatch):
  """The parameters saved just before the bad step are what made it bad."""
  config = configs.from_mapping(merged(RUN, runtime={"checkpoint_every": 5, "keep_checkpoints": 100}))
  make = step.make_run_steps

  def poisoned(*args):
    run = make(*args)

    def run_and_spoil(s, fed, arrays, n):
      s, metrics = run(s, fed, arrays, n)
      # Update 15 goes wrong: its own loss is still fine, and that of step 16 is not.
      spoil = jnp.where(s.step >= 15, jnp.nan, 0)
      return s.replace(params=jax.tree.map(lambda p: p + spoil, s.params)), metrics

    return run_and_spoil

  monkeypatch.setattr(step, "make_run_steps", poisoned)
  with pytest.raises(loop.Diverged, match="loss is nan at step 16; last good checkpoint: step 10 in "):
    loop.train(config, tmp_path)


# --- cadences and files ---------------------------------------------------------------------------


def test_cadences():
  assert schedule.due_steps(schedule.EveryN(4), 12) == [4, 8, 12]
  assert schedule.due_steps(schedule.AtSteps((0, 7)), 12) == [0, 7]
  assert schedule.due_steps(schedule.LogSpaced(4), 70) == [4, 8, 16, 32, 64]
  both = schedule.AnyOf((schedule.EveryN(5), schedule.AtSteps((0,))))
  assert schedule.due_steps(both, 12) == [0, 5, 10]


@pytest.mark.parametrize("first", [1, 3, 16])
@pytest.mark.parametrize("per_doubling", [1, 2, 3, 5])
def test_log_spaced_steps_are_the_rounded_powers(first, per_doubling):
  powers = {round(first * 2 ** (e / per_doubling)) for e in range(200)}
  due = schedule.due_steps(schedule.LogSpaced(first, per_doubling), 5000)
  assert due == sorted(p for p in powers if p <= 5000)


def test_records_round_trip_and_a_line_half_written_does_not_count(tmp_path):
  path = tmp_path / "records.jsonl"
  fields = dict.fromkeys(records.FIELDS) | {"metric": "loss", "value": 1.5, "step": 3}
  row = records.Record(**fields)
  records.append(path, [row, row])
  assert records.read(path) == [fields, fields]
  size = path.stat().st_size
  with path.open("a") as f:
    f.write(json.dumps(fields))
  assert len(records.read(path)) == 2
  records.truncate(path, size // 2)
  assert len(records.read(path)) == 1
  records.truncate(tmp_path / "none.jsonl", 0)


def test_a_value_that_is_no_number_is_never_written(tmp_path):
  row = records.Record(**dict.fromkeys(records.FIELDS) | {"value": math.nan})
  with pytest.raises(ValueError, match="not JSON compliant"):
    records.append(tmp_path / "records.jsonl", [row])


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_the_key_of_a_seed_is_that_of_jax(seed):
  np.testing.assert_array_equal(state.seed_key(seed), jax.random.key_data(jax.random.key(seed)))
