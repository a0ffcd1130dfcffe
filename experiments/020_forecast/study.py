"""Study 020: a forecast of a ladder's largest size, frozen and scored; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_jax.analysis import curve_table
from lm_jax.analysis.figures.style import GREY, HUES, TEXT_WIDTH
from lm_jax.analysis.forecasts import freeze, scores

_SWEEP = "lm-jax sweep --config={here}/../../configs/sweeps/text_ladder.py:steps=700 --workdir={workdir}"
# Room for five sizes of either objective and not for a sixth.
COMMANDS = (f"{_SWEEP} --max_flops=4.9e13", "lm-jax predict --workdir={workdir}", _SWEEP)

FAMILIES = {"causal LM": "NLL of tokens (nats)", "masked LM": "NLL of masked tokens (nats)"}
TOKENS_A_STEP = 32 * 128
_CARD = [
  "task", "shots", "family", "metric", "x", "median", "low_80", "high_80", "low", "high", "observed", "error",
  "inside_80", "inside_95",
]  # fmt: skip


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  table = curve_table.load(workdir)
  rows = table.rows[table.rows["metric"].isin(["bits_per_byte", "nll", "accuracy", "icl_score"])]
  columns = [
    "family", "task", "shots", "metric", "model", "n_params", "flops", "n_tokens", "value", "stderr",
    "chance",
  ]  # fmt: skip
  ladder = rows[columns].sort_values([*columns[:4], "n_params"], ignore_index=True)
  card = scores.score_card(table, workdir / freeze.FOLDER)
  # Each family is forecast at the sizes of both.
  own = np.isclose(card["x"], card["family"].map(ladder.groupby("family")["flops"].max()), rtol=1e-6)
  found = {
    "ladder": ladder.astype(dict.fromkeys(("n_params", "n_tokens"), "int64")),
    "forecast": card.loc[own & (card["status"] == "scored"), _CARD],
  }
  return {name: _short(rows).round(6) for name, rows in found.items()}


def _short(rows: pd.DataFrame) -> pd.DataFrame:
  return rows.assign(task=rows["task"].str.partition(" objective=")[0])


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 2.4))
  for ax, (i, family) in zip(figure.subplots(1, 2), enumerate(FAMILIES), strict=True):
    _draw_loss(ax, tables, family, HUES[i])
  return {"forecast": figure}


def _draw_loss(ax: Axes, tables: Mapping[str, pd.DataFrame], family: str, color: str) -> None:
  points, said = _loss(tables, family)
  error = 1.96 * points["stderr"]
  ax.errorbar(points["flops"], points["value"], error, fmt="o-", color=color, markersize=3.5, elinewidth=0.8,
              label="measured, 95 % over items")  # fmt: skip
  for low, high, width in (("low", "high", 1), ("low_80", "high_80", 4)):
    ax.plot(
      [said["x"]] * 2, [said[low], said[high]], color=GREY, linewidth=width, alpha=0.6, solid_capstyle="butt"
    )
  ax.plot(said["x"], said["median"], "_", color=GREY, markersize=12, label="forecast: median, 80 and 95 %")
  ax.set(xscale="log", xlabel="Training FLOPs", ylabel=FAMILIES[family], title=family[0].upper() + family[1:])
  ax.legend(loc="lower left", frameon=False, fontsize=6)


def _loss(tables: Mapping[str, pd.DataFrame], family: str) -> tuple[pd.DataFrame, pd.Series]:
  """Returns the sizes of a family with their loss on text, and what was said of the largest."""
  points, said = (
    rows[(rows["family"] == family) & (rows["metric"] == "nll") & (rows["task"] == "text")]
    for rows in (tables["ladder"], tables["forecast"])
  )
  return points.sort_values("flops"), said.iloc[0]


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = []
  card = tables["forecast"]
  on_text = (card["task"] == "text") & (card["metric"] == "nll")
  for _, row in card[on_text | ((card["metric"] == "accuracy") & (card["task"] != "text"))].iterrows():
    lines.append({
      "family": row["family"], "task": row["task"], "shots": row["shots"],
      "metric": row["metric"].replace("_", " "),
      "forecast": study_text.number(row["median"]),
      "95 %": f"{study_text.number(row['low'])} to {study_text.number(row['high'])}",
      "measured": study_text.number(row["observed"]),
      "in 80 %": "yes" if row["inside_80"] else "no", "in 95 %": "yes" if row["inside_95"] else "no",
    })  # fmt: skip
  return {"forecast": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns the gain from the fifth size to the sixth, the interval beside it, and the error in bits."""
  found = {}
  for family in FAMILIES:
    points, said = _loss(tables, family)
    gain, width = points["value"].iloc[-2] - points["value"].iloc[-1], said["high"] - said["low"]
    found |= {f"{family}: gain": gain, f"{family}: width": width, f"{family}: width over gain": width / gain}
  bits = tables["ladder"].query("metric == 'bits_per_byte'").sort_values("flops")["value"].iloc[-1]
  points, said = _loss(tables, "causal LM")
  found["FLOPs of the sixth size over the fifth's"] = points["flops"].iloc[-1] / points["flops"].iloc[-2]
  steps = tables["ladder"].query("family == 'masked LM'")["n_tokens"] / TOKENS_A_STEP
  found |= {"most steps of an encoder": steps.max(), "least steps of an encoder": steps.min()}
  return found | {"error in bits per byte": said["error"] * bits / points["value"].iloc[-1]}
