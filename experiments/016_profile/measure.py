"""Where the time of a training step goes: the operations of a trace, by self time.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 taskset -c 1 python experiments/016_profile/measure.py \
      configs/bench/d64.py configs/bench/d256.py

Compiles each config's steps as `lm-jax train` does, runs some without and as many under jax.profiler.trace,
and reads the trace.json.gz that jax leaves (no TensorFlow, no TensorBoard): for each operation of the
compiled program its calls, its time without that of operations within it, and what of the model it comes
from, by the names that jax gave it. Prints the largest and the sums by part; --csv writes them,
--keep=DIR keeps the trace, which https://ui.perfetto.dev opens.
"""

import argparse
import collections
import csv
import dataclasses
import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import config_file, environment, programs
from lm_jax.bench import clocks
from lm_jax.config import Config

ROUNDS = 3
LEAST = 0.001  # share of all, of an operation that is written down
# Part of the step by what a name has in it: the first that fits. A fusion has the name of its last operation.
_WEIGHTS = r"/(MF,DF->MD/|MD,MF->DF/|MF,MD->FD/)?dot_general"
PARTS = (
  (rf"/mlp{_WEIGHTS}", "products of the MLP"),
  (rf"/attention{_WEIGHTS}", "products of q, k, v and out"),
  (rf"jvp\(Transformer\)+{_WEIGHTS}", "products of the output layer"),
  (r"/attention/", "attention: scores, softmax, layout"),
  (r"norm/", "norms"),
  (r"/mlp/", "GELU"),
  (r"embedding|_add_positions|block_\d+/add", "embeddings, residuals"),
  (r"jvp\(", "loss"),
  (r"_randint|_uniform|threefry|sample", "drawing the batch"),
)


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation of the compiled program.

  Attributes:
    source: the name that jax gave it: functions and modules, from the outside in.
    self_ms: a step, without operations within it: the least of its calls, times their number, since on a
      machine in use all others may hold what was done meanwhile.
    calls: a step.
  """

  name: str
  source: str
  part: str
  calls: float
  self_ms: float


def self_times(events: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
  """Returns {operation: microseconds of its own, of each call} of complete events ("ph": "X") of a trace.

  An event lies within another if it is on the same thread and begins before the other ends.
  """
  found: collections.defaultdict[str, list[float]] = collections.defaultdict(list)
  outer: dict[tuple[int, int], list[tuple[float, str, int]]] = collections.defaultdict(list)
  for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
    name, around = event["args"]["hlo_op"], outer[event["pid"], event["tid"]]
    while around and around[-1][0] <= event["ts"]:
      around.pop()
    if around:
      _, owner, call = around[-1]
      found[owner][call] -= event["dur"]
    found[name].append(event["dur"])
    around.append((event["ts"] + event["dur"], name, len(found[name]) - 1))
  return dict(found)


def sources(program: str) -> dict[str, str]:
  """Returns {operation: the name that jax gave it} of a compiled program's text."""
  found = re.findall(r"%([\w.-]+) = .*?metadata=\{[^}]*?op_name=\"([^\"]*)\"", program)
  return dict(found)


def read(folder: Path) -> list[dict[str, Any]]:
  """Returns the operations in the one trace below a folder."""
  (path,) = folder.glob("plugins/profile/*/*.trace.json.gz")
  with gzip.open(path, "rt") as f:
    events = json.load(f)["traceEvents"]
  return [event for event in events if event.get("ph") == "X" and "hlo_op" in event.get("args", {})]


def part_of(source: str) -> str:
  return next(
    (part for pattern, part in PARTS if re.search(pattern, source)), "optimizer, clipping, the rest"
  )


def profile(config: Config, num_steps: int, folder: Path) -> tuple[list[Operation], np.ndarray, np.ndarray]:
  """Returns the operations, the largest first, and milliseconds a step without and with a trace.

  The latter are by the clock, and of CPU time of the process.
  """
  _, engine = programs.make([config])
  program = engine.compile([config]).as_text()
  state, done = engine.start([config]), 0

  def step_ms() -> np.ndarray:
    nonlocal state, done
    start = clocks()
    state, _ = jax.block_until_ready(engine.run(state, done, num_steps))
    done += num_steps
    return 1e3 * (clocks() - start) / num_steps

  step_ms()
  plain = np.median([step_ms() for _ in range(ROUNDS)], axis=0)
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # Python waits; its calls would fill the trace
  with jax.profiler.trace(folder, profiler_options=options):
    traced = step_ms()
  named = sources(program)
  found = [
    Operation(name, named.get(name, ""), part_of(named.get(name, "")), len(times) / num_steps,
              min(times) / 1e3 * len(times) / num_steps)
    for name, times in self_times(read(folder)).items()
  ]  # fmt: skip
  return sorted(found, key=lambda o: -o.self_ms), plain, traced


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("configs", nargs="+", help="files of configs of runs")
  parser.add_argument("--steps", type=int, default=20, help="steps of each round")
  parser.add_argument("--top", type=int, default=15, help="operations to print")
  parser.add_argument("--csv", type=Path, help="file to write the operations of 0.1 %% or more to")
  parser.add_argument("--keep", type=Path, help="folder to keep the traces in")
  args = parser.parse_args()
  rows = []
  with tempfile.TemporaryDirectory() as temporary:
    # Programs of an earlier process may have been compiled from other code, whose names they keep.
    os.environ["LM_JAX_CACHE"] = temporary
    environment.enable_compilation_cache()
    for name in args.configs:
      config = config_file.load(name)
      steps = min(args.steps, config.runtime.steps_per_dispatch)
      folder = (args.keep or Path(temporary)) / Path(name).stem
      operations, plain, traced = profile(config, steps, folder)
      show(Path(name).stem, operations, plain, traced, args.top)
      least = LEAST * sum(o.self_ms for o in operations)
      rows += [
        {"config": Path(name).stem, **dataclasses.asdict(o), "self_ms": round(o.self_ms, 3)}
        for o in operations
        if o.self_ms >= least
      ]
  if args.csv:
    with args.csv.open("w", newline="", encoding="utf-8") as f:
      writer = csv.DictWriter(f, list(rows[0]))
      writer.writeheader()
      writer.writerows(rows)


def show(name: str, operations: list[Operation], plain: np.ndarray, traced: np.ndarray, top: int) -> None:
  total = sum(o.self_ms for o in operations)
  print(f"{name}: {plain[1]:.1f} ms of CPU a step ({plain[0]:.1f} by the clock), {traced[1]:.1f} "
        f"({traced[0]:.1f}) traced; {total:.1f} in operations")  # fmt: skip
  if total > traced[1]:
    print("more than the CPU time: the machine was too busy for any call to be undisturbed; run it again")
  print(f"\n{'ms':>8} {'share':>6} {'calls':>6}  operation")
  for o in operations[:top]:
    print(f"{o.self_ms:8.2f} {o.self_ms / total:6.1%} {o.calls:6.1f}  {o.part}: {o.name}  {o.source}")
  parts: collections.Counter[str] = collections.Counter()
  for o in operations:
    parts[o.part] += o.self_ms
  print(f"\n{'ms':>8} {'share':>6}  part")
  for part, ms in parts.most_common():
    print(f"{ms:8.2f} {ms / total:6.1%}  {part}")
  print()


if __name__ == "__main__":
  main()
