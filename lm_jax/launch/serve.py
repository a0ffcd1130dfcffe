"""`lm-jax serve`: a page that shows a workdir as it grows, for a browser on this machine.

Nothing can be changed through it, and nothing of a workdir is run: names and numbers reach the page as JSON,
and a report, which has scripts of its own, is shown in an origin of its own (the sandbox of
https://www.w3.org/TR/CSP3/#directive-sandbox).
"""

import errno
import ipaddress
import json
import shutil
import signal
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lm_jax.launch import status_table
from lm_jax.launch.serve_curves import Curves
from lm_jax.launch.statuses import Row, Watcher, state, totals
from lm_jax.strict import ConfigError

DEFAULT_PORT, _PORTS = 8651, 100
_HERE = Path(__file__).parent
_LOOK_EVERY_S = 1.0
# A connection on which nothing is asked any more is closed.
_IDLE_S = 60.0
_NOTES = 3

_TYPES = {
  ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json",
  ".csv": "text/csv", ".txt": "text/plain", ".md": "text/plain", ".tex": "text/plain",
  ".png": "image/png", ".svg": "image/svg+xml", ".pdf": "application/pdf",
}  # fmt: skip
_PAGE = {
  "/": "serve.html",
  "/serve.css": "serve.css",
  **{f"/{name}": name for name in ("serve.js", "serve_charts.js", "serve_plot.js", "serve_table.js")},
}
_POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# A report names its own scripts by their hashes; whatever it runs can ask nothing of this server.
_REPORT_POLICY = (
  "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
  "style-src 'unsafe-inline'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'"
)


def serve(workdir: Path, host: str, port: int | None) -> int:
  """Shows a workdir until Ctrl-C or SIGTERM; returns the exit code."""
  server = _bind(workdir, host, port)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  with server:
    if not server.is_loopback:
      print(f"lm-jax: whoever reaches {host} can read this sweep", file=sys.stderr)
    print(server.url, flush=True)
    try:
      server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
      print("lm-jax: the page is no longer served", file=sys.stderr)
  return 0


def _bind(workdir: Path, host: str, port: int | None) -> "Server":
  view = View(workdir)
  view.statuses()  # what is no sweep is said now
  ports = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS) if port is None else (port,)
  for candidate in ports:
    try:
      server = Server(view, host, candidate)
    except socket.gaierror as error:
      raise ConfigError(f"--host={host}: no address of this machine ({error.strerror})") from None
    except OSError as error:
      if error.errno == errno.EADDRINUSE and port is None:
        continue
      name = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
      raise ConfigError(f"--{name}={host if name == 'host' else port}: {error.strerror}") from None
    if port is None and candidate != DEFAULT_PORT:
      print(f"lm-jax: port {DEFAULT_PORT} is taken, this is {candidate}", file=sys.stderr)
    return server
  raise ConfigError(f"--port: {ports[0]} to {ports[-1]} are all taken; give another, or 0 for any")


# --- what is shown --------------------------------------------------------------------------------


class View:
  """A workdir as the page asks for it; looked at once for all who ask at the same time."""

  def __init__(self, workdir: Path):
    self._watcher, self._curves = Watcher(workdir), Curves()
    self._lock, self._next_look, self._statuses = threading.Lock(), 0.0, b""
    self.report = workdir / "report"

  def statuses(self) -> bytes:
    with self._lock:
      if time.monotonic() >= self._next_look:
        self._statuses = _encoded(self._read())
        self._next_look = time.monotonic() + _LOOK_EVERY_S
      return self._statuses

  def _read(self) -> dict[str, Any]:
    rows = self._watcher.read()
    whole = totals(rows)
    return {
      "study": self._watcher.study, "workdir": self._watcher.workdir.resolve().name,
      "counts": whole.counts, "flops": whole.flops, "flops_done": whole.flops_done,
      "fraction": whole.fraction, "left_s": whole.left_s, "report": (self.report / "index.html").is_file(),
      "cells": [_shown(row) for row in rows],
    }  # fmt: skip

  def curves(self, cursor: str) -> bytes:
    with self._lock:
      cells = self._watcher.directories()
    return _encoded(self._curves.since(cursor, cells))

  def report_file(self, path: str) -> Path | None:
    """Returns a file of the report by its path as in a URL, None if there is none inside the report."""
    try:
      name = urllib.parse.unquote(path, errors="strict") or "index.html"
      root = self.report.resolve(strict=True)
      file = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # not there; NUL bytes or no UTF-8; links in a circle
      return None
    inside = root.is_relative_to(self._watcher.workdir.resolve()) and file.is_relative_to(root)
    return file if inside and file.is_file() and ".." not in Path(name).parts else None


def _shown(row: Row) -> dict[str, Any]:
  status = row["status"] or {}
  wanted = ("step", "num_steps", "loss", "tokens_per_s", "eta_s")
  return {
    "id": row["cell_id"], "label": row["label"], "family": row.get("family"), "seed": row["seed"],
    "params": row.get("params_total"), "state": state(row), "who": status_table.who(row),
    "notes": status_table.notes(row)[:_NOTES], **{name: status.get(name) for name in wanted},
  }  # fmt: skip


