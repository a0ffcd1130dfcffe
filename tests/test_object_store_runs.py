"""Sweeps and runs in an object store: whoever trains them, and whatever dies, they end as in a folder."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from object_store import BUCKET, SECRET, download, files
from object_store import s3 as s3
from processes import finish, lasting_rows, lm_jax, start, sweep_tree, wait_until, write_config

from lm_jax import rundir, sweep

URL = f"s3://{BUCKET}/studies/tiny"
# Long enough to be killed in the middle.
NUM_STEPS = 400
TREE = sweep_tree(
  widths=(8,), seeds=(0, 1), train={"num_steps": NUM_STEPS},
  runtime={"checkpoint_every": 20, "log_every": 20, "steps_per_dispatch": 5, "population": 1},
)  # fmt: skip
CELLS = [cell.cell_id for cell in sweep.from_tree(TREE).cells]
# In every process that a test starts: what takes a minute between machines takes seconds, and a run of a
# second lasts long enough for its checkpoints to be sent.
PACE = """
import os
import time
from lm_jax import lease, mirror, mirrored_run
lease.BEAT_S, lease.SILENCE_S = float(os.environ.get("BEAT_S", "0.5")), 6.0
mirrored_run.SEND_EVERY_S = 0.2
mirror.LOOK_EVERY_S = 2.0
check = mirrored_run.Held.check
mirrored_run.Held.check = lambda held: (time.sleep(0.1), check(held))
"""


class Host:
  """A machine that sees the bucket and its own mirror."""

  def __init__(self, folder: Path, name: str, monkeypatch):
    self._mirrors, self._monkeypatch = folder / name, monkeypatch

  def start(self, *words: str, **options) -> subprocess.Popen:
    with self._monkeypatch.context() as patch:
      patch.setenv("LM_JAX_MIRROR", str(self._mirrors))
      patch.setenv("GLIBC_TUNABLES", "")  # else the command starts itself again
      return start(*words, f"--workdir={URL}", start_new_session=True, **options)

  def finish(self, *words: str) -> subprocess.CompletedProcess:
    return finish(self.start(*words), timeout=300)

  @property
  def folder(self) -> Path:
    (found,) = self._mirrors.iterdir()
    return found


@pytest.fixture
def host(monkeypatch, tmp_path, s3):
  (tmp_path / "pace").mkdir()
  (tmp_path / "pace" / "sitecustomize.py").write_text(PACE)
  monkeypatch.setenv(
    "PYTHONPATH", os.pathsep.join([str(tmp_path / "pace"), os.environ.get("PYTHONPATH", "")])
  )
  return lambda name: Host(tmp_path, name, monkeypatch)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
  return f"--config={write_config(tmp_path_factory.mktemp('config') / 'sweep.py', TREE)}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config) -> dict[str, list]:
  """Returns the records of each cell as a sweep in a folder leaves them."""
  workdir = tmp_path_factory.mktemp("undisturbed") / "w"
  done = lm_jax("sweep", config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return {cell: lasting_rows(workdir / "cells" / cell) for cell in CELLS}


def rows(workdir: Path) -> dict[str, list]:
  return {cell: lasting_rows(workdir / "cells" / cell) for cell in CELLS}


def saved(s3, cell: str = "") -> list[tuple[str, int]]:
  """Returns the cell and step of each checkpoint that was sent to its end, in order."""
  found = [path.split("/") for path in s3.sent(cell, "position/metadata")]
  return [(parts[parts.index("cells") + 1], int(parts[-3])) for parts in found]


def test_two_launches_from_two_hosts_share_a_sweep_that_others_can_read(
  host, s3, config, undisturbed, tmp_path
):
  launches = [host(name).start("sweep", config, "--workers=1") for name in ("a", "b")]
  done = [finish(launch, timeout=300) for launch in launches]
  assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
  assert f"{URL}: mirrored in {host('a').folder}, 0 files fetched" in done[0].stderr
  # No step was trained, and so saved, twice.
  assert len(set(saved(s3))) == len(saved(s3))
  assert {cell for cell, _ in saved(s3)} == set(CELLS)
  for one in done:
    assert "report: " in one.stdout

  # A copy of the bucket is a workdir, and so is the mirror of a host that only reads.
  copy = download("studies/tiny", tmp_path / "copy")
  reader = host("c")
  status = reader.finish("status", "--json")
  assert json.loads(status.stdout)["totals"]["counts"] == {rundir.DONE: 2}, status.stderr
  assert rows(copy) == rows(reader.folder) == undisturbed
  assert not list(reader.folder.rglob("checkpoints"))
  report = reader.finish("report")
  assert report.returncode == 0 and (reader.folder / "report/index.html").is_file(), report.stderr

  # What opens the store is written nowhere.
  told = "".join(one.stdout + one.stderr for one in (*done, status, report))
  assert SECRET not in told
  for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
    assert SECRET.encode() not in path.read_bytes(), path


def test_what_a_killed_host_trained_goes_on_elsewhere_from_the_checkpoint_it_sent(
  host, s3, config, undisturbed
):
  first, second = host("a"), host("b")
  s3.hangs_after = "/position/metadata"  # else the cell might end before it is killed
  launch = first.start("sweep", config, "--workers=1")
  wait_until(lambda: s3.is_hung, launch)
  ids = [json.loads(path.read_text())["pid"] for path in first.folder.glob("cells/*/lease.*")]
  launch.kill()
  for pid in ids:
    os.kill(pid, signal.SIGKILL)
  finish(launch)
  s3.go_on()
  before = saved(s3)
  done = second.finish("sweep", config, "--workers=2")
  assert done.returncode == 0, done.stderr
  killed, step = before[-1]
  after = [at for cell, at in saved(s3)[len(before) :] if cell == killed]
  assert min(after) > step and max(after) == NUM_STEPS  # not from the start
  assert rows(second.folder) == undisturbed
  # The first host's own copy of that cell is of before; the store's is what counts.
  assert first.finish("status").returncode == 0
  assert rows(first.folder) == undisturbed


def test_a_host_that_was_asleep_sends_nothing_more(host, s3, config, undisturbed, tmp_path, monkeypatch):
  tree = TREE["base"] | {"seed": 1, "study": "tiny"}
  one = f"--config={write_config(tmp_path / 'run.py', tree)}"
  with monkeypatch.context() as patch:
    patch.setenv("BEAT_S", "1000")  # so that the thread that sends is alone
    sleeper = host("a").start("train", one)
  wait_until(lambda: any("/checkpoints/" in path for path in s3.sent()), sleeper)
  # Not between a look at the claim and the change that it allows, which comes after the sleep then, nor in
  # the middle of a change.
  while True:
    os.kill(sleeper.pid, signal.SIGSTOP)
    time.sleep(0.2)
    if s3.is_idle and s3.has_changed_last:
      break
    os.kill(sleeper.pid, signal.SIGCONT)
    time.sleep(0.01)
  try:
    follower = host("b").finish("train", one)
    assert follower.returncode == 0, follower.stderr
    assert "waiting: " in follower.stderr
    left, changes = files().find(f"{BUCKET}/studies/tiny", detail=True), len(s3.changes)
  finally:
    os.kill(sleeper.pid, signal.SIGCONT)
  woken = finish(sleeper, timeout=300)
  assert woken.returncode == 1 and "took it over" in woken.stderr, woken.stderr
  assert "Traceback" not in woken.stderr
  assert s3.changes[changes:] == []
  assert files().find(f"{BUCKET}/studies/tiny", detail=True) == left
  assert lasting_rows(host("b").folder) == undisturbed[CELLS[1]]
