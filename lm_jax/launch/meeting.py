"""How processes that an engine started on several hosts find each other, to train one run together.

The first writes where it is into a file of the shared workdir, and the others wait for it.
"""

import dataclasses
import json
import os
import socket
import time
from pathlib import Path

# Carries a Group, as JSON, to a worker process.
VARIABLE = "LM_JAX_WORKER_GROUP"
_WAIT_S, _LOOK_EVERY_S = 300.0, 0.1


@dataclasses.dataclass(frozen=True)
class Group:
  """Processes that train together, as one of them sees it.

  Attributes:
    place: file where they meet; of this group alone.
    rank: of this process, from 0.
  """

  place: str
  rank: int
  size: int

  def variable(self) -> dict[str, str]:
    return {VARIABLE: json.dumps(dataclasses.asdict(self))}


def own() -> Group | None:
  """Returns the group of this process, None if it trains alone."""
  text = os.environ.get(VARIABLE)
  return Group(**json.loads(text)) if text else None


def join() -> None:
  """Connects this process to its group, if it has one; call before anything touches a device.

  Raises:
    TimeoutError: the first process did not come.
  """
  group = own()
  if group is None:
    return
  from lm_jax import hosts

  hosts.join(_address(group), group.size, group.rank)
  if group.rank == 0:  # all have come
    Path(group.place).unlink()


def _address(group: Group) -> str:
  place = Path(group.place)
  if group.rank == 0:
    temporary = place.with_name(f"{place.name}.new")
    temporary.write_text(f"{_own_address()}:{_free_port()}")
    temporary.replace(place)
    return place.read_text()
  deadline = time.monotonic() + _WAIT_S
  while time.monotonic() < deadline:
    if place.exists():
      return place.read_text()
    time.sleep(_LOOK_EVERY_S)
  raise TimeoutError(f"the first of {group.size} processes did not come to {place} within {_WAIT_S:.0f} s")


def _own_address() -> str:
  """Returns this machine's address as its network knows it, else the one that its name stands for."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    try:
      s.connect(("192.0.2.1", 9))  # nothing is sent; the route names the address
      return s.getsockname()[0]
    except OSError:
      return socket.gethostbyname(socket.gethostname())


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("", 0))
    return s.getsockname()[1]
