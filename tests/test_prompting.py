"""The report of prompting: rows of tasks that no cell was trained on, by family, size and shots."""

import numpy as np
import pandas as pd
import pytest
import synthetic_study
from synthetic_study import TEXT, cell, row, text_rows, write_cell, write_sweep

from lm_jax.analysis import frame, prompting
from lm_jax.analysis.report import report

SIZES = {"d32 L2": (30_000, 0.30), "d64 L2": (120_000, 0.55)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Returns a text study of two families and two seeds, prompted with a task of chance .25."""
  path = tmp_path_factory.mktemp("prompted")
  rng, cells = np.random.default_rng(0), []
  for family, better in (("causal LM", 0.1), ("masked LM", 0.0)):
    for label, (params, accuracy) in SIZES.items():
      for seed in (0, 1):
        c = cell(f"{label}", params, family, seed, task="python_stdlib")
        c["cell_id"] += family[0]
        cells.append(c)
        asked = c | {"task": "colors"}
        rows = text_rows(c, 3.0, rng)
        for k, more in ((0, 0.0), (4, better)):
          for metric, chance in (("accuracy", 0.25), ("choice_prob", 0.25), ("nll", None)):
            value = accuracy + more + 0.02 * seed
            rows.append(
              row(
                asked, metric, value, step=c["num_steps"], n_shots=k, stderr=0.03 + seed * 0.01, chance=chance
              )
            )
        write_cell(path / "cells" / c["cell_id"], c, rows, task=TEXT)
  write_sweep(path, cells)
  return path


def test_means_are_over_seeds_and_errors_are_of_one(workdir):
  means = prompting.means(frame.load(workdir))
  keys = ["task", "family", "label", "n_shots", "metric"]
  assert not means.duplicated(keys).any()
  assert len(means) == 2 * 2 * 2 * 3
  found = means.set_index(keys).loc[("colors", "causal LM", "d64 L2", 4, "accuracy")]
  assert found["value"] == pytest.approx(0.55 + 0.1 + 0.01)
  assert found["stderr"] == pytest.approx(np.sqrt((0.03**2 + 0.04**2) / 2))
  assert (found["n_seeds"], found["chance"], found["n_items"]) == (2, 0.25, 1024)


def test_the_terminal_shows_accuracy_at_every_number_of_shots(workdir):
  text = prompting.format_table(frame.load(workdir))
  lines = [line.split() for line in text.splitlines()]
  assert lines[0][0] == "colors:"
  assert "chance 0.250" in text.splitlines()[0]
  assert ["d64", "L2", "causal", "LM", "0.560", "0.660"] in lines
  assert ["d32", "L2", "masked", "LM", "0.310", "0.310"] in lines


def test_the_report_has_its_figure_and_table(workdir):
  report.write(workdir)
  figures = {path.name for path in (workdir / "report" / "figures").iterdir()}
  assert {f"few_shot.colors.{ending}" for ending in ("png", "svg", "pdf")} <= figures
  assert "few_shot.colors.png" in (workdir / "report" / "index.html").read_text()
  table = pd.read_csv(workdir / "report" / "tables" / "few_shot.csv")
  assert set(table["family"]) == {"causal LM", "masked LM"}


def test_a_study_without_prompting_has_neither(tmp_path):
  synthetic_study.text_study(tmp_path)
  assert prompting.format_table(frame.load(tmp_path)) == ""
  report.write(tmp_path)
  assert not list((tmp_path / "report").rglob("few_shot*"))
