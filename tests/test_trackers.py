"""Trackers are told what the records say, also of runs that were killed, and they end no run."""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import (
  ROOT,
  RUN,
  finish,
  last_step,
  lm_jax,
  merged,
  start,
  status,
  sweep_tree,
  wait_until,
  write_config,
)  # fmt: skip
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from lm_jax import config as configs
from lm_jax import config_file, loop, records, rundir, sweep
from lm_jax.launch import local, single, study
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.trackers import Trackers, base

INSTALLED = [name for name in configs.TRACKERS if name == "tensorboard" or importlib.util.find_spec(name)]
SECRET = "5ec2e7" * 6 + "5ec2"  # a key of W&B's has 40 characters


def needs(name):
  return pytest.mark.skipif(name not in INSTALLED, reason=f"{name} is not installed")


EACH = pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n)) for n in configs.TRACKERS])


def config_of(*names, **groups):
  return configs.from_mapping(merged(RUN, runtime={"trackers": names}, **groups))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """Returns the folder of a run that tells TensorBoard, as by default, and when it began and ended."""
  folder, began = tmp_path_factory.mktemp("plain"), time.time()
  loop.train(configs.from_mapping(RUN), folder)
  return folder, began, time.time()


# --- reading back ---------------------------------------------------------------------------------


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
  """Returns {tag: [(step, value)]} as the records have it."""
  told = {}
  for row in records.read(run / "records.jsonl"):
    if row["value"] is not None:
      shots = "" if row["n_shots"] is None else f"/{row['n_shots']}-shot"
      told.setdefault(f"{row['split']}/{row['metric']}{shots}", []).append((row["step"], row["value"]))
  return told


def as_float32(told):
  return {tag: [(step, float(np.float32(value))) for step, value in curve] for tag, curve in told.items()}


def accumulated(run: Path):
  """Returns the event files of a run as TensorBoard sees them."""
  found = event_accumulator.EventAccumulator(str(run / "tb"), {"scalars": 0})
  found.Reload()
  return found


def tensorboard_told(run: Path):
  found = accumulated(run)
  return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def python(program: str, *words: object, **env: str) -> str:
  """Runs a program that trains nothing in a process of its own and returns its output."""
  env = os.environ | {"PYTHONPATH": str(ROOT)} | env
  run = subprocess.run(
    [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, env=env, timeout=300
  )
  assert run.returncode == 0, run.stderr
  return run.stdout


# W&B's own reader of these files sends them to a server. They are a log of LevelDB's format after 7 bytes.
_READ_WANDB = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2 as pb
for path in sys.argv[1:]:
  data, at, record, out = open(path, "rb").read(), 7, b"", []
  while len(data) - at >= 7:
    if 32768 - at % 32768 < 7:
      at += 32768 - at % 32768
      continue
    _, length, kind = struct.unpack("<IHB", data[at:at + 7])
    if at + 7 + length > len(data):  # is being written
      break
    record += data[at + 7:at + 7 + length]
    at += 7 + length
    if kind in (1, 4):
      read, record = pb.Record.FromString(record), b""
      if read.WhichOneof("record_type") == "history":
        items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in read.history.item}
        out.append(items)
      elif read.WhichOneof("record_type") == "run":
        run = {n: getattr(read.run, n) for n in ("run_id", "project", "run_group", "display_name")}
        run["config"] = {u.key: json.loads(u.value_json) for u in read.run.config.update}
  print(json.dumps([run, out]))
"""


def wandb_attempts(run: Path):
  """Returns (run, {tag: [(step, value)]}) of every attempt, from the first."""
  files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
  attempts = []
  for line in python(_READ_WANDB, *files).splitlines():
    facts, history = json.loads(line)
    told = {}
    for row in history:
      for tag, value in row.items():
        if not tag.startswith("_"):
          told.setdefault(tag, []).append((row["_step"], value))
    attempts.append((facts, told))
  return attempts


def wandb_told(run: Path):
  """Returns what the last attempt told W&B, which is all there is."""
  return wandb_attempts(run)[-1][1]


_READ_MLFLOW = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
for experiment in client.search_experiments():
  for run in client.search_runs([experiment.experiment_id]):
    history = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
               for name in run.data.metrics}
    print(json.dumps([{"experiment": experiment.name, "name": run.info.run_name, "status": run.info.status,
                       "params": run.data.params, "family": run.data.tags["family"]}, history]))
"""


def mlflow_runs(store: Path):
  """Returns (run, {tag: [(step, value)]}) of every run of a database that is not deleted."""
  printed = python(_READ_MLFLOW, f"sqlite:///{store}").splitlines()
  runs = [json.loads(line) for line in printed if line.startswith("[")]
  return [(facts, {tag: sorted(map(tuple, curve)) for tag, curve in told.items()}) for facts, told in runs]


