"""What a run or sweep will cost, before anything trains."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from lm_jax import power, resolution, scaling
from lm_jax.config import Config, cell_id
from lm_jax.launch.progress import duration
from lm_jax.sweep import Cell, Sweep


def plan(
  loaded: Config | Sweep,
  workers: int,
  flops_per_second: float | None,
  gain: float | None = None,
  seed_sd: float | None = None,
) -> dict[str, Any]:
  """Returns the cells with their costs, and the totals; time is a documented estimate.

  Args:
    workers: cells that run at a time, each at `flops_per_second` (default: one CPU core's).
    gain, seed_sd: see `resolution.resolution`.
  """
  if isinstance(loaded, Config):
    loaded = Sweep(loaded.study, (Cell(cell_id(loaded), loaded, {}),))
  peak = scaling.CORE_FLOPS_PER_SECOND if flops_per_second is None else flops_per_second
  rows = [
    cell.summary() | {
      "memory_bytes": scaling.memory_bytes(cell.config), "seconds": scaling.seconds(cell.config, peak)
    }
    for cell in loaded.cells
  ]  # fmt: skip
  return {
    "study": loaded.study, "cells": rows, "workers": workers, "flops_per_second": peak,
    "flops_exact": sum(row["flops_exact"] for row in rows), "tokens": sum(row["tokens"] for row in rows),
    "seconds": makespan([row["seconds"] for row in rows], workers),
    "resolution": resolution.resolution([cell.config for cell in loaded.cells], gain, seed_sd),
  }  # fmt: skip


def makespan(seconds: list[float], workers: int) -> float:
  """Returns the time of running jobs longest first, each on the worker that is free first."""
  busy_until = [0.0] * max(1, min(workers, len(seconds)))
  for job in sorted(seconds, reverse=True):
    first = busy_until.index(min(busy_until))
    busy_until[first] += job
  return max(busy_until)


def table(result: dict[str, Any]) -> str:
  """Returns the plan as text."""
  grid = Table(box=None, pad_edge=False, header_style="")
  columns = (
    "cell",
    "size",
    "family",
    "seed",
    "params",
    "non-emb.",
    "tokens",
    "FLOPs",
    "6ND",
    "6ND non-emb.",
    "memory",
    "time",
  )
  for i, name in enumerate(columns):
    grid.add_column(name, justify="left" if i < 3 else "right", no_wrap=True)
  for row in result["cells"]:
    grid.add_row(
      row["cell_id"], row["label"], row["family"], str(row["seed"]), f"{row['params_total']:,}",
      f"{row['params_nonembedding']:,}", f"{row['tokens']:,}", f"{row['flops_exact']:.2e}",
      f"{row['flops_6nd']:.2e}", f"{row['flops_6nd_nonembedding']:.2e}",
      f"{row['memory_bytes'] / 2**20:,.0f} MiB", duration(row["seconds"]),
    )  # fmt: skip
  out = io.StringIO()
  Console(file=out, width=200, highlight=False).print(grid)
  total = (
    f"{result['study']}: {len(result['cells'])} cells, {result['tokens']:,} tokens, "
    f"{result['flops_exact']:.2e} FLOPs; about {duration(result['seconds'])} with {result['workers']} "
    f"workers at {result['flops_per_second'] / 1e9:,.0f} GFLOP/s each, compilation not counted"
  )
  parts = [*(line.rstrip() for line in out.getvalue().splitlines()), total]
  if result["resolution"]:
    parts += [
      "", f"What evaluation resolves (one-sided {power.ALPHA:.1%} test, power {power.POWER:.0%}):",
      *(f"  {line}" for line in resolution.text(result["resolution"]).splitlines()),
    ]  # fmt: skip
  return "\n".join(parts)
