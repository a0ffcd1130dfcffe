"""Learning rates of points: the best of a sweep stays, one at its edge is flagged, missing is missing."""

import itertools
import json

import numpy as np
import pytest
from synthetic_study import cell, row, write_cell, write_sweep

from lm_jax.analysis import curve_table, loss_points
from lm_jax.analysis.scaling_laws import summary
from lm_jax.strict import ConfigError

SIZES = (1e3, 1e4, 1e5)
RATES = (1e-3, 3e-3, 1e-2)
BEST = {1e3: 3e-3, 1e4: 3e-3, 1e5: 1e-3}  # of the largest at an edge


def loss_at(size, rate, seed):
  return 1 + 30 / size**0.4 + 0.05 * np.log(rate / BEST[size]) ** 2 + 1e-3 * seed


def table(tmp_path, lines, head="n_params,tokens,lr,seed,loss"):
  path = tmp_path / "points.csv"
  path.write_text("\n".join([head, *lines]))
  return curve_table.read(path)


def swept(tmp_path, rates=RATES):
  return table(tmp_path, [f"{n:g},1e6,{r:g},{s},{loss_at(n, r, s)}"
                          for n, r, s in itertools.product(SIZES, rates, (0, 1))])  # fmt: skip


def test_the_best_of_each_sweep_stays_with_all_its_seeds(tmp_path):
  found = loss_points.of_table(swept(tmp_path))
  assert found.n_params.tolist() == np.repeat(SIZES, 2).tolist()
  assert found.loss == pytest.approx([loss_at(n, BEST[n], s) for n, s in itertools.product(SIZES, (0, 1))])
  assert found.learning_rates == "tuned"
  assert found.at_edge.tolist() == [False] * 4 + [True] * 2
  assert found.notes == ("12 of 18 points are of learning rates that are not the best, and left out",)


def test_the_best_is_the_best_on_average(tmp_path):
  """One lucky seed of a worse learning rate is no reason to keep it."""
  lines = ["10,5,.1,0,2.0", "10,5,.1,1,2.1", "10,5,.2,0,1.9", "10,5,.2,1,2.9", "10,5,.3,0,3", "10,5,.3,1,3"]
  found = loss_points.of_table(table(tmp_path, lines))
  assert found.loss.tolist() == [2.0, 2.1] and found.at_edge.all()


@pytest.mark.parametrize(
  ("rates", "wanted"),
  [
    (("1e-3",) * 4, "one for all"), (("1e-3", "2e-3", "3e-3", "4e-3"), "several, not swept"),
    (("1e-3", "", "1e-3", "1e-3"), None), (("",) * 4, None),
  ],
)  # fmt: skip
def test_what_was_not_swept_is_kept_and_told(tmp_path, rates, wanted):
  found = loss_points.of_table(
    table(tmp_path, [f"{i + 1}e3,1e6,{r},0,{3 - i / 9}" for i, r in enumerate(rates)])
  )
  assert len(found) == 4
  assert (found.learning_rates, found.at_edge) == (wanted, None)


def test_sizes_without_a_sweep_are_no_edges(tmp_path):
  lines = ["10,5,.1,0,3", "10,5,.2,0,2", "10,5,.3,0,3", "20,5,.1,0,1", "20,9,.1,0,1"]
  found = loss_points.of_table(table(tmp_path, lines))
  assert found.learning_rates == "tuned in part"
  assert found.loss.tolist() == [2, 1, 1] and not found.at_edge.any()


def test_tokens_tell_runs_apart_when_derived_from_compute(tmp_path):
  lines = ["10,600,.1,0,3", "10,600,.2,0,2", "10,1200,.1,0,1.5", "10,1200,.2,0,2.5", "10,,.2,0,2.5"]
  found = loss_points.of_table(table(tmp_path, lines, "n_params,compute,lr,seed,loss"))
  assert list(zip(found.n_tokens, found.loss, strict=True)) == [(10, 2), (20, 1.5)]


def summarized(points, **options):
  options = {"law": "power", "bootstrap": 0} | options
  return summary.summarize({("total", "6nd"): points}, summary.Options(**options))


def test_the_card_states_them_and_edges_can_be_dropped(tmp_path):
  points = loss_points.of_table(swept(tmp_path))
  kept = summarized(points)
  assert len(kept.points) == 6
  assert kept.tree["card"]["learning_rates"] == "tuned"
  assert kept.tree["card"]["best_at_edge_of_learning_rates"] == "2 points, kept"
  assert any("edge of its sweep at N 1e+05 D 1e+06: 2 points, kept" in note for note in kept.tree["notes"])
  dropped = summarized(points, edges="drop")
  assert set(dropped.points.n_params) == {1e3, 1e4} and dropped.tree["n_points"] == 4
  assert dropped.tree["card"]["best_at_edge_of_learning_rates"] == "left out"
  assert any("2 points, left out" in note for note in dropped.tree["notes"])
  with pytest.raises(ConfigError, match="edges='dorp': must be keep or drop"):
    summarized(points, edges="dorp")
  with pytest.raises(ConfigError, match="edges='drop': all 2 points are at an edge"):
    summarized(points.keep(points.at_edge), edges="drop")


def test_a_workdir_says_its_learning_rates(tmp_path):
  cells = []
  for size, rate, seed in itertools.product(SIZES, RATES, (0, 1)):
    one = cell(
      f"size {size:g}", int(size), seed=seed, task="python_stdlib", **{"optimizer.learning_rate": rate}
    )
    one["cell_id"] += f"-{rate:g}"
    write_cell(tmp_path / "cells" / one["cell_id"], one,
               [row(one, "nll", loss_at(size, rate, seed), step=one["num_steps"])])  # fmt: skip
    cells.append(one)
  write_sweep(tmp_path, cells)
  table = curve_table.load(tmp_path)
  assert sorted(table.rows["learning_rate"]) == sorted(RATES * 6)
  points = loss_points.of_table(table)
  assert points.learning_rates == "tuned"
  assert list(zip(points.n_params, points.loss, points.at_edge, strict=True)) == [
    (n, loss_at(n, BEST[n], s), n == 1e5) for n, s in itertools.product(SIZES, (0, 1))
  ]  # fmt: skip


def test_a_learning_rate_that_no_sweep_varies_is_in_the_config_and_may_be_missing(tmp_path):
  cells = [cell(f"size {n:g}", int(n), task="python_stdlib") for n in SIZES]
  for one in cells:
    write_cell(tmp_path / "cells" / one["cell_id"], one, [row(one, "nll", 2.0, step=one["num_steps"])])
  write_sweep(tmp_path, cells)
  assert curve_table.load(tmp_path).rows["learning_rate"].tolist() == [3e-3] * 3
  path = tmp_path / "cells" / cells[1]["cell_id"] / "config.json"
  config = json.loads(path.read_text())
  del config["optimizer"]
  path.write_text(json.dumps(config))
  assert curve_table.load(tmp_path).rows["learning_rate"].isna().tolist() == [False, True, False]
  assert loss_points.of_table(curve_table.load(tmp_path)).learning_rates is None
