"""Anybody's table, and our own records, become the same columns; what is wrong is one line."""

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic
from shared import folder

from lm_jax.analysis import curve_table, frame, loss_points
from lm_jax.strict import ConfigError


def write(tmp_path, text, name="points.csv"):
  path = tmp_path / name
  path.write_text(text)
  return path


def test_columns_are_guessed_and_told(tmp_path):
  path = write(tmp_path, "Dataset,size_B,tokens_T,flops_1e21,acc\nmr,0.5,0.1,2,0.75\nmr,7,2,84,\n")
  table = curve_table.read(path)
  first = table.rows.iloc[0]
  assert (first["task"], first["metric"], first["value"]) == ("mr", "acc", 0.75)
  assert (first["n_params"], first["n_tokens"], first["flops"]) == (5e8, 1e11, 2e21)
  assert np.isnan(table.rows["value"].iloc[1]) and "1 of 2 values are missing" in table.notes[0]
  assert "n_params = 1e+09*size_B" in table.told()
  # What the file does not say is missing in every row, never zero.
  absent = ["seed", "stderr", "n_items", "chance", "ceiling", "step", "n_params_nonembedding"]
  assert table.rows[absent].isna().all().all()
  assert list(table.rows) == list(curve_table.ALIASES)


def test_a_column_for_each_metric_becomes_rows(tmp_path):
  path = write(tmp_path, "params,accuracy,nll\n10,.5,1.5\n20,.6,1.25\n")
  rows = curve_table.read(path).rows
  assert rows[["n_params", "metric", "value"]].to_numpy().tolist() == [
    [10, "accuracy", 0.5], [20, "accuracy", 0.6], [10, "nll", 1.5], [20, "nll", 1.25],
  ]  # fmt: skip


def test_what_is_said_goes_before_what_is_guessed(tmp_path):
  path = write(tmp_path, "size,kparams,value\n1,2,3\n")
  table = curve_table.read(path, {"n_params": "1000*kparams"})
  assert table.rows["n_params"].tolist() == [2000]
  assert curve_table.read(path).rows["n_params"].tolist() == [1]
  rows = curve_table.read(write(tmp_path, "params,acc,NLL\n1,.5,2\n"), {"value": "NLL"}).rows
  assert rows[["metric", "value"]].to_numpy().tolist() == [["nll", 2]]


def test_a_second_candidate_is_named(tmp_path):
  path = write(tmp_path, "size,params,value\n1,2,3\n")
  table = curve_table.read(path)
  assert table.rows["n_params"].tolist() == [2]
  assert table.notes == ("n_params is read from params, not from size",)


def test_endings_read_the_same(tmp_path):
  frame_ = pd.DataFrame({"params": [1, 2], "n_shots": [0, 4], "value": [0.25, 0.5]})
  frame_.to_parquet(tmp_path / "a.parquet")
  frame_.to_csv(tmp_path / "a.csv", index=False)
  frame_.to_csv(tmp_path / "a.tsv.gz", index=False, sep="\t")
  tables = [curve_table.read(tmp_path / f"a.{ending}").rows for ending in ("parquet", "csv", "tsv.gz")]
  assert tables[0]["shots"].tolist() == ["0", "4"]
  for other in tables[1:]:
    pd.testing.assert_frame_equal(tables[0], other)


@pytest.mark.parametrize(
  ("text", "given", "message"),
  [
    ("params,value\n1,2\n1,x2\n", {}, "row 2: value='x2' is no number"),
    ("params,vaule\n1,2\n", {}, "no column of values; did you mean 'vaule'?"),
    ("params,metric\n1,2\n", {}, "a column of metrics and none of values"),
    ("params,value\n1,2\n", {"n_params": "parms"}, "no column 'parms'; did you mean 'params'?"),
    ("params,value\n1,2\n", {"n_params": "k*params"}, "'k' is no number"),
    ("params,value\n", {}, "has no rows"),
    ("value,value\n1,2\n", {}, "cannot be read|several columns|no column for the size"),
  ],
)
def test_bad_files_are_one_clear_line(tmp_path, text, given, message):
  path = write(tmp_path, text)
  with pytest.raises(ConfigError, match=message) as error:
    curve_table.size_axis(curve_table.read(path, given))
  assert "\n" not in str(error.value)