def mlflow_told(run: Path):
  ((_, told),) = mlflow_runs(run / "mlflow" / "mlflow.db")
  return told


TOLD = {"tensorboard": tensorboard_told, "wandb": wandb_told, "mlflow": mlflow_told}


def assert_told(name: str, run: Path) -> None:
  rows = expected(run)
  assert len(rows) > 5
  assert TOLD[name](run) == (as_float32(rows) if name == "tensorboard" else rows)


# --- names and values -----------------------------------------------------------------------------


def test_tags():
  row = records.Record(**dict.fromkeys(records.FIELDS) | {"metric": "accuracy", "split": "test"})
  for fields, tag in (
    ({"task": "own"}, "test/accuracy"),
    ({"task": "own", "n_shots": 4}, "test/accuracy/4-shot"),
    ({"task": "own", "n_shots": 0}, "test/accuracy/0-shot"),
    ({"task": "other", "n_shots": 1}, "test/other/accuracy/1-shot"),
    ({"task": "own", "metric": "loss", "split": "train"}, "train/loss"),
  ):
    assert base.tag(dataclasses.replace(row, **fields), "own") == tag


def test_a_missing_value_is_not_told(plain):
  rows = [records.Record(**row) for row in records.read(plain[0] / "records.jsonl")][:2]
  missing = [dataclasses.replace(row, value=None) for row in rows]
  assert base.values_by_step(missing, "own") == {}
  assert len(base.values_by_step(rows[:1] + missing, rows[0].task)[rows[0].step]) == 1


def test_hyperparameters_are_flat():
  flat = base.hyperparameters(config_of("tensorboard", "wandb"))
  assert (flat["model.d_model"], flat["task.name"]) == (8, "rule_induction")
  assert flat["runtime.trackers"] == '["tensorboard", "wandb"]'
  assert "data_seed" not in flat  # none


# --- config ---------------------------------------------------------------------------------------


def load(tmp_path, text):
  return config_file.load(write_config(tmp_path / "run.py", RUN), [("runtime.trackers", text)])


def test_trackers_are_chosen_on_the_command_line(tmp_path):
  assert configs.from_mapping(RUN).runtime.trackers == ("tensorboard",)
  for text, names in (
    ("wandb", ("wandb",)), ("tensorboard,wandb", ("tensorboard", "wandb")), ("", ()), ("()", ()),
    ("('mlflow',)", ("mlflow",)),
  ):  # fmt: skip
    config = load(tmp_path, text)
    assert config.runtime.trackers == names
    assert configs.cell_id(config) == configs.cell_id(configs.from_mapping(RUN))


def test_an_unknown_tracker_is_refused(tmp_path):
  with pytest.raises(ConfigError, match=r"config.runtime.trackers='wandbb': unknown; did you mean 'wandb'\?"):
    load(tmp_path, "tensorboard,wandbb")
  with pytest.raises(ConfigError, match="trackers='x': unknown; allowed: tensorboard, wandb, mlflow"):
    load(tmp_path, "x")


@pytest.mark.parametrize(
  ("name", "package"),
  [("tensorboard", "tensorboard"), ("wandb", r"'lm_jax\[wandb\]'"), ("mlflow", r"'lm_jax\[mlflow\]'")],
)
def test_a_tracker_that_is_not_installed_is_refused_before_training(tmp_path, monkeypatch, name, package):
  monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that there is no such module
  said = f"config.runtime.trackers='{name}': {name} .*not installed; pip install {package}, or leave it out"
  with pytest.raises(ConfigError, match=said):
    single.train(config_of(name), tmp_path / "run", quiet=True)
  with pytest.raises(ConfigError, match=said):
    tree = sweep_tree(runtime={"trackers": [name]})
    study.run(sweep.from_tree(tree), tmp_path / "sweep", local.LocalLauncher(1), quiet=True)
  assert not (tmp_path / "run").exists()
  assert not (tmp_path / "sweep" / "cells").exists()
  # On another machine than the one that started it, too.
  with pytest.raises(ConfigError, match=said):
    loop.train(config_of(name), tmp_path / "there")
  assert not (tmp_path / "there" / "records.jsonl").exists()


# --- runs -----------------------------------------------------------------------------------------


def test_tensorboard_has_the_rows_and_the_config(plain):
  run, began, ended = plain
  assert_told("tensorboard", run)
  found = accumulated(run)
  assert all(began <= e.wall_time <= ended for tag in found.Tags()["scalars"] for e in found.Scalars(tag))
  content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
  session = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
  config = rundir.from_json(run / "config.json")
  assert session.group_name == configs.cell_id(config)
  assert session.hparams["model.d_model"].number_value == config.model.d_model
  assert session.hparams["optimizer.name"].string_value == "adamw"
  assert session.hparams["model.lm_head"].bool_value is True


