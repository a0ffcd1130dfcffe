"""A checkpoint that is damaged for one of two processes is so for both: they go on from one and the same."""

import json

import pytest
from processes import finish, lm_jax, merged, status, write_config
from test_hosts import TREE, start_two

from lm_jax import records, rundir

ENDS = merged(TREE, train={"num_steps": 30})


def values(workdir):
  return {(r["step"], r["metric"]): r["value"] for r in records.read(workdir / "records.jsonl")}


def test_two_processes_fall_back_together(tmp_path):
  file, workdir = write_config(tmp_path / "run.py", ENDS), tmp_path / "w"
  ended = [finish(p) for p in start_two(file, workdir, "--config.parallel.fsdp=2")]
  assert [p.returncode for p in ended] == [0, 0], ended[0].stderr
  expected = values(workdir)
  newest = workdir / "checkpoints" / "30"
  # The part of the state that the process which does not write has saved.
  (newest / "state" / "manifest.ocdbt").write_bytes(b"")
  (workdir / "status.json").unlink()
  ended = [finish(p) for p in start_two(file, workdir, "--config.parallel.fsdp=2")]
  assert [p.returncode for p in ended] == [0, 0], ended[0].stderr
  told = [[line for line in p.stderr.splitlines() if "cannot use that of step 30" in line] for p in ended]
  assert [len(lines) for lines in told] == [1, 0]
  assert f"{workdir}: goes on from the checkpoint of step 20, and cannot use" in told[0][0]
  assert status(workdir)["state"] == rundir.DONE
  assert values(workdir) == expected
  assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"20", "30"}
  # One process reads what two have saved, and finds it whole.
  (workdir / "status.json").unlink()
  done = lm_jax("train", f"--config={file}", f"--workdir={workdir}", "--quiet")
  assert (done.returncode, done.stderr) == (0, "")
  saved = json.loads((newest / "position" / "metadata").read_text())
  assert saved["position"]["step"] == 30
  assert values(workdir) == pytest.approx(expected)
