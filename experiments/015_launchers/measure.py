"""Times the same sweep by several launchers, in turns, each time in a new workdir; writes results.csv.

    python experiments/015_launchers/measure.py --launcher="" --launcher="--launcher=slurm --workers=2"

A launcher is flags of `lm-jax sweep`; "" is the local one. --cells=N trains N cells of 10 steps of a model
of 888 parameters, whose work is next to nothing; --config=FILE what that says.
"""

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TINY = """
def get_config():
  return {
    "study": "tiny",
    "base": {
      "task": {"name": "rule_induction", "num_items": 4, "num_values": 2, "num_labels": 2},
      "model": {"d_model": 8, "num_layers": 1, "num_heads": 1},
      "optimizer": {"warmup_steps": 2},
      "train": {"num_steps": 10, "batch_size": 8},
      "eval": {"num_examples": 32, "batch_size": 32, "first_step": 16},
      "runtime": {"steps_per_dispatch": 10, "log_every": 10, "checkpoint_every": 10},
    },
    "cells": [{"seed": seed} for seed in range(NUM_CELLS)],
  }
"""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--launcher", action="append", required=True, help="flags of lm-jax sweep")
  parser.add_argument("--config", help="of the sweep (default: --cells of next to no work)")
  parser.add_argument("--cells", type=int, default=500)
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.csv"))
  options = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix="launchers-") as folder:
    config = options.config or str(Path(folder) / "tiny.py")
    if not options.config:
      Path(config).write_text(TINY.replace("NUM_CELLS", str(options.cells)))
    run_sweep(config, Path(folder) / "warm", "")  # so that all find the programs compiled
    walls: dict[str, list[tuple[float, float]]] = {launcher: [] for launcher in options.launcher}
    for turn in range(options.turns):
      for launcher, times in walls.items():
        times.append(run_sweep(config, Path(folder) / f"{turn}-{len(times)}-{hash(launcher)}", launcher))
        print(f"{launcher or 'local'}: {times[-1][0]:.1f} s, trained after {times[-1][1]:.1f} s", flush=True)
  what = Path(options.config).name if options.config else f"{options.cells} cells of 10 steps"
  write(options.output, what, walls)


def run_sweep(config: str, workdir: Path, launcher: str) -> tuple[float, float]:
  """Returns the seconds until the command was done, and until the last cell was."""
  words = ["sweep", f"--config={config}", f"--workdir={workdir}", "--quiet", *shlex.split(launcher)]
  started, clock = time.time(), time.perf_counter()
  done = subprocess.run([sys.executable, "-m", "lm_jax", *words], capture_output=True, text=True)
  wall = time.perf_counter() - clock
  if done.returncode:
    raise SystemExit(f"{launcher}: exit code {done.returncode}: {done.stderr[-2000:]}")
  ends = [json.loads(path.read_text())["time"] for path in workdir.glob("cells/*/status.json")]
  return wall, max(ends) - started


def write(path: Path, what: str, walls: dict[str, list[tuple[float, float]]]) -> None:
  is_new = not path.exists()
  with path.open("a", newline="") as f:
    writer = csv.writer(f, lineterminator="\n")
    if is_new:
      writer.writerow(["sweep", "launcher", "turns", "trained_s", "command_s"])
    for launcher, times in walls.items():
      medians = [f"{statistics.median(one):.1f}" for one in zip(*times, strict=True)]
      writer.writerow([what, launcher or "local", len(times), medians[1], medians[0]])


if __name__ == "__main__":
  main()
