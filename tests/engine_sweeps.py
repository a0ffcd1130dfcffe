"""The sweep that engines train while they are disturbed, and what it must leave."""

from pathlib import Path

import processes
import pytest
from processes import lasting_rows, lm_jax, status, sweep_tree, write_config

from lm_jax import rundir

NUM_STEPS = 1500
TREE = sweep_tree(seeds=(0, 1), train={"num_steps": NUM_STEPS}, runtime={"checkpoint_every": 50})


def cells(workdir: Path) -> list[Path]:
  return sorted((workdir / "cells").iterdir()) if (workdir / "cells").is_dir() else []


def running(workdir: Path) -> list[Path]:
  """Returns the cells that have saved a checkpoint, are not done, and whose process lives."""
  found = [(cell, status(cell)) for cell in cells(workdir)]
  return [
    cell for cell, at in found
    if at.get("state") == rundir.RUNNING and at["step"] > 50 and processes.is_alive(at["pid"])
  ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, list]:
  """Returns the records of each cell, trained on this machine by itself."""
  folder = tmp_path_factory.mktemp("undisturbed")
  done = lm_jax("sweep", f"--config={write_config(folder / 's.py', TREE)}", f"--workdir={folder / 'w'}")
  assert done.returncode == 0, done.stderr
  return {cell.name: lasting_rows(cell) for cell in cells(folder / "w")}


def assert_as_undisturbed(workdir: Path, undisturbed: dict[str, list]) -> None:
  assert {cell.name: lasting_rows(cell) for cell in cells(workdir)} == undisturbed
  assert not (workdir / "launches").exists()
