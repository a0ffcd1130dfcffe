"""What one GPU does: training beside nanoGPT's, its kernels, attention, populations, small models, bits.

    NANOGPT=/path/to/nanoGPT python experiments/023_one_gpu/measure.py OUTPUT [PART ...]

Writes OUTPUT/PART.csv of each part, by default of all, a row as soon as it is measured; figures are medians
by the clock. Each row is measured in a process of its own, and what failed is told and left out.
"""

import collections
import csv
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GPU, KHOP, GINC = (
  str(ROOT / "configs" / f"{name}.py") for name in ("bench/gpu", "sweeps/khop", "sweeps/ginc")
)
LIMIT_S = 150  # of a process
REPEATS = 5

# "chunk": floats of logits that the loss holds at a time.
TRAINING = [
  {"shape": "gpt2", "way": "lm_jax"},
  {"shape": "gpt2", "way": "nanoGPT, compiled"},
  {"shape": "gpt2", "way": "lm_jax, logits of 2^22", "chunk": 2**22},
  {"shape": "gpt2", "way": "lm_jax, all logits", "chunk": 2**31},
  {"shape": "gpt2", "way": "lm_jax, layers unrolled", "model.scan_layers": False},
  {"shape": "gpt2", "way": "lm_jax, blocks of attention", "model.attention": "blocks"},
  {"shape": "gpt2", "way": "lm_jax, float32", "model.dtype": "float32"},
  {"shape": "gpt2_medium", "way": "lm_jax"},
  {"shape": "gpt2_medium", "way": "nanoGPT, compiled"},
  {"shape": "llama_1b", "way": "lm_jax"},
  {"shape": "llama_1b", "way": "lm_jax, blocks computed again", "model.remat": "block"},
]
ATTENTION = [
  {"T": T, "way": "cudnn" if block is None else f"blocks of {block}", "block": block}
  for T in (1024, 4096, 16384)
  for block in (None, 64, 256, 1024)
]
ATTENTION_TOKENS, HEADS, HEAD_DIM = 16384, 12, 64
POPULATIONS = [{"width": width, "members": members} for width in (16, 64) for members in (1, 8, 64)]
POPULATION_STEPS = 50
SMALL = [
  {"sweep": KHOP, "argument": "published", "study": "khop", "width": width, "layers": layers, "way": "lm_jax"}
  for width in (256, 128)
  for layers in (2, 3, 4, 5)
]
SMALL += [
  {"sweep": GINC, "argument": "published", "study": "ginc", "width": 768, "layers": layers, "way": "lm_jax"}
  for layers in (4, 12)
]
KERNELS = [{"shape": "gpt2", "way": "lm_jax"}]
LEAST_MS = 0.05  # a step, of a kernel that is written down
BITS = [{"width": 64, "way": "lm_jax"}]


# --- each in a process of its own --------------------------------------------------------------------


def training(shape: str, way: str, chunk: int | None = None, **fields: Any) -> dict[str, Any]:
  """Returns what `lm-jax bench` says of a shape, or nanoGPT's speed."""
  if way.startswith("nanoGPT"):
    return nanogpt(shape)
  from lm_jax import config_file, model_config
  from lm_jax.launch import benchmarks

  if chunk:
    model_config.ACCELERATOR_LOGITS = chunk
  config = config_file.load(f"{GPU}:{shape}", [(name, str(value).lower()) for name, value in fields.items()])
  return of_bench(benchmarks.one(shape, config, num_steps=20, core=None))


def of_bench(found: dict[str, Any]) -> dict[str, Any]:
  return {
    "tokens_per_s": round(found["tokens_per_second"]),
    "step_ms": round(found["step_ms"], 3),
    "utilization": found["utilization"] and round(found["utilization"], 4),
    "memory_gib": round(found["peak_memory_bytes"] / 2**30, 2),
    "compile_s": round(found["compile_s"], 1),
    "device": found["device"],
    "version": f"jax {found['jax']}",
  }


