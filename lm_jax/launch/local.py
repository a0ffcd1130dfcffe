"""The local launcher: one pinned, single-threaded worker process a core, or one a GPU.

Cells of one shape train as one population (packing.py). While a worker on a GPU trains, it compiles what
is likely next on the cores that the GPU leaves idle.
"""

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lm_jax import environment, failures
from lm_jax.launch.base import DirectoryOf, Enough, Outcome, described
from lm_jax.launch.packing import Pack, pack
from lm_jax.launch.queue import Queue
from lm_jax.launch.worker_process import WorkerProcess, slot
from lm_jax.sweep import Cell

_WATCH_EVERY_S = 0.25


class LocalLauncher:
  """Runs cells in worker processes of this machine."""

  def __init__(self, num_workers: int | None = None):
    self._slots = _slots()
    self.num_workers = len(self._slots) if num_workers is None else num_workers

  def __call__(
    self, cells: Sequence[Cell], directory_of: DirectoryOf, watch: Callable[[], None]
  ) -> list[Outcome]:
    accelerator = self._slots[0].get("JAX_PLATFORMS") != "cpu"
    packs = pack(cells, self.num_workers, accelerator=accelerator)
    queue = Queue(packs, directory_of)
    workers: list[_Worker] = []
    try:
      for i in range(min(self.num_workers, len(packs))):
        workers.append(
          _Worker(self._slots[i % len(self._slots)], queue, directory_of, looks_ahead=accelerator)
        )
      while any(worker.is_alive() for worker in workers):
        queue.look_at_busy()
        watch()
        time.sleep(_WATCH_EVERY_S)
    except Enough as why:
      _stop(workers, f"{why}: running cells save first; Ctrl-C kills them")
    except BaseException:
      _stop(workers, "stopping: running cells save first; Ctrl-C again kills them")
      raise
    finally:
      with contextlib.suppress(Enough):  # it ends
        watch()
    return queue.outcomes


def _slots() -> list[dict[str, str]]:
  """Returns the environment of each place for a worker: a GPU, another accelerator, or else a core."""
  gpus = _visible_gpus()
  if gpus:
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
  if os.environ.get("JAX_PLATFORMS", "cpu") != "cpu" or _has_tpu():
    return [{}]  # one process, with all the devices that JAX finds
  return [slot([core]) for core in environment.usable_cores()]


def _has_tpu() -> bool:
  """Whether JAX would find a TPU: its devices, and the library for them."""
  devices = list(Path("/dev").glob("accel*")) or list(Path("/dev/vfio").glob("[0-9]*"))
  is_wanted = os.environ.get("JAX_PLATFORMS") != "cpu"
  return is_wanted and bool(devices) and importlib.util.find_spec("libtpu") is not None


def _visible_gpus() -> list[str]:
  """Returns the ids of NVIDIA GPUs, as asked by CUDA_VISIBLE_DEVICES or listed by the driver."""
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return []
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
  devices = Path("/proc/driver/nvidia/gpus")
  return [str(i) for i in range(len(list(devices.iterdir())))] if devices.is_dir() else []


def _stop(workers: Sequence["_Worker"], told: str) -> None:
  """Lets every worker save what it runs; another Ctrl-C kills them."""
  print(told, file=sys.stderr, flush=True)
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
  """Feeds packs to one process, and starts another where it died."""

  def __init__(self, slot: dict[str, str], queue: Queue, directory_of: DirectoryOf, *, looks_ahead: bool):
    super().__init__(daemon=True)
    self._slot, self._queue, self._directory_of = slot, queue, directory_of
    self._looks_ahead = looks_ahead
    self._process: WorkerProcess | None = None
    self._stopping, self._lock = threading.Event(), threading.Lock()
    self.start()

  def run(self) -> None:
    while not (self._queue.is_settled or self._stopping.is_set()):
      if pack := self._queue.take():
        try:
          self._run_pack(pack)
        except Exception as error:  # the others must not wait for it for ever
          self._queue.broken(pack, error)
      else:
        self._stopping.wait(_WATCH_EVERY_S)
    if self._process:
      self._process.close()

  def stop(self, number: int) -> None:
    """Signals the process, and starts no other and no other pack."""
    with self._lock:
      self._stopping.set()
      if self._process:
        self._process.stop(number)

  def _run_pack(self, pack: Pack) -> None:
    try:
      process = self._living_process()
      for cell in pack:
        self._directory_of(cell).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      self._queue.failed(pack, str(error), failures.kind(error))
      return
    if process is None:
      self._queue.stopped(pack)
      return
    process.send(run=[described(cell, self._directory_of) for cell in pack])
    if self._looks_ahead and (following := self._queue.next()):
      process.send(prepare=[described(cell, self._directory_of) for cell in following])
    answer = process.answer()
    if answer is not None:
      self._queue.answered(pack, answer)
    elif self._stopping.is_set():
      self._queue.stopped(pack)
    else:
      self._queue.died(pack, process.ended())

  def _living_process(self) -> WorkerProcess | None:
    """Returns the process, another if it died; None where no more is to be started."""
    with self._lock:
      if self._stopping.is_set():
        return None
      if self._process is None or not self._process.is_alive():
        if self._process:
          self._process.close()
        self._process = WorkerProcess(self._slot)
      return self._process
