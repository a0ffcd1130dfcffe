"""What a process that an engine started does: it trains a pack of cells, and stops when a file says so.

The engine may be any, and so may the machine; the workdir is shared. A file in it asks all processes of a
launch to save and stop, as no signal of the launcher reaches them.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from lm_jax import environment

_LOOK_EVERY_S = 0.5
# Open while this process lives: the lock on it is what makes the core its own.
_core_lock: IO[str] | None = None


def run(cells: Sequence[dict[str, Any]], stop_file: str) -> list[tuple[str, str | None]]:
  """Trains cells as one population and returns each one's state and what went wrong.

  Args:
    cells: a "directory" and a "config" each.
    stop_file: asks to save and stop once it is there.
  """
  take_core()
  from lm_jax import loop
  from lm_jax.launch import worker

  environment.enable_compilation_cache()
  stop, ended = loop.Stop(), threading.Event()

  def look() -> None:
    while not ended.wait(_LOOK_EVERY_S):
      if Path(stop_file).exists():
        stop.set()

  threading.Thread(target=look, daemon=True).start()
  try:
    return worker.run(cells, stop)
  finally:
    ended.set()


def take_core() -> None:
  """Confines this process to a core that no other of these has, where its cells run on the CPU.

  Runs with one core each are repeatable to the last bit, and share a machine best. A GPU says by
  CUDA_VISIBLE_DEVICES that it is this process's; then nothing is confined.
  """
  global _core_lock
  if _core_lock is not None or os.environ.get("CUDA_VISIBLE_DEVICES", "").strip():
    return
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  folder = Path(tempfile.gettempdir()) / f"lm_jax-cores-{os.getuid()}"
  folder.mkdir(mode=0o700, exist_ok=True)
  cores = environment.usable_cores()
  for core in cores:
    lock = (folder / str(core)).open("w")
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.close()
      continue
    _core_lock = lock
    environment.pin_to_core(core)
    return
  # More processes than cores: any core, shared.
  environment.pin_to_core(cores[os.getpid() % len(cores)])
