"""`lm-jax bench`: one config in this process, or several in a process each; as JSON lines and as a table."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lm_jax import environment
from lm_jax.config import Config
from lm_jax.decode_config import DecodeBench
from lm_jax.launch import decoding_tables
from lm_jax.startup import Startup, process_start
from lm_jax.strict import ConfigError


def one(name: str, config: Config | DecodeBench, num_steps: int, core: int | None) -> dict[str, Any]:
  """Measures a config in this process; returns what `lm_jax.bench.bench` does and the config's name.

  Of one of generation that is what `lm_jax.decode_bench.measure` does.

  Args:
    num_steps: of training.
  """
  if core is not None:
    environment.pin_to_cores([core])
  environment.enable_compilation_cache()
  if isinstance(config, DecodeBench):
    from lm_jax import decode_bench

    return {"config": name, **decode_bench.measure(config)}
  startup = Startup(process_start())
  from lm_jax import bench

  return {"config": name, **bench.bench(config, num_steps, startup)}


def in_a_process(
  name: str, overrides: list[tuple[str, str]], num_steps: int, core: int | None
) -> dict[str, Any]:
  """Measures a config in a process of its own."""
  words = [f"--config={name}", f"--steps={num_steps}", "--json"]
  words += [f"--config.{field}={value}" for field, value in overrides]
  words += [] if core is None else [f"--core={core}"]
  done = subprocess.run(
    [sys.executable, "-m", "lm_jax", "bench", *words], stdout=subprocess.PIPE, text=True, check=False
  )
  if done.returncode:
    raise ConfigError(f"--config={name}: its process ended with exit code {done.returncode}")
  return json.loads(done.stdout)


def append(path: Path, results: list[dict[str, Any]]) -> None:
  """Appends results to a file, a JSON line each, with the commit they are of."""
  from lm_jax.records import provenance

  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a", encoding="utf-8") as file:
    file.writelines(json.dumps(result | provenance()) + "\n" for result in results)


def table(results: list[dict[str, Any]]) -> str:
  """Returns results as text: of training a table of all, and of generation tables of each."""
  training = [r for r in results if "decoding" not in r]
  parts = [_training_table(training)] if training else []
  return "\n\n".join(parts + [decoding_tables.table(r) for r in results if "decoding" in r])


def _training_table(results: list[dict[str, Any]]) -> str:
  """Returns a table of the configs, and what the last column is a share of."""
  columns = ("config", "params", "tokens/s", "step", "first step", "memory", "FLOP/s", "peak", "of peak")
  grid = decoding_tables.grid(*columns)
  for r in results:
    grid.add_row(
      r["config"], f"{r['params_total']:,}", f"{r['tokens_per_second']:,.0f}", f"{r['step_ms']:.1f} ms",
      f"{r['time_to_first_step_s']:.1f} s", f"{r['peak_memory_bytes'] / 2**20:,.0f} MiB",
      _rate(r["flops_per_second"]), _rate(r["peak_flops_per_second"]),
      "" if r["utilization"] is None else f"{r['utilization']:.1%}",
    )  # fmt: skip
  notes = [line for r in results if (line := _data_note(r))] + [_note(r) for r in results]
  notes = dict.fromkeys(notes)
  return "\n".join([decoding_tables.text(grid), *notes])


def _rate(flops_per_second: float | None) -> str:
  if flops_per_second is None:
    return "unknown"
  if flops_per_second < 1e12:
    return f"{flops_per_second / 1e9:,.1f} G"
  return f"{flops_per_second / 1e12:,.1f} T"


def _data_note(r: dict[str, Any]) -> str | None:
  """Returns how fast text becomes tokens and batches, None for a task without text."""
  if r["pipeline_tokens_per_second"] is None:
    return None
  pipeline, ratio = r["pipeline_tokens_per_second"], r["pipeline_tokens_per_second"] / r["tokens_per_second"]
  return (
    f"{r['config']}: batches of {pipeline:,.0f} tokens/s, {ratio:.0f} times what training takes; "
    f"tokenizer {r['tokenizer_bytes_per_second'] / 1e6:.1f} MB/s"
  )


def _note(r: dict[str, Any]) -> str:
  """Returns where a result was measured, and what its utilization is relative to."""
  where = f"{r['num_devices']} x {r['device']}, {r['dtype']}, jax {r['jax']}"
  if r["peak_source"] is None:
    return f"{where}: peak unknown for {r['device']}, so no utilization"
  return f"{where}; peak: {r['peak_source']}"
