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
import pandas as pd

from lm_jax.analysis import frame, headline, page, plots, prompting
from lm_jax.analysis.frame import Study


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


def _write_figures(study: Study, folder: Path) -> list[str]:
  """Writes the figures and removes those of an earlier report that no longer hold."""
  written = []
  for name, content in itertools.chain(plots.figures(study), _prompting_figures(study)):
    write_file(folder / name, content)
    written.append(name)
  remove_stale(folder, written, plots.STEMS)
  return written


def remove_stale(folder: Path, written: Collection[str], stems: Collection[str]) -> None:
  """Removes files of these stems that an earlier report wrote and this one did not."""
  if folder.is_dir():
    for path in folder.iterdir():
      if path.name not in written and path.name.split(".")[0] in stems:
        path.unlink()


def _prompting_figures(study: Study) -> Iterator[tuple[str, bytes]]:
  table = prompting.means(study)
  for i, task in enumerate(table["task"].drop_duplicates()):
    with mpl.rc_context(plots.STYLE):
      figure = prompting.figure(table, task)
      for ending in plots.FORMATS:
        yield f"few_shot.{plots.file_part(task, i)}.{ending}", plots.encode(figure, ending)


def _write_tables(study: Study, folder: Path) -> list[str]:
  tables: dict[str, pd.DataFrame] = {"cells.csv": study.cells, "final.csv": frame.final(study)}
  if len(prompted := prompting.means(study)):
    tables["few_shot.csv"] = prompted
  for name, table in tables.items():
    write_file(folder / name, table.to_csv(index=False))
  return list(tables)


def write(workdir: str | Path) -> Path:
  """Writes WORKDIR/report and WORKDIR/records.parquet, and returns the page's path.

  May be called at any time, also while cells are running; equal records give equal files.
  """
  study = frame.load(workdir)
  compact(study)
  folder = study.workdir / "report"
  figures = _write_figures(study, folder / "figures")
  tables = _write_tables(study, folder / "tables")
  text = json.dumps(summary(study), indent=2, allow_nan=False)
  write_file(folder / "summary.json", text + "\n")
  files = [f"figures/{f}" for f in figures] + [f"tables/{t}" for t in tables] + ["summary.json"]
  # The page comes last: what it links to exists.
  write_file(folder / "index.html", page.render(study, files))
  return folder / "index.html"
