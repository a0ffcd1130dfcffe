"""Whatever is killed, filled up, cut off or set wrong: the same command then ends as if nothing had been.

Small in every run of the tests; with LM_JAX_CHAOS=20 (`make chaos`) 20 workers are killed, not 3, and so on.
"""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import finish, lasting_rows, start, status, sweep_tree, wait_until, write_config

from lm_jax import failures, rundir, sweep

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")

CHAOS = int(os.environ.get("LM_JAX_CHAOS") or 3)
IS_LARGE = CHAOS > 3
# The environment of a sweep's processes tells whose they are, also when their parent is gone.
MARK = "LM_JAX_TEST_MARK"
WORKER = "lm_jax.launch.worker"

# Nothing divides anything: a kill falls anywhere between a save, a row, an evaluation, and what comes next.
TREE = sweep_tree(
  widths=(8,), seeds=range(4), train={"num_steps": 2700 if IS_LARGE else 900},
  runtime={"steps_per_dispatch": 7, "log_every": 30, "checkpoint_every": 25, "population": 1},
)  # fmt: skip
MANY = sweep_tree(
  widths=(8,), seeds=range(500 if IS_LARGE else 40), train={"num_steps": 4}, optimizer={"warmup_steps": 2},
  eval={"num_examples": 8, "batch_size": 8, "first_step": 2}, runtime={"log_every": 2, "checkpoint_every": 2},
)  # fmt: skip


# --- a sweep and its processes --------------------------------------------------------------------


class Disturbed:
  """A sweep in a folder, started again and again by the same command."""

  def __init__(self, folder: Path, tree, workers: int = 2):
    self.workdir = folder / "w"
    self._file, self._workers = write_config(folder / "sweep.py", tree), workers
    self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
    self.cells = [self.workdir / "cells" / cell.cell_id for cell in sweep.from_tree(tree).cells]

  def start(self) -> subprocess.Popen:
    words = "sweep", f"--config={self._file}", f"--workdir={self.workdir}", f"--workers={self._workers}"
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv(MARK, self._mark)
      return start(*words)

  def finish(self, code: int = 0) -> subprocess.CompletedProcess:
    """Gives the command, to its end."""
    done = finish(self.start(), timeout=1200)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done

  def alive(self, what: str = "") -> list[int]:
    """Returns the ids of processes of this sweep, whoever is their parent, by a word of their command."""
    mine = f"{MARK}={self._mark}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
      try:
        is_mine = mine in (process / "environ").read_bytes().split(b"\0")
        if is_mine and what.encode() in (process / "cmdline").read_bytes():
          found.append(int(process.name))
      except OSError:  # it ended
        continue
    return found

  def workers(self) -> list[int]:
    return self.alive(WORKER)

  def step(self) -> int:
    """Returns how many steps were done in all."""
    return sum(status(cell).get("step") or 0 for cell in self.cells)

  def is_done(self) -> bool:
    return all(status(cell).get("state") == rundir.DONE for cell in self.cells)

  def kill_all(self) -> None:
    """Also those that are being started meanwhile."""
    while ids := self.alive():
      for pid in ids:
        kill(pid)


def kill(pid: int) -> None:
  try:
    os.kill(pid, signal.SIGKILL)
  except ProcessLookupError:  # it had ended by itself
    return


@pytest.fixture
def sweep_in(tmp_path) -> Iterator[Callable[..., Disturbed]]:
  made = []

  def make(tree=TREE, *, folder: Path = tmp_path, **options) -> Disturbed:
    made.append(Disturbed(folder, tree, **options))
    return made[-1]

  yield make
  for one in made:
    one.kill_all()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, list[dict]]:
  """Returns the lasting rows of every cell, by its name."""
  one = Disturbed(tmp_path_factory.mktemp("undisturbed"), TREE)
  one.finish()
  return rows_of(one)


def rows_of(one: Disturbed) -> dict[str, list[dict]]:
  return {cell.name: lasting_rows(cell) for cell in one.cells}


