"""A folder has one holder at a time: whoever races, dies, sleeps, or has a wrong clock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_jax import lease
from lm_jax.lease import Busy, Lost

ROOT = Path(__file__).resolve().parents[1]
# As on a machine of its own: another kernel, whose locks are not seen here.
ELSEWHERE = "lease.machine = lambda: NAME; lease._try_lock = lambda *_: True\n"


@pytest.fixture
def process():
  """Starts Python with `folder` (the first word) and `words`; it may be of a machine of its own."""
  started = []

  def start(body: str, *words: object, elsewhere: str | None = None) -> subprocess.Popen:
    head = "import os, sys, time\nfrom pathlib import Path\nfrom lm_jax import lease\n"
    head += "lease.BEAT_S = 0.02\nfolder, words = Path(sys.argv[1]), sys.argv[2:]\n"
    if elsewhere:
      head += ELSEWHERE.replace("NAME", repr(elsewhere))
    started.append(subprocess.Popen(
      [sys.executable, "-c", head + body, *map(str, words)], text=True, stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ))  # fmt: skip
    return started[-1]

  yield start
  for one in started:
    with one:  # its pipes are closed
      one.kill()


HOLDER = """
held = lease.claim(folder)
print("held", flush=True)
sys.stdin.readline()
try:
  held.check()
  print("mine", flush=True)
except lease.Lost as error:
  print("lost:", error, flush=True)
held.release()
"""


def held(holder: subprocess.Popen) -> subprocess.Popen:
  assert holder.stdout.readline() == "held\n", holder.stderr.read()
  return holder


def claimed(folder: Path, seconds: float = 20, **options) -> lease.Lease:
  """Claims a folder, trying for a while."""
  until = time.monotonic() + seconds
  while True:
    try:
      return lease.claim(folder, **options)
    except Busy:
      if time.monotonic() > until:
        raise
      time.sleep(0.01)


def elsewhere(monkeypatch, name: str) -> None:
  """Makes this process one of another machine."""
  monkeypatch.setattr(lease, "machine", lambda: name)
  monkeypatch.setattr(lease, "_try_lock", lambda *_: True)


def leases(folder: Path) -> list[str]:
  return sorted(path.name for path in folder.iterdir() if "lease" in path.name)


def test_one_holds_and_the_next_follows(tmp_path):
  folder = tmp_path / "cells" / "a"
  with lease.claim(folder) as first:
    assert lease.is_held(folder) and lease.holder(folder).pid == os.getpid()
    with pytest.raises(Busy, match="another process is at work on it"):
      lease.claim(folder)
    first.check()
  assert not lease.is_held(folder) and lease.holder(folder).released
  with lease.claim(folder) as second:
    second.check()
    with pytest.raises(Lost, match=f"process {os.getpid()} on "):
      first.check()
  assert leases(folder) == ["lease.2"]


def test_nobody_holds_a_folder_that_is_not_there(tmp_path):
  assert lease.holder(tmp_path / "none") is None and not lease.is_held(tmp_path / "none")


RACER = """
inside = folder / "inside"
entered = 0
until = time.monotonic() + float(words[0])
while time.monotonic() < until:
  try:
    own = lease.claim(folder, silence_s=1000)
  except lease.Busy:
    continue
  os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another is inside
  own.check()
  entered += 1
  inside.unlink()
  own.release()
print(entered)
"""


@pytest.mark.parametrize("machines", [1, 6])
def test_of_many_that_race_one_is_inside(process, tmp_path, machines):
  names = [f"machine {i}" if machines > 1 else None for i in range(6)]
  racers = [process(RACER, tmp_path, 3, elsewhere=name) for name in names]
  results = [racer.communicate(timeout=120) for racer in racers]
  assert [racer.returncode for racer in racers] == [0] * 6, results
  assert sum(int(out) for out, _ in results) > 50
  assert len(leases(tmp_path)) == 1


# As file systems that lack them answer, some of those that buckets are mounted as.
BARE = """
import errno, fcntl
def refuse(*_):
  raise OSError(errno.EOPNOTSUPP, "Operation not supported")
