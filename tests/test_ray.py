"""Sweeps on a real Ray cluster of two nodes, of which workers, nodes and the head die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
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
from ray_cluster import ray_cluster as ray_cluster

from lm_jax import failures, rundir

pytest.importorskip("ray", reason="Ray is not installed: pip install 'lm_jax[ray]'")


def start_sweep(folder: Path, cluster, *words: str, tree=TREE) -> subprocess.Popen:
  file = write_config(folder / "sweep.py", tree)
  return start("sweep", f"--config={file}", f"--workdir={folder / 'w'}", "--launcher=ray",
               f"--ray_address={cluster.address}", *words, start_new_session=True)  # fmt: skip


def test_a_worker_and_a_node_die_and_nothing_is_lost(ray_cluster, tmp_path, undisturbed):
  process = start_sweep(tmp_path, ray_cluster)
  workdir = tmp_path / "w"
  # Two at once: that is one on each node, of one CPU. The worker of the node that stays dies, then the other
  # node with its worker; in one moment, for a cell lasts no longer than a new worker needs to start.
  wait_until(lambda: len(running(workdir)) == 2, process)
  workers = {status(cell)["pid"] for cell in running(workdir)}
  (worker,) = (process for process in ray_cluster.processes_of(0) if process.pid in workers)
  worker.kill()
  ray_cluster.kill(1)
  done = finish(process)
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("its Ray worker was lost") >= 2
  assert "Traceback" not in done.stderr
  assert_as_undisturbed(workdir, undisturbed)


def test_stopped_it_saves_and_goes_on_elsewhere(ray_cluster, tmp_path, undisturbed):
  process = start_sweep(tmp_path, ray_cluster)
  workdir = tmp_path / "w"
  wait_until(lambda: len(running(workdir)) == 2, process)
  process.send_signal(signal.SIGINT)
  done = finish(process)
  assert done.returncode == 128 + signal.SIGINT, done.stderr
  assert "the same command goes on from here" in done.stderr
  stopped = [cell for cell in cells(workdir) if status(cell).get("state") == rundir.STOPPED]
  assert stopped
  for cell in stopped:
    step = status(cell)["step"]
    assert (cell / "checkpoints" / str(step)).is_dir() or step == 0
  assert not (workdir / "launches").exists()
  # On this machine alone, with the launcher that needs no cluster.
  done = lm_jax("sweep", f"--config={tmp_path / 'sweep.py'}", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert_as_undisturbed(workdir, undisturbed)


def test_the_head_dies_and_the_same_command_goes_on(ray_cluster, tmp_path, undisturbed):
  process = start_sweep(tmp_path, ray_cluster)
  workdir = tmp_path / "w"
  wait_until(lambda: len(running(workdir)) == 2, process)
  ids = [status(cell)["pid"] for cell in running(workdir)]
  ray_cluster.kill(0)
  done = finish(process)
  assert done.returncode == 1, done.stderr
  assert "is gone" in done.stderr
  assert "the same command goes on" in done.stderr
  assert "Traceback" not in done.stderr
  # Workers of the node that lives do not train on without a head.
  wait_until(lambda: not any(map(processes.is_alive, ids)))
  done = lm_jax("sweep", f"--config={tmp_path / 'sweep.py'}", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert_as_undisturbed(workdir, undisturbed)


@pytest.mark.parametrize("words", [("--cpus=5",), ("--hosts=3",)])
def test_what_waits_for_room_that_never_comes_is_stopped(words, ray_cluster, tmp_path):
  file, told = write_config(tmp_path / "sweep.py", TREE), tmp_path / "told"
  with told.open("w") as stderr:
    process = start("sweep", f"--config={file}", f"--workdir={tmp_path / 'w'}", "--launcher=ray",
                    f"--ray_address={ray_cluster.address}", *words, stderr=stderr,
                    start_new_session=True)  # fmt: skip
  wait_until(lambda: "waiting for more" in told.read_text(), process)
  time.sleep(3)  # until it is sent, too
  process.send_signal(signal.SIGINT)
  assert finish(process).returncode == 128 + signal.SIGINT, told.read_text()
  assert "the same command goes on from here" in told.read_text()
  assert "Traceback" not in told.read_text()
  assert not (tmp_path / "w" / "launches").exists()


def test_what_fails_before_training_is_written_down(request, tmp_path, monkeypatch):
  """As where the folder of core locks is another's: a link to elsewhere."""
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  cluster = request.getfixturevalue("ray_cluster")
  (tmp_path / f"lm_jax-cores-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
  done = finish(start_sweep(tmp_path, cluster))
  assert done.returncode == 1, done.stderr
  found = [status(cell) for cell in cells(tmp_path / "w")]
  assert [(one["state"], one["kind"]) for one in found] == [(rundir.FAILED, failures.CONFIG)] * 4
  assert "must be a folder of user" in found[0]["error"]


def test_processes_that_do_not_meet_may_be_tried_again(tmp_path):
  program = (
    "from lm_jax.launch import meeting, ray\n"
    "meeting._WAIT_S = 0.1\n"
    f"group = meeting.Group({str(tmp_path / 'meeting')!r}, 1, 2)\n"
    f"try: ray.run([], {str(tmp_path / 'stop')!r}, {str(tmp_path / 'begun')!r}, 1, group)\n"
    "except ray.NotMet as error: print(error)"
  )
  environ = os.environ | {"PYTHONPATH": str(processes.ROOT)}
  done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True)
  assert "the first of 2 processes did not come" in done.stdout, done.stderr
  assert (tmp_path / "begun").exists()


def test_one_cell_over_two_hosts(ray_cluster, tmp_path):
  tree = sweep_tree(widths=(8,), train={"num_steps": 200})
  alone, together = tmp_path / "alone", tmp_path / "together"
  for folder in (alone, together):
    folder.mkdir()
  file = write_config(alone / "sweep.py", tree)
  assert lm_jax("sweep", f"--config={file}", f"--workdir={alone / 'w'}").returncode == 0
  done = finish(start_sweep(together, ray_cluster, "--hosts=2", tree=tree))
  assert done.returncode == 0, done.stderr
  (one,), (other,) = cells(alone / "w"), cells(together / "w")
  rows = lasting_rows(one)
  assert len(rows) > 10
  for row, twin in zip(rows, lasting_rows(other), strict=True):
    assert row | {"value": 0, "stderr": 0} == twin | {"value": 0, "stderr": 0}
    assert row["value"] == pytest.approx(twin["value"], rel=1e-2), row
  assert not (together / "w" / "launches").exists()


def test_what_cannot_be_had_is_said_at_once(tmp_path):
  file = write_config(tmp_path / "sweep.py", TREE)
  words = ("sweep", f"--config={file}", f"--workdir={tmp_path / 'w'}", "--launcher=ray")
  done = lm_jax(*words, "--ray_address=127.0.0.1:1")
  assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
  assert "--ray_address=127.0.0.1:1: nobody answers there" in done.stderr
  assert not cells(tmp_path / "w")


def test_without_ray_it_says_what_to_install(monkeypatch):
  from lm_jax.launch import ray as launcher
  from lm_jax.strict import ConfigError

  monkeypatch.setitem(sys.modules, "ray", None)
  with pytest.raises(ConfigError, match=r"pip install 'lm_jax\[ray\]'"):
    launcher._import()
