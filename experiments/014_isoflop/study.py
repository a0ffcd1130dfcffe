"""Study 014: the best size for a given compute, by four approaches; see experiments/study.py.

Fits are of lm_jax.analysis.scaling_laws; what takes longer than a figure may is kept beside the cells.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.figure import Figure

from lm_jax.analysis import frame
from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import figure, summary

COMMANDS = ("lm-jax sweep --config={here}/../../configs/sweeps/isoflop.py --workdir={workdir}",)
N = {"total": "n_params", "nonembedding": "n_params_nonembedding"}
_SENSITIVITY = ["approach", "loss", "delta", "n", "c", "a"]
_HOLDOUT = ["cutoff_flops", "n_fitted", "n_predicted", "law_rms", "naive_rms"]


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  last = frame.final(frame.load(workdir)).query("metric == 'nll'")
  cells = pd.DataFrame({
    "n_params": last["params_total"], "n_params_nonembedding": last["params_nonembedding"],
    "n_tokens": last["tokens"], "flops": last["flops_exact"].map(lambda x: float(f"{x:.6g}")),
    "nll": last["value"].round(4), "stderr": last["stderr"].round(4), "n_items": last["n_items"],
    "run": last["cell_id"],
  }).sort_values("flops", kind="stable", ignore_index=True)  # fmt: skip
  return {"cells": cells, **fits(cells)}


def _points(cells: pd.DataFrame) -> dict[tuple[str, str], LossPoints]:
  """Returns the losses by what is called N and C."""
  found = {}
  for n, column in N.items():
    for c in ("6nd", "exact"):
      flops = cells["flops"] if c == "exact" else 6 * cells[column] * cells["n_tokens"]
      of = (cells[column], cells["n_tokens"], flops, cells["nll"])
      found[n, c] = LossPoints(*(np.asarray(x, float) for x in of), cells["run"].to_numpy(), metric="nll",
                               source="cells.csv")  # fmt: skip
  return found


def fits(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
  """Returns exponents with intervals and under other choices, optima of profiles, and held-out errors."""
  points = _points(cells)
  isoflop, envelope, law = (
    summary.summarize(points, summary.Options(law=name)).tree
    for name in ("isoflop", "envelope", "chinchilla")
  )
  lines = {f"2 {name}": one for name, one in isoflop["methods"].items()} | {"1 envelope": envelope}
  lines["3 parametric"] = law | {"a_ci95": law["ci95"]["a"], "n_budgets": None}
  rows = [
    {"approach": name, "a": one["a"], **dict(zip(("a_low", "a_high"), one["a_ci95"] or (), strict=False)),
     "n_budgets": one["n_budgets"], **{key: one.get(key) for key in ("E", "alpha", "beta")}}
    for name, one in lines.items()
  ]  # fmt: skip
  optima = pd.DataFrame(isoflop["optima"])[["method", "flops", "n_params", "loss", "resamples_with_minimum"]]
  return {
    "fits": pd.DataFrame(rows).round(4).astype({"n_budgets": "Int64"}),
    "choices": pd.DataFrame(law["sensitivity"])[_SENSITIVITY].dropna(subset="a").round(4),
    "optima": optima.round({"flops": -6, "n_params": 0, "loss": 4}),
    "holdout": pd.DataFrame(law["holdout"])[_HOLDOUT].round(4),
  }


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  options = summary.Options(law="isoflop")
  return {"isoflop": figure.figure(summary.summarize(_points(tables["cells"]), options))}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  rows, number = tables["fits"].set_index("approach"), study_text.number
  at_minimum, of = (rows["n_budgets"][name] for name in ("2 parabola", "2 akima"))
  law = rows.loc["3 parametric"]
  shown = {
    "2 parabola": f"2, parabola ({at_minimum:.0f} of {of:.0f} budgets have a minimum)",
    "2 akima": "2, Akima interpolation",
    "1 envelope": f"1, envelope over {rows['n_budgets']['1 envelope']:.0f} bins of compute",
    "3 parametric": "3, parametric: " + ", ".join(f"{n} {number(law[n])}" for n in ("E", "alpha", "beta")),
  }
  lines = [
    {"approach": text, "a": number(rows.loc[name, "a"]),
     "95 %": f"{number(rows.loc[name, 'a_low'])} to {number(rows.loc[name, 'a_high'])}"}
    for name, text in shown.items()
  ]  # fmt: skip
  return {"exponents": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  width = tables["fits"]["a_high"] - tables["fits"]["a_low"]
  return {
    "the narrowest interval of a": width.min(),
    "the widest": width.max(),
    "least NLL": tables["cells"]["nll"].min(),
  }
