"""Several studies, and scores from elsewhere, on one page."""

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic
from test_cli import call

from lm_jax.analysis import compare, curve_table, findings, frame


def study(workdir, name, family="decoder", shift=0.0):
  """Writes a study of four sizes with one seed each."""
  cells = []
  for label, params in (("d8", 1_000), ("d16", 4_000), ("d32", 16_000), ("d64", 64_000)):
    cell = synthetic.cell(label, params, family)
    rows = synthetic.few_shot_rows(cell, 0.3 + 0.1 * len(cells) + shift, np.random.default_rng(0))
    synthetic.write_cell(workdir / "cells" / cell["cell_id"], cell, rows)
    cells.append(cell)
  synthetic.write_sweep(workdir, cells, study=name)
  return workdir


OVERLAY = (
  "family,model,n_params,task,metric,value,n_shots,chance\n"
  "published,small,2000,rule_induction,accuracy,.31,11,.25\n"
  "published,large,32000,rule_induction,accuracy,.72,11,.25\n"
)


def test_families_of_one_name_are_told_apart_and_no_value_changes(tmp_path):
  a, b = study(tmp_path / "a", "one"), study(tmp_path / "b", "two", shift=0.2)
  merged = compare.merge([frame.load(a), frame.load(b)])
  assert set(merged.cells["family"]) == {"one: decoder", "two: decoder"}
  assert merged.cells["cell_id"].is_unique and len(merged.cells) == 8
  final = frame.final(merged)
  for name, workdir in (("one: decoder", a), ("two: decoder", b)):
    own = final.loc[final["family"] == name, "value"].to_numpy()
    np.testing.assert_array_equal(own, frame.final(frame.load(workdir))["value"].to_numpy())


def test_different_families_keep_their_names(tmp_path):
  a, b = study(tmp_path / "a", "one"), study(tmp_path / "b", "two", family="encoder")
  assert set(compare.merge([frame.load(a), frame.load(b)]).cells["family"]) == {"decoder", "encoder"}


def test_scores_from_elsewhere_are_points_of_their_own(tmp_path):
  a = study(tmp_path / "a", "one")
  (tmp_path / "published.csv").write_text(OVERLAY)
  merged = compare.merge([frame.load(a)], [curve_table.read(tmp_path / "published.csv")])
  rows = frame.final(merged)
  own = rows[rows["family"] == "published"]
  assert own[["params_total", "value"]].to_numpy().tolist() == [[2000, 0.31], [32000, 0.72]]
  # What the file does not say is missing: no compute, no errors.
  assert own[["flops_exact", "stderr"]].isna().all().all()


def test_the_command_writes_one_page_of_all(tmp_path, capsys):
  a, b = study(tmp_path / "a", "one"), study(tmp_path / "b", "two")
  (tmp_path / "published.csv").write_text(OVERLAY)
  code, out, err = call(
    capsys, "report", f"--workdir={a}", f"--workdir={b}", f"--overlay={tmp_path / 'published.csv'}"
  )
  assert code == 0, err
  folder = a / "report/compare"
  assert out.strip() == str(folder / "index.html")
  families = set(pd.read_csv(folder / "tables/final.csv")["family"])
  assert families == {"one: decoder", "two: decoder", "published"}
  assert not (a / "records.parquet").exists()


def test_forecasts_of_one_study_are_not_scored_by_a_merged_one(tmp_path):
  a, b = study(tmp_path / "a", "one", family="encoder"), study(tmp_path / "b", "two")
  (tmp_path / "a/forecasts").mkdir()
  (tmp_path / "a/forecasts/x.json").write_text("{}")
  assert findings.forecasts(curve_table.load(a), a)["status"].tolist() == ["altered"]
  merged = compare.merge([frame.load(a), frame.load(b)])
  assert findings.of_study(merged, scored=False).forecasts.empty


@pytest.mark.parametrize(
  ("overlay", "message"),
  [("family,value\np,.5\n", "task is missing"), ("params,metric\n1,acc\n", "none of values")],
)
def test_bad_overlays_are_one_line(tmp_path, capsys, overlay, message):
  a = study(tmp_path / "a", "one")
  (tmp_path / "o.csv").write_text(overlay)
  code, out, err = call(capsys, "report", f"--workdir={a}", f"--overlay={tmp_path / 'o.csv'}")
  assert code == 2 and out == "" and err.count("\n") == 1
  assert message in err
