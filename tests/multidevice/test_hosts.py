"""Two processes of one run: they equal one, survive a stop, and each holds its part of the data only."""

import json
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import RUN, finish, lm_jax, merged, start, status, wait_until, write_config

from lm_jax import hosts, records, rundir
from lm_jax.strict import ConfigError

TREE = merged(
  RUN | {"task": {"name": "text", "corpus": ["python_stdlib"], "context_length": 32}},
  model={"d_model": 16, "num_heads": 2},
  train={"num_steps": 40, "batch_size": 8}, eval={"num_examples": 32, "batch_size": 16},
  runtime={"steps_per_dispatch": 10, "log_every": 10, "checkpoint_every": 10},
)  # fmt: skip


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def start_two(file, workdir, *more):
  address = f"--coordinator=127.0.0.1:{free_port()}"
  return [
    start("train", f"--config={file}", f"--workdir={workdir}", address, "--num_processes=2",
          f"--process_id={i}", *more)
    for i in range(2)
  ]  # fmt: skip


def values(workdir):
  return {(r["step"], r["metric"]): r["value"] for r in records.read(workdir / "records.jsonl")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """Returns the config file and the values of one process with one device."""
  folder = tmp_path_factory.mktemp("alone")
  file = write_config(folder / "run.py", TREE)
  done = lm_jax("train", f"--config={file}", f"--workdir={folder / 'w'}")
  assert done.returncode == 0, done.stderr
  return file, values(folder / "w")


def test_two_processes_equal_one_and_a_stop_of_either_stops_and_saves_both(alone, tmp_path):
  file, expected = alone
  workdir = tmp_path / "w"
  processes = start_two(file, workdir, "--config.runtime.checkpoint_every=5", "--config.parallel.fsdp=2")
  wait_until(lambda: (workdir / "checkpoints" / "5").is_dir(), processes[0])
  processes[1].send_signal(signal.SIGTERM)  # the one that does not write
  ended = [finish(p) for p in processes]
  if status(workdir)["state"] != rundir.DONE:  # it may have been too late
    assert [p.returncode for p in ended] == [128 + signal.SIGTERM] * 2, ended[0].stderr
    assert status(workdir)["state"] == rundir.STOPPED
    assert 0 < status(workdir)["step"] < 40
  ended = [finish(p) for p in start_two(file, workdir)]
  assert [p.returncode for p in ended] == [0, 0], ended[0].stderr
  assert "step 40" in ended[0].stdout
  assert "step" not in ended[1].stdout  # the first one tells
  assert status(workdir)["state"] == rundir.DONE
  got = values(workdir)
  assert got.keys() == expected.keys()
  for key, value in expected.items():
    assert got[key] == pytest.approx(value, rel=1e-4), key


PLACED = """
import json, sys
from lm_jax import config, hosts, parallel, programs
hosts.join(sys.argv[1], 2, int(sys.argv[2]))
c = config.from_mapping(json.loads(sys.argv[3]))
_, engine = programs.make([c])
import numpy as np
batch = np.arange(2 * 16 * 3).reshape(2, 16, 3)
placed = engine.layout.put(batch, engine.layout.over_batch(1, 16))
print(json.dumps([np.asarray(s.data).tolist() for s in placed.addressable_shards]))
"""


def test_each_process_holds_its_part_of_the_data_only():
  address = f"127.0.0.1:{free_port()}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PLACED, address, str(i), json.dumps(TREE)],
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  parts = [json.loads(p.communicate(timeout=120)[0].splitlines()[-1]) for p in processes]
  whole = np.arange(2 * 16 * 3).reshape(2, 16, 3)
  for i, shards in enumerate(parts):
    np.testing.assert_array_equal(np.concatenate(shards, axis=1), whole[:, 8 * i : 8 * (i + 1)])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("nowhere", 2, 0), "--coordinator=nowhere: must be HOST:PORT of the first process, or auto"),
    (("localhost:x", 2, 0), "must be HOST:PORT"),
    (("localhost:1", None, 0), "needs --num_processes and --process_id"),
    (("localhost:1", 2, 2), "--process_id=2: must be in 0..1"),
    (("auto", 2, None), "--num_processes and --process_id come from the cluster"),
  ],
)
def test_processes_that_cannot_meet_are_one_line(arguments, message):
  with pytest.raises(ConfigError, match=message):
    hosts.join(*arguments)


def test_auto_outside_a_cluster_is_one_line(tmp_path):
  file = write_config(tmp_path / "run.py", TREE)
  done = lm_jax("train", f"--config={file}", f"--workdir={tmp_path / 'w'}", "--coordinator=auto")
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1, done.stderr
  assert "--coordinator=auto" in done.stderr


def test_numbers_of_processes_need_a_coordinator(tmp_path):
  file = write_config(tmp_path / "run.py", TREE)
  done = lm_jax("train", f"--config={file}", f"--workdir={tmp_path / 'w'}", "--num_processes=2")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "need --coordinator=HOST:PORT" in done.stderr


@pytest.mark.parametrize("platform", ["quantum", "cuda"])
def test_a_platform_that_is_not_there_is_one_line(tmp_path, platform):
  if platform == "cuda" and jax.default_backend() == "gpu":
    pytest.skip("there is a GPU")
  file = write_config(tmp_path / "run.py", TREE)
  for words in (("train", f"--workdir={tmp_path / 'w'}"), ("bench",)):
    done = lm_jax(words[0], f"--config={file}", *words[1:], platform=platform)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"JAX_PLATFORMS={platform}: " in done.stderr
  assert not (tmp_path / "w").exists()


def test_a_run_that_another_process_took_over_ends_in_both(tmp_path):
  file = write_config(tmp_path / "run.py", merged(TREE, train={"num_steps": 1_000_000}))
  workdir = tmp_path / "w"
  processes = start_two(file, workdir, "--config.parallel.fsdp=2")
  wait_until(lambda: (workdir / "checkpoints" / "20").is_dir(), processes[0])
  # As a process on another machine does that has heard nothing for a while.
  own = json.loads((workdir / "lease.1").read_text())
  taken = own | {"token": "another", "host": "elsewhere", "pid": 1, "machine": "another"}
  (tmp_path / "lease").write_text(json.dumps(taken).ljust(511) + "\n")
  (tmp_path / "lease").rename(workdir / "lease.2")
  before = {path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()}
  ended = [finish(p) for p in processes]
  assert [p.returncode for p in ended] == [1, 1], ended[0].stderr
  assert "process 1 on elsewhere took it over" in ended[0].stderr
  assert "the first of its processes gave it up" in ended[1].stderr
  assert status(workdir)["state"] == rundir.RUNNING  # as the other one has it
  left = {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()}
  assert max(left) <= max(map(int, before)) + 10
