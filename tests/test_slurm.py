"""Sweeps on a real Slurm of two nodes, whose jobs are killed, queued again, warned and cancelled."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from engine_sweeps import TREE, assert_as_undisturbed, cells, running
from engine_sweeps import undisturbed as undisturbed
from processes import (
  finish,
  lasting_rows,
  lm_jax,
  start,
  status,
  sweep_tree,
  wait_until,
  write_config,
)
from slurm_cluster import slurm as slurm

from lm_jax import rundir
from lm_jax.launch import slurm as launcher
from lm_jax.launch.engine import Request
from lm_jax.strict import ConfigError


def start_sweep(folder: Path, *words: str, tree=TREE) -> subprocess.Popen:
  file = write_config(folder / "sweep.py", tree)
  return start("sweep", f"--config={file}", f"--workdir={folder / 'w'}", "--launcher=slurm", *words,
               start_new_session=True)  # fmt: skip


def finish_hurrying(process: subprocess.Popen, cluster) -> subprocess.CompletedProcess:
  """Waits for a sweep some of whose jobs were queued again."""

  def ended() -> bool:
    cluster.hurry()
    return process.poll() is not None

  wait_until(ended)
  return finish(process)


def test_jobs_are_killed_queued_again_and_warned_and_nothing_is_lost(slurm, tmp_path, undisturbed):
  workdir = tmp_path / "w"
  process = start_sweep(tmp_path, "--workers=2")
  wait_until(lambda: len(running(workdir)) == 2, process)
  os.kill(status(running(workdir)[0])["pid"], signal.SIGKILL)
  wait_until(lambda: slurm.jobs("FAILED"), process)
  wait_until(lambda: running(workdir), process)
  slurm.requeue(slurm.jobs()[0])
  wait_until(lambda: running(workdir), process)
  # As Slurm does before a job's time is over.
  slurm.ask("scancel", "--signal=USR2", slurm.jobs()[0])
  done = finish_hurrying(process, slurm)
  assert done.returncode == 0, done.stderr
  assert "its process was killed by SIGKILL); from the last checkpoint: " in done.stderr
  assert "Traceback" not in done.stderr
  assert_as_undisturbed(workdir, undisturbed)


def test_stopped_it_saves_and_goes_on_elsewhere(slurm, tmp_path, undisturbed):
  workdir = tmp_path / "w"
  process = start_sweep(tmp_path, "--workers=2")
  wait_until(lambda: len(running(workdir)) == 2, process)
  process.send_signal(signal.SIGINT)
  done = finish(process)
  assert done.returncode == 128 + signal.SIGINT, done.stderr
  assert [cell for cell in cells(workdir) if status(cell).get("state") == rundir.STOPPED]
  assert not (workdir / "launches").exists()
  assert not slurm.jobs("PENDING,RUNNING")
  done = lm_jax("sweep", f"--config={tmp_path / 'sweep.py'}", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert_as_undisturbed(workdir, undisturbed)


def test_jobs_outlive_their_launcher(slurm, tmp_path, undisturbed):
  """SIGKILL, after which a second launcher waits for what the jobs of the first one train."""
  workdir = tmp_path / "w"
  process = start_sweep(tmp_path, "--workers=2")
  wait_until(lambda: len(running(workdir)) == 2, process)
  process.kill()
  finish(process)
  assert len(running(workdir)) == 2
  again = finish(start_sweep(tmp_path, "--workers=2"))
  assert again.returncode == 0, again.stderr
  wait_until(lambda: not slurm.jobs("PENDING,RUNNING,COMPLETING"))
  # Whoever looks next clears away what the killed one left.
  assert lm_jax("sweep", f"--config={tmp_path / 'sweep.py'}", f"--workdir={workdir}").returncode == 0
  assert {cell.name: lasting_rows(cell) for cell in cells(workdir)} == undisturbed


def test_detached_jobs_train_with_nobody_waiting(slurm, tmp_path, undisturbed):
  sent = finish(start_sweep(tmp_path, "--detach", "--workers=2"))
  assert sent.returncode == 0, sent.stderr
  assert "sent 4 cells; lm-jax status --workdir=" in sent.stderr
  wait_until(lambda: not slurm.jobs("PENDING,RUNNING,COMPLETING"))
  assert {cell.name: lasting_rows(cell) for cell in cells(tmp_path / "w")} == undisturbed
  done = finish(start_sweep(tmp_path))
  assert (done.returncode, "nothing to train" in done.stderr) == (0, True), done.stderr


def test_a_job_that_somebody_cancels_is_stopped_and_not_sent_again(slurm, tmp_path):
  workdir = tmp_path / "w"
  process = start_sweep(tmp_path, "--workers=1")
  wait_until(lambda: len(running(workdir)) >= 1, process)
  slurm.ask("scancel", slurm.jobs()[0].split("_")[0])
  done = finish(process)
  assert done.returncode == 1, done.stderr
  assert "stopped: " in done.stderr
  assert "ended as CANCELLED" in done.stderr


def test_one_cell_over_two_hosts(slurm, tmp_path):
  tree = sweep_tree(widths=(8,), train={"num_steps": 200})
  alone, together = tmp_path / "alone", tmp_path / "together"
  for folder in (alone, together):
    folder.mkdir()
  file = write_config(alone / "sweep.py", tree)
  assert lm_jax("sweep", f"--config={file}", f"--workdir={alone / 'w'}").returncode == 0
  done = finish(start_sweep(together, "--hosts=2", tree=tree))
  assert done.returncode == 0, done.stderr
  (one,), (other,) = cells(alone / "w"), cells(together / "w")
  rows = lasting_rows(one)
  assert len(rows) > 10
  for row, twin in zip(rows, lasting_rows(other), strict=True):
    assert row | {"value": 0, "stderr": 0} == twin | {"value": 0, "stderr": 0}
    assert row["value"] == pytest.approx(twin["value"], rel=1e-2), row
  assert not (together / "w" / "launches").exists()


def test_what_sbatch_refuses_is_said_in_its_words(slurm, tmp_path):
  done = finish(start_sweep(tmp_path, "--slurm=partition=nope"))
  assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
  assert "sbatch refused" in done.stderr
  assert "invalid partition specified: nope" in done.stderr
  assert not (tmp_path / "w" / "launches").exists()


# --- without a Slurm --------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("text", "minutes"),
  [("90", 90), ("90:00", 90), ("12:00:00", 720), ("1-0", 1440), ("2-3:30", 3090), ("0:30", 1),
   ("1:30:30", 91)],
)  # fmt: skip
def test_time_limits_as_sbatch_takes_them(text, minutes):
  assert launcher._minutes(text) == minutes


@pytest.mark.parametrize(
  ("option", "told"),
  [
    ("partition", "must be NAME=VALUE"), ("=x", "must be NAME=VALUE"), ("nodes=3", "use --hosts"),
    ("--cpus-per-task=3", "use --cpus"), ("array=0-3", "set by the launcher"),
    ("time=soon", "must be a time limit"),
  ],
)  # fmt: skip
def test_options_that_cannot_be(option, told):
  with pytest.raises(ConfigError, match=told):
    launcher.launcher([option], Request())


def test_where_there_is_no_slurm_it_says_so(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", "/nowhere")
  with pytest.raises(ConfigError, match="there is no sbatch on this machine"):
    launcher._import()


@pytest.mark.parametrize(
  ("listed", "is_used"),
  [("7_0 RUNNING", True), ("7_0 RESV_DEL_HOLD", True), ("7_0 SOME_NEW_STATE", True), ("7_1 RUNNING", False),
   ("7_0 PREEMPTED", False), ("7_0 NODE_FAIL", False), ("", False)],
)  # fmt: skip
def test_a_job_is_alive_until_its_state_says_that_it_is_over(listed, is_used, tmp_path, monkeypatch):
  """States that a Slurm on one machine does not get into, so that a script says them."""
  squeue = tmp_path / "squeue"
  squeue.write_text(f"#!/bin/sh\necho '{listed}'\n")
  squeue.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
  (tmp_path / launcher._JOBS).write_text("7_0\n")
  assert launcher._is_used(tmp_path) == is_used
