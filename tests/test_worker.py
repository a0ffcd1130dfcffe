"""What a worker says of a pack, and what it leaves in the runs: errors are those of the run that has them."""

import json
import threading
from pathlib import Path

import pytest
from processes import RUN, merged

from lm_jax import config as configs
from lm_jax import failures, loop, rundir, strict
from lm_jax.launch import worker
from lm_jax.rundir import RunDir


@pytest.fixture
def pack(tmp_path):
  """Returns three runs of one shape, described as a launcher does."""

  def described(seed: int) -> dict:
    config = configs.from_mapping(merged(RUN, seed=seed))
    return {"directory": str(tmp_path / str(seed)), "config": strict.to_dict(config)}

  return [described(seed) for seed in range(3)]


def runs(pack) -> list[RunDir]:
  return [RunDir(Path(cell["directory"])) for cell in pack]


def never() -> threading.Event:
  return loop.Stop()


def test_an_error_of_one_run_is_that_runs_alone(pack):
  done, broken, other = runs(pack)
  assert worker.run(pack[:1], never()) == [(rundir.DONE, None, None)]
  before = done.status()
  broken.path.mkdir()
  (broken.path / "task.json").write_text("no JSON")
  replies = worker.run(pack, never())
  assert [state for state, *_ in replies] == [rundir.DONE, rundir.FAILED, rundir.DONE]
  assert done.status() == before and other.is_done()
  _, error, kind = replies[1]
  assert kind == failures.CODE and error.startswith("JSONDecodeError: ") and "error.txt" in error
  assert broken.status()["state"] == rundir.FAILED and broken.status()["error"] == error
  assert "Traceback" in (broken.path / "error.txt").read_text()


def test_data_that_changed_is_told_in_a_line(pack):
  (run,) = runs(pack[:1])
  run.path.mkdir()
  (run.path / "task.json").write_text(json.dumps({"data_digest": "another"}))
  ((state, error, kind),) = worker.run(pack[:1], never())
  assert (state, kind) == (rundir.FAILED, failures.CONFIG)
  assert "the training data changed since the run began" in error
  assert not (run.path / "error.txt").exists()
  assert run.status()["error"] == error


def test_a_run_that_another_process_holds_is_not_written_to(pack):
  held, free, _ = runs(pack)
  with held.claim():
    replies = worker.run(pack[:2], never())
  assert [state for state, *_ in replies] == [rundir.BUSY, rundir.DONE]
  assert held.status() is None and free.is_done()


def test_an_error_of_all_is_written_where_nothing_is_done_and_nobody_is_at_work(pack):
  done, held, failed = runs(pack)
  worker.run(pack[:1], never())
  different = [cell | {"config": merged(cell["config"], train={"batch_size": 4})} for cell in pack[2:]]
  with held.claim():
    replies = worker.run([*pack[:2], *different], never())
  assert [state for state, *_ in replies] == [rundir.DONE, rundir.BUSY, rundir.FAILED]
  assert done.is_done() and held.status() is None
  assert failed.status()["kind"] == failures.CONFIG


def test_what_a_run_had_come_to_stays_told_when_it_fails(pack):
  (run,) = runs(pack[:1])
  stopping = pack[0] | {"config": merged(pack[0]["config"], runtime={"stop_at": 30})}
  assert worker.run([stopping], never()) == [(rundir.PAUSED, None, None)]
  (run.path / "task.json").write_text("no JSON")
  assert worker.run(pack[:1], never())[0][0] == rundir.FAILED
  assert (run.status()["step"], run.status()["num_steps"]) == (30, 60)