os.link = fcntl.flock = refuse
"""


@pytest.mark.parametrize("machines", [1, 6])
def test_without_hard_links_and_locks_one_is_inside_too(process, tmp_path, machines):
  names = [f"machine {i}" if machines > 1 else None for i in range(6)]
  # Nobody dies here, and a claim that is seen half-written is not taken over.
  racers = [process(BARE + RACER, tmp_path, 3, elsewhere=name) for name in names]
  results = [racer.communicate(timeout=120) for racer in racers]
  assert [racer.returncode for racer in racers] == [0] * 6, results
  assert sum(int(out) for out, _ in results) > 50
  assert len(leases(tmp_path)) == 1


def test_without_locks_a_killed_holder_is_followed_after_its_silence(process, tmp_path, monkeypatch):
  holder = held(process(BARE + HOLDER, tmp_path))
  monkeypatch.setattr(lease, "_try_lock", lambda *_: None)
  with pytest.raises(Busy):
    lease.claim(tmp_path, silence_s=2)
  assert lease.is_held(tmp_path)
  time.sleep(2.2)
  with pytest.raises(Busy):  # it beats
    lease.claim(tmp_path, silence_s=2)
  holder.kill()
  holder.wait()
  claimed(tmp_path, silence_s=0.3).release()


def test_a_killed_holder_of_this_machine_is_followed_at_once(process, tmp_path):
  holder = held(process(HOLDER, tmp_path))
  with pytest.raises(Busy):
    lease.claim(tmp_path)
  holder.kill()
  holder.wait()
  assert not lease.is_held(tmp_path)
  started = time.monotonic()
  claimed(tmp_path).release()
  assert time.monotonic() - started < lease.SILENCE_S / 2


def test_a_holder_of_another_machine_is_believed_while_it_beats_and_followed_when_it_is_silent(
  process, tmp_path
):
  holder = held(process(HOLDER, tmp_path, elsewhere="far away"))
  assert lease.is_held(tmp_path)
  with pytest.raises(Busy, match="is at work on it, or was: after 2 s of silence"):
    claimed(tmp_path, seconds=3, silence_s=2)
  holder.kill()
  holder.wait()
  with pytest.raises(Busy):  # nobody can know yet
    lease.claim(tmp_path, silence_s=1)
  with claimed(tmp_path, silence_s=1) as own:
    own.check()


def test_a_holder_that_slept_finds_itself_followed(process, tmp_path, monkeypatch):
  holder = held(process(HOLDER, tmp_path, elsewhere="far away"))
  holder.send_signal(signal.SIGSTOP)
  with claimed(tmp_path, silence_s=0.5) as own:
    holder.send_signal(signal.SIGCONT)
    out, error = holder.communicate("\n", timeout=60)
    assert out.startswith("lost:") and f"process {os.getpid()} on " in out and holder.returncode == 0, error
    own.check()
    # What the other has let go of was not this one's.
    assert lease.is_held(tmp_path) and lease.holder(tmp_path).pid == os.getpid()


@pytest.mark.parametrize("hours", [-1, 1])
def test_no_clock_is_believed(process, tmp_path, hours):
  body = f"real = time.time\ntime.time = lambda: real() + 3600 * {hours}\n" + HOLDER
  holder = held(process(body, tmp_path, elsewhere="wrong clock"))
  assert abs(lease.holder(tmp_path).time - time.time() - 3600 * hours) < 600
  with pytest.raises(Busy):
    claimed(tmp_path, seconds=1.5, silence_s=1)
  out, _ = holder.communicate("\n", timeout=60)
  assert out == "mine\n"
  lease.claim(tmp_path).release()


def test_a_claimant_that_slept_before_it_made_its_number_gives_way(tmp_path, monkeypatch):
  for _ in range(3):
    lease.claim(tmp_path).release()
  create = lease.Files.create

  def late(files, number, token, data):
    # Meanwhile others were here, and what was largest when this one looked is gone.
    monkeypatch.setattr(lease.Files, "create", create)
    elsewhere(monkeypatch, "fast")
    for _ in range(2):
      lease.claim(tmp_path).release()
    monkeypatch.undo()
    create(files, number, token, data)

  monkeypatch.setattr(lease.Files, "create", late)
  with pytest.raises(Busy, match="another process took it at this moment"):
    lease.claim(tmp_path)
  assert leases(tmp_path) == ["lease.5"]


def test_a_lease_that_cannot_be_read_is_waited_for(tmp_path):
  (tmp_path / "lease.7").write_text('{"token": "a')
  with pytest.raises(Busy, match="a machine that is not known"):
    lease.claim(tmp_path, silence_s=0.2)
  with claimed(tmp_path, silence_s=0.2):
    assert leases(tmp_path) == ["lease.8"]


def test_a_beat_gets_through_on_a_full_disk(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
    pytest.skip("no file system may be mounted here")
  try:
    with lease.claim(disk / "cell") as own:
      with pytest.raises(OSError, match="No space left"), (disk / "rest").open("wb", buffering=0) as f:
        while True:
          f.write(bytes(4096))
      before = lease.holder(disk / "cell").beat
      own.beat()
      assert lease.holder(disk / "cell").beat > before
      with pytest.raises(OSError, match="No space left"):
        lease.claim(disk / "other")
    assert lease.holder(disk / "cell").released
    assert not list((disk / "other").glob("*lease*"))
  finally:
    subprocess.run(["umount", disk], check=True)


def test_what_a_dead_machine_held_is_waited_for_and_taken(process, tmp_path, monkeypatch, capsys):
  holder = held(process(HOLDER, tmp_path, elsewhere="another"))
  with pytest.raises(Busy, match=r"is at work on it$"):  # it is heard of
    lease.claim_from_the_dead(tmp_path, silence_s=1.0)
  holder.kill()
  holder.wait()
  with lease.claim_from_the_dead(tmp_path, silence_s=1.0) as own:
    own.check()
  assert "waiting: " in capsys.readouterr().err


def test_waiting_for_a_dead_machine_can_be_given_up(process, tmp_path):
  holder = held(process(HOLDER, tmp_path, elsewhere="another"))
  holder.kill()
  holder.wait()
  with pytest.raises(Busy):
    lease.claim_from_the_dead(tmp_path, wait=lambda _: True)
