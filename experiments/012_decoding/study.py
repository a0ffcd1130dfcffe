"""Study 012: decoding beside transformers, and the time until the first token; see experiments/study.py."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import study_text
from matplotlib.figure import Figure

from lm_jax.analysis.figures.style import HUES, LINES, MARKERS, TEXT_WIDTH

COMMANDS = (
  "python {here}/transformers_peer.py --shape=smollm2 --output={workdir}/smollm2.csv",
  "python {here}/transformers_peer.py --shape=gpt2 --output={workdir}/gpt2.csv",
  "lm-jax bench --config={here}/../../configs/bench/decode.py --steps=5 --output={workdir}/bench.jsonl",
)
SHAPES = {"smollm2": "SmolLM2-135M", "gpt2": "GPT-2 124M"}
PEER = "transformers float32"


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  """Returns what was measured on this machine, below what others have left."""
  last = (workdir / "bench.jsonl").read_text(encoding="utf-8").splitlines()[-1]
  machine, code = f"{platform.machine()}, {platform.system()}", f"lm_jax {json.loads(last)['lm_jax_version']}"
  steps = pd.concat([pd.read_csv(workdir / f"{shape}.csv") for shape in SHAPES], ignore_index=True)
  found = {"results": _labeled(steps, machine, code), **of_bench(json.loads(last), machine, code)}
  return {stem: pd.concat([_of_others(stem, machine, code), part]) for stem, part in found.items()}


def _of_others(stem: str, machine: str, code: str) -> pd.DataFrame:
  rows = pd.read_csv(Path(__file__).with_name(f"{stem}.csv"))
  return rows[(rows["machine"] != machine) | (rows["code"] != code)]


def _labeled(rows: pd.DataFrame, machine: str, code: str) -> pd.DataFrame:
  return pd.concat([pd.DataFrame({"machine": machine, "code": code}, index=rows.index), rows], axis=1)


def of_bench(row: Mapping[str, Any], machine: str, code: str) -> dict[str, pd.DataFrame]:
  """Returns the tables of one row of lm-jax bench."""
  decoding = pd.DataFrame(row["decoding"])
  decoding["weights_bytes"] = decoding["weights"].map(row["weights_bytes"])
  parts = {"prefill": pd.DataFrame(row["prefill"]), "decoding": decoding}
  return {stem: _labeled(part, machine, code).round(3) for stem, part in parts.items()}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH * 0.75, 2.7))
  ax = figure.subplots()
  for i, ((machine, code), rows) in enumerate(tables["prefill"].groupby(["machine", "code"], sort=False)):
    for j, (weights, own) in enumerate(rows.groupby("weights", sort=False)):
      ax.plot(own["prompt_tokens"], own["cpu_ms"], LINES[i], color=HUES[j], marker=MARKERS[i], markersize=3.5,
              label=f"{weights}; {machine}, {code}")  # fmt: skip
  ax.set(
    xscale="log", yscale="log", xlabel="Tokens of the prompt", ylabel="CPU time until the first token, ms"
  )
  ax.legend(frameon=False, fontsize=6)
  return {"prefill": figure}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  return {"steps": _steps(tables["results"]), "prefill": _prefill(tables["prefill"])}


def _steps(results: pd.DataFrame) -> str:
  lines = []
  for (machine, shape, batch), own in results.groupby(["machine", "shape", "batch"], sort=False):
    own = own.set_index("program")
    line = {"machine": machine, "shape": SHAPES[shape], "batch": str(batch),
            "transformers, CPU ms a step": f"{own.loc[PEER, 'cpu_ms']:.1f}"}  # fmt: skip
    for program, row in own.drop(PEER).iterrows():
      line[program] = f"{row['cpu_ms']:.1f} ({row['times_transformers_cpu']:.1f} x)"
    lines.append(line)
  return study_text.table(pd.DataFrame(lines))


def _prefill(prefill: pd.DataFrame) -> str:
  """Returns milliseconds by the clock, a column a length of the prompt."""
  wide = prefill.pivot_table(
    index=["machine", "code", "weights"], columns="prompt_tokens", values="ms", sort=False
  )
  wide = wide[sorted(wide.columns)]
  rows = [
    {"machine": f"{machine}, {code}", "weights": weights}
    | {str(length): study_text.known(value) for length, value in values.items()}
    for (machine, code, weights), values in wide.iterrows()
  ]
  return study_text.table(pd.DataFrame(rows))


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  decoding, prefill = tables["decoding"], tables["prefill"].query("prompt_tokens == 128").set_index("weights")
  ms = prefill[prefill["code"] == "before chunks"]["ms"]
  return {
    "GB of float32 weights": decoding.loc[decoding["weights"] == "float32", "weights_bytes"].max() / 1e9,
    "int8 over float32, 128 tokens, before": ms["int8"] / ms["float32"],
  }
