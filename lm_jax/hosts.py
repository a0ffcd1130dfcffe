"""Processes that train one run together, one or more a host, found by jax.distributed.

Every process runs the same program and holds its devices' part of the batch and of the state; only the
first one writes records and status.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lm_jax.strict import ConfigError

AUTO = "auto"


def join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  """Connects this process to the others; call before anything touches a device.

  Args:
    coordinator: HOST:PORT of process 0, or "auto" where the cluster tells (Slurm, Open MPI, a TPU pod,
      GKE: all that jax.distributed.initialize recognizes), and the rest is left out.

  Raises:
    ConfigError: arguments that do not go together, or nobody answered.
  """
  if coordinator == AUTO:
    if num_processes is not None or process_id is not None:
      raise ConfigError("--coordinator=auto: --num_processes and --process_id come from the cluster")
    arguments = {}
  else:
    _check(coordinator, num_processes, process_id)
    arguments = {
      "coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id,
    }  # fmt: skip
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as error:
    raise ConfigError(f"--coordinator={coordinator}: {' '.join(str(error).split())}") from None


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
  host, colon, port = coordinator.rpartition(":")
  if not (host and colon and port.isdecimal()):
    raise ConfigError(f"--coordinator={coordinator}: must be HOST:PORT of the first process, or {AUTO}")
  if num_processes is None or process_id is None:
    raise ConfigError(f"--coordinator={coordinator}: needs --num_processes and --process_id")
  if not 0 <= process_id < num_processes:
    raise ConfigError(f"--process_id={process_id}: must be in 0..{num_processes - 1} (--num_processes)")


def all_devices(count: int | None = None) -> list[jax.Device]:
  """Returns the devices of all processes, or the first `count` (config.parallel.num_devices) of them.

  Raises:
    ConfigError: a platform that is not there, or fewer devices.
  """
  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as error:  # jax asserts that the platforms asked for gave something
    reason = (str(error).splitlines() or ["there is no such device"])[0]
    raise ConfigError(f"JAX_PLATFORMS={jax.config.jax_platforms}: {reason}") from None
  if count is not None and count > len(devices):
    raise ConfigError(
      f"config.parallel.num_devices={count}: must be at most {len(devices)}, the {devices[0].platform} "
      "devices there are"
    )
  return devices[:count]


def is_first() -> bool:
  """Whether this process writes."""
  return jax.process_index() == 0


def whole(tree: Any) -> Any:
  """Returns arrays that every process has whole; where there is one process, they are as they were."""
  if jax.process_count() == 1:
    return tree
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
  """Returns whether any process says yes; all must ask."""
  return any_of([flag])[0]


def any_of(flags: Sequence[bool]) -> list[bool]:
  """Returns of each of several questions whether any process says yes; all must ask."""
  if jax.process_count() == 1:
    return list(flags)
  from jax.experimental import multihost_utils

  return np.any(multihost_utils.process_allgather(np.array(flags)), axis=0).tolist()


def of_first(number: int) -> int:
  """Returns what the first process says; all must ask."""
  if jax.process_count() == 1:
    return number
  from jax.experimental import multihost_utils

  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
