"""A run killed at any moment and started again ends with the bits and records of one never stopped."""

import random
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import RUN, finish, lasting_rows, lm_jax, merged, start, status, wait_until, write_config

from lm_jax import rundir

NUM_STEPS = 360
# Nothing divides anything: a save falls between two rows of losses, and a dispatch ends anywhere.
TREE = merged(
  RUN,
  model={"dropout": 0.1},
  train={"num_steps": NUM_STEPS, "grad_accum_steps": 2},
  runtime={"steps_per_dispatch": 7, "log_every": 30, "checkpoint_every": 25},
)


def train(folder, workdir):
  return "train", f"--config={write_config(folder / 'run.py', TREE)}", f"--workdir={workdir}", "--quiet"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  folder = tmp_path_factory.mktemp("uninterrupted")
  done = lm_jax(*train(folder, folder / "w"))
  assert done.returncode == 0, done.stderr
  return folder / "w"


def saved_arrays(workdir):
  """Returns the last checkpoint's step and arrays, read without the package."""
  with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as manager:
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    return manager.latest_step(), manager.restore(manager.latest_step(), args=args).state


def assert_same_run(workdir, uninterrupted):
  assert status(workdir)["state"] == rundir.DONE
  (at, saved), (at_end, expected) = saved_arrays(workdir), saved_arrays(uninterrupted)
  assert at == at_end == NUM_STEPS
  paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(expected), strict=True)
  assert len(leaves) > 20
  for path, a, b in zip(paths, jax.tree.leaves(saved), leaves, strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))
  assert lasting_rows(workdir) == lasting_rows(uninterrupted)


def saved_steps(workdir):
  """Returns the steps of finished checkpoints, and of those being written."""
  names = [p.name for p in (workdir / "checkpoints").iterdir()] if (workdir / "checkpoints").is_dir() else []
  return [int(n) for n in names if n.isdigit()], [n for n in names if not n.isdigit()]


def test_killed_five_times_and_started_again(uninterrupted, tmp_path):
  """By SIGKILL: three times at a random step, and twice while a checkpoint is being written."""
  rng = random.Random(0)
  words = train(tmp_path, tmp_path / "w")
  workdir = tmp_path / "w"
  reached = 0
  for moment in ("step", "saving", "step", "saving", "step"):
    process = start(*words)
    try:
      if moment == "step":
        # Some milliseconds, and so a random number of steps, after a checkpoint.
        wait_until(lambda: max(saved_steps(workdir)[0], default=0) > reached, process)  # noqa: B023
        time.sleep(rng.uniform(0, 0.03))
      else:
        wait_until(lambda: saved_steps(workdir)[1], process)
    finally:
      process.kill()
    assert finish(process).returncode == -signal.SIGKILL
    reached = max(saved_steps(workdir)[0], default=0)
    assert reached < NUM_STEPS, "killed too late to show anything"
  done = lm_jax(*words)
  assert done.returncode == 0, done.stderr
  assert_same_run(workdir, uninterrupted)


def test_sigterm_saves_and_exits(uninterrupted, tmp_path):
  words = train(tmp_path, tmp_path / "w")
  process = start(*words)
  wait_until(lambda: saved_steps(tmp_path / "w")[0], process)
  process.send_signal(signal.SIGTERM)
  done = finish(process)
  assert done.returncode == 128 + signal.SIGTERM
  left = status(tmp_path / "w")
  assert left["state"] == rundir.STOPPED
  assert left["step"] == max(saved_steps(tmp_path / "w")[0]) < NUM_STEPS
  assert f"stopped and saved at step {left['step']} of {NUM_STEPS}" in done.stderr
  assert "the same command goes on from there" in done.stderr
  assert lm_jax(*words).returncode == 0
  assert_same_run(tmp_path / "w", uninterrupted)


def test_ctrl_c_before_the_first_step_leaves_a_run_to_start(uninterrupted, tmp_path):
  words = train(tmp_path, tmp_path / "w")
  process = start(*words)
  wait_until(lambda: (tmp_path / "w" / "config.json").exists(), process)
  process.send_signal(signal.SIGINT)
  assert finish(process).returncode == 128 + signal.SIGINT
  assert status(tmp_path / "w")["state"] == rundir.STOPPED
  assert lm_jax(*words).returncode == 0
  assert_same_run(tmp_path / "w", uninterrupted)
