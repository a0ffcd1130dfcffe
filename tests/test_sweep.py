"""Sweeps: their algebra, and what is left of one that is finished, stopped, killed or shared."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from processes import finish, lm_jax, start, status, sweep_tree, wait_until, write_config

from lm_jax import config as configs
from lm_jax import config_file, plan, records, rundir, scaling, sweep
from lm_jax.launch import study
from lm_jax.launch.progress import duration
from lm_jax.strict import ConfigError
from lm_jax.sweep import axis, chain, fixed, product, zipped

# --- combinators ----------------------------------------------------------------------------------

A, B = axis("model.d_model", [8, 16, 32]), axis("seed", [0, 1])


def test_product_varies_the_first_list_slowest():
  both = product(A, B)
  assert len(both) == len(A) * len(B)
  assert [(c["model.d_model"], c["seed"]) for c in both] == [
    (8, 0),
    (8, 1),
    (16, 0),
    (16, 1),
    (32, 0),
    (32, 1),
  ]
  assert product(A, B, axis("train.batch_size", [4])) == product(product(A, B), axis("train.batch_size", [4]))
  assert product() == [{}]
  assert product(A, []) == []


def test_chain_and_zipped():
  assert chain(A, B) == A + B
  assert chain() == []
  assert zipped(A, axis("seed", [5, 6, 7]))[2] == {"model.d_model": 32, "seed": 7}
  assert product(chain(A, A), B) == chain(product(A, B), product(A, B))
  with pytest.raises(ConfigError, match="zipped: lists of 2 and 3 overrides"):
    zipped(A, B)


def test_later_ones_win():
  assert product(axis("seed", [1]), axis("seed", [2])) == [{"seed": 2}]
  assert zipped(axis("seed", [1]), axis("seed", [2])) == [{"seed": 2}]


def test_fixed_flattens_groups():
  assert fixed(family="x", model={"d_model": 8, "deep": {"er": 1}}) == [
    {"family": "x", "model.d_model": 8, "model.deep.er": 1}
  ]


def test_combinators_leave_their_arguments_alone():
  one = axis("seed", [1])
  product(one, axis("model.d_model", [8]))
  assert one == [{"seed": 1}]


def test_arguments_of_a_config_file():
  assert sweep.arguments("", seeds=1, steps=10) == {"seeds": 1, "steps": 10}
  assert sweep.arguments("steps=5,seeds=3", seeds=1, steps=10) == {"seeds": 3, "steps": 5}
  assert sweep.arguments("smoke,corpus=a/b", smoke=False, corpus="") == {"smoke": True, "corpus": "a/b"}
  for wrong in ("steps", "steps=x", "steps=0", "smoke=1", "corpus", "corpse=a"):
    with pytest.raises(ConfigError, match=f"--config argument '{wrong}': (must be|unknown)"):
      sweep.arguments(wrong, steps=1, smoke=False, corpus="")


def test_cells_are_addressed_by_content():
  one = sweep.from_tree(sweep_tree(widths=(8, 16), seeds=(0, 1)))
  other = sweep.from_tree(sweep_tree(widths=(16, 8, 32), seeds=(1,)))
  ids = {(c.config.model.d_model, c.config.seed): c.cell_id for c in one.cells}
  assert len(set(ids.values())) == 4
  for cell in other.cells:
    if cell.config.model.d_model != 32:
      assert cell.cell_id == ids[cell.config.model.d_model, 1]
    assert cell.cell_id == configs.cell_id(cell.config)


def test_the_base_may_be_overridden_where_cells_say_nothing():
  tree = sweep_tree()
  changed = sweep.from_tree(tree, [("train.batch_size", "4"), ("study", "renamed"), ("base.seed", "3")][:2])
  assert changed.study == "renamed"
  assert [c.config.train.batch_size for c in changed.cells] == [4, 4]
  assert tree == sweep_tree()
  grouped = {"cells": [{"model": {"d_model": 8, "num_heads": 1}}]}
  with pytest.raises(ConfigError, match="the cells of this sweep set model"):
    sweep.from_tree(grouped, [("model.d_model", "4")])


# --- plan -----------------------------------------------------------------------------------------


def test_plan_adds_up():
  loaded = sweep.from_tree(sweep_tree(widths=(8, 16, 32), seeds=(0, 1)))
  result = plan.plan(loaded, workers=2, flops_per_second=1e9)
  assert len(result["cells"]) == 6
  for cell, row in zip(loaded.cells, result["cells"], strict=True):
    assert row["cell_id"] == cell.cell_id
    assert row["params_total"] == scaling.count_params(cell.config.model).total
    assert row["tokens"] == 60 * 8 * 11
  for total in ("tokens", "flops_exact"):
    assert result[total] == sum(row[total] for row in result["cells"])
  seconds = [row["seconds"] for row in result["cells"]]
  assert sum(seconds) / 2 <= result["seconds"] * (1 + 1e-9) < sum(seconds)
  assert plan.plan(loaded, 2, 2e9)["seconds"] == pytest.approx(result["seconds"] / 2)
  text = plan.table(result)
  assert all(row["cell_id"] in text for row in result["cells"])


def test_makespan():
  assert plan.makespan([5, 4, 3, 3], 1) == 15
  assert plan.makespan([3, 5, 3, 4], 2) == 8
  assert plan.makespan([5, 4], 8) == 5


def test_durations_for_a_person():
  assert [duration(s) for s in (None, 0.4, 59.6, 200, 7500)] == [
    "?",
    "0 s",
    "1 m 00 s",
    "3 m 20 s",
    "2 h 05 m",
  ]


# --- a sweep that is finished ---------------------------------------------------------------------


def run_sweep(folder: Path, tree, *words: str):
  return lm_jax(
    "sweep", f"--config={write_config(folder / 'sweep.py', tree)}", f"--workdir={folder / 'w'}", *words
  )


def cell_dirs(workdir: Path) -> list[Path]:
  return sorted((workdir / "cells").iterdir())


def times(folder: Path) -> dict[Path, int]:
  return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("checkpoints/**/*"))}


def assert_rows_are_unique(cell: Path) -> None:
  rows = records.read(cell / "records.jsonl")
  keys = [tuple(row[k] for k in ("step", "split", "metric", "n_shots", "prompt_id")) for row in rows]
  assert len(set(keys)) == len(keys)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """Returns the folder of a sweep of two sizes, its directory "w", and what it printed."""
  folder = tmp_path_factory.mktemp("sweep")
  done = run_sweep(folder, sweep_tree(), "--workers=2")
  assert done.returncode == 0, done.stderr
  return folder, done


def test_a_sweep_ends_in_its_report(finished):
  folder, done = finished
  workdir = folder / "w"
  assert done.stdout.splitlines()[-1] == f"report: {workdir / 'report' / 'index.html'}"
  assert "d8 L1" in done.stdout
  assert "d16 L1" in done.stdout
  for name in ("report/index.html", "records.parquet", "report/summary.json", "report/tables/cells.csv"):
    assert (workdir / name).stat().st_size > 0
  summary = json.loads((workdir / "report" / "summary.json").read_text())
  assert (summary["num_cells"], summary["num_finished"], summary["missing"]) == (2, 2, [])
  assert [size["label"] for size in summary["sizes"]] == ["d8 L1", "d16 L1"]
  listed = json.loads((workdir / "sweep.json").read_text())
  assert listed["study"] == "tiny"
  assert {c["cell_id"] for c in listed["cells"]} == {path.name for path in cell_dirs(workdir)}
  assert listed["versions"]["jax"]
  for cell in cell_dirs(workdir):
    assert status(cell)["state"] == rundir.DONE
    assert_rows_are_unique(cell)


def test_the_second_time_trains_nothing_and_says_so(finished):
  folder, first = finished
  before = times(folder / "w")
  again = run_sweep(folder, sweep_tree(), "--workers=2")
  assert again.returncode == 0
  assert again.stderr.strip() == "all 2 cells are done, nothing to train"
  assert again.stdout == first.stdout
  assert times(folder / "w") == before


def test_a_new_seed_trains_the_new_cells_only(finished, tmp_path):
  shutil.copytree(finished[0] / "w", tmp_path / "w")
  old, before = set(cell_dirs(tmp_path / "w")), times(tmp_path / "w")
  done = run_sweep(tmp_path, sweep_tree(seeds=(0, 1)), "--workers=1")
  assert done.returncode == 0, done.stderr
  new = set(cell_dirs(tmp_path / "w")) - old
  assert [status(cell)["state"] for cell in new] == [rundir.DONE] * 2
  assert {path: time for path, time in times(tmp_path / "w").items() if path in before} == before
  assert all(f"{cell.name} " in done.stderr for cell in new)
  assert not any(f"{cell.name} " in done.stderr for cell in old)
  # The sweep without the new seed still lists it: its results stand.
  study.write_sweep(config_file.load(write_config(tmp_path / "sweep.py", sweep_tree())), tmp_path / "w")
  assert len(study.statuses(tmp_path / "w")) == 4


# --- a sweep that is stopped ----------------------------------------------------------------------

NUM_STEPS = 2000
LONG = sweep_tree(train={"num_steps": NUM_STEPS}, runtime={"checkpoint_every": 50})


def saved_step(cell: Path) -> int:
  folder = cell / "checkpoints"
  return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0


def start_sweep(folder: Path, tree, workers: int):
  file = write_config(folder / "sweep.py", tree)
  return start(
    "sweep", f"--config={file}", f"--workdir={folder / 'w'}", f"--workers={workers}", start_new_session=True
  )


def wait_for_progress(process, workdir: Path, workers: int) -> list[int]:
  """Waits until as many cells have saved anew as there are workers; returns the workers' ids."""

  def cells() -> list[Path]:
    return cell_dirs(workdir) if (workdir / "cells").is_dir() else []

  before = {cell: saved_step(cell) for cell in cells()}
  wait_until(lambda: sum(saved_step(c) > before.get(c, 0) for c in cells()) == workers, process)
  return [status(cell)["pid"] for cell in cells() if status(cell)]


