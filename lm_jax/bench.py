"""Measures a training step: the whole of it, as `lm-jax train` runs it, without logging or evaluation."""

import resource
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax import scaling, state, step, tasks
from lm_jax.config import Config

_REPEATS = 5


def bench(config: Config, num_steps: int) -> dict[str, Any]:
  """Returns speed and memory of training in this process.

  `num_steps` steps are timed in each of five dispatches after a warm-up; figures are of the median one.
  compile_s is tracing and compiling, or reading back, the program; flops_per_second counts matrix products
  (`scaling.step_flops`); peak_memory_bytes is the process's, or the accelerator's where there is one.
  """
  task = tasks.make_task(config.task)
  s = jax.jit(lambda: state.init_state(config))()
  start = time.perf_counter()
  run = jax.jit(step.make_run_steps(config, task), donate_argnums=0)
  run = run.lower(s, task.arrays, jnp.int32(1)).compile()
  compile_s = time.perf_counter() - start

  def timed(n: int) -> float:
    nonlocal s
    start = time.perf_counter()
    s, _ = jax.block_until_ready(run(s, task.arrays, jnp.int32(n)))
    return time.perf_counter() - start

  timed(1)
  per_dispatch = config.runtime.steps_per_dispatch
  # A dispatch takes at most `steps_per_dispatch` steps.
  sizes = [per_dispatch] * (num_steps // per_dispatch) + [num_steps % per_dispatch]
  seconds = statistics.median(sum(map(timed, filter(None, sizes))) / num_steps for _ in range(_REPEATS))
  return {
    "tokens_per_second": scaling.tokens_per_step(config) / seconds,
    "step_ms": 1e3 * seconds,
    "compile_s": compile_s,
    "flops_per_second": scaling.step_flops(config) / seconds,
    "peak_memory_bytes": _peak_memory(),
    "num_steps": num_steps,
    "params_total": scaling.count_params(config.model).total,
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
  }


def _peak_memory() -> int:
  stats = jax.devices()[0].memory_stats()
  if stats:
    return stats["peak_bytes_in_use"]
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux
