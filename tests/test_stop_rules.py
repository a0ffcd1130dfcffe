"""Halving of learning rates, and budgets: what is trained, what is left out, and that nothing is lost."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import processes
import pytest
from processes import lasting_rows, lm_jax, merged, status, sweep_tree, write_config

from lm_jax import rundir, scaling, sweep
from lm_jax.analysis import curve_table, frame, loss_points, stop_rules
from lm_jax.launch import halving
from lm_jax.launch import stop_rules as rules
from lm_jax.launch.base import Enough, Outcome
from lm_jax.rundir import RunDir

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TREE = merged(
  sweep_tree(widths=(8,), seeds=(0, 1)),
  base=merged(
    sweep_tree()["base"], train={"num_steps": 160}, runtime={"log_every": 10, "checkpoint_every": 50}
  ),
)
TREE["cells"] = [
  {"seed": seed, "model.d_model": d, "optimizer.learning_rate": rate}
  for d in (8, 16) for seed in (0, 1) for rate in RATES
]  # fmt: skip


# --- what is decided, of losses that are made up ----------------------------------------------------


def cells_of(**groups) -> tuple[sweep.Cell, ...]:
  return sweep.from_tree(merged(TREE, **groups)).cells


def write_losses(directory: Path, losses: dict[int, float]) -> None:
  directory.mkdir(parents=True, exist_ok=True)
  rows = [{"split": "train", "metric": "loss", "step": step, "value": v} for step, v in losses.items()]
  RunDir(directory).records.write_text("".join(json.dumps(row) + "\n" for row in rows))


def look(group: halving.Group, folder: Path, ended=()) -> halving.Look:
  return group.look(lambda cell: folder / cell.cell_id, {outcome.cell.cell_id: outcome for outcome in ended})


def test_cells_of_one_size_are_a_group_whatever_their_seeds_and_learning_rates():
  first, second = halving.groups(cells_of())
  assert {cell.config.model.d_model for cell in first.cells} == {8}
  assert {cell.config.model.d_model for cell in second.cells} == {16}
  assert list(first.rates) == list(RATES)
  assert [{cell.config.seed for cell in cells} for cells in first.rates.values()] == [{0, 1}] * 5


@pytest.mark.parametrize(
  "num_rates, expected",
  [(1, []), (2, []), (3, [(80, 2)]), (4, [(80, 2)]), (5, [(40, 3), (80, 2)]),
   (16, [(20, 8), (40, 4), (80, 2)])],
)  # fmt: skip
def test_each_rung_keeps_the_better_half_and_the_last_two_go_to_the_end(num_rates, expected):
  config = cells_of()[0].config
  found = halving.rungs(config, num_rates)
  assert [(rung.step, rung.kept) for rung in found] == expected


def test_no_rung_is_within_twice_the_warmup_nor_where_no_loss_is_written():
  config = cells_of()[0].config
  longer = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, warmup_steps=33))
  # A quarter of the steps, 40, is within the warmup; two rungs that would be at one step are one.
  assert [(rung.step, rung.kept) for rung in halving.rungs(longer, 5)] == [(70, 3), (80, 2)]
  rarely = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, log_every=70))
  assert [(rung.step, rung.kept) for rung in halving.rungs(rarely, 5)] == [(70, 3), (140, 2)]
  once = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, log_every=160))
  assert halving.rungs(once, 5) == []


def test_learning_rates_are_ranked_by_the_mean_over_seeds_of_the_loss_before_the_rung(tmp_path):
  group = halving.groups(cells_of())[0]
  first = look(group, tmp_path)
  assert [step for _, step in first.next] == [40] * 10 and not first.pruned
  # Two seeds of each; what came long before the rung (9.0) does not count.
  means = dict(zip(RATES, (3.0, 2.5, 2.0, 2.2, 4.0), strict=True))
  for rate, cells in group.rates.items():
    for cell, away in zip(cells, (-0.5, 0.5), strict=True):
      write_losses(tmp_path / cell.cell_id, {30: 9.0, 40: means[rate] + away})
  second = look(group, tmp_path)
  assert second.decisions[0].losses == pytest.approx(means)
  assert second.decisions[0].kept == (3e-3, 1e-2, 3e-2)
  assert {cell.config.optimizer.learning_rate for cell, _ in second.pruned} == {1e-3, 1e-1}
  assert [step for _, step in second.next] == [80] * 6
  assert "learning rate 0.001 ranks 4 of 5 at step 40" in second.pruned[0][1]


def test_a_diverged_seed_makes_its_learning_rate_the_worst_and_one_that_failed_is_not_waited_for(tmp_path):
  group = halving.groups(cells_of())[0]
  for rate, cells in group.rates.items():
    for cell in cells:
      write_losses(tmp_path / cell.cell_id, {40: 1.0 / rate})
  best, second = group.rates[1e-1], group.rates[3e-2]
  for cell in (best[0], second[0]):
    write_losses(tmp_path / cell.cell_id, {20: 0.1})
  ended = [
    Outcome(best[0], rundir.FAILED, "loss is nan", "diverged"),
    Outcome(second[0], rundir.FAILED, "a bug", "code"),
  ]
  found = look(group, tmp_path, ended)
  assert found.decisions[0].losses[1e-1] == math.inf
  assert found.decisions[0].losses[3e-2] == pytest.approx(1 / 3e-2)  # of the seed that is there
  assert found.decisions[0].kept == (3e-3, 1e-2, 3e-2)
  assert second[0] not in [cell for cell, _ in found.next]


def test_learning_rates_are_compared_on_the_seeds_that_all_have(tmp_path):
  group = halving.groups(cells_of())[0]
  # Seed 1 is the harder one; the best learning rate has it and the worst has not.
  for i, cells in enumerate(group.rates.values()):
    for cell in cells:
      write_losses(tmp_path / cell.cell_id, {40: 1.0 + 0.1 * i + 5.0 * cell.config.seed})
  worst = group.rates[RATES[-1]][1]
  (tmp_path / worst.cell_id / "records.jsonl").unlink()
  found = look(group, tmp_path, [Outcome(worst, rundir.FAILED, "a bug", "code")])
  assert found.decisions[0].kept == RATES[:3]
  assert found.decisions[0].losses == pytest.approx({r: 1.0 + 0.1 * i for i, r in enumerate(RATES)})


def test_where_no_loss_is_written_before_a_rung_nothing_ends_there(tmp_path):
  """As after a launch with another config.runtime.log_every; its later loss is no substitute."""
  group = halving.groups(cells_of())[0]
  for cell in group.cells:
    write_losses(tmp_path / cell.cell_id, {40: 1.0})
  past = group.cells[0]
  write_losses(tmp_path / past.cell_id, {100: 0.1, 160: 0.1})
  found = look(group, tmp_path)
  assert found.decisions[0].kept == RATES and not found.pruned
  assert {step for _, step in found.next} == {80}
  assert past not in [cell for cell, _ in found.next]


def test_a_run_past_a_rung_by_its_checkpoint_is_not_sent_to_it(tmp_path):
  group = halving.groups(cells_of())[0]
  (tmp_path / group.cells[0].cell_id / "checkpoints" / "60").mkdir(parents=True)
  assert group.cells[0] not in [cell for cell, _ in look(group, tmp_path).next]


def test_what_was_stopped_is_waited_for(tmp_path):
  group = halving.groups(cells_of())[0]
  for cell in group.cells[1:]:
    write_losses(tmp_path / cell.cell_id, {40: 1.0})
  found = look(group, tmp_path, [Outcome(group.cells[0], rundir.STOPPED, "cancelled")])
  assert found == halving.Look((), (), ())


def test_what_halving_costs_is_known_before(tmp_path):
  group = halving.groups(cells_of())[0]
  whole = scaling.train_flops(group.cells[0].config)
  # 5 rates for a quarter, 3 for another, 2 for the rest; two seeds each.
  assert group.most_flops(lambda cell: 0) == pytest.approx(whole * 2 * (5 / 4 + 3 / 4 + 2 / 2))


# --- budgets ----------------------------------------------------------------------------------------


def following(cells, tmp_path, **kinds) -> rules.Following:
  return rules.Following(rules.StopRules(**kinds), cells, cells, (), lambda cell: tmp_path / cell.cell_id)


def test_a_budget_begins_what_it_has_room_for_whole_in_order(tmp_path):
  cells = sorted(cells_of(), key=lambda cell: cell.config.model.d_model)
  small, large = (scaling.train_flops(cell.config) for cell in (cells[0], cells[-1]))
  launch = following(cells, tmp_path, max_flops=10 * small + 3.5 * large)
  assert [cell.cell_id for cell in launch.next()] == [cell.cell_id for cell in cells[:13]]
  states = [outcome.state for outcome in launch.outcomes()]
  assert states.count(rules.LEFT_OUT) == 7
  assert launch.record()["left_out"] == [cell.cell_id for cell in cells[13:]]


def test_what_was_spent_before_counts(tmp_path):
  cells = [cell for cell in cells_of() if cell.config.model.d_model == 8]
  one = scaling.train_flops(cells[0].config)
  done = RunDir(tmp_path / cells[0].cell_id)
  done.path.mkdir()
  done.write_status(rundir.STOPPED, step=80, num_steps=160, error=None)
  assert len(following(cells, tmp_path, max_flops=2.5 * one).next()) == 2
  assert len(following(cells, tmp_path, max_flops=2 * one).next()) == 2
  # Its second half fits where no whole one does.
  assert [cell.cell_id for cell in following(cells, tmp_path, max_flops=one).next()] == [cells[0].cell_id]
  assert following(cells, tmp_path, max_flops=0.9 * one).next() == []


def test_with_halving_a_group_is_begun_whole_or_not_at_all(tmp_path):
  cells = sorted(cells_of(), key=lambda cell: cell.config.model.d_model)
  small, large = (group.most_flops(lambda cell: 0) for group in halving.groups(cells))
  assert len(following(cells, tmp_path, max_flops=small + large, halving=True).next()) == 20
  assert len(following(cells, tmp_path, max_flops=small + 0.9 * large, halving=True).next()) == 10


def test_runs_that_were_trained_without_halving_leave_no_room_that_is_not_there(tmp_path):
  cells = [cell for cell in cells_of() if cell.config.model.d_model == 8]
  (group,) = halving.groups(cells)
  one = scaling.train_flops(cells[0].config)
  for rate in RATES[:3]:
    for cell in group.rates[rate]:
      run = RunDir(tmp_path / cell.cell_id)
      run.path.mkdir()
      run.write_status(rundir.DONE, step=160, num_steps=160, error=None)
  # The other two may be the ones that are kept.
  assert group.most_flops(lambda cell: halving.step_of(tmp_path / cell.cell_id)) == pytest.approx(4 * one)
  assert following(cells, tmp_path, max_flops=9.9 * one, halving=True).next() == []
  assert len(following(cells, tmp_path, max_flops=10 * one, halving=True).next()) == 4


def test_a_group_that_was_begun_is_not_left_half_way(tmp_path):
  cells = [cell for cell in cells_of() if cell.config.model.d_model == 8]
  (group,) = halving.groups(cells)
  launch = following(cells, tmp_path, max_flops=group.most_flops(lambda cell: 0), halving=True)
  stage = launch.next()
  for i, cell in enumerate(stage):  # each a little further than it was to go
    write_losses(tmp_path / cell.cell_id, {40: 1.0 + i})
    RunDir(tmp_path / cell.cell_id).write_status(rundir.PAUSED, step=60, num_steps=160, error=None)
  launch.take([Outcome(cell, rundir.PAUSED) for cell in stage])
  assert {cell.config.runtime.stop_at for cell in launch.next()} == {80}


def test_what_fails_before_the_hours_are_over_has_failed(tmp_path):
  cells = cells_of()
  launch = following(cells, tmp_path, max_hours=1e-9)
  launch.next()
  with pytest.raises(Enough, match="--max_hours=1e-09 is over"):
    launch.watch(lambda: None)()
  launch.watch(lambda: None)()  # once
  launch.take([Outcome(cells[0], rundir.FAILED, "a bug", "code"), Outcome(cells[1], rundir.STOPPED)])
  states = [outcome.state for outcome in launch.outcomes()]
  assert states == [rundir.FAILED, *[rules.LEFT_OUT] * 19]
  assert launch.next() == []


def test_what_its_launcher_has_no_word_of_is_not_told_as_done(tmp_path):
  launch = following(cells_of(), tmp_path)
  launch.next()
  launch.take([])
  assert {outcome.state for outcome in launch.outcomes()} == {rundir.STOPPED}


def test_what_comes_back_without_having_come_further_is_not_sent_for_ever(tmp_path):
  cells = cells_of()
  launch = following(cells, tmp_path, halving=True)
  stage = launch.next()
  assert {cell.config.runtime.stop_at for cell in stage} == {40}
  launch.take([Outcome(cell, rundir.PAUSED) for cell in stage])
  assert launch.next() == []


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
  """A sweep that is trained to its end."""
  folder = tmp_path_factory.mktemp("whole")
  done = lm_jax("sweep", f"--config={write_config(folder / 's.py', TREE)}", f"--workdir={folder / 'w'}")
  assert done.returncode == 0, done.stderr
  return folder / "w"


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> tuple[Path, str, str]:
  """The same sweep with halving: its workdir, its config, and what the command printed."""
  folder = tmp_path_factory.mktemp("halved")
  config = write_config(folder / "s.py", TREE)
  done = lm_jax("sweep", f"--config={config}", f"--workdir={folder / 'w'}", "--halving")
  assert done.returncode == 0, done.stderr
  return folder / "w", config, done.stdout


def test_halving_trains_two_of_five_and_leaves_what_the_whole_sweep_would(halved, whole):
  workdir, _, printed = halved
  states = {cell.name: status(cell) for cell in (workdir / "cells").iterdir()}
  assert sorted(s["state"] for s in states.values()) == [rundir.DONE] * 8 + [rundir.PRUNED] * 12
  assert sorted(s["step"] for s in states.values()) == [40] * 8 + [80] * 4 + [160] * 8
  for name, found in states.items():
    rows, all_rows = (lasting_rows(root / "cells" / name) for root in (workdir, whole))
    assert rows == [row for row in all_rows if row["step"] <= found["step"]]
  decided = json.loads((workdir / "sweep.json").read_text())["stop_rules"]
  assert decided["flops_spent"] / decided["flops"] == pytest.approx((5 / 4 + 3 / 4 + 2 / 2) / 5)
  assert "12 of 20 runs ended early" in printed and "Of the FLOPs of all 20 cells 60% were spent." in printed


def test_each_decision_is_the_one_that_the_whole_sweeps_losses_ask_for(halved, whole):
  decided = json.loads((halved[0] / "sweep.json").read_text())["stop_rules"]["halving"]
  assert len(decided) == 2
  cells = sweep.from_tree(TREE).cells
  for group in decided:
    for rung in group["rungs"]:
      losses = {}
      for rate, loss in rung["losses"]:
        own = [c for c in cells if c.label == group["label"] and c.config.optimizer.learning_rate == rate]
        rows = [lasting_rows(whole / "cells" / cell.cell_id) for cell in own]
        last = [
          [r["value"] for r in one if r["metric"] == "loss" and r["split"] == "train"
           and 0.75 * rung["step"] < r["step"] <= rung["step"]]
          for one in rows
        ]  # fmt: skip
        losses[rate] = sum(sum(one) / len(one) for one in last) / len(last)
        assert loss == pytest.approx(losses[rate], rel=1e-12)
      best = sorted(losses, key=losses.__getitem__)[: len(rung["kept"])]
      assert sorted(best) == rung["kept"]


def test_the_same_command_again_decides_the_same_and_trains_nothing(halved):
  workdir, config, _ = halved
  before = {cell.name: lasting_rows(cell) for cell in (workdir / "cells").iterdir()}
  decided = json.loads((workdir / "sweep.json").read_text())["stop_rules"]
  again = lm_jax("sweep", f"--config={config}", f"--workdir={workdir}", "--halving")
  assert again.returncode == 0, again.stderr
  assert {cell.name: lasting_rows(cell) for cell in (workdir / "cells").iterdir()} == before
  assert json.loads((workdir / "sweep.json").read_text())["stop_rules"] == decided


def test_status_and_report_say_what_ended_and_why(halved):
  workdir = halved[0]
  told = lm_jax("status", f"--workdir={workdir}")
  assert "12 pruned, 8 done" in told.stderr
  assert told.stdout.count("halving: learning rate") == 12
  page = (workdir / "report" / "index.html").read_text()
  assert "Successive halving of learning rates: 12 of 20 runs ended early" in page
  assert "ranks 4 of 5 at step 40" in page
  study = frame.load(workdir)
  assert set(study.cells["state"]) == {"done", "pruned"} and len(study.missing) == 12


def test_a_learning_rate_is_at_an_edge_of_all_that_were_tried_those_that_were_ended_too(halved):
  study = frame.load(halved[0])
  points = loss_points.of_table(curve_table.of_study(study), metric="nll")
  assert points.learning_rates == "tuned"
  rates = study.cells.set_index("cell_id")["learning_rate"][points.run].tolist()
  assert points.at_edge.tolist() == [rate in (RATES[0], RATES[-1]) for rate in rates]
  # Of the two that were trained to the end each is an edge; here one is that only.
  assert not points.at_edge.all()


def test_without_the_rule_the_sweep_goes_on_to_the_bits_it_would_have_had(halved, whole, tmp_path):
  workdir, config, _ = halved
  copy = tmp_path / "w"
  shutil.copytree(workdir, copy)
  done = lm_jax("sweep", f"--config={config}", f"--workdir={copy}")
  assert done.returncode == 0, done.stderr
  for cell in (copy / "cells").iterdir():
    assert status(cell)["state"] == rundir.DONE
    assert lasting_rows(cell) == lasting_rows(whole / "cells" / cell.name)
  assert "stop_rules" not in json.loads((copy / "sweep.json").read_text())


def test_a_run_stops_where_it_is_told_and_goes_on_without(tmp_path):
  config = write_config(tmp_path / "r.py", merged(processes.RUN, train={"num_steps": 60}))
  words = ("train", f"--config={config}")
  whole = lm_jax(*words, f"--workdir={tmp_path / 'whole'}")
  first = lm_jax(*words, f"--workdir={tmp_path / 'w'}", "--config.runtime.stop_at=25")
  assert (whole.returncode, first.returncode) == (0, 0), first.stderr
  assert "paused at step 25 of 60" in first.stderr
  assert status(tmp_path / "w")["state"] == rundir.PAUSED
  again = lm_jax(*words, f"--workdir={tmp_path / 'w'}")
  assert again.returncode == 0, again.stderr
  assert lasting_rows(tmp_path / "w") == lasting_rows(tmp_path / "whole")


def test_after_its_hours_a_launch_saves_what_runs(tmp_path):
  long = merged(TREE, base=merged(TREE["base"], train={"num_steps": 1_000_000}))
  config = write_config(tmp_path / "s.py", long)
  words = ("sweep", f"--config={config}", f"--workdir={tmp_path / 'w'}", "--workers=1")
  done = lm_jax(*words, f"--max_hours={15 / 3600}")
  assert done.returncode == 0, done.stderr
  assert "--max_hours=0.00416667 is over: running cells save first" in done.stderr
  states = [status(cell) for cell in (tmp_path / "w" / "cells").iterdir()]
  assert {s["state"] for s in states} == {rundir.STOPPED} and all(s["step"] > 0 for s in states)
  decided = json.loads((tmp_path / "w" / "sweep.json").read_text())["stop_rules"]
  assert len(decided["left_out"]) == 20
  assert "it was over with 20 cells not done" in done.stdout


@pytest.mark.parametrize(
  "flags, told",
  [
    (("--max_flops=0",), "--max_flops=0.0: must be greater than 0"),
    (("--max_hours=-1",), "--max_hours=-1.0: must be greater than 0"),
    (("--halving", "--retry_failed"), "--halving, --retry_failed: give one of them"),
    (("--halving", "--launcher=slurm", "--detach"), "--halving, --detach: give one of them"),
  ],
)
def test_rules_that_cannot_be(tmp_path, flags, told):
  done = lm_jax("sweep", "--config=x.py", f"--workdir={tmp_path / 'w'}", *flags)
  assert done.returncode == 2 and told in done.stderr
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  "words, told",
  [
    ((), "no size of this sweep has more than 2 learning rates that differ in nothing else"),
    (("--config.runtime.log_every=60",), "no rung before the end: config.runtime.log_every"),
  ],
)
def test_halving_that_could_end_nothing_is_refused(tmp_path, words, told):
  tree = sweep_tree() if not words else TREE | {"base": merged(TREE["base"], train={"num_steps": 60})}
  config = write_config(tmp_path / "s.py", tree)
  done = lm_jax("sweep", f"--config={config}", f"--workdir={tmp_path / 'w'}", "--halving", *words)
  assert done.returncode == 2 and told in done.stderr
  assert not (tmp_path / "w" / "sweep.json").exists()


def test_sentences_of_no_rules():
  assert stop_rules.sentences(None) == ()
