"""Measures a training step: the whole of it, as `lm-jax train` runs it, without logging or evaluation."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import devices, environment, hosts, programs, scaling, tasks
from lm_jax.config import Config
from lm_jax.startup import Startup
from lm_jax.text_config import Text

_REPEATS = 5
# The float32 product that stands for what a CPU can do: large enough for its full speed, 8 MB of factors.
_PRODUCT_SIZE, _PRODUCTS = 1024, 8
# Of text, for a second or so.
_PIPELINE_TOKENS, _TOKENIZER_TOKENS = 2_000_000, 500_000


def bench(config: Config, num_steps: int, startup: Startup) -> dict[str, Any]:
  """Returns speed and memory of training in this process.

  `num_steps` steps are timed in each of five dispatches after a warm-up; figures are of the median one, in
  wall time. The keys, which stay what they are:

    tokens_per_second, step_ms
    cpu_step_ms           CPU time of the process, all threads: what others on the machine do not add to
    time_to_first_step_s  from the start of the process to the end of the first step
    startup_s             what of it were imports, tracing, compiling (or reading the cache), the rest
    num_compiled          programs that the cache did not hold: 0 for a warm start
    compile_s             tracing and compiling (or reading) the programs of the first state and the steps
    flops_per_second      matrix products of the model, recomputation not counted (`scaling.step_flops`)
    peak_flops_per_second of all devices used together: from the maker's datasheet (`devices`), on a CPU
                          measured here, between the steps; null for a device that is not known
    peak_source           the datasheet and the arithmetic, or how it was measured; null likewise
    utilization           flops_per_second / peak_flops_per_second: model FLOP utilization (arXiv:2204.02311,
                          appendix B), on a CPU the share of its own speed at products; null likewise
    peak_memory_bytes     of the process, or of one accelerator where there are any
    memory_bytes          of one accelerator, null where it is not known
    pipeline_tokens_per_second  of text tasks: how fast batches are made on the host, by one thread, from
                          tokens on disk; null for tasks whose batches are drawn on the device
    tokenizer_bytes_per_second  likewise: encoding text of the corpus, on all cores the process may use
    num_devices, device, dtype, num_steps, params_total, jax
  """
  hosts.all_devices()  # a platform that is not there is said in one line
  task, engine = programs.make([config])
  start = time.perf_counter()
  engine.compile([config])
  compile_s = time.perf_counter() - start
  s, done = engine.start([config]), 0

  def timed(n: int) -> np.ndarray:
    """Runs n steps and returns their seconds, by the clock and of CPU."""
    nonlocal s, done
    start = _clocks()
    s, _ = jax.block_until_ready(engine.run(s, done, n))
    done += n
    return _clocks() - start

  timed(1)
  breakdown = startup.first_step()
  environment.resume_garbage_collection()
  per_dispatch = config.runtime.steps_per_dispatch
  # A dispatch takes at most `steps_per_dispatch` steps.
  sizes = [per_dispatch] * (num_steps // per_dispatch) + [num_steps % per_dispatch]

  def step_seconds() -> np.ndarray:
    return sum(map(timed, filter(None, sizes))) / num_steps

  first, peak = step_seconds(), peak_memory()
  used = jax.tree.leaves(s.params)[0].sharding.device_set
  device = next(iter(used))
  product_rate = _product_rate() if device.platform == "cpu" else None
  rates, seconds = [], [first]
  for _ in range(_REPEATS - 1):
    seconds.append(step_seconds())
    if product_rate:
      rates.append(product_rate())
  median, cpu_median = np.median(seconds, axis=0).tolist()
  flops_per_second = scaling.step_flops(config) / median
  known = devices.find(device.device_kind)
  return {
    "tokens_per_second": scaling.tokens_per_step(config) / median,
    "step_ms": 1e3 * median,
    "cpu_step_ms": 1e3 * cpu_median,
    "time_to_first_step_s": breakdown.total,
    "startup_s": {
      name: getattr(breakdown, name) for name in ("imports", "tracing", "compiling", "rest")
    },
    "num_compiled": breakdown.num_compiled,
    "compile_s": compile_s,
    "flops_per_second": flops_per_second,
    **_utilization(config, flops_per_second, known, len(used), rates),
    "peak_memory_bytes": peak,
    "memory_bytes": known.memory_bytes if known else None,
    **_data_rates(config, task),
    "num_devices": len(used),
    "device": device.device_kind,
    "dtype": config.model.dtype,
    "num_steps": num_steps,
    "params_total": scaling.count_params(config.model).total,
    "jax": jax.__version__,
  }  # fmt: skip


def _data_rates(config: Config, task: tasks.Task) -> dict[str, float | None]:
  """Returns what the data of a text task can keep up with."""
  names = ("pipeline_tokens_per_second", "tokenizer_bytes_per_second")
  if not isinstance(config.task, Text):
    return dict.fromkeys(names)
  size, step_tokens = config.train.batch_size, scaling.tokens_per_step(config)
  batches = task.batches(0, size, slice(0, size), 0)
  count = max(1, _PIPELINE_TOKENS // step_tokens)
  next(batches)  # its thread has started
  start = time.perf_counter()
  for _ in range(count):
    next(batches)
  pipeline = count * step_tokens / (time.perf_counter() - start)
  tokenizer, (stream, *_) = task.prepared.tokenizer, task.prepared.streams["train"]
  # Pieces of a few thousand tokens: a library spreads texts over cores, and not one text.
  pieces = np.array_split(stream.tokens[:_TOKENIZER_TOKENS], 64)
  texts = [tokenizer.decode(piece.tolist()) for piece in pieces]
  start = time.perf_counter()
  tokenizer.encode_batch(texts)
  seconds = time.perf_counter() - start
  rates = (pipeline, sum(len(text.encode()) for text in texts) / seconds)
  return dict(zip(names, rates, strict=True))


def _utilization(
  config: Config, flops_per_second: float, known: devices.Device | None, num_devices: int, rates: list[float]
) -> dict[str, Any]:
  """Returns the peak, its source and the share of it, from what is known or else from measured rates."""
  if known:
    peak, arithmetic = known.peak(config.model.dtype)
    peak, source = num_devices * peak, f"{known.source}; {arithmetic}"
  elif rates:
    n = _PRODUCT_SIZE
    peak, source = statistics.median(rates), f"measured: float32 [{n}, {n}] @ [{n}, {n}] on the same cores"
  else:
    return {"peak_flops_per_second": None, "peak_source": None, "utilization": None}
  return {
    "peak_flops_per_second": peak, "peak_source": source, "utilization": flops_per_second / peak
  }  # fmt: skip


def _clocks() -> np.ndarray:
  return np.array([time.perf_counter(), time.process_time()])


def _product_rate() -> Callable[[], float]:
  """Returns a function that measures this machine's float32 products, in FLOP/s."""
  shape = (_PRODUCT_SIZE, _PRODUCT_SIZE)
  a, b = (jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0)))
  product = jax.jit(jnp.matmul).lower(a, b).compile()
  jax.block_until_ready(product(a, b))

  def once() -> float:
    start = time.perf_counter()
    jax.block_until_ready(product(a, b))
    return 2 * _PRODUCT_SIZE**3 / (time.perf_counter() - start)

  return lambda: statistics.median(once() for _ in range(_PRODUCTS))


def peak_memory() -> int:
  """Returns the most bytes that one accelerator, or else the process, has held."""
  stats = jax.devices()[0].memory_stats()
  if stats:
    return stats["peak_bytes_in_use"]
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux
