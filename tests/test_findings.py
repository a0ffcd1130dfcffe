"""What the report says of a study: verdicts, laws and forecasts, on the page and in its files."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic

from lm_jax.analysis import curve_table, findings, frame
from lm_jax.analysis.forecasts import freeze
from lm_jax.analysis.report import report


def loss_study(workdir, sizes, tokens, family="decoder"):
  """Writes a text study whose losses follow 0.5 + 3 N^-.2 + 40 D^-.4, one run a (size, tokens)."""
  cells = []
  for n in sizes:
    for d in tokens:
      cell = synthetic.cell(f"n{n}", n, family, task="python_stdlib", num_steps=d // (64 * 35))
      cell |= {"cell_id": f"n{n}-d{d}", "overrides": {"train.num_steps": d // (64 * 35)}}
      loss = 0.5 + 3 * n**-0.2 + 40 * cell["tokens"] ** -0.4
      rows = [synthetic.row(cell, "nll", loss, step=cell["num_steps"], stderr=0.01)]
      synthetic.write_cell(workdir / "cells" / cell["cell_id"], cell, rows, task=synthetic.TEXT)
      cells.append(cell)
  synthetic.write_sweep(workdir, cells)


def test_a_ladder_gets_verdicts_and_a_law_of_one_variable(tmp_path):
  synthetic.realistic(tmp_path)
  found = findings.of_study(frame.load(tmp_path))
  main = findings.main_verdicts(found.verdicts)
  assert set(main["shots"]) == {"window"} and set(main["metric"]) == {
    "accuracy", "exact_match", "choice_prob", "nll",
  }  # fmt: skip
  assert set(main.loc[main["family"] == "depth control", "verdict"]) == {"insufficient data"}
  laws = {law.family: law for law in found.laws}
  assert laws["decoder"].fitted.tree["law"] == "power"
  assert laws["depth control"].fitted is None and "1 sizes, fewer than 4" in laws["depth control"].reason
  assert found.forecasts.empty and found.notes == ()


def test_sizes_at_several_budgets_get_a_law_of_both_and_no_verdicts(tmp_path):
  sizes, tokens = (1_000, 3_000, 10_000, 30_000), (2_240_000, 8_960_000, 35_840_000)
  loss_study(tmp_path, sizes, tokens)
  found = findings.of_study(frame.load(tmp_path))
  assert found.verdicts.empty and "differ in training tokens, up to 16 times" in found.notes[0]
  (law,) = (law for law in found.laws if law.fitted and law.fitted.tree["law"] == "chinchilla")
  assert law.fitted.tree["alpha"] == pytest.approx(0.2, abs=1e-3)
  assert law.fitted.tree["beta"] == pytest.approx(0.4, abs=1e-3)


def test_the_report_holds_them(tmp_path):
  synthetic.realistic(tmp_path)
  table = curve_table.load(tmp_path)
  forecast = freeze.make(table, [{"x": 1e13, "label": "next <rung>"}], "flops", num=50, family="decoder")
  freeze.write(forecast, tmp_path / "forecasts")
  page = report.write(tmp_path).read_text()
  folder = tmp_path / "report"
  assert '<section id="laws">' in page and '<section id="forecasts">' in page
  assert "next &lt;rung&gt;" in page and "next <rung>" not in page
  summary = json.loads((folder / "summary.json").read_text())
  assert {row["metric"] for row in summary["emergence"]} >= {"accuracy", "nll"}
  assert summary["laws"][0]["fit"]["law"] == "power"
  verdicts = pd.read_csv(folder / "tables/emergence.csv")
  assert set(verdicts["shots"].astype(str)) >= {"0", "11", "window"}
  (numbers,) = folder.glob("tables/scaling_law.*.csv")
  assert numbers.with_suffix("").name in {p.with_suffix("").name for p in (folder / "figures").iterdir()}
  points = pd.read_csv(numbers)
  np.testing.assert_allclose(points["log_residual"], np.log(points["nll"] / points["predicted"]), atol=1e-9)
  assert (folder / "figures/forecasts.svg").exists()


def test_a_part_of_a_task_has_verdicts_of_its_own_and_no_law(tmp_path):
  cells = []
  for n in (1_000, 2_000, 4_000, 8_000):
    cell = synthetic.cell(f"n{n}", n, task="khop") | {"cell_id": f"n{n}"}
    rows = [
      dataclasses.replace(synthetic.row(cell, metric, 0.5 + 3 * n**-0.2, step=2000, stderr=0.01), **where)
      for metric in ("accuracy", "nll")
      for where in ({"prompt_id": "window"}, {"task": "khop_k1"}, {"task": "khop_k2"})
    ]
    synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows)
    cells.append(cell)
  synthetic.write_sweep(tmp_path, cells)
  found = findings.of_study(frame.load(tmp_path))
  assert set(found.verdicts["task"]) == {"khop", "khop_k1", "khop_k2"}
  assert [law.task for law in found.laws] == ["khop"]


def test_a_study_without_results_says_nothing(tmp_path):
  cell = synthetic.cell("d8 L1", 1000)
  synthetic.write_sweep(tmp_path, [cell])
  found = findings.of_study(frame.load(tmp_path))
  assert found.verdicts.empty and found.laws == () and found.forecasts.empty


def test_the_main_family_is_looked_at_closely(tmp_path):
  cells = []
  for family, sizes in (
    ("small", (1_000, 2_000, 4_000, 8_000)),
    ("large", (1_000, 2_000, 4_000, 8_000, 16_000)),
  ):
    for n in sizes:
      cell = synthetic.cell(f"n{n}", n, family, task="python_stdlib") | {"cell_id": f"{family}-{n}"}
      rows = [synthetic.row(cell, "nll", 0.5 + 3 * n**-0.2, step=2000)]
      synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows, task=synthetic.TEXT)
      cells.append(cell)
  synthetic.write_sweep(tmp_path, cells)
  laws = {law.family: law for law in findings.of_study(frame.load(tmp_path)).laws}
  assert laws["large"].main and not laws["small"].main
  assert "holdout" in laws["large"].fitted.tree and "holdout" not in laws["small"].fitted.tree
  report.write(tmp_path)
  figures = {path.name for path in (tmp_path / "report/figures").glob("scaling_law*.png")}
  assert figures == {"scaling_law.python_stdlib-large.1.png"}
