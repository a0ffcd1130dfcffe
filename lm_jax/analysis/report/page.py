"""The report's page of a study: its plots with their controls, its tables, and links to its files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from lm_jax.analysis.figures import plots
from lm_jax.analysis.figures.look import DEFINITIONS, NAMES
from lm_jax.analysis.frame import Study
from lm_jax.analysis.json_values import clean as clean
from lm_jax.analysis.report import page_shell, tables
from lm_jax.analysis.report.page_data import payload as payload
from lm_jax.analysis.report.tables import escape

# In this order they are one script; each is a list of functions, of which the last file starts.
_SCRIPTS = (
  "page_series.js",
  "page_figures.js",
  "page_draw.js",
  "page_cells.js",
  "page_overview.js",
  "report.js",
)


def script() -> str:
  """Returns the page's own script."""
  return '(() => {\n"use strict";\n' + "\n".join(map(page_shell.part, _SCRIPTS)) + "\n})();\n"


def _facts(study: Study) -> list[str]:
  done = int(study.cells["finished"].sum())
  devices = ", ".join(sorted(study.cells["device"].dropna().unique())) or "unknown"
  version, commit = study.lm_jax_version or "unknown", study.git_commit or "unknown"
  facts = [f"{done} of {len(study.cells)} cells finished", f"device: {devices}", f"lm_jax {version}",
           f"commit {commit}"]  # fmt: skip
  versions = ", ".join(f"{k} {v}" for k, v in sorted(study.versions.items()))
  return facts + ([versions] if versions else [])


def _definitions_html() -> str:
  return "".join(f"<dt>{escape(NAMES[m])}</dt><dd>{escape(d)}</dd>" for m, d in DEFINITIONS.items())


def _figures(study: Study, files: Sequence[str]) -> dict[str, dict[str, str]]:
  """Returns {task: {plot of the page: its figure among `files`, without the ending}}."""
  there = {str(Path(file).with_suffix("")) for file in files if file.startswith("figures/")}
  found: dict[str, dict[str, str]] = {}
  for i, task in enumerate(study.tasks):
    for plot, stems in plots.PAGE_STEMS.items():
      paths = (f"figures/{plots.stem_of(stem, study, i)}" for stem in stems)
      path = next((path for path in paths if path in there), None)
      if path:
        found.setdefault(task, {})[plot] = path
  return found


def render(
  study: Study,
  files: Iterable[str] = (),
  folder: Path | None = None,
  verdicts: Sequence[Mapping[str, Any]] = (),
  sections: Mapping[str, str] | None = None,
  data: Mapping[str, Any] | None = None,
) -> str:
  """Returns the page.

  Args:
    files: are linked from it by their paths relative to it.
    folder, verdicts: see `page_data.payload`.
    sections: HTML of "told" (what the verdicts say), "groups" (of seeds), "laws", "forecasts" and "notes".
    data: the payload of the study without its figures, where it is there already.
  """
  files = list(files)
  fields = {
    "missing": tables.missing_html(study), "headline": tables.headline_html(study),
    "definitions": _definitions_html(), "files": page_shell.files_html(files),
    "told": "", "groups": "", "laws": "", "forecasts": "", "notes": "", **(sections or {}),
  }  # fmt: skip
  body = page_shell.fill(page_shell.part("report.html"), fields)
  if data is None:
    data = payload(study, folder, verdicts)
  data = {**data, "figures": _figures(study, files)}
  scripts = [get_plotlyjs(), script(), page_shell.part("sort_tables.js")]
  return page_shell.render(study.name, _facts(study), body, scripts, data)
