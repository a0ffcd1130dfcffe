"""What a launcher is: it sends cells to where they run, and says what became of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lm_jax import mirror, strict
from lm_jax.sweep import Cell

DirectoryOf = Callable[[Cell], Path]  # where a cell's files go


class Outcome(NamedTuple):
  """What became of a cell.

  Attributes:
    state: as in status.json (lm_jax.rundir), or BUSY.
    error: what went wrong.
    kind: of the error, see lm_jax.failures.
  """

  cell: Cell
  state: str
  error: str | None = None
  kind: str | None = None


class Enough(Exception):
  """Raised by `watch`: no more is to be trained, and what runs is to save."""


class Launcher(Protocol):
  def __call__(
    self, cells: Sequence[Cell], directory_of: DirectoryOf, watch: Callable[[], None]
  ) -> list[Outcome]:
    """Runs every cell in its directory, in this order as far as there is one, and returns all outcomes.

    Args:
      watch: called a few times a second while cells run, to show progress.

    Raises:
      KeyboardInterrupt, SystemExit: asked to stop, after every running cell has saved and stopped. After
        Enough of `watch` they have so too, and the outcomes that there are by then are returned.
    """
    ...


def described(cell: Cell, directory_of: DirectoryOf) -> dict[str, Any]:
  """Returns what a process must know to train a cell; it may be on another machine."""
  return {**mirror.described(directory_of(cell)), "config": strict.to_dict(cell.config)}
