"""Greedy generation by lm_jax and by Hugging Face transformers in one process, in turns: the same weights,
prompts and cores.

    taskset -c 0,1 python experiments/012_decoding/transformers_peer.py --shape=smollm2 --output=smollm2.csv

A step's time is that of the longer of two continuations less the shorter's, over the tokens between them; by
the clock, and of CPU, all threads together, to which others on the machine add less.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from lm_jax import config_file, environment, generate, pretrained, quantize
from lm_jax.generation_config import GenerationConfig
from lm_jax.interop import huggingface
from lm_jax.pretrained import Pretrained

CONFIG = Path(__file__).parents[2] / "configs/bench/decode.py"
SHORT, LONG, PROMPT = 8, 40, 64  # tokens


def theirs(p: Pretrained) -> transformers.PreTrainedModel:
  with tempfile.TemporaryDirectory() as folder:
    huggingface.export(p, Path(folder) / "model")
    return transformers.AutoModelForCausalLM.from_pretrained(
      Path(folder) / "model", dtype=torch.float32
    ).eval()


def run_theirs(model, prompts: np.ndarray, n: int) -> np.ndarray:
  tokens = torch.tensor(prompts)
  with torch.inference_mode():
    out = model.generate(
      tokens, attention_mask=torch.ones_like(tokens), do_sample=False, min_new_tokens=n, max_new_tokens=n,
      pad_token_id=0,
    )  # fmt: skip
  return out[:, prompts.shape[1] :].numpy()


def run_ours(model, params, prompts: np.ndarray, n: int) -> np.ndarray:
  g = GenerationConfig(max_new_tokens=n, temperature=0, ignore_end=True)
  found = generate.generate(model, params, prompts.tolist(), g)
  return np.array([one[0].tokens for one in found])


def timed(run, *args) -> tuple[np.ndarray, np.ndarray]:
  """Returns seconds, by the clock and of CPU, and tokens."""
  start = np.array([time.perf_counter(), time.process_time()])
  tokens = run(*args)
  return np.array([time.perf_counter(), time.process_time()]) - start, tokens


def main() -> None:
  flags = argparse.ArgumentParser()
  flags.add_argument("--shape", default="smollm2")
  flags.add_argument("--batches", type=int, nargs="+", default=[1, 8])
  flags.add_argument("--repeats", type=int, default=7)
  flags.add_argument("--output", required=True)
  flags = flags.parse_args()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  environment.enable_compilation_cache()
  c = config_file.load_benchmark(f"{CONFIG}:{flags.shape}").model
  p = pretrained.untrained(Pretrained(c, None))
  peer = theirs(p)
  programs = {"transformers float32": (run_theirs, peer)}
  for kind in quantize.KINDS:
    params = jax.block_until_ready(quantize.quantized(p.params, kind))
    programs[f"lm_jax {kind}"] = (run_ours, c, params)
  del p
  rows = []
  for batch in flags.batches:
    prompts = np.random.default_rng(batch).integers(0, c.vocab_size, (batch, PROMPT))
    steps, tokens = {name: [] for name in programs}, {}
    for turn in range(flags.repeats + 1):  # the first one compiles
      for name, (run, *args) in programs.items():
        short, _ = timed(run, *args, prompts, SHORT)
        long, tokens[name] = timed(run, *args, prompts, LONG)
        if turn:
          steps[name].append(1e3 * (long - short) / (LONG - SHORT))
    reference = tokens["transformers float32"]
    assert np.array_equal(tokens["lm_jax float32"], reference), "float32: other tokens than transformers'"
    medians = {name: np.median(values, axis=0) for name, values in steps.items()}
    base = medians["transformers float32"]
    for name, (step, cpu) in medians.items():
      clock = [by_clock for by_clock, _ in steps[name]]
      rows.append(
        {
          "shape": flags.shape, "batch": batch, "program": name, "step_ms": f"{step:.2f}",
          "least_ms": f"{min(clock):.2f}", "most_ms": f"{max(clock):.2f}", "cpu_ms": f"{cpu:.2f}",
          "tokens_per_second": f"{1e3 * batch / step:.1f}", "times_transformers": f"{base[0] / step:.2f}",
          "times_transformers_cpu": f"{base[1] / cpu:.2f}",
          "same_tokens": f"{(tokens[name] == reference).mean():.3f}",
        }
      )  # fmt: skip
      print(rows[-1], flush=True)
  with open(flags.output, "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
  main()
