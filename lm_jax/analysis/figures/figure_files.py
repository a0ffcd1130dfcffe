"""Figures with the numbers behind them, as files; those of a study's tasks are drawn by other processes.

Drawing is most of a report's time and holds one core. What the study shows beyond its curves
(`lm_jax.analysis.findings`) is found meanwhile.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from lm_jax import environment
from lm_jax.analysis.figures import figure_parts, plots
from lm_jax.analysis.figures.figure_parts import Drawing
from lm_jax.analysis.figures.style import FORMATS
from lm_jax.analysis.frame import Study, TaskInfo
from lm_jax.analysis.report import files

_FRAMES = ("records", "cells")


def write(drawings: Iterable[Drawing], folder: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
  """Writes figures/STEM.FORMAT and tables/STEM.csv of each drawing, and yields (stem, {format: content})."""
  for drawing in drawings:
    contents = figure_parts.encoded(drawing.figure)
    for ending, content in contents.items():
      files.write(folder / "figures" / f"{drawing.stem}.{ending}", content)
    files.write(folder / "tables" / f"{drawing.stem}.csv", drawing.numbers.to_csv(index=False))
    yield drawing.stem, contents


def names(stems: Iterable[str]) -> tuple[list[str], list[str]]:
  """Returns what `write` calls the figures and the tables."""
  stems = list(stems)
  return [f"{stem}.{ending}" for stem in stems for ending in FORMATS], [f"{stem}.csv" for stem in stems]


class Drawers:
  """Processes that draw the figures of a study's tasks, one for each core; to be used as a context.

  Entering it starts the first, which imports its libraries while the study is still being read; leaving it
  ends all. They are given the study in files of their own: another process must not have to find its
  workdirs, and see other rows, again.
  """

  def __enter__(self) -> "Drawers":
    self._stack, self._tasks = contextlib.ExitStack(), []
    self._handed = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lm_jax_study_")))
    self._processes = [self._stack.enter_context(_process())]
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  def draw(self, study: Study, folder: Path) -> None:
    """Begins to write the figures and tables of all tasks into `folder`."""
    _save(study, self._handed)
    self._tasks, cores = list(study.tasks), len(environment.usable_cores())
    for _ in range(1, min(cores, len(self._tasks))):
      self._processes.append(self._stack.enter_context(_process()))
    for i, process in enumerate(self._processes):
      # Every process has an equal share, as tasks of one study are alike.
      share = self._tasks[i :: len(self._processes)]
      request = {"study": str(self._handed), "folder": str(folder), "tasks": share}
      with contextlib.suppress(BrokenPipeError):  # it died, which `stems` says
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()

  def stems(self) -> list[str]:
    """Waits until all is drawn and returns the figures' stems, in order of tasks."""
    drawn: dict[str, list[str]] = {}
    for process in self._processes:
      output = process.stdout.read()
      if code := process.wait():
        raise RuntimeError(f"the figures' process ended with exit code {code}; why is above")
      drawn |= json.loads(output)
    return [stem for task in self._tasks for stem in drawn[task]]


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen]:
  command = [sys.executable, "-m", "lm_jax.analysis.figures.figure_files"]
  process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  try:
    yield process
  finally:
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()


def _save(study: Study, folder: Path) -> None:
  for name in _FRAMES:
    getattr(study, name).to_parquet(folder / f"{name}.parquet", index=False)
  rest = {f.name: getattr(study, f.name) for f in dataclasses.fields(study) if f.name not in _FRAMES}
  tasks = {key: dataclasses.asdict(info) for key, info in study.tasks.items()}
  text = json.dumps(rest | {"workdir": str(study.workdir), "tasks": tasks})
  (folder / "study.json").write_text(text, encoding="utf-8")


def _restore(folder: Path) -> Study:
  rest = json.loads((folder / "study.json").read_text(encoding="utf-8"))
  tasks = {
    key: TaskInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in info.items()})
    for key, info in rest["tasks"].items()
  }
  frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _FRAMES}
  same = {"workdir": Path(rest["workdir"]), "tasks": tasks, "strangers": tuple(rest["strangers"])}
  return Study(**(rest | frames | same))


def main() -> None:
  """Draws what a line of stdin asks for, and prints {task: stems}."""
  line = sys.stdin.readline()
  if not line:  # whoever started this has nothing to draw
    return
  request = json.loads(line)
  study, folder = _restore(Path(request["study"])), Path(request["folder"])
  drawn = {
    task: [stem for stem, _ in write(plots.drawings(study, task), folder)] for task in request["tasks"]
  }
  print(json.dumps(drawn))


if __name__ == "__main__":
  main()
