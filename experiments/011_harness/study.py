"""Study 011: scoring by lm-evaluation-harness, ours beside its hf backend; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

COMMANDS = ("python {here}/compare.py --output={workdir}/results.csv",)
DEMONSTRATIONS = {"default": ", drawn for each item", "first_n": ", the same for all items"}
PARAMS = 134_515_008  # of SmolLM2-135M's shape


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {"results": pd.read_csv(workdir / "results.csv")}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  machines = {"results": "first machine", "results_avx2": "second machine"}
  rows = pd.concat([tables[stem].assign(group=machine) for stem, machine in machines.items()])
  rows["label"] = [f"{row['task']}, shots: {_shots(row)}" for _, row in rows.iterrows()]
  rows = rows.rename(columns={"cpu_ratio": "value"})
  return {"ratio": study_figure.dots(rows, "CPU time, hf backend over ours", same_at=1.0)}


def _shots(row: pd.Series) -> str:
  return f"{row['shots']}{DEMONSTRATIONS[row['demonstrations']] if row['shots'] else ''}"


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  return {"first": _table(tables["results"]), "second": _table(tables["results_avx2"])}


def _table(results: pd.DataFrame) -> str:
  lines = [
    {
      "task": row["task"],
      "shots": _shots(row),
      "requests": f"{row['requests']}", "tokens ours reads": f"{row['tokens_read']:,}",
      "hf, CPU s": f"{row['hf_cpu_s']:.1f}", "ours, CPU s": f"{row['ours_cpu_s']:.1f}",
      "ratio": f"{row['cpu_ratio']:.2f}", "by the clock": f"{row['wall_ratio']:.1f}",
    }
    for _, row in results.iterrows()
  ]  # fmt: skip
  return study_text.table(pd.DataFrame(lines))


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  boolq = tables["results_avx2"].query("task == 'boolq'").iloc[0]
  tflop = 2 * PARAMS * boolq["tokens_read"] / 1e12
  return {"TFLOP of boolq": tflop, "GFLOP/s a core": 1e3 * tflop / boolq["ours_cpu_s"]}
