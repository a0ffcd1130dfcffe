"""A run in an object store that this process holds: its files are fetched once, and sent as they change.

A thread sends, one run at a time, and nobody waits for it but the end of a run. Before every object it looks
whether the run is still this process's, as one that was only asleep must not write over its successor. (One
object may come late, of a process that fell asleep in the moment between such a look and what it sends: a
successor that is still at work undoes that.)

In the store there is always a checkpoint, if there ever was one, and records that are at least as long as the
checkpoint counts on: a new one is sent with its position last, those before it are removed after.
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lm_jax import lease
from lm_jax.lease_place import Files
from lm_jax.mirrored_files import CHECKPOINTS, STATUS, WHOLE, FileVersion, Unit, step_of, whole_steps
from lm_jax.objects import Stat, StoreError
from lm_jax.ticker import Ticker

SEND_EVERY_S = 5.0
# How long a store may be away before what cannot be sent ends the run.
PATIENCE_S, _AGAIN_S = 60.0, 1.0
_THREADS = 8


def claim(unit: Unit, is_done: Callable[[], bool]) -> "Held":
  """Takes a run, and brings its files here.

  Args:
    is_done: whether the run is, by its files here.

  Raises:
    Busy: another process holds it, see lm_jax.lease.claim.
    StoreError: the store does not answer.
  """
  held = lease.claim(unit.folder, place=unit.place)
  try:
    return Held(unit, held, is_done)
  except BaseException:
    held.release()
    raise


class Held:
  """A run until it is released, as lm_jax.lease.Lease is a folder."""

  def __init__(self, unit: Unit, held: lease.Lease, is_done: Callable[[], bool]):
    self._unit, self._lease = unit, held
    self._sending = threading.Lock()
    self._ended: Exception | None = None
    self._away_since: float | None = None
    # {name: (etag, version)} of what is in the store; etag "" until it was listed.
    self._sent: dict[str, tuple[str, FileVersion]] = {}
    self._is_done = self._fetch(is_done)
    if not self._is_done:
      _SENDER.add(self)

  def check(self) -> None:
    """Raises Lost, or StoreError, if it was found that nothing can be sent any more; asks no store."""
    if self._ended:
      raise self._ended
    # Of this folder, where several machines see it.
    if any(number > self._lease.number for number in Files(self._unit.folder).numbers()):
      self._lease.check()

  def flush(self) -> None:
    """Returns when the store has all that was written; raises Lost or StoreError."""
    with self._sending:
      self._send_patiently()

  def release(self) -> None:
    """Sends what is left, as far as that goes, and lets others claim the run."""
    _SENDER.remove(self)
    with self._sending:
      if not (self._ended or self._is_done):
        try:
          self._send()
        except (lease.Lost, OSError) as error:
          self._ended = error
          print(
            f"lm-jax: {self._unit.folder.name}: not all of it was sent: {error}", file=sys.stderr, flush=True
          )
    self._lease.release()

  def __enter__(self) -> "Held":
    return self

  def __exit__(self, *_: object) -> None:
    self.release()

  # --- to here ----------------------------------------------------------------------------------

  def _fetch(self, is_done: Callable[[], bool]) -> bool:
    """Makes the files here those of the store; returns whether it is done: then without its checkpoints."""
    unit = self._unit
    with unit.updating():
      listing = unit.listing()
      whole = whole_steps(listing)
      halves = {step for name in listing if (step := step_of(name)) is not None} - whole
      small = {name: stat for name, stat in listing.items() if step_of(name) is None}
      index = unit.index()
      self._fetch_all(small, index)
      if STATUS not in small:
        (unit.folder / STATUS).unlink(missing_ok=True)
      if not (done := is_done()):
        self._remove_steps(halves, listing)
        saved = {name: stat for name, stat in listing.items() if step_of(name) in whole}
        self._drop_files(small | saved)
        self._fetch_all(saved, index)
      unit.write_index({name: entry for name, entry in index.items() if name in listing}, whole)
    return done

  def _fetch_all(self, wanted: dict[str, Stat], index: dict[str, tuple[str, FileVersion]]) -> None:
    missing = [name for name, stat in wanted.items() if not self._unit.is_same(name, stat, index)]
    with ThreadPoolExecutor(_THREADS) as pool:
      entries = list(pool.map(lambda name: self._unit.fetch(name, wanted[name]), missing))
    for name, entry in zip(missing, entries, strict=True):
      if entry is None:
        raise StoreError(f"{self._unit.store.url}/{self._unit.object(name)}: changed while it was fetched",
                         is_passing=True)  # fmt: skip
      index[name] = entry
    self._sent |= {name: index[name] for name in wanted}

  def _drop_files(self, wanted: dict[str, Stat]) -> None:
    """Removes what an earlier process left here and never sent."""
    for name in self._unit.files():
      if name not in wanted:
        (self._unit.folder / name).unlink(missing_ok=True)
    steps = {str(step_of(name)) for name in wanted}
    for path in (self._unit.folder / CHECKPOINTS).glob("*"):
      if path.name not in steps and path.is_dir():
        shutil.rmtree(path)

  # --- to the store -----------------------------------------------------------------------------

  def turn(self) -> None:
    """Sends what changed; what goes wrong is kept for `check`, once it lasts."""
    with self._sending:
      if self._ended:
        return
      try:
        self._send()
        self._away_since = None
      except lease.Lost as lost:
        self._ended = lost
      except OSError as error:
        now = time.monotonic()
        self._away_since = self._away_since or now
        if not getattr(error, "is_passing", False) or now - self._away_since > PATIENCE_S:
          self._ended = error

  def _send_patiently(self) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
      if self._ended:
        raise self._ended
      try:
        self._send()
        return
      except lease.Lost as lost:
        self._ended = lost
      except StoreError as error:
        if not error.is_passing or time.monotonic() > until:
          self._ended = error
        else:
          time.sleep(_AGAIN_S)

  def _send(self) -> None:
    files = self._unit.files()
    steps = whole_steps(files)
    newest = max(steps, default=-1)
    wanted = {name: v for name, v in files.items() if step_of(name) in (None, newest)}
    changed = [name for name, version in wanted.items() if self._version(name) != version]
    vanished = [
      name for name in self._sent if name not in files and step_of(name) not in steps - {newest}
    ]  # fmt: skip
    if not (changed or vanished):
      return
    # Set aside as damaged, or saved a second time since: others must not take these up.
    again = {
      step for name in self._sent
      if (step := step_of(name)) is not None
      and (step > newest or (step == newest and files.get(name) != self._version(name)))
    }  # fmt: skip
    self._remove_steps(again, self._sent)
    mark = f"{CHECKPOINTS}/{newest}/{WHOLE}"
    # The status last of all: what it tells is true of the store then.
    for name in sorted(wanted, key=lambda name: (name == STATUS, name == mark, step_of(name) is not None)):
      if self._version(name) != wanted[name] and not self._upload(name, wanted[name]):
        return  # it was replaced just now: the next turn sends what is there then
    self._remove_steps(
      {step for name in self._sent if (step := step_of(name)) is not None} - steps, self._sent
    )
    for name in [name for name in self._sent if name not in files and step_of(name) is None]:
      self._remove(name)
    self._settle()

  def _version(self, name: str) -> FileVersion | None:
    return self._sent[name][1] if name in self._sent else None

  def _upload(self, name: str, version: FileVersion) -> bool:
    """Sends a file; returns whether it still was there."""
    self._lease.check()
    try:
      self._unit.store.upload(self._unit.folder / name, self._unit.object(name))
    except FileNotFoundError:
      return False
    self._sent[name] = ("", version)
    return True

  def _remove_steps(self, steps: set[int], names: dict) -> None:
    own = [name for name in names if step_of(name) in steps]
    for name in sorted(own, key=lambda name: not name.endswith(f"/{WHOLE}")):
      self._remove(name)

  def _remove(self, name: str) -> None:
    self._lease.check()
    self._unit.store.remove(self._unit.object(name))
    self._sent.pop(name, None)

  def _settle(self) -> None:
    """Notes which object each file is; undoes what another wrote before it found out that it was followed."""
    listing = self._unit.listing()
    self._lease.check()  # so that all of it is this process's
    for name, stat in listing.items():
      if name not in self._sent:
        self._remove(name)
      elif self._sent[name][0] in ("", stat.etag):
        self._sent[name] = (stat.etag, self._sent[name][1])
      else:
        del self._sent[name]  # and so it is sent again
    for name in [name for name in self._sent if name not in listing]:
      del self._sent[name]
    self._unit.write_index(self._sent, whole_steps(self._sent))


# Sends for all runs that this process holds, from one thread.
_SENDER = Ticker[Held]("mirror sends", lambda: SEND_EVERY_S, Held.turn)
