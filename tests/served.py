"""A server of a workdir, and a study for it to show."""

import contextlib
import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_study as synthetic
from processes import finish, lm_jax, start


@contextlib.contextmanager
def served(workdir: Path, *words: str) -> Iterator[tuple[str, int, subprocess.Popen]]:
  """Yields the address of a server of a workdir, and its process."""
  process = start("serve", f"--workdir={workdir}", *(words or ("--port=0",)))
  try:
    url = process.stdout.readline().strip()
    assert url, process.communicate()
    host, port = re.fullmatch(r"http://(.+):(\d+)/", url).groups()
    yield host.strip("[]"), int(port), process
  finally:
    process.kill()
    finish(process)


def ask(host: str, port: int, path: str, method: str = "GET", body: str | None = None, **headers: str):
  """Returns status, headers and body, of a path that is sent as it is."""
  with contextlib.closing(http.client.HTTPConnection(host, port, timeout=60)) as connection:
    connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def asked_json(host: str, port: int, path: str):
  status, _, body = ask(host, port, path)
  assert status == 200, body
  return json.loads(body)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory) -> Path:
  """A study like a real one, its report, and files beside it that are nobody's business."""
  workdir = tmp_path_factory.mktemp("serve") / "ladder"
  synthetic.realistic(workdir)
  done = lm_jax("report", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  (workdir.parent / "secret.txt").write_text("secret")
  (workdir / "report" / "out.txt").symlink_to(workdir.parent / "secret.txt")
  (workdir / "report" / "up").symlink_to(workdir.parent)
  (workdir / "report" / "circle").symlink_to(workdir / "report" / "circle")
  (workdir / "report" / "a b.txt").write_text("a b")
  return workdir


@pytest.fixture(scope="module")
def address(ladder) -> Iterator[tuple[str, int]]:
  with served(ladder) as (host, port, _):
    yield host, port
