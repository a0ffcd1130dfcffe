"""What a run in an object store leaves there, and what is refused: by a real server, without training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import s3fs
from object_store import BUCKET, files
from object_store import s3 as s3
from processes import ROOT
from store_hosts import race

from lm_jax import cli, lease, mirror, mirrored_run, objects, rundir
from lm_jax.lease import Busy, Lost
from lm_jax.objects import Store, StoreError
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.ticker import Ticker

URL = f"s3://{BUCKET}/studies/one"
CELL = "cells/0123456789ab"


@pytest.fixture
def host(monkeypatch, tmp_path, s3):
  """Returns what makes this process one of a host of that name, with a mirror of its own."""
  # So that nothing changes by itself, neither by a thread that an earlier test started.
  monkeypatch.setattr(lease, "BEAT_S", 1000.0)
  monkeypatch.setattr(mirrored_run, "_SENDER", Ticker("mirror sends", lambda: 1000.0, mirrored_run.Held.turn))

  def become(name: str) -> RunDir:
    monkeypatch.setenv("LM_JAX_MIRROR", str(tmp_path / name))
    return RunDir(mirror.at(URL).folder / CELL)

  return become


def write(run: RunDir, **texts: str) -> None:
  """Writes files of a run, named by words with "__" for "/"."""
  for name, text in texts.items():
    path = run.path / name.replace("__", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save(run: RunDir, step: int, text: str = "weights") -> None:
  """Leaves a checkpoint as Orbax does, by a rename."""
  folder = run.checkpoints / f"{step}.orbax-checkpoint-tmp"
  for name in ("state/d/array", "position/metadata"):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(f"{text} {step}")
  folder.rename(run.checkpoints / str(step))


def objects_of(run: str = CELL) -> set[str]:
  """Returns the objects of a run, but for its claims."""
  root = f"{BUCKET}/studies/one/{run}/"
  return {name.removeprefix(root) for name in files().find(root) if "/lease." not in name}


def fetched(run: RunDir) -> set[str]:
  return set(mirror.of(run.path).unit(run.path).files())


# --- claims ---------------------------------------------------------------------------------------


def test_of_many_processes_on_many_hosts_that_race_for_one_cell_one_is_inside(s3, tmp_path):
  assert race(URL, tmp_path) == [(0, "")] * 6
  (claim,) = files().find(f"{BUCKET}/studies/one/cells/a")
  assert int(claim.rpartition(".")[2]) >= 12


def test_a_host_that_is_silent_is_followed_and_stops(host, monkeypatch):
  here = host("a").claim()
  write(host("a"), **{"records.jsonl": "1\n"})
  here.flush()
  there = host("b")
  with pytest.raises(Busy, match="is at work on it, or was: after 60 s of silence"):
    there.claim()
  monkeypatch.setattr(lease, "SILENCE_S", 0.0)
  with there.claim() as follower:
    assert (there.path / "records.jsonl").read_text() == "1\n"
    write(host("a"), **{"records.jsonl": "1\n2 of the one before\n"})
    with pytest.raises(Lost, match="took it over"):
      here.flush()
    with pytest.raises(Lost):
      here.check()
    write(there, **{"records.jsonl": "1\n2\n"})
    follower.flush()
  here.release()
  assert files().cat(f"{BUCKET}/studies/one/{CELL}/records.jsonl") == b"1\n2\n"


def test_a_process_that_died_in_this_mirror_is_followed_at_once(host, tmp_path):
  body = "import os, sys\nfrom pathlib import Path\nfrom lm_jax import rundir\n"
  body += "held = rundir.RunDir(Path(sys.argv[1])).claim()\nos._exit(0)\n"
  run = host("a")
  done = subprocess.run(
    [sys.executable, "-c", body, str(run.path)], env=os.environ | {"PYTHONPATH": str(ROOT)},
    timeout=120, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert not lease.holder(run.path).released and not lease.is_held(run.path)
  with pytest.raises(Busy):  # of another host that is not known
    host("b").claim()
  with host("a").claim() as held:
    assert held.check() is None and lease.is_held(run.path)


# --- files ----------------------------------------------------------------------------------------


def test_a_run_is_there_on_another_host_as_it_was_left(host):
  run = host("a")
  with run.claim():
    write(run, **{"config.json": "{}", "records.jsonl": "1\n", "tb__events": "e", "report__index.html": "r"})
    write(run, **{".hidden.json.1": "", "checkpoints__30.orbax-checkpoint-tmp__x": "", "error.txt": ""})
    save(run, 10), save(run, 20)
  names = {"config.json", "records.jsonl", "tb/events", "error.txt"}
  saved = {f"checkpoints/20/{name}" for name in ("state/d/array", "position/metadata")}
  assert objects_of() == names | saved  # the newest checkpoint is enough
  other = host("b")
  with other.claim():
    assert fetched(other) == names | saved
    assert (other.checkpoints / "20/state/d/array").read_text() == "weights 20"
    save(other, 30)
    write(other, **{"records.jsonl": "1\n2\n"})
    (other.path / "error.txt").unlink()
  assert objects_of() == {*names - {"error.txt"}, *saved, *(n.replace("/20/", "/30/") for n in saved)}
  # What the first host has is of before, also what it never sent.
  save(run, 21)
  with run.claim():
    assert fetched(run) == objects_of() and (run.path / "records.jsonl").read_text() == "1\n2\n"


def test_what_did_not_change_is_not_sent_again(host, s3):
  run = host("a")
  with run.claim() as held:
    write(run, **{"records.jsonl": "1\n", "status.json": "{}"})
    save(run, 10)
    held.flush()
    before = len(s3.changes)
    held.flush()
    assert len(s3.changes) == before
    write(run, **{"status.json": '{"state": "running"}'})
    held.flush()
    assert [path.rpartition("/")[2] for _, path in s3.changes[before:]] == ["status.json"]
    before = len(s3.changes)
  with run.claim():
    pass
  assert not [path for _, path in s3.changes[before:] if "/lease." not in path]


def test_a_status_is_sent_last_and_records_before_the_checkpoint_that_counts_on_them(host, s3):
  run = host("a")
  with run.claim():
    write(run, **{"status.json": "{}", "records.jsonl": "1\n"})
    save(run, 10)
  sent = [path.partition(f"{CELL}/")[2] for path in s3.sent(CELL)]
  assert sent == [
    "records.jsonl",
    "checkpoints/10/state/d/array",
    "checkpoints/10/position/metadata",
    "status.json",
  ]


def test_half_a_checkpoint_is_never_taken_for_a_whole_one(host, s3, monkeypatch):
  monkeypatch.setattr(mirrored_run, "PATIENCE_S", 0.5)
  run = host("a")
  held = run.claim()
  write(run, **{"records.jsonl": "1\n"})
  save(run, 10)
  held.flush()
  save(run, 20)
  (run.checkpoints / "10/position/metadata").unlink()  # as it is removed once there are newer ones
  s3.refuses = "20/position/metadata"
  with pytest.raises(StoreError):
    held.flush()
  held.release()
  s3.refuses = None
  assert "checkpoints/20/state/d/array" in objects_of() and "checkpoints/10/position/metadata" in objects_of()
  other = host("b")
  with other.claim():
    assert [path.name for path in other.checkpoints.iterdir()] == ["10"]
    assert not any("checkpoints/20" in name for name in objects_of())


def test_a_damaged_checkpoint_that_is_given_up_is_given_up_in_the_store_first(host, s3):
  run = host("a")
  with run.claim() as held:
    write(run, **{"records.jsonl": "1\n2\n"})
    save(run, 10)
    held.flush()
    save(run, 20)
    held.flush()
    (run.checkpoints / "20").rename(run.checkpoints / "damaged-20")
    write(run, **{"records.jsonl": "1\n"})
    before = len(s3.changes)
    held.flush()
    changes = [(method, path.partition(f"{CELL}/")[2]) for method, path in s3.changes[before:]]
    assert (
      changes[0] == ("DELETE", "checkpoints/20/position/metadata") and ("PUT", "records.jsonl") in changes
    )
    save(run, 20, "others")
  assert files().cat(f"{BUCKET}/studies/one/{CELL}/checkpoints/20/state/d/array") == b"others 20"


def test_what_another_wrote_before_it_knew_that_it_was_followed_is_undone(host):
  run = host("a")
  with run.claim() as held:
    write(run, **{"records.jsonl": "1\n", "task.json": "{}"})
    held.flush()
    files().pipe(f"{BUCKET}/studies/one/{CELL}/records.jsonl", b"of the one before\n")
    files().pipe(f"{BUCKET}/studies/one/{CELL}/checkpoints/5/position/metadata", b"of the one before\n")
    write(run, **{"task.json": "{ }"})
    held.flush()
  assert files().cat(f"{BUCKET}/studies/one/{CELL}/records.jsonl") == b"1\n"
  assert objects_of() == {"records.jsonl", "task.json"}


def test_a_store_that_is_away_for_a_while_ends_nothing_and_one_that_stays_away_does(host, s3, monkeypatch):
  monkeypatch.setattr(mirrored_run, "PATIENCE_S", 0.5)
  run = host("a")
  held = run.claim()
  s3.refuses = "records.jsonl"
  write(run, **{"records.jsonl": "1\n"})
  held.turn()
  held.check()
  s3.refuses = None
  held.turn()
  assert objects_of() == {"records.jsonl"}
  s3.refuses = "records.jsonl"
  write(run, **{"records.jsonl": "1\n2\n"})
  with pytest.raises(StoreError, match=f"^s3://{BUCKET}/studies/one: ") as caught:
    held.flush()
  with pytest.raises(StoreError):
    held.check()
  assert caught.value.kind == "disk" and "\n" not in str(caught.value)
  held.release()


# --- readers --------------------------------------------------------------------------------------


def test_who_reads_gets_the_small_files_that_changed_and_leaves_a_held_run_alone(host, capsys):
  run = host("a")
  write(run, **{"status.json": json.dumps({"state": rundir.STOPPED, "step": 10})})
  with run.claim() as held:
    assert run.status() is None  # which was never sent
    write(run, **{"status.json": json.dumps({"state": rundir.STOPPED, "step": 10}), "records.jsonl": "1\n"})
    save(run, 10)
    held.flush()
    reader = host("c")
    folder = mirror.open_workdir(f"{URL}/", writes=False)
    assert folder == mirror.of(reader.path).folder
    assert f"{URL}: mirrored in {folder}, 3 files fetched" in capsys.readouterr().err
    assert fetched(reader) == {"status.json", "records.jsonl"} and reader.saved_step() == 10
    assert lease.is_held(reader.path)
    assert mirror.of(folder).refresh() == 0
    host("a")
    write(run, **{"status.json": "{}"})  # not sent yet
    assert mirror.of(run.path).refresh() == 0 and run.status() == {}
  host("c")
  assert mirror.of(folder).refresh() == 2  # status and claim
  assert reader.status() == {} and not lease.is_held(reader.path)


def test_two_launches_lose_no_cells_of_each_other(host, tmp_path):
  def add(name: str) -> None:
    host(name)
    mirrored = mirror.at(URL)
    with mirrored.sweep_alone():
      path = mirrored.folder / "sweep.json"
      before = json.loads(path.read_text()) if path.exists() else []
      path.write_text(json.dumps([*before, name]))

  for name in ("a", "b", "a", "c"):
    add(name)
  assert json.loads(files().cat(f"{BUCKET}/studies/one/sweep.json")) == ["a", "b", "a", "c"]


def test_names_that_lead_elsewhere_are_not_fetched(host, tmp_path):
  for name in ("cells/../../../evil", f"{CELL}/../../../evil", f"{CELL}/checkpoints/1/../../../../evil"):
    files().pipe(f"{BUCKET}/studies/one/{name}", b"evil")
  run = host("a")
  assert mirror.at(URL).refresh() == 0
  with run.claim():
    assert fetched(run) == set()
  assert not list(tmp_path.rglob("evil"))


# --- refusals -------------------------------------------------------------------------------------


def refused(capsys, *words: str) -> str:
  """Gives a command that must end with exit code 2 and one line; returns that."""
  with pytest.raises(SystemExit) as ended:
    cli.main(list(words))
  told = capsys.readouterr()
  assert ended.value.code == 2 and told.out == "" and told.err.count("\n") == 1, told
  return told.err


def test_a_store_that_overwrites_what_it_is_asked_to_create_is_refused(capsys, host, s3):
  s3.ignores_conditions = True
  host("a")
  with pytest.raises(ConfigError, match=r"cannot create an object only .* it overwrote one"):
    mirror.open_workdir(URL, writes=True)
  assert files().find(BUCKET) == []


class Careless(s3fs.S3FileSystem):
  """As drivers were that knew no conditions, and took what they did not know."""

  async def _pipe_file(self, path, data, **_):
    return await super()._pipe_file(path, data)


class Honest(s3fs.S3FileSystem):
  async def _pipe_file(self, path, data, mode="overwrite", **_):
    if mode == "create":
      raise NotImplementedError("no conditions here")
    return await super()._pipe_file(path, data)


@pytest.mark.parametrize(("driver", "told"), [(Careless, "it overwrote one"), (Honest, "no conditions here")])
def test_a_driver_that_cannot_create_is_refused(s3, driver, told):
  name = driver.__name__.lower()
  fsspec.register_implementation(name, driver, clobber=True)
  with pytest.raises(ConfigError, match=f"cannot create an object only where there is none.*{told}"):
    Store(f"{name}://{BUCKET}/folder").require_creation()
  assert files().find(BUCKET) == []


@pytest.mark.parametrize(
  ("url", "told"),
  [
    (
      "s3://me:hunter2@bucket/x",
      "--workdir=s3://***@bucket/x: holds a password; leave it to the environment",
    ),
    ("file:///tmp/x", "--workdir=file:///tmp/x: is no object store: give the folder without file://"),
    ("memory://x/y", "is of one process only"),
    ("s3://bucket", "--workdir=s3://bucket: must be s3://BUCKET/FOLDER"),
    ("s3://bucket/../x", "must be s3://BUCKET/FOLDER"),
    ("s4://bucket/x", "--workdir=s4://bucket/x: unknown kind of store; allowed: s3, s3a, gs, gcs"),
    (f"s3://no-{BUCKET}/x", f"--workdir=s3://no-{BUCKET}/x: The specified bucket does not exist"),
  ],
)
def test_a_url_that_is_none_is_refused_in_a_line(capsys, host, url, told):
  host("a")
  line = refused(capsys, "status", f"--workdir={url}")
  assert told in line and "hunter2" not in line


def test_a_driver_that_is_missing_is_named_with_its_extra(capsys, host, monkeypatch):
  host("a")
  # By names that fsspec has not opened yet.
  for protocol, driver, extra in (("s3a", "s3fs", "s3"), ("gcs", "gcsfs", "gcs")):
    monkeypatch.setitem(sys.modules, driver, None)
    line = refused(capsys, "status", f"--workdir={protocol}://bucket/x")
    assert f"{protocol}://bucket/x: its driver is not installed; pip install 'lm_jax[{extra}]'" in line
    with pytest.raises(ConfigError, match=f"^--workdir={protocol}://bucket/x: its driver is not installed; "):
      mirror.open_workdir(f"{protocol}://bucket/x", writes=True)


@pytest.mark.parametrize(
  ("endpoint", "told"),
  [("http://127.0.0.1:9", "Could not connect to the endpoint URL"), ("http://me:hunter2@127.0.0.1:9", "")],
)
def test_an_endpoint_that_is_down_is_told_in_a_line(capsys, host, monkeypatch, endpoint, told):
  monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
  host("a")
  line = refused(capsys, "status", f"--workdir={URL}")
  assert f"--workdir={URL}: {told}" in line and "hunter2" not in line


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (("classify", "--text=x"), "must be a folder for lm-jax classify; URLs are for train, sweep, status,"),
    (("evaluate", "--model=x", "--tasks=association"), "must be a folder for lm-jax evaluate"),
    (("status",), "holds neither a sweep nor a run"),
  ],
)
def test_commands_that_cannot_work_there_say_so(capsys, host, words, told):
  host("a")
  with pytest.raises(SystemExit) as ended:
    cli.main([*words, f"--workdir={URL}"])
  assert ended.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]


def test_one_spelling_of_a_url_has_one_mirror(host):
  host("a")
  assert objects.checked(f"{URL}//") == URL
  assert mirror.at(f"{URL}/").folder == mirror.at(URL).folder != mirror.at(f"{URL}/x").folder
  assert mirror.of(Path("/")) is None