def test_bad_paths_and_options(tmp_path):
  write(tmp_path, "params,value\n1,2\n")
  with pytest.raises(ConfigError, match=r"no such file; did you mean 'points.csv'"):
    curve_table.read(tmp_path / "point.csv")
  with pytest.raises(ConfigError, match=r"must end in \.csv"):
    curve_table.read(write(tmp_path, "", "points.xlsx"))
  with pytest.raises(ConfigError, match="unknown name 'n_param'; did you mean 'n_params'"):
    curve_table.parse_columns(["n_param=size"])
  with pytest.raises(ConfigError, match="must be NAME=COLUMN"):
    curve_table.parse_columns(["size"])
  assert curve_table.parse_columns(["n_params=a, task=b", "value=c"]) == {
    "n_params": "a", "task": "b", "value": "c",
  }  # fmt: skip
  table = curve_table.read(tmp_path / "points.csv")
  assert curve_table.size_axis(table) == "n_params"
  with pytest.raises(ConfigError, match=r"--x=flops: .* has no column for it; it has n_params"):
    curve_table.size_axis(table, "flops")
  with pytest.raises(ConfigError, match="--x=flop: unknown; did you mean 'flops'"):
    curve_table.size_axis(table, "flop")


def test_a_study_is_its_final_values(tmp_path):
  synthetic.realistic(tmp_path)
  study = frame.load(tmp_path)
  table = curve_table.load(tmp_path)
  final = frame.final(study)
  assert len(table.rows) == len(final) and table.rows["step"].nunique() == 1
  np.testing.assert_array_equal(table.rows["value"], final["value"])
  np.testing.assert_array_equal(table.rows["n_params"], final["params_total"].astype(float))
  at_11 = table.rows[(table.rows["metric"] == "accuracy") & (table.rows["shots"] == "11")]
  assert set(at_11["ceiling"]) == {synthetic.BAYES[11]} and set(at_11["chance"]) == {0.25}
  assert f"{len(study.missing)} of {len(study.cells)} cells are not finished" in table.notes[0]
  assert len(curve_table.load(tmp_path, checkpoints=True).rows) > len(final)


def test_losses_are_points(tmp_path):
  path = write(tmp_path, "params,compute,loss,run_id\n10,600,3,a\n10,1200,2.5,a\n20,,2,b\n")
  points = loss_points.of_table(curve_table.read(path))
  assert points.n_tokens.tolist() == [10, 20] and points.run.tolist() == ["a", "a"]
  assert points.notes == (
    "tokens are C / (6 N), since there is no column of tokens",
    "1 of 3 points lack a number and are left out",
  )  # fmt: skip
  path = write(tmp_path, "params,tokens,compute,loss\n10,5,700,3\n20,5,650,2\n")
  table = curve_table.read(path)
  assert loss_points.of_table(table).flops.tolist() == [300, 600]
  assert loss_points.of_table(table, c="exact").flops.tolist() == [700, 650]
  assert loss_points.of_table(table).run.tolist() == ["row 1", "row 2"]


@pytest.mark.parametrize(
  ("text", "options", "message"),
  [
    ("params,tokens,acc\n1,2,3\n", {}, "no metric of loss, nll, bits_per_byte"),
    ("params,loss\n1,2\n", {}, "neither a column of tokens nor one of compute"),
    ("params,tokens,loss\n1,2,3\n", {"c": "exact"}, "no column of compute"),
    ("params,tokens,loss\n1,2,3\n", {"n": "nonembedding"}, "it has --n=total"),
    ("params,tokens,loss\n1,-2,3\n", {}, "compute of -12|tokens of -2"),
    ("params,tokens,loss,task\n1,2,3,a\n1,2,3,b\n", {}, "losses of several; choose one as --task=: a, b"),
    ("params,tokens,loss,task\n1,2,3,abc\n", {"task": "abd"}, "--task=abd: not in .*did you mean 'abc'"),
  ],
)
def test_what_cannot_be_fitted_is_one_clear_line(tmp_path, text, options, message):
  table = curve_table.read(write(tmp_path, text))
  with pytest.raises(ConfigError, match=message):
    loss_points.of_table(table, **options)


def test_published_tables_are_read_without_help():
  bigg = curve_table.read(folder("data/curves/bigbench/bigg_mc_maxshot.csv"))
  assert curve_table.size_axis(bigg) == "n_params_nonembedding"
  counts = bigg.rows.groupby("task")["n_params_nonembedding"].nunique()
  assert len(counts) == 89 and set(counts) == {12}
  assert bigg.rows[["value", "chance"]].notna().all().all()
  # Two tasks have targets that are shares, for which the file says no number of items.
  assert bigg.rows.loc[bigg.rows["n_items"].isna(), "task"].nunique() == 2
  points = loss_points.of_table(
    curve_table.read(folder("data/curves/epoch_chinchilla/svg_extracted_data.csv"))
  )
  assert len(points) == 245
  np.testing.assert_allclose(points.flops, 6 * points.n_params * points.n_tokens, rtol=1e-12)
