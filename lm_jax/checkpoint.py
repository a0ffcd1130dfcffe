"""Checkpoints with Orbax: written in the background, and there whole or not at all."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax.state import TrainState

# Orbax reports every step of every save; a run's own progress is shown elsewhere.
logging.getLogger("absl").setLevel(logging.WARNING)


def saved_steps(directory: Path) -> list[int]:
  """Returns the steps saved, of a run that may be at work; nothing is written or cleaned up."""
  return sorted(int(path.name) for path in Path(directory).glob("*") if path.name.isdecimal())


def read_params(directory: Path, step: int) -> Any:
  """Returns the parameters saved at `step` as they were written, numpy; the rest of the state is not read."""
  import orbax.checkpoint as ocp

  path = Path(directory).absolute() / str(step) / "state"
  with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
    saved = checkpointer.metadata(path).item_metadata.tree["params"]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    args = ocp.args.PyTreeRestore(
      item={"params": like}, restore_args={"params": as_numpy}, partial_restore=True
    )
    return checkpointer.restore(path, args=args)["params"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax warns that a part of a checkpoint is not a whole one."""
  logger = logging.getLogger("absl")
  before = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(before)


class Checkpoints:
  """The checkpoints of one run: the training state, and the position of everything outside of it.

  The position is JSON: the step, how many bytes of records.jsonl belong to it, losses not yet recorded.
  """

  def __init__(self, directory: Path, keep: int):
    self._directory, self._keep = Path(directory).absolute(), keep

  @functools.cached_property
  def _manager(self) -> Any:
    """Returns the ocp.CheckpointManager. Orbax is imported only now: a new run's first step needs neither."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, enable_async_checkpointing=True)
    return ocp.CheckpointManager(self._directory, options=options)

  def _is_used(self) -> bool:
    return "_manager" in vars(self)

  def all_steps(self) -> list[int]:
    if not self._is_used() and not (self._directory.is_dir() and any(self._directory.iterdir())):
      return []
    return list(self._manager.all_steps())

  def latest_step(self) -> int | None:
    return max(self.all_steps(), default=None)

  def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
    """Copies the state and returns; writing goes on in the background, and ends in a rename."""
    import orbax.checkpoint as ocp

    args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
    self._manager.save(step, args=args)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state and position saved at `step`, in the shapes and shardings of `like`."""
    import orbax.checkpoint as ocp

    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore()
    )  # fmt: skip
    restored = self._manager.restore(step, args=args)
    return restored.state, restored.position

  def wait(self) -> None:
    """Returns when everything saved is on the disk."""
    if self._is_used():
      self._manager.wait_until_finished()

  def close(self) -> None:
    if self._is_used():
      self._manager.close()
