"""Claims of a run that lie in an object store, where every machine sees them.

lease.N is an object, which is made only where there is none. A copy of it lies in the run's folder of this
machine, beside the lock that a claim keeps there: so what only looks needs no store, and a process that died
on this very folder is followed at once.
"""

import contextlib
from pathlib import Path

from lm_jax.lease_place import Files, number_of
from lm_jax.objects import Store


class Objects:
  """The place of a run's claims (lm_jax.lease_place.Place)."""

  has_own_lock = True

  def __init__(self, store: Store, name: str, folder: Path):
    """Takes the run's name in the store, "" for the store itself, and its folder here."""
    self._store, self._name, self._folder = store, name, folder

  def _object(self, number: int) -> str:
    return f"{self._name}/lease.{number}".lstrip("/")

  def numbers(self) -> list[int]:
    names = self._store.stats(self._name, prefix="lease.")
    return [number for number in map(number_of, names) if number is not None]

  def read(self, number: int) -> bytes:
    return self._store.read(self._object(number))

  def create(self, number: int, token: str, data: bytes) -> None:
    self._store.create(self._object(number), data)
    self._copy(number, data)

  def write(self, number: int, data: bytes) -> None:
    # One that was followed is gone, and must not come back.
    if number not in self.numbers():
      raise FileNotFoundError(self._object(number))
    self._store.write(self._object(number), data)
    self._copy(number, data)

  def remove(self, number: int) -> None:
    self._store.remove(self._object(number))
    (self._folder / f"lease.{number}").unlink(missing_ok=True)

  def clear(self) -> None:
    """Nothing is left of a claim that was not made; copies that others were here to follow may be."""
    there = set(self.numbers())
    for number in Files(self._folder).numbers():
      if number not in there:
        (self._folder / f"lease.{number}").unlink(missing_ok=True)

  def _copy(self, number: int, data: bytes) -> None:
    temporary = self._folder / f".lease.{number}"
    with contextlib.suppress(OSError):  # a full disk: the object is what counts
      temporary.write_bytes(data)
      temporary.replace(self._folder / f"lease.{number}")
