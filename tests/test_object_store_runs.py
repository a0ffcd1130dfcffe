"""Sweeps and runs in an object store: whoever trains them, and whatever dies, they end as in a folder."""

import json
import os
import signal
import time

import pytest
from object_store import BUCKET, SECRET, download, files
from object_store import s3 as s3
from processes import finish, lasting_rows, wait_until, write_config
from store_hosts import CELLS, NUM_STEPS, TREE, Host, rows
from store_hosts import config as config
from store_hosts import paced as paced
from store_hosts import undisturbed as undisturbed

from lm_jax import rundir

URL = f"s3://{BUCKET}/studies/tiny"


@pytest.fixture
def host(monkeypatch, tmp_path, s3, paced):
  return lambda name: Host(URL, tmp_path, name, monkeypatch)


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
  # Whoever came first found nothing.
  assert any(
    f"{URL}: mirrored in {host(name).folder}, 0 files fetched" in one.stderr
    for name, one in zip(("a", "b"), done, strict=True)
  )
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
