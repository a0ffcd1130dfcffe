"""What a run or sweep will cost, before anything trains."""

import dataclasses
import io
from typing import Any

from rich.console import Console
from rich.table import Table

from lm_jax import devices, power, resolution, scaling
from lm_jax.config import Config, cell_id
from lm_jax.devices import Device
from lm_jax.launch.progress import duration
from lm_jax.sweep import Cell, Sweep

# Share of a device's peak that the products of a large model reach, where nothing better is known: 21 % for
# GPT-3, 30 % for Megatron-Turing NLG, 33 % for Gopher, 46 % for PaLM (arXiv:2204.02311, table 3). What small
# models reach less is not in it: `scaling.seconds_per_step` counts their elementwise work too.
MFU = 0.4


def plan(
  loaded: Config | Sweep,
  workers: int,
  flops_per_second: float | None,
  gain: float | None = None,
  seed_sd: float | None = None,
  device: str | None = None,
  mfu: float | None = None,
  usd_per_hour: float | None = None,
) -> dict[str, Any]:
  """Returns the cells with their costs, and the totals; time is a documented estimate, missing is None.

  Args:
    workers: cells that run at a time, each at `flops_per_second` (default: one CPU core's).
    gain, seed_sd: see `resolution.resolution`.
    device: what each worker has (devices.SHORT_NAMES), instead of `flops_per_second`: a cell runs at its peak
      for the model's dtype times `mfu` (default: MFU), and fits or does not fit its memory.
    usd_per_hour: price of a worker; what it costs is for the hours in which workers train.
  """
  if isinstance(loaded, Config):
    loaded = Sweep(loaded.study, (Cell(cell_id(loaded), loaded, {}),))
  known = devices.named(device) if device else None
  if known and mfu is None:
    mfu = MFU
  rows = []
  for cell in loaded.cells:
    speed = flops_per_second or scaling.CORE_FLOPS_PER_SECOND
    if known:
      speed = _peak(known, cell.config.model.dtype) * mfu
    rows.append(cell.summary() | _costs(cell.config, speed, known, usd_per_hour))
  speeds = {row["flops_per_second"] for row in rows}
  seconds = makespan([row["seconds"] for row in rows], workers)
  device_hours = sum(row["hours"] for row in rows)
  return {
    "study": loaded.study, "cells": rows, "workers": workers,
    "flops_per_second": speeds.pop() if len(speeds) == 1 else None,
    "flops_exact": sum(row["flops_exact"] for row in rows), "tokens": sum(row["tokens"] for row in rows),
    "seconds": seconds, "hours": seconds / 3600, "device_hours": device_hours,
    "device": device, "mfu": mfu, "device_memory_bytes": known and known.memory_bytes,
    "usd_per_hour": usd_per_hour, "usd": None if usd_per_hour is None else device_hours * usd_per_hour,
    "resolution": resolution.resolution([cell.config for cell in loaded.cells], gain, seed_sd),
  }  # fmt: skip


def _peak(device: Device, dtype: str) -> float:
  """Returns the peak FLOP/s for a model's dtype; where the device has no bfloat16, that runs as float32."""
  return device.peak("float32" if device.format_16bit != "bfloat16" else dtype)[0]


def _costs(c: Config, speed: float, device: Device | None, usd_per_hour: float | None) -> dict[str, Any]:
  """Returns what one cell costs in time, memory and money."""
  backend, seconds = _backend(device), scaling.seconds(c, speed)
  memory, room = scaling.memory_bytes(c, backend), None if device is None else device.memory_bytes
  return {
    "memory_bytes": memory, "fits": None if room is None else memory <= room,
    "would_fit": None if room is None or memory <= room else would_fit(c, room, backend),
    "flops_per_second": speed, "seconds": seconds, "hours": seconds / 3600,
    "usd": None if usd_per_hour is None else seconds / 3600 * usd_per_hour,
  }  # fmt: skip


