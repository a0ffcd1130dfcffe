"""The live page: a real server, a sweep that trains while it is watched, and a browser that shows it."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic_study as synthetic
from processes import finish, lm_jax, start, sweep_tree, wait_until, write_config

from lm_jax import records, sweep
from lm_jax.launch import study
from lm_jax.launch.serve_curves import Curves
from lm_jax.launch.statuses import Watcher

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

EVIL = "<img src=x onerror=alert(1)>"


# --- the parts ------------------------------------------------------------------------------------


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


_WITH_PIPES = """
import os, sys
for there, here in ((13, int(sys.argv[1])), (14, int(sys.argv[2])), (3, 13), (4, 14)):
  os.dup2(here, there)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
  """Chromium, driven through pipes (https://chromedevtools.github.io/devtools-protocol)."""

  def __init__(self, profile: Path):
    from_us, to_it = os.pipe()
    from_it, to_us = os.pipe()
    # The protocol's ends are its descriptors 3 and 4.
    command = [
      sys.executable, "-c", _WITH_PIPES, str(from_us), str(to_us), CHROMIUM, "--headless", "--no-sandbox",
      "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1200,900", "about:blank",
    ]  # fmt: skip
    self._process = subprocess.Popen(
      command, pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(from_us), os.close(to_us)
    self._to, self._from = os.fdopen(to_it, "wb", buffering=0), os.fdopen(from_it, "rb")
    self._number, self._session, self._rest = 0, {}, b""
    self.errors: list[str] = []
    pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
    session = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
    self._session = {"sessionId": session["sessionId"]}
    for domain in ("Page", "Runtime", "Log"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params):
    self._number += 1
    message = {"id": self._number, "method": method, "params": params, **self._session}
    self._to.write(json.dumps(message).encode() + b"\0")
    while True:
      answer = self._next()
      if answer.get("id") == self._number:
        assert "error" not in answer, answer
        return answer["result"]
      # A dialog would be the work of a name.
      if answer["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
        self.errors.append(json.dumps(answer["params"]))

  def _next(self):
    while b"\0" not in self._rest:
      more = self._from.read1(1 << 16)
      assert more, "the browser ended"
      self._rest += more
    one, _, self._rest = self._rest.partition(b"\0")
    return json.loads(one)

  def open(self, url: str) -> None:
    self.call("Page.navigate", url=url)

  def value(self, expression: str):
    result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def wait_for(self, expression: str):
    return wait_until(lambda: self.value(expression))

  def resize(self, width: int, *, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    self.call("Emulation.setDeviceMetricsOverride", **size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    self.call("Emulation.setEmulatedMedia", features=[scheme])

  def close(self) -> None:
    self._to.close()
    self._process.kill()
    self._process.wait()
    self._from.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    opened = Browser(Path(profile))
    yield opened
    opened.close()


LOOKED = "Number(document.documentElement?.dataset.looks || 0)"
ROWS = """[...document.querySelectorAll("#cells tbody tr:not(.note)")].map(
  (r) => [r.dataset.id, r.dataset.state, r.querySelector(".step").textContent])"""
POINTS = 'Number(document.getElementById("loss").dataset.points)'


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


# --- what is answered -----------------------------------------------------------------------------


def test_status_and_totals(address, ladder):
  told = asked_json(*address, "/status.json")
  assert told["study"] == "rule induction ladder"
  assert told["counts"] == {"failed": 1, "lost": 1, "waiting": 1, "done": 18}
  assert told["report"] is True and 0 < told["fraction"] < 1 and told["left_s"] is None
  cells = {cell["id"]: cell for cell in told["cells"]}
  assert len(cells) == 21 and cells["rule-d48L2-1"]["state"] == "lost"
  assert cells["rule-d16L2-2"]["notes"] == ["FloatingPointError: loss is not finite at step 200"]
  assert str(ladder.parent) not in json.dumps(told)


def test_headers(address):
  all_points(lambda cursor: asked_json(*address, f"/curves.json?since={cursor}"))  # until all is read
  for path in ("/", "/serve.css", "/serve.js", "/status.json", "/curves.json", "/report/", "/nothing"):
    status, headers, body = ask(*address, path)
    assert status == (404 if path == "/nothing" else 200)
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert int(headers["Content-Length"]) == len(body) > 0
    policy = headers["Content-Security-Policy"]
    if path == "/report/":  # it has scripts of its own, and so no part in this origin
      assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    else:
      assert policy.startswith("default-src 'self'; ") and "unsafe" not in policy
    head = ask(*address, path, "HEAD")
    assert (head[0], head[2], head[1]["Content-Length"]) == (status, b"", headers["Content-Length"])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_can_be_written(method, address, ladder):
  before = {path: path.stat().st_mtime_ns for path in ladder.rglob("*") if path.is_file()}
  for path in ("/", "/status.json", "/report/index.html", "/report/new.txt"):
    status, headers, _ = ask(*address, path, method, "text")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
  assert {path: path.stat().st_mtime_ns for path in ladder.rglob("*") if path.is_file()} == before


def test_the_report_is_there(address, ladder):
  report = ladder / "report"
  assert ask(*address, "/report/")[2] == (report / "index.html").read_bytes()
  assert ask(*address, "/report/a%20b.txt")[2] == b"a b"
  status, headers, body = ask(*address, "/report/tables/cells.csv")
  assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
  assert body == (report / "tables" / "cells.csv").read_bytes()
  status, headers, _ = ask(*address, "/report")
  assert (status, headers["Location"]) == (301, "/report/")


NOT_SHOWN = [
  "/report/../sweep.json", "/report/..%2fsweep.json", "/report/%2e%2e/sweep.json",
  "/report/..%252fsweep.json", "/report//etc/passwd", "/report/%2fetc%2fpasswd",
  "/report/tables/../../sweep.json", "/report/..\\sweep.json", "/report/tables/../index.html",
  "/report/out.txt", "/report/up/secret.txt", "/report/circle", "/report/index.html%00", "/report/%00",
  "/report/%ff%fe", "/report/tables", "/report/tables/", "/report/index.html/x", "/report/" + "a" * 5000,
  "/sweep.json", "/cells/rule-d8L1-0/records.jsonl", "/../secret.txt", "//etc/passwd", "/serve.py",
  "/..%2fserve.py",
]  # fmt: skip


@pytest.mark.parametrize("path", NOT_SHOWN, ids=range(len(NOT_SHOWN)))
def test_files_that_are_not_shown(path, address):
  status, _, body = ask(*address, path)
  assert status == 404
  assert body in (b"no such page\n", b"no such file in the report\n")


def test_a_report_that_is_a_link_to_elsewhere_is_not_shown(tmp_path):
  synthetic.two_ways(tmp_path / "w")
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "index.html").write_text("secret")
  (tmp_path / "w" / "report").symlink_to(tmp_path / "elsewhere")
  with served(tmp_path / "w") as (host, port, _):
    assert ask(host, port, "/report/")[0] == ask(host, port, "/report/index.html")[0] == 404


def test_only_by_the_name_of_this_machine(address):
  host, port = address
  for name in (
    "localhost",
    "127.0.0.1",
    "[::1]",
    "LOCALHOST",
    "localhost:1",
    f"127.0.0.1:{port}",
    "[::1]:80",
  ):
    assert ask(host, port, "/status.json", Host=name)[0] == 200, name
  others = ("elsewhere.example", f"elsewhere.example:{port}", "127.0.0.1.example", "localhost.example:80")
  for name in (*others, "", "[::1].example", "10.0.0.1"):
    status, _, body = ask(host, port, "/status.json", Host=name)
    assert (status, body) == (403, b"this server is for its own machine\n"), name
  with socket.create_connection((host, port)) as connection, connection.makefile("rb") as answer:
    connection.sendall(b"GET /status.json HTTP/1.0\r\n\r\n")
    assert b" 403 " in answer.readline()


# --- curves ---------------------------------------------------------------------------------------


def all_points(ask_since) -> tuple[dict, int]:
  """Returns {cell: points} and the number of answers they came in."""
  cursor, found, answers = "", {}, 0
  while True:
    answer = ask_since(cursor)
    cursor, answers = answer["cursor"], answers + 1
    assert answer["fresh"] == (answers == 1)
    for name, told in answer["cells"].items():
      before = found.setdefault(name, {"train": [], "test": []})
      for kind in before:
        before[kind] = [] if told["reset"] else before[kind]
        before[kind] += told[kind]
    if not answer["more"]:
      return found, answers


def expected(path: Path, kind: str) -> list[list]:
  rows = records.read(path) if path.exists() else []
  if kind == "train":
    chosen = [r for r in rows if r["metric"] == "loss" and r["split"] == "train"]
    return [[r["tokens"], r["flops_exact"], r["value"]] for r in chosen]
  chosen = [r for r in rows if r["split"] == "test" and r["prompt_id"] == "window"]
  return [
    [r["tokens"], r["flops_exact"], r["task"], r["metric"], None, r["value"], r["chance"]] for r in chosen
  ]


def test_every_point_is_told_once(address, ladder):
  found, _ = all_points(lambda cursor: asked_json(*address, f"/curves.json?since={cursor}"))
  assert len(found) == 20
  for name, told in found.items():
    for kind, points in told.items():
      assert points == expected(ladder / "cells" / name / "records.jsonl", kind), (name, kind)


def test_answers_are_bounded_and_what_is_new_follows(tmp_path, monkeypatch):
  monkeypatch.setattr("lm_jax.launch.serve_curves._POINTS", 50)
  monkeypatch.setattr("lm_jax.launch.serve_curves._BYTES", 100_000)
  monkeypatch.setattr("lm_jax.launch.serve_curves._LOOK_EVERY_S", 0.0)
  synthetic.realistic(tmp_path)
  curves, cells = Curves(), Watcher(tmp_path).directories()
  sizes = []

  def since(cursor: str):
    answer = json.loads(json.dumps(curves.since(cursor, cells)))
    sizes.append(sum(len(told["train"]) + len(told["test"]) for told in answer["cells"].values()))
    return answer

  found, answers = all_points(since)
  assert answers > 10 and max(sizes) == 50
  for row, directory in cells:
    told = found.get(row["cell_id"], {"train": [], "test": []})
    assert told["train"] == expected(directory / "records.jsonl", "train")
  cursor = curves.since("", cells)["cursor"]
  while (answer := curves.since(cursor, cells))["more"]:
    cursor = answer["cursor"]
  cursor = answer["cursor"]
  assert curves.since(cursor, cells)["cells"] == {}
  # A line that is being written, in two parts.
  row, directory = cells[0]
  path = directory / "records.jsonl"
  line = path.read_text().splitlines()[-1].replace('"value": ', '"value": 7')
  with path.open("a") as f:
    f.write(line[:100])
  assert curves.since(cursor, cells)["cells"] == {}
  with path.open("a") as f:
    f.write(line[100:] + "\n")
  answer = curves.since(cursor, cells)
  assert list(answer["cells"]) == [row["cell_id"]]
  assert answer["cells"][row["cell_id"]]["train"] == expected(path, "train")[-1:]
  # Another server knows nothing of this one's numbers.
  assert Curves().since(answer["cursor"], cells)["fresh"] is True


@pytest.mark.parametrize("grown", [False, True], ids=["shorter", "grown past where it was"])
def test_a_file_that_was_cut_back_is_told_anew(grown, tmp_path, monkeypatch):
  monkeypatch.setattr("lm_jax.launch.serve_curves._LOOK_EVERY_S", 0.0)
  cell = synthetic.cell("d8 L1", 1000)
  path = tmp_path / "cells" / cell["cell_id"] / "records.jsonl"
  losses = [synthetic.row(cell, "loss", 2.0 - i / 100, step=i + 1, split="train") for i in range(40)]
  synthetic.write_cell(path.parent, cell, losses)
  synthetic.write_sweep(tmp_path, [cell])
  curves, cells = Curves(), Watcher(tmp_path).directories()
  answer = curves.since("", cells)
  assert len(answer["cells"][cell["cell_id"]]["train"]) == 40
  records.truncate(path, sum(map(len, path.read_bytes().splitlines(keepends=True)[:10])))
  rest = [synthetic.row(cell, "loss", 1.0, step=i + 1, split="train") for i in range(10, 60 if grown else 12)]
  records.append(path, rest)
  told = curves.since(answer["cursor"], cells)["cells"][cell["cell_id"]]
  assert told["reset"] is True
  assert told["train"] == expected(path, "train") and len(told["train"]) == (60 if grown else 12)
  # Who comes only now hears the same.
  late = curves.since("", cells)["cells"][cell["cell_id"]]
  assert late["train"] == told["train"]


@pytest.mark.parametrize("line", ["{", "3", '{"value": 1}', "[]", "x" * 2_000_000])
def test_records_that_are_none_are_told(line, tmp_path):
  cell = synthetic.cell("d8 L1", 1000)
  path = tmp_path / "cells" / cell["cell_id"] / "records.jsonl"
  synthetic.write_cell(path.parent, cell, [])
  path.write_text(line + "\n")
  synthetic.write_sweep(tmp_path, [cell])
  answer = Curves().since("", Watcher(tmp_path).directories())
  assert answer["cells"] == {} and not answer["more"]
  assert re.match(
    r"records.jsonl h(olds a line that is no record|as a line of more)", *answer["problems"].values()
  )


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(number, ladder):
  with served(ladder) as (host, port, process), contextlib.closing(socket.create_connection((host, port))):
    # Also while a browser keeps a connection open.
    assert ask(host, port, "/status.json")[0] == 200
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "lm-jax: the page is no longer served\n")


def test_ports_and_hosts(ladder):
  with served(ladder) as (_, taken, _):
    done = lm_jax("serve", f"--workdir={ladder}", f"--port={taken}")
    assert (done.returncode, done.stderr) == (2, f"lm-jax: --port={taken}: Address already in use\n")
  # Without a port: the usual one or the next that is free.
  with (
    served(ladder, "--host=127.0.0.1") as (_, first, _),
    served(ladder, "--host=localhost") as (_, next_, process),
  ):
    assert 8651 <= first < next_ < 8751
    process.send_signal(signal.SIGINT)
    assert f"lm-jax: port 8651 is taken, this is {next_}\n" in process.communicate(timeout=60)[1]
  with served(ladder, "--host=0.0.0.0", "--port=0") as (_, port, process):
    assert ask("127.0.0.1", port, "/status.json", Host="a-machine.example")[0] == 200
    process.send_signal(signal.SIGINT)
    assert "whoever reaches 0.0.0.0 can read this sweep" in process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (["--port=70000"], "--port=70000: must be in [0, 65535]"),
    (["--port=x"], "--port=x: must be an integer"),
    (["--host=192.0.2.1", "--port=0"], "--host=192.0.2.1: Cannot assign requested address"),
    (["--workdir=/"], "--workdir=/: holds neither a sweep nor a run"),
  ],
)
def test_bad_input_is_one_line(words, told, ladder):
  done = lm_jax("serve", f"--workdir={ladder}", *words)
  assert (done.returncode, done.stdout, done.stderr) == (2, "", f"lm-jax: {told}\n")


