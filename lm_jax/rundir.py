"""The files of one run, as others see them: who holds it, what it is, and how far it is.

config.json   the resolved config          status.json   state, step, loss, speed, time left
task.json     chance, shots, Bayes curve   records.jsonl, checkpoints/
"""

import contextlib
import dataclasses
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_jax import lease, mirror, mirrored_run, strict
from lm_jax.config import Config, cell_id, from_mapping
from lm_jax.lease import Busy as Busy
from lm_jax.lease import Lease
from lm_jax.strict import ConfigError

# The states of a run as status.json has them. "running" is believed only while its process holds the run.
# "paused" came to config.runtime.stop_at; "pruned" is what a stop rule (lm_jax.launch.halving) ended there.
RUNNING, DONE, STOPPED, FAILED, PAUSED, PRUNED = "running", "done", "stopped", "failed", "paused", "pruned"
# What a launcher finds where another process is at work: no state of the run, and never written into it.
BUSY = "busy"
# How often and after how long a file is read again that another machine replaced meanwhile.
_TRIES, _AGAIN_S = 5, 0.1


@dataclasses.dataclass(frozen=True)
class RunDir:
  path: Path

  @property
  def records(self) -> Path:
    return self.path / "records.jsonl"

  @property
  def checkpoints(self) -> Path:
    return self.path / "checkpoints"

  def claim(self) -> "Lease | mirrored_run.Held":
    """Takes the run until it is released; raises Busy if another process is at work on it."""
    claim: Lease | mirrored_run.Held
    if mirrored := mirror.of(self.path):
      claim = mirrored_run.claim(mirrored.unit(self.path), self.is_done)
    else:
      claim = lease.claim(self.path)
    for left in self.path.glob(".*.json.*"):  # by a process that was killed while it wrote
      left.unlink(missing_ok=True)
    return claim

  def refresh(self) -> None:
    """Fetches what other machines did, where the run is in an object store."""
    if mirrored := mirror.of(self.path):
      mirrored.unit(self.path).refresh()

  @contextlib.contextmanager
  def sending(self) -> Iterator[None]:
    """Lets what is written meanwhile get to others, where the run is in an object store; raises Busy."""
    with self.claim() if mirror.of(self.path) else contextlib.nullcontext():
      yield

  def is_done(self) -> bool:
    status = self.status()
    return status is not None and status["state"] == DONE

  def check(self, config: Config) -> None:
    """Raises ConfigError if the directory holds another run than that of `config`."""
    path = self.path / "config.json"
    if not path.exists():
      return
    try:
      theirs = cell_id(from_json(path))
    except ValueError as error:
      raise ConfigError(f"--workdir={self.path}: its config.json is not a run's ({error})") from None
    if theirs != cell_id(config):
      raise ConfigError(
        f"--workdir={self.path}: holds a run of another config (id {theirs}, this one is "
        f"{cell_id(config)}); choose another workdir, or delete it"
      )

  def write_config(self, config: Config) -> None:
    write_json(self.path / "config.json", strict.to_dict(config))

  def write_task(self, facts: dict[str, Any]) -> None:
    """Writes what analysis draws beside the models; the data must be the same as when the run began."""
    path = self.path / "task.json"
    if path.exists():
      before = json.loads(path.read_text())
      if before["data_digest"] != facts["data_digest"]:
        raise ConfigError(
          f"--workdir={self.path}: the training data changed since the run began "
          f"(digest {before['data_digest']} -> {facts['data_digest']}); choose another workdir"
        )
    write_json(path, facts)

  def status(self) -> dict[str, Any] | None:
    """Returns the last status written, None for a run that never started.

    Also for one whose file cannot be read, as a machine that lost power may leave it: what the run has come
    to is known from its checkpoints, and if that is its end, it is done again at once.
    """
    try:
      return json.loads(read_text(self.path / "status.json"))
    except (FileNotFoundError, ValueError):
      return None

  def write_status(self, state: str, **fields: Any) -> None:
    fields |= {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    # Twice a second, and not missed where it is lost.
    write_json(self.path / "status.json", {"state": state, **fields}, to_disk=False)

  def write_failure(self, error: str, kind: str, **fields: Any) -> None:
    """Writes why the run failed; what it had come to stays told."""
    known = {k: v for k, v in (self.status() or {}).items() if k in ("step", "num_steps", "loss", "wall_s")}
    self.write_status(FAILED, **known | fields, error=error, kind=kind)

  def saved_step(self) -> int:
    """Returns the step of the last checkpoint, 0 where there is none."""
    names = [path.name for path in self.checkpoints.glob("*")]
    mirrored = mirror.of(self.path)
    elsewhere = mirrored.unit(self.path).steps() if mirrored else []
    return max((*(int(name) for name in names if name.isdecimal()), *elsewhere), default=0)


def read_text(path: Path) -> str:
  """Reads a file that others replace while it is read, which NFS may say by ESTALE."""
  for _ in range(_TRIES - 1):
    try:
      return path.read_text(encoding="utf-8")
    except OSError as error:
      if error.errno != errno.ESTALE:
        raise
    time.sleep(_AGAIN_S)
  return path.read_text(encoding="utf-8")


def write_json(path: Path, value: Any, *, to_disk: bool = True) -> None:
  """Writes so that a reader sees the old file or the new one, never a part.

  Args:
    to_disk: that is so also after the machine lost power.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with temporary.open("w", encoding="utf-8") as f:
      f.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
      if to_disk:
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def from_json(path: Path) -> Config:
  """Reads a config.json."""
  return from_mapping(json.loads(path.read_text()))
