"""What is shown of runs: their states as the leases have them, the table at any width, and watching."""

import contextlib
import errno
import io
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from processes import RUN, finish, lm_jax, merged, start, status, sweep_tree, wait_until, write_config
from rich.console import Console

from lm_jax import rundir, sweep
from lm_jax.launch import statuses, study
from lm_jax.launch.progress import Progress
from lm_jax.launch.status_table import StatusTable, notes, status_line
from lm_jax.launch.statuses import LOST, WAITING, Watcher, totals
from lm_jax.rundir import DONE, FAILED, PRUNED, RUNNING, STOPPED, RunDir
from lm_jax.strict import ConfigError

FIELDS = {"step": 3, "num_steps": 60, "loss": 1.5, "tokens_per_s": 2e3, "eta_s": 75.0, "error": None}


def sweep_of(workdir: Path, widths=(8, 16, 32)) -> list[RunDir]:
  """Lists a sweep in a workdir and returns its runs, none of which has started."""
  loaded = sweep.from_tree(sweep_tree(widths=widths))
  study.write_sweep(loaded, workdir)
  return [RunDir(study.cell_dir(workdir, cell)) for cell in loaded.cells]


def written_by(run: RunDir, pid: int, state: str, host: str = "elsewhere", **fields) -> None:
  """Writes a status as another process would."""
  run.path.mkdir(parents=True, exist_ok=True)
  value = {"state": state, **FIELDS, **fields, "pid": pid, "host": host, "time": time.time()}
  rundir.write_json(run.path / "status.json", value)


def held_elsewhere(run: RunDir, age_s: float = 0.0, beat: int = 7) -> None:
  """Writes the lease of a process on another machine, whose last beat is so old by its clock."""
  run.path.mkdir(parents=True, exist_ok=True)
  own = {"token": "t", "host": "elsewhere", "pid": 77, "machine": "another", "beat": beat, "released": False,
         "time": time.time() - age_s}  # fmt: skip
  (run.path / "lease.1").write_text(json.dumps(own))


def states(workdir: Path) -> list[str]:
  return [statuses.state(row) for row in statuses.statuses(workdir)]


def drawn(rows, width: int, height: int = 60) -> list[str]:
  out = io.StringIO()
  console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
  console.print(StatusTable("tiny", rows))
  return [line.rstrip() for line in out.getvalue().splitlines()]


# --- states ---------------------------------------------------------------------------------------


def test_waiting_running_and_lost(tmp_path, capsys):
  waiting, running, died = sweep_of(tmp_path)
  for run in (running, died):
    with run.claim():
      run.write_status(RUNNING, **FIELDS)
  with running.claim():
    assert states(tmp_path) == [WAITING, RUNNING, LOST]
    study.show_status(tmp_path, watch=False, as_json=False)
  out, err = capsys.readouterr()
  lines = out.splitlines()
  assert lines[0].endswith("d8 L1 seed 0: waiting")
  assert lines[1].endswith(": running, step 3/60, loss 1.500, 2,000 tokens/s, 1 m 15 s left")
  assert lines[2].endswith(": lost, step 3/60, loss 1.500, 2,000 tokens/s")
  assert f":{os.getpid()}) died without a word" in lines[3] and "when the sweep is run again" in lines[3]
  assert err.startswith("3 cells: 1 running, 1 lost, 1 waiting; ")
  # Looking left nothing behind, and did not take the place of a process that wants to start.
  assert not waiting.path.exists()
  with died.claim():
    pass


def test_held_and_nothing_written_yet(tmp_path):
  """A process that compiles has a run already; what another left of it is no longer true."""
  fresh, again, other = sweep_of(tmp_path)
  written_by(again, 1, FAILED, error="out of memory", kind="out_of_memory")
  with fresh.claim(), again.claim(), other.claim():
    # One of a population has failed while its process goes on with the others.
    other.write_status(FAILED, error="loss is nan")
    rows = statuses.statuses(tmp_path)
  assert [statuses.state(row) for row in rows] == [RUNNING, RUNNING, FAILED]
  assert rows[0]["status"]["pid"] == rows[1]["status"]["pid"] == os.getpid()
  assert rows[1]["status"]["step"] == 3 and notes(rows[0]) == notes(rows[1]) == []
  assert notes(rows[2]) == ["loss is nan"]
  assert states(tmp_path) == [WAITING, FAILED, FAILED]


