"""Few-shot prompting of text models: accuracy after k demonstrations, for every family at equal compute."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lm_jax.analysis import frame
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.look import NAMES
from lm_jax.analysis.figures.style import GREY, INK, OTHERS, TEXT_WIDTH
from lm_jax.analysis.frame import Study
from lm_jax.analysis.headline import align, text

# A thresholded metric beside a continuous one of the same answers (arXiv:2304.15004).
METRICS = ("accuracy", "choice_prob")


def rows(study: Study) -> pd.DataFrame:
  """Returns the final rows of tasks that models were prompted with, and not trained on."""
  final = frame.final(study)
  return final[final["n_shots"].notna() & ~final["task"].isin(study.tasks)]


def means(study: Study) -> pd.DataFrame:
  """Returns one row a (task, family, label, shots, metric): mean over seeds, and the error over items.

  The error is that of one seed (root mean square over seeds), since all seeds answer the same items.
  """
  keys = ["task", "family", "label", "params_total", "flops_exact", "n_shots", "metric"]
  groups = rows(study).groupby(keys, sort=False)
  stats = groups.agg(
    value=("value", "mean"), stderr=("stderr", lambda e: float(np.sqrt((e**2).mean()))),
    chance=("chance", "first"), n_items=("n_items", "first"), n_seeds=("cell_id", "nunique"),
  )  # fmt: skip
  return stats.reset_index().sort_values(["task", "family", "params_total", "n_shots"], kind="stable")


def _shots(k: float) -> str:
  return "1 shot" if k == 1 else f"{int(k)} shots"


def figure(table: pd.DataFrame, task: str) -> Figure:
  """Draws accuracy and choice probability against compute: families by color, most shots bold, none thin."""
  own = table[table["task"] == task]
  drawn, axes = figure_parts.new_figure(columns=len(METRICS), height=2.6, width=TEXT_WIDTH * 1.2)
  shots = sorted(own["n_shots"].unique())
  for ax, metric in zip(axes, METRICS, strict=True):
    of_metric = own[own["metric"] == metric]
    for i, family in enumerate(own["family"].drop_duplicates()):
      color = INK if i == 0 else OTHERS[(i - 1) % len(OTHERS)]
      for k in dict.fromkeys((shots[0], shots[-1])):
        line = of_metric[(of_metric["family"] == family) & (of_metric["n_shots"] == k)]
        bold = k == shots[-1]
        ax.errorbar(
          line["flops_exact"], line["value"], yerr=line["stderr"], color=color, marker="o", markersize=3,
          linewidth=1.6 if bold else 0.8, linestyle="-" if bold else "--", elinewidth=0.6,
          label=f"{family}, {_shots(k)}",
        )  # fmt: skip
    chance = of_metric["chance"].dropna()
    if len(chance):
      ax.axhline(chance.iloc[0], color=GREY, linestyle=":", linewidth=0.9)
      ax.annotate("chance", (1.01, chance.iloc[0]), xycoords=("axes fraction", "data"), va="center",
                  fontsize=6, color=GREY, annotation_clip=False)  # fmt: skip
    ax.set_xscale("log")
    figure_parts.some_powers(ax.xaxis, (1, 3))
    ax.set_xlabel(NAMES["flops_exact"])
    ax.set_title(NAMES.get(metric, metric))
  handles, labels = axes[0].get_legend_handles_labels()
  drawn.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=6, frameon=False)
  items = int(own["n_items"].iloc[0])
  figure_parts.key(axes[0], f"{task}: {items} items; bars: one standard error over items")
  return drawn


def format_table(study: Study) -> str:
  """Returns accuracy at every number of shots as text for a terminal; "" where nothing was prompted."""
  accuracy = means(study)
  accuracy = accuracy[accuracy["metric"] == "accuracy"]
  parts: list[str] = []
  for task, own in accuracy.groupby("task", sort=False):
    wide = own.pivot_table(
      index=["family", "params_total", "label"], columns="n_shots", values="value", sort=False
    )
    shots = sorted(wide.columns)
    lines = [["size", "family", *map(_shots, shots)]]
    for (family, _, label), values in wide.iterrows():
      lines.append([label, family, *(text(values[k]) for k in shots)])
    error, chance = own["stderr"].max(), own["chance"].iloc[0]
    title = f"{task}: accuracy of prompting, {int(own['n_items'].iloc[0])} items, chance {text(chance)}"
    parts += [f"{title}, ± at most {text(error)}", *align(lines, left=2), ""]
  return "\n".join(parts)