def test_without_trackers_nothing_is_told(tmp_path):
  loop.train(config_of(), tmp_path)
  assert status(tmp_path)["state"] == rundir.DONE
  assert not {"tb", "wandb", "mlflow"} & {path.name for path in tmp_path.iterdir()}


def test_a_population_tells_of_each_member(tmp_path, monkeypatch):
  """All trackers at once, of members of one process, of which one diverges; and no key is left anywhere."""
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_API_KEY", SECRET)
  monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  tree = sweep_tree(widths=(8,), seeds=(0, 1), optimizer={"clip_norm": None})
  tree["cells"].append({"model.d_model": 8, "seed": 9, "optimizer.learning_rate": 1e30})
  file, workdir = write_config(tmp_path / "sweep.py", tree), tmp_path / "w"
  done = lm_jax(
    "sweep", f"--config={file}", f"--workdir={workdir}", "--workers=1",
    f"--config.runtime.trackers={','.join(INSTALLED)}",
  )  # fmt: skip
  assert done.returncode == 1, done.stderr
  assert "goes on without" not in done.stderr
  runs = sorted((workdir / "cells").iterdir())
  assert sorted(status(run)["state"] for run in runs) == ["done", "done", "failed"]
  assert len({status(run)["pid"] for run in runs}) == 1
  for run in runs:
    for name in INSTALLED:
      assert_told(name, run) if status(run)["state"] == "done" else TOLD[name](run)
    if "mlflow" in INSTALLED:
      ((facts, _),) = mlflow_runs(run / "mlflow" / "mlflow.db")
      assert facts["status"] == {"done": "FINISHED", "failed": "FAILED"}[status(run)["state"]]
      assert (facts["experiment"], facts["family"], facts["name"]) == ("tiny", "decoder", run.name)
      assert facts["params"]["model.d_model"] == "8"
    if "wandb" in INSTALLED:
      ((facts, _),) = wandb_attempts(run)
      names = tuple(facts[n] for n in ("project", "run_group", "run_id", "display_name"))
      assert names == ("tiny", "decoder", run.name, run.name)
      assert facts["config"]["model"]["d_model"] == 8
  files = [path for path in workdir.rglob("*") if path.is_file()]
  assert len(files) > 20
  assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@EACH
def test_killed_and_started_again_it_is_one_curve(tmp_path, monkeypatch, name):
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  every = {"steps_per_dispatch": 10, "log_every": 10, "checkpoint_every": 500, "trackers": [name]}
  file = write_config(tmp_path / "run.py", merged(RUN, train={"num_steps": 1200}, runtime=every))
  run = tmp_path / "w"
  words = "train", f"--config={file}", f"--workdir={run}", "--quiet"
  process = start(*words)
  try:
    # There are rows after the checkpoint, which the next attempt tells again.
    wait_until(lambda: (run / "checkpoints" / "500").is_dir() and last_step(run) >= 600, process)
  finally:
    process.kill()
  assert finish(process).returncode == -signal.SIGKILL
  reached = last_step(run)
  assert reached < 1000, "killed too late to show anything"
  told = TOLD[name](run)["train/loss"]
  # W&B, which was not told to finish, loses the end.
  assert name == "wandb" or max(step for step, _ in told) >= 590
  done = lm_jax(*words)
  assert done.returncode == 0, done.stderr
  assert "goes on without" not in done.stderr
  assert_told(name, run)
  if name == "tensorboard":
    assert len(list((run / "tb").iterdir())) == 2
  if name == "wandb":
    (first, _), (second, again) = wandb_attempts(run)
    assert first["run_id"] == second["run_id"] == configs.cell_id(rundir.from_json(run / "config.json"))
    assert again["train/loss"][: len(told)] == told


# --- attempts, without training -------------------------------------------------------------------

# Tells "train/loss" of steps 0, 10, ..., in one attempt after another: [first, last, value] each, and how it
# ends: a state of rundir, or null where it is killed.
_ATTEMPTS = """
import json, pathlib, sys
from lm_jax import config, records, rundir
from lm_jax.trackers import Trackers
path, tree, attempts = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
c = config.from_mapping(tree)
fields = dict.fromkeys(records.FIELDS) | {"task": c.task.name, "split": "train", "metric": "loss"}
assert not {"tensorboard", "wandb", "mlflow"} & set(sys.modules), "loaded before it is needed"
for first, last, value, state in attempts:
  trackers = Trackers(c, rundir.RunDir(path))
  trackers.begin(first)
  for step in range(-(-first // 10) * 10, last + 1, 10):
    trackers.log([records.Record(**fields | {"step": step, "value": value})])
  if state:
    trackers.close(state)
if c.runtime.trackers == ("tensorboard",):
  assert not {"tensorflow", "torch", "jax"} & set(sys.modules), "not needed"
"""


