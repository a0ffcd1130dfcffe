"""Machines that share a workdir in an object store, and processes on them that race for one of its runs."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, finish, lasting_rows, lm_jax, start, sweep_tree, write_config

from lm_jax import sweep

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

  def __init__(self, url: str, folder: Path, name: str, monkeypatch):
    self._url, self._mirrors, self._monkeypatch = url, folder / name, monkeypatch

  def start(self, *words: str, **options) -> subprocess.Popen:
    with self._monkeypatch.context() as patch:
      patch.setenv("LM_JAX_MIRROR", str(self._mirrors))
      patch.setenv("GLIBC_TUNABLES", "")  # else the command starts itself again
      return start(*words, f"--workdir={self._url}", start_new_session=True, **options)

  def finish(self, *words: str) -> subprocess.CompletedProcess:
    return finish(self.start(*words), timeout=300)

  @property
  def folder(self) -> Path:
    (found,) = self._mirrors.iterdir()
    return found


@pytest.fixture
def paced(monkeypatch, tmp_path) -> None:
  """Has every process that the test starts take its time."""
  (tmp_path / "pace").mkdir()
  (tmp_path / "pace" / "sitecustomize.py").write_text(PACE)
  monkeypatch.setenv(
    "PYTHONPATH", os.pathsep.join([str(tmp_path / "pace"), os.environ.get("PYTHONPATH", "")])
  )


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
  return f"--config={write_config(tmp_path_factory.mktemp('config') / 'sweep.py', TREE)}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config) -> dict[str, list]:
  """Returns the records of each cell as a sweep in a folder leaves them."""
  workdir = tmp_path_factory.mktemp("undisturbed") / "w"
  done = lm_jax("sweep", config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return rows(workdir)


def rows(workdir: Path) -> dict[str, list]:
  return {cell: lasting_rows(workdir / "cells" / cell) for cell in CELLS}


RACER = """
import os, sys, time
from pathlib import Path
from lm_jax import lease, mirror, rundir
inside, times = Path(sys.argv[1]), int(sys.argv[3])
run = rundir.RunDir(mirror.at(sys.argv[2]).folder / "cells/a")
lease.SILENCE_S = 1000
print("ready", flush=True)
sys.stdin.readline()
entered = 0
while entered < times:
  try:
    held = run.claim()
  except lease.Busy:
    time.sleep(0.01)
    continue
  os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another is inside
  held.check()
  entered += 1
  inside.unlink()
  held.release()
"""


def race(url: str, folder: Path) -> list[tuple[int, str]]:
  """Has six processes on three hosts claim and release one run, twice each.

  Returns:
    The exit code and errors of each: not 0 of one that was inside beside another.
  """
  racers = [
    subprocess.Popen(
      [sys.executable, "-c", RACER, str(folder / "inside"), url, "2"], text=True, stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      # Two processes a host.
      env=os.environ | {"PYTHONPATH": str(ROOT), "LM_JAX_MIRROR": str(folder / f"host {i // 2}")},
    )
    for i in range(6)
  ]  # fmt: skip
  with contextlib.ExitStack() as stack:
    for racer in racers:
      stack.enter_context(racer)
      stack.callback(racer.kill)
    for racer in racers:
      assert racer.stdout.readline() == "ready\n", racer.stderr.read()
    for racer in racers:
      racer.stdin.write("\n")
      racer.stdin.flush()
    results = [racer.communicate(timeout=120) for racer in racers]
  return [(racer.returncode, errors) for racer, (_, errors) in zip(racers, results, strict=True)]
