"""The analysis says what the records say: numbers recomputed by hand, nothing missing turned into zero."""

import dataclasses
import io
import json
import math
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic

from lm_jax import records
from lm_jax.analysis import cell_records, frame, headline
from lm_jax.analysis.figures import plots
from lm_jax.analysis.report import page, page_shell, report
from lm_jax.strict import ConfigError

FEW_SHOT_STEMS = (
  "accuracy_vs_params", "accuracy_vs_flops", "accuracy_vs_shots", "metrics_vs_params", "loss_curves",
  "training_curves", "seeds_by_size", "best_vs_flops",
)  # fmt: skip


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
  """A study like a real one, with its report."""
  workdir = tmp_path_factory.mktemp("ladder")
  synthetic.realistic(workdir)
  report.write(workdir)
  return workdir


def sweep(tmp_path, *cells_and_rows, study="synthetic"):
  for cell, rows in cells_and_rows:
    if rows is not None:
      synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows)
  synthetic.write_sweep(tmp_path, [cell for cell, _ in cells_and_rows], study)
  return frame.load(tmp_path)


def window_row(cell, metric, value, **kwargs):
  return synthetic.row(cell, metric, value, step=cell["num_steps"], prompt_id="window", **kwargs)


# --- what is read ---------------------------------------------------------------------------------


def test_headline_is_recomputed_from_the_files(ladder):
  table = headline.headline(frame.load(ladder)).set_index("label")
  for label in synthetic.LADDER:
    values = []
    for path in sorted((ladder / "cells").glob(f"rule-{label.replace(' ', '')}-*")):
      if json.loads((path / "status.json").read_text())["state"] == "done":
        rows = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
        values += [
          r["value"] for r in rows
          if (r["metric"], r["prompt_id"], r["step"]) == ("exact_match", "window", 2000)
        ]  # fmt: skip
    got = table.loc[label]
    assert got["n_seeds"] == len(values)
    expected = [sum(values) / len(values), min(values), max(values)]
    np.testing.assert_allclose(got[["exact_match", "exact_match_min", "exact_match_max"]].tolist(), expected)
  assert table.loc["d64 L2", "accuracy"] == pytest.approx((0.971 + 0.880 + 0.942) / 3)
  assert list(table.index) == list(synthetic.LADDER)  # by size, other families last


def test_stderr_over_items_does_not_shrink_with_seeds(tmp_path):
  cells = [synthetic.cell("d8 L1", 1000, seed=seed) for seed in range(3)]
  rows = [[window_row(c, "accuracy", 0.5, stderr=e)] for c, e in zip(cells, (0.03, 0.04, 0.05), strict=True)]
  table = headline.headline(sweep(tmp_path, *zip(cells, rows, strict=True)))
  assert table["accuracy_stderr"].item() == pytest.approx(math.sqrt((0.03**2 + 0.04**2 + 0.05**2) / 3))


def test_missing_cells_are_named_with_their_reason(ladder):
  missing = {m.cell_id: m for m in frame.load(ladder).missing.itertuples()}
  expected = {"rule-d16L2-2": ("failed", "loss is not finite"),
              "rule-d48L2-1": ("running", "step 650 of 2000, last heard of 2023-11-14 22:13:20 UTC"),
              "rule-d64L1-2": ("pending", "not started")}  # fmt: skip
  html = (ladder / "report/index.html").read_text()
  table = headline.format_table(frame.load(ladder))
  listed = {m["cell_id"]: m for m in json.loads((ladder / "report/summary.json").read_text())["missing"]}
  assert set(missing) == set(listed) == set(expected)
  for cell_id, (state, reason) in expected.items():
    assert missing[cell_id].state == listed[cell_id]["state"] == state
    assert reason in missing[cell_id].reason and reason in listed[cell_id]["reason"]
    assert reason in html and reason in table and cell_id in table
  assert "3 of 21 cells are missing" in html


def test_done_without_its_last_evaluation_is_missing(tmp_path):
  cell = synthetic.cell("d8 L1", 1000)
  study = sweep(tmp_path, (cell, [synthetic.row(cell, "accuracy", 0.9, step=512, prompt_id="window")]))
  assert not study.cells["finished"].item()
  assert "last at step 512" in study.cells["reason"].item()
  assert np.isnan(headline.headline(study)["accuracy"].item())


