"""Study 022: prompts for models of a mixture of hidden Markov models; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table, frame
from lm_jax.analysis.figures.style import GREY, HUES, INK, MARKERS, TEXT_WIDTH

COMMANDS = ("lm-jax sweep --config={here}/config.py --workdir={workdir}",)

SIZES = ("d16 L2", "d32 L2", "d64 L2", "d32 L1", "d32 L4")
SHOWN = (0, 1, 4, 16)
SHOWN_OF_64 = (0, 1, 4, 16, 32, 64)
LAST_STEPS = 500  # over which the training loss is averaged
# Xie et al. (arXiv:2111.02080), examples of 10 tokens, 64 of them: {layers: accuracies}.
PUBLISHED_SYMBOLS = (50, 100, 150)
PUBLISHED = {4: (0.602, 0.674, 0.928), 12: (0.812, 0.846, 0.984), 16: (0.847, 0.887, 0.981)}


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  study = frame.load(workdir)
  rows = curve_table.of_study(study).rows
  rows = rows[(rows["metric"] == "accuracy") & rows["shots"].map(lambda shots: str(shots).isdecimal())]
  accuracy = pd.DataFrame({
    "model": rows["model"], "n_params": rows["n_params"].astype(int), "seed": rows["seed"].astype(int),
    "examples": rows["shots"].astype(int), "accuracy": rows["value"].round(5),
    "stderr": rows["stderr"].round(5),
  })  # fmt: skip
  accuracy = accuracy.sort_values(["model", "seed", "examples"], ignore_index=True)
  best = study.tasks["ginc"].bayes_accuracy
  published = [
    {"layers": layers, "symbols": symbols, "accuracy": value}
    for layers, line in PUBLISHED.items()
    for symbols, value in zip(PUBLISHED_SYMBOLS, line, strict=True)
  ]
  return {
    "accuracy": accuracy,
    "runs": _runs(accuracy, _losses(study)),
    "best": pd.DataFrame({"examples": range(len(best)), "accuracy": best}).round(5),
    "published": pd.DataFrame(published),
  }


def _losses(study: frame.Study) -> pd.Series:
  """Returns the mean training loss of each run's last steps, by model and seed."""
  rows = study.records[(study.records["split"] == "train") & (study.records["metric"] == "loss")]
  rows = rows.merge(study.cells[["cell_id", "num_steps"]], on="cell_id")
  rows = rows[rows["step"] > rows["num_steps"] - LAST_STEPS]
  mean = rows.groupby("cell_id")["value"].mean().rename("loss")
  cells = study.cells.merge(mean, on="cell_id")
  return cells.assign(model=cells["label"].str.extract(r"(d\d+ L\d+)", expand=False)).set_index(
    ["model", "seed"]
  )["loss"]


def _runs(accuracy: pd.DataFrame, losses: pd.Series) -> pd.DataFrame:
  wide = accuracy.pivot(index=["model", "n_params", "seed"], columns="examples", values="accuracy")
  runs = wide[list(SHOWN)].add_prefix("accuracy_").reset_index()
  runs["gain"] = (runs[f"accuracy_{SHOWN[-1]}"] - runs["accuracy_0"]).round(5)
  runs["loss"] = [
    round(losses[model, seed], 5) for model, seed in zip(runs["model"], runs["seed"], strict=True)
  ]
  return runs


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 2.6))
  left, right = figure.subplots(1, 2, sharey=True)
  accuracy, runs = tables["accuracy"], tables["runs"]
  for i, model in enumerate(SIZES):
    own = accuracy[accuracy["model"] == model].groupby("examples")["accuracy"]
    left.plot(own.mean(), color=HUES[i], label=model)
    left.fill_between(own.mean().index, own.min(), own.max(), color=HUES[i], alpha=0.15, linewidth=0)
    of_model = runs[runs["model"] == model]
    right.plot(
      of_model["loss"], of_model["accuracy_16"], MARKERS[i], color=HUES[i], markersize=4, label=model
    )
    right.plot(
      of_model["loss"], of_model["accuracy_0"], MARKERS[i], color=HUES[i], markersize=4, fillstyle="none"
    )
  best = tables["best"]
  left.plot(best["examples"], best["accuracy"], color=INK, linestyle="--", label="best on prompts")
  left.set(xlabel="Examples in the prompt", ylabel="Accuracy", ylim=(0.5, 1.01), xticks=range(0, 17, 4))
  left.legend(frameon=False, fontsize=6, loc="lower right", ncols=2)
  right.set_xlabel("Training loss (nats/token)")
  right.set_title("filled: after 16 examples, open: after none", color=GREY, fontsize=7)
  return {"accuracy": figure}


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  runs, best = tables["runs"], tables["best"].set_index("examples")["accuracy"]
  lines = []
  for model in SIZES:
    own = runs[runs["model"] == model]
    line = {"size": model, "parameters": f"{own['n_params'].iloc[0]:,}", "training loss": _mean(own["loss"])}
    line |= {f"n = {n}": _mean(own[f"accuracy_{n}"]) for n in SHOWN}
    lines.append(line | {"gain": _mean(own["gain"])})
  lines.append(
    {"size": "best on prompts", "parameters": "", "training loss": ""}
    | {f"n = {n}": study_text.number(best[n]) for n in SHOWN}
    | {"gain": study_text.number(best[SHOWN[-1]] - best[0])}
  )
  published = tables["published"].pivot(index="layers", columns="symbols", values="accuracy")
  shown = published.map(study_text.number).add_suffix(" symbols").reset_index()
  gpu = tables["gpu"].set_index("examples")
  own = {"layers": "4", "symbols": "50"} | {
    f"n = {n}": f"{study_text.number(gpu.at[n, 'accuracy'])} ± {study_text.number(gpu.at[n, 'stderr'])}"
    for n in SHOWN_OF_64
  }
  return {
    "runs": study_text.table(pd.DataFrame(lines)),
    "published": study_text.table(shown),
    "gpu": study_text.table(pd.DataFrame([own])),
  }


def _mean(values: pd.Series) -> str:
  """Returns "MEAN (LEAST to MOST)"."""
  mean, low, high = (study_text.number(x) for x in (values.mean(), values.min(), values.max()))
  return f"{mean} ({low} to {high})"


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns differences between sizes, of means over seeds, and how loss and accuracy go together."""
  mean = tables["runs"].groupby("model")[["loss", "accuracy_0", "accuracy_16", "gain"]].mean()
  pairs = {(a, b) for a in mean.index for b in mean.index if a < b}
  runs, best = tables["runs"], tables["best"]["accuracy"].iloc[-1]
  together = {
    "rank correlation of loss and accuracy": runs["loss"].corr(runs["accuracy_16"], method="spearman"),
    "least distance from the best": best - runs["accuracy_16"].max(),
  }
  together["published less the GPU's, 4 layers, 50 symbols"] = (
    PUBLISHED[4][0] - tables["gpu"].set_index("examples").at[64, "accuracy"]
  )
  return together | {
    f"{a} less {b}: {column}": float(np.round(mean.at[a, column] - mean.at[b, column], 5))
    for a, b in pairs
    for column in mean
  }
