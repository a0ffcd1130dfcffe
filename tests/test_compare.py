"""Several studies as one: nothing is taken for another's, and scores are drawn as they are."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic
from test_cli import call

from lm_jax.analysis import curve_table, findings, frame
from lm_jax.analysis.report import compare, page
from lm_jax.strict import ConfigError

HEAD = "family,model,n_params,flops,task,metric,value,shots,stderr"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("studies")
  synthetic.realistic(workdir / "a", study="first")
  synthetic.realistic(workdir / "b", study="second")
  return [frame.load(workdir / name) for name in "ab"]


def table(tmp_path, *lines, head=HEAD):
  path = tmp_path / "pretrained.csv"
  path.write_text("\n".join([head, *lines]) + "\n")
  return curve_table.read(path)


def values(study, family, metric="accuracy"):
  rows = frame.final(study)
  own = rows[(rows["family"] == family) & (rows["metric"] == metric) & (rows["shots"] == "window")]
  return dict(zip(own["label"] + " " + own["seed"].astype(str), own["value"], strict=True))


def test_cells_and_values_of_each_study_are_kept(studies):
  merged = compare.merge(studies)
  assert merged.name == "first + second"
  assert len(merged.cells) == 42 and merged.cells["cell_id"].is_unique
  assert len(merged.records) == sum(len(study.records) for study in studies)
  assert set(merged.cells["family"]) == {
    f"{study}: {family}" for study in ("first", "second") for family in ("decoder", "depth control")
  }
  for study in studies:
    assert values(merged, f"{study.name}: decoder") == values(study, "decoder")
  assert len(merged.missing) == 6
  assert list(merged.tasks) == ["rule_induction"]


def test_families_of_one_study_keep_their_names(studies):
  other = dataclasses.replace(
    studies[1],
    cells=studies[1].cells.assign(family="encoder"), records=studies[1].records.assign(family="encoder"),
  )  # fmt: skip
  assert set(compare.merge([studies[0], other]).cells["family"]) == {"decoder", "depth control", "encoder"}


def test_tasks_of_other_parameters_are_told_apart(studies):
  info = dataclasses.replace(studies[1].tasks["rule_induction"], chance=0.125)
  other = dataclasses.replace(studies[1], tasks={"rule_induction": info})
  merged = compare.merge([studies[0], other])
  assert {key: task.chance for key, task in merged.tasks.items()} == {
    "rule_induction": 0.25, "rule_induction (second)": 0.125}  # fmt: skip
  counts = frame.final(merged)["task"].value_counts()
  assert counts["rule_induction"] == counts["rule_induction (second)"] == len(frame.final(studies[0]))


def test_studies_of_one_name_are_told_apart_by_their_folders(studies):
  merged = compare.merge([dataclasses.replace(study, name="same") for study in studies])
  assert merged.name == "same a + same b"
  assert merged.cells["cell_id"].is_unique
  again = compare.merge([studies[0], studies[0]])
  assert again.cells["cell_id"].is_unique and again.cells["family"].nunique() == 4


def test_links_lead_to_the_cells_of_each_study(studies, tmp_path):
  for cell in page.payload(compare.merge(studies), folder=tmp_path)["cells"]:
    for name in cell["files"]:
      assert (tmp_path / cell["folder"] / name).is_file()
  assert {c["folder"].split("/")[-3] for c in page.payload(compare.merge(studies), folder=tmp_path)["cells"]
          if c["files"]} == {"a", "b"}  # fmt: skip


def test_scores_from_elsewhere_are_cells_without_a_run(studies, tmp_path):
  overlay = table(
    tmp_path, "Pythia,14m,14000,1e12,rule_induction,accuracy,0.5,window,0.01",
    "Pythia,14m,14000,1e12,rule_induction,accuracy,0.4,2,", "decoder,70m,70000,,rule_induction,nll,0.7,,",
  )  # fmt: skip
  merged = compare.merge(studies[:1], [overlay])
  assert values(merged, "Pythia") == {"14m 0": 0.5}
  # A family of the study is not joined with one that has the same name elsewhere.
  assert set(merged.cells["family"]) == {"decoder", "depth control", "Pythia", "pretrained: decoder"}
  assert frame.main_family(merged.cells) == "decoder"
  rows = frame.final(merged)
  own = rows[rows["family"] == "Pythia"].set_index("shots")
  assert (
    own.loc["2", "value"] == 0.4 and np.isnan(own.loc["2", "stderr"]) and own.loc["window", "stderr"] == 0.01
  )
  assert rows.loc[rows["family"] == "pretrained: decoder", "shots"].tolist() == ["all"]
  cells = merged.cells.set_index("family")
  assert cells.loc["Pythia", "flops_exact"] == 1e12 and np.isnan(
    cells.loc["pretrained: decoder", "flops_exact"]
  )
  assert cells.loc["Pythia", "finished"] and pd.isna(cells.loc["Pythia", "tokens"])
  pd.testing.assert_frame_equal(
    rows[rows["study"].notna()].reset_index(drop=True)[["cell_id", "value"]],
    frame.final(studies[0])[["cell_id", "value"]].assign(cell_id=lambda t: "first/" + t["cell_id"]),
  )


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("Pythia,14m,14000,,rule_inductoin,accuracy,0.5,window,", "did you mean 'rule_induction'?"),
    ("Pythia,14m,,,rule_induction,accuracy,0.5,window,", "row 1: n_params is missing"),
    ("Pythia,14m,14000,,rule_induction,,0.5,window,", "row 1: metric is missing"),
    ("Pythia,14m,14000,,rule_induction,accuracy,0.5,few,", "row 1: shots='few': must be a number"),
  ],
)
def test_bad_scores_are_one_clear_line(studies, tmp_path, line, words):
  with pytest.raises(ConfigError) as caught:
    compare.merge(studies, [table(tmp_path, line)])
  assert words in str(caught.value) and "\n" not in str(caught.value)


def test_page_is_written_beside_the_first_report_or_where_asked(studies, tmp_path):
  workdirs = [study.workdir for study in studies]
  path = compare.write(workdirs, output=tmp_path / "page")
  assert path == tmp_path / "page" / "index.html" and path.is_file()
  assert (tmp_path / "page" / "tables" / "accuracy_vs_params.csv").is_file()


def test_the_command_takes_several_workdirs_and_tables(studies, tmp_path, capsys):
  scores = tmp_path / "pretrained.csv"
  table(tmp_path, "Pythia,14m,14000,1e12,rule_induction,accuracy,0.5,window,0.01")
  workdirs = [f"--workdir={study.workdir}" for study in studies]
  code, out, err = call(capsys, "report", *workdirs, f"--overlay={scores}", f"--output={tmp_path / 'page'}")
  assert (code, out.strip()) == (0, str(tmp_path / "page/index.html")), err
  families = set(pd.read_csv(tmp_path / "page/tables/final.csv")["family"])
  assert {"first: decoder", "second: decoder", "Pythia"} <= families
  scores.write_text("family,value\np,.5\n")
  code, out, err = call(capsys, "report", workdirs[0], f"--overlay={scores}")
  assert (code, out, err.count("\n")) == (2, "", 1) and "task is missing" in err


def test_forecasts_of_one_study_are_not_scored_by_a_merged_one(tmp_path):
  synthetic.realistic(tmp_path, study="first")
  study = frame.load(tmp_path)
  (tmp_path / "forecasts").mkdir()
  (tmp_path / "forecasts/x.json").write_text("{}")
  assert findings.of_study(study).forecasts["status"].tolist() == ["altered"]
  assert findings.of_study(compare.merge([study]), scored=False).forecasts.empty
