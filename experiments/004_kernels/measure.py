"""What it costs to hold less, of the options that the code has: time, memory and compiling of each.

    python experiments/004_kernels/measure.py OUTPUT [embedding attention loss training]

Writes OUTPUT/PART.csv of each part, by default of all. Everything is forward and backward, compiled, on one
core. A row's columns: temporary_mib, XLA's temp_size_in_bytes; compile_s, CPU time of tracing and compiling;
cpu_ms, the median CPU time of the process, with cpu_ms_low and cpu_ms_high, the least and the most.
"""

import functools
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_jax import environment

if __name__ == "__main__":
  # Before jax starts: its thread pools take their size from the cores there are.
  environment.pin_to_cores([max(environment.usable_cores())])

import jax
import jax.numpy as jnp
import pandas as pd

from lm_jax import attention, config_file, kernels, layers, model, state, step, tasks
from lm_jax.model_config import ModelConfig

TURNS, COUNTED = 3, 2
LEAST_S = 0.02  # CPU time of what is measured at once: shorter calls are repeated

BENCH = Path(__file__).parents[2] / "configs" / "bench"
EMBEDDING_TOKENS, VOCABULARIES, WIDTHS = 4096, (65, 256, 1024), (16, 64, 256)
HEADS, HEAD_DIM = 2, 32
ALL = 0  # stands for "all kept", where else queries or tokens are held at a time
ATTENTION = ((1, ALL), (16, ALL), (16, 64), (8, 64), (4, 64), (4, 128), (2, 64), (1, 64))  # blocks, queries
LENGTHS = {2048: ATTENTION, 4096: ATTENTION, 8192: ((4, 64),)}
LOSSES = (
  (2048, 64, 1024), (2048, 64, 4096), (2048, 64, 16384), (2048, 256, 4096), (2048, 256, 16384),
  (1024, 256, 50257),
)  # fmt: skip
CHUNKS = (ALL, 256, 512, 1024)  # tokens
SHAPES = {"d64": (), "d256": (), "d256, 8 layers, scanned": (("num_layers", "8"), ("scan_layers", "true"))}
# Of remat and dtype; the last one not of the changed shape.
WAYS = (("none", "float32"), ("products", "float32"), ("block", "float32"), ("none", "bfloat16"))


# --- what is measured -------------------------------------------------------------------------------------


def in_turns(variants: list[tuple[dict[str, Any], Callable, tuple]]) -> list[dict[str, Any]]:
  """Returns rows and what their functions of given arguments take, compiled, taking turns."""
  programs, found, seconds = [], [], [[] for _ in variants]
  for row, function, args in variants:
    start = time.process_time()
    programs.append(jax.jit(function).lower(*args).compile())
    compile_s = time.process_time() - start
    size = programs[-1].memory_analysis().temp_size_in_bytes
    found.append(row | {"temporary_mib": round(size / 2**20, 2), "compile_s": round(compile_s, 2)})

  def cpu_s(i: int, calls: int = 1) -> float:
    start = time.process_time()
    for _ in range(calls):
      jax.block_until_ready(programs[i](*variants[i][2]))
    return (time.process_time() - start) / calls

  def calls_of_least(i: int) -> int:
    return 1 if cpu_s(i) > LEAST_S else math.ceil(LEAST_S / cpu_s(i))  # a first call may be slow

  calls = [calls_of_least(i) for i in range(len(variants))]
  for _ in range(TURNS):
    for i in range(len(variants)):
      cpu_s(i)  # pays for memory that the program before it gave back
      seconds[i] += [cpu_s(i, calls[i]) for _ in range(COUNTED)]
  for row, times in zip(found, seconds, strict=True):
    values = {"cpu_ms": statistics.median(times), "cpu_ms_low": min(times), "cpu_ms_high": max(times)}
    row |= {name: float(f"{1e3 * s:.4g}") for name, s in values.items()}
    print(row, file=sys.stderr, flush=True)
  return found


def both_ways(function: Callable) -> Callable:
  """Returns (arguments, other ones, gradient of the result) -> (result, gradients of the arguments)."""

  def forward_and_backward(args: tuple, others: tuple, dy: jax.Array) -> tuple:
    y, pull = jax.vjp(lambda *args: function(*args, *others), *args)
    return y, pull(dy)

  return forward_and_backward


def normal(*shapes: tuple[int, ...]) -> list[jax.Array]:
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


# --- the parts --------------------------------------------------------------------------------------------