def nanogpt(shape: str) -> dict[str, Any]:
  """Returns the same of nanoGPT's model.py: bfloat16 by autocast, flash attention, fused AdamW, compiled."""
  import torch

  from lm_jax import config_file, devices, scaling

  c = config_file.load(f"{GPU}:{shape}")
  sys.path.insert(0, os.environ["NANOGPT"])
  import model as peer

  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  sizes = {"block_size": c.task.sequence_length, "vocab_size": c.model.vocab_size,
           "n_layer": c.model.num_layers, "n_head": c.model.num_heads, "n_embd": c.model.d_model}  # fmt: skip
  model = peer.GPT(peer.GPTConfig(**sizes, dropout=0.0, bias=False)).cuda()
  o = c.optimizer
  adamw = model.configure_optimizers(o.weight_decay, o.learning_rate, (o.beta1, o.beta2), "cuda")
  compiled = torch.compile(model)
  shape_BT = (c.train.batch_size, c.task.sequence_length)
  tokens, targets = torch.randint(0, c.model.vocab_size, (2, *shape_BT), device="cuda")

  def steps(count: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
      with torch.autocast("cuda", torch.bfloat16):
        _, loss = compiled(tokens, targets)
      loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
      adamw.step()
      adamw.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count

  compile_s = steps(1)
  steps(3)
  step_s = statistics.median(steps(20) for _ in range(REPEATS))
  name = torch.cuda.get_device_name()
  known = devices.find(name)
  return {
    "tokens_per_s": round(scaling.tokens_per_step(c) / step_s),
    "step_ms": round(1e3 * step_s, 3),
    "utilization": known and round(scaling.step_flops(c) / step_s / known.peak("bfloat16")[0], 4),
    "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    "compile_s": round(compile_s, 1),
    "device": name,
    "version": f"torch {torch.__version__}",
  }


def attention(T: int, way: str, block: int | None) -> dict[str, Any]:
  """Returns the time of attention, forward and backward, and how far it is from float32's."""
  import jax
  import jax.numpy as jnp

  from lm_jax import attention as kernels
  from lm_jax import devices
  from lm_jax.model_config import ModelConfig

  c = ModelConfig(d_model=HEADS * HEAD_DIM, num_heads=HEADS, attention_block=block or 64)
  shape = (ATTENTION_TOKENS // T, T, HEADS, HEAD_DIM)
  exact = [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4)]
  q, k, v, dy = (x.astype(jnp.bfloat16) for x in exact)

  def blocks(q, k, v):
    return kernels.attend(q, k, v, causal=True, blocks=c.query_blocks(T), recompute=c.recomputed_queries(T))

  def fused(q, k, v):
    return kernels.attend_fused(q, k, v, causal=True)

  def plain(q, k, v):
    return kernels.attend(q, k, v, causal=True, recompute=min(T, 512))

  def both_ways(function: Callable) -> Callable:
    def run(q, k, v, dy):
      y, pull = jax.vjp(function, q, k, v)
      return y, *pull(dy)

    return run

  start = time.perf_counter()
  program = jax.jit(both_ways(blocks if block else fused)).lower(q, k, v, dy).compile()
  compile_s = time.perf_counter() - start
  found = jax.block_until_ready(program(q, k, v, dy))
  with jax.default_matmul_precision("highest"):
    # The same rounded numbers.
    args = [x.astype(jnp.float32) for x in (q, k, v, dy)]
    reference = jax.jit(both_ways(plain))(*args)
  far = [
    float(jnp.linalg.norm((x.astype(jnp.float32) - y).ravel()) / jnp.linalg.norm(y.ravel()))
    for x, y in zip(found, reference, strict=True)
  ]
  seconds = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    for _ in range(10):
      last = program(q, k, v, dy)
    jax.block_until_ready(last)
    seconds.append((time.perf_counter() - start) / 10)
  # Of the causal half: two products forward, five backward.
  flops = 7 * 2 * shape[0] * HEADS * T * T * HEAD_DIM / 2
  median, device = statistics.median(seconds), jax.devices()[0].device_kind
  known = devices.find(device)
  return {
    "ms": round(1e3 * median, 3),
    "utilization": known and round(flops / median / known.peak("bfloat16")[0], 4),
    "temporary_mib": round(program.memory_analysis().temp_size_in_bytes / 2**20, 1),
    "compile_s": round(compile_s, 1),
    **{f"error_{name}": f"{e:.2e}" for name, e in zip(("y", "dq", "dk", "dv"), far, strict=True)},
    "device": device,
  }


def populations(width: int, members: int) -> dict[str, Any]:
  """Returns the rate of the quickstart's task by so many runs side by side."""
  import jax

  from lm_jax import config as configs
  from lm_jax import environment, programs, scaling

  environment.enable_compilation_cache()
  base = {"model": scaling.width_ladder(width)}
  cells = [configs.from_mapping(base | {"seed": seed}) for seed in range(members)]
  _, engine = programs.make(cells)
  start = time.perf_counter()
  s = engine.start(cells)
  s, _ = jax.block_until_ready(engine.run(s, 0, POPULATION_STEPS))
  compile_s = time.perf_counter() - start
  seconds = []
  for turn in range(REPEATS):
    start = time.perf_counter()
    s, _ = jax.block_until_ready(engine.run(s, (turn + 1) * POPULATION_STEPS, POPULATION_STEPS))
    seconds.append(time.perf_counter() - start)
  step_s = statistics.median(seconds) / POPULATION_STEPS
  return {
    "step_ms": round(1e3 * step_s, 4),
    "tokens_per_s": round(members * scaling.tokens_per_step(cells[0]) / step_s),
    "compile_s": round(compile_s, 1),
    "device": jax.devices()[0].device_kind,
  }


def small(sweep: str, argument: str, study: str, width: int, layers: int, way: str) -> dict[str, Any]:
  """Returns the speed of a cell of a sweep."""
  from lm_jax import config_file
  from lm_jax.launch import benchmarks

  cells = config_file.load(f"{sweep}:{argument}").cells
  (config,) = (
    cell.config for cell in cells
    if (cell.config.model.d_model, cell.config.model.num_layers) == (width, layers)
  )  # fmt: skip
  return of_bench(benchmarks.one(study, config, num_steps=100, core=None))


def kernels(shape: str, way: str) -> list[dict[str, Any]]:
  """Returns what each kernel of a step takes, as the GPU's own clock saw it."""
  import jax

  from lm_jax import config_file, programs

  config, steps = config_file.load(f"{GPU}:{shape}"), 3
  _, engine = programs.make([config])
  s, _ = jax.block_until_ready(engine.run(engine.start([config]), 0, steps))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(engine.run(s, steps, steps))
    (path,) = Path(folder).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  threads = {
    (e["pid"], e["tid"]): e["args"]["name"] for e in events
    if (e.get("ph"), e["name"]) == ("M", "thread_name")
  }  # fmt: skip
  ms: collections.Counter[str] = collections.Counter()
  calls: collections.Counter[str] = collections.Counter()
  for e in events:
    if e.get("ph") == "X" and threads.get((e["pid"], e["tid"]), "").startswith("Stream"):
      ms[e["name"]] += e["dur"] / 1e3 / steps
      calls[e["name"]] += 1
  return [
    {"kernel": name[:70], "calls": round(calls[name] / steps, 1), "ms": round(of_step, 4)}
    for name, of_step in ms.most_common() if of_step >= LEAST_MS
  ]  # fmt: skip


def bits(width: int, way: str) -> dict[str, Any]:
  """Returns whether two runs of one cell have the same bits."""
  import jax
  import numpy as np

  from lm_jax import config as configs
  from lm_jax import programs, scaling

  config = configs.from_mapping({"model": scaling.width_ladder(width)})
  ends = []
  for _ in range(2):
    _, engine = programs.make([config])
    s = engine.start([config])
    for turn in range(4):
      s, metrics = engine.run(s, 50 * turn, 50)
    ends.append(jax.tree.map(np.asarray, (s.params, metrics)))
  same = jax.tree.map(np.array_equal, *ends)
  return {"steps": 200, "same": all(jax.tree.leaves(same)), "device": jax.devices()[0].device_kind}


PARTS: dict[str, tuple[Callable, list[dict]]] = {
  "training": (training, TRAINING), "attention": (attention, ATTENTION),
  "populations": (populations, POPULATIONS), "small": (small, SMALL), "bits": (bits, BITS),
  "kernels": (kernels, KERNELS),
}  # fmt: skip


# --- all of them --------------------------------------------------------------------------------------


def measured(part: str, row: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns a row with what was measured, or several, or none if its process failed, which says why."""
  start, words = time.perf_counter(), [sys.executable, __file__, "--one", part, json.dumps(row)]
  try:
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
  except subprocess.TimeoutExpired:
    print(f"{part} {row}: took longer than {LIMIT_S} s", file=sys.stderr, flush=True)
    return []
  if done.returncode:
    print(f"{part} {row}: exit code {done.returncode}", file=sys.stderr, flush=True)
    return []
  found = json.loads(done.stdout.splitlines()[-1])
  print(f"{part} {row}: {found} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
  labels = {
    name: value
    for name, value in row.items()
    if name not in ("sweep", "argument", "chunk", "block") and "." not in name
  }
  return [labels | one for one in (found if isinstance(found, list) else [found])]


def main(output: Path, parts: list[str]) -> None:
  if shutil.which("nvidia-smi") is None:
    sys.exit("there is no NVIDIA GPU here: nvidia-smi is not found")
  output.mkdir(parents=True, exist_ok=True)
  for part in parts or PARTS:
    part, _, first = part.partition(":")  # "training:3": the first three
    rows = PARTS[part][1]
    with (output / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
      writer = None
      for row in rows[: int(first or len(rows))]:
        for found in measured(part, row):
          if writer is None:
            writer = csv.DictWriter(file, found, lineterminator="\n")
            writer.writeheader()
          writer.writerow(found)
        file.flush()


if __name__ == "__main__":
  if sys.argv[1] == "--one":
    print(json.dumps(PARTS[sys.argv[2]][0](**json.loads(sys.argv[3]))))
  else:
    main(Path(sys.argv[1]), sys.argv[2:])