def assert_as_undisturbed(one: Disturbed, expected: dict[str, list[dict]]) -> None:
  """Every cell done once, with the bits of one that nothing happened to, and nothing left over."""
  listed = json.loads((one.workdir / "sweep.json").read_text())["cells"]
  assert sorted(cell["cell_id"] for cell in listed) == sorted(expected)
  assert sorted(path.name for path in (one.workdir / "cells").iterdir()) == sorted(expected)
  for cell in one.cells:
    assert status(cell)["state"] == rundir.DONE
    rows = lasting_rows(cell)
    keys = [tuple(row[k] for k in ("step", "split", "metric", "n_shots", "prompt_id")) for row in rows]
    assert len(set(keys)) == len(keys), f"{cell}: rows are there twice"
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert rows == expected[cell.name]
    assert (cell / "records.jsonl").read_bytes().endswith(b"\n")
  summary = json.loads((one.workdir / "report" / "summary.json").read_text())
  assert (summary["num_finished"], summary["missing"]) == (len(expected), [])
  wait_until(lambda: not one.alive())
  assert leftovers(one.workdir) == []


def leftovers(workdir: Path) -> list[str]:
  """Returns what only a process at work, or one that died, has in a workdir."""
  patterns = (".*.json.*", ".lease.*", "*.orbax-checkpoint-tmp*", "damaged-*", "launches", "error.txt")
  return sorted(str(path) for pattern in patterns for path in workdir.rglob(pattern))


# --- killed ---------------------------------------------------------------------------------------


def test_workers_killed_at_random_moments(sweep_in, undisturbed):
  """In turn soon after the last (it starts, or compiles), and after a step forward (it trains, or saves)."""
  seed = random.randrange(2**32)
  print(f"seed {seed}")
  rng, one, killed = random.Random(seed), sweep_in(), 0
  process = one.start()
  while killed < CHAOS:
    wait_until(one.workers, process)
    if killed % 2:
      before = one.step()
      wait_until(lambda: one.step() > before or one.is_done(), process)  # noqa: B023
      time.sleep(rng.uniform(0, 0.5))
    else:
      time.sleep(rng.uniform(0, 4))
    if one.is_done():
      break
    if workers := one.workers():
      kill(rng.choice(workers))
      killed += 1
  done = finish(process)
  assert killed >= 3, "killed too late to show anything"
  assert done.returncode == 0, done.stderr
  assert "its process was killed by SIGKILL; from the last checkpoint: " in done.stderr
  assert_as_undisturbed(one, undisturbed)


