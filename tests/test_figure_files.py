"""The figures that other processes draw are those that this one would draw."""

import os
import signal
import subprocess

import numpy as np
import pandas as pd
import pytest
import synthetic_study as synthetic

from lm_jax.analysis import frame
from lm_jax.analysis.figures import figure_files, figure_parts, plots
from lm_jax.analysis.report import compare


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  folders = [tmp_path_factory.mktemp(name) for name in ("ladder", "text")]
  synthetic.realistic(folders[0])
  cells = []
  for size in (1_000, 3_000, 10_000, 30_000):
    cell = synthetic.cell(f"n{size}", size, task="python_stdlib") | {"cell_id": f"n{size}"}
    rows = [synthetic.row(cell, "nll", 0.5 + 3 * size**-0.2, step=cell["num_steps"])]
    synthetic.write_cell(folders[1] / "cells" / cell["cell_id"], cell, rows, task=synthetic.TEXT)
    cells.append(cell)
  synthetic.write_sweep(folders[1], cells)
  # Two tasks, and a column that only studies of several have.
  return compare.merge([frame.load(folder) for folder in folders])


def test_a_study_arrives_as_it_was(study, tmp_path):
  figure_files._save(study, tmp_path)
  back = figure_files._restore(tmp_path)
  pd.testing.assert_frame_equal(back.records, study.records)
  pd.testing.assert_frame_equal(back.cells, study.cells)
  assert back.tasks == study.tasks and back.workdir == study.workdir and back.versions == study.versions
  assert np.asarray([back.name, back.lm_jax_version]).tolist() == [study.name, study.lm_jax_version]


def test_figures_of_other_processes_are_the_same_bytes(study, tmp_path):
  with figure_files.Drawers() as drawers:
    drawers.draw(study, tmp_path)
    stems = drawers.stems()
  drawings = list(plots.drawings(study))
  assert stems == [drawing.stem for drawing in drawings] and len(stems) > 8
  for drawing in plots.drawings(study):
    for ending, content in figure_parts.encoded(drawing.figure).items():
      assert (tmp_path / "figures" / f"{drawing.stem}.{ending}").read_bytes() == content, drawing.stem
    table = (tmp_path / "tables" / f"{drawing.stem}.csv").read_text()
    assert table == drawing.numbers.to_csv(index=False)
  figures, tables = figure_files.names(stems)
  assert {path.name for path in (tmp_path / "figures").iterdir()} == set(figures)
  assert {path.name for path in (tmp_path / "tables").iterdir()} == set(tables)


def children():
  return subprocess.run(
    ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True, check=False
  ).stdout


def test_a_process_that_dies_is_an_error_and_none_outlives_its_report(study, tmp_path):
  with (
    pytest.raises(RuntimeError, match="ended with exit code -9"),
    figure_files.Drawers() as d,
  ):
    d.draw(study, tmp_path)
    for process in d._processes:
      os.kill(process.pid, signal.SIGKILL)
    d.stems()
  with pytest.raises(KeyboardInterrupt), figure_files.Drawers() as d:
    d.draw(study, tmp_path)
    assert "figure_files" in children()
    raise KeyboardInterrupt
  assert "figure_files" not in children()
  with figure_files.Drawers():  # what was to be read was bad input, and nothing is to be drawn
    assert "figure_files" in children()
  assert "figure_files" not in children()
