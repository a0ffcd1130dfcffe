"""Ray as an engine: a cluster that is running, or one that is started on this machine for a launch.

Each pack is a task; with several hosts, one task on each of as many nodes.
"""

import contextlib
import dataclasses
import functools
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_jax import environment, failures, mirror, rundir
from lm_jax.launch import cores, meeting
from lm_jax.launch.base import DirectoryOf, described
from lm_jax.launch.engine import STOP, Back, EngineLauncher, Gone, Request
from lm_jax.launch.packing import Pack
from lm_jax.launch.queue import Reply
from lm_jax.launch.worker_process import slot
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell

_LOOK_EVERY_S = 0.5
_REACH_S = 10.0
# How long the head may be away: it may come back, where its state is kept elsewhere. Ray waits for 60 s.
_HEAD_S, _HEAD_EVERY_S = 30.0, 0.5
# Sent beyond what has room, so that a worker that is done need not wait for this process.
_AHEAD = 2


def launcher(address: str | None, request: Request) -> EngineLauncher:
  """Returns the launcher of a running cluster's address ("auto": this machine's), or of one to be started."""
  return EngineLauncher("ray", functools.partial(_Ray, address), request)


# --- on a worker ----------------------------------------------------------------------------------


class NotMet(Exception):
  """The processes of a group did not find each other."""


def run(
  cells: Sequence[dict[str, Any]], stop_mark: str, begun_mark: str, cpus: int, group: meeting.Group | None
) -> list[Reply]:
  """Trains cells in a process of Ray's; saves and stops once a mark is there, as no signal gets here.

  Args:
    stop_mark, begun_mark: see lm_jax.mirror.mark; the second is set here, before anything else.

  Raises:
    NotMet: another try may do.
  """
  mirror.set_mark(begun_mark)
  if mirror.is_marked(stop_mark):
    return [(rundir.STOPPED, None, None)] * len(cells)
  # A GPU says by this variable that it is this process's.
  if not os.environ.get("CUDA_VISIBLE_DEVICES", "").strip():
    own = cores.take(cpus)
    os.environ.update(slot(own))
    environment.pin_to_cores(own)
  if group:
    os.environ.update(group.variable())
  try:
    meeting.join()
  except (TimeoutError, ConfigError) as error:
    raise NotMet(str(error)) from None
  from lm_jax import loop
  from lm_jax.launch import worker

  environment.enable_compilation_cache()
  stop, ended = loop.Stop(), threading.Event()

  def look() -> None:
    while not ended.wait(mirror.LOOK_EVERY_S if mirror.is_url(stop_mark) else _LOOK_EVERY_S):
      with contextlib.suppress(OSError):  # a store that is away
        if mirror.is_marked(stop_mark):
          stop.set()

  threading.Thread(target=look, daemon=True).start()
  try:
    return worker.run(cells, stop)
  finally:
    ended.set()


# --- on the launcher ------------------------------------------------------------------------------


@dataclasses.dataclass
class _Sent:
  """A pack on its way.

  Attributes:
    tasks: references; the first one answers.
    begun: the marks that its tasks set first.
    is_taken_back: before it began.
  """

  pack: Pack
  tasks: list[Any]
  begun: list[str]
  placement: Any = None
  is_taken_back: bool = False


