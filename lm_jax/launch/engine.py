"""Launches by an engine that people already run: it schedules; what comes back is judged here.

The workdir is on a file system that all its machines share.
"""

import contextlib
import dataclasses
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from lm_jax import lease
from lm_jax.launch.base import DirectoryOf, Enough, Outcome
from lm_jax.launch.packing import Pack, pack
from lm_jax.launch.queue import Queue, Reply
from lm_jax.sweep import Cell

_POLL_S = 0.25
SENT = "sent; nobody waits for it"
# WORKDIR/launches/ENGINE-N/ holds what the processes of a launch share; this file asks them to save and stop.
FOLDER, STOP = "launches", "stop"


@dataclasses.dataclass(frozen=True)
class Request:
  """What each cell asks the engine for.

  Attributes:
    cpus, gpus: of each host; no GPU: it trains on its CPUs.
    hosts: that train one cell together (jax.distributed).
    workers: at most so many packs of cells at a time; None: as the engine sees fit.
    detach: send everything, and wait for nothing.
  """

  cpus: int = 1
  gpus: int = 0
  hosts: int = 1
  workers: int | None = None
  detach: bool = False


@dataclasses.dataclass(frozen=True)
class Back:
  """What came back of a pack: the answers, how it died without, or why it failed; nothing: it never ran."""

  pack: Pack
  replies: Sequence[Reply] | None = None
  death: str | None = None
  failure: tuple[str, str] | None = None  # error, kind


class Gone(Exception):
  """The engine itself is gone: nothing that was sent to it comes back."""


class Engine(Protocol):
  """One connection to an engine, for one launch."""

  def room(self, cells: Sequence[Cell]) -> int:
    """Returns into how many packs cells are shared out at least, to use all the room there is."""
    ...

  def wanted(self) -> int | None:
    """Returns how many packs should be sent now, None: all of them."""
    ...

  def send(self, packs: Sequence[Pack]) -> None: ...

  def back(self) -> list[Back]:
    """Returns what came back since the last call; raises Gone."""
    ...

  def is_idle(self) -> bool:
    """Whether everything that was sent came back."""
    ...

  def stop(self) -> None:
    """Asks everything that was sent to save and stop."""
    ...

  def kill(self) -> None: ...

  def close(self) -> None: ...


class EngineLauncher:
  """Runs cells by an engine.

  Args of the constructor:
    name: of the engine.
    connect: returns the engine, given the launch's folder, the cells' directories, and what they ask for.
    is_used: whether processes of a launch, given its folder, may still run when its launcher does not.
  """

  def __init__(
    self, name: str, connect: Callable[[Path, DirectoryOf, Request], Engine], request: Request,
    is_used: Callable[[Path], bool] = lambda _: False,
  ):  # fmt: skip
    self._name, self._connect, self._request, self._is_used = name, connect, request, is_used

  def __call__(
    self, cells: Sequence[Cell], directory_of: DirectoryOf, watch: Callable[[], None]
  ) -> list[Outcome]:
    # A cell's directory is WORKDIR/cells/ID.
    workdir = Path(directory_of(cells[0])).resolve().parents[1]
    with (
      _folder(workdir, self._name, self._is_used) as folder,
      contextlib.closing(self._connect(folder, directory_of, self._request)) as engine,
    ):
      queue = Queue(self._packs(cells, engine), directory_of)
      try:
        if self._request.detach:
          return self._detach(engine, queue)
        while not queue.is_settled:
          self._turn(engine, queue)
          watch()
          time.sleep(_POLL_S)
      except Gone as error:
        _give_up(queue, cells, str(error))
      except Enough as why:
        _stop(engine, queue, watch, f"{why}: running cells save first; Ctrl-C kills them")
      except (KeyboardInterrupt, SystemExit):
        _stop(engine, queue, watch, "stopping: running cells save first; Ctrl-C again kills them")
        raise
      except BaseException:
        engine.kill()
        raise
      finally:
        with contextlib.suppress(Enough):  # it ends
          watch()
    return queue.outcomes

  def _packs(self, cells: Sequence[Cell], engine: Engine) -> list[Pack]:
    if self._request.hosts > 1:
      return [(cell,) for cell in cells]
    return pack(cells, self._request.workers or engine.room(cells), accelerator=self._request.gpus > 0)

  def _detach(self, engine: Engine, queue: Queue) -> list[Outcome]:
    packs = list(iter(queue.take, None))
    engine.send(packs)
    queue.stopped([cell for pack in packs for cell in pack], SENT)
    return queue.outcomes

  def _turn(self, engine: Engine, queue: Queue) -> None:
    packs: list[Pack] = []
    wanted = engine.wanted()
    while (wanted is None or len(packs) < wanted) and (one := queue.take()):
      packs.append(one)
    if packs:
      engine.send(packs)
    for back in engine.back():
      _judge(queue, back)
    queue.look_at_busy()


def _judge(queue: Queue, back: Back) -> None:
  if back.replies is not None:
    queue.answered(back.pack, back.replies)
  elif back.failure is not None:
    queue.failed(back.pack, *back.failure)
  elif back.death is not None:
    queue.died(back.pack, back.death)
  else:
    queue.put_back(back.pack)


@contextlib.contextmanager
def _folder(workdir: Path, name: str, is_used: Callable[[Path], bool]) -> Iterator[Path]:
  """Makes the folder of a launch; removes it after, and those of earlier ones, once nothing uses them."""
  parent = workdir / FOLDER
  for left in parent.glob(f"{name}-*"):
    _remove(left, is_used)
  folder = parent / f"{name}-{uuid.uuid4().hex[:8]}"
  try:
    with lease.claim(folder):
      yield folder
  finally:
    _remove(folder, is_used)
    with contextlib.suppress(OSError):  # another launch has one
      parent.rmdir()


def _remove(folder: Path, is_used: Callable[[Path], bool]) -> None:
  with contextlib.suppress(lease.Busy, OSError), lease.claim(folder):
    if not is_used(folder):
      shutil.rmtree(folder)


def _give_up(queue: Queue, cells: Sequence[Cell], why: str) -> None:
  known = {outcome.cell.cell_id for outcome in queue.outcomes}
  queue.stopped([cell for cell in cells if cell.cell_id not in known], f"{why}; the same command goes on")


def _stop(engine: Engine, queue: Queue, watch: Callable[[], None], told: str) -> None:
  """Lets everything save what it runs; another Ctrl-C kills it."""
  print(told, file=sys.stderr, flush=True)
  try:
    engine.stop()
    with contextlib.suppress(Gone):
      while not engine.is_idle():
        for back in engine.back():
          if back.death is None:  # else it goes on from its checkpoint, another time
            _judge(queue, back)
        with contextlib.suppress(Enough):  # it ends
          watch()
        time.sleep(_POLL_S)
  except KeyboardInterrupt:
    engine.kill()
