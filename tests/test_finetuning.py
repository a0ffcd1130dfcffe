"""Fine-tuning in a workdir: stopping is harmless, nothing is done twice; rows, report and labels."""

import json
from pathlib import Path

import jax
import letters
import numpy as np
import pandas as pd
import pytest
from letters import ENCODER, save_run, tree_of
from processes import ROOT, StopAfter, write_config
from test_cli import assert_refused, call

from lm_jax import classifier, config_file, finetune, finetune_config, loop, records
from lm_jax.analysis import finetuning as report
from lm_jax.finetune import Finetuning
from lm_jax.launch import finetuning, study
from lm_jax.launch.status_table import status_line
from lm_jax.strict import ConfigError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
  return letters.write_data(tmp_path_factory.mktemp("letters"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
  return save_run(tmp_path_factory.mktemp("runs") / "encoder", ENCODER)


# --- a workdir ------------------------------------------------------------------------------------


def rows_of(workdir: Path) -> list[dict]:
  return [{k: v for k, v in row.items() if k != "wall_s"} for row in records.read(workdir / "records.jsonl")]


@pytest.fixture
def run(data, encoder, monkeypatch):
  """Returns a function that runs what is missing in a workdir and stops before the group number `looks`."""

  def run(workdir: Path, looks: int = 100, **fields) -> int:
    monkeypatch.setattr(loop, "stop_on_signals", lambda: StopAfter(looks))
    workdir.mkdir(exist_ok=True)
    c = finetune_config.from_mapping(tree_of(data, encoder, shots=[1, 2], methods=["head"]) | fields)
    return finetuning.run(c, workdir, quiet=True)

  return run


def test_stopped_and_continued_is_uninterrupted(run, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert run(whole) == 0
  assert run(parts, looks=1) == 128 + 15
  assert len({(row["family"], row["n_shots"]) for row in rows_of(parts)}) == 1
  # What a process that was killed has left: a row of a run without the others, and half a row.
  text = (parts / "records.jsonl").read_text()
  stray = json.dumps(json.loads(text.splitlines()[0]) | {"n_shots": 2})
  (parts / "records.jsonl").write_text(text + stray + "\n" + stray[:50])
  assert run(parts) == 0
  assert rows_of(parts) == rows_of(whole)
  saved = [classifier.load(w / "classifier") for w in (parts, whole)]
  jax.tree.map(np.testing.assert_array_equal, *[c.params for c in saved])
  assert saved[0].facts == saved[1].facts
  # A lease is numbered by how often the folder was claimed.
  left = [{path.name for path in folder.iterdir() if path.stem != "lease"} for folder in (parts, whole)]
  assert left[0] == left[1]


def test_nothing_is_done_twice_and_more_draws_are_added(run, tmp_path, monkeypatch):
  assert run(tmp_path) == 0
  before = (tmp_path / "records.jsonl").read_text()
  with monkeypatch.context() as patch:
    patch.setattr(Finetuning, "train", None)
    assert run(tmp_path) == 0
  assert (tmp_path / "records.jsonl").read_text() == before
  assert run(tmp_path, draws=3) == 0
  after = (tmp_path / "records.jsonl").read_text()
  assert after.startswith(before)
  added = [json.loads(line) for line in after[len(before) :].splitlines()]
  assert {(row["family"], row["n_shots"], row["seed"]) for row in added} == {
    ("head", k, 2) for k in (1, 2)
  }  # fmt: skip


def test_a_workdir_of_something_else_is_refused(run, tmp_path, encoder, data):
  assert run(tmp_path / "w") == 0
  with pytest.raises(ConfigError, match="fine-tuning with other settings"):
    run(tmp_path / "w", max_steps=7)
  changed = tmp_path / "changed"
  changed.mkdir()
  for path in data.iterdir():
    more = json.dumps({"text": f"{path.stem} more", "label": 1})
    (changed / path.name).write_text(path.read_text() + more + "\n")
  with pytest.raises(ConfigError, match="the data changed since its first run"):
    run(tmp_path / "w", data={"name": str(changed), "num_dev": 16})
  save_run(tmp_path / "trained", ENCODER)
  with pytest.raises(ConfigError, match="holds a run of lm-jax train"):
    run(tmp_path / "trained")


@pytest.fixture(scope="module")
def finished(data, encoder, tmp_path_factory) -> Path:
  """Returns a workdir where two methods are done."""
  folder = tmp_path_factory.mktemp("finished")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "stop_on_signals", loop.Stop)
    tree = tree_of(data, encoder, shots=[1, 2], methods=["full", "head"])
    assert finetuning.run(finetune_config.from_mapping(tree), folder, quiet=True) == 0
  return folder


def test_rows_say_what_was_measured(finished, data):
  rows = rows_of(finished)
  assert len(rows) == 2 * 2 * 2 * 9
  assert finetune.finished(rows) == {(m, k, s) for m in ("full", "head") for k in (1, 2) for s in (0, 1)}
  accuracy = [row for row in rows if row["metric"] == "accuracy"]
  assert {row["chance"] for row in accuracy} == {0.5}
  assert {(row["split"], row["n_items"]) for row in accuracy} == {("test", 100), ("dev", 16)}
  assert {(row["family"], row["objective"]) for row in rows} == {
    ("full", "finetune_full"), ("head", "finetune_head")
  }  # fmt: skip
  assert {row["task"] for row in rows} == {data.name}
  assert all(row["step"] in (4, 8) and row["tokens"] == row["step"] * 8 * 16 for row in rows)
  assert len({row["cell_id"] for row in rows}) == 8
  flops = {row["family"]: row["flops_exact"] / row["step"] for row in rows}
  assert flops["full"] == 3 * flops["head"]


def test_status(finished):
  (row,) = study.statuses(finished)
  assert (row["status"]["state"], row["status"]["step"], row["status"]["num_steps"]) == ("done", 4, 4)
  assert "done, step 4/4" in status_line(row)


def test_report(finished, encoder):
  folder = report.write(finished)
  assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf"}
  table = pd.read_csv(folder / "tables" / "finetune.csv")
  assert list(zip(table["method"], table["k"], strict=True)) == [
    ("full", 1), ("full", 2), ("head", 1), ("head", 2)
  ]  # fmt: skip
  for row in table.itertuples():
    values = [
      r["value"] for r in rows_of(finished)
      if (r["family"], r["n_shots"], r["split"], r["metric"]) == (row.method, row.k, "test", "accuracy")
    ]  # fmt: skip
    assert (row.draws, row.min, row.max) == (2, min(values), max(values))
    assert row.mean == pytest.approx(np.mean(values))
    assert row.sd == pytest.approx(np.std(values, ddof=1))
  before = [path.read_bytes() for path in sorted(folder.rglob("*.*"))]
  report.write(finished)
  assert [path.read_bytes() for path in sorted(folder.rglob("*.*"))] == before
  assert "chance 0.500, most frequent class 0.500" in report.format_table(finished)
  with pytest.raises(ConfigError, match="no run of its fine-tuning is done yet"):
    report.load(encoder)


# --- the command line -----------------------------------------------------------------------------


def test_from_config_to_label(data, encoder, tmp_path, capsys, monkeypatch):
  """One config and two commands; the kept classifier says what its row of the records says."""
  monkeypatch.setattr(loop, "stop_on_signals", loop.Stop)
  tree = tree_of(
    data, encoder, methods=["lora"], data={"name": str(data), "num_dev": 16, "label_names": ["late", "early"]}
  )
  write_config(tmp_path / "c.py", tree)
  words = ["finetune", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}"]
  code, out, _ = call(capsys, *words, "--config.optimizer.learning_rate.lora=0.02", "--config.max_steps=20")
  assert code == 0
  assert "report" in out
  test = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
  asked = [f"--text={row['text']}" for row in test]
  code, out, _ = call(capsys, "classify", f"--workdir={tmp_path / 'w'}", "--json", *asked)
  assert code == 0
  results = json.loads(out)["results"]
  right = [r["label"] == ["late", "early"][row["label"]] for r, row in zip(results, test, strict=True)]
  facts = json.loads((tmp_path / "w" / "classifier" / "classifier.json").read_text())
  (row,) = [
    r for r in rows_of(tmp_path / "w")
    if (r["seed"], r["split"], r["metric"]) == (facts["draw"], "test", "accuracy")
  ]  # fmt: skip
  assert np.mean(right) == pytest.approx(row["value"])
  assert all(sum(r["probabilities"].values()) == pytest.approx(1) for r in results)
  code, out, _ = call(capsys, "classify", f"--workdir={tmp_path / 'w'}", asked[0])
  first = results[0]
  assert code == 0
  assert out.startswith(f"{first['label']}  ({first['label']} {max(first['probabilities'].values()):.3f}, ")
  monkeypatch.setattr("sys.stdin", ["  abc \n", "\n", "xyz\n"])
  assert len(call(capsys, "classify", f"--workdir={tmp_path / 'w'}")[1].splitlines()) == 2
  monkeypatch.setattr("sys.stdin", [])
  assert_refused(*call(capsys, "classify", f"--workdir={tmp_path / 'w'}"), "--text=... must be given")
  assert_refused(*call(capsys, "classify", f"--workdir={encoder}", "--text=a"), "has no classifier")
  assert_refused(*call(capsys, "classify", f"--workdir={tmp_path / 'w'}", "--text= "), "is empty")


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("--config.shots=[0]", "config.shots=0: must be greater than 0"),
    ("--config.shots=[2,2]", "config.shots=[2, 2]: must be different values"),
    ("--config.shots=[64]", "config.shots=64: class '0' has 40 examples in train"),
    ("--config.methods=lroa", "config.methods='lroa': unknown; did you mean 'lora'?"),
    ("--config.lora.targets=qery", "config.lora.targets='qery': unknown; did you mean 'query'?"),
    ("--config.initial=trained", "config.initial='trained': must be one of pretrained, random"),
    ("--config.max_length=32", "config.max_length=32: must be at most the model's context_length=16"),
    ("--config.optimizer.learning_rate.full=0", "learning_rate.full=0.0: must be greater than 0"),
    ("--config.optimizer.warmup_steps=9", "must be between 0 and max_steps=8"),
    ("--config.data.name=/nowhere/mr", "nothing of this name in /nowhere"),
    ("--config.checkpoint=none", "config.pretraining.task.name='rule_induction': must be text"),
    (
      "--config.checkpoint=none --config.pretraining.model.num_heads=3",
      "config.pretraining.model.num_heads=3",
    ),
    ("--config.checkpoint=/nowhere", "config.checkpoint=/nowhere: no such file or folder"),
    ("--config.shot=[1]", "config.shot: no such field; did you mean 'shots'?"),
  ],
)
def test_bad_input_is_one_line(data, encoder, tmp_path, capsys, monkeypatch, words, said):
  monkeypatch.setattr(loop, "stop_on_signals", loop.Stop)
  write_config(tmp_path / "c.py", tree_of(data, encoder))
  line = ["finetune", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}", *words.split()]
  assert_refused(*call(capsys, *line), said)
  assert not (tmp_path / "w" / "config.json").exists()


def test_the_config_file_is_valid_where_its_data_is_not():
  c = config_file.load_finetuning(str(ROOT / "configs" / "finetune" / "mr_cls.py"))
  assert c.data.label_names == ("negative", "positive")
  assert not c.pretraining.model.causal
