"""Draws cost a token against length from results.csv, and writes length.png; both beside this file.

python experiments/007_length/draw.py
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lm_jax.analysis.figures.look import OTHERS
from lm_jax.analysis.figures.style import STYLE

HERE = Path(__file__).parent
COLORS = {"full": "#0072B2", "window 256": OTHERS[0]}


def draw_panel(ax: Axes, table: pd.DataFrame, column: str, closed: str | None, label: str) -> None:
  for name, color in COLORS.items():
    chosen = table[table["attention"] == name]
    ax.plot(chosen["length"], chosen[column], "o-", color=color, markersize=3.5, label=name)
    if closed:
      ax.plot(chosen["length"], chosen[closed], "--", color=color, linewidth=1)
  lengths = sorted(table["length"].unique())
  ax.set(xscale="log", ylim=(0, None), xlabel="Tokens a sequence", title=label)
  ax.set_xticks(lengths, [str(n) for n in lengths])
  ax.xaxis.set_minor_locator(NullLocator())


def main() -> None:
  table = pd.read_csv(HERE / "results.csv")
  with mpl.rc_context(STYLE):
    drawing = Figure(figsize=(6.4, 2.6))
    time, flops = drawing.subplots(1, 2)
    draw_panel(time, table, "us_per_token", "closed_form_us", "Training, microseconds a token")
    draw_panel(flops, table, "kflops_per_token", None, "Training, kFLOPs a token")
    time.plot([], [], "--", color="gray", linewidth=1, label="closed form")
    time.legend(frameon=False, loc="upper left")
    drawing.savefig(HERE / "length.png")


if __name__ == "__main__":
  main()