def test_null_stays_null(tmp_path):
  cells = [synthetic.cell("d8 L1", 1000, seed=seed) for seed in range(2)]
  study = sweep(
    tmp_path,
    (cells[0], [window_row(cells[0], "accuracy", 0.5), window_row(cells[0], "exact_match", None)]),
    (cells[1], [window_row(cells[1], "accuracy", None), window_row(cells[1], "exact_match", None)]),
  )
  row = headline.headline(study).iloc[0]
  assert row["accuracy"] == row["accuracy_min"] == 0.5
  assert np.isnan(row["exact_match"]) and np.isnan(row["nll"])
  size = report.summary(study)["sizes"][0]
  assert size["exact_match"] is None and size["nll"] is None and size["accuracy"] == 0.5
  values = page.payload(study)["cells"][1]["evals"]["values"]
  assert page.clean(values["accuracy"]["window"][0]) == [None]
  assert "0.000" not in headline.format_table(study)


def test_half_written_line_is_left_out(tmp_path):
  cell = synthetic.cell("d8 L1", 1000)
  sweep(tmp_path, (cell, [window_row(cell, "accuracy", 0.5)]))
  with open(tmp_path / "cells" / cell["cell_id"] / "records.jsonl", "a") as f:
    f.write('{"study": "synthetic", "cell_id": "')
  assert len(frame.load(tmp_path).records) == 1


def test_rows_of_an_earlier_version_lack_a_field_and_keep_their_values(tmp_path):
  """Records written before a field was added: missing there, not zero; any other field must be there."""
  cell = synthetic.cell("d8 L1", 1000)
  row = window_row(cell, "accuracy", 0.5)
  sweep(tmp_path, (cell, [row]))
  path = tmp_path / "cells" / cell["cell_id"] / "records.jsonl"
  earlier = {k: v for k, v in dataclasses.asdict(row).items() if k != "flops_6nd_nonembedding"}
  path.write_text(json.dumps(earlier) + "\n")
  study = frame.load(tmp_path)
  assert study.records["flops_6nd_nonembedding"].isna().all()
  assert np.isnan(study.cells["flops_6nd_nonembedding"].item())
  assert study.cells["flops_6nd"].item() == row.flops_6nd
  assert page.clean(page.payload(study)["cells"][0]["flops_6nd_nonembedding"]) is None
  assert (frame.final(study)["value"] == 0.5).all() and report.write(tmp_path).exists()
  path.write_text(json.dumps({k: v for k, v in earlier.items() if k != "flops_exact"}) + "\n")
  assert (
    "records.jsonl cannot be read: ValueError a row lacks flops_exact"
    in frame.load(tmp_path).cells["reason"].item()
  )


def test_the_page_offers_every_measure_of_compute():
  script = (page_shell.HERE / "page_figures.js").read_text()
  for axes in ("size", "compute", "along", "best"):
    listed = re.search(rf"{axes}: \[(.*?)\]", script)[1]
    assert all(f'"{name}"' in listed and name in page.NAMES for name in frame.COMPUTE)


def test_unreadable_records_hide_one_cell_only(tmp_path):
  cells = [synthetic.cell("d8 L1", 1000, seed=seed) for seed in range(2)]
  sweep(tmp_path, *((c, [window_row(c, "accuracy", 0.5)]) for c in cells))
  (tmp_path / "cells" / cells[0]["cell_id"] / "records.jsonl").write_text("not json\n")
  study = frame.load(tmp_path)
  assert study.cells["finished"].tolist() == [False, True]
  assert "records.jsonl cannot be read" in study.cells["reason"].iloc[0]


def test_parquet_holds_the_rows_of_the_jsonl(ladder):
  table = pd.read_parquet(ladder / "records.parquet")
  pd.testing.assert_frame_equal(table, frame.load(ladder).records)
  assert {name: str(t) for name, t in table.dtypes.items()} == cell_records.DTYPES
  lines = [line for p in (ladder / "cells").iterdir() for line in records.read(p / "records.jsonl")]
  back = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in table.to_dict("records")]

  def key(row):
    return json.dumps(row, sort_keys=True)

  assert sorted(map(key, back)) == sorted(map(key, lines))


def test_sizes_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path):
  overrides = ({"optimizer.learning_rate": 0.001}, {"optimizer.learning_rate": 0.003})
  cells = [synthetic.cell("d8 L1", 1000, seed=i, **o) for i, o in enumerate(overrides)]
  table = headline.headline(sweep(tmp_path, *((c, [window_row(c, "accuracy", 0.5)]) for c in cells)))
  assert list(table["label"]) == [f"d8 L1 optimizer.learning_rate={lr}" for lr in (0.001, 0.003)]
  assert list(table["n_seeds"]) == [1, 1]


