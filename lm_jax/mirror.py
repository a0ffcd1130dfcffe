"""A workdir in an object store, as a folder of this machine: all that works in it sees files.

    s3://BUCKET/STUDY/sweep.json, cells/ID/...   <->   MIRRORS/STUDY-HASH/sweep.json, cells/ID/...

The store is the truth. A run's files are fetched when it is claimed, and sent while it is held
(lm_jax.mirrored_run); the small files of all runs, so all but checkpoints, are fetched by whoever only reads.
What is made of results (report/, records.parquet) stays here, and a copy of the bucket is a workdir.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lm_jax import environment, lease, strict
from lm_jax.lease_place import Place
from lm_jax.mirrored_files import CELLS, Unit
from lm_jax.object_lease import Objects
from lm_jax.objects import Stat, Store, StoreError, is_url
from lm_jax.strict import ConfigError

_MARKER = ".mirror.json"
_SWEEP, _SWEEP_CLAIM = "sweep.json", ".sweep"
_THREADS = 8
# How often a launcher and what watches look at what other machines did.
LOOK_EVERY_S = 10.0


class Mirror:
  """A workdir in a store and its folder here."""

  def __init__(self, store: Store, folder: Path):
    self.store, self.folder = store, folder

  @property
  def url(self) -> str:
    return self.store.url

  def unit(self, path: Path) -> Unit:
    """Returns the run of a folder inside the mirror, or the workdir itself."""
    name = path.absolute().relative_to(self.folder).as_posix()
    return Unit(self.store, self.folder, "" if name == "." else name)

  def refresh(self) -> int:
    """Fetches all small files that changed; returns how many."""
    by_unit: dict[str, dict[str, Stat]] = {"": {}}
    for name, stat in self.store.stats().items():
      parts = name.split("/")
      unit = "/".join(parts[:2]) if parts[0] == CELLS and len(parts) > 2 else ""
      if parts[0] == CELLS and (not unit or parts[1] in ("", ".", "..")):
        continue
      by_unit.setdefault(unit, {})[name.removeprefix(f"{unit}/") if unit else name] = stat
    with ThreadPoolExecutor(_THREADS) as pool:
      return sum(
        pool.map(lambda item: Unit(self.store, self.folder, item[0]).refresh(item[1]), by_unit.items())
      )

  @contextlib.contextmanager
  def sweep_alone(self) -> Iterator[None]:
    """Holds sweep.json, here as it is in the store, and sends it at the end; one launch at a time does."""
    root, folder = self.unit(self.folder), self.folder / _SWEEP_CLAIM
    claim = _wait_for(folder, Objects(self.store, _SWEEP_CLAIM, folder))
    with claim, root.updating():
      with contextlib.suppress(FileNotFoundError):
        self.store.download(_SWEEP, self.folder / _SWEEP)
      yield
      claim.check()
      self.store.upload(self.folder / _SWEEP, _SWEEP)

  def send_once(self, path: Path) -> None:
    """Sends a file that is made once and never changed; raises FileExistsError where another has its name."""
    self.store.create(path.relative_to(self.folder).as_posix(), path.read_bytes())


def _wait_for(folder: Path, place: Place) -> lease.Lease:
  is_told = False
  while True:
    try:
      return lease.claim(folder, place=place)
    except lease.Unheard as unheard:
      if not is_told:
        print(f"waiting: {unheard}", file=sys.stderr, flush=True)
      is_told = True
    except lease.Busy:
      pass
    time.sleep(0.2)


def at(url: str) -> Mirror:
  """Returns the mirror of a workdir's URL, whose folder is made; the store is not asked."""
  store = Store(url)
  base = os.environ.get("LM_JAX_MIRROR")
  name = f"{store.url.rpartition('/')[2]}-{strict.digest(store.url, length=10)}"
  folder = ((Path(base) if base else environment.cache_dir() / "mirrors") / name).absolute()
  marker = folder / _MARKER
  if not marker.exists():
    try:
      folder.mkdir(parents=True, exist_ok=True)
      temporary = folder / f"{_MARKER}.{os.getpid()}"
      temporary.write_text(json.dumps({"url": store.url}))
      temporary.replace(marker)
    except OSError as error:
      raise ConfigError(f"--workdir={url}: {folder}, its mirror ($LM_JAX_MIRROR), cannot be made "
                        f"({error.strerror})") from None  # fmt: skip
  return Mirror(store, folder)


# One store a URL and process: connections are kept.
_KNOWN: dict[Path, Mirror] = {}


def of(path: Path) -> Mirror | None:
  """Returns the mirror that a folder is in: a workdir, or a run, a launch or the like of one."""
  path = Path(path).absolute()
  for folder in (path, *list(path.parents)[:2]):
    if (marker := folder / _MARKER).exists():
      if folder not in _KNOWN:
        _KNOWN[folder] = Mirror(Store(json.loads(marker.read_text())["url"]), folder)
      return _KNOWN[folder]
  return None


def open_workdir(url: str, *, writes: bool) -> Path:
  """Returns the folder of a workdir in a store, with its small files; says where it is.

  Raises:
    ConfigError: the store cannot be reached, or cannot do what leases need.
  """
  mirror = at(url)
  try:
    if writes:
      mirror.store.require_creation()
    count = mirror.refresh()
  except StoreError as error:
    raise ConfigError(f"--workdir={error}") from None
  print(f"lm-jax: {mirror.url}: mirrored in {mirror.folder}, {count} files fetched", file=sys.stderr)
  return mirror.folder


def refresh(workdir: Path) -> None:
  """Fetches what changed in the store, of a folder that mirrors one; of any other nothing."""
  if mirror := of(workdir):
    mirror.refresh()


@contextlib.contextmanager
def followed(workdir: Path) -> Iterator[None]:
  """Fetches what changed again and again meanwhile."""
  over = threading.Event()
  if (mirror := of(workdir)) is None:
    yield
    return

  def follow() -> None:
    was_told = False
    while not over.wait(LOOK_EVERY_S):
      try:
        mirror.refresh()
        was_told = False
      except OSError as error:
        if not was_told:
          print(f"lm-jax: not up to date: {error}", file=sys.stderr, flush=True)
        was_told = True

  thread = threading.Thread(target=follow, daemon=True, name="mirror")
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


# --- for other machines ---------------------------------------------------------------------------


def described(directory: Path) -> dict[str, str]:
  """Returns what another machine must know to find a run."""
  directory = Path(directory)
  if mirror := of(directory):
    return {"directory": mirror.unit(directory).name, "store": mirror.url}
  return {"directory": str(directory.resolve())}


def directory(cell: Mapping[str, Any]) -> Path:
  """Returns the run's folder on this machine."""
  return at(cell["store"]).folder / cell["directory"] if "store" in cell else Path(cell["directory"])


def mark(path: Path) -> str:
  """Returns a name under which all machines find a file that only has to be there."""
  if mirror := of(path.parent):
    return f"{mirror.url}/{path.relative_to(mirror.folder).as_posix()}"
  return str(path)


def _marked(name: str) -> tuple[Store, str]:
  url, _, own = name.rpartition("/")
  return Store(url), own


def set_mark(name: str) -> None:
  if is_url(name):
    store, own = _marked(name)
    store.write(own, b"")
  else:
    Path(name).touch()


def is_marked(name: str) -> bool:
  if is_url(name):
    store, own = _marked(name)
    return own in store.stats(prefix=own)
  return Path(name).exists()


def unmark(name: str) -> None:
  if is_url(name):
    store, own = _marked(name)
    store.remove(own)
  else:
    Path(name).unlink(missing_ok=True)
