"""Cores of this machine that a process has to itself, among those that engines started on it.

Runs with the same number of cores are repeatable to the last bit, and share a machine best when no two have
the same core. An engine counts cores and mostly leaves open which ones a process gets.
"""

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

from lm_jax import environment
from lm_jax.strict import ConfigError

# Descriptors, open while this process lives: the locks on them are what makes its cores its own.
_locks: dict[int, int] = {}


def take(count: int) -> list[int]:
  """Returns so many cores, which no other process takes while this one lives.

  Where there are not enough, the rest of them is shared.

  Raises:
    ConfigError: the folder of their locks is somebody else's.
  """
  folder = _folder()
  usable = environment.usable_cores()
  for core in usable:
    if len(_locks) >= count:
      break
    if core not in _locks and (lock := _try_lock(folder / str(core))) is not None:
      _locks[core] = lock
  own = sorted(_locks)[:count]
  others = [core for core in usable if core not in own]
  # Not all of them the same ones.
  first = os.getpid() % len(others) if others else 0
  return own + (others[first:] + others[:first])[: count - len(own)]


def _folder() -> Path:
  """Returns the folder of the locks, which the processes of this user share.

  Everybody may write beside it: whoever made it first could have made it a link, or put links into it.
  """
  folder = Path(tempfile.gettempdir()) / f"lm_jax-cores-{os.getuid()}"
  with contextlib.suppress(FileExistsError):
    folder.mkdir(mode=0o700)
  found = folder.lstat()
  if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
    raise ConfigError(
      f"{folder}: must be a folder of user {os.getuid()} that nobody else can write to, as the locks of "
      "cores lie in it; remove it, or set TMPDIR to another place"
    )
  return folder


def _try_lock(path: Path) -> int | None:
  # Nothing of it is changed, and no link is followed.
  lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(lock)
    return None
  except BaseException:
    os.close(lock)
    raise
  return lock
