"""`lm-jax report` of a folder of `lm-jax evaluate`: figures, tables and one page, from its results alone."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_frame import Results
from lm_jax.analysis.few_shot_report import (
  few_shot_confidence_figures,
  few_shot_figures,
  few_shot_look,
  few_shot_page,
)
from lm_jax.analysis.few_shot_report.few_shot_page import Drawing
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.style import STYLE
from lm_jax.analysis.report import files

# {stem of files: (title, why there can be none)}.
FIGURES = {
  "score_vs_shots": ("Score against the number of shots", "there is no score"),
  "reliability": ("Reliability diagram: accuracy against confidence", "its items have no choices"),
  "selective_accuracy": (
    "Accuracy when the least confident answers are withheld",
    "its items have no choices",
  ),
  "abstention": (
    "Confidence in answers to questions that have one, and to those that have none",
    "the confidence of its items is not known",
  ),
  "prompt_spread": ("Spread over seeds and templates", "each model was asked with one seed and template"),
  "score_vs_params": ("Score against parameters", "its models have one size"),
  "score_vs_step": ("Score against training steps", "no model was asked at several steps"),
}


def write(workdir: str | Path) -> Path:
  """Writes WORKDIR/report and returns the page's path; equal results give equal files."""
  results = few_shot_frame.load(workdir)
  means, folder = few_shot_frame.means(results), results.folder / "report"
  mistakes, drawings, figures = few_shot_frame.mistakes(results), [], []
  for i, task in enumerate(results.rows["task"].drop_duplicates()):
    for stem, contents in _figures(results, means, task):
      title, reason = FIGURES[stem]
      drawings.append(Drawing(task, title, contents, reason))
      for ending, content in contents.items():
        name = f"{stem}.{figure_parts.file_part(task, i)}.{ending}"
        files.write(folder / "figures" / name, content)
        figures.append(name)
  files.remove_stale(folder / "figures", figures, FIGURES)
  tables = {"scores.csv": results.rows, "means.csv": means, "confident_mistakes.csv": mistakes}
  for name, table in tables.items():
    files.write(folder / "tables" / name, table.to_csv(index=False))
  links = [f"figures/{name}" for name in figures] + [f"tables/{name}" for name in tables]
  # The page comes last: what it links to exists.
  files.write(folder / "index.html", few_shot_page.render(results, means, mistakes, drawings, links))
  return folder / "index.html"


def _figures(results: Results, means: pd.DataFrame, task: str) -> Iterator[tuple[str, dict[str, bytes]]]:
  """Yields (stem, {ending: content}) of a task, without content where it has no data for a figure."""
  with mpl.rc_context(STYLE):
    for stem, figure in _drawn(results, means, task):
      yield stem, {} if figure is None else figure_parts.encoded(figure)


def _drawn(results: Results, means: pd.DataFrame, task: str) -> Iterator[tuple[str, Figure | None]]:
  own, all_steps = (table[table["task"] == task] for table in (results.rows, means))
  rows, last = few_shot_frame.last_steps(own), few_shot_frame.last_steps(all_steps)
  metrics = few_shot_look.pair(list(own["metric"].drop_duplicates()))
  yield "score_vs_shots", few_shot_figures.against_shots(rows, last, metrics)
  yield "reliability", few_shot_confidence_figures.reliability(results, rows)
  yield "selective_accuracy", few_shot_confidence_figures.selective(results, rows)
  if "hallucination_rate" in set(own["metric"]):
    yield "abstention", few_shot_confidence_figures.abstention(results, rows)
  yield "prompt_spread", few_shot_figures.over_prompts(results, rows, metrics[0])
  yield "score_vs_params", few_shot_figures.against_size(last, metrics)
  yield "score_vs_step", few_shot_figures.against_step(all_steps, metrics)