# --- in the browser -------------------------------------------------------------------------------


@needs_browser
def test_a_sweep_is_watched_while_it_trains(tmp_path, browser):
  tree = sweep_tree(
    widths=(8, 16), train={"num_steps": 4000}, runtime={"log_every": 10, "steps_per_dispatch": 10}
  )
  workdir = tmp_path / "w"
  file = write_config(tmp_path / "sweep.py", tree)
  study.write_sweep(sweep.from_tree(tree), workdir)
  with served(workdir) as (host, port, server):
    browser.open(f"http://{host}:{port}/")
    browser.wait_for(f"{LOOKED} > 0")
    assert [state for _, state, _ in browser.value(ROWS)] == ["waiting", "waiting"]
    assert browser.value(POINTS) == 0
    training = start("sweep", f"--config={file}", f"--workdir={workdir}", "--workers=1", "--quiet")
    try:
      running = (
        '[...document.querySelectorAll("#cells tr[data-state=running] .step")].map((c) => c.textContent)[0]'
      )
      step = wait_until(lambda: browser.value(running), training)
      points = wait_until(lambda: browser.value(POINTS), training)
      wait_until(lambda: browser.value(running) not in (step, None), training)
      wait_until(lambda: browser.value(POINTS) > points, training)
    finally:
      done = finish(training)
    assert done.returncode == 0, done.stderr
    browser.wait_for(f"{ROWS}.every((r) => r[1] === 'done' && r[2].startsWith('4,000 / 4,000'))")
    browser.wait_for(f"{POINTS} === 800")
    seen = browser.value("""({
      percent: document.getElementById("percent").textContent,
      left: document.getElementById("left").textContent,
      report: document.getElementById("report").hidden, test: {...document.getElementById("test").dataset},
      label: document.getElementById("loss").getAttribute("aria-label")})""")
    assert (seen["percent"], seen["left"], seen["test"]["marks"]) == ("100%", "all cells are done", "2")
    assert seen["label"] == "Training loss (nats/token) against Training tokens: 2 curves of 800 points"
    browser.wait_for('document.getElementById("report").hidden === false')
    # The server goes away, and comes back as another process.
    server.send_signal(signal.SIGINT)
    server.wait(60)
    browser.wait_for('document.getElementById("away").textContent.startsWith("The server has not answered")')
    assert browser.errors and all("ERR_CONNECTION" in error for error in browser.errors)
    with served(workdir, f"--port={port}"):
      browser.wait_for(f'document.getElementById("away").hidden && {POINTS} === 800')


