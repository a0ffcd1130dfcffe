"""Study 018: the phases in which Markov chains are learnt in context; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table
from lm_jax.analysis.figures.style import GREY, HUES, TEXT_WIDTH

COMMANDS = ("lm-jax sweep --config={here}/config.py --workdir={workdir}",)

FAMILIES = (
  "learned, rate .0005", "learned, rate .002", "rope, rate .0005", "rope, rate .002", "1 layer", "with MLPs",
)  # fmt: skip
# What a model does, and the column that tells how far it is from it.
PREDICTORS = {"kl_baseline": "unigram", "kl_bayes": "bigram"}
NEAR = 0.02  # nats


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  rows = curve_table.load(workdir, checkpoints=True).rows
  rows = rows[(rows["shots"] == "window") & rows["metric"].isin([*PREDICTORS, "nll"])]
  wide = rows.pivot(index=["family", "seed", "step"], columns="metric", values="value").reset_index()
  wide = wide.astype({"seed": "int64", "step": "int64"}).round(5)
  phases = [
    {"family": family, "seed": seed} | _phases(own)
    for (family, seed), own in wide.groupby(["family", "seed"])
  ]
  return {"training": wide, "phases": pd.DataFrame(phases)}


def _phases(run: pd.DataFrame) -> dict[str, float | int | None]:
  """Returns when one run was nearest to the unigram predictor, and when first nearer to the bigram one."""
  run = run[run["step"] > 0].reset_index(drop=True)
  unigram, bigram = run["kl_baseline"], run["kl_bayes"]
  lowest = int(unigram.idxmin())
  later = run.loc[lowest:]
  nearer = later.loc[later["kl_bayes"] < later["kl_baseline"], "step"]
  return {
    "least_kl_unigram": unigram[lowest], "step_of_least_kl_unigram": int(run["step"][lowest]),
    "kl_bigram_at_that_step": bigram[lowest],
    "first_step_nearer_to_bigram": int(nearer.iloc[0]) if len(nearer) else None,
    "last_kl_unigram": unigram.iloc[-1], "last_kl_bigram": bigram.iloc[-1],
  }  # fmt: skip


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 3.6))
  axes = figure.subplots(2, 3, sharex=True, sharey=True)
  for ax, family in zip(axes.flat, FAMILIES, strict=True):
    _draw_family(ax, tables["training"][tables["training"]["family"] == family])
    ax.set_title(family[0].upper() + family[1:])
  for ax in axes[:, 0]:
    ax.set_ylabel("KL to the model (nats)")
  for ax in axes[1]:
    ax.set_xlabel("Step")
  axes[0, 0].legend(loc="lower left", frameon=False, fontsize=6)
  return {"phases": figure}


def _draw_family(ax: Axes, training: pd.DataFrame) -> None:
  training = training[training["step"] > 0]
  for i, (column, name) in enumerate(PREDICTORS.items()):
    for _, run in training.groupby("seed"):
      ax.plot(run["step"], run[column], color=HUES[i], linewidth=0.6, alpha=0.5)
    # Of divergences, whose ratios matter, the mean that does not depend on the largest seed.
    mean = np.exp(np.log(training[column].clip(lower=1e-5)).groupby(training["step"]).mean())
    ax.plot(mean.index, mean, color=HUES[i], label=f"from the {name} predictor")
  ax.axhline(NEAR, color=GREY, linestyle=":", linewidth=0.8)
  ax.set(xscale="log", yscale="log", ylim=(1e-3, 2))


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = []
  for family in FAMILIES:
    own = tables["phases"][tables["phases"]["family"] == family]
    past = own["first_step_nearer_to_bigram"].dropna()
    lines.append({
      "family": family,
      "least divergence from unigram": _range(own["least_kl_unigram"], ".4f"),
      "at step": _range(own["step_of_least_kl_unigram"], ",.0f"),
      "from bigram then": _range(own["kl_bigram_at_that_step"], ".3f"),
      "nearer to bigram from step": _range(past, ",.0f") if len(past) else "",
      "of 5 seeds": str(len(past)),
      "last divergence from bigram": _range(own["last_kl_bigram"], ".4f"),
      f"below {NEAR}": str(int((own["last_kl_bigram"] < NEAR).sum())),
    })  # fmt: skip
  return {"phases": study_text.table(pd.DataFrame(lines))}


def _range(values: pd.Series, form: str) -> str:
  """Returns "MEDIAN (LEAST to MOST)"."""
  return f"{values.median():{form}} ({values.min():{form}} to {values.max():{form}})"


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns how much earlier the phases come at the larger rate, and with MLPs, by medians over seeds."""
  median = (
    tables["phases"].groupby("family")[["step_of_least_kl_unigram", "first_step_nearer_to_bigram"]].median()
  )
  pairs = {f"{p}, four times the rate": (f"{p}, rate .0005", f"{p}, rate .002") for p in ("learned", "rope")}
  pairs["MLPs"] = ("learned, rate .002", "with MLPs")
  return {
    f"{name}: {column}": median.at[slow, column] / median.at[fast, column]
    for name, (slow, fast) in pairs.items()
    for column in median
  }
