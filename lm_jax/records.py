"""The unit of result: one flat row with its provenance, appended as a JSON line.

Missing is null, never zero. Rows of one run form a deterministic sequence: only `wall_s` differs
between two runs of the same cell.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lm_jax import __version__

_VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


@dataclasses.dataclass(frozen=True)
class Record:
  """One measured value.

  `n_shots` is the number of demonstrations before the query, null for a value that has none; rows of
  summary metrics over a task's last shots carry `prompt_id` "window". `nll` is in nats a token,
  `tokens` were trained on and `flops_*` spent up to
  `step`, in three measures (`lm_jax.scaling`): 6 N D with all parameters, 6 N D without the embeddings, and
  the matrix products that were computed.
  """

  study: str
  cell_id: str
  family: str
  objective: str
  params_total: int
  params_nonembedding: int
  flops_6nd: float
  flops_6nd_nonembedding: float
  flops_exact: float
  tokens: int
  step: int
  seed: int
  task: str
  split: str
  n_shots: int | None
  prompt_id: str | None
  metric: str
  value: float | None
  stderr: float | None
  n_items: int | None
  chance: float | None
  wall_s: float
  device: str
  lm_jax_version: str
  git_commit: str | None


FIELDS = tuple(f.name for f in dataclasses.fields(Record))
# Fields in which two runs of one cell may differ.
VOLATILE = ("wall_s",)


def append(path: Path, rows: Iterable[Record]) -> None:
  """Appends rows and flushes them to the disk, so that a later checkpoint may count on them."""
  with open(path, "a", encoding="utf-8") as f:
    for row in rows:
      f.write(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n")
    f.flush()
    os.fsync(f.fileno())


def truncate(path: Path, num_bytes: int) -> None:
  """Drops everything after the first `num_bytes`, which are there: rows after the checkpoint resumed from."""
  if path.exists() and path.stat().st_size > num_bytes:
    os.truncate(path, num_bytes)


def read(path: Path) -> list[dict]:
  """Reads a JSONL file of rows; a last line without its newline is still being written and is left out."""
  text = Path(path).read_text(encoding="utf-8")
  # As one list: the rows then share the strings of their keys, and a large study half the time and memory.
  return json.loads("[" + ",".join(text.split("\n")[:-1]) + "]")


@functools.cache
def git_commit() -> str | None:
  """Returns the commit of the checkout lm_jax runs from ("-dirty" when changed), None outside one."""
  root = Path(__file__).parents[1]
  if not (root / ".git").exists():
    return None
  try:
    out = subprocess.run(
      ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
      capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return None
  return out.stdout.strip() or None


def versions() -> dict[str, str]:
  """Returns {package: version} of what decides the numbers of a run besides lm_jax itself."""
  return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}


def provenance() -> dict[str, str | None]:
  return {"lm_jax_version": __version__, "git_commit": git_commit()}