@needs_browser
def test_sorted_filtered_and_drawn_as_asked(address, browser):
  browser.resize(1200)
  browser.open(f"http://{address[0]}:{address[1]}/")
  browser.wait_for(f"{LOOKED} > 0")
  states = [state for _, state, _ in browser.value(ROWS)]
  assert states == ["failed", "lost", "waiting"] + ["done"] * 18
  notes = browser.value('[...document.querySelectorAll("#cells tr.note")].map((r) => r.textContent)')
  assert (
    notes[0] == "FloatingPointError: loss is not finite at step 200" and "died without a word" in notes[1]
  )
  click = """(selector, text) => [...document.querySelectorAll(selector)].find(
    (b) => b.textContent === text).click()"""
  sizes = '[...document.querySelectorAll("#cells td.size")].map((c) => c.textContent)'
  browser.value(f'({click})("th button", "Size")')
  ascending = browser.value(sizes)
  assert list(dict.fromkeys(ascending)) == [
    "d8 L1",
    "d8 L2",
    "d16 L2",
    "d32 L2",
    "d64 L1",
    "d48 L2",
    "d64 L2",
  ]
  browser.value(f'({click})("th button", "Size")')
  assert browser.value(sizes)[0] == "d64 L2"
  assert browser.value('document.querySelector("th[aria-sort]").getAttribute("aria-sort")') == "descending"
  browser.value(f'({click})("#chips button", "1 lost")')
  assert [name for name, *_ in browser.value(ROWS)] == ["rule-d48L2-1"]
  assert browser.value(POINTS) > 700
  choose = """(id, value) => { const e = document.getElementById(id); e.value = value;
    e.dispatchEvent(new Event("change")); }"""
  label = 'document.getElementById("{}").getAttribute("aria-label")'
  browser.value(f'({choose})("loss-x", "flops")')
  assert browser.value(label.format("loss")).startswith(
    "Training loss (nats/token) against Training FLOPs: 20 "
  )
  assert browser.value(label.format("test")) == "Accuracy against Parameters: 20 cells"
  browser.value(f'({choose})("metric-x", "tokens")')
  # Nine evaluations of a cell that is done; four and six of those that are not.
  assert browser.value(label.format("test")).startswith("Accuracy against Training tokens: 20 curves of ")
  for value in ("nll", "exact_match"):
    key = json.dumps(json.dumps(["rule_induction", value, None], separators=(",", ":")))
    browser.value(f'({choose})("metric", {key})')
  assert browser.value(label.format("test")).startswith("Exact match against")
  assert browser.errors == []


