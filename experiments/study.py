"""Repeats a study, from its commands to the figures and numbers of its README.

    make study NAME=001_rule_induction
    python experiments/study.py 001_rule_induction --redraw       figures and numbers from its CSV files alone

A study is a folder beside this file, whose study.py has

    COMMANDS              command lines, one after the other; {workdir} and {here} are filled in
    tables(workdir)       {stem: data frame}, written to STEM.csv
    draw(tables)          {stem: matplotlib figure}, written to STEM.png; {} where a table says it
    texts(tables)         {name: Markdown}, put between <!-- name --> and <!-- /name --> of the README
    derived(tables)       {what: number}: other numbers that the README's sentences speak of (optional)

draw, texts and derived see the tables as they are read back from the files, and nothing else: what is shown
is what can be checked. What the commands took goes into cost.csv.
"""

import argparse
import importlib.util
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import jax
import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lm_jax.analysis.figures.style import STYLE
from lm_jax.strict import nearest

EXPERIMENTS = Path(__file__).parent
# Of the files that these lines name, whichever kind of program it is.
_PROGRAMS = {"lm-jax": [sys.executable, "-m", "lm_jax"], "python": [sys.executable]}

Tables = Mapping[str, pd.DataFrame]


def names() -> list[str]:
  """Returns the studies that can be repeated."""
  return sorted(path.parent.name for path in EXPERIMENTS.glob("*/study.py"))


def load(name: str) -> ModuleType:
  path = EXPERIMENTS / name / "study.py"
  spec = importlib.util.spec_from_file_location(f"study_{name}", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def read_tables(name: str) -> dict[str, pd.DataFrame]:
  """Returns what the study's CSV files hold."""
  return {path.stem: pd.read_csv(path) for path in sorted((EXPERIMENTS / name).glob("*.csv"))}


def figures(name: str) -> dict[str, Figure]:
  """Returns the study's figures, drawn from its CSV files."""
  with mpl.rc_context(STYLE):
    return load(name).draw(read_tables(name))


def texts(name: str) -> dict[str, str]:
  """Returns the parts of the study's README that its CSV files give."""
  return load(name).texts(read_tables(name))


def derived(name: str) -> dict[str, float]:
  """Returns the numbers that the study's sentences speak of and no table has."""
  return getattr(load(name), "derived", lambda _: {})(read_tables(name))


def readme(name: str) -> str:
  """Returns the study's README with the parts that its CSV files give."""
  text = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
  for part, body in texts(name).items():
    text, count = re.subn(
      rf"(?<=<!-- {part} -->\n).*?(?=<!-- /{part} -->)", lambda _, body=body: body.rstrip() + "\n", text,
      flags=re.S,
    )  # fmt: skip
    if count != 1:
      sys.exit(f"{name}/README.md: <!-- {part} --> and its end: must be there once, not {count} times")
  return text


# --- running ------------------------------------------------------------------------------------------


def run(name: str, workdir: Path) -> None:
  """Gives the study's commands, and writes its CSV files."""
  study, here = load(name), EXPERIMENTS / name
  is_new = not workdir.exists()
  workdir.mkdir(parents=True, exist_ok=True)
  costs = [_timed(line, workdir, here) for line in study.COMMANDS]
  for stem, table in study.tables(workdir).items():
    _write_csv(here / f"{stem}.csv", table)
  # What went on where it had stopped took longer than this.
  if is_new:
    _write_csv(here / "cost.csv", pd.DataFrame(costs))


def _timed(line: str, workdir: Path, here: Path) -> dict[str, object]:
  print(f"$ {line.format(workdir=workdir, here=here)}", flush=True)
  words = [word.format(workdir=workdir, here=here) for word in shlex.split(line)]
  started, before = time.monotonic(), _cpu_s()
  code = subprocess.run([*_PROGRAMS[words[0]], *words[1:]], check=False).returncode
  if code:
    sys.exit(f"{line}: ended with exit code {code}")
  return {
    "command": line, "wall_s": round(time.monotonic() - started), "cpu_s": round(_cpu_s() - before),
    "cores": len(os.sched_getaffinity(0)), "machine": platform.machine(), "jax": jax.__version__,
  }  # fmt: skip


def _cpu_s() -> float:
  """Returns what ended processes below this one have computed, seconds of all cores together."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def _write_csv(path: Path, table: pd.DataFrame) -> None:
  table.to_csv(path, index=False, lineterminator="\n")


def redraw(name: str) -> None:
  """Writes the figures and the README's numbers from the CSV files."""
  here = EXPERIMENTS / name
  with mpl.rc_context(STYLE):
    for stem, figure in figures(name).items():
      figure.savefig(here / f"{stem}.png", metadata={"Software": None})
  (here / "README.md").write_text(readme(name), encoding="utf-8")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("name", help=f"one of {', '.join(names())}")
  parser.add_argument("--workdir", type=Path, help="where its runs go; default: runs/NAME")
  parser.add_argument("--redraw", action="store_true", help="run nothing: from the CSV files as they are")
  given = parser.parse_args()
  if given.name not in names():
    parser.error(f"{given.name!r}: no such study{nearest(given.name, names())}")
  if not given.redraw:
    run(given.name, given.workdir or Path("runs") / given.name)
  redraw(given.name)


if __name__ == "__main__":
  main()
