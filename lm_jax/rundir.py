"""The files of one run, as others see them: who holds it, what it is, and how far it is.

config.json   the resolved config          status.json   state, step, loss, speed, time left
task.json     chance, shots, Bayes curve   records.jsonl, checkpoints/
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lm_jax import strict
from lm_jax.config import Config, cell_id, from_mapping
from lm_jax.strict import ConfigError

# The states of a run as status.json has them. "running" is believed only while its process holds the lock.
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
# What a launcher finds where another process is at work: no state of the run, and never written into it.
BUSY = "busy"

# How often and for how long a claim is tried again, since a reader may hold the lock for an instant.
_CLAIM_TRIES, _CLAIM_AGAIN_S = 5, 0.05


class Busy(Exception):
  """Another process is at work on the run."""


@dataclasses.dataclass(frozen=True)
class RunDir:
  path: Path

  @property
  def records(self) -> Path:
    return self.path / "records.jsonl"

  @property
  def checkpoints(self) -> Path:
    return self.path / "checkpoints"

  @contextlib.contextmanager
  def claim(self) -> Iterator[None]:
    """Holds the run; raises Busy if another process does. Released by the system if this one dies."""
    self.path.mkdir(parents=True, exist_ok=True)
    with (self.path / "lock").open("w") as lock:
      for _ in range(_CLAIM_TRIES):
        if _try_lock(lock, fcntl.LOCK_EX):
          break
        time.sleep(_CLAIM_AGAIN_S)
      else:
        raise Busy(f"{self.path}: another process is at work on it")
      yield

  def is_claimed(self) -> bool:
    """Whether some process is at work on the run now."""
    try:
      lock = (self.path / "lock").open()
    except FileNotFoundError:
      return False
    with lock:
      return not _try_lock(lock, fcntl.LOCK_SH)

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
    """Returns the last status written, None for a run that never started."""
    path = self.path / "status.json"
    return json.loads(path.read_text()) if path.exists() else None

  def write_status(self, state: str, **fields: Any) -> None:
    fields |= {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    write_json(self.path / "status.json", {"state": state, **fields})


def _try_lock(lock: IO[str], mode: int) -> bool:
  try:
    fcntl.flock(lock, mode | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def write_json(path: Path, value: Any) -> None:
  """Writes so that a reader sees the old file or the new one, never a part."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
  temporary.replace(path)


def from_json(path: Path) -> Config:
  """Reads a config.json."""
  return from_mapping(json.loads(path.read_text()))