@needs_browser
@pytest.mark.parametrize("name", [EVIL, "</script><script>alert(1)</script>", "Ω" * 300])
def test_names_do_no_harm(name, tmp_path, browser):
  cells = [synthetic.cell(name, 1000, family=name), synthetic.cell("d8 L1", 3000, family="other", seed=1)]
  for i, cell in enumerate(cells):
    cell["cell_id"] = f"c{i}"
    rows = synthetic.few_shot_rows(cell | {"task": name}, 0.4, np.random.default_rng(0))
    state = {"state": "failed", "error": name} if i else {}
    synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows, **state)
  synthetic.write_sweep(tmp_path, cells, study=name)
  (tmp_path / "report").mkdir()
  (tmp_path / "report" / "index.html").write_text("<script>top.location = '/evil'; parent.alert(1)</script>")
  with served(tmp_path) as (host, port, _):
    browser.resize(420)
    browser.open(f"http://{host}:{port}/")
    browser.wait_for(f"{LOOKED} > 1")
    seen = browser.value("""({
      title: document.getElementById("study").textContent, images: document.images.length,
      scripts: document.scripts.length, size: document.querySelector("td.size").textContent,
      note: document.querySelector("tr.note").textContent,
      wide: document.documentElement.scrollWidth - document.documentElement.clientWidth})""")
    assert (seen["title"], seen["note"], seen["images"], seen["scripts"]) == (name, name, 0, 4)
    assert seen["wide"] <= 0
    assert browser.errors == []


