"""Study 010: film reviews after k labeled examples a class, by a tiny BERT; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_text
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lm_jax.analysis import finetuning
from lm_jax.analysis.figures.style import GREY, MARKERS, TEXT_WIDTH
from lm_jax.analysis.finetuning import COLORS, LABELS

COMMANDS = ("lm-jax finetune --config={here}/../../configs/finetune/mr_cls.py --workdir={workdir}",)
CHANCE = 0.5
SHOWN = (1, 4, 16, 32, 128, 512, 2048)
# Methods of one k stand beside each other.
BESIDE = {"full": 2**-0.12, "lora": 1.0, "head": 2**0.12}


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {"results": finetuning.table(finetuning.load(workdir))}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  table = tables["results"]
  figure = Figure(figsize=(TEXT_WIDTH * 0.8, 2.6))
  ax = figure.subplots()
  for (method, color), marker in zip(COLORS.items(), MARKERS, strict=False):
    own = table[table["method"] == method]
    k = own["k"] * BESIDE[method]
    ax.errorbar(k, own["mean"], own["sd"], color=color, marker=marker, markersize=3.5, elinewidth=1.4,
                label=LABELS[method])  # fmt: skip
    ax.vlines(k, own["min"], own["max"], color=color, linewidth=0.5)
  ax.axhline(CHANCE, color=GREY, linestyle="--", linewidth=0.8, label="chance")
  ax.set(xscale="log", xlabel="Training examples a class", ylabel="Accuracy on test",
         title="Mean, standard deviation (thick) and range (thin) of five draws")  # fmt: skip
  ks = sorted(table["k"].unique())
  ax.set_xticks(ks, [str(k) for k in ks])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.legend(frameon=False, loc="upper left")
  return {"accuracy_vs_shots": figure}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = []
  for method, own in tables["results"].groupby("method", sort=False):
    line = {"k": f"{LABELS[method]}, {own['params_trained'].iloc[0]:,} parameters"}
    for _, row in own[own["k"].isin(SHOWN)].iterrows():
      line[str(row["k"])] = f"{study_text.number(row['mean'])} ± {study_text.number(row['sd'])}"
    lines.append(line)
  return {"accuracy": study_text.table(pd.DataFrame(lines))}
