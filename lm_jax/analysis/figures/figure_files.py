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
from collections.abc import Iterable, Iterator, Sequence
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

  Leaving the context ends them. They are given the study in files of their own: another process must not
  have to find its workdirs, and see other rows, again.
  """

  def __init__(self, study: Study, folder: Path):
    self._study, self._folder = study, folder

  def __enter__(self) -> "Drawers":
    with contextlib.ExitStack() as stack:
      handed = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lm_jax_study_")))
      _save(self._study, handed)
      tasks, cores = list(self._study.tasks), len(environment.usable_cores())
      # Every core has an equal share, as tasks of one study are alike.
      shares = [tasks[i::cores] for i in range(min(cores, len(tasks)))]
      self._processes = [stack.enter_context(_process(handed, self._folder, share)) for share in shares]
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error: object) -> None:
    self._stack.close()

  def stems(self) -> list[str]:
    """Waits until all is drawn and returns the figures' stems, in order of tasks."""
    drawn: dict[str, list[str]] = {}
    for process in self._processes:
      output, _ = process.communicate()
      if process.returncode:
        raise RuntimeError(f"the figures' process ended with exit code {process.returncode}; why is above")
      drawn |= json.loads(output)
    return [stem for task in self._study.tasks for stem in drawn[task]]


@contextlib.contextmanager
def _process(handed: Path, folder: Path, tasks: Sequence[str]) -> Iterator[subprocess.Popen]:
  command = [
    sys.executable,
    "-m",
    "lm_jax.analysis.figures.figure_files",
    str(handed),
    str(folder),
    json.dumps(tasks),
  ]
  process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
  try:
    yield process
  finally:
    process.kill()
    process.stdout.close()
    process.wait()


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


def main(argv: Sequence[str]) -> None:
  """Draws some tasks of a handed study, and prints {task: stems}."""
  study, folder = _restore(Path(argv[0])), Path(argv[1])
  drawn = {
    task: [stem for stem, _ in write(plots.drawings(study, task), folder)] for task in json.loads(argv[2])
  }
  print(json.dumps(drawn))


if __name__ == "__main__":
  main(sys.argv[1:])
