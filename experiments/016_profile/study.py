"""Study 016: which operations of a training step take its time; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

COMMANDS = (
  "python {here}/measure.py {here}/../../configs/bench/d64.py {here}/../../configs/bench/d256.py"
  " --csv={workdir}/results.csv",
  "python {here}/weight_gradients.py",
)
PARTS = (
  "products of the MLP", "products of q, k, v and out", "products of the output layer",
  "attention: scores, softmax, layout", "norms", "GELU", "loss", "embeddings, residuals",
  "optimizer, clipping, the rest", "drawing the batch",
)  # fmt: skip
CONFIGS = ("d64", "d256")
# Weight gradients contract the tokens of both factors.
GRADIENT = "MF,MD->FD|MD,MF->DF"
TOKENS, FF, MODEL = 2048, 1024, 256  # of d256


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {"results": pd.read_csv(workdir / "results.csv")}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  table = tables["results"]
  share = table["self_ms"] / table.groupby("config")["self_ms"].transform("sum")
  rows = share.groupby([table["config"], table["part"]]).sum().rename("value").reset_index()
  rows = rows.rename(columns={"config": "group", "part": "label"})
  order = {"label": PARTS, "group": CONFIGS}
  rows = rows.sort_values(list(order), key=lambda names: names.map(order[names.name].index))
  return {"parts": study_figure.dots(rows, "Share of the time in the operations recorded")}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  by_config = dict(tuple(tables["results"].groupby("config")))
  lines = []
  for part in (*PARTS, "all of these"):
    line = {"part": part}
    for config in CONFIGS:
      table = by_config[config]
      own = table if part == "all of these" else table[table["part"] == part]
      ms = f"{own['self_ms'].sum():.1f}" if len(own) else "-"
      line |= {f"{config}, ms": ms, f"{config}, operations": f"{len(own)}"}
    lines.append(line)
  return {"parts": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  table = tables["results"]
  small, large = (table[table["config"] == config] for config in CONFIGS)
  of_small = small.groupby("part")["self_ms"].sum() / small["self_ms"].sum()
  products = large[large["part"].str.startswith("products")]
  is_gradient = products["source"].str.contains(GRADIENT)
  mlp = products["part"] == "products of the MLP"
  gradients, others = (products.loc[chosen & mlp, "self_ms"] for chosen in (is_gradient, ~is_gradient))
  gflop = 2 * TOKENS * FF * MODEL / 1e9
  return {
    "d64, products": of_small[[part for part in of_small.index if part.startswith("products")]].sum(),
    "d64, attention": of_small["attention: scores, softmax, layout"],
    "d64, norms, GELU and loss": of_small[["norms", "GELU", "loss"]].sum(),
    "d64, the largest operation": small["self_ms"].max() / small["self_ms"].sum(),
    "d256, ms of weight gradients": products.loc[is_gradient, "self_ms"].sum(),
    "d256, ms of products": products["self_ms"].sum(),
    "GFLOP/s of the MLP's weight gradients": gflop / gradients.mean() * 1e3,
    "GFLOP/s of its other products": gflop / others.mean() * 1e3,
    "ms of these": others.min(), "ms of these, at most": others.max(),
  }  # fmt: skip