def test_a_process_on_another_machine_runs_until_it_releases(tmp_path, monkeypatch):
  monkeypatch.setattr(statuses, "SILENT_S", 0.3)
  (run,) = sweep_of(tmp_path, widths=(8,))
  written_by(run, 77, RUNNING)
  held_elsewhere(run)
  watcher = Watcher(tmp_path)
  (row,) = watcher.read()
  assert statuses.state(row) == RUNNING and notes(row) == []
  time.sleep(0.4)
  (row,) = watcher.read()
  assert row["status"]["silent_by"] == "watch" and notes(row) == ["silent for 0 s"]
  # One that beats lives, whatever its clock says.
  held_elsewhere(run, age_s=180, beat=8)
  (row,) = watcher.read()
  assert notes(row) == []
  # Who looks for the first time has only that clock.
  (row,) = statuses.statuses(tmp_path)
  assert notes(row) == ["last heard of 3 m 00 s ago, by its machine's clock"]
  assert statuses.state(row) == RUNNING


@pytest.mark.parametrize("left, why", [('{"state": "runn', "cannot be read as JSON"),
                                       ('{"state": "running", "loss": NaN}', "NaN is no JSON")])  # fmt: skip
def test_a_status_that_cannot_be_read_is_told_of_and_hides_no_other(left, why, tmp_path):
  run, *others = sweep_of(tmp_path)
  written_by(others[0], 77, DONE)
  run.path.mkdir(parents=True)
  (run.path / "status.json").write_text(left)
  rows = statuses.statuses(tmp_path)
  assert [statuses.state(row) for row in rows[:2]] == [LOST, DONE]
  (note,) = notes(rows[0])
  assert f"{run.path}/status.json" in note and why in note and "goes on from its checkpoints" in note
  # Whoever takes it up is seen.
  with run.claim():
    assert statuses.state(statuses.statuses(tmp_path)[0]) == RUNNING


def test_a_folder_that_is_no_sweep_is_named(tmp_path):
  run, *_ = sweep_of(tmp_path)
  run.path.mkdir(parents=True)
  with pytest.raises(ConfigError, match="holds neither a sweep nor a run"):
    statuses.statuses(run.path)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", ".."])
def test_a_cell_is_a_folder_of_the_workdir(name, tmp_path):
  sweep_of(tmp_path)
  listed = json.loads((tmp_path / "sweep.json").read_text())
  listed["cells"][0]["cell_id"] = name
  (tmp_path / "sweep.json").write_text(json.dumps(listed))
  with pytest.raises(ConfigError, match="which is no cell's"):
    statuses.statuses(tmp_path)


def test_what_is_read_again_is_what_is_there(tmp_path):
  """Files are read once as long as they stay, and cells that are new in a sweep are seen."""
  runs = sweep_of(tmp_path, widths=(8,))
  watcher = Watcher(tmp_path)
  assert [statuses.state(row) for row in watcher.read()] == [WAITING]
  for step in range(1, 50):
    written_by(runs[0], 1, STOPPED, step=step)
    assert watcher.read()[0]["status"]["step"] == step
  sweep_of(tmp_path, widths=(8, 16))
  written_by(runs[0], 1, DONE)
  assert [statuses.state(row) for row in watcher.read()] == [DONE, WAITING]
  (runs[0].path / "status.json").unlink()
  assert [statuses.state(row) for row in watcher.read()] == [WAITING, WAITING]


