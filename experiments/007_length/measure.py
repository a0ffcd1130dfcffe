"""Training cost a token against the length of sequences, with full attention and with a window of 256.

    taskset -c 1 python experiments/007_length/measure.py runs/length.csv

Every step has 4096 tokens, whatever their lengths. Whole training steps (AdamW, clipping) of all programs
in five turns of two steps after a first one, CPU time of the process, medians.
"""

import statistics
import sys
import time

import jax
import pandas as pd

from lm_jax import config as configs
from lm_jax import programs, scaling

LENGTHS = [64, 128, 256, 512, 1024, 2048, 4096]
WINDOWS = {"full": None, "window 256": 256}
TOKENS, ROUNDS = 4096, 5


def config(length: int, window: int | None) -> configs.Config:
  return configs.from_mapping({
    "task": {"name": "noisy_majority", "num_symbols": 256, "length": length},
    "model": {"preset": "gpt2", "use_bias": False, "d_model": 64, "num_heads": 2, "num_layers": 2,
              "positions": "rope", "attention_window": window},
    "train": {"batch_size": TOKENS // length},
    "runtime": {"steps_per_dispatch": 1},
  })  # fmt: skip


def main() -> None:
  cells = {(length, name): config(length, window) for length in LENGTHS for name, window in WINDOWS.items()}
  engines, states, memory, seconds = {}, {}, {}, {cell: [] for cell in cells}
  for cell, c in cells.items():
    engines[cell] = programs.make([c])[1]
    memory[cell] = engines[cell].compile([c]).memory_analysis().temp_size_in_bytes
    states[cell] = engines[cell].start([c])
  for _ in range(ROUNDS):
    for cell, engine in engines.items():
      # The first step of a turn pays for memory that the program before it gave back.
      for warm in (False, True, True):
        start = time.process_time()
        states[cell], _ = jax.block_until_ready(engine.run(states[cell], 1))
        if warm:
          seconds[cell].append(time.process_time() - start)
  rows = [
    {
      "length": length, "attention": name,
      "us_per_token": round(1e6 * statistics.median(seconds[length, name]) / TOKENS, 2),
      "closed_form_us": round(1e6 * scaling.seconds_per_step(c, scaling.CORE_FLOPS_PER_SECOND) / TOKENS, 2),
      "kflops_per_token": round(scaling.step_flops(c) / TOKENS / 1e3),
      "pairs_per_token": round(scaling.attention_pairs(c.model, length) / length),
      "temporary_mib": round(memory[length, name] / 2**20, 1),
    }
    for (length, name), c in cells.items()
  ]  # fmt: skip
  table = pd.DataFrame(rows)
  table.to_csv(sys.argv[1], index=False)
  print(table.to_string(index=False))


if __name__ == "__main__":
  main()
