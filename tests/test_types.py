"""The type checker as it is configured: it finds what it is there for, and nothing is silenced in passing."""

import re
import subprocess
import sys
import tomllib

import pytest
from processes import ROOT

# Each line has one error, of the kind that its comment names.
WRONG = """\
from pathlib import Path
from lm_jax import strict, sweep
from lm_jax.rundir import RunDir
strict.require(True, "config.seed")  # call-arg
strict.nearest(3, ["a"])  # arg-type
RunDir(Path("x")).stauts()  # attr-defined
RunDir(Path("x")).status()["state"]  # index
number: int = sweep.axis("seed", [1])  # assignment
"""


def test_errors_are_found(tmp_path):
  pytest.importorskip("mypy")
  path = tmp_path / "wrong.py"
  path.write_text(WRONG)
  words = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache", path]
  run = subprocess.run(
    [sys.executable, "-m", "mypy", *map(str, words)], cwd=ROOT, capture_output=True, text=True
  )
  found = re.findall(r"wrong\.py:(\d+): error: .*\[([a-z-]+)\]", run.stdout)
  wanted = [(str(i), line.split("# ")[1]) for i, line in enumerate(WRONG.splitlines(), 1) if "# " in line]
  assert found == wanted, run.stdout + run.stderr


def test_nothing_is_silenced_where_it_stands():
  silenced = [
    path.relative_to(ROOT)
    for path in (ROOT / "lm_jax").rglob("*.py")
    if "type: ignore" in path.read_text(encoding="utf-8")
  ]
  assert not silenced, "say it by module and with its reason, in pyproject.toml"


def test_relaxed_modules_are_there():
  mypy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
  relaxed = [m for section in mypy["overrides"] if "disable_error_code" in section for m in section["module"]]
  assert relaxed
  for module in relaxed:
    path = ROOT / module.removesuffix(".*").replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").is_file(), module