def test_what_cannot_be_read_now_is_as_it_was(tmp_path, capsys):
  """A link to itself gives the OSError that a shared file system in trouble gives."""
  known, unknown = sweep_of(tmp_path, widths=(8, 16))
  for run in (known, unknown):
    run.path.mkdir(parents=True)
  (unknown.path / "status.json").symlink_to("status.json")
  cells = sweep.from_tree(sweep_tree(widths=(8, 16))).cells
  with Progress(cells, lambda cell: study.cell_dir(tmp_path, cell)) as progress:
    written_by(known, 1, FAILED, error="loss is nan")
    progress.update()
    assert "failed" in capsys.readouterr().err
    looker = statuses.Looker()
    before = looker.status(known.path)
    (known.path / "status.json").unlink()
    (known.path / "status.json").symlink_to("status.json")
    assert looker.status(known.path) == before
  assert "failed" not in capsys.readouterr().err  # told once
  with pytest.raises(OSError, match="symbolic links"):
    statuses.Looker().status(unknown.path)
  (known.path / "status.json").unlink()
  assert looker.status(known.path) is None


def test_a_file_that_is_stale_for_now_is_read_again(tmp_path, monkeypatch):
  (run,) = sweep_of(tmp_path, widths=(8,))
  written_by(run, 1, DONE)
  read, stale = Path.read_text, [OSError(errno.ESTALE, "Stale file handle")] * 2

  def read_text(path, *args, **options):
    if stale:
      raise stale.pop()
    return read(path, *args, **options)

  monkeypatch.setattr(Path, "read_text", read_text)
  assert run.is_done() and not stale
  stale += [OSError(errno.ESTALE, "Stale file handle")] * 100
  with pytest.raises(OSError, match="Stale"):
    run.status()
  stale[:] = [OSError(errno.EACCES, "Permission denied")]
  with pytest.raises(OSError, match="Permission"):
    run.status()


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_whether_a_failure_is_new_is_told_by_no_clock(ahead_s, tmp_path, capsys):
  """Of a node whose clock is wrong."""
  (run,) = sweep_of(tmp_path, widths=(8,))
  cells = sweep.from_tree(sweep_tree(widths=(8,))).cells

  def failed(error: str, pid: int) -> None:
    written_by(run, pid, FAILED, error=error)
    status = json.loads((run.path / "status.json").read_text())
    rundir.write_json(run.path / "status.json", status | {"time": time.time() + ahead_s})

  failed("before the launch", 1)
  with Progress(cells, lambda _: run.path) as progress:
    progress.update()
    assert "failed" not in capsys.readouterr().err
    failed("in the launch", 2)
  told = capsys.readouterr().err
  assert "in the launch" in told and "before the launch" not in told


# --- totals ---------------------------------------------------------------------------------------


def row(name: str, state: str | None = None, *, flops: float = 100.0, **fields) -> statuses.Row:
  known = FIELDS | {"host": "node-17", "pid": 4242} | fields
  return {"cell_id": name, "label": "d16 L2", "family": "decoder", "seed": 0, "flops_exact": flops,
          "status": state and {"state": state, **known}}  # fmt: skip


def test_totals():
  rows = [
    row("a", DONE), row("b", RUNNING, step=30, eta_s=10.0), row("c", RUNNING, step=15, eta_s=90.0),
    row("d", FAILED, step=6, flops=50.0), row("e"),
  ]  # fmt: skip
  whole = totals(rows)
  assert list(whole.counts.items()) == [(RUNNING, 2), (FAILED, 1), (WAITING, 1), (DONE, 1)]
  assert (whole.flops, whole.flops_done) == (450.0, 100 + 50 + 25 + 5)
  assert whole.fraction == 180 / 450
  # 50 FLOPs in 10 s and 75 in 90 s; what failed is not waited for.
  assert whole.left_s == pytest.approx(max(90.0, (50 + 75 + 100) / (50 / 10 + 75 / 90)))
  assert totals([row("e")]).left_s is None
  without = [{k: v for k, v in one.items() if k != "flops_exact"} for one in rows]
  assert totals(without).flops is None and totals(without).fraction == pytest.approx(
    (1 + 0.5 + 0.25 + 0.1) / 5
  )


