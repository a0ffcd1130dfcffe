"""Cores of this machine that a process has to itself, among those that engines started on it.

Runs with the same number of cores are repeatable to the last bit, and share a machine best when no two have
the same core. An engine counts cores and mostly leaves open which ones a process gets.
"""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

from lm_jax import environment

# Open while this process lives: the locks on them are what makes its cores its own.
_locks: dict[int, IO[str]] = {}


def take(count: int) -> list[int]:
  """Returns so many cores, which no other process takes while this one lives.

  Where there are not enough, the rest of them is shared.
  """
  folder = Path(tempfile.gettempdir()) / f"lm_jax-cores-{os.getuid()}"
  folder.mkdir(mode=0o700, exist_ok=True)
  usable = environment.usable_cores()
  for core in usable:
    if len(_locks) >= count:
      break
    if core not in _locks and (lock := _try_lock(folder / str(core))):
      _locks[core] = lock
  own = sorted(_locks)[:count]
  others = [core for core in usable if core not in own]
  # Not all of them the same ones.
  first = os.getpid() % len(others) if others else 0
  return own + (others[first:] + others[:first])[: count - len(own)]


def _try_lock(path: Path) -> IO[str] | None:
  lock = path.open("w")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.close()
    return None
  return lock
