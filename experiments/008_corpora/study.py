"""Study 008: time and memory of a large corpus, from files to windows of tokens; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

COMMANDS = (
  "python {here}/measure.py {workdir}/results.csv 1000 bytes",
  "python {here}/measure.py {workdir}/results.csv 1000 bpe",
  "python {here}/measure.py {workdir}/results.csv 100 bytes rows",
  "python {here}/measure.py {workdir}/results.csv 100 bytes",
)
TOKENS = {"bytes": "bytes", "bpe": "BPE"}


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {"results": pd.read_csv(workdir / "results.csv")}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  rows = tables["results"].rename(columns={"peak_anonymous_mb": "value"})
  rows = rows[rows["value"].notna() & (rows["stage"] != "again")]
  rows["label"], rows["group"] = rows["stage"], [_corpus(row) for _, row in rows.iterrows()]
  return {"memory": study_figure.dots(rows, "Allocated at the most, MB")}


def _corpus(row: pd.Series) -> str:
  mb = row["megabytes"]
  size = f"{mb / 1000:.1f} GB" if mb >= 1000 else f"{mb} MB"
  return f"{size} of {row['shape']}, {TOKENS[row['tokenizer']]}"


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = []
  for _, row in tables["results"].iterrows():
    lines.append({
      "corpus, tokens": _corpus(row), "stage": row["stage"],
      "s": f"{row['seconds']:.2f}", "MB/s": study_text.known(row["mb_per_s"], 1),
      "allocated, MB": study_text.known(row["peak_anonymous_mb"]),
      "resident, MB": study_text.known(row["peak_rss_mb"]),
    })  # fmt: skip
  return {"stages": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  table = tables["results"]
  rows = table[(table["tokenizer"] == "bytes") & (table["shape"] == "books")]
  memory = rows.set_index(["stage", "megabytes"])["peak_anonymous_mb"].sort_index()
  large = {stage: memory[stage].iloc[-1] / memory[stage].iloc[0] for stage in ("dataset", "tokens")}
  resident = rows.loc[rows["stage"] == "windows", "peak_rss_mb"].max()
  return {f"memory of 1 GB over that of 100 MB, {stage}": ratio for stage, ratio in large.items()} | {
    "GB that windows touch": resident / 1000,
  }