def test_what_a_stop_rule_ended_is_whole_and_not_waited_for():
  rows = [row("a", RUNNING, step=30, eta_s=10.0), row("b", PRUNED, step=15, error="halving: ..."), row("c")]
  whole = totals(rows)
  assert list(whole.counts.items()) == [(RUNNING, 1), (WAITING, 1), (PRUNED, 1)]
  assert (whole.flops, whole.flops_done) == (225.0, 75.0)
  assert whole.fraction == pytest.approx(75 / 225)
  assert whole.left_s == pytest.approx(150 / 5)
  assert totals([row("b", PRUNED, step=15)]).fraction == 1.0
  assert notes(rows[1]) == ["halving: ..."]


# --- words and the table --------------------------------------------------------------------------

ERROR = "out of memory (asked for 3.1GiB) on cpu; what helps: a smaller config.train.batch_size"
ERROR += "\nsecond\n\nthird\nfourth"
MANY = [
  row("0a" * 6, DONE), row("1b" * 6), row("2c" * 6, FAILED, error=ERROR, kind="out_of_memory"),
  row("3d" * 6, RUNNING), row("4e" * 6, LOST), row("5f" * 6, STOPPED),
  row("6a" * 6, RUNNING, step=59_999, num_steps=60_000, tokens_per_s=1.25e6, silent_s=200.0,
      silent_by="watch"),
]  # fmt: skip


def test_an_error_stands_below_its_cell(tmp_path, capsys):
  runs = sweep_of(tmp_path, widths=(8,))
  written_by(runs[0], 1, FAILED, error=ERROR, kind="out_of_memory")
  study.show_status(tmp_path, watch=False, as_json=False)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].endswith("d8 L1 seed 0: failed, step 3/60, loss 1.500, 2,000 tokens/s")
  assert lines[1].startswith("    out of memory (asked for 3.1GiB)")
  assert lines[2:] == ["    second", "    third", "    (1 lines more)"]


def test_the_kind_of_an_error_is_told_once():
  assert notes(row("a", FAILED, error="loss is nan", kind="diverged")) == ["diverged: loss is nan"]
  assert notes(row("a", FAILED, error="Out of memory on cpu", kind="out_of_memory")) == [
    "Out of memory on cpu"
  ]
  assert notes(row("a", FAILED, error="loss is nan")) == ["loss is nan"]


@pytest.mark.parametrize("width", [72, 80, 160])
def test_the_table_fits(width):
  lines = drawn(MANY, width)
  text = "\n".join(lines)
  assert max(map(len, lines)) <= width and "…" not in text
  assert lines[0].startswith("tiny  2 running, 1 failed, 1 lost, 1 stopped, 1 waiting, 1 done")
  assert any(" FLOPs, about " in line for line in lines[1:3])
  order = [line.split()[0] for line in lines if re.match(r"\w\w\w\w\w\w", line)]
  assert [one[:2] for one in order] == ["3d", "6a", "2c", "4e", "5f", "1b", "0a"]
  assert "59999/60000" in text and "1.2M" in text and "1 m 15 s" in text
  assert "4242" in text and "node-17" in text
  assert "silent for 3 m 20 s" in text and "  out of memory (asked for 3.1GiB)" in text
  assert "what helps: a smaller config.train.batch_size" in " ".join(text.split())
  assert "family" not in text


def test_a_family_is_a_column_where_there_are_several():
  other = row("7b" * 6, RUNNING) | {"family": "depth control"}
  assert "depth control" in "\n".join(drawn([*MANY, other], 80))


def test_what_has_no_room_is_counted():
  lines = drawn(MANY, 80, height=12)
  assert len(lines) < 12
  assert re.fullmatch(r"and \d cells: .*1 waiting, 1 done", lines[-1])
  counted = int(lines[-1].split()[1])
  assert sum(bool(re.match(r"(\w)(\w)\1\2", line)) for line in lines) == len(MANY) - counted


def test_names_do_not_steer_the_terminal():
  evil = row("a" * 12, FAILED, error="\x1b[2Jgone\x07") | {
    "label": "\x1b]0;title\x07",
    "family": "[red]x[/red]",
  }
  plain = row("b" * 12, RUNNING)
  out = "\n".join([*drawn([evil, plain], 160), status_line(evil), *notes(evil)])
  assert "\x07" not in out and "\x1b" not in out
  assert "[red]x[/red]" in out


