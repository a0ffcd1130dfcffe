"""`lm-jax report`: a workdir's page, figures, tables and summary, written from its records alone."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from lm_jax.analysis import findings, frame, headline, prompting
from lm_jax.analysis.emergence import sentences
from lm_jax.analysis.emergence import table as emergence
from lm_jax.analysis.figures import figure_files, figure_parts, plots
from lm_jax.analysis.figures.figure_files import Drawers
from lm_jax.analysis.figures.style import STYLE
from lm_jax.analysis.findings import Findings
from lm_jax.analysis.frame import Study
from lm_jax.analysis.report import files, findings_page, page


def compact(study: Study) -> Path:
  """Writes every row of every cell to WORKDIR/records.parquet."""
  path = study.workdir / "records.parquet"
  with files.replacing(path) as temporary:
    study.records.to_parquet(temporary, index=False)
  return path


def summary(study: Study) -> dict[str, Any]:
  """Returns the headline numbers as JSON-ready data; what is missing is null and named."""
  missing = study.missing[["cell_id", "label", "family", "seed", "task", "state", "reason"]]
  tasks = {}
  for key, info in study.tasks.items():
    bayes = info.bayes("accuracy", frame.WINDOW)
    tasks[key] = {"chance": info.chance, "window": info.window, "bayes_accuracy_window": bayes}
  return page.clean({
    "study": study.name, "lm_jax_version": study.lm_jax_version, "git_commit": study.git_commit,
    "versions": study.versions, "tasks": tasks, "num_cells": len(study.cells),
    "num_finished": int(study.cells["finished"].sum()), "sizes": headline.headline(study).to_dict("records"),
    "missing": missing.to_dict("records"), "not_of_this_sweep": list(study.strangers),
  })  # fmt: skip


def _prompting_drawings(study: Study) -> Iterator[figure_parts.Drawing]:
  table = prompting.means(study)
  for i, task in enumerate(table["task"].drop_duplicates()):
    with mpl.rc_context(STYLE):
      numbers = table[(table["task"] == task) & table["metric"].isin(prompting.METRICS)]
      stem = f"few_shot.{figure_parts.file_part(task, i)}"
      yield figure_parts.Drawing(stem, prompting.figure(table, task), numbers)


def _write_tables(study: Study, found: Findings, folder: Path) -> list[str]:
  tables = {"cells.csv": study.cells, "final.csv": frame.final(study)}
  if len(found.verdicts):
    tables["emergence.csv"] = emergence.flat(found.verdicts)
  if len(prompted := prompting.means(study)):
    tables["few_shot.csv"] = prompted
  for name, table in tables.items():
    files.write(folder / name, table.to_csv(index=False))
  return [f"tables/{name}" for name in tables]


def write(workdir: str | Path) -> Path:
  """Writes WORKDIR/report and WORKDIR/records.parquet, and returns the page's path.

  May be called at any time, also while cells are running; equal records give equal files.
  """
  with figure_files.Drawers() as drawers:
    study = frame.load(workdir)
    compact(study)
    return write_study(study, study.workdir / "report", drawers)


def told(page_path: Path) -> list[str]:
  """Returns what a written report says in sentences: of each task, and notes."""
  return json.loads((page_path.parent / "summary.json").read_text(encoding="utf-8"))["told"]


def write_study(study: Study, folder: Path, drawers: Drawers, *, scored: bool = True) -> Path:
  """Writes the report of a study to a folder, and returns the page's path.

  Args:
    drawers: draw its figures meanwhile.
    scored: as of `findings.of_study`.
  """
  drawers.draw(study, folder)
  found = findings.of_study(study, scored=scored)
  others = itertools.chain(_prompting_drawings(study), findings_page.drawings(found))
  images = {stem: contents["png"] for stem, contents in figure_files.write(others, folder)}
  tables = _write_tables(study, found, folder / "tables")
  headlines = summary(study)
  verdicts = page.clean(findings.main_verdicts(found.verdicts).to_dict("records"))
  data = page.payload(study, folder, verdicts)
  figures, numbers = figure_files.names([*drawers.stems(), *images])
  for kind, written in (("figures", figures), ("tables", [*numbers, *(Path(t).name for t in tables)])):
    files.remove_stale(folder / kind, written, (*plots.STEMS, *findings_page.STEMS))
  links = [f"figures/{name}" for name in figures] + [f"tables/{name}" for name in numbers]
  links += [*tables, "summary.json"]
  said = sentences.of_rows(verdicts)
  laws = [
    {"task": law.task, "family": law.family, "reason": law.reason, "fit": law.fitted and law.fitted.tree}
    for law in found.laws
  ]
  tree = headlines | {"told": [*said, *found.notes], "emergence": verdicts, "laws": page.clean(laws)}
  files.write(folder / "summary.json", json.dumps(tree, indent=2, allow_nan=False) + "\n")
  # The page comes last: what it links to exists.
  files.write(folder / "index.html", page.render(study, links, folder, verdicts, {
    "told": findings_page.told_html(said), "groups": findings_page.groups_html(found, images),
    "laws": findings_page.laws_html(found, images),
    "forecasts": findings_page.forecasts_html(found, images), "notes": findings_page.notes_html(found),
  }, data))  # fmt: skip
  return folder / "index.html"
