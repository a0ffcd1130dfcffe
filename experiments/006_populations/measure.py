"""Replica-tokens a second of a population: one after another, mapped, side by side, and on several devices.

    python experiments/006_populations/measure.py [WIDTHS] [MEMBERS]

Everything is warmed up, then timed in turns; medians of five. On a CPU pin it to one core
(`taskset -c 1`), and add `JAX_NUM_CPU_DEVICES=2` on two cores for the pmapped row.
"""

import statistics
import sys
import time

import jax

from lm_jax import config as configs
from lm_jax import population, programs, scaling, tasks

STEPS = 50


def cells(width: int, count: int, num_devices: int) -> list[configs.Config]:
  base = {"model": scaling.width_ladder(width), "parallel": {"num_devices": num_devices}}
  return [configs.from_mapping(base | {"seed": seed}) for seed in range(count)]


def timed(engine, state) -> tuple[float, object]:
  start = time.perf_counter()
  state, _ = jax.block_until_ready(engine.run(state, STEPS))
  return time.perf_counter() - start, state


def main(widths: list[int], count: int) -> None:
  devices = len(jax.devices())
  for width in widths:
    members = cells(width, count, 1)
    task = tasks.make_task(members[0].task)
    engines = {
      "one after another": [programs.make(members[:1])[1]] * count,
      "mapped": [population.Population(members, task, side_by_side=False)],
      "side by side": [population.Population(members, task, side_by_side=True)],
    }
    if devices > 1:
      spread = cells(width, count, devices)
      engines[f"pmapped over {devices} devices"] = [population.Population(spread, task)]
    states = {
      name: [e.start(members if len(es) == 1 else [member]) for e, member in zip(es, members, strict=False)]
      for name, es in engines.items()
    }
    seconds = {name: [] for name in engines}
    for _ in range(6):
      for name, es in engines.items():
        total = 0.0
        for i, engine in enumerate(es):
          took, states[name][i] = timed(engine, states[name][i])
          total += took
        seconds[name].append(total)
    tokens = count * STEPS * scaling.tokens_per_step(members[0])
    for name, all_seconds in seconds.items():
      rate = tokens / statistics.median(all_seconds[1:])
      print(f"d={width}, {count} members, {name}: {rate:,.0f} replica-tokens/s")


if __name__ == "__main__":
  main([int(w) for w in (sys.argv[1] if len(sys.argv) > 1 else "16,32,64").split(",")],
       int(sys.argv[2]) if len(sys.argv) > 2 else 8)  # fmt: skip
