"""lm-jax bench of generation: what it reports, and what it refuses."""

import json

import pytest
import small_models
from test_cli import assert_refused, call, write_config

MODEL = {"preset": "llama", "d_model": 16, "vocab_size": 31, "context_length": 64}
DECODING = {
  "batch_sizes": [1, 3],
  "prompt_length": 5,
  "new_tokens": 12,
  "prompt_lengths": [4, 20],
  "repeats": 2,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
  write_config(tmp_path / "decode.py", {"model": MODEL, "decoding": DECODING})
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("sys.dont_write_bytecode", True)
  return tmp_path


def test_as_json(here, capsys):
  code, out, err = call(
    capsys, "bench", "--config=decode.py", "--json", "--config.decoding.weights=int8,float32"
  )
  assert (code, err, out.count("\n")) == (0, "", 1)
  r = json.loads(out)
  assert [(row["weights"], row["batch_size"]) for row in r["decoding"]] == [
    ("int8", 1), ("int8", 3), ("float32", 1), ("float32", 3),
  ]  # fmt: skip
  for row in r["decoding"]:
    assert row["tokens_per_second"] * row["step_ms"] / 1e3 == pytest.approx(row["batch_size"])
  assert {(row["weights"], row["prompt_tokens"]) for row in r["prefill"]} == {
    ("int8", 4), ("int8", 20), ("float32", 4), ("float32", 20),
  }  # fmt: skip
  assert all(row["ms"] > 0 for row in r["prefill"])
  assert r["weights_bytes"]["float32"] == 4 * r["params_total"]
  assert r["weights_bytes"]["int8"] < 2 * r["params_total"]
  assert r["load_s"] is None and r["peak_memory_bytes"] > 0


def test_a_model_from_a_folder_as_a_table(here, capsys):
  small_models.save(small_models.of_bytes(), here / "model")
  write_config(here / "decode.py", {"path": "model", "decoding": DECODING})
  code, out, _ = call(capsys, "bench", "--config=decode.py", "--config.decoding.weights=int8")
  assert code == 0
  first, header, row, note = out.splitlines()
  assert first.startswith("decode.py; opened in ")
  assert "tokens/s, 3 at a time" in header and "first of 20" in header
  assert row.split()[0] == "int8" and row.count(" ms") == 4
  assert "parameters, " in note


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("train --config=decode.py --workdir=w", "is a benchmark of generation; use lm-jax bench"),
    ("bench --config=decode.py --config.decoding.batch_sizes=[0]", "config.decoding.batch_sizes=[0]"),
    ("bench --config=decode.py --config.decoding.weights=int9", "did you mean 'int8'"),
    ("bench --config=decode.py --config.decoding.weights=[]", "config.decoding.weights=[]: must be at least"),
    ("bench --config=decode.py --config.decoding.new_tokens=8", "new_tokens=8: must be more than 8"),
    ("bench --config=decode.py --config.decoding.new_tokens=60", "model's context of 64"),
    ("bench --config=decode.py --config.decoding.prompt_lengths=[64]", "config.decoding.prompt_lengths="),
    ("bench --config=decode.py --config.decoding.batches=8", "config.decoding.batches: no such field"),
    ("bench --config=decode.py --config.model.vocab_size=none", "config.model.vocab_size=None: must be"),
    ("bench --config=decode.py --config.model.causal=false", "config.model.causal=False: must be true"),
    ("bench --config=decode.py --config.path=m", "config.model: must be left out where config.path names"),
    ("bench --config=elsewhere.py", "config.path=nowhere: no such"),
  ],
)  # fmt: skip
def test_refused(here, capsys, words, said):
  write_config(here / "elsewhere.py", {"path": "nowhere", "decoding": DECODING})
  assert_refused(*call(capsys, *words.split()), said)