def of_embedding() -> list[dict]:
  rows = []
  for V, D in itertools.product(VOCABULARIES, WIDTHS):
    tokens_M = jax.random.randint(jax.random.key(1), (EMBEDDING_TOKENS,), 0, V)
    table_VD, dy_MD = normal((V, D), (EMBEDDING_TOKENS, D))
    args = ((table_VD,), (tokens_M,), dy_MD)
    ways = {"gather": gather, "one-hot": one_hot}
    rows += in_turns([({"V": V, "D": D, "way": way}, both_ways(f), args) for way, f in ways.items()])
  return rows


def gather(table_VD: jax.Array, tokens_M: jax.Array) -> jax.Array:
  V, D = table_VD.shape
  return layers.Embedding(V, ModelConfig(d_model=D)).apply({"params": {"table": table_VD}}, tokens_M)


def one_hot(table_VD: jax.Array, tokens_M: jax.Array) -> jax.Array:
  return kernels.project(jax.nn.one_hot(tokens_M, len(table_VD)), table_VD)


def of_attention() -> list[dict]:
  rows, c = [], ModelConfig(d_model=HEADS * HEAD_DIM, num_heads=HEADS)
  for T, options in LENGTHS.items():
    *args, dy = normal(*[(1, T, HEADS, HEAD_DIM)] * 4)
    variants = []
    for count, queries in options:
      size = T // count
      how = {
        "blocks": [(start, start + size, 0, start + size) for start in range(0, T, size)],
        "recompute": queries or None,
      }
      chosen = how == {"blocks": c.query_blocks(T), "recompute": c.recomputed_queries(T)}
      row = {"T": T, "blocks": count, "queries": queries, "chosen": chosen}
      attend = functools.partial(attention.attend, causal=True, **how)
      variants.append((row, both_ways(attend), (tuple(args), (), dy)))
    rows += in_turns(variants)
  return rows


def of_loss() -> list[dict]:
  rows = []
  for M, D, V in LOSSES:
    x_1MD, w_DV, weights_1M = normal((1, M, D), (D, V), (1, M))
    targets_1M = jax.random.randint(jax.random.key(1), (1, M), 0, V)
    args = ((x_1MD, w_DV / math.sqrt(D)), (targets_1M, weights_1M), jnp.float32(1))
    held = ModelConfig(vocab_size=V, d_model=D).loss_chunk(1, M)
    variants = []
    for tokens in (n for n in CHUNKS if n < M):
      row = {"M": M, "D": D, "V": V, "tokens": tokens, "chosen": held == (tokens or M)}
      variants.append((row, both_ways(functools.partial(loss, tokens=tokens)), args))
    rows += in_turns(variants)
  return rows


def loss(
  x_BPD: jax.Array, w_DV: jax.Array, targets_BP: jax.Array, weights_BP: jax.Array, tokens: int
) -> jax.Array:
  if tokens == ALL:
    nll_BP = kernels.token_nll(model.output(ModelConfig(), x_BPD, w_DV, None), targets_BP)
    return (nll_BP * weights_BP).sum()
  return kernels.chunked_loss(x_BPD, w_DV, None, targets_BP, weights_BP, tokens)


def of_training() -> list[dict]:
  rows = []
  for shape, changes in SHAPES.items():
    variants = []
    for remat, dtype in WAYS[:-1] if changes else WAYS:
      fields = (*changes, ("remat", remat), ("dtype", dtype))
      file = str(BENCH / f"{shape.partition(',')[0]}.py")
      c = config_file.load(file, [(f"model.{name}", value) for name, value in fields])
      task, key = tasks.make_task(c.task), jax.random.key(0)
      params = jax.jit(lambda c=c: state.init_state(c).params)()
      batch = task.sample(key, c.train.batch_size, task.arrays)
      gradient = jax.value_and_grad(step.make_loss(c), has_aux=True)
      variants.append(({"shape": shape, "remat": remat, "dtype": dtype}, gradient, (params, batch, key)))
    rows += in_turns(variants)
  return rows


PARTS = {"embedding": of_embedding, "attention": of_attention, "loss": of_loss, "training": of_training}


def main(output: Path, parts: list[str]) -> None:
  output.mkdir(parents=True, exist_ok=True)
  in_turns([({"part": "starting the compiler"}, jnp.sum, (jnp.ones(8),))])
  for part in parts or PARTS:
    pd.DataFrame(PARTS[part]()).to_csv(output / f"{part}.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
  main(Path(sys.argv[1]), sys.argv[2:])