# How a sweep is stopped, the number of its workers, and its exit code.
STOPS: dict[str, tuple[Callable, int, int]] = {
  "Ctrl-C at a terminal": (lambda process: os.killpg(process.pid, signal.SIGINT), 2, 128 + signal.SIGINT),
  "Ctrl-C to it alone": (lambda process: process.send_signal(signal.SIGINT), 1, 128 + signal.SIGINT),
  "SIGTERM": (lambda process: process.send_signal(signal.SIGTERM), 1, 128 + signal.SIGTERM),
  "SIGKILL": (lambda process: process.kill(), 1, -signal.SIGKILL),
}


def test_stopped_in_every_way_it_goes_on_to_the_end(tmp_path):
  workdir = tmp_path / "w"
  for how, (stop, workers, code) in STOPS.items():
    process = start_sweep(tmp_path, LONG, workers)
    ids = wait_for_progress(process, workdir, workers)
    stop(process)
    done = finish(process)
    assert done.returncode == code, (how, done.stderr)
    assert "Traceback" not in done.stderr, how
    assert "failed" not in done.stderr, how
    # Nobody waits for the workers of a sweep that was killed; they end by themselves.
    wait_until(lambda ids=ids: not any(map(processes.is_alive, ids)))
    for cell in cell_dirs(workdir):
      left = status(cell)
      assert (left["state"], left["step"]) == (rundir.STOPPED, saved_step(cell)), how
      assert 0 < left["step"] < NUM_STEPS, how
    if code == 128 + signal.SIGINT:
      assert "the same command goes on from here" in done.stderr
  done = run_sweep(tmp_path, LONG, "--workers=2")
  assert done.returncode == 0, done.stderr
  for cell in cell_dirs(workdir):
    assert (status(cell)["state"], saved_step(cell)) == (rundir.DONE, NUM_STEPS)
    assert_rows_are_unique(cell)


