"""Cores that processes take for themselves, and the folder of their locks, which others may have made."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_jax import environment
from lm_jax.launch import cores
from lm_jax.strict import ConfigError

TAKE_AND_WAIT = "from lm_jax.launch import cores; print(*cores.take(1), flush=True); input()"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Path]:
  """Yields where the folder of locks is to be; it is not there."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  monkeypatch.setattr(cores, "_locks", {})
  yield tmp_path / f"lm_jax-cores-{os.getuid()}"
  for lock in cores._locks.values():
    os.close(lock)


def test_what_another_process_has_is_not_taken(place):
  if len(environment.usable_cores()) < 2:
    pytest.skip("there is one core")
  words = [sys.executable, "-c", TAKE_AND_WAIT]
  with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                        env=os.environ | {"TMPDIR": str(place.parent)}) as other:  # fmt: skip
    theirs = int(other.stdout.readline())
    (own,) = cores.take(1)
    other.communicate("\n")
  assert own != theirs and {own, theirs} <= set(environment.usable_cores())
  assert cores.take(1) == [own]
  assert stat.S_IMODE(place.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["link", "file", "open to all"])
def test_a_folder_that_somebody_else_may_have_made_is_refused(kind, place, tmp_path):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir(mode=0o700)
  if kind == "link":
    place.symlink_to(elsewhere)
  elif kind == "file":
    place.touch()
  else:
    place.mkdir()
    place.chmod(0o777)
  with pytest.raises(ConfigError, match=r"lm_jax-cores-\d+: must be a folder of user"):
    cores.take(1)
  assert not list(elsewhere.iterdir())


def test_a_folder_of_another_user_is_refused(place):
  if os.getuid() != 0:
    pytest.skip("only root can make one")
  place.mkdir(mode=0o700)
  os.chown(place, 65534, 65534)
  with pytest.raises(ConfigError, match="must be a folder of user 0"):
    cores.take(1)


def test_a_planted_link_is_not_followed_and_nothing_is_emptied(place, tmp_path):
  precious = tmp_path / "precious"
  precious.write_text("kept")
  place.mkdir(mode=0o700)
  first = environment.usable_cores()[0]
  (place / str(first)).symlink_to(precious)
  with pytest.raises(OSError, match=str(place / str(first))):
    cores.take(1)
  (place / str(first)).unlink()
  (place / str(first)).write_text("kept")
  assert cores.take(1) == [first]
  assert precious.read_text() == (place / str(first)).read_text() == "kept"