def _backend(device: Device | None) -> str:
  """Returns what `scaling.memory_bytes` asks: NVIDIA's GPUs from Ampere on have cuDNN's attention."""
  return "gpu" if device and device.precision_float32 == "tf32" else "cpu"


def would_fit(c: Config, room: int, backend: str = "cpu") -> list[str]:
  """Returns the changes, as flags of the command line, each of which alone makes a run fit; none may."""
  found = []
  for splits in range(c.train.grad_accum_steps + 1, c.train.batch_size + 1):
    train = dataclasses.replace(c.train, grad_accum_steps=splits)
    if c.train.batch_size % splits == 0 and _fits(dataclasses.replace(c, train=train), room, backend):
      found.append(f"--config.train.grad_accum_steps={splits}")
      break
  for field, value in (("remat", "block"), ("dtype", "bfloat16")):
    change: dict[str, Any] = {field: value}
    if _fits(dataclasses.replace(c, model=dataclasses.replace(c.model, **change)), room, backend):
      found.append(f"--config.model.{field}={value}")
  return found


def _fits(c: Config, room: int, backend: str) -> bool:
  return scaling.memory_bytes(c, backend) <= room


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
    *(["hours"] if result["device"] else []),
    *(["USD"] if result["usd_per_hour"] is not None else []),
  )
  for i, name in enumerate(columns):
    grid.add_column(name, justify="left" if i < 3 else "right", no_wrap=True)
  for row in result["cells"]:
    grid.add_row(
      row["cell_id"], row["label"], row["family"], str(row["seed"]), f"{row['params_total']:,}",
      f"{row['params_nonembedding']:,}", f"{row['tokens']:,}", f"{row['flops_exact']:.2e}",
      f"{row['flops_6nd']:.2e}", f"{row['flops_6nd_nonembedding']:.2e}",
      f"{row['memory_bytes'] / 2**20:,.0f} MiB", duration(row["seconds"]),
      *([f"{row['hours']:,.3g}"] if result["device"] else []),
      *([f"{row['usd']:,.2f}"] if result["usd_per_hour"] is not None else []),
    )  # fmt: skip
  out = io.StringIO()
  Console(file=out, width=200, highlight=False).print(grid)
  speeds = sorted({row["flops_per_second"] for row in result["cells"]})
  total = (
    f"{result['study']}: {len(result['cells'])} cells, {result['tokens']:,} tokens, "
    f"{result['flops_exact']:.2e} FLOPs; about {duration(result['seconds'])} with {result['workers']} "
    f"workers at {' or '.join(f'{speed / 1e9:,.0f}' for speed in speeds)} GFLOP/s each, "
    "compilation not counted"
  )
  parts = [*(line.rstrip() for line in out.getvalue().splitlines()), total, *_priced(result)]
  if result["resolution"]:
    parts += [
      "", f"What evaluation resolves (one-sided {power.ALPHA:.1%} test, power {power.POWER:.0%}):",
      *(f"  {line}" for line in resolution.text(result["resolution"]).splitlines()),
    ]  # fmt: skip
  return "\n".join(parts)


def _priced(result: dict[str, Any]) -> list[str]:
  """Returns what the plan says of a device and a price, a line each."""
  lines = []
  if result["device"]:
    lines.append(
      f"on {result['workers']} x {result['device']}, {result['mfu']:.0%} of the peak reached: about "
      f"{result['hours']:,.3g} hours, {result['device_hours']:,.3g} device-hours"
    )
  if result["usd"] is not None:
    lines.append(
      f"about {result['usd']:,.2f} USD: {result['device_hours']:,.3g} hours of workers that train at "
      f"{result['usd_per_hour']:,g} USD"
    )
  for row in result["cells"]:
    if row["fits"] is False:
      helps = " or ".join(row["would_fit"]) or "a smaller batch and config.parallel.fsdp over more devices"
      lines.append(
        f"{row['cell_id']} {row['label']}: does not fit, {row['memory_bytes'] / 2**30:,.1f} GiB of "
        f"{result['device_memory_bytes'] / 2**30:,.0f}; what would help: {helps}"
      )
  return lines
