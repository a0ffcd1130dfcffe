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
from typing import Any

from lm_jax import strict
from lm_jax.config import Config, cell_id
from lm_jax.strict import ConfigError

# The states of a run. "running" is believed only while its process holds the lock.
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"


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
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise Busy(f"{self.path}: another process is at work on it") from None
      yield

  def is_claimed(self) -> bool:
    """Whether some process is at work on the run now."""
    if not (self.path / "lock").exists():
      return False
    try:
      with self.claim():
        return False
    except Busy:
      return True

  def begin(self, config: Config) -> None:
    """Writes the config, or checks that this is the run that it was made for."""
    path = self.path / "config.json"
    if path.exists():
      theirs = cell_id(from_json(path))
      if theirs != cell_id(config):
        raise ConfigError(
          f"--workdir={self.path}: holds a run of another config (id {theirs}, this one is "
          f"{cell_id(config)}); choose another workdir, or delete it"
        )
    write_json(path, strict.to_dict(config))

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


def write_json(path: Path, value: Any) -> None:
  """Writes so that a reader sees the old file or the new one, never a part."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
  temporary.replace(path)


def from_json(path: Path) -> Config:
  """Reads a config.json."""
  from lm_jax import config

  return config.from_mapping(json.loads(path.read_text()))
