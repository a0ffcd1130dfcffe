"""Who may write into a folder: one process at a time, on whatever machine, and however wrong its clock.

lease.1, lease.2, ... are the claims of a folder in turn; the one with the largest number holds it. A claim is
made by creating the file of the next number where there is none, which file systems do atomically: of several
that try at once one succeeds. Its holder writes a beat into it every BEAT_S. Another process claims the
folder when the holder has released it, or when its beat has not changed for SILENCE_S, by the claimant's own
monotonic clock: no two clocks are ever compared. A holder that was only paused finds a larger number at its
next write, and stops (fencing, as in https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html).

A holder also keeps a lock (flock) on the folder, which the system drops the moment it dies: on the same
machine, one that was killed is followed at once. Where a file system has no locks, or no hard links, as that
of a mounted bucket may be, silence and exclusive creation do without.

Claims are files of the folder, or objects of a store (lm_jax.lease_place, lm_jax.object_lease): the rules are
these, wherever they are.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lm_jax.lease_place import LACKS, Files, Place
from lm_jax.ticker import Ticker

BEAT_S, SILENCE_S = 5.0, 60.0
# Every state of a lease has this length: a beat needs no new block, and so gets through on a full disk.
_BYTES = 512
# How often and for how long the lock is tried again, since a reader may hold it for an instant.
_TRIES, _AGAIN_S = 5, 0.05


class Busy(Exception):
  """Another process is at work on it."""


class Unheard(Busy):
  """A process elsewhere holds it, or died: its silence tells, to a process that keeps trying.

  Attributes:
    since: this process's monotonic clock when the last beat was first seen, in seconds.
  """

  def __init__(self, message: str, since: float):
    super().__init__(message)
    self.since = since


class Lost(Exception):
  """Another process took the folder over, as nothing was heard of this one."""


@dataclasses.dataclass(frozen=True)
class Holder:
  """What a lease says of who made it.

  Attributes:
    token: of this claim alone.
    machine: the same for all processes of one running kernel.
    beat: grows while the holder lives.
    time: of the last beat, in seconds since the epoch by the holder's clock; for people only.
    lock: which lock it keeps beside, "" where that lies with the claims, and is the same for all.
  """

  number: int
  token: str
  host: str
  pid: int
  machine: str
  beat: int = 0
  released: bool = False
  time: float = 0.0
  lock: str = ""


@functools.cache
def machine() -> str:
  """Returns what tells running kernels apart, also those of machines of one name."""
  try:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:  # not Linux
    return f"{socket.gethostname()}-{uuid.getnode():x}"


def holder(folder: Path) -> Holder | None:
  """Returns the last to have claimed a folder, who may have released it since; None if nobody ever did."""
  return _last(Files(folder))


def is_held(folder: Path) -> bool:
  """Whether some process is at work in the folder, as far as can be told at once.

  Of one on another machine it cannot be: it counts as long as it has not released the folder.
  """
  last = holder(folder)
  if last is None or last.released:
    return False
  return (last.machine, last.lock) != (machine(), _lock_id(folder)) or is_locked(folder)


def claim(folder: Path, *, silence_s: float | None = None, place: Place | None = None) -> "Lease":
  """Takes a folder, which is made where it is missing, until it is released.

  Args:
    silence_s: default: SILENCE_S.
    place: of the claims; default: the folder itself.

  Raises:
    Busy: another process holds it, or may hold it. Trying again, in the same process, finds out: a holder
      on another machine must have been silent for `silence_s` while this process looked.
  """
  folder.mkdir(parents=True, exist_ok=True)
  place = place or Files(folder)
  lock = (folder / "lock").open("a+")
  try:
    has_locks = _take_lock(lock, folder)
    lock_id = _named(lock) if place.has_own_lock else ""
    last = _last(place)
    is_elsewhere = last is not None and (last.machine, last.lock) != (machine(), lock_id)
    if last is not None and not last.released and (is_elsewhere or not has_locks):
      _require_silence(folder, last, SILENCE_S if silence_s is None else silence_s)
    number = 1 if last is None else last.number + 1
    own = Holder(
      number, uuid.uuid4().hex, socket.gethostname(), os.getpid(), machine(), time=time.time(), lock=lock_id
    )
    try:
      place.create(number, own.token, _encoded(own))
    except (FileExistsError, FileNotFoundError):  # the number is taken, or the one who took it cleared up
      raise Busy(f"{folder}: another process took it at this moment") from None
    lease = Lease(folder, own, lock, place)
    try:
      # A claimant that slept since it looked may have made a number that others are past already.
      lease.check()
    except Lost:
      place.remove(own.number)
      raise Busy(f"{folder}: another process took it at this moment") from None
  except BaseException:
    lock.close()
    raise
  lease.heart.add(lease)
  # The largest number is never removed, so that numbers only grow.
  for other in place.numbers():
    if other < own.number:
      place.remove(other)
  place.clear()
  return lease


def claim_from_the_dead(
  folder: Path, *, silence_s: float | None = None, wait: Callable[[float], bool | None] = time.sleep,
  place: Place | None = None,
) -> "Lease":  # fmt: skip
  """Takes a folder as `claim` does, also from a process elsewhere that died, after its silence.

  Args:
    wait: called between tries with the seconds until the next; returns whether to give up.

  Raises:
    Busy: another process holds it; one elsewhere has been heard of meanwhile; or it was given up.
  """
  since = None
  while True:
    try:
      return claim(folder, silence_s=silence_s, place=place)
    except Unheard as unheard:
      if since is None:
        print(f"waiting: {unheard}", file=sys.stderr, flush=True)
      elif unheard.since != since:
        raise Busy(str(unheard).partition(", or was")[0]) from None
      since = unheard.since
      if wait(min(BEAT_S, SILENCE_S if silence_s is None else silence_s) / 5):
        raise


class Lease:
  """A claim that holds until it is released, or lost; made by `claim`."""

  def __init__(self, folder: Path, own: Holder, lock: IO[str], place: Place):
    self.folder, self._own, self._lock, self._place = folder, own, lock, place
    self._writing = threading.Lock()

  @property
  def heart(self) -> "Ticker[Lease]":
    # A store that is slow to answer must not keep the claims of folders from being heard of.
    return _HEARTS[self._place.has_own_lock]

  @property
  def number(self) -> int:
    return self._own.number

  def check(self) -> None:
    """Raises Lost if another process has claimed the folder since; to be called before every write."""
    if max(self._place.numbers(), default=0) != self._own.number:
      last = _last(self._place)
      who = f"process {last.pid} on {last.host}" if last else "nobody: its lease was removed"
      raise Lost(f"{self.folder}: nothing was heard of this process for a while, and {who} took it over")

  def beat(self) -> None:
    """Says that the holder lives."""
    with self._writing:
      if not self._own.released:
        self._own = dataclasses.replace(self._own, beat=self._own.beat + 1, time=time.time())
        self._place.write(self._own.number, _encoded(self._own))

  def flush(self) -> None:
    """Returns when others can read what was written, which in a folder is so already."""

  def release(self) -> None:
    """Lets others claim the folder; nothing happens to one that was lost."""
    self.heart.remove(self)
    with self._writing:
      self._own = dataclasses.replace(self._own, released=True, time=time.time())
      # Lost, and cleared away; or the file system takes nothing more: then the lock tells, or the silence.
      with contextlib.suppress(OSError):
        self._place.write(self._own.number, _encoded(self._own))
    self._lock.close()

  def __enter__(self) -> "Lease":
    return self

  def __exit__(self, *_: object) -> None:
    self.release()


# --- the heart ----------------------------------------------------------------------------------


def _beat(lease: Lease) -> None:
  # Lost, or the file system is away for now: what must not be written anyway, `check` finds out.
  with contextlib.suppress(OSError):
    lease.beat()


# By whether the place has a lock of its own; each beats for all such leases of this process, from one thread.
_HEARTS = {own: Ticker[Lease]("lease beats", lambda: BEAT_S, _beat) for own in (False, True)}


# --- silence ------------------------------------------------------------------------------------

# {folder: (lease and beat that were seen, when they were first seen by this process's own clock)}
_SEEN: dict[Path, tuple[tuple[str, int], float]] = {}


def _require_silence(folder: Path, last: Holder, silence_s: float) -> None:
  now, state = time.monotonic(), (last.token, last.beat)
  seen, since = _SEEN.get(folder, (None, now))
  if seen != state:
    _SEEN[folder], since = (state, now), now
  if now - since < silence_s:
    raise Unheard(
      f"{folder}: process {last.pid} on {last.host} is at work on it, or was: after {silence_s:g} s of "
      f"silence, of which {now - since:.0f} have passed, it is taken over", since,
    )  # fmt: skip


# --- claims -------------------------------------------------------------------------------------


def _last(place: Place) -> Holder | None:
  while numbers := place.numbers():
    try:
      return _decoded(max(numbers), place.read(max(numbers)))
    except FileNotFoundError:  # followed by another at this moment
      continue
  return None


def _decoded(number: int, data: bytes) -> Holder:
  try:
    return Holder(number=number, **json.loads(data))
  except (ValueError, TypeError):
    # Not written to the end, or damaged: it holds, and nothing is known of its holder.
    return Holder(number, "", "a machine that is not known", 0, "")


def _encoded(own: Holder) -> bytes:
  fields = dataclasses.asdict(own)
  del fields["number"]
  if not own.lock:  # earlier versions do not know it
    del fields["lock"]
  return json.dumps(fields).ljust(_BYTES - 1).encode() + b"\n"


# --- locks --------------------------------------------------------------------------------------


def _take_lock(lock: IO[str], folder: Path) -> bool:
  """Returns whether the file system has locks; raises Busy where another process has this one."""
  for _ in range(_TRIES):
    if (got := _try_lock(lock, fcntl.LOCK_EX)) is not False:
      return got is not None
    time.sleep(_AGAIN_S)
  raise Busy(f"{folder}: another process is at work on it")


def _named(lock: IO[str]) -> str:
  """Returns what tells a lock that was taken from all others; it is given that once."""
  lock.seek(0)
  if not (name := lock.read()):
    name = uuid.uuid4().hex
    lock.write(name)
    lock.flush()
  return name


def _lock_id(folder: Path) -> str:
  try:
    return (folder / "lock").read_text()
  except FileNotFoundError:
    return ""


def is_locked(folder: Path) -> bool:
  """Whether a process that sees the same lock holds the folder."""
  try:
    lock = (folder / "lock").open()
  except FileNotFoundError:
    return False
  with lock:
    # Where there are no locks nothing can be told.
    return not _try_lock(lock, fcntl.LOCK_SH)


def _try_lock(lock: IO[str], mode: int) -> bool | None:
  """Returns whether it was taken, None where the file system has no locks."""
  try:
    fcntl.flock(lock, mode | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in LACKS:
      raise
    return None
  return True
