"""Where the claims of a folder are: as files lease.1, lease.2, ... in it, or elsewhere."""

import errno
import os
import re
from pathlib import Path
from typing import Protocol

_NAME = re.compile(r"lease\.(\d+)")
# What file systems say that lack hard links, or locks.
LACKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)


def number_of(name: str) -> int | None:
  """Returns the number of a claim by its name, None for what is none."""
  match = _NAME.fullmatch(name)
  return int(match[1]) if match else None


class Place(Protocol):
  """Where the claims of a folder are.

  Attributes:
    has_own_lock: whether the lock of the folder is another than that of the folder on other machines.
  """

  has_own_lock: bool

  def numbers(self) -> list[int]: ...

  def read(self, number: int) -> bytes:
    """Raises FileNotFoundError where there is no such claim."""
    ...

  def create(self, number: int, token: str, data: bytes) -> None:
    """Raises FileExistsError where there is one: of several that try at once one succeeds."""
    ...

  def write(self, number: int, data: bytes) -> None: ...

  def remove(self, number: int) -> None: ...

  def clear(self) -> None:
    """Removes what was left of claims that were never made to the end."""
    ...


class Files:
  """Claims as files of the folder itself."""

  has_own_lock = False

  def __init__(self, folder: Path):
    self._folder = folder

  def _path(self, number: int) -> Path:
    return self._folder / f"lease.{number}"

  def numbers(self) -> list[int]:
    try:
      names = os.listdir(self._folder)
    except FileNotFoundError:
      return []
    return [number for number in map(number_of, names) if number is not None]

  def read(self, number: int) -> bytes:
    # Opened anew each time: network file systems then show what was last written (close-to-open consistency).
    return self._path(number).read_bytes()

  def create(self, number: int, token: str, data: bytes) -> None:
    # As a link, which like an exclusive creation succeeds for one alone, but is whole from the first moment.
    temporary, path = self._folder / f".lease.{token}", self._path(number)
    try:
      temporary.write_bytes(data)
      os.link(temporary, path)
    except OSError as error:
      if error.errno not in LACKS:
        raise
      with path.open("xb") as f:
        f.write(data)
    finally:
      temporary.unlink(missing_ok=True)

  def write(self, number: int, data: bytes) -> None:
    with self._path(number).open("r+b") as f:
      f.write(data)

  def remove(self, number: int) -> None:
    self._path(number).unlink(missing_ok=True)

  def clear(self) -> None:
    for left in self._folder.glob(".lease.*"):
      left.unlink(missing_ok=True)
