"""The report of fine-tuning: accuracy against the number of examples a class, by method; from its records."""

import dataclasses
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax import records
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.look import NAMES
from lm_jax.analysis.figures.style import GREY, STYLE
from lm_jax.analysis.report import files
from lm_jax.strict import ConfigError

STEM = "accuracy_vs_shots"
# Okabe and Ito, apart in lightness too.
COLORS = {"full": "#0072B2", "lora": "#D55E00", "head": "#009E73"}
LABELS = {"full": "full", "lora": "LoRA", "head": "head alone"}
# Methods of one k stand beside each other, so that their draws can be told apart.
_OFFSETS = {"full": 2**-0.07, "lora": 1.0, "head": 2**0.07}


@dataclasses.dataclass(frozen=True)
class Tuned:
  """What a workdir of lm-jax finetune holds: its rows, and what task.json says of data and model."""

  rows: pd.DataFrame
  facts: dict


def load(workdir: Path) -> Tuned:
  run = Path(workdir)
  if not (run / "records.jsonl").is_file():
    raise ConfigError(f"--workdir={workdir}: no run of its fine-tuning is done yet")
  rows = pd.DataFrame(records.read(run / "records.jsonl"), columns=records.FIELDS)
  return Tuned(rows, json.loads((run / "task.json").read_text()))


def table(tuned: Tuned) -> pd.DataFrame:
  """Returns accuracy on test by method and k.

  mean, sd (n - 1), min and max are over draws; item_stderr is the mean over draws of the standard error over
  items. One draw has no sd.
  """
  rows = tuned.rows
  scored = rows[rows["split"] == "test"].pivot_table(
    index=["family", "n_shots", "seed"], columns="metric", values="value"
  )
  errors = rows[(rows["split"] == "test") & (rows["metric"] == "accuracy")]
  by = ["family", "n_shots"]
  accuracy = scored["accuracy"].groupby(by).agg(["count", "mean", "std", "min", "max"])
  result = accuracy.rename(columns={"count": "draws", "std": "sd"})
  result["item_stderr"] = errors.groupby(by)["stderr"].mean()
  result["nll"] = scored["nll"].groupby(by).mean()
  trained = rows[rows["metric"] == "params_trained"]
  result["params_trained"] = trained.groupby(by)["value"].first().astype(int)
  result["mean_step"] = trained.groupby(by)["step"].mean()
  result = result.reset_index().rename(columns={"family": "method", "n_shots": "k"})
  result["k"] = result["k"].astype(int)
  order = {method: i for i, method in enumerate(dict.fromkeys(rows["family"]))}
  return result.sort_values(["method", "k"], key=lambda c: c.map(order) if c.name == "method" else c)


def format_table(workdir: Path) -> str:
  """Returns the table as text, with what a guess would score."""
  tuned = load(workdir)
  facts = tuned.facts
  lines = [f"{facts['name']}, {facts['initial']} model: accuracy on {facts['num_test']} texts of test",
           f"{'method':<8}{'k':>5}{'draws':>7}{'mean':>8}{'sd':>8}{'min':>8}{'max':>8}{'±items':>8}"
           f"{'nll':>8}{'trained':>12}"]  # fmt: skip
  for r in table(tuned).itertuples():
    sd = "" if np.isnan(r.sd) else f"{r.sd:.3f}"
    lines.append(f"{r.method:<8}{r.k:>5}{r.draws:>7}{r.mean:>8.3f}{sd:>8}{r.min:>8.3f}{r.max:>8.3f}"
                 f"{r.item_stderr:>8.3f}{r.nll:>8.3f}{r.params_trained:>12,}")  # fmt: skip
  lines.append(f"chance {facts['chance']:.3f}, most frequent class {facts['majority_share']:.3f}")
  return "\n".join(lines)


def figure(tuned: Tuned) -> Figure:
  """Accuracy on test against k: a line a method, a band of one sd over draws, a dot a draw."""
  new, (ax,) = figure_parts.new_figure()
  stats, ends = table(tuned), []
  single = tuned.rows[(tuned.rows["split"] == "test") & (tuned.rows["metric"] == "accuracy")]
  for method, own in stats.groupby("method", sort=False):
    color = COLORS[method]
    draws = single[single["family"] == method]
    ax.plot(draws["n_shots"].astype(float) * _OFFSETS[method], draws["value"], "o", color=color, markersize=3,
            alpha=0.4, markeredgewidth=0)  # fmt: skip
    ax.plot(own["k"], own["mean"], "-o", color=color, markersize=4)
    ax.fill_between(own["k"], own["mean"] - own["sd"], own["mean"] + own["sd"], color=color, alpha=0.13,
                    linewidth=0)  # fmt: skip
    ends.append((own["mean"].iloc[-1], LABELS[method], color))
  _shots_axis(ax, sorted(set(stats["k"])))
  ax.set_ylabel(f"{NAMES['accuracy']}, test split of {tuned.facts['name']}")
  ends += _guesses(ax, tuned.facts)
  _widen(ax)
  figure_parts.label_ends(ax, ends)
  told = (
    f"{tuned.facts['initial']} model; lines: mean over draws; bands: one standard deviation over draws;\n"
    "dots: single draws, a method's beside the next one's"
  )
  figure_parts.key(ax, told)
  return new


def _widen(ax: Axes) -> None:
  """Shows a fifth of the range of accuracies at least, so that noise does not look like a result."""
  low, high = ax.get_ylim()
  ax.set_ylim(low, max(high, low + 0.2))


def _shots_axis(ax: Axes, shots: list[int]) -> None:
  ax.set_xscale("log", base=2)
  ax.set_xlim(shots[0] * 2**-0.4, shots[-1] * 2**0.4)
  ax.set_xticks(shots, [str(k) for k in shots])
  ax.xaxis.set_minor_locator(mpl.ticker.NullLocator())
  ax.set_xlabel("Training examples a class, k")


def _guesses(ax: Axes, facts: dict) -> list[tuple[float, str, str]]:
  """Draws what a uniform guess and the most frequent class would score; returns their labels."""
  levels = [(facts["chance"], "chance", "--"), (facts["majority_share"], "most frequent class", ":")]
  for y, _, style in levels:
    ax.axhline(y, color=GREY, linestyle=style, linewidth=0.8, zorder=1)
  return [(y, text, GREY) for y, text, _ in levels]


def write(workdir: Path) -> Path:
  """Writes WORKDIR/report: figures/accuracy_vs_shots.{png,svg,pdf}, tables/finetune.csv; returns the folder.

  Equal records give equal files.
  """
  tuned, folder = load(workdir), Path(workdir) / "report"
  with mpl.rc_context(STYLE):
    for ending, content in figure_parts.encoded(figure(tuned)).items():
      files.write(folder / "figures" / f"{STEM}.{ending}", content)
  files.write(folder / "tables" / "finetune.csv", table(tuned).to_csv(index=False))
  return folder
