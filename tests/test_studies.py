"""What studies show is what their CSV files say: figures, tables, and the numbers in their sentences."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from processes import ROOT

from lm_jax.analysis.figures.style import STYLE

sys.path.insert(0, str(ROOT / "experiments"))
import study

NAMES = [name for name in study.names() if study.read_tables(name)]
PLANNED = [name for name in study.names() if name not in NAMES]
# Of 255 levels, root mean square over a figure: letters and lines of other versions differ at their edges.
MAX_DIFFERENCE = 2.0

_RESULT = re.compile(r"^\*\*(?:Result|Finding|What surprised)\b", re.M)
_NOT_SAID = re.compile(
  r"^(?: {4}|\t|!\[|\|)[^\n]*$|95 % interval|`[^`]*`|\]\([^)]*\)|arXiv:[\d.]+|<!-- (\w+) -->.*?<!-- /\1 -->",
  re.M | re.S,
)
_NUMBER = re.compile(r"(?<![\w.,])-?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?!\w|[.,]\d)(?: %)?")


def pixels(figure: Path | io.BytesIO) -> np.ndarray:
  """Returns red, green and blue, 0 to 255."""
  return 255 * mpl.image.imread(figure)[..., :3]


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_drawn_from_the_tables(name):
  for stem, figure in study.figures(name).items():
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
      figure.savefig(file)
    drawn, committed = pixels(io.BytesIO(file.getvalue())), pixels(study.EXPERIMENTS / name / f"{stem}.png")
    assert drawn.shape == committed.shape, stem
    assert np.sqrt(np.mean((drawn - committed) ** 2)) < MAX_DIFFERENCE, stem


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_and_table_of_a_study_is_in_its_readme(name):
  text = (study.EXPERIMENTS / name / "README.md").read_text()
  files = [path.name for path in (study.EXPERIMENTS / name).iterdir() if path.suffix in (".png", ".csv")]
  assert [f for f in files if f not in text and f != "cost.csv"] == []


@pytest.mark.parametrize("name", NAMES)
def test_tables_in_readmes_are_made_from_the_csv_files(name):
  assert (study.EXPERIMENTS / name / "README.md").read_text() == study.readme(name)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_sentences_are_in_the_csv_files(name):
  text = (study.EXPERIMENTS / name / "README.md").read_text()
  said = _NOT_SAID.sub(" ", text[_RESULT.search(text).start() :])
  known = np.array([*numbers_of_tables(name), *numbers_of_text("\n".join(study.texts(name).values()))])
  unknown = [number for number in _NUMBER.findall(said) if is_measure(number) and not is_among(number, known)]
  assert unknown == []


def test_every_study_has_its_parts():
  folders = sorted(path.parent for path in study.EXPERIMENTS.glob("[0-9]*/README.md"))
  assert len(folders) > 15
  assert [folder.name for folder in folders] == study.names()
  for name in NAMES:
    kinds = {path.suffix for path in (study.EXPERIMENTS / name).iterdir()}
    assert {".md", ".csv", ".png"} <= kinds, name


def test_a_study_without_tables_says_that_it_was_not_run():
  assert NAMES
  texts = {name: (study.EXPERIMENTS / name / "README.md").read_text() for name in PLANNED}
  assert [name for name, text in texts.items() if "**Result.** Not run yet." not in text] == []
  assert [name for name, text in texts.items() if "**Prediction**, written before the run" not in text] == []


def test_a_number_that_no_table_has_is_found():
  known = np.array([0.6251, 1234.0, -0.94])
  assert is_among(".625", known)
  assert is_among("0.63", known)
  assert is_among("62.5 %", known)
  assert is_among("1,234", known)
  assert is_among("-.94", known)
  assert not is_among(".626", known)
  assert not is_among("1,235", known)
  found = _NUMBER.findall(_NOT_SAID.sub(" ", "It is .626 (62 %), d = 16, arXiv:2304.15004, `1.5`, -0.5."))
  assert [number for number in found if is_measure(number)] == [".626", "62 %", "-0.5"]


def test_what_comes_after_a_figure_or_a_table_is_looked_at():
  said = "![.1](a.png)\n\nIt is .2.\n\n| .3 |\n\n    run .4\n<!-- a -->\n.5\n<!-- /a -->\nAnd .6 there."
  assert _NUMBER.findall(_NOT_SAID.sub(" ", said)) == [".2", ".6"]


def numbers_of_tables(name: str) -> Iterator[float]:
  for table in study.read_tables(name).values():
    for column in table.select_dtypes("number"):
      yield from table[column].dropna()
  yield from study.derived(name).values()


def numbers_of_text(text: str) -> Iterator[float]:
  yield from map(value_of, _NUMBER.findall(text))


def is_measure(number: str) -> bool:
  """Whether it may be a result: counts and names such as d = 16 are not."""
  return "." in number or "," in number or "%" in number


def value_of(number: str) -> float:
  value = float(number.removesuffix(" %").replace(",", ""))
  return value / 100 if number.endswith("%") else value


def is_among(number: str, known: np.ndarray) -> bool:
  """Whether one of the known numbers, or one below 0, is this one when it is rounded as it is."""
  digits = len(number.removesuffix(" %").partition(".")[2]) + 2 * number.endswith("%")
  value = value_of(number)
  half = 0.5000001 * 10.0**-digits
  return bool((np.abs(known - value) <= half).any() or (np.abs(known + value) <= half).any())


def test_redraw_changes_nothing_that_is_committed(tmp_path):
  """`--redraw` itself, in a copy."""
  copy = tmp_path / "experiments"
  subprocess.run(["cp", "-r", ROOT / "experiments", copy], check=True)
  done = run_study("001_rule_induction", "--redraw", folder=copy)
  assert done.returncode == 0, done.stderr
  for name in ("README.md", "runs.csv", "curves.csv"):
    here, there = (folder / "001_rule_induction" / name for folder in (ROOT / "experiments", copy))
    assert here.read_text() == there.read_text()


def test_a_study_that_is_not_there():
  done = run_study("001_rule_inducton", "--redraw", folder=ROOT / "experiments")
  assert done.returncode == 2
  assert "001_rule_induction" in done.stderr.splitlines()[-1]


def run_study(*words: str, folder: Path) -> subprocess.CompletedProcess:
  command = [sys.executable, folder / "study.py", *words]
  return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