@needs_browser
def test_a_report_is_shown_in_an_origin_of_its_own(tmp_path, ladder, browser):
  workdir = tmp_path / "w"
  shutil.copytree(ladder, workdir, symlinks=True)
  with served(workdir) as (host, port, _):
    url = f"http://{host}:{port}/report/"
    browser.open(url)
    # Its own scripts run and draw, and its pictures are there.
    browser.wait_for('document.querySelectorAll(".plot .js-line, .plot canvas, .plot svg").length > 0')
    assert browser.value("self.origin") == "null"
    assert browser.value('fetch("/status.json").then(() => "read", () => "refused")') == "refused"


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_and_draws(width, dark, address, browser):
  browser.resize(width, dark=dark)
  browser.open(f"http://{address[0]}:{address[1]}/")
  browser.wait_for(f"{LOOKED} > 0")
  time.sleep(0.5)
  seen = browser.value("""({
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    page: getComputedStyle(document.body).backgroundColor,
    colors: [...document.querySelectorAll(".plot canvas")].map((c) => new Set(
      new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size)})""")
  assert seen["wide"] <= 0
  assert min(seen["colors"]) > 20
  assert seen["page"] == ("rgb(20, 21, 24)" if dark else "rgb(251, 251, 250)")
  assert browser.errors == []
