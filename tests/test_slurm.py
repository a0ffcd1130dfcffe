"""Sweeps on a real Slurm of two nodes, whose jobs are killed, queued again, warned and cancelled."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_sweeps import TREE, assert_as_undisturbed, cells, running
from engine_sweeps import undisturbed as undisturbed
from processes import (
  ROOT,
  RUN,
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

from lm_jax import rundir, sweep
from lm_jax.config import from_mapping
from lm_jax.launch import slurm as launcher
from lm_jax.launch import study
from lm_jax.launch.base import described
from lm_jax.launch.engine import Request
from lm_jax.rundir import BUSY, DONE, STOPPED, RunDir
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell


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


def test_a_cell_that_fails_on_one_of_two_hosts_leaves_the_next_alone(slurm, tmp_path):
  tree = sweep_tree(train={"num_steps": 200})
  failing, fine = (study.cell_dir(tmp_path / "w", cell) for cell in sweep.from_tree(tree).cells)
  # The first host fails, which alone writes; the other one is in a collective.
  (failing / "records.jsonl").mkdir(parents=True)
  done = finish(start_sweep(tmp_path, "--hosts=2", tree=tree))
  assert done.returncode == 1, done.stderr
  assert (status(failing)["state"], status(fine)["state"]) == (rundir.FAILED, DONE)
  assert "IsADirectoryError" in status(failing)["error"]
  assert "from the last checkpoint" not in done.stderr
  assert not (tmp_path / "w" / "launches").exists()


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


# --- what a job does, also without a Slurm -----------------------------------------------------------


def described_run(path: Path) -> dict:
  path.mkdir(exist_ok=True)
  return described(Cell("", from_mapping(RUN), {}), lambda _: path)


def start_job(folder: Path, packs: dict[str, list], hosts: int = 1, setting: str = "") -> subprocess.Popen:
  """Starts what a job of these packs runs."""
  pytest.importorskip("submitit", reason="submitit is not installed: pip install 'lm_jax[slurm]'")
  (folder / "answers").mkdir(exist_ok=True)
  (folder / "packs.json").write_text(json.dumps(packs))
  program = (
    "import json, sys; from lm_jax.launch import slurm_job\n"
    f"{setting}\n"
    f"packs = json.load(open({str(folder / 'packs.json')!r}))\n"
    f"slurm_job.Job({str(folder)!r}, packs, 1, {hosts})()"
  )
  environ = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen([sys.executable, "-c", program], env=environ, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def answered(folder: Path, name: str) -> list[str] | None:
  path = folder / "answers" / f"{name}.json"
  return [state for state, *_ in json.loads(path.read_text())] if path.exists() else None


def test_what_another_holds_is_trained_after_the_others_once_it_is_free(tmp_path):
  held, also, free = (RunDir(tmp_path / name) for name in ("held", "also", "free"))
  packs = {"0": [described_run(held.path), described_run(also.path)], "1": [described_run(free.path)]}
  with held.claim():
    process = start_job(tmp_path, packs)
    wait_until(lambda: answered(tmp_path, "1"), process)
    assert answered(tmp_path, "0") is None
  done = finish(process)
  assert done.returncode == 0, done.stderr
  assert (answered(tmp_path, "0"), answered(tmp_path, "1")) == ([DONE, DONE], [DONE])
  assert held.is_done() and also.is_done()


def test_what_another_holds_for_long_is_busy_and_not_final(tmp_path):
  run = RunDir(tmp_path / "run")
  packs = {"0": [described_run(run.path)]}
  with run.claim():
    done = finish(start_job(tmp_path, packs, setting="slurm_job._ROUNDS, slurm_job._BUSY_EVERY_S = 2, 0.5"))
    assert (done.returncode, answered(tmp_path, "0")) == (0, [BUSY]), done.stderr
  # The job, queued again.
  done = finish(start_job(tmp_path, packs))
  assert (done.returncode, answered(tmp_path, "0")) == (0, [DONE]), done.stderr


def test_a_job_that_waits_for_another_ends_when_it_is_asked_to(tmp_path):
  held, free = RunDir(tmp_path / "held"), RunDir(tmp_path / "free")
  with held.claim():
    process = start_job(tmp_path, {"0": [described_run(held.path)], "1": [described_run(free.path)]})
    wait_until(lambda: answered(tmp_path, "1"), process)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
  assert done.returncode == 0, done.stderr
  assert answered(tmp_path, "0") in (None, [STOPPED])


def test_what_a_lost_node_held_is_taken_over_by_the_job_itself(tmp_path):
  """With nobody waiting for it; the silence of a minute is heard to its end."""
  run = RunDir(tmp_path / "run")
  packs = {"0": [described_run(run.path)]}
  own = {"token": "t", "host": "lost", "pid": 7, "machine": "another", "beat": 7, "released": False}
  (run.path / "lease.1").write_text(json.dumps(own | {"time": 0.0}))
  # What it answered there is not final.
  (tmp_path / "answers").mkdir()
  rundir.write_json(tmp_path / "answers" / "0.json", [(BUSY, "another process is at work on it", None)])
  done = finish(start_job(tmp_path, packs))
  assert (done.returncode, answered(tmp_path, "0")) == (0, [DONE]), done.stderr