def attempts(run: Path, name: str, *told: list, **env: str) -> None:
  run.mkdir(exist_ok=True)
  tree = merged(RUN, runtime={"trackers": [name]})
  python(_ATTEMPTS, run, json.dumps(tree), json.dumps(told), **env)


def test_tensorboard_supersedes_what_was_told_after_the_checkpoint(tmp_path):
  """Also several attempts within a second, and after one by a clock that was ahead."""
  attempts(tmp_path, "tensorboard", [0, 40, 1.0, None])
  (file,) = (tmp_path / "tb").iterdir()
  file.rename(file.with_name("events.out.tfevents.9000000000.elsewhere"))
  attempts(tmp_path, "tensorboard", [21, 60, 2.0, None], [41, 50, 3.0, "done"])
  values = {0: 1.0, 10: 1.0, 20: 1.0, 30: 2.0, 40: 2.0, 50: 3.0}
  assert tensorboard_told(tmp_path) == {"train/loss": list(values.items())}
  attempts(tmp_path, "tensorboard", [0, 10, 4.0, "done"])
  assert tensorboard_told(tmp_path) == {"train/loss": [(0, 4.0), (10, 4.0)]}


@needs("mlflow")
def test_mlflow_goes_on_with_its_run_and_starts_over_with_another(tmp_path):
  run, store = tmp_path / "run", tmp_path / "run" / "mlflow" / "mlflow.db"
  for told, ends, steps in (
    ([0, 40, 1.0, "stopped"], "KILLED", 5),
    ([21, 60, 1.0, None], "RUNNING", 7),
    ([61, 70, 1.0, "busy"], "RUNNING", 8),  # it is another process's now, and that one's to end
    ([71, 70, 1.0, "failed"], "FAILED", 8),
    ([0, 20, 2.0, "done"], "FINISHED", 3),
  ):
    attempts(run, "mlflow", told, MLFLOW_TRACKING_URI="")
    ((facts, curves),) = mlflow_runs(store)
    assert facts["status"] == ends
    assert curves["train/loss"] == [(10 * i, told[2]) for i in range(steps)]


@needs("mlflow")
def test_mlflow_tells_the_store_of_the_environment(tmp_path):
  told = [0, 20, 1.0, "done"], [0, 10, 2.0, "done"]
  uri = f"sqlite:///{tmp_path / 'mine.db'}"
  for i, attempt in enumerate(told):
    attempts(tmp_path / f"run{i}", "mlflow", attempt, MLFLOW_TRACKING_URI=uri)
    assert [path.name for path in (tmp_path / f"run{i}" / "mlflow").iterdir()] == ["run_id"]
  found = mlflow_runs(tmp_path / "mine.db")
  assert sorted(len(curves["train/loss"]) for _, curves in found) == [2, 3]
  assert {facts["experiment"] for facts, _ in found} == {"tiny"}


# --- failures -------------------------------------------------------------------------------------


def test_a_tracker_that_cannot_begin_does_not_end_the_run(tmp_path, capfd):
  (tmp_path / "tb").write_text("in its way")
  loop.train(configs.from_mapping(RUN), tmp_path)
  assert status(tmp_path)["state"] == rundir.DONE
  assert last_step(tmp_path) == RUN["train"]["num_steps"]
  told = [line for line in capfd.readouterr().err.splitlines() if "without" in line]
  assert len(told) == 1
  assert f"{tmp_path}: goes on without the tracker tensorboard (FileExistsError: " in told[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_a_full_disk_is_told_once(tmp_path, plain, capfd):
  rows = [records.Record(**row) for row in records.read(plain[0] / "records.jsonl")]
  trackers = Trackers(configs.from_mapping(RUN), RunDir(tmp_path))
  trackers.begin(0)
  trackers.log(rows[:1])
  (file,) = (tmp_path / "tb").iterdir()
  (fd,) = (fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.readlink() == file)
  full = os.open("/dev/full", os.O_WRONLY)
  os.dup2(full, int(fd.name))
  os.close(full)
  for row in rows[1:]:
    trackers.log([row])
  trackers.close(rundir.DONE)
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith(f"{tmp_path}: goes on without the tracker tensorboard (OSError: [Errno 28] No space")
  assert not (Path("/proc/self/fd") / fd.name).is_symlink()
  # What was written before is whole.
  ((curve,),) = (tensorboard_told(tmp_path).values(),)
  assert curve == [(rows[0].step, float(np.float32(rows[0].value)))]
