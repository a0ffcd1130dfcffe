"""The local launcher: one pinned, single-threaded worker process a core, or one a GPU.

Cells of one shape train as one population (packing.py). While a worker on a GPU trains, it compiles what
is likely next on the cores that the GPU leaves idle.
"""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_jax import environment, rundir, strict
from lm_jax.launch.base import Outcome
from lm_jax.launch.packing import Pack, pack
from lm_jax.sweep import Cell

_WATCH_EVERY_S = 0.25
# How often a cell that another process trains is looked at again.
_BUSY_AGAIN_S = 1.0


class LocalLauncher:
  """Runs cells in worker processes of this machine."""

  def __init__(self, num_workers: int | None = None):
    self._slots = _slots()
    self.num_workers = len(self._slots) if num_workers is None else num_workers

  def __call__(
    self, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], watch: Callable[[], None]
  ) -> list[Outcome]:
    accelerator = "CUDA_VISIBLE_DEVICES" in self._slots[0]
    waiting = collections.deque(pack(cells, self.num_workers, accelerator=accelerator))
    count = min(self.num_workers, len(waiting))
    workers: list[_Worker] = []
    try:
      for i in range(count):
        workers.append(
          _Worker(self._slots[i % len(self._slots)], waiting, directory_of, looks_ahead=accelerator)
        )
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
  """Feeds packs to one process; starts another if it dies, and reports its cells as failed."""

  def __init__(
    self,
    slot: dict[str, str],
    waiting: collections.deque[Pack],
    directory_of: Callable[[Cell], Path],
    *,
    looks_ahead: bool,
  ):
    super().__init__(daemon=True)
    self._slot, self._waiting, self._directory_of = slot, waiting, directory_of
    self._looks_ahead = looks_ahead
    self._process: subprocess.Popen | None = None
    self._stopping, self._lock = threading.Event(), threading.Lock()
    self._busy: collections.deque[Outcome] = collections.deque()
    self._told: set[str] = set()
    self.outcomes: list[Outcome] = []
    self.start()

  def run(self) -> None:
    while (pack := self._next_pack()) is not None:
      for outcome in self._run_pack(pack):
        (self._busy if outcome[1] == rundir.BUSY else self.outcomes).append(outcome)
    self.outcomes += self._busy
    if self._process:
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.close()
      self._process.wait()

  def _next_pack(self) -> Pack | None:
    """Returns what is to run next; what others train comes last, again and again, until done or free."""
    with contextlib.suppress(IndexError):
      return self._waiting.popleft()
    if not self._busy or self._stopping.wait(_BUSY_AGAIN_S):
      return None
    cell, _, error = self._busy.popleft()
    if cell.cell_id not in self._told:
      self._told.add(cell.cell_id)
      print(f"busy: {cell.cell_id} {cell.label} seed {cell.config.seed}: {error}; waiting for it",
            file=sys.stderr, flush=True)  # fmt: skip
    return (cell,)

  def stop(self, number: int) -> None:
    """Signals the process, and starts no other and no other pack."""
    with self._lock:
      self._stopping.set()
      if self._process and self._process.poll() is None:
        self._process.send_signal(number)

  def _run_pack(self, pack: Pack) -> list[Outcome]:
    try:
      for cell in pack:
        self._directory_of(cell).mkdir(parents=True, exist_ok=True)
      with self._lock:
        if self._stopping.is_set():
          return [(cell, rundir.STOPPED, None) for cell in pack]
        if self._process is None or self._process.poll() is not None:
          self._process = self._spawn()
    except OSError as error:
      return [(cell, rundir.FAILED, str(error)) for cell in pack]
    self._send(run=[{"directory": str(self._directory_of(cell)), **_sent(cell)} for cell in pack])
    if self._looks_ahead:
      with contextlib.suppress(IndexError):
        self._send(prepare=[_sent(cell) for cell in self._waiting[0]])
    answer = self._process.stdout.readline()
    if answer:
      return [(cell, *reply) for cell, reply in zip(pack, json.loads(answer), strict=True)]
    code = self._process.wait()
    if self._stopping.is_set():
      return [(cell, rundir.STOPPED, None) for cell in pack]
    error = (
      f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited {code}"
    )
    return [(cell, rundir.FAILED, self._write_failure(cell, error)) for cell in pack]

  def _write_failure(self, cell: Cell, error: str) -> str:
    run = rundir.RunDir(self._directory_of(cell))
    status = run.status()
    if status is None or status["state"] != rundir.DONE:
      run.write_status(rundir.FAILED, error=error)
    return error

  def _send(self, **request: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()

  def _spawn(self) -> subprocess.Popen:
    # A session of its own: Ctrl-C reaches the launcher only, which then lets the workers save.
    return subprocess.Popen(
      [sys.executable, "-m", "lm_jax.launch.worker"],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
      env=environment.HUGE_PAGES | os.environ | self._slot,
    )  # fmt: skip


def _sent(cell: Cell) -> dict[str, Any]:
  return {"config": strict.to_dict(cell.config)}
