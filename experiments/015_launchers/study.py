"""Study 015: what a cell costs beyond its training, by launcher; see experiments/study.py."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

_MEASURE = (
  "python {here}/measure.py --output={workdir}/results.csv --turns=2 --launcher="
  " --launcher='--launcher=slurm --workers=2' --launcher='--launcher=ray --ray_address=auto'"
)
COMMANDS = (_MEASURE, _MEASURE + " --config={here}/../../configs/sweeps/quickstart.py:smoke")
SHAPES = {"quickstart.py:smoke": ", 7 shapes"}
WORKERS, CELLS, MANY = 2, 500, "500 cells of 10 steps"


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {"results": pd.read_csv(workdir / "results.csv")}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  rows = tables["results"].rename(columns={"command_s": "value"})
  rows["label"] = [row["sweep"] + SHAPES.get(row["sweep"], "") for _, row in rows.iterrows()]
  rows["group"] = rows["launcher"].map(_launcher)
  return {"seconds": study_figure.dots(rows, "The whole command, seconds")}


def _launcher(flags: str) -> str:
  return re.sub(r"--launcher=(\w+).*", r"\1", flags)


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = [
    {
      "sweep": row["sweep"] + SHAPES.get(row["sweep"], ""), "launcher": _launcher(row["launcher"]),
      "until the last cell was done, s": f"{row['trained_s']:.1f}",
      "whole command, s": f"{row['command_s']:.1f}",
    }
    for _, row in tables["results"].iterrows()
  ]  # fmt: skip
  return {"times": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  many = tables["results"].query("sweep == @MANY")
  trained = dict(zip(many["launcher"].map(_launcher), many["trained_s"], strict=True))
  return {
    "seconds of a worker, a cell": WORKERS * trained["local"] / CELLS,
    "ray over local": trained["ray"] / trained["local"],
  }
