"""`lm-jax report`: a workdir's page, figures, tables and summary, written from its records alone."""

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from lm_jax.analysis import figure_parts, findings, findings_page, frame, headline, page, plots, prompting
from lm_jax.analysis.emergence import table as emergence
from lm_jax.analysis.findings import Findings
from lm_jax.analysis.frame import Study
from lm_jax.analysis.style import STYLE


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
  """Yields a temporary path that becomes `path` at once, so that a reader sees the old file or the new."""
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  os.close(handle)
  temporary = Path(name)
  try:
    yield temporary
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
  with _replacing(path) as temporary:
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def compact(study: Study) -> Path:
  """Writes every row of every cell to WORKDIR/records.parquet."""
  path = study.workdir / "records.parquet"
  with _replacing(path) as temporary:
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


def _write_figures(study: Study, found: Findings, folder: Path) -> tuple[list[str], dict[str, bytes]]:
  """Writes figures with their numbers, removes those of an earlier report.

  Returns:
    their paths, and the PNG of each stem.
  """
  figures, numbers, images = [], [], {}
  every = itertools.chain(plots.drawings(study), _prompting_drawings(study), findings_page.drawings(found))
  for drawing in every:
    for ending, content in figure_parts.encoded(drawing.figure).items():
      figures.append(f"{drawing.stem}.{ending}")
      write_file(folder / "figures" / figures[-1], content)
      if ending == "png":
        images[drawing.stem] = content
    numbers.append(f"{drawing.stem}.csv")
    write_file(folder / "tables" / numbers[-1], drawing.numbers.to_csv(index=False))
  stems = (*plots.STEMS, *findings_page.STEMS)
  remove_stale(folder / "figures", figures, stems)
  remove_stale(folder / "tables", numbers, stems)
  return [f"figures/{name}" for name in figures] + [f"tables/{name}" for name in numbers], images


def remove_stale(folder: Path, written: Collection[str], stems: Collection[str]) -> None:
  """Removes files of these stems that an earlier report wrote and this one did not."""
  if folder.is_dir():
    for path in folder.iterdir():
      if path.name not in written and path.name.split(".")[0] in stems:
        path.unlink()


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
    write_file(folder / name, table.to_csv(index=False))
  return [f"tables/{name}" for name in tables]


def write(workdir: str | Path) -> Path:
  """Writes WORKDIR/report and WORKDIR/records.parquet, and returns the page's path.

  May be called at any time, also while cells are running; equal records give equal files.
  """
  study = frame.load(workdir)
  compact(study)
  return write_study(study, findings.of_study(study), study.workdir / "report")


def write_study(study: Study, found: Findings, folder: Path) -> Path:
  """Writes the report of a study to a folder, and returns the page's path."""
  files, images = _write_figures(study, found, folder)
  files += [*_write_tables(study, found, folder / "tables"), "summary.json"]
  verdicts = findings.main_verdicts(found.verdicts).to_dict("records")
  laws = [
    {"task": law.task, "family": law.family, "reason": law.reason, "fit": law.fitted and law.fitted.tree}
    for law in found.laws
  ]
  text = json.dumps(
    summary(study) | page.clean({"emergence": verdicts, "laws": laws}), indent=2, allow_nan=False
  )
  write_file(folder / "summary.json", text + "\n")
  # The page comes last: what it links to exists.
  write_file(folder / "index.html", page.render(study, files, folder, verdicts, {
    "laws": findings_page.laws_html(found, images), "forecasts": findings_page.forecasts_html(found, images),
    "notes": findings_page.notes_html(found),
  }))  # fmt: skip
  return folder / "index.html"
