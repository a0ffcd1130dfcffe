"""Checkpoints with Orbax: written in the background, and there whole or not at all."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lm_jax.state import TrainState

# Orbax reports every step of every save; a run's own progress is shown elsewhere.
logging.getLogger("absl").setLevel(logging.WARNING)


class Checkpoints:
  """The checkpoints of one run: the training state, and the position of everything outside of it.

  The position is JSON: the step, how many bytes of records.jsonl belong to it, losses not yet recorded.
  """

  def __init__(self, directory: Path, keep: int):
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def all_steps(self) -> list[int]:
    return list(self._manager.all_steps())

  def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
    """Copies the state and returns; writing goes on in the background, and ends in a rename."""
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
    self._manager.save(step, args=args)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state and position saved at `step`, in the shapes and shardings of `like`."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore()
    )  # fmt: skip
    restored = self._manager.restore(step, args=args)
    return restored.state, restored.position

  def wait(self) -> None:
    """Returns when everything saved is on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()
