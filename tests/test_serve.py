"""The live page: what a real server answers, and what it does not."""

import contextlib
import json
import re
import signal
import socket
from pathlib import Path

import pytest
import synthetic_study as synthetic
from processes import lm_jax
from served import address as address
from served import ask, asked_json, served
from served import ladder as ladder

from lm_jax import records
from lm_jax.launch.serve_curves import Curves
from lm_jax.launch.statuses import Watcher

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
