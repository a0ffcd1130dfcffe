"""The report's sections on groups of seeds, scaling laws and forecasts: HTML, and the figures they hold."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from lm_jax.analysis.emergence import figure as group_figure
from lm_jax.analysis.emergence import sentences
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.look import NAMES
from lm_jax.analysis.figures.style import STYLE
from lm_jax.analysis.findings import Findings, Law, main_verdicts
from lm_jax.analysis.forecasts import figure as forecast_figure
from lm_jax.analysis.report.tables import escape, html_table, td
from lm_jax.analysis.scaling_laws import figure as law_figure
from lm_jax.analysis.scaling_laws.summary_text import TABLES, heading
from lm_jax.analysis.scaling_laws.summary_text import number as law_number

STEMS = ("seed_groups", "scaling_law", "forecasts")
_CARD = "what this fit depends on"


def drawings(found: Findings) -> Iterator[figure_parts.Drawing]:
  """Yields the figures of groups, laws and forecasts with their numbers."""
  with mpl.rc_context(STYLE):
    for stem, rows in _groups(found):
      yield figure_parts.Drawing(stem, group_figure.figure(rows), group_figure.numbers(rows))
    for i, law in enumerate(found.laws):
      if law.fitted is not None and law.main:
        yield figure_parts.Drawing(stem_of(law, i), law_figure.figure(law.fitted), _numbers(law))
    if found.forecasts["median"].notna().any():
      yield figure_parts.Drawing("forecasts", forecast_figure.figure(found.forecasts), found.forecasts)


def stem_of(law: Law, index: int) -> str:
  return (
    f"scaling_law.{figure_parts.file_part('-'.join(filter(None, (law.task, law.family))), index)}.{index}"
  )


def _numbers(law: Law) -> pd.DataFrame:
  points = law.fitted.points
  columns: dict[str, Any] = {"run": points.run, "n_params": points.n_params, "n_tokens": points.n_tokens,
                             "flops": points.flops, points.metric: points.loss}  # fmt: skip
  if law.fitted.fit is not None:
    columns["predicted"] = law.fitted.fit.predict(points)
    columns["log_residual"] = np.log(points.loss / columns["predicted"])
  return pd.DataFrame(columns)


def _groups(found: Findings) -> Iterator[tuple[str, list[dict[str, Any]]]]:
  """Yields a stem for each task whose runs fall into two groups, and those curves of its first metric."""
  rows = [row for row in main_verdicts(found.verdicts).to_dict("records") if row["past_x50"] is not None]
  for i, task in enumerate(dict.fromkeys(row["task"] for row in rows)):
    own = [row for row in rows if row["task"] == task]
    metric = sentences.first_metric(row["metric"] for row in own)
    yield f"seed_groups.{figure_parts.file_part(task, i)}", [r for r in own if r["metric"] == metric]


def groups_html(found: Findings, figures: dict[str, bytes]) -> str:
  """Returns what shows seeds of two groups, "" where there are none."""
  parts = []
  for stem, rows in _groups(found):
    of = f"{rows[0]['task']}, {NAMES.get(rows[0]['metric'], rows[0]['metric'])}"
    parts += [f"<h3>Two groups: {escape(of)}</h3>", image(figures[stem], f"share of runs past, {of}")]
  if not parts:
    return ""
  note = (
    "Such a mean is a share of runs as much as a score: more seeds make it smooth, and few runs are near it."
  )
  return f'{"".join(parts)}<p class="quiet">{note}</p>'


def laws_html(found: Findings, figures: dict[str, bytes]) -> str:
  """Returns the section on scaling laws, "" where there are no losses.

  Args:
    figures: {stem of a drawing: its PNG}.
  """
  parts = [_law_html(law, i, figures) for i, law in enumerate(found.laws)]
  if not parts:
    return ""
  return f'<section id="laws"><h2>Scaling laws</h2>\n{"".join(parts)}</section>'


def _law_html(law: Law, index: int, figures: dict[str, bytes]) -> str:
  of = ", ".join(filter(None, (law.task, law.family)))
  if law.fitted is None:
    return f'<h3>{escape(of)}</h3><p class="quiet">No law is fitted: {escape(law.reason)}</p>'
  tree = law.fitted.tree
  formula = f"L = {tree['formula']}" if "formula" in tree else "N* = k C^a, D* = k C^b"
  parts = [
    f"<h3>{escape(of)}: {escape(tree['law'])}, {escape(formula)}</h3>",
    image(figures.get(stem_of(law, index)), f"{tree['law']} fit of {of}: {_told(tree)}"),
    *(f'<p class="quiet">{escape(note)}</p>' for note in tree["notes"]),
    _estimates(tree, index),
  ]
  for name, title in TABLES.items():
    if tree.get(name):
      parts.append(_details(title, flat_table(f"law-{index}-{name}", tree[name])))
  card = [{"choice": key.replace("_", " "), "of this fit": value} for key, value in tree["card"].items()]
  parts.append(_details(_CARD, flat_table(f"law-{index}-card", card)))
  return "\n".join(parts)


def _told(tree: dict[str, Any]) -> str:
  """Returns what the figure shows in words, for who cannot see it."""
  if "methods" in tree:
    return "; ".join(f"{name}: a = {law_number(line['a'])}" for name, line in tree["methods"].items())
  return f"status {tree['status']}, {tree['n_points']} points"


def _estimates(tree: dict[str, Any], index: int) -> str:
  if "methods" in tree:
    rows = [{"method": name, **line} for name, line in tree["methods"].items()]
    return flat_table(f"law-{index}", rows)
  known = tree["ci95"] or {}
  rows = [
    {"parameter": name, "estimate": tree[name], "bootstrap 95 %": known.get(name),
     "profile 95 %": tree["profile95"].get(name)}
    for name in known if name in tree
  ]  # fmt: skip
  told = f"{tree['status']}; {tree['starts_at_optimum']:.0%} of {tree['n_starts']} starts at the optimum"
  return flat_table(f"law-{index}", rows) + f'<p class="quiet">Status: {escape(told)}.</p>'


def _details(title: str, content: str) -> str:
  return f"<details><summary>{escape(title[:1].upper() + title[1:])}</summary>{content}</details>"


def flat_table(name: str, rows: Sequence[dict[str, Any]]) -> str:
  """Returns rows as a sortable table; columns that no row has a value in are left out."""
  columns = [c for c in rows[0] if any(row.get(c) is not None for row in rows)]
  numeric = {c: any(isinstance(row.get(c), int | float) for row in rows) for c in columns}
  body = ["".join(_cell(row.get(c)) for c in columns) for row in rows]
  return html_table(name, [(heading(c), numeric[c]) for c in columns], body)


def _cell(value: Any) -> str:
  shown = "–" if value is None else law_number(value)
  return td(value if isinstance(value, int | float) else str(value or ""), shown)


def image(png: bytes | None, text: str) -> str:
  if png is None:
    return ""
  data = base64.b64encode(png).decode()
  return f'<figure><img alt="{escape(text)}" src="data:image/png;base64,{data}"></figure>'


def told_html(sentences: Sequence[str]) -> str:
  return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>" if sentences else ""


def notes_html(found: Findings) -> str:
  return "".join(f'<p class="quiet">{escape(note)}</p>' for note in found.notes)


def forecasts_html(found: Findings, figures: dict[str, bytes]) -> str:
  """Returns the score card, "" where nothing was forecast."""
  card = found.forecasts
  if card.empty:
    return ""
  scored = card[card["status"] == "scored"]
  told = [f"{len(scored)} scored, {int((card['status'] == 'waiting').sum())} waiting for their rung"]
  if len(scored):
    inside = int(scored["inside_95"].sum())
    told.append(
      f"{inside} of {len(scored)} inside their 95 % band, {int(scored['inside_50'].sum())} inside 50 %"
    )
  altered = int((card["status"] == "altered").sum())
  if altered:
    told.append(f"{altered} files whose hash does not hold are not scored")
  rows = [
    {"rung": row["label"], "task": row["task"], "shots": row["shots"],
     "metric": NAMES.get(row["metric"], row["metric"]), "status": row["status"], "median": row["median"],
     "95 % band": [row["low"], row["high"]], "observed": row["observed"], "error": row["error"],
     "inside 95 %": row["inside_95"], "frozen": row["created"], "file": row["forecast"]}
    for row in card.to_dict("records")
  ]  # fmt: skip
  table = flat_table("forecast-scores", [{k: _known(v) for k, v in row.items()} for row in rows])
  note = "Frozen by lm-jax predict before the rung was trained; bars: 95 and 50 %; marks: what was measured."
  return (
    f'<section id="forecasts"><h2>Forecasts</h2><p>{escape("; ".join(told))}.</p>'
    f"{image(figures.get('forecasts'), '; '.join(told))}"
    f'<p class="quiet">{escape(note)}</p>{table}</section>'
  )


def _known(value: Any) -> Any:
  if isinstance(value, list):
    return None if any(pd.isna(v) for v in value) else [float(v) for v in value]
  if value is None or pd.isna(value):
    return None
  if isinstance(value, bool | np.bool_):
    return "yes" if value else "no"
  return float(value) if isinstance(value, int | float | np.number) else str(value)
