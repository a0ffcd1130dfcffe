"""Checkpoints with Orbax: written in the background, there whole or not at all, and found out where damaged.

Beside the state lies its position, a JSON object: {"position": ..., "state": the checksum of every array of
the state, "digest": of the two before}. Orbax reads some damaged files without a word; these two tell. (A
checkpoint from before there were checksums is the position alone, and is believed.)
"""

import contextlib
import dataclasses
import functools
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import failures, hosts, strict
from lm_jax.checksum import checksums
from lm_jax.state import TrainState
from lm_jax.strict import ConfigError

# Orbax reports every step of every save; a run's own progress is shown elsewhere.
logging.getLogger("absl").setLevel(logging.WARNING)


# What goes wrong with the disk it raises too, and whoever runs the run tells that in a line.
def _is_told_elsewhere(error: BaseException) -> bool:
  # Threads of a save that failed may still be there when their process ends.
  return failures.kind(error) == failures.DISK or "after interpreter shutdown" in str(error)


logging.getLogger("absl").addFilter(lambda told: not (told.exc_info and _is_told_elsewhere(told.exc_info[1])))

_FIELDS = ("position", "state", "digest")
_SET_ASIDE = "damaged-"


class Damaged(Exception):
  """A checkpoint that cannot be used; the message says in one line how that shows."""


def saved_steps(directory: Path) -> list[int]:
  """Returns the steps saved, of a run that may be at work; nothing is written or cleaned up."""
  paths = Path(directory).glob("*")
  return sorted(int(path.name) for path in paths if path.name.isdecimal() and path.is_dir())


def read_params(directory: Path, step: int) -> Any:
  """Returns the parameters saved at `step` as they were written, numpy; the rest of the state is not read.

  Raises:
    Damaged: they are not what was saved.
  """
  saved = _read_saved(directory, step)
  parts = _read_state(directory, step, ("params",))
  expected = {path: sums for path, sums in (saved.state or {}).items() if path.startswith("params/")}
  _check(parts, None if saved.state is None else expected)
  return parts["params"]


@dataclasses.dataclass(frozen=True)
class _Saved:
  """What lies beside a state: the position, and the checksums by the paths of its arrays (None: has none)."""

  position: dict[str, Any]
  state: dict[str, str] | None


def _read_saved(directory: Path, step: int) -> _Saved:
  with _damage_shows():
    found = json.loads((Path(directory) / str(step) / "position" / "metadata").read_bytes())
    saved = _Saved(found, None)
    if set(_FIELDS) & set(found):
      saved = _Saved(found["position"], found["state"])
      if found["digest"] != _digest(saved.position, saved.state):
        raise ValueError("the position is not the one that was saved")
    if saved.position["step"] != step:
      raise ValueError(f"the position is of step {saved.position['step']}")
    return saved


def _digest(position: dict[str, Any], state: dict[str, str]) -> str:
  return strict.digest([position, state], length=16)


def _read_state(directory: Path, step: int, names: Iterable[str] | None = None) -> Any:
  """Returns parts of a state (default: all) as numpy, read by this process alone, whatever others do."""
  import orbax.checkpoint as ocp

  path, own = Path(directory).absolute() / str(step) / "state", jax.process_index()
  alone = ocp.options.MultiprocessingOptions(own, {own}, f"process_{own}")
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  reading = ocp.Checkpointer(handler, multiprocessing_options=alone)
  _ignore_late_ends()
  with _damage_shows(), _quiet(), reading as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), {name: tree[name] for name in names or tree}
    )
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    args = ocp.args.PyTreeRestore(item=like, restore_args=as_numpy, partial_restore=True)
    return checkpointer.restore(path, args=args)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(tree: Any) -> dict[str, Any]:
  """Returns the arrays of a tree by the names that their checksums have."""
  return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check(state: Any, expected: Mapping[str, str] | None) -> None:
  """Raises Damaged unless the arrays have the checksums that were saved with them, if any were."""
  if expected is None:
    return
  found = checksums(state)
  differing = [path for path in found | expected if found.get(path) != expected.get(path)]
  if differing:
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    raise Damaged(f"damaged: {differing[0]}{more} changed since it was saved")


@contextlib.contextmanager
def _damage_shows() -> Iterator[None]:
  """Makes Damaged of what Orbax and those below it raise: they have an error for every kind of damage."""
  try:
    yield
  except (Damaged, jax.errors.JaxRuntimeError, MemoryError, PermissionError):  # not the checkpoint's fault
    raise
  except Exception as error:
    what = " ".join(str(error).split())
    raise Damaged(f"damaged: {what[:120]}{'...' * (len(what) > 120)}") from error


