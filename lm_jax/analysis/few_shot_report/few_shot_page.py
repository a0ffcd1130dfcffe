"""The page of few-shot results: one file with its figures and tables inside, which loads nothing."""

import base64
import dataclasses
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lm_jax.analysis.few_shot_frame import Results
from lm_jax.analysis.few_shot_report import few_shot_look
from lm_jax.analysis.figures.style import STYLE
from lm_jax.analysis.report import page_shell
from lm_jax.analysis.report.tables import escape, html_table, number, td, word

HERE = Path(__file__).parent
_PIXELS_PER_INCH = 105  # of the page, at which a figure's letters are about as large as a table's


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure of a task, or why there is none.

  Attributes:
    files: {ending: content}; empty where it was not drawn.
    reason: why not.
  """

  task: str
  title: str
  files: Mapping[str, bytes]
  reason: str = ""


def render(
  results: Results,
  means: pd.DataFrame,
  mistakes: pd.DataFrame,
  drawings: Sequence[Drawing],
  files: Iterable[str] = (),
) -> str:
  """Returns the page.

  Args:
    means, mistakes: `few_shot_frame.means` and `few_shot_frame.mistakes` of the results.
    files: are linked from it by their paths relative to it.
  """
  tasks = [
    _task_html(i, task, means, mistakes[mistakes["task"] == task], drawings)
    for i, task in enumerate(results.rows["task"].drop_duplicates())
  ]
  fields = {
    "left_out": _left_out_html(results), "asked": _asked_html(results.rows), "tasks": "\n".join(tasks),
    "definitions": _definitions_html(means), "files": page_shell.files_html(files),
  }  # fmt: skip
  body = page_shell.fill(page_shell.part("few_shot_report.html", HERE), fields)
  script = page_shell.part("sort_tables.js")
  return page_shell.render(results.folder.resolve().name, _facts(results), body, [script])


def _facts(results: Results) -> list[str]:
  rows = results.rows
  counts = ((rows["name"].nunique(), "model"), (rows["task"].nunique(), "task"))
  facts = [f"{n} {what}{'s' * (n != 1)}" for n, what in counts]
  for name, column in (("lm_jax", "lm_jax_version"), ("commit", "git_commit")):
    facts.append(f"{name} {', '.join(sorted(rows[column].dropna().unique())) or 'unknown'}")
  return facts


def _asked_html(rows: pd.DataFrame) -> str:
  """Returns one line a task and series: shots, seeds, templates and items of its cells."""
  headings = [("Task", False), ("Model", False), ("Parameters", True), ("Shots", False), ("Seeds", False),
              ("Templates", False), ("Items", True), ("Too long", True)]  # fmt: skip
  body = []
  for (task, series), own in rows.groupby(["task", "series"], sort=False):
    shots, seeds = (
      ", ".join(str(int(x)) for x in sorted(own[c].dropna().unique())) for c in ("n_shots", "seed")
    )
    templates = ", ".join(own["prompt_id"].drop_duplicates())
    items = few_shot_look.count(own["n_items"], "").strip()
    body.append("".join([
      word(task), word(series), _whole(own["params_total"].iloc[0]), word(shots), word(seeds or None),
      word(templates or None), td(own["n_items"].max(), items), _whole(own["n_left_out"].max()),
    ]))  # fmt: skip
  return html_table("asked", headings, body)


def _whole(value: float) -> str:
  return number(None if pd.isna(value) else int(value))


def _left_out_html(results: Results) -> str:
  if results.left_out.empty:
    return ""
  items = "".join(
    f"<li>{escape(few_shot_look.shots(row.n_shots))} of <b>{escape(row.task)}</b>, {escape(row.model)}, "
    f"template {escape(row.prompt_id)}, {int(row.n_items)} items: <code>{escape(row.key)}</code>, for "
    f"<code>{escape(row.instead)}</code></li>"
    for row in results.left_out.itertuples()
  )
  return (
    f'<section class="missing"><h2>{len(results.left_out)} results are not shown</h2><p>The same was asked '
    "again, of other items or with other settings: what has most items counts, then what has most metrics, "
    f"then what was asked last.</p><ul>{items}</ul></section>"
  )


# --- one task ---------------------------------------------------------------------------------------


def _task_html(
  index: int, task: str, means: pd.DataFrame, mistakes: pd.DataFrame, drawings: Sequence[Drawing]
) -> str:
  own = [drawing for drawing in drawings if drawing.task == task]
  figures = "\n".join(_figure_html(drawing) for drawing in own if drawing.files)
  reasons = "; ".join(f"{drawing.title} ({drawing.reason})" for drawing in own if not drawing.files)
  parts = [f"<section><h2>{escape(task)}</h2>", f'<div class="grid">{figures}</div>']
  if reasons:
    parts.append(f'<p class="quiet">Not drawn: {escape(reasons)}.</p>')
  parts += ["<h3>Scores</h3>", _scores_html(f"scores-{index}", means[means["task"] == task])]
  parts.append(
    '<p class="quiet">Means over seeds and templates; small: the least and greatest of them. “±” is one '
    "standard error: over items, and where there are several seeds or templates over these too.</p>"
  )
  if len(mistakes):
    parts += ["<h3>Most confident mistakes</h3>", _mistakes_html(f"mistakes-{index}", mistakes)]
    parts.append(
      '<p class="quiet">Items with the wrong choice, most confident first, ten a model. Gold and chosen are '
      "indices of an item’s choices from 0; “wrong” counts all numbers of shots, seeds and templates. Items "
      "without a gold have no answer, and got one all the same; where it was written, it is what was chosen."
      "</p>"
    )
  return "\n".join([*parts, "</section>"])


def _figure_html(drawing: Drawing) -> str:
  png = drawing.files["png"]
  width = struct.unpack(">I", png[16:20])[0] * _PIXELS_PER_INCH // STYLE["savefig.dpi"]
  title = escape(drawing.title)
  return (
    f'<figure><figcaption>{title}</figcaption><img width="{width}" alt="{title}, {escape(drawing.task)}" '
    f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
  )


def _scores_html(name: str, means: pd.DataFrame) -> str:
  with_steps = bool(means["step"].notna().any())
  headings = [("Model", False), *[("Step", True)] * with_steps, ("Shots", True), ("Metric", False),
              ("Value", True), ("±", True), ("Chance", True), ("Items", True), ("Seeds", True),
              ("Templates", True)]  # fmt: skip
  body = [_score_html(row, with_steps) for row in means.to_dict("records")]
  return html_table(name, headings, body)


def _score_html(row: Mapping[str, Any], with_steps: bool) -> str:
  several = row["n_cells"] > 1 and pd.notna(row["low"])
  span = f"{row['low']:.3f}–{row['high']:.3f}" if several else ""
  fits = pd.notna(row["mean_shots"]) and row["mean_shots"] < row["n_shots"]
  return "".join([
    word(row["series"]), *[_whole(row["step"])] * with_steps,
    td(row["n_shots"], str(int(row["n_shots"])), f"{row['mean_shots']:.1f} fit" if fits else ""),
    td(row["metric"], few_shot_look.name(row["metric"])), number(row["value"], span), number(row["stderr"]),
    number(row["chance"]), *(_whole(row[column]) for column in ("n_items", "n_seeds", "n_templates")),
  ])  # fmt: skip


def _mistakes_html(name: str, mistakes: pd.DataFrame) -> str:
  headings = [("Model", False), ("Item", False), ("Confidence", True), ("Gold", True), ("Chosen", True),
              ("Shots", True), ("Template", False), ("Seed", True), ("Wrong", True)]  # fmt: skip
  body = [
    "".join([
      word(row.series), f'<td data-v="{escape(row.item)}"><code>{escape(row.item)}</code></td>',
      number(row.confidence), _whole(row.gold),
      word(row.chosen) if isinstance(row.chosen, str) else _whole(row.chosen), _whole(row.n_shots),
      word(row.prompt_id),
      _whole(row.seed), td(row.n_wrong / row.n_asked, f"{row.n_wrong} of {row.n_asked}"),
    ])
    for row in mistakes.itertuples()
  ]  # fmt: skip
  return html_table(name, headings, body)


def _definitions_html(means: pd.DataFrame) -> str:
  known = few_shot_look.DEFINITIONS
  return "".join(
    f"<dt>{escape(few_shot_look.name(metric))}</dt><dd>{escape(known[metric])}</dd>"
    for metric in means["metric"].drop_duplicates()
    if metric in known
  )
