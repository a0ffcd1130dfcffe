"""The page's tables, as HTML in which every value is escaped."""

import html
from collections.abc import Iterable
from typing import Any

import pandas as pd

from lm_jax.analysis import headline
from lm_jax.analysis.figures.look import NAMES
from lm_jax.analysis.frame import Study


def escape(value: Any) -> str:
  return html.escape(str(value), quote=True)


def td(value: Any, shown: str, note: str = "") -> str:
  """Returns a table cell that sorts by `value` and shows `shown` with a quieter note."""
  missing = value is None or (not isinstance(value, str) and bool(pd.isna(value)))
  kind = "" if isinstance(value, str) else ' class="num"'
  key = "" if missing else f' data-v="{escape(value)}"'
  return f"<td{kind}{key}>{escape(shown)}{f' <small>{escape(note)}</small>' if note else ''}</td>"


def _quantity(value: Any) -> str:
  return td(value, "–" if pd.isna(value) else f"{value:.2e}".replace("e+", "e"))


def number(value: Any, note: str = "") -> str:
  return td(value, headline.text(value).replace("-", "–") if pd.isna(value) else headline.text(value), note)


def word(value: Any) -> str:
  return td("", "–") if value is None or pd.isna(value) else td(str(value), str(value))


def html_table(name: str, headings: Iterable[tuple[str, bool]], rows: Iterable[str]) -> str:
  heads = "".join(
    f'<th scope="col"{" class=num" if numeric else ""}><button type="button">{escape(h)}</button></th>'
    for h, numeric in headings
  )
  body = "\n".join(f"<tr>{row}</tr>" for row in rows)
  return (f'<div class="scroll"><table id="{name}" class="sortable"><thead><tr>{heads}</tr></thead>\n'
          f"<tbody>{body}</tbody></table></div>")  # fmt: skip


def _headline_value(row: dict[str, Any], metric: str) -> str:
  if pd.isna(row[metric]):
    return number(None)
  several = row["n_seeds"] > 1
  span = f"{headline.text(row[f'{metric}_min'])}–{headline.text(row[f'{metric}_max'])}" if several else ""
  return td(row[metric], headline.text(row[metric]), span) + number(row[f"{metric}_stderr"])


def headline_html(study: Study) -> str:
  table = headline.headline(study)
  parts = []
  for i, (task, rows) in enumerate(table.groupby("task", sort=False)):
    metrics = headline.shown_metrics(rows)
    headings = [("Size", False), ("Family", False), ("Parameters", True), ("FLOPs", True), ("Seeds", True)]
    headings += [(h, True) for m in metrics for h in (NAMES[m], "± items")]
    body = []
    for row in rows.to_dict("records"):
      values = [_headline_value(row, m) if pd.notna(row[m]) else number(None) + number(None) for m in metrics]
      seeds = td(row["n_seeds"], f"{row['n_seeds']}/{row['n_cells']}")
      body.append("".join([word(row["label"]), word(row["family"]), number(row["params_total"]),
                           _quantity(row["flops_exact"]), seeds, *values]))  # fmt: skip
    parts.append(f"<h3>{escape(headline.summary_title(study, task))}</h3>")
    parts.append(html_table(f"headline-{i}", headings, body))
  return "\n".join(parts)


def missing_html(study: Study) -> str:
  parts = []
  if len(study.missing):
    items = "".join(
      f"<li><b>{escape(c.label)}</b> {escape(c.family)}, seed {escape(c.seed)} "
      f"<code>{escape(c.cell_id)}</code>: {escape(c.reason)}</li>"
      for c in study.missing.itertuples()
    )
    count = f"{len(study.missing)} of {len(study.cells)} cells are missing"
    parts.append(
      f'<section class="missing" id="missing"><h2>{count}</h2><p>They are left out of every final value and '
      f"mean, never counted as zero.</p><ul>{items}</ul></section>"
    )
  if study.strangers:
    names = escape(", ".join(study.strangers))
    parts.append(f'<p class="quiet">In the workdir, but not of this sweep and not shown: {names}</p>')
  return "\n".join(parts)