def test_the_launcher_killed_at_random_moments(sweep_in, undisturbed):
  """In turn alone, while something trains, and with all its workers, which may only be starting."""
  seed = random.randrange(2**32)
  print(f"seed {seed}")
  rng, one = random.Random(seed), sweep_in()
  for i in range(max(2, CHAOS // 2)):
    before = one.step()
    process = one.start()
    alone = i % 2 == 0
    if alone:
      wait_until(lambda: one.step() > before or one.is_done(), process)  # noqa: B023
    time.sleep(rng.uniform(0, 0.5 if alone else 8))
    process.kill()
    if not alone:
      one.kill_all()
    assert finish(process).returncode in (-signal.SIGKILL, 0)
    # Nobody waits for its workers; they save, and end by themselves.
    wait_until(lambda: not one.alive())
    if i == 0:  # later ones may not have come to a cell that was killed with its worker
      assert all(status(c).get("state") in (None, rundir.STOPPED, rundir.DONE) for c in one.cells)
  one.finish()
  assert_as_undisturbed(one, undisturbed)


def test_of_two_launchers_at_once_one_is_killed(sweep_in, undisturbed):
  one = sweep_in(workers=1)
  both = [one.start() for _ in range(2)]
  wait_until(lambda: sum(bool(status(cell).get("step")) for cell in one.cells) >= 2, both[1])
  both[0].kill()
  assert [finish(process).returncode for process in both] == [-signal.SIGKILL, 0]
  assert_as_undisturbed(one, undisturbed)


# --- a disk that takes nothing more ---------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
  """Returns a file system of its own, with a workdir's few megabytes."""
  path = tmp_path / "disk"
  path.mkdir()
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", path], check=False).returncode:
    pytest.skip("no file system may be mounted here")
  yield path
  subprocess.run(["umount", "--lazy", "--recursive", path], check=True)


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
  """As after an error of the disk: what is open stays so (a plain remount would wait for it)."""
  run = functools.partial(subprocess.run, check=True)
  view = disk.parent / "view"
  view.mkdir(exist_ok=True)
  # Nothing can be opened for writing in the view before it is read-only, nor in what is mounted from it.
  run(["mount", "--bind", disk, view])
  run(["mount", "-o", "remount,bind,ro", view])
  run(["mount", "--bind", view, disk])
  try:
    yield
  finally:
    run(["umount", disk])
    run(["umount", view])


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
  """Takes all the room there is, and at once what is freed meanwhile, as others on that disk do."""
  ballast, over = disk / "ballast", threading.Event()

  def fill() -> None:
    with ballast.open("wb", buffering=0) as f:
      while not over.wait(0.001):
        with contextlib.suppress(OSError):
          while True:
            f.write(bytes(2**18))

  filling = threading.Thread(target=fill)
  filling.start()
  try:
    yield
  finally:
    over.set()
    filling.join()
    ballast.unlink()


def assert_failed_for_the_disk(done: subprocess.CompletedProcess, words: str) -> None:
  assert done.returncode == 1, done.stderr
  assert "Traceback" not in done.stderr + done.stdout, done.stderr
  told = [line for line in done.stderr.splitlines() if line.startswith(f"failed ({failures.DISK}): ")]
  assert told, done.stderr
  assert all(words in line for line in told), told


def test_a_disk_that_is_full_for_a_while(disk, sweep_in, undisturbed):
  one = sweep_in(folder=disk)
  process = one.start()
  wait_until(one.step, process)
  with full(disk):
    assert_failed_for_the_disk(finish(process), "No space left on device")
    # Nor is there room to start again.
    assert "No space left on device" in one.finish(1).stderr.splitlines()[-1]
  one.finish()
  assert_as_undisturbed(one, undisturbed)


def test_a_disk_that_is_read_only_for_a_while(disk, sweep_in, undisturbed):
  one = sweep_in(folder=disk)
  with read_only(disk):
    done = one.finish(2)
    assert done.stderr == f"lm-jax: --workdir={one.workdir}: {disk} is not writable\n"
  process = one.start()
  wait_until(one.step, process)
  with read_only(disk):
    assert_failed_for_the_disk(finish(process), "Read-only file system")
  one.finish()
  assert_as_undisturbed(one, undisturbed)


# --- what a machine that lost power leaves, and one whose clock is wrong --------------------------


def test_files_that_were_never_written_to_the_end(sweep_in, undisturbed):
  """Half a row, no status, a lease of garbage, and what was about to be renamed."""
  one = sweep_in()
  process = one.start()
  wait_until(lambda: sum(bool(status(cell).get("step")) for cell in one.cells) == 2, process)
  process.kill()
  one.kill_all()
  finish(process)
  first, second = [cell for cell in one.cells if status(cell).get("step")]
  with (first / "records.jsonl").open("ab") as f:
    f.write((first / "records.jsonl").read_bytes().splitlines()[-1][:40])
  (first / "status.json").write_bytes(b"")
  (second / "status.json").write_bytes((second / "status.json").read_bytes()[:30])
  (lease,) = second.glob("lease.*")
  lease.write_bytes(b"\xff\xfe\0garbage")
  for name in (".status.json.1", ".config.json.1", ".lease.0123abcd"):
    (second / name).write_text('{"sta')
  (second / "checkpoints").mkdir(exist_ok=True)
  (second / "checkpoints" / "400.orbax-checkpoint-tmp").mkdir()
  done = one.finish()
  # Whose that lease was cannot be known, so that its silence is waited for.
  assert f"busy: {second.name} " in done.stderr
  assert_as_undisturbed(one, undisturbed)


def test_a_status_of_another_time_changes_nothing(sweep_in, undisturbed):
  """One from an hour ago, one from in an hour."""
  one = sweep_in()
  process = one.start()
  wait_until(lambda: sum(bool(status(cell).get("step")) for cell in one.cells) == 2, process)
  process.send_signal(signal.SIGINT)
  assert finish(process).returncode == 128 + signal.SIGINT
  stopped = [cell for cell in one.cells if status(cell).get("state") == rundir.STOPPED]
  assert len(stopped) == 2
  for hours, cell in zip((-1, 1), stopped, strict=True):
    changed = status(cell)
    changed["time"] += 3600 * hours
    (cell / "status.json").write_text(json.dumps(changed))
  done = one.finish()
  for cell in one.cells:
    last = [line for line in done.stderr.splitlines() if line.startswith(f"{cell.name} ")][-1]
    assert ": done, step " in last
  assert_as_undisturbed(one, undisturbed)


# --- many -----------------------------------------------------------------------------------------


def test_many_tiny_cells_on_eight_workers(sweep_in, tmp_path_factory):
  expected = Disturbed(tmp_path_factory.mktemp("few"), MANY, workers=1)
  expected.finish()
  one = sweep_in(MANY, workers=8)
  one.finish()
  assert_as_undisturbed(one, rows_of(expected))
