"""A process of launch/worker.py as its parent sees it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lm_jax import environment

Reply = tuple[str, str | None, str | None]  # state, error, kind


def slot(cores: Sequence[int]) -> dict[str, str]:
  """Returns the environment of a worker that trains on these cores and no other device."""
  return {
    "LM_JAX_WORKER_CORES": ",".join(map(str, cores)),
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": str(len(cores)),
  }


class WorkerProcess:
  """Trains packs one after another, until it is told to stop, or closed."""

  def __init__(self, environ: Mapping[str, str]):
    # A session of its own: Ctrl-C reaches the launcher only, which then lets the workers save.
    self._process = subprocess.Popen(
      [sys.executable, "-m", "lm_jax.launch.worker"],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
      env=environment.HUGE_PAGES | os.environ | environ,
    )  # fmt: skip

  def is_alive(self) -> bool:
    return self._process.poll() is None

  def send(self, **request: Any) -> None:
    """Sends run=[described cells], which is to be followed by `answer`, or prepare=[...], which is not."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(request) + "\n")
      self._process.stdin.flush()

  def answer(self) -> list[Reply] | None:
    """Returns a reply a cell, None if the process ended without one."""
    line = self._process.stdout.readline()
    return json.loads(line) if line else None

  def ended(self) -> str:
    """Returns how the process ended, in words."""
    code = self._process.wait()
    if code < 0:
      return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process exited {code}"

  def stop(self, number: int = signal.SIGTERM) -> None:
    """Lets it save what it runs, and end; with SIGKILL it only ends."""
    if self.is_alive():
      self._process.send_signal(number)

  def close(self) -> None:
    """Waits for its end, which comes when it has nothing left to do."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
