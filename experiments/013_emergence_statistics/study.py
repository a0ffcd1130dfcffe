"""Study 013: statistics of emergence, of simulated curves and of BIG-bench; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis.emergence import table as statistics
from lm_jax.analysis.figures.style import GREY, HUES, INK, TEXT_WIDTH

COMMANDS = ("python {here}/simulate.py {workdir}", "python {here}/bigbench.py {workdir}")
STEMS = ("simulation", "pairs", "bootstrap_of_breakthroughness", "bigbench", "shown")
SMOOTH = ["log_linear", "power_law", "wide_logistic"]
# Each run has it or not; each seed, from a size of its own on.
BIMODAL = ["bimodal_runs", "bimodal_seeds"]
NO_RISE = ["no rise resolved", "below chance resolution"]
X = "n_params_nonembedding"
COLORS = {"smooth": HUES[6], "not resolved": "#bbbbbb", "sharp": HUES[1], "no rise": "#eeeeee"}
LENGTHS = (4, 8, 16)


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {stem: pd.read_csv(workdir / f"{stem}.csv") for stem in STEMS}


def _simulation(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
  """Returns the simulated curves with shares of 0 where a verdict was never given."""
  found = tables["simulation"]
  verdicts = ["smooth", "not resolved", "sharp", *NO_RISE]
  found = found.fillna(dict.fromkeys(verdicts, 0.0))
  return found.assign(**{"no rise": found[NO_RISE].sum(axis=1)})


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH * 1.25, 3.9))
  left, right = figure.subfigures(1, 2, width_ratios=(2, 1.1))
  axes = left.subplots(2, 2)
  tasks = tables["bigbench"].set_index("task")
  for ax, (task, points) in zip(axes.flat, tables["shown"].groupby("task", sort=False), strict=True):
    _draw_task(ax, tasks.loc[task], points)
  for ax in axes[1]:
    ax.set_xlabel("Non-embedding parameters")
  for ax in axes[:, 0]:
    ax.set_ylabel("Accuracy, 3 shots")
  rates, margins = right.subplots(2, 1)
  _draw_rates(rates, _simulation(tables))
  _draw_margins(margins, tables["bigbench"])
  return {"emergence": figure}


def _draw_task(ax: Axes, row: pd.Series, points: pd.DataFrame) -> None:
  sizes, means = points[X].to_numpy(), points["accuracy"].to_numpy()
  error = 1.96 * np.sqrt(means * (1 - means) / row["n_items"])
  ax.errorbar(sizes, means, error, fmt="o", markersize=3, color=INK, elinewidth=0.8)
  fit = points.iloc[0].to_dict()
  # A model that has none leaves its field empty.
  own = "" if pd.isna(fit["fit_parameters"]) else str(fit["fit_parameters"])
  fit |= {"sizes": sizes, "fit_parameters": [float(x) for x in own.split()]}
  fine = np.geomspace(sizes[0], sizes[-1], 200)
  ax.plot(fine, statistics.fitted(fit, fine), color=HUES[1])
  ax.axhline(row["chance"], color=GREY, linestyle="--", linewidth=0.8)
  ax.set(
    xscale="log", title=f"{row.name.replace('_', ' ')}\nB {row['breakthroughness']:.1f}; {row['verdict']}"
  )


def _draw_rates(ax: Axes, found: pd.DataFrame) -> None:
  found = found[(found["n_sizes"] == 12) & (found["n_seeds"] == 1) & ~found["family"].isin(BIMODAL)]
  left = np.zeros(len(found))
  for verdict, color in COLORS.items():
    ax.barh(found["family"].str.replace("_", " "), found[verdict], left=left, color=color, label=verdict)
    left += found[verdict].to_numpy()
  ax.legend(loc="upper center", bbox_to_anchor=(0.3, -0.16), ncol=2, frameon=False, fontsize=7)
  ax.set_title("Simulated, 12 sizes, one seed:\nshare by verdict")
  ax.grid(axis="y", visible=False)


def _draw_margins(ax: Axes, found: pd.DataFrame) -> None:
  ax.scatter(found["breakthroughness"], found["margin"], s=7, color=INK)
  ax.axvline(found["null_p95"].dropna().iloc[0], color=GREY, linestyle="--", linewidth=0.8)
  ax.axhline(0, color=GREY, linewidth=0.8)
  ax.set(xlabel="B (dashed: P95 of noise)", ylabel="AICc margin of logistic", title=f"{len(found)} tasks")


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines, number = [], study_text.number
  for (sizes, seeds), own in _simulation(tables).groupby(["n_sizes", "n_seeds"]):
    rows = own.set_index("family")
    smooth, both = rows.loc[SMOOTH], rows.loc[["sharp_logistic", "wide_logistic"]]
    held = {name: " / ".join(number(v, 2) for v in both[f"{name}_coverage"]) for name in ("x50", "width")}
    lines.append({
      "sizes x seeds": f"{sizes} x {seeds}",
      "smooth families called sharp":
        f"{(smooth['sharp'] * smooth['curves']).sum():.0f} of {smooth['curves'].sum()}",
      "... smooth": number(smooth["smooth"].mean(), 2),
      "sharp logistic called sharp": number(rows["sharp"]["sharp_logistic"], 2),
      "constant: a rise claimed": number(1 - rows["no rise"]["constant"], 2),
      "x50 held, sharp / wide": held["x50"], "width held, sharp / wide": held["width"],
    })  # fmt: skip
  verdicts = (
    tables["bigbench"]["verdict"].value_counts().reindex([*NO_RISE, "not resolved", "smooth", "sharp"])
  )
  counts = pd.DataFrame([verdicts.fillna(0).astype(int).to_dict()])
  return {
    "simulated": study_text.table(pd.DataFrame(lines)), "groups": _groups(_simulation(tables)),
    "bigbench": study_text.table(counts),
  }  # fmt: skip


def _groups(found: pd.DataFrame) -> str:
  """Returns what is said where seeds fall into two groups: of runs that have it or not, and of such seeds."""
  lines = []
  for (sizes, seeds), own in found[found["family"].isin(BIMODAL)].groupby(["n_sizes", "n_seeds"]):
    rows = own.set_index("family").loc[BIMODAL]

    def both(name: str, rows: pd.DataFrame = rows) -> str:
      return " / ".join("" if pd.isna(v) else study_text.number(v, 2) for v in rows[name])

    lines.append({
      "sizes x seeds": f"{sizes} x {seeds}", "found": both("seeds_bimodal") if seeds > 1 else "",
      "mean called sharp": both("sharp"), "half held": both("half_coverage") if seeds > 1 else "",
      "interval of half, decades": both("half_median_decades") if seeds > 1 else "",
    })  # fmt: skip
  return study_text.table(pd.DataFrame(lines))


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  # p^L crosses a tenth and nine tenths of its range at these p.
  ends = {length: np.array([0.1, 0.9]) ** (1 / length) for length in LENGTHS}
  narrower = {n: np.ptp(np.log(p / (1 - p))) / (2 * np.log(9)) for n, p in ends.items()}
  # simulate.py's p rises from .05 to .2, at most to .99, over 2.5 decades.
  width = 2.5 * 0.99 * np.ptp(ends[4]) / (0.99 - 0.125)
  return {f"width of a logistic to the power of {n}": value for n, value in narrower.items()} | {
    "width of p^4 in decades": width,
  }
