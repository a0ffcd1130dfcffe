"""The local launcher: one pinned, single-threaded worker process a core, or one a GPU."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lm_jax import environment, rundir, strict
from lm_jax.launch.base import Outcome
from lm_jax.sweep import Cell

_WATCH_EVERY_S = 0.25


class LocalLauncher:
  """Runs cells in worker processes of this machine, in the order given (longest first keeps all busy)."""

  def __init__(self, num_workers: int | None = None):
    self._slots = _slots()
    self.num_workers = len(self._slots) if num_workers is None else num_workers

  def __call__(
    self, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], watch: Callable[[], None]
  ) -> list[Outcome]:
    waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
      waiting.put(cell)
    count = min(self.num_workers, len(cells))
    workers: list[_Worker] = []
    try:
      for i in range(count):
        workers.append(_Worker(self._slots[i % len(self._slots)], waiting, directory_of))
      while any(worker.is_alive() for worker in workers):
        watch()
        time.sleep(_WATCH_EVERY_S)
    except BaseException:
      _stop(workers)
      raise
    finally:
      watch()
    return [outcome for worker in workers for outcome in worker.outcomes]


def _slots() -> list[dict[str, str]]:
  """Returns the environment of each place for a worker: a GPU, or else a core."""
  gpus = _visible_gpus()
  if gpus:
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
  return [
    {"LM_JAX_WORKER_CORE": str(core), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    for core in environment.usable_cores()
  ]


def _visible_gpus() -> list[str]:
  """Returns the ids of NVIDIA GPUs, as asked by CUDA_VISIBLE_DEVICES or listed by the driver."""
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return []
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
  devices = Path("/proc/driver/nvidia/gpus")
  return [str(i) for i in range(len(list(devices.iterdir())))] if devices.is_dir() else []


def _stop(workers: Sequence["_Worker"]) -> None:
  """Lets every worker save what it runs; a second Ctrl-C kills them."""
  print("stopping: running cells save first; Ctrl-C again kills them", file=sys.stderr, flush=True)
  try:
    for worker in workers:
      worker.stop(signal.SIGTERM)
    for worker in workers:
      worker.join()
  except KeyboardInterrupt:
    for worker in workers:
      worker.stop(signal.SIGKILL)
    for worker in workers:
      worker.join()


class _Worker(threading.Thread):
  """Feeds cells to one process; starts another if it dies, and reports its cell as failed."""

  def __init__(self, slot: dict[str, str], waiting: queue.SimpleQueue, directory_of: Callable[[Cell], Path]):
    super().__init__(daemon=True)
    self._slot, self._waiting, self._directory_of = slot, waiting, directory_of
    self._process: subprocess.Popen | None = None
    self._stopping, self._lock = False, threading.Lock()
    self.outcomes: list[Outcome] = []
    self.start()

  def run(self) -> None:
    with contextlib.suppress(queue.Empty):
      while True:
        self.outcomes.append(self._run_cell(self._waiting.get_nowait()))
    if self._process:
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.close()
      self._process.wait()

  def stop(self, number: int) -> None:
    """Signals the process, and starts no other and no other cell."""
    with self._lock:
      self._stopping = True
      if self._process and self._process.poll() is None:
        self._process.send_signal(number)

  def _run_cell(self, cell: Cell) -> Outcome:
    directory = self._directory_of(cell)
    try:
      directory.mkdir(parents=True, exist_ok=True)
      with self._lock:
        if self._stopping:
          return cell, rundir.STOPPED, None
        if self._process is None or self._process.poll() is not None:
          self._process = self._spawn()
    except OSError as error:
      return cell, rundir.FAILED, str(error)
    request = {
      "cell_id": cell.cell_id, "directory": str(directory), "config": strict.to_dict(cell.config)
    }  # fmt: skip
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if answer:
      reply = json.loads(answer)
      return cell, reply["state"], reply["error"]
    code = self._process.wait()
    if self._stopping:
      return cell, rundir.STOPPED, None
    error = (
      f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited {code}"
    )
    rundir.RunDir(directory).write_status(rundir.FAILED, error=error)
    return cell, rundir.FAILED, error

  def _spawn(self) -> subprocess.Popen:
    # A session of its own: Ctrl-C reaches the launcher only, which then lets the workers save.
    return subprocess.Popen(
      [sys.executable, "-m", "lm_jax.launch.worker"],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
      env=environment.HUGE_PAGES | os.environ | self._slot,
    )  # fmt: skip
