"""Study 004: what it costs to hold less, by the options of the code; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lm_jax.analysis.figures.style import GREY, HUES, MARKERS, TEXT_WIDTH

COMMANDS = ("python {here}/measure.py {workdir}",)
PARTS = ("embedding", "attention", "loss", "training")
MEASURES = {"cpu_ms": "time", "temporary_mib": "memory", "compile_s": "compiling"}
ALL = 0  # of queries and tokens held at a time


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  return {part: pd.read_csv(workdir / f"{part}.csv") for part in PARTS}


# --- figure -------------------------------------------------------------------------------------------


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  figure = Figure(figsize=(TEXT_WIDTH, 2.6))
  left, middle, right = figure.subplots(1, 3, sharey=True)
  a, n, t = (tables[part] for part in PARTS[1:])
  # Lengths of one row have nothing to compare; one block with all kept is far off, and in the table.
  a = a[a["T"].isin(a.loc[_kept_blocks(a), "T"]) & ~((a["blocks"] == 1) & (a["queries"] == ALL))]
  t = t[t["dtype"] == "float32"]
  _draw(left, a, ["T"], _kept_blocks(a), a["chosen"], "T = {:,}")
  _draw(middle, n, ["D", "V"], n["tokens"] == ALL, n["chosen"], "D = {}, V = {:,}")
  _draw(right, t, ["shape"], t["remat"] == "none", t["remat"] == "none", "{}")
  _name_points(left, a[a["T"] == a["T"].max()])
  left.set(title="Attention", xlim=(0.03, None), ylabel="CPU time over that of all kept")
  middle.set_title("Output layer and NLL")
  right.set_title("Gradient of the training loss")
  figure.supxlabel("Memory over that of all kept", fontsize=8)
  return {"memory_and_time": figure}


def _draw(
  ax: Axes, table: pd.DataFrame, case: list[str], kept: pd.Series, chosen: pd.Series, label: str
) -> None:
  """Draws each case's memory and time over those of the row with all `kept`; `chosen` rows are filled."""
  shares = _shares(table, case, kept)
  for i, (name, own) in enumerate(table.groupby(case, sort=False)):
    at = shares.loc[own.index].sort_values("temporary_mib")
    look = {"color": HUES[i], "marker": MARKERS[i], "markersize": 3.5}
    ax.plot(at["temporary_mib"], at["cpu_ms"], **look, linewidth=0.7, mfc="white", label=label.format(*name))
    at = at[chosen[at.index]]
    ax.plot(at["temporary_mib"], at["cpu_ms"], linestyle="", **look)
  ax.axhline(1, color=GREY, linestyle="--", linewidth=0.8)
  ax.set_xscale("log")
  ax.set_xticks([0.1, 0.2, 0.5, 1], [".1", ".2", ".5", "1"])
  ax.xaxis.set_minor_locator(NullLocator())
  ax.legend(frameon=False, fontsize=5.5, loc="upper right")


def _name_points(ax: Axes, attention: pd.DataFrame) -> None:
  """Writes blocks and queries at a time below the points of one length."""
  shares = _shares(attention, ["T"], _kept_blocks(attention))
  for i, row in attention[attention["queries"] != 128].iterrows():  # which would hide its neighbor's
    name = f"{row['blocks']}, {row['queries'] or 'all'}"
    at = (shares.at[i, "temporary_mib"], shares.at[i, "cpu_ms"])
    ax.annotate(
      name, at, (-2, -2), textcoords="offset points", fontsize=5.5, ha="right", va="top", color=GREY
    )


def _shares(table: pd.DataFrame, case: list[str], kept: pd.Series) -> pd.DataFrame:
  """Returns the measures of each row over those of its case's row with all `kept`."""
  base = table[kept].set_index(case)[list(MEASURES)]
  return table[list(MEASURES)] / table[case].join(base, on=case)[list(MEASURES)]


def _kept_blocks(attention: pd.DataFrame) -> pd.Series:
  """Returns which rows are what is done up to 1024 tokens."""
  return (attention["blocks"] == 16) & (attention["queries"] == ALL)


