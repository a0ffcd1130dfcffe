"""Study 007: a token's cost in training by length, full attention and a window; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lm_jax.analysis.figures.style import GREY, HUES, MARKERS, TEXT_WIDTH

COMMANDS = ("python {here}/measure.py {workdir}/results.csv",)
KINDS = {"full": "full", "window 256": "window of 256"}


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {"results": pd.read_csv(workdir / "results.csv")}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 2.4))
  time, flops = figure.subplots(1, 2)
  _draw(time, tables["results"], "us_per_token", "Training, microseconds a token")
  _draw(flops, tables["results"], "kflops_per_token", "Training, kFLOPs a token")
  for kind, color in zip(KINDS, HUES, strict=False):
    own = tables["results"][tables["results"]["attention"] == kind]
    time.plot(own["length"], own["closed_form_us"], "--", color=color, linewidth=0.9)
  time.plot([], [], "--", color=GREY, linewidth=0.9, label="closed form")
  time.legend(frameon=False, loc="upper left")
  return {"length": figure}


def _draw(ax: Axes, table: pd.DataFrame, column: str, title: str) -> None:
  for i, (kind, label) in enumerate(KINDS.items()):
    own = table[table["attention"] == kind]
    ax.plot(own["length"], own[column], color=HUES[i], marker=MARKERS[i], markersize=3.5, label=label)
  lengths = sorted(table["length"].unique())
  ax.set(xscale="log", ylim=(0, None), xlabel="Tokens a sequence", title=title)
  ax.set_xticks(lengths, [str(n) for n in lengths])
  ax.xaxis.set_minor_locator(NullLocator())


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = []
  for length, own in tables["results"].groupby("length"):
    full, window = (own[own["attention"] == kind].iloc[0] for kind in KINDS)
    lines.append({
      "T": str(length),
      "full": f"{full['us_per_token']:.1f}", "closed form": f"{full['closed_form_us']:.1f}",
      "window 256": f"{window['us_per_token']:.1f}", "its closed form": f"{window['closed_form_us']:.1f}",
      "keys a query, full / window": f"{full['pairs_per_token']:.0f} / {window['pairs_per_token']:.0f}",
      "MiB, full / window": f"{full['temporary_mib']:.0f} / {window['temporary_mib']:.0f}",
    })  # fmt: skip
  return {"cost": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  rows = tables["results"].set_index(["attention", "length"])
  full, window = rows.loc["full"], rows.loc["window 256"]
  ratio = rows["us_per_token"] / rows["closed_form_us"]
  return {
    "full, 4096 to 64": full["us_per_token"][4096] / full["us_per_token"][64],
    "the same, closed form": full["closed_form_us"][4096] / full["closed_form_us"][64],
    "window's speed over full's at 4096": full["us_per_token"][4096] / window["us_per_token"][4096],
    "closed form's largest error, a factor": max(ratio.max(), 1 / ratio.min()),
  }
