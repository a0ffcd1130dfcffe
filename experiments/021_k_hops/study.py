"""Study 021: hops of induction against layers, beside the published errors; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table
from lm_jax.analysis.figures.style import HUES, MARKERS, TEXT_WIDTH

COMMANDS = ("lm-jax sweep --config={here}/config.py --workdir={workdir}",)

FAMILIES = ("d32", "d64", "d64, 4 x the steps")
HOPS = (1, 2, 3, 4, 8, 16)  # here and there
SOLVED = 0.05  # of error
# Sanford et al. (arXiv:2402.09268), strings of 100 letters, 100k steps of 32: {(width, layers): errors}.
PUBLISHED_HOPS = (2, 4, 8, 16)
PUBLISHED = {
  (128, 2): (0.14, 0.42, 0.66, 0.74), (256, 2): (0.033, 0.27, 0.56, 0.73),
  (128, 3): (0.008, 0.15, 0.46, 0.71), (256, 3): (0.001, 0.021, 0.25, 0.59),
  (128, 4): (0.003, 0.015, 0.22, 0.61), (256, 4): (0.0, 0.001, 0.015, 0.33),
  (128, 5): (0.001, 0.003, 0.037, 0.41), (256, 5): (0.0, 0.0, 0.0, 0.027),
  (128, 6): (0.0, 0.002, 0.006, 0.062), (256, 6): (0.0, 0.0, 0.0, 0.002),
}  # fmt: skip


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  rows = curve_table.load(workdir).rows
  rows = rows[(rows["metric"] == "token_accuracy") & rows["task"].str.startswith("khop_k")]
  errors = pd.DataFrame({
    "family": rows["family"], "layers": rows["model"].str.extract(r"L(\d+)", expand=False).astype(int),
    "k": rows["task"].str.removeprefix("khop_k").astype(int), "seed": rows["seed"].astype(int),
    "error": (1 - rows["value"]).round(5), "stderr": rows["stderr"].round(5),
    "n_items": rows["n_items"].astype(int),
  })  # fmt: skip
  published = pd.DataFrame([
    {"family": f"published, d{width}", "layers": layers, "k": k, "error": error}
    for (width, layers), line in PUBLISHED.items()
    for k, error in zip(PUBLISHED_HOPS, line, strict=True)
  ])  # fmt: skip
  every = pd.concat([errors[errors["k"] > 0], published])
  return {
    "errors": errors.sort_values(["family", "layers", "k", "seed"], ignore_index=True),
    "published": published.sort_values(["family", "layers", "k"], ignore_index=True),
    "depths": pd.DataFrame([
      {"family": family, "k": k, "layers": _least_depth(own)}
      for (family, k), own in every.groupby(["family", "k"])
    ]).astype({"layers": "Int64"}),
  }  # fmt: skip


def _least_depth(of_k: pd.DataFrame) -> int | None:
  """Returns the fewest layers whose median error is below SOLVED."""
  median = of_k.groupby("layers")["error"].median()
  return min(median.index[median < SOLVED], default=None)


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 3.8))
  axes = figure.subplots(2, 3, sharey=True)
  errors, published = tables["errors"], tables["published"]
  for ax, family in zip(axes[0], FAMILIES, strict=True):
    _draw_family(ax, errors[(errors["family"] == family) & (errors["k"] > 0)])
    ax.set(title=family, xlim=(0.7, 4.3), xticks=range(1, 5))
  for ax, family in zip(axes[1], published["family"].unique(), strict=False):
    _draw_family(ax, published[published["family"] == family])
    ax.set(title=family[0].upper() + family[1:], xlim=(1.7, 6.3), xticks=range(2, 7), xlabel="Layers")
  axes[0, 2].set_xlabel("Layers")
  for i, k in enumerate(HOPS):
    axes[1, 2].plot([], [], f"{MARKERS[i]}-", color=HUES[i], markersize=3, label=f"k = {k}")
  axes[1, 2].axis("off")
  axes[1, 2].legend(loc="center", frameon=False, ncols=2)
  for ax in axes[:, 0]:
    ax.set(ylabel="Error", ylim=(-0.02, 0.8))
  return {"errors": figure}


def _draw_family(ax: Axes, errors: pd.DataFrame) -> None:
  """Draws a line of medians for each k, and every seed beside it."""
  for k, own in errors.groupby("k"):
    i = HOPS.index(k)
    median = own.groupby("layers")["error"].median()
    ax.plot(median.index, median, color=HUES[i])
    beside = 0.07 * (i - 1.5) if "seed" in own else 0
    ax.plot(own["layers"] + beside, own["error"], MARKERS[i], color=HUES[i], markersize=2.5)


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  return {
    "errors": study_text.table(_by_depth(tables["errors"], FAMILIES, _median_and_range)),
    "published": study_text.table(
      _by_depth(
        tables["published"],
        tables["published"]["family"].unique(),
        lambda own: study_text.number(own.iloc[0]),
      )
    ),
    "depths": study_text.table(_least_depths(tables["depths"])),
  }


def _by_depth(errors: pd.DataFrame, families, text) -> pd.DataFrame:
  lines = []
  for family in families:
    for layers, own in errors[errors["family"] == family].groupby("layers"):
      of_k = own[own["k"] > 0].groupby("k")["error"]
      lines.append(
        {"": family, "layers": layers} | {f"k = {k}": text(of_k.get_group(k)) for k in of_k.groups}
      )
  return pd.DataFrame(lines)


def _median_and_range(errors: pd.Series) -> str:
  middle, low, high = (study_text.number(x) for x in (errors.median(), errors.min(), errors.max()))
  return f"{middle} ({low} to {high})"


def _least_depths(depths: pd.DataFrame) -> pd.DataFrame:
  wide = depths.pivot(index="family", columns="k", values="layers")
  wide = wide.loc[[*FAMILIES, *[family for family in wide.index if family not in FAMILIES]]]
  asked = set(zip(depths["family"], depths["k"], strict=True))
  lines = [
    {"": family} | {
      f"k = {k}": study_text.known(value) or ("more" if (family, k) in asked else "")
      for k, value in line.items()
    }
    for family, line in wide.iterrows()
  ]  # fmt: skip
  return pd.DataFrame(lines)


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns medians over seeds, and how far seeds are apart."""
  of_size = tables["errors"].groupby(["family", "layers", "k"])["error"]
  found = {f"median of {key}": value for key, value in of_size.median().items()}
  return found | {f"range of {key}": value for key, value in (of_size.max() - of_size.min()).items()}
