"""One thread of a process that does something for many things, in turns, for as long as there are any."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ticker(Generic[T]):
  """Calls `turn` with each thing that was added and not removed, over and over."""

  def __init__(self, name: str, every_s: Callable[[], float], turn: Callable[[T], None]):
    """Starts nothing before the first `add`.

    Args:
      name: of the thread.
      every_s: seconds from turn to turn.
      turn: must not raise.
    """
    self._name, self._every_s, self._turn = name, every_s, turn
    self._things: list[T] = []
    self._lock = threading.Lock()
    self._thread: threading.Thread | None = None

  def add(self, thing: T) -> None:
    with self._lock:
      self._things.append(thing)
      # After a fork there is no thread in the child.
      if self._thread is None or not self._thread.is_alive():
        self._thread = threading.Thread(target=self._run, daemon=True, name=self._name)
        self._thread.start()

  def remove(self, thing: T) -> None:
    """Forgets a thing, also one that was never added; a turn with it may still be going on."""
    with self._lock:
      if thing in self._things:
        self._things.remove(thing)

  def _run(self) -> None:
    while True:
      time.sleep(self._every_s())
      with self._lock:
        if not self._things:
          self._thread = None
          return
        things = list(self._things)
      for thing in things:
        self._turn(thing)