def test_tasks_of_one_name_keep_their_own_yardsticks(tmp_path):
  cells = [synthetic.cell("d8 L1", 1000, seed=n, **{"task.num_labels": n}) for n in (4, 8)]
  for c, chance in zip(cells, (0.25, 0.125), strict=True):
    task = {**synthetic.RULES, "chance": chance}
    rows = [window_row(c, "accuracy", 0.5)]
    synthetic.write_cell(tmp_path / "cells" / c["cell_id"], c, rows, task=task)
  synthetic.write_sweep(tmp_path, cells)
  study = frame.load(tmp_path)
  assert {k: t.chance for k, t in study.tasks.items()} == {
    "rule_induction num_labels=4": 0.25, "rule_induction num_labels=8": 0.125}  # fmt: skip
  assert set(frame.final(study)["task"]) == set(study.tasks)


def test_bayes_optimal_of_the_window():
  info = frame.TaskInfo(
    "t", 0.25, tuple(range(12)), window=4, answer_length=1, bayes_accuracy=synthetic.BAYES
  )
  assert info.bayes("accuracy", "window") == pytest.approx((0.992 + 0.997 + 0.998 + 0.999) / 4)
  assert info.bayes("accuracy", "2") == 0.575
  # All four right is not the mean of each being right, and NLL is not accuracy.
  assert info.bayes("exact_match", "2") is None and info.bayes("nll", "2") is None
  assert dataclasses.replace(info, window=1).bayes("exact_match", "2") == 0.575
  assert dataclasses.replace(info, window=1, answer_length=3).bayes("exact_match", "2") is None


@pytest.mark.parametrize(
  ("files", "words"),
  [
    (None, "no such directory"),
    ({}, "neither sweep.json"),
    ({"sweep.json": "{"}, "cannot be read as JSON"),
    ({"sweep.json": "[]"}, "must hold a JSON object"),
    ({"sweep.json": "{}"}, "must list its cells"),
    ({"sweep.json": '{"cells": []}'}, "lists no cells"),
    ({"sweep.json": '{"cells": [{"label": "d8"}]}'}, "lacks cell_id"),
    ({"config.json": "{}"}, "not a resolved config"),
  ],
)
def test_bad_workdir_is_one_clear_line(tmp_path, files, words):
  for name, text in (files or {}).items():
    (tmp_path / name).write_text(text)
  with pytest.raises(ConfigError, match=words) as caught:
    frame.load(tmp_path / "absent" if files is None else tmp_path)
  assert "\n" not in str(caught.value)


def test_cell_id_cannot_leave_the_workdir(tmp_path):
  synthetic.write_sweep(tmp_path, [synthetic.cell("d8 L1", 1000) | {"cell_id": "../../elsewhere"}])
  with pytest.raises(ConfigError, match="must name a directory"):
    frame.load(tmp_path)


# --- what is written ------------------------------------------------------------------------------


def test_figures_in_three_formats_are_drawn(ladder):
  stems = FEW_SHOT_STEMS
  folder = ladder / "report/figures"
  law = "scaling_law.rule_induction-decoder.0"
  assert {p.name for p in folder.iterdir()} == {f"{s}.{e}" for s in (*stems, law) for e in plots.FORMATS}
  for stem in stems:
    pixels = matplotlib.image.imread(folder / f"{stem}.png")
    height, width = pixels.shape[:2]
    assert width > 900 and height > 400
    assert 0.01 < (pixels[..., :3].min(axis=-1) < 0.9).mean() < 0.5  # neither blank nor filled
    axis = {"accuracy_vs_params": ">Parameters<", "accuracy_vs_flops": ">Training FLOPs<"}.get(stem, "<text")
    assert axis in (folder / f"{stem}.svg").read_text()
    assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")


def test_report_is_idempotent_and_drops_stale_figures(ladder):
  folder = ladder / "report"
  before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
  stale, own = folder / "figures/bits_per_byte_vs_params.png", folder / "figures/mine.png"
  stale.write_bytes(b"old")
  own.write_bytes(b"not the report's")
  report.write(ladder)
  after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
  assert after.pop(own) and stale not in after
  own.unlink()
  assert before == after


def test_summary_and_tables_agree_with_the_headline(ladder):
  summary = json.loads((ladder / "report/summary.json").read_text())
  table = headline.headline(frame.load(ladder))
  assert summary["study"] == "rule induction ladder" and summary["versions"]["flax"] == "0.12.8"
  assert (summary["num_finished"], summary["num_cells"]) == (18, 21)
  np.testing.assert_allclose([s["nll"] for s in summary["sizes"]], table["nll"], rtol=1e-5)
  cells = pd.read_csv(ladder / "report/tables/cells.csv")
  final = pd.read_csv(ladder / "report/tables/final.csv")
  assert len(cells) == 21 and set(final["cell_id"]) == set(cells.loc[cells["finished"], "cell_id"])
  assert set(final["step"]) == {2000}


