"""What `lm-jax bench` found of generation, as text."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table


def grid(*columns: str) -> Table:
  """Returns a table without lines, numbers on the right."""
  table = Table(box=None, pad_edge=False, header_style="")
  for i, name in enumerate(columns):
    table.add_column(name, justify="right" if i else "left", no_wrap=True)
  return table


def text(table: Table) -> str:
  out = io.StringIO()
  Console(file=out, width=200, highlight=False).print(table)
  return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def table(r: dict[str, Any]) -> str:
  """Returns a row for each form of the weights: their memory, decoding by batch, first tokens by length."""
  batches = list(dict.fromkeys(row["batch_size"] for row in r["decoding"]))
  lengths = list(dict.fromkeys(row["prompt_tokens"] for row in r["prefill"]))
  decoding = {(row["weights"], row["batch_size"]): row for row in r["decoding"]}
  prefill = {(row["weights"], row["prompt_tokens"]): row["ms"] for row in r["prefill"]}
  steps = [title for n in batches for title in (f"tokens/s, {n} at a time", "step")]
  out = grid("weights", "memory", *steps, *(f"first of {n}" for n in lengths))
  for kind, size in r["weights_bytes"].items():
    rows = [decoding[kind, n] for n in batches]
    speeds = [x for row in rows for x in (f"{row['tokens_per_second']:,.1f}", f"{row['step_ms']:.1f} ms")]
    out.add_row(kind, f"{size / 2**20:,.0f} MiB", *speeds, *(f"{prefill[kind, n]:,.1f} ms" for n in lengths))
  opened = "" if r["load_s"] is None else f"; opened in {r['load_s']:.2f} s"
  note = f"{r['params_total']:,} parameters, {r['device']}, {r['dtype']}, jax {r['jax']}"
  return f"{r['config']}{opened}\n{text(out)}\n{note}"