def _encoded(value: Any) -> bytes:
  return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


# --- the server -----------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
  """Listens at once; port 0 takes any that is free."""

  daemon_threads = True

  def __init__(self, view: View, host: str, port: int):
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    self.address_family, address = found[0][0], found[0][4]
    self.view, self.host = view, host
    self.is_loopback = ipaddress.ip_address(address[0]).is_loopback
    self.page = {route: (_HERE / name).read_bytes() for route, name in _PAGE.items()}
    super().__init__(address, _Handler)

  def server_bind(self) -> None:
    # HTTPServer's own asks a name server what this machine is called.
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = self.server_address[:2]

  def handle_error(self, request: Any, client_address: Any) -> None:
    if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # a browser that went away
      super().handle_error(request, client_address)

  @property
  def url(self) -> str:
    host = f"[{self.host}]" if ":" in self.host else self.host
    return f"http://{host}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
  server: Server
  protocol_version, server_version, sys_version = "HTTP/1.1", "lm-jax", ""
  timeout = _IDLE_S

  def do_GET(self) -> None:
    self._answer()

  def do_HEAD(self) -> None:
    self._answer()

  def __getattr__(self, name: str) -> Any:
    if name.startswith("do_"):  # any other method
      return self._refuse_method
    raise AttributeError(name)

  def _refuse_method(self) -> None:
    self._say(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", Allow="GET, HEAD")

  def _answer(self) -> None:
    if not self._is_meant():
      self._say(HTTPStatus.FORBIDDEN, "this server is for its own machine")
      return
    path, _, query = self.path.partition("?")
    try:
      if path in self.server.page:
        self._send(self.server.page[path], Path(_PAGE[path]).suffix)
      elif path == "/favicon.ico":  # browsers ask for it
        self._send(b"", ".txt", HTTPStatus.NO_CONTENT)
      elif path == "/status.json":
        self._send(self.server.view.statuses(), ".json")
      elif path == "/curves.json":
        cursor = urllib.parse.parse_qs(query, max_num_fields=8).get("since", [""])[0]
        self._send(self.server.view.curves(cursor), ".json")
      elif path == "/report":
        self._say(HTTPStatus.MOVED_PERMANENTLY, "it is a folder", Location="/report/")
      elif path.startswith("/report/"):
        self._send_report(path.removeprefix("/report/"))
      else:
        self._say(HTTPStatus.NOT_FOUND, "no such page")
    except ConnectionError:  # it went away
      self.close_connection = True
    except (ValueError, KeyError, OSError) as error:
      # Files that no longer are what they were; the page shows why.
      self._say(HTTPStatus.INTERNAL_SERVER_ERROR, " ".join(str(error).split()))

  def _is_meant(self) -> bool:
    """Whether this machine was asked by its own name.

    A page from elsewhere whose name was made to lead here (DNS rebinding) could read the answers otherwise.
    """
    if not self.server.is_loopback:
      return True
    given = self.headers.get_all("Host") or []
    name = given[0].rsplit(":", 1)[0] if given and not given[0].endswith("]") else "".join(given)
    return len(given) == 1 and name.lower() in ("localhost", "127.0.0.1", "[::1]", self.server.host)

  def _send_report(self, path: str) -> None:
    file = self.server.view.report_file(path)
    if file is None:
      self._say(HTTPStatus.NOT_FOUND, "no such file in the report")
      return
    with file.open("rb") as f:
      size = f.seek(0, 2)
      f.seek(0)
      self._start(HTTPStatus.OK, file.suffix, size, {"Content-Security-Policy": _REPORT_POLICY})
      if self.command != "HEAD":
        shutil.copyfileobj(f, self.wfile)

  def _say(self, status: HTTPStatus, text: str, **headers: str) -> None:
    # What came with a request that is refused was not read, and must not be taken for the next one.
    self.close_connection = True
    self._send(f"{text}\n".encode(), ".txt", status, headers | {"Connection": "close"})

  def _send(
    self, body: bytes, suffix: str, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
  ) -> None:
    own = {"Content-Security-Policy": _POLICY, "Cross-Origin-Resource-Policy": "same-origin"}
    self._start(status, suffix, len(body), own | (headers or {}))
    if self.command != "HEAD":
      self.wfile.write(body)

  def _start(self, status: HTTPStatus, suffix: str, size: int, headers: dict[str, str]) -> None:
    self.send_response(status)
    kind = _TYPES.get(suffix, "application/octet-stream")
    always = {
      "Content-Type": kind + ("; charset=utf-8" if kind.startswith("text/") else ""),
      "Content-Length": str(size),
      "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
    }  # fmt: skip
    for name, value in (always | headers).items():
      self.send_header(name, value)
    self.end_headers()

  def log_message(self, *_: Any) -> None:
    pass