def test_page_loads_nothing_and_embeds_its_data(ladder):
  html = (ladder / "report/index.html").read_text()
  outside_scripts = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
  assert not re.search(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:|//)""", outside_scripts)
  assert "@import" not in outside_scripts and "url(" not in outside_scripts
  assert "default-src 'none'" in html and "{{" not in outside_scripts
  data = json.loads(re.search(r'id="data">(.*?)</script>', html).group(1))
  assert [t["key"] for t in data["tasks"]] == ["rule_induction"] and len(data["cells"]) == 21


EVIL = (
  """</script><script>alert(1)</script><img src=x onerror=alert(2)><a href="https://a.invalid">'&{{data}}"""
)


def test_markup_in_names_is_escaped(tmp_path):
  cell = synthetic.cell(EVIL, 1000, family=EVIL) | {"cell_id": "c"}
  failed = synthetic.cell("d8", 2000) | {"cell_id": "f"}
  synthetic.write_cell(tmp_path / "cells/f", failed, [], state="failed", error=EVIL)
  study = sweep(tmp_path, (cell, [window_row(cell, "accuracy", 0.5)]), (failed, None), study=EVIL)
  html = page.render(study)
  assert "alert(1)" in html
  assert "<script>alert" not in html
  assert "<img" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
  data = json.loads(re.search(r'id="data">(.*?)</script>', html).group(1))
  assert data["cells"][0]["label"] == EVIL


def edge_no_finished(tmp_path):
  cells = [synthetic.cell(label, n) for label, n in (("d8 L1", 1000), ("d16 L1", 4000))]
  rows = [synthetic.row(cells[0], "loss", 1.3, step=50, split="train")]
  synthetic.write_cell(tmp_path / "cells" / cells[0]["cell_id"], cells[0], rows, state="running", step=50)
  synthetic.write_sweep(tmp_path, cells)
  return {"loss_curves"}


def edge_nothing_started(tmp_path):
  synthetic.write_sweep(tmp_path, [synthetic.cell("d8 L1", 1000)])
  return set()


def edge_one_size(tmp_path):
  cell = synthetic.cell("d8 L1", 1000)
  rows = synthetic.few_shot_rows(cell, 0.4, np.random.default_rng(0))
  synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows)
  synthetic.write_sweep(tmp_path, [cell])
  return set(FEW_SHOT_STEMS)


def edge_single_run(tmp_path):
  cell = synthetic.cell("d8 L1", 1000)
  synthetic.write_cell(tmp_path, cell, synthetic.few_shot_rows(cell, 0.4, np.random.default_rng(0)))
  return set(FEW_SHOT_STEMS)


def edge_text(tmp_path):
  synthetic.text_study(tmp_path)
  return {"bits_per_byte_vs_params", "bits_per_byte_vs_flops", "loss_curves", "training_curves",
          "seeds_by_size", "best_vs_flops"}  # fmt: skip


def edge_two_tasks(tmp_path):
  few, text = synthetic.cell("d8 L1", 1000), synthetic.cell("d8 L1", 9000, task="python_stdlib")
  synthetic.write_cell(tmp_path / "cells" / few["cell_id"], few, [window_row(few, "accuracy", 0.5)])
  rows = synthetic.text_rows(text, 3.0, np.random.default_rng(0))
  synthetic.write_cell(tmp_path / "cells" / text["cell_id"], text, rows, task=synthetic.TEXT)
  synthetic.write_sweep(tmp_path, [few, text])
  return {"accuracy_vs_params", "accuracy_vs_flops", "training_curves", "bits_per_byte_vs_params",
          "bits_per_byte_vs_flops", "loss_curves", "seeds_by_size", "best_vs_flops"}  # fmt: skip


EDGES = {
  "no_finished": edge_no_finished, "nothing_started": edge_nothing_started, "one_size": edge_one_size,
  "single_run": edge_single_run, "text": edge_text, "two_tasks": edge_two_tasks,
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_edge(name, tmp_path):
  expected = EDGES[name](tmp_path)
  study = frame.load(tmp_path)
  figures = dict(plots.figures(study, formats=("png",)))
  assert {f.split(".")[0] for f in figures} == expected
  assert all(matplotlib.image.imread(io.BytesIO(f)).min() < 0.5 for f in figures.values())
  assert len(study.tasks) == 1 or all(len(f.split(".")) == 3 for f in figures)
  assert page.render(study).rstrip().endswith("</html>")
  assert headline.format_table(study)
  json.dumps(report.summary(study), allow_nan=False)


def test_analysis_does_not_import_jax():
  code = "import sys, lm_jax.analysis.report; assert not {'jax', 'flax'} & set(sys.modules), 'jax imported'"
  subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
