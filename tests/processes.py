"""Tiny configs, and `lm-jax` in processes of its own, as a person at a terminal runs it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_jax import loop, records

ROOT = Path(__file__).resolve().parents[1]

RUN = {
  "study": "tiny",
  "task": {"name": "rule_induction", "num_items": 4, "num_values": 2, "num_labels": 2},
  "model": {"d_model": 8, "num_layers": 1, "num_heads": 1},
  "optimizer": {"warmup_steps": 10},
  "train": {"num_steps": 60, "batch_size": 8},
  "eval": {"num_examples": 32, "batch_size": 32, "first_step": 16},
  "runtime": {"steps_per_dispatch": 10, "log_every": 20, "checkpoint_every": 30},
}


def merged(tree: dict[str, Any], **groups: Any) -> dict[str, Any]:
  """Returns `tree` with fields of its groups replaced."""
  return {**tree, **{k: tree.get(k, {}) | v if isinstance(v, dict) else v for k, v in groups.items()}}


def write_config(path: Path, tree: Any) -> str:
  """Writes a config file that returns `tree` and returns its name, for --config."""
  path.write_text(f"def get_config():\n  return {tree!r}\n")
  return str(path)


def sweep_tree(widths=(8, 16), seeds=(0,), **groups: Any) -> dict[str, Any]:
  cells = [{"model.d_model": d, "seed": s} for s in seeds for d in widths]
  base = {k: v for k, v in merged(RUN, **groups).items() if k != "study"}
  return {"study": "tiny", "base": base, "cells": cells}


# --- processes ------------------------------------------------------------------------------------


def start(*words: str | Path, platform: str = "cpu", **options: Any) -> subprocess.Popen:
  """Starts `lm-jax WORDS` on a platform, with nothing of this process's own settings and no input."""
  env = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
  env |= {"JAX_PLATFORMS": platform, "PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])}
  return subprocess.Popen(
    [sys.executable, "-m", "lm_jax", *map(str, words)],
    text=True, env=env,
    **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
  )  # fmt: skip


def finish(
  process: subprocess.Popen, typed: str | None = None, timeout: float = 400
) -> subprocess.CompletedProcess:
  """Waits for a process and returns its exit code and output.

  Args:
    typed: its input, if it was started with stdin=PIPE.
  """
  try:
    out, err = process.communicate(typed, timeout=timeout)
  finally:
    process.kill()
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def lm_jax(*words: str | Path, platform: str = "cpu") -> subprocess.CompletedProcess:
  return finish(start(*words, platform=platform))


def wait_until(condition: Callable[[], Any], process: subprocess.Popen | None = None) -> Any:
  """Returns the first true value of `condition`; fails if `process` ends or two minutes pass before."""
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline:
    if value := condition():
      return value
    if process and process.poll() is not None:
      raise AssertionError(f"ended with {process.returncode} before: {process.communicate()}")
    time.sleep(0.005)
  raise AssertionError("not within two minutes")


def is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True


# --- what a run left ------------------------------------------------------------------------------


def status(run: Path) -> dict[str, Any]:
  """Returns the status of a run, {} before there is one."""
  path = run / "status.json"
  return json.loads(path.read_text()) if path.exists() else {}


def last_step(run: Path) -> int:
  """Returns the last step of the records."""
  path = run / "records.jsonl"
  return max((row["step"] for row in records.read(path)), default=0) if path.exists() else 0


def lasting_rows(run: Path) -> list[dict[str, Any]]:
  """Returns the records without what may differ between two runs of a cell."""
  rows = records.read(run / "records.jsonl")
  return [{k: v for k, v in row.items() if k not in records.VOLATILE} for row in rows]


# --- runs in this process -------------------------------------------------------------------------


class StopAfter(loop.Stop):
  """Asks a run to stop when its loop has looked n times, once before each dispatch, and looks again."""

  def __init__(self, looks: int):
    super().__init__()
    self._left = looks

  def is_set(self) -> bool:
    self._left -= 1
    return self._left < 0
