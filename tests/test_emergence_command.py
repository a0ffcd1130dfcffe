"""`lm-jax emergence` on tables and workdirs: rows, filters, and one clear line for bad input."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic
from shared import folder

from lm_jax import cli
from lm_jax.analysis.emergence import table, verdict


def call(capsys, *words) -> tuple[int, str, str]:
  with pytest.raises(SystemExit) as stop:
    cli.main(["emergence", *map(str, words)])
  return stop.value.code, *capsys.readouterr()


@pytest.fixture
def file(tmp_path):
  """A table under other names: a jump, a slow rise and noise, with 0 and 3 shots."""
  rng = np.random.default_rng(0)
  x_S = np.linspace(6, 11, 10)
  curves = {"jump": 0.25 + 0.6 / (1 + np.exp(-(x_S - 8.6) / 0.08)), "slow": 0.25 + 0.1 * (x_S - 6),
            "noise": np.full(10, 0.25)}  # fmt: skip
  rows = [
    {"benchmark": task, "metric": "accuracy", "num_fewshot": shots, "params_M": 10 ** (x - 6), "Score": score,
     "n_examples": 1000, "low_score": 0.25, "model_family": f"f{i % 2}"}
    for task, p_S in curves.items() for shots in (0, 3)
    for i, (x, score) in enumerate(zip(x_S, rng.binomial(1000, p_S) / 1000, strict=True))
  ]  # fmt: skip
  path = tmp_path / "scores.csv"
  pd.DataFrame(rows).to_csv(path, index=False)
  return path


def test_rows_of_anybodys_table(capsys, file, tmp_path):
  out = tmp_path / "rows.csv"
  words = (f"--table={file}", "--pool_families", "--bootstrap=50")
  code, text, _ = call(capsys, *words, "--json", f"--output={out}")
  rows = json.loads(text)
  assert code == 0 and len(rows) == 6 and set(rows[0]) == set(table.COLUMNS)
  verdicts = {(row["task"], row["shots"]): row["verdict"] for row in rows}
  assert verdicts["jump", "0"] == verdicts["jump", "3"] == "sharp"
  assert verdicts["slow", "0"] == verdicts["slow", "3"] == "smooth"
  assert verdicts["noise", "0"] == "below chance resolution"
  jump = next(row for row in rows if row["task"] == "jump")
  assert jump["x50_low"] <= 10**8.6 <= jump["x50_high"] and jump["x"] == "n_params"
  written = pd.read_csv(out, keep_default_na=False)
  assert list(written["verdict"]) == [row["verdict"] for row in rows]
  assert json.loads(written["sizes"][0]) == rows[0]["sizes"]
  # The same seed, the same rows.
  assert call(capsys, *words, "--json")[1] == text
  assert call(capsys, *words, "--json", "--seed=3")[1] != text


def test_a_large_breakthroughness_is_told_by_its_magnitude(capsys, file):
  """A curve that is flat but for one rise has next to no median step."""
  rows = pd.read_csv(file).query("benchmark == 'jump' and num_fewshot == 0")
  steps = np.where(np.arange(10) < 5, 0.25, 0.85) + 1e-6 * np.arange(10)
  rows.assign(Score=steps).to_csv(file, index=False)
  words = (f"--table={file}", "--pool_families", "--bootstrap=50")
  (row,) = json.loads(call(capsys, *words, "--json")[1])
  assert row["breakthroughness"] == pytest.approx(600_009)
  assert " 6.0e+05 " in call(capsys, *words)[1]


def test_the_table_for_a_person(capsys, file):
  code, text, told = call(capsys, f"--table={file}", "--pool_families", "--bootstrap=50")
  lines = text.splitlines()
  assert code == 0
  order = [
    next(i for i, line in enumerate(lines) if f" {task} " in line) for task in ("jump", "slow", "noise")
  ]
  assert order == sorted(order)
  assert "6 curves: 2 sharp, 2 smooth" in text and "num_fewshot" in told
  # Five sizes of each family are too few for AICc.
  text = call(capsys, f"--table={file}", "--task=jump,slow", "--shots=3", "--bootstrap=50")[1]
  assert "4 curves: " in text and "compared by leaving sizes out" in text


def test_a_workdir(capsys, tmp_path):
  synthetic.realistic(tmp_path)
  code, text, _ = call(capsys, f"--workdir={tmp_path}", "--shots=window", "--json", "--bootstrap=50")
  rows = {(row["metric"], row["family"]): row for row in json.loads(text)}
  own = rows["accuracy", "decoder"]
  assert code == 0 and own["n_sizes"] == 6 and own["n_seeds"] == 2 and own["chance"] == 0.25
  assert own["verdict"] in verdict.VERDICTS and own["rise_q_value"] < 0.05
  assert rows["accuracy", "depth control"]["verdict"] == "insufficient data"
  assert own["paired_metric"] is not None
  code, text, _ = call(
    capsys, f"--workdir={tmp_path}", "--x=flops", "--shots=window", "--json", "--bootstrap=50"
  )
  assert code == 0 and json.loads(text)[0]["x"] == "flops"


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "--workdir=DIR: one of them must be given, neither was"),
    (["--table=FILE", "--workdir=w"], "--workdir=DIR: one of them must be given, both was"),
    (["--table=FILE", "--x=n_parms"], "--x=n_parms: unknown; did you mean 'n_params'?"),
    (["--table=FILE", "--x=flops"], "--x=flops: "),
    (["--table=FILE", "--task=jumpp"], "--task=jumpp: not in FILE; did you mean 'jump'?"),
    (["--table=FILE", "--metric=nll"], "--metric=nll: not in FILE; allowed: accuracy"),
    (["--table=FILE", "--shots=1"], "--shots=1: not in FILE; allowed: 0, 3"),
    (["--table=FILE", "--bootstrap=1"], "bootstrap=1: must be 20 or more"),
    (["--table=FILE", "--columns=n_params=parms_M"], "did you mean 'params_M'?"),
    (["--workdir=w", "--columns=task=a"], "--columns: is for --table"),
    (["--workdir=w"], "--workdir=w: no such folder"),
    (["--table=FILE", "--verdict=sharp"], "--verdict: no such flag"),
  ],
)
def test_what_is_refused(capsys, file, words, message):
  code, out, err = call(capsys, *(word.replace("FILE", str(file)) for word in words))
  assert code == 2 and out == ""
  assert message.replace("FILE", str(file)) in err.splitlines()[-1] and "Traceback" not in err


def test_tasks_of_bigbench(capsys):
  path = folder("data", "curves", "bigbench", "bigg_mc_maxshot.csv")
  code, text, _ = call(
    capsys,
    f"--table={path}",
    "--task=hindu_knowledge,date_understanding,anachronisms",
    "--json",
    "--bootstrap=50",
  )
  rows = {row["task"]: row for row in json.loads(text)}
  assert code == 0 and {row["n_sizes"] for row in rows.values()} == {12}
  # By the file: the score goes up and down between sizes, so these are of its 12 numbers alone.
  given = pd.read_csv(path).query("task == 'hindu_knowledge'").sort_values("n_params_nonembedding")["score"]
  step = np.sqrt(np.median(np.diff(given) ** 2))
  sign = np.sign(np.argmax(given) - np.argmin(given))
  assert rows["hindu_knowledge"]["breakthroughness"] == pytest.approx(
    sign * (given.max() - given.min()) / step, rel=1e-5
  )
  assert rows["date_understanding"]["verdict"] == "smooth"