# --- watching real processes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  tree = merged(RUN, train={"num_steps": 100_000}, runtime={"checkpoint_every": 50})
  return folder, f"--config={write_config(folder / 'run.py', tree)}", f"--workdir={folder / 'w'}"


def test_a_run_that_is_killed_is_lost_and_watching_it_ends_on_interrupt(long_run):
  folder, config, workdir = long_run
  run = folder / "w"
  process = start("train", config, workdir, "--quiet")
  wait_until(lambda: status(run).get("step", 0) > 100, process)
  leader, follower = os.openpty()
  with contextlib.closing(os.fdopen(leader, "rb", buffering=0)) as screen:
    watching = start("status", workdir, "--watch", stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while f":{process.pid}".encode() not in shown:
      shown += os.read(screen.fileno(), 4096)
    assert b"1 running" in shown
    process.kill()
    finish(process)
    while b"lost" not in shown:
      shown += os.read(screen.fileno(), 4096)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 128 + signal.SIGINT
    with contextlib.suppress(OSError):  # the end of a terminal without a process
      while more := os.read(screen.fileno(), 4096):
        shown += more
  assert b"Traceback" not in shown
  done = lm_jax("status", workdir, "--json")
  (cell,) = json.loads(done.stdout)["cells"]
  assert (done.returncode, cell["status"]["state"], cell["status"]["pid"]) == (0, LOST, process.pid)
  assert status(run)["state"] == RUNNING  # looking wrote nothing
  again = start("train", config, workdir, "--quiet")
  try:
    wait_until(lambda: statuses.state(statuses.statuses(run)[0]) == RUNNING, again)
  finally:
    again.send_signal(signal.SIGTERM)
    finish(again)
  assert statuses.state(statuses.statuses(run)[0]) == STOPPED


def test_watching_a_sweep_ends_with_it(tmp_path):
  tree = sweep_tree(train={"num_steps": 400})
  file = write_config(tmp_path / "sweep.py", tree)
  workdir = f"--workdir={tmp_path / 'w'}"
  study.write_sweep(sweep.from_tree(tree), tmp_path / "w")
  lines, objects = start("status", workdir, "--watch"), start("status", workdir, "--watch", "--json")
  training = lm_jax("sweep", f"--config={file}", workdir, "--workers=1")
  assert training.returncode == 0, training.stderr
  plain, told = finish(lines), finish(objects)
  assert plain.returncode == told.returncode == 0
  seen = [json.loads(line) for line in told.stdout.splitlines()]
  assert [one["totals"]["counts"] for one in (seen[0], seen[-1])] == [{WAITING: 2}, {DONE: 2}]
  assert told.stderr == "" and seen[-1]["totals"]["fraction"] == 1.0 and seen[-1]["study"] == "tiny"
  assert len(seen) > 2
  cells = [cell["cell_id"] for cell in seen[0]["cells"]]
  for cell in cells:
    words = [re.search(r": (\w+)", line)[1] for line in plain.stdout.splitlines() if line.startswith(cell)]
    assert (words[0], words[-1]) == (WAITING, DONE)
  assert plain.stderr.startswith("2 cells: 2 done; ")


def test_watching_what_is_done_prints_it_once(tmp_path, capsys):
  (run,) = sweep_of(tmp_path, widths=(8,))
  written_by(run, 1, DONE, step=60)
  assert study.show_status(tmp_path, watch=True, as_json=False) == 0
  out, err = capsys.readouterr()
  assert re.fullmatch(r"\w+ d8 L1 seed 0: done, step 60/60, loss 1.500, 2,000 tokens/s\n", out)
  assert err.startswith("1 cell: 1 done; ")
  assert study.show_status(run.path.parent.parent, watch=False, as_json=True) == 0
  shown = json.loads(capsys.readouterr().out)
  assert [cell["status"]["state"] for cell in shown["cells"]] == [DONE]