@functools.cache
def _ignore_late_ends() -> None:
  """Leaves unsaid that the loop which waited for a file is closed: others go on when one has failed."""
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = hook


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

    options = ocp.CheckpointManagerOptions(
      max_to_keep=self._keep, enable_async_checkpointing=True,
      cleanup_tmp_directories=True,  # of saves in which an earlier process was killed
    )  # fmt: skip
    return ocp.CheckpointManager(self._directory, options=options)

  def _is_used(self) -> bool:
    return "_manager" in vars(self)

  def all_steps(self) -> list[int]:
    return saved_steps(self._directory)

  def latest_step(self, before: int | None = None) -> int | None:
    """Returns the latest step saved (`before` another); where there are several processes, all must ask."""
    steps = [step for step in self.all_steps() if before is None or step < before]
    return hosts.of_first(max(steps, default=0)) or None  # nothing is saved at step 0

  def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
    """Copies the state and returns; writing goes on in the background, and ends in a rename."""
    import orbax.checkpoint as ocp

    _ignore_late_ends()
    sums = checksums(state)
    saved = dict(zip(_FIELDS, (position, sums, _digest(position, sums)), strict=True))
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(saved))
    self._manager.save(step, args=args)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state and position saved at `step`, in the shapes and shardings of `like`.

    Raises:
      Damaged: they are not what was saved; where there are several processes, in all of them.
      ConfigError: a whole checkpoint, but of another kind of state.
    """
    if jax.process_count() > 1:
      return self._restore_together(step, like)
    saved = _read_saved(self._directory, step)
    found = _by_path(self._read_whole(step, saved))
    self._check_kind(step, like, set(found))

    def placed(path: Any, x: Any) -> Any:
      value = found[_name(path)]
      if (value.shape, value.dtype) != (x.shape, x.dtype):
        raise Damaged(f"damaged: {_name(path)} is {value.dtype} {value.shape}, not {x.dtype} {x.shape}")
      return jax.device_put(value, x.sharding) if isinstance(x, jax.Array | jax.ShapeDtypeStruct) else value

    return jax.tree_util.tree_map_with_path(placed, like), saved.position

  def _read_whole(self, step: int, saved: _Saved) -> Any:
    state = _read_state(self._directory, step)
    _check(state, saved.state)
    return state

  def _restore_together(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Restores as `restore` does in one of several processes, each of which reads its devices' parts.

    Where Orbax fails in one process, it leaves the others waiting: so the first one reads all of it before.
    """
    import orbax.checkpoint as ocp

    saved, damage = None, None
    try:
      saved = _read_saved(self._directory, step)
      if hosts.is_first():
        self._read_whole(step, saved)
    except Damaged as error:
      damage = error
    if hosts.any_process(damage is not None):
      raise damage or Damaged("damaged, as another process found")
    if saved.state is not None:
      self._check_kind(step, like, set(saved.state))
    args = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      state = checkpointer.restore(self._directory / str(step) / "state", args=args)
    _check(state, saved.state)
    return state, saved.position

  def _check_kind(self, step: int, like: TrainState, saved: set[str]) -> None:
    """Raises ConfigError where a state has other arrays: this must not pass for damage, and be given up."""
    own = set(_by_path(like))
    if differing := sorted(own ^ saved):
      which = "lacks" if differing[0] in own else "has"
      raise ConfigError(
        f"{self._directory / str(step)}: was saved by another version of lm_jax: its state {which} "
        f"{differing[0]}; go on with that version, or delete {self._directory} to start over"
      )

  def set_aside(self, steps: Iterable[int]) -> None:
    """Takes damaged checkpoints out of the way of those that will be saved at their steps.

    They are renamed, and deleted only when there is a later one (see `wait`): until then something may be
    found to save of them, and where reading failed for another reason, nothing is lost.
    """
    for step in steps:
      aside = self._directory / f"{_SET_ASIDE}{step}"
      if aside.exists():
        shutil.rmtree(aside)
      (self._directory / str(step)).rename(aside)

  def wait(self) -> None:
    """Returns when everything saved is on the disk; drops damaged ones that were overtaken."""
    if self._is_used():
      self._manager.wait_until_finished()
    if hosts.is_first():
      latest = max(self.all_steps(), default=-1)
      for aside in self._directory.glob(f"{_SET_ASIDE}*"):
        step = aside.name.removeprefix(_SET_ASIDE)
        if step.isdecimal() and int(step) <= latest:
          shutil.rmtree(aside)

  def close(self) -> None:
    if self._is_used():
      self._manager.close()
