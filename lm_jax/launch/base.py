"""What a launcher is: it sends cells to where they run, and says what became of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lm_jax.sweep import Cell

Outcome = tuple[Cell, str, str | None]  # cell, final state or BUSY (lm_jax.rundir), what went wrong


class Launcher(Protocol):
  def __call__(
    self, cells: Sequence[Cell], directory_of: Callable[[Cell], Path], watch: Callable[[], None]
  ) -> list[Outcome]:
    """Runs every cell in its directory and returns all outcomes.

    Args:
      directory_of: where a cell's files go.
      watch: called a few times a second while cells run, to show progress.

    Raises:
      KeyboardInterrupt, SystemExit: asked to stop, after every running cell has saved and stopped.
    """
    ...
