"""lm_jax's training step against nanoGPT's own, at the shapes of configs/bench, on one CPU core.

    make bench PEER=/path/to/nanoGPT TORCH_PYTHON=/path/to/python/with/torch

or, what it runs,

    python experiments/005_peers/nanogpt.py --peer=PATH --torch_python=PATH configs/bench/*.py

Both do whole steps (forward, backward, clipping, AdamW) of the same shape, in float32, in processes of their
own that take turns on one pinned core with one thread. nanoGPT is its model.py as it is, in PyTorch eager
mode (torch.compile was no faster on a CPU and takes half a minute to compile), on one batch of random tokens;
lm_jax draws a new batch every step. Compared is the CPU time of the processes, since on a shared machine wall
time also counts the others. Printed are the medians over the rounds, and their ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 5


# --- nanoGPT's side, run by a Python that has torch and not lm_jax ----------------------------------


def measure(peer: str, shape: dict) -> dict:
  """Returns nanoGPT's tokens a second of CPU time, the median of several timings of `num_steps` steps."""
  import torch

  torch.set_num_threads(1)
  sys.path.insert(0, peer)
  import model as nanogpt

  s = shape
  torch.manual_seed(0)
  model = nanogpt.GPT(
    nanogpt.GPTConfig(
      block_size=s["length"], vocab_size=s["vocab_size"], n_layer=s["num_layers"], n_head=s["num_heads"],
      n_embd=s["d_model"], dropout=0.0, bias=False,
    )
  )  # fmt: skip
  adamw = model.configure_optimizers(s["weight_decay"], s["learning_rate"], (s["beta1"], s["beta2"]), "cpu")
  tokens, targets = torch.randint(0, s["vocab_size"], (2, s["batch_size"], s["length"]))

  def step() -> None:
    _, loss = model(tokens, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), s["clip_norm"])
    adamw.step()
    adamw.zero_grad(set_to_none=True)

  def seconds() -> float:
    start = time.process_time()
    for _ in range(s["num_steps"]):
      step()
    return (time.process_time() - start) / s["num_steps"]

  step()
  median = statistics.median(seconds() for _ in range(REPEATS))
  return {"tokens_per_cpu_second": s["batch_size"] * s["length"] / median, "torch": torch.__version__}


# --- the comparison -------------------------------------------------------------------------------


def shape_of(name: str, num_steps: int) -> dict:
  from lm_jax import config_file

  c = config_file.load(name)
  return {
    "length": c.task.sequence_length, "batch_size": c.train.batch_size, "num_steps": num_steps,
    "vocab_size": c.model.vocab_size, "num_layers": c.model.num_layers, "num_heads": c.model.num_heads,
    "d_model": c.model.d_model, "weight_decay": c.optimizer.weight_decay, "clip_norm": c.optimizer.clip_norm,
    "learning_rate": c.optimizer.learning_rate, "beta1": c.optimizer.beta1, "beta2": c.optimizer.beta2,
  }  # fmt: skip


def answer(command: list[str]) -> dict:
  """Runs a command and returns the JSON object on the last line of what it prints."""
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, args: argparse.Namespace) -> dict:
  """Returns the tokens a CPU second of both at a shape, round by round."""
  shape = shape_of(name, args.steps)
  ours = [sys.executable, "-m", "lm_jax", "bench", f"--config={name}", f"--steps={args.steps}",
          f"--core={args.core}", "--json"]  # fmt: skip
  theirs = [args.torch_python, __file__, f"--core={args.core}", f"--peer={args.peer}",
            f"--measure={json.dumps(shape)}"]  # fmt: skip
  rows = {"config": name, "steps": args.steps, "lm_jax": [], "nanoGPT": []}
  for round_ in range(args.rounds):
    result = answer(ours)
    rows["lm_jax"].append(shape["batch_size"] * shape["length"] / (1e-3 * result["cpu_step_ms"]))
    peer = answer(theirs)
    rows["nanoGPT"].append(peer["tokens_per_cpu_second"])
    pair = f"lm_jax {rows['lm_jax'][-1]:,.0f}, nanoGPT {rows['nanoGPT'][-1]:,.0f} tokens a CPU second"
    print(f"{name}, round {round_ + 1} of {args.rounds}: {pair}", file=sys.stderr, flush=True)
  return rows | {"jax": result["jax"], "torch": peer["torch"]}


def show(results: list[dict]) -> None:
  from rich.console import Console
  from rich.table import Table

  title = f"tokens a CPU second; jax {results[0]['jax']}, torch {results[0]['torch']}"
  grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="")
  for column in ("config", "lm_jax", "nanoGPT", "ratio of medians"):
    grid.add_column(column, justify="left" if column == "config" else "right", no_wrap=True)
  for row in results:
    ours, theirs = (statistics.median(row[name]) for name in ("lm_jax", "nanoGPT"))
    grid.add_row(row["config"], f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}")
  Console(highlight=False).print(grid)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("configs", nargs="*")
  parser.add_argument(
    "--peer", default=os.environ.get("NANOGPT"), help="a checkout of nanoGPT; default: $NANOGPT"
  )
  parser.add_argument(
    "--torch_python", default=sys.executable, help="a Python that has torch; default: this one"
  )
  parser.add_argument("--core", type=int, default=0)
  parser.add_argument("--steps", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--output", default="runs/peers.jsonl")
  parser.add_argument("--measure", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if not args.peer:
    parser.error("give --peer=PATH, or set NANOGPT: a checkout of nanoGPT")
  if not (Path(args.peer) / "model.py").is_file():
    parser.error(f"--peer={args.peer}: holds no model.py")
  if args.measure:
    os.sched_setaffinity(0, {args.core})
    print(json.dumps(measure(args.peer, json.loads(args.measure))))
    return
  if not args.configs:
    parser.error("give the configs to compare at")
  Path(args.output).parent.mkdir(parents=True, exist_ok=True)
  results = []
  for name in args.configs:
    results.append(compare(name, args))
    with open(args.output, "a", encoding="utf-8") as file:
      file.write(json.dumps(results[-1]) + "\n")
  show(results)


if __name__ == "__main__":
  main()
