"""`lm-jax predict`: forecasts of the cells that are not trained yet, frozen in the workdir."""

import json

import numpy as np
import pytest
import synthetic_study as synthetic
from processes import lm_jax
from test_cli import call


@pytest.fixture
def ladder(tmp_path):
  """A sweep whose largest size has not been trained."""
  cells = []
  for label, (params, family, accuracies) in synthetic.LADDER.items():
    if family != "decoder":
      continue
    cell = synthetic.cell(label, params)
    rows = synthetic.few_shot_rows(cell, accuracies[0], np.random.default_rng(0))
    synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows)
    cells.append(cell)
  cells.append(synthetic.cell("d128 L2", 400_000))
  synthetic.write_sweep(tmp_path, cells)
  return tmp_path


def test_what_is_not_trained_yet_is_forecast_and_frozen(ladder):
  done = lm_jax("predict", f"--workdir={ladder}", "--bootstrap=60", "--json")
  assert done.returncode == 0, done.stderr
  forecast = json.loads(done.stdout)
  (target,) = forecast["targets"]
  assert (target["label"], target["n_params"], target["n_seeds"]) == ("d128 L2", 400_000, 1)
  (path,) = (ladder / "forecasts").iterdir()
  assert json.loads(path.read_text()) == forecast and forecast["sha256"] in done.stderr
  said = {f["metric"] for curve in forecast["curves"] for f in curve["forecasts"]}
  assert said == {"nll", "accuracy", "exact_match", "choice_prob"}


def test_for_a_person(ladder, capsys):
  code, out, _ = call(capsys, "predict", f"--workdir={ladder}", "--bootstrap=60", "--metric=accuracy")
  assert code == 0
  assert "95 % band" in out and "d128 L2" in out and "sha256:" in out and "of 3" in out


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ("--at=x", "--at=x: must be a number"),
    ("--at=-1", "--at=-1: must be greater than 0"),
    ("--at=1e9 --method=threestep", "--method='threestep': unknown"),
    ("--at=1e9 --metric=acuracy", "--metric=acuracy:"),
    ("--at=1e9 --x=size", "--x=size: unknown"),
    ("--at=1e9 --table=t.csv", "one of them must be given, both was"),
    ("--at=1e9 --columns=task=a", "--columns: is for --table"),
  ],
)
def test_bad_options_are_one_line(ladder, capsys, options, message):
  code, out, err = call(capsys, "predict", f"--workdir={ladder}", *options.split())
  assert code == 2 and out == ""
  assert message in err and not (ladder / "forecasts").exists()


def test_each_family_is_forecast_at_its_own_sizes(ladder):
  """Also where a family's next size is smaller than what another has finished; in bits per byte too."""
  cells = json.loads((ladder / "sweep.json").read_text())["cells"]
  for params in (400, 800, 1_500, 3_000, 4_000, 6_000):
    cell = synthetic.cell(f"small {params}", params, family="encoder", task="python_stdlib")
    cells.append(cell)
    if params < 6_000:
      rows = [
        synthetic.row(cell, metric, scale * params**-0.1, step=2000)
        for metric, scale in (("nll", 4.0), ("bits_per_byte", 2.0))
      ]
      synthetic.write_cell(ladder / "cells" / cell["cell_id"], cell, rows, task=synthetic.TEXT)
  synthetic.write_sweep(ladder, cells)
  done = lm_jax("predict", f"--workdir={ladder}", "--bootstrap=60", "--json")
  assert done.returncode == 0, done.stderr
  forecast = json.loads(done.stdout)
  said = [
    (curve["family"], forecast["targets"][f["target"]]["label"], f["metric"], f["quantiles"]["0.5"])
    for curve in forecast["curves"]
    for f in curve["forecasts"]
  ]
  assert {(family, label) for family, label, *_ in said} == {
    ("decoder", "d128 L2"),
    ("encoder", "small 6000"),
  }
  medians = {metric: median for family, _, metric, median in said if family == "encoder"}
  true = 6_000**-0.1
  assert medians == pytest.approx({"nll": 4 * true, "bits_per_byte": 2 * true}, rel=0.01)