def test_stopped_while_the_workers_are_still_starting(tmp_path):
  process = start_sweep(tmp_path, LONG, 2)
  wait_until(lambda: (tmp_path / "w" / "cells").is_dir(), process)
  process.send_signal(signal.SIGINT)
  done = finish(process)
  assert done.returncode == 128 + signal.SIGINT
  assert "Traceback" not in done.stderr
  left = [cell["status"] for cell in study.statuses(tmp_path / "w")]
  assert all(one is None or one["state"] == rundir.STOPPED for one in left)


def test_a_worker_that_is_killed_is_replaced_and_its_cell_goes_on(tmp_path):
  workdir = tmp_path / "w"
  process = start_sweep(tmp_path, LONG, 2)
  ids = wait_for_progress(process, workdir, 2)
  os.kill(ids[0], signal.SIGKILL)
  done = finish(process)
  killed, other = cell_dirs(workdir)
  assert done.returncode == 0, done.stderr
  assert f"its process was killed by SIGKILL; from the last checkpoint: {killed.name} " in done.stderr
  assert other.name not in done.stderr.split("from the last checkpoint: ")[1].splitlines()[0]
  assert [status(cell)["state"] for cell in (killed, other)] == [rundir.DONE] * 2
  assert json.loads((workdir / "report" / "summary.json").read_text())["num_finished"] == 2
  assert_rows_are_unique(killed)


