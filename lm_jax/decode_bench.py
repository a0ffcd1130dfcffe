"""Measures generation: steps of decoding, the time until a first token, opening a model, memory."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lm_jax import bench, decode_config, generate, hosts, interop, pretrained, quantize, scaling
from lm_jax.decode_config import UNTIMED_TOKENS, DecodeBench
from lm_jax.generation_config import GenerationConfig
from lm_jax.model_config import ModelConfig
from lm_jax.pretrained import Pretrained


def measure(config: DecodeBench) -> dict[str, Any]:
  """Returns the speed of greedy decoding and of reading prompts in this process.

  Both are by the clock, through `generate.generate`, as users do; programs are compiled before. What is
  compared is measured in turns, and figures are medians. The keys, which stay what they are:

    decoding     of each (weights, batch_size): tokens_per_second of all sequences together, step_ms; the
                 time of `new_tokens` after prompts of `prompt_length`, less that of the first 8
    prefill      of each (weights, prompt_tokens): ms from a prompt to its first token
    weights_bytes   {weights: what all parameters take}
    load_s       opening the model at `path`, until its parameters are in memory; null without one
    peak_memory_bytes   of the process, which holds the parameters in every form; or of one accelerator
    prompt_length, new_tokens, num_devices, device, dtype, params_total, jax
  """
  hosts.all_devices()  # a platform that is not there is said in one line
  p, load_s = _open(config)
  d = config.decoding
  forms = {kind: jax.block_until_ready(quantize.quantized(p.params, kind)) for kind in d.weights}
  params_total = scaling.count_params(p.model).total
  device = jax.devices()[0]
  return {
    "decoding": _decoding(p.model, forms, config),
    "prefill": _prefill(p.model, forms, config),
    "weights_bytes": {kind: quantize.num_bytes(params) for kind, params in forms.items()},
    "load_s": load_s,
    "peak_memory_bytes": bench.peak_memory(),
    "prompt_length": d.prompt_length,
    "new_tokens": d.new_tokens,
    "num_devices": 1,
    "device": device.device_kind,
    "dtype": p.model.dtype,
    "params_total": params_total,
    "jax": jax.__version__,
  }


def _open(config: DecodeBench) -> tuple[Pretrained, float | None]:
  if config.path is None:
    return pretrained.untrained(Pretrained(config.model, None)), None
  start = time.perf_counter()
  p = interop.load(config.path, name="config.path")
  jax.block_until_ready(jax.device_put(p.params))
  seconds = time.perf_counter() - start
  decode_config.check_model(config, p.model)
  return p, seconds


def _decoding(model: ModelConfig, forms: dict[str, Any], config: DecodeBench) -> list[dict[str, Any]]:
  d, runs = config.decoding, {}
  for batch in d.batch_sizes:
    prompts = _prompts(model, batch, d.prompt_length)
    for kind, params in forms.items():
      for n in (UNTIMED_TOKENS, d.new_tokens):
        runs[kind, batch, n] = _run(model, params, prompts, n)
  seconds = _in_turns(runs, d.repeats)
  found = []
  for kind in forms:
    for batch in d.batch_sizes:
      differences = np.subtract(seconds[kind, batch, d.new_tokens], seconds[kind, batch, UNTIMED_TOKENS])
      step = statistics.median(differences.tolist()) / (d.new_tokens - UNTIMED_TOKENS)
      found.append(
        {"weights": kind, "batch_size": batch, "tokens_per_second": batch / step, "step_ms": 1e3 * step}
      )
  return found


def _prefill(model: ModelConfig, forms: dict[str, Any], config: DecodeBench) -> list[dict[str, Any]]:
  d = config.decoding
  runs = {
    (kind, length): _run(model, params, _prompts(model, 1, length), 1)
    for kind, params in forms.items()
    for length in d.prompt_lengths
  }
  return [
    {"weights": kind, "prompt_tokens": length, "ms": 1e3 * statistics.median(seconds)}
    for (kind, length), seconds in _in_turns(runs, d.repeats).items()
  ]


def _run(model: ModelConfig, params: Any, prompts: Sequence[Sequence[int]], n: int) -> Callable[[], Any]:
  g = GenerationConfig(max_new_tokens=n, temperature=0, ignore_end=True)
  return lambda: generate.generate(model, params, prompts, g)


def _in_turns(runs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
  """Returns the seconds of each run, `repeats` times; a first turn compiles."""
  seconds: dict[Any, list[float]] = {name: [] for name in runs}
  for _ in range(repeats + 1):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - start)
  return {name: times[1:] for name, times in seconds.items()}


def _prompts(model: ModelConfig, batch: int, length: int) -> list[list[int]]:
  return np.random.default_rng(0).integers(0, model.vocab_size, (batch, length)).tolist()
