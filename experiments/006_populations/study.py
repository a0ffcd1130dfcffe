"""Study 006: runs of one shape together, and what a sweep saves; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

COMMANDS = ("python {here}/measure.py {workdir}",)

CELLS = 12


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {stem: pd.read_csv(workdir / f"{stem}.csv") for stem in ("rates", "sweeps")}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  rows = tables["rates"].rename(columns={"way": "group", "tokens_per_s": "value"})
  rows["label"] = "d = " + rows["width"].astype(str) + ", " + rows["cores"]
  rows = rows.sort_values(["cores", "width"], ascending=[False, True], kind="stable")
  return {"rates": study_figure.dots(rows, "Replica-tokens a second", log=True)}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  rates = tables["rates"].assign(way=tables["rates"]["cores"] + ": " + tables["rates"]["way"])
  wide = rates.pivot(index="width", columns="way", values="tokens_per_s")[list(dict.fromkeys(rates["way"]))]
  wide = wide.map("{:,}".format).reset_index()
  wide["width"] = "d = " + wide["width"].astype(str)
  seconds = _seconds(tables)
  per_hour = (3600 * CELLS / seconds["warm"]).map("{:,.0f}".format)
  sweeps = seconds.map("{:.1f} s".format).assign(**{"cells an hour, warm": per_hour}).reset_index()
  return {
    "rates": study_text.table(wide.rename(columns={"width": ""})),
    "sweeps": study_text.table(sweeps.rename(columns={"how": ""})),
  }


def _seconds(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
  """Returns the mean over turns, by how the cells are trained and by compiler."""
  sweeps = tables["sweeps"]
  mean = sweeps.pivot_table(index="how", columns="compiler", values="seconds")
  return mean.loc[list(dict.fromkeys(sweeps["how"]))]


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns how much faster each way is than another, by width, and what a sweep gains."""
  rate = tables["rates"].pivot(index="way", columns="width", values="tokens_per_s")
  pairs = {("side by side", "in turn"), ("mapped", "in turn"), ("two devices", "mapped, one device")}
  found = {f"{a} over {b}, d={d}": rate.at[a, d] / rate.at[b, d] for a, b in pairs for d in rate}
  seconds = _seconds(tables)
  for compiler in seconds:
    of = seconds[compiler]
    found[f"commands over packed, {compiler}"] = of["one command after another"] / of["packed by shape"]
    found[f"alone over packed, {compiler}"] = of["each cell alone"] / of["packed by shape"]
  return found
