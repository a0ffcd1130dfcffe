"""TensorBoard event files in RUN/tb, written by the `tensorboard` package itself, without TensorFlow.

Every attempt writes a file. It begins with a SessionLog.START at the first step that it will tell: there
readers drop what earlier files say of that step and later ones (`purge_step` of other writers). They read
files in the order of their names: a new one comes after those that are there, whatever the clock says.
"""

import contextlib
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from lm_jax.config import Config, cell_id
from lm_jax.rundir import RunDir
from lm_jax.trackers.base import hyperparameters

FOLDER = "tb"
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\..*")


def open_tracker(config: Config, run: RunDir, first: int) -> "TensorBoard":
  return TensorBoard(config, run.path / FOLDER, first)


class TensorBoard:
  """One event file, written and flushed in the caller's thread: a full disk shows at once, and here."""

  def __init__(self, config: Config, folder: Path, first: int):
    from tensorboard.compat.proto import event_pb2  # 0.1 s with the other two
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(exist_ok=True)
    self._event = event_pb2.Event
    self._file = _next_path(folder).open("xb")
    self._records = RecordWriter(self._file)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    try:
      self._write(file_version="brain.Event:2")
      self._write(step=first, session_log=start)
      self._write(summary=summary_v2.hparams_pb(hyperparameters(config), trial_id=cell_id(config)))
      self._file.flush()
    except BaseException:
      with contextlib.suppress(OSError):  # it tries once more to write
        self._file.close()
      raise

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._write(step=step, summary={"value": [{"tag": t, "simple_value": v} for t, v in values.items()]})
    # A checkpoint may follow, and after it the end of the process.
    self._file.flush()

  def close(self, state: str) -> None:
    self._file.close()

  def _write(self, **fields) -> None:
    self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())


def _next_path(folder: Path) -> Path:
  last = max((int(m[1]) for m in map(_NAME.fullmatch, (p.name for p in folder.iterdir())) if m), default=0)
  seconds = max(int(time.time()), last + 1)
  return folder / f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}"