class _Ray:
  def __init__(self, address: str | None, folder: Path, directory_of: DirectoryOf, request: Request):
    self._ray = _import()
    self._connect(address)
    self._address = address or "this machine"
    self._directory_of, self._request = directory_of, request
    self._folder, self._stop_mark = folder, mirror.mark(folder / STOP)
    self._sent: list[_Sent] = []
    self._head = self._ray.get_runtime_context().gcs_address
    self._is_head_there, self._head_seen, self._next_look = True, time.monotonic(), 0.0
    try:
      self._room = self._count_room()
    except BaseException:
      self.close()
      raise

  def _connect(self, address: str | None) -> None:
    # Workers must find this very package, also where it is not installed.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    _check_reachable(address)
    try:
      self._ray.init(
        **options, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False, logging_level="ERROR"
      )
    except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
      raise ConfigError(f"--ray_address={address}: {_one_line(error)[:300]}") from None

  def _count_room(self) -> int:
    there = self._ray.cluster_resources()
    r = self._request
    wanted = {"CPU": r.cpus * r.hosts, "GPU": r.gpus * r.hosts}
    if any(count > there.get(name, 0) for name, count in wanted.items()):
      # Nodes may come, of a cluster that grows by what is asked of it.
      asked = " and ".join(f"{count} {name}" for name, count in wanted.items() if count)
      has = ", ".join(f"{there.get(name, 0):g} {name}" for name in wanted)
      print(f"ray: a cell asks for {asked}, {self._address} has {has}; waiting for more", file=sys.stderr)
    return max(1, int(min(there.get(name, 0) // count for name, count in wanted.items() if count)))

  def room(self, cells: Sequence[Cell]) -> int:
    return self._room

  def wanted(self) -> int | None:
    if not self._has_head():  # sending would wait for it
      return 0
    most = self._request.workers or self._room + _AHEAD
    return max(0, most - len(self._sent))

  def send(self, packs: Sequence[Pack]) -> None:
    for pack in packs:
      cells = [described(cell, self._directory_of) for cell in pack]
      self._sent.append(
        self._send_to_hosts(pack, cells) if self._request.hosts > 1 else self._send(pack, cells)
      )

  def _send(self, pack: Pack, cells: list[dict[str, Any]]) -> _Sent:
    begun = self._begun()
    task = self._task().remote(cells, self._stop_mark, begun, self._request.cpus, None)
    return _Sent(pack, [task], [begun])

  def _begun(self) -> str:
    return mirror.mark(self._folder / f"begun-{uuid.uuid4().hex}")

  def _send_to_hosts(self, pack: Pack, cells: list[dict[str, Any]]) -> _Sent:
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    r = self._request
    bundle = {"CPU": r.cpus, **({"GPU": r.gpus} if r.gpus else {})}
    # All of them at once, or none: half of a group would wait for the other half for ever.
    placement = placement_group([bundle] * r.hosts, strategy="STRICT_SPREAD")
    place = str(self._folder / f"meeting-{uuid.uuid4().hex}")
    tasks, files = [], [self._begun() for _ in range(r.hosts)]
    for i, begun in enumerate(files):
      strategy = PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=i)
      # A process can be of one group only.
      task = self._task(scheduling_strategy=strategy, max_calls=1)
      group = meeting.Group(place, i, r.hosts)
      tasks.append(task.remote(cells, self._stop_mark, begun, r.cpus, group))
    return _Sent(pack, tasks, files, placement)

  def _task(self, **options: Any) -> Any:
    r = self._request
    return self._ray.remote(num_cpus=r.cpus, num_gpus=r.gpus, max_retries=0, **options)(run)

  def back(self) -> list[Back]:
    self._has_head()
    references = [task for sent in self._sent for task in sent.tasks]
    ready = self._ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
    found = []
    for sent in list(self._sent):
      if (back := self._judge(sent, ready)) is not None:
        self._sent.remove(sent)
        self._release(sent)
        found.append(back)
    return found

  def _judge(self, sent: _Sent, ready: Sequence[Any]) -> Back | None:
    """Returns what became of a pack; None: it runs. What one host finds is awaited of all of them."""
    if sent.is_taken_back:
      return Back(sent.pack, [(rundir.STOPPED, None, None)] * len(sent.pack))
    answers = []
    for task in sent.tasks:
      if task not in ready:
        continue
      try:
        answers.append(self._ray.get(task))
      except self._ray.exceptions.RayTaskError as error:
        cause = error.cause or error
        if isinstance(cause, NotMet):
          return Back(sent.pack, death=f"its Ray workers did not meet ({_one_line(cause)[:200]})")
        # Nobody has written it down: what fails while cells train is answered.
        return Back(sent.pack, failure=(f"{type(cause).__name__}: {_one_line(cause)}", failures.kind(cause)))
      except self._ray.exceptions.RayError as error:
        # The others of its group wait for it in vain.
        return Back(sent.pack, death=f"its Ray worker was lost ({_one_line(error)[:200]})")
    return Back(sent.pack, answers[0]) if len(answers) == len(sent.tasks) else None

  def _release(self, sent: _Sent) -> None:
    for begun in sent.begun:
      with contextlib.suppress(OSError):  # it may never have begun
        mirror.unmark(begun)
    if len(sent.tasks) == 1:
      return
    from ray.util.placement_group import remove_placement_group

    self._cancel(sent)
    remove_placement_group(sent.placement)

  def is_idle(self) -> bool:
    return not self._sent

  def stop(self) -> None:
    mirror.set_mark(self._stop_mark)
    # What waits for room, which may never be, does not see it.
    for sent in self._sent:
      if not all(map(mirror.is_marked, sent.begun)):
        sent.is_taken_back = True
        self._cancel(sent)

  def kill(self) -> None:
    for sent in self._sent:
      self._cancel(sent)

  def _cancel(self, sent: _Sent) -> None:
    for task in sent.tasks:
      with contextlib.suppress(self._ray.exceptions.RayError):
        self._ray.cancel(task, force=True)

  def close(self) -> None:
    with contextlib.suppress(OSError):
      mirror.unmark(self._stop_mark)
    self._ray.shutdown()

  def _has_head(self) -> bool:
    """Raises Gone once the head has not been there for a while; Ray itself would end this process then."""
    now = time.monotonic()
    if now >= self._next_look:
      self._next_look = now + _HEAD_EVERY_S
      self._is_head_there = _reachability(self._head) is None
      if self._is_head_there:
        self._head_seen = now
      elif now - self._head_seen > _HEAD_S:
        raise Gone(f"the head of the Ray cluster of {self._address} is gone, for {_HEAD_S:.0f} s by now")
    return self._is_head_there


def _check_reachable(address: str | None) -> None:
  """Raises ConfigError where nobody listens, for which Ray itself waits very long."""
  host, colon, _ = (address or "").rpartition(":")
  if not colon or "/" in host:  # auto, local, ray://HOST:PORT
    return
  if why := _reachability(address):
    raise ConfigError(f"--ray_address={address}: nobody answers there ({why})")


def _reachability(address: str) -> str | None:
  """Returns why nobody can be reached at HOST:PORT, None where somebody can."""
  host, _, port = address.rpartition(":")
  try:
    with socket.create_connection((host, int(port)), timeout=_REACH_S):
      return None
  except (OSError, ValueError) as error:
    return str(error)


def _one_line(error: object) -> str:
  return " ".join(str(error).split())


def _import() -> Any:
  try:
    import ray
    import ray.exceptions
  except ImportError:
    raise ConfigError("--launcher=ray: Ray is not installed; pip install 'lm_jax[ray]'") from None
  return ray
