"""What a launch makes of what comes back: sent again, tried apart, waited for, or final."""

from pathlib import Path

import pytest
from processes import sweep_tree

from lm_jax import failures, rundir, sweep
from lm_jax.launch import queue
from lm_jax.launch.queue import MOST_DEATHS, Queue
from lm_jax.rundir import RunDir

A, B, C = sweep.from_tree(sweep_tree(widths=(8,), seeds=(0, 1, 2))).cells
DONE = (rundir.DONE, None, None)


@pytest.fixture
def directory_of(tmp_path):
  def of(cell) -> Path:
    return tmp_path / cell.cell_id

  for cell in (A, B, C):
    of(cell).mkdir()
  return of


def is_at(directory_of, cell, step: int, state: str = rundir.RUNNING) -> None:
  RunDir(directory_of(cell)).write_status(state, step=step, num_steps=60, loss=1.0, error=None)


def saved_at(directory_of, cell, step: int) -> None:
  (RunDir(directory_of(cell)).checkpoints / str(step)).mkdir(parents=True)


def test_packs_are_given_out_in_order_and_answers_are_outcomes(directory_of):
  q = Queue([(A, B), (C,)], directory_of)
  assert q.next() == (A, B)
  assert [q.take(), q.take(), q.take()] == [(A, B), (C,), None]
  assert not q.is_settled
  q.answered((A, B), [DONE, (rundir.FAILED, "loss is nan", failures.DIVERGED)])
  q.answered((C,), [(rundir.STOPPED, None, None)])
  assert q.is_settled
  assert [tuple(o)[1:] for o in q.outcomes] == [
    DONE, (rundir.FAILED, "loss is nan", failures.DIVERGED), (rundir.STOPPED, None, None)
  ]  # fmt: skip


def test_a_pack_that_died_goes_on_without_what_is_done(directory_of, capsys):
  q = Queue([(A, B, C)], directory_of)
  is_at(directory_of, A, 60, rundir.DONE)
  q.died(q.take(), "its process was killed by SIGKILL")
  assert q.take() == (B, C)
  assert [o.cell for o in q.outcomes] == [A]
  told = capsys.readouterr().err
  assert told.startswith("its process was killed by SIGKILL; from the last checkpoint: ")
  assert B.cell_id in told
  assert A.cell_id not in told


def test_one_that_kills_its_process_is_set_apart_and_fails_in_the_end(directory_of):
  """A comes further every time; B never does, and dies with A in one pack first, and then alone."""
  q = Queue([(A, B)], directory_of)
  deaths = 0
  while (pack := q.take()) is not None:
    if B in pack:
      deaths += 1
      if A in pack:
        saved_at(directory_of, A, deaths)
      q.died(pack, "it died")
    else:
      is_at(directory_of, A, 60, rundir.DONE)
      q.answered(pack, [DONE])
  assert deaths == MOST_DEATHS + 1
  assert q.is_settled
  (a, b) = sorted(q.outcomes, key=lambda o: o.cell is B)
  assert (a.cell, a.state) == (A, rundir.DONE)
  assert (b.cell, b.state, b.kind) == (B, rundir.FAILED, failures.DIED)
  assert b.error == f"it died; that was {MOST_DEATHS + 1} times without a checkpoint further"
  left = RunDir(directory_of(B)).status()
  assert (left["state"], left["kind"], left["error"]) == (rundir.FAILED, failures.DIED, b.error)


def test_deaths_of_a_cell_that_comes_further_are_not_counted_together(directory_of):
  q = Queue([(A,)], directory_of)
  for step in range(1, 4 * MOST_DEATHS):
    saved_at(directory_of, A, step)
    q.died(q.take(), "it died")
  assert not q.outcomes
  assert q.take() == (A,)


def test_steps_that_were_not_saved_are_no_way_forward(directory_of):
  q = Queue([(A,)], directory_of)
  saved_at(directory_of, A, 10)
  for i in range(MOST_DEATHS + 1):
    assert not q.outcomes
    is_at(directory_of, A, 40 + i % 2)
    q.died(q.take(), "it died")
  assert [o.kind for o in q.outcomes] == [failures.DIED]


def test_an_error_of_the_launcher_itself_leaves_nobody_waiting(directory_of):
  q = Queue([(A, B)], directory_of)
  pack = q.take()
  is_at(directory_of, A, 60, rundir.DONE)
  q.broken(pack, RuntimeError("no such thing"))
  assert q.is_settled
  assert {o.cell.cell_id: o.state for o in q.outcomes} == {A.cell_id: rundir.DONE, B.cell_id: rundir.FAILED}
  assert RunDir(directory_of(B)).status()["error"] == "RuntimeError: no such thing"


def test_what_diverged_while_others_trained_it_is_not_trained_again(directory_of, monkeypatch):
  monkeypatch.setattr(queue, "_LOOK_EVERY_S", 0.0)
  q = Queue([(A,)], directory_of)
  with RunDir(directory_of(A)).claim():
    q.answered(q.take(), [(rundir.BUSY, "another process is at work on it", None)])
    RunDir(directory_of(A)).write_failure("loss is nan", failures.DIVERGED)
  q.look_at_busy()
  assert q.take() is None
  assert [tuple(o)[1:] for o in q.outcomes] == [(rundir.FAILED, "loss is nan", failures.DIVERGED)]


def test_a_pack_without_enough_memory_is_tried_in_parts_and_one_cell_is_not(directory_of, capsys):
  q = Queue([(A, B)], directory_of)
  memory = (rundir.FAILED, "out of memory", failures.OUT_OF_MEMORY)
  q.answered(q.take(), [memory, memory])
  assert not q.outcomes
  assert "out of memory with 2 cells in one program" in capsys.readouterr().err
  assert q.take() == (A,)
  q.answered((A,), [memory])
  assert [o.kind for o in q.outcomes] == [failures.OUT_OF_MEMORY]


def test_what_others_train_is_waited_for_and_taken_over(directory_of, monkeypatch):
  monkeypatch.setattr(queue, "_LOOK_EVERY_S", 0.0)
  q = Queue([(A, B)], directory_of)
  held = [RunDir(directory_of(cell)).claim() for cell in (A, B)]
  q.answered(q.take(), [(rundir.BUSY, "another process is at work on it", None)] * 2)
  q.look_at_busy()
  assert q.take() is None
  assert not q.is_settled
  is_at(directory_of, A, 60, rundir.DONE)  # the other has finished this one,
  held[0].release()
  held[1].release()  # and given up that
  q.look_at_busy()
  assert [tuple(o)[:2] for o in q.outcomes] == [(A, rundir.DONE)]
  assert q.take() == (B,)
  with RunDir(directory_of(B)).claim():  # which looking at it has left free
    pass


def test_a_failure_keeps_what_was_known_and_spares_what_is_done(directory_of):
  q = Queue([(A, B)], directory_of)
  is_at(directory_of, A, 7)
  is_at(directory_of, B, 60, rundir.DONE)
  q.failed(q.take(), "its job asked for too little memory", failures.OUT_OF_MEMORY)
  assert {o.cell.cell_id: o.state for o in q.outcomes} == {A.cell_id: rundir.FAILED, B.cell_id: rundir.DONE}
  left = RunDir(directory_of(A)).status()
  assert (left["step"], left["kind"]) == (7, failures.OUT_OF_MEMORY)
  assert RunDir(directory_of(B)).status()["state"] == rundir.DONE


def test_what_was_not_begun_comes_next(directory_of):
  q = Queue([(A,), (B,)], directory_of)
  q.put_back(q.take())
  assert q.take() == (A,)
