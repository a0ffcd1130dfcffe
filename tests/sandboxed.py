"""Programs in the sandbox, and what must be left of none of them."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import ROOT

from lm_jax import sandbox
from lm_jax.sandbox import Limits, Outcome

MISSING = sandbox.isolation().missing
isolated = pytest.mark.skipif(MISSING is not None, reason=f"no isolation here: {MISSING}")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Long enough for any program here on a busy machine; those that are to time out get less.
PATIENT = 60.0
# Begins what would end the machine if it were not isolated, as a mistake in the sandbox could have it.
ONLY_ISOLATED = "import os\nassert os.getpid() == 2, 'not isolated'\n"
# A cheap bound for programs that use up memory.
SMALL_MEMORY = 256 << 20


def run(program: str, without_isolation: bool = False, **limits) -> Outcome:
  limits = Limits(**{"seconds": PATIENT, **limits})
  return sandbox.run(textwrap.dedent(program), limits, without_isolation=without_isolation)


def attempts(*lines: str) -> str:
  """Returns a program that prints, one a line, those of `lines` that raise no OSError."""
  return "import ctypes, mmap, os, resource, shutil, signal, socket\n" + "".join(
    f"try:\n  {line}\n  print({line!r})\nexcept (OSError, ValueError):\n  pass\n" for line in lines
  )


def processes_of(parent: int) -> list[int]:
  """Returns the sandbox's processes that a process has started and that are left."""
  found = []
  for entry in Path("/proc").iterdir():
    try:
      command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
    except (FileNotFoundError, ProcessLookupError):
      continue
    if b"sandbox_process.main" in command and re.search(rb"'parent': %d\b" % parent, command):
      found.append(int(entry.name))
  return found


def python(script: str, executable: str = sys.executable, **options) -> subprocess.Popen:
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
  return subprocess.Popen(
    [executable, "-c", textwrap.dedent(script)], text=True, env=environment,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
  )  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
  """Every test leaves no process, no mount and no temporary file behind."""
  temporary = tmp_path / "temporary"
  temporary.mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(temporary))
  mounts = Path("/proc/self/mountinfo")
  before = mounts.exists() and mounts.read_text()
  yield
  assert list(temporary.iterdir()) == []
  if mounts.exists():
    assert mounts.read_text() == before
    assert processes_of(os.getpid()) == []
