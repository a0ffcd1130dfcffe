"""`lm-jax emergence`: which curves of a table or a workdir rise, and which of them jump."""

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from lm_jax.cli.command_flags import Command
from lm_jax.cli.table_flags import TABLE_FLAGS, table_of
from lm_jax.strict import ConfigError, nearest

if TYPE_CHECKING:
  import pandas as pd

  from lm_jax.analysis.curve_table import CurveTable

FILTERS = ("task", "metric", "shots", "family")
_FLAGS = TABLE_FLAGS | {
  "task": (flags.DEFINE_string, "this task only; several with commas between", None),
  "metric": (flags.DEFINE_string, "this metric only; several with commas between", None),
  "shots": (flags.DEFINE_string, "numbers of shots with commas between, and window and all", None),
  "family": (flags.DEFINE_string, "this family only; several with commas between", None),
  "pool_families": (
    flags.DEFINE_boolean, "one curve through all families of models, such as over flops", False,
  ),
  "output": (flags.DEFINE_string, "file for the rows, a .csv", None),
}  # fmt: skip


def emergence(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.analysis import curve_table
  from lm_jax.analysis.emergence import table as statistics

  table = table_of(values)
  x = curve_table.size_axis(table, values.x)
  bootstrap = 1000 if values.bootstrap is None else values.bootstrap
  found = statistics.analyze(_filtered(values, table), x=x, bootstrap=bootstrap, seed=values.seed)
  if values.output:
    statistics.flat(found).to_csv(values.output, index=False)
  if values.json:
    print(json.dumps(found.to_dict("records"), allow_nan=False))
  else:
    _print(found, x)
  return 0


def _filtered(values: flags.FlagValues, table: "CurveTable") -> "pd.DataFrame":
  import pandas as pd

  rows = table.rows
  for name in FILTERS:
    text = getattr(values, name)
    if text is None:
      continue
    present = sorted(rows[name].dropna().unique())
    asked = [text] if text in present else [part.strip() for part in text.split(",") if part.strip()]
    for one in asked:
      if one not in present:
        raise ConfigError(f"--{name}={one}: not in {table.source}{nearest(one, present)}")
    rows = rows[rows[name].isin(asked)]
  if values.pool_families:
    rows = rows.assign(family=pd.Series(pd.NA, index=rows.index, dtype="string"))
  return rows


# --- for a person -----------------------------------------------------------------------------------


def _print(found: "pd.DataFrame", x: str) -> None:
  from rich.console import Console
  from rich.table import Table

  from lm_jax.analysis.emergence import sentences, verdict
  from lm_jax.analysis.emergence.curves import KEYS

  console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
  shown = ["task", *(name for name in KEYS[1:] if found[name].nunique(dropna=False) > 1)]
  out = Table(box=None, header_style="bold")
  for name in shown:
    out.add_column(name)
  for name in ("sizes", "B", "q of B", f"x50, {x}", "width, decades"):
    out.add_column(name, justify="right")
  for name in ("best model", "verdict"):
    out.add_column(name)
  rows = found.to_dict("records")
  grouped = any(row["seeds_bimodal"] for row in rows)
  if grouped:
    out.add_column("two groups of runs; half past at")
  rows.sort(key=lambda row: (verdict.VERDICTS.index(row["verdict"]), -_number(row["margin"])))
  for row in rows:
    if row["verdict"] == "insufficient data":  # counted below
      continue
    out.add_row(
      *(row[name] or "" for name in shown), str(row["n_sizes"]), _breakthroughness(row),
      _text(row["q_value"], ".3f"), sentences.interval(row, "x50", ".2g") or row["threshold_status"] or "",
      sentences.interval(row, "width_decades", ".2f"), row["best_model"] or "", row["verdict"],
      *([_groups(row)] * grouped),
    )  # fmt: skip
  console.print(out)
  for note in _notes(rows):
    console.print(note)


def _notes(rows: list[dict[str, Any]]) -> list[str]:
  from lm_jax.analysis.emergence import verdict

  counts = {name: sum(row["verdict"] == name for row in rows) for name in verdict.VERDICTS}
  notes = {note: None for row in rows for note in row["notes"]}
  few = [row["metric"] for row in rows if row["criterion"] == "loo"]
  return [
    "",
    f"{len(rows)} curve{'s' * (len(rows) != 1)}: "
    + ", ".join(f"{n} {name}" for name, n in counts.items() if n),
    "B: breakthroughness; q: of as large a B by noise alone, over all curves (Benjamini-Hochberg). "
    "Intervals: 95 %.",
    f"sharp: from 10 to 90 % of a rise within {verdict.MAX_WIDTH:g} decade and a third of the sizes' range, "
    "better than constant, log-linear and power law. not resolved: as likely sharp as smooth, by these data.",
    *([f"{len(few)} curves have too few points for AICc and are compared by leaving sizes out"] * bool(few)),
    *notes,
  ]  # fmt: skip


def _groups(row: dict[str, Any]) -> str:
  from lm_jax.analysis.emergence import sentences

  if not row["seeds_bimodal"]:
    return ""
  half = sentences.interval(row, "past_x50", ".2g")
  return sentences.of_sizes(row) + (f"; {half}" if half else "")


def _number(value: float | None) -> float:
  return -math.inf if value is None else value


def _breakthroughness(row: dict[str, Any]) -> str:
  value = row["breakthroughness"]
  if value is None:
    return row["status"].replace("_", " ")
  # In the hundred thousands where a curve is flat but for one rise: its median step is next to nothing.
  return f"{value:.2f}" if abs(value) < 1000 else f"{value:.1e}"


def _text(value: float | None, form: str) -> str:
  return "" if value is None else format(value, form)


COMMANDS = {
  "emergence": Command(
    emergence, "which abilities rise with size, which jump, and whether the metric made the jump",
    ("table", "workdir", "columns", "x", *FILTERS, "pool_families", "bootstrap", "seed", "output", "json"),
    takes_url=True, own=_FLAGS,
  ),
}  # fmt: skip
