"""The Ray launcher: cells go to a cluster that is running, or to one that is started on this machine.

Ray schedules, by the cores and GPUs that a cell asks for; here only what it gives back is judged. A worker or
a node that dies takes no cell with it: its pack is sent again, and goes on from its checkpoints.
"""

import collections
import contextlib
import dataclasses
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_jax import rundir, strict
from lm_jax.launch import elsewhere
from lm_jax.launch.base import Outcome
from lm_jax.launch.packing import Pack, pack
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell

_WATCH_EVERY_S = 0.25
_BUSY_AGAIN_S = 1.0
# Losses of a worker or a node that one pack survives.
MOST_LOSSES = 5


@dataclasses.dataclass(frozen=True)
class _Sent:
  pack: Pack
  losses: int = 0


class RayLauncher:
  """Runs cells as Ray tasks.

  Args of the constructor:
    address: of a running cluster, "auto" for the one of this machine; None starts one here, and ends it.
    num_workers: most cells (packs) at once; as many as the cluster has room for where it is None.
    cpus, gpus: what each asks for.
  """

  def __init__(
    self, address: str | None = None, num_workers: int | None = None, cpus: float = 1, gpus: float = 0
  ):
    self._address, self.num_workers, self._cpus, self._gpus = address, num_workers, cpus, gpus

  def __call__(
    self, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], watch: Callable[[], None]
  ) -> list[Outcome]:
    ray = _import()
    _connect(ray, self._address)
    try:
      return self._run(ray, cells, directory_of, watch)
    finally:
      ray.shutdown()

  def _run(
    self, ray: Any, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], watch: Callable[[], None]
  ) -> list[Outcome]:
    room = self._room(ray)
    task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(elsewhere.run)
    waiting = collections.deque(
      _Sent(one) for one in pack(cells, self.num_workers or room, accelerator=self._gpus > 0)
    )
    stop_file = Path(directory_of(cells[0])).resolve().parents[1] / f".stop-{uuid.uuid4().hex}"
    running: dict[Any, _Sent] = {}
    outcomes: list[Outcome] = []
    again = 0.0  # when busy ones may be sent again
    busy: list[_Sent] = []
    try:
      while waiting or running or busy:
        if busy and not waiting and time.monotonic() >= again:
          waiting.extend(busy)
          busy.clear()
        while waiting and len(running) < (self.num_workers or len(waiting) + len(running)):
          sent = waiting.popleft()
          running[task.remote([_described(cell, directory_of) for cell in sent.pack], str(stop_file))] = sent
        ready, _ = ray.wait(list(running), timeout=_WATCH_EVERY_S) if running else ([], [])
        if not running:
          time.sleep(_WATCH_EVERY_S)
        for reference in ready:
          sent = running.pop(reference)
          for outcome in self._judged(ray, reference, sent, waiting, directory_of):
            if outcome[1] == rundir.BUSY:
              busy.append(_Sent((outcome[0],)))
              again = time.monotonic() + _BUSY_AGAIN_S
            else:
              outcomes.append(outcome)
        watch()
    except BaseException:
      _stop(ray, running, stop_file)
      raise
    finally:
      stop_file.unlink(missing_ok=True)
      watch()
    return outcomes

  def _room(self, ray: Any) -> int:
    there = ray.cluster_resources()
    for name, wanted in (("CPU", self._cpus), ("GPU", self._gpus)):
      if wanted > there.get(name, 0):
        raise ConfigError(
          f"--launcher=ray: a cell asks for {wanted:g} {name}, the cluster has {there.get(name, 0):g}"
        )
    rooms = [there[name] // wanted for name, wanted in (("CPU", self._cpus), ("GPU", self._gpus)) if wanted]
    return max(1, int(min(rooms, default=1)))

  def _judged(
    self, ray: Any, reference: Any, sent: _Sent, waiting: collections.deque[_Sent],
    directory_of: Callable[[Cell], Path],
  ) -> list[Outcome]:  # fmt: skip
    """Returns the outcomes of a pack; none if it was lost on the way and is sent again."""
    try:
      replies = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # an error of ours: running it again would find it again
      message = " ".join(str(error.cause or error).split())
    except ray.exceptions.RayError as error:
      message = " ".join(str(error).split())
      if sent.losses < MOST_LOSSES:
        print(f"lost and sent again: {', '.join(cell.cell_id for cell in sent.pack)}: {message[:200]}",
              file=sys.stderr, flush=True)  # fmt: skip
        waiting.append(dataclasses.replace(sent, losses=sent.losses + 1))
        return []
      message = f"its worker was lost {sent.losses + 1} times, at last: {message}"
    else:
      return [(cell, *reply) for cell, reply in zip(sent.pack, replies, strict=True)]
    for cell in sent.pack:
      run = RunDir(directory_of(cell))
      if not run.is_done():
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_status(rundir.FAILED, error=message)
    return [(cell, rundir.FAILED, message) for cell in sent.pack]


def _import() -> Any:
  try:
    import ray
    import ray.exceptions
  except ImportError:
    raise ConfigError("--launcher=ray: Ray is not installed; pip install 'lm_jax[ray]'") from None
  return ray


def _connect(ray: Any, address: str | None) -> None:
  # Workers must find this very package, also where it is not installed.
  root = str(Path(__file__).resolve().parents[2])
  path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
  options = {"address": address} if address else {"include_dashboard": False}
  try:
    ray.init(
      **options, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False, logging_level="ERROR"
    )
  except (ConnectionError, RuntimeError, ValueError) as error:
    raise ConfigError(
      f"--launcher=ray: no cluster at {address}: {' '.join(str(error).split())[:200]}"
    ) from None


def _described(cell: Cell, directory_of: Callable[[Cell], Path]) -> dict[str, Any]:
  return {"directory": str(Path(directory_of(cell)).resolve()), "config": strict.to_dict(cell.config)}


def _stop(ray: Any, running: dict[Any, _Sent], stop_file: Path) -> None:
  """Lets every worker save what it runs; a second Ctrl-C kills them."""
  print("stopping: running cells save first; Ctrl-C again kills them", file=sys.stderr, flush=True)
  try:
    stop_file.touch()
    if running:
      ray.wait(list(running), num_returns=len(running))
  except KeyboardInterrupt:
    for reference in running:
      with contextlib.suppress(ray.exceptions.RayError):
        ray.cancel(reference, force=True)
