"""An S3 server on loopback (moto's), for processes to share over HTTP."""

import os
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "a-bucket"
# What the driver of S3 reads; the server believes anything.
SECRET = "not-to-be-written-down"
CREDENTIALS = {
  "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
  "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


class _Quiet(WSGIRequestHandler):
  def log(self, *_: Any) -> None:
    return


class S3:
  """A server with one bucket.

  Attributes:
    changes: the methods and paths of all requests that changed something, in their order.
    has_changed_last: whether the last of all requests changed something.
    ignores_conditions: whether it overwrites what it is asked only to create, as some servers and proxies do.
    refuses: a word of the names of objects that it does not take.
    hangs_after: a part of the name of an object, after which it takes and answers nothing until `go_on`.
  """

  def __init__(self):
    self._app = DomainDispatcherApplication(create_backend_app)
    self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
    self._server.daemon_threads = True
    self._lock, self._in_flight = threading.Lock(), 0
    self.changes: list[tuple[str, str]] = []
    self.has_changed_last = False
    self.ignores_conditions = False
    self.refuses: str | None = None
    self.hangs_after: str | None = None
    self._hung, self._goes_on = False, threading.Event()
    self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
    self._thread.start()
    # What an earlier server of this process had is kept by moto.
    with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")):
      self.changes.clear()

  @property
  def endpoint(self) -> str:
    return f"http://127.0.0.1:{self._server.server_port}"

  def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    change = (environ["REQUEST_METHOD"], environ["PATH_INFO"])
    if self.ignores_conditions:
      environ.pop("HTTP_IF_NONE_MATCH", None)
    if self.refuses and self.refuses in change[1] and change[0] != "GET":
      start_response("507 Insufficient Storage", [("Content-Length", "0")])
      return [b""]
    if self._hung:
      self._goes_on.wait()
      start_response("503 Service Unavailable", [("Content-Length", "0")])
      return [b""]
    with self._lock:
      self._in_flight += 1
      self.has_changed_last = change[0] not in ("GET", "HEAD")
      if self.has_changed_last:
        self.changes.append(change)
    try:
      return list(self._app(environ, start_response))
    finally:
      with self._lock:
        self._in_flight -= 1
        self._hung |= bool(change[0] == "PUT" and self.hangs_after and self.hangs_after in change[1])

  @property
  def is_hung(self) -> bool:
    return self._hung

  def go_on(self) -> None:
    self.hangs_after, self._hung = None, False
    self._goes_on.set()

  @property
  def is_idle(self) -> bool:
    with self._lock:
      return self._in_flight == 0

  def sent(self, *words: str) -> list[str]:
    """Returns the objects that were written whose names have these words, but for claims, in order."""
    names = [path for method, path in list(self.changes) if method == "PUT" and "/lease." not in path]
    return [name for name in names if all(word in name for word in words)]

  def close(self) -> None:
    self.go_on()
    self._server.shutdown()
    self._thread.join()
    self._server.server_close()


def files() -> Any:
  """Returns fsspec's driver, connected as the environment says."""
  return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


@pytest.fixture
def s3(monkeypatch, tmp_path):
  """Starts a server with a bucket, which processes find by their environment; mirrors are in tmp_path."""
  for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
    monkeypatch.delenv(name)
  server = S3()
  for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": server.endpoint}).items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("LM_JAX_MIRROR", str(tmp_path / "mirrors"))
  files().mkdir(BUCKET)
  yield server
  server.close()


def download(name: str, folder: Path) -> Path:
  """Copies a workdir out of the bucket, as the store's own tools would."""
  files().get(f"{BUCKET}/{name}/", f"{folder}/", recursive=True)
  return folder