# --- the README's numbers -----------------------------------------------------------------------------


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  ways = {"embedding": _embedding, "attention": _attention, "loss": _loss, "training": _training}
  found = {part: study_text.table(way(tables[part])) for part, way in ways.items()}
  lines = []
  for what, ratios in _ratios(tables).items():
    ends = {title: (ratios[name].min(), ratios[name].max()) for name, title in MEASURES.items()}
    line = {title: " to ".join(dict.fromkeys(map(_ratio, of))) for title, of in ends.items()}
    # What a gather holds beside its result is next to nothing.
    lines.append({"": what} | line | ({"memory": "", "compiling": ""} if "gather" in what else {}))
  return found | {"ratios": study_text.table(pd.DataFrame(lines))}


def _embedding(table: pd.DataFrame) -> pd.DataFrame:
  wide = table.pivot(index="V", columns=["D", "way"], values="cpu_ms")
  lines = []
  for V, row in wide.iterrows():
    cells = {
      f"D = {D}": " / ".join(study_text.number(row[D, way], 2) for way in ("gather", "one-hot"))
      for D in sorted(table["D"].unique())
    }
    lines.append({"V": f"{V:,}"} | cells)
  return pd.DataFrame(lines)


def _attention(table: pd.DataFrame) -> pd.DataFrame:
  lines = {}
  for _, row in table.iterrows():
    name = f"{row['blocks']}, {row['queries'] or 'all kept'}"
    cell = f"{row['cpu_ms']:,.0f}, {row['temporary_mib']:.1f}, {row['compile_s']:.1f}"
    line = lines.setdefault(name, {"blocks, queries at a time": name})
    line[f"T = {row['T']:,}"] = _marked(cell, row["chosen"])
  return pd.DataFrame(lines.values()).fillna("")


def _loss(table: pd.DataFrame) -> pd.DataFrame:
  lines = []
  for (M, D, V), own in table.groupby(["M", "D", "V"], sort=False):
    line = {"M, D, V": f"{M:,}, {D}, {V:,}", "floats of logits": f"{M * V / 1e6:.1f} M"}
    for _, row in own.iterrows():
      cell = f"{row['cpu_ms']:,.1f} ({row['temporary_mib']:.0f})"
      line[str(row["tokens"] or "all logits")] = _marked(cell, row["chosen"])
    lines.append(line)
  return pd.DataFrame(lines).fillna("")


def _training(table: pd.DataFrame) -> pd.DataFrame:
  lines = []
  for shape, own in table.groupby("shape", sort=False):
    line = {"": shape}
    for _, row in own.iterrows():
      name = row["remat"] if row["dtype"] == "float32" else f"{row['remat']}, {row['dtype']}"
      line[name] = f"{row['cpu_ms']:,.0f} ({row['temporary_mib']:.0f})"
    lines.append(line)
  return pd.DataFrame(lines).fillna("")


def _ratio(value: float) -> str:
  return study_text.number(value, 2 if value < 10 else 0)


def _marked(text: str, chosen: bool) -> str:
  return f"**{text}**" if chosen else text


def _ratios(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
  """Returns the measures of one way over those of another, a row a case."""
  e, a, n, t = (tables[part] for part in PARTS)
  ratios = {
    "embedding": _shares(e, ["V", "D"], e["way"] == "gather"),
    "attention": _shares(a, ["T"], _kept_blocks(a)),
    "loss": _shares(n, ["M", "D", "V"], n["tokens"] == ALL),
    "training": _shares(t, ["shape"], (t["remat"] == "none") & (t["dtype"] == "float32")),
  }
  in_chunks = n["chosen"] & (n["tokens"] != ALL)
  rows = {
    "one-hot product, over gather": ("embedding", e["way"] == "one-hot"),
    "attention beyond 1024 tokens, over 16 blocks with all kept": ("attention", a["chosen"]),
    "one block with all kept, over the same": ("attention", (a["blocks"] == 1) & (a["queries"] == ALL)),
    "chosen chunks, over all logits, D = 64": ("loss", in_chunks & (n["D"] == 64)),
    "the same, D = 256": ("loss", in_chunks & (n["D"] == 256)),
    "products kept, over all": ("training", t["remat"] == "products"),
    "block inputs kept, over all": ("training", t["remat"] == "block"),
    "bfloat16, over float32": ("training", t["dtype"] == "bfloat16"),
  }
  return {what: ratios[part][own].dropna() for what, (part, own) in rows.items()}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns the least and the most of each ratio."""
  return {
    f"{what}, {title}, {end}": getattr(ratios[name], end)()
    for what, ratios in _ratios(tables).items()
    for name, title in MEASURES.items()
    for end in ("min", "max")
  }