# --- cells that go wrong, or are in other hands ---------------------------------------------------


def test_each_cell_has_an_outcome_of_its_own(tmp_path):
  """One is done, one diverges, and one is in the hands of another process (this one) for a while."""
  tree = sweep_tree(widths=(8, 16))
  tree["cells"].append(
    {"model.d_model": 8, "seed": 9, "optimizer.learning_rate": 1e30, "optimizer.clip_norm": None}
  )
  loaded = sweep.from_tree(tree)
  good, busy, bad = loaded.cells
  held = rundir.RunDir(study.cell_dir(tmp_path / "w", busy))
  with held.claim():
    process = start_sweep(tmp_path, tree, 1)
    told = []
    while not told or not told[-1].startswith("busy: "):
      told.append(process.stderr.readline())
      assert told[-1], told
    # The others did not wait for it.
    assert status(study.cell_dir(tmp_path / "w", good))["state"] == rundir.DONE
    assert status(study.cell_dir(tmp_path / "w", bad))["state"] == rundir.FAILED
    assert held.status() is None
  assert f"busy: {busy.cell_id} d16 L1 seed 0: " in told[-1]
  assert told[-1].endswith("another process is at work on it; waiting for it\n")
  done = finish(process)
  assert done.returncode == 1
  told = f"failed (diverged): {bad.cell_id} d8 L1 seed 9: gradient norm is nan at step 2; "
  assert told in done.stderr
  assert "last good checkpoint: " in done.stderr
  assert held.status()["state"] == rundir.DONE
  assert "report: " in done.stdout
  missing = json.loads((tmp_path / "w" / "report" / "summary.json").read_text())["missing"]
  assert {cell["cell_id"] for cell in missing} == {bad.cell_id}
  # It would diverge again: only who asks for that gets it.
  for words, runs in ((), False), (("--retry_failed",), True):
    before = status(study.cell_dir(tmp_path / "w", bad))["time"]
    again = run_sweep(tmp_path, tree, *words)
    assert again.returncode == 1
    assert told in again.stderr
    assert (status(study.cell_dir(tmp_path / "w", bad))["time"] > before) == runs
    assert ("the same again: --retry_failed" in again.stderr) != runs


def test_two_sweeps_at_once_share_the_work(tmp_path):
  both = [start_sweep(tmp_path, LONG, 1) for _ in range(2)]
  for done in [finish(process) for process in both]:
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    assert "Traceback" not in done.stderr
    # Each waited for what the other trained, and reports all of it.
    assert "are missing" not in done.stdout
  for cell in cell_dirs(tmp_path / "w"):
    assert status(cell)["state"] == rundir.DONE
    assert_rows_are_unique(cell)
    steps = [row["step"] for row in records.read(cell / "records.jsonl")]
    assert steps == sorted(steps)
