"""`lm-jax fit`: JSON, text, figure, columns and workdirs; bad input is one line."""

import json

import numpy as np
import pytest
from shared import folder
from synthetic_study import cell, row, write_cell, write_sweep

from lm_jax import cli

QUICK = ("--bootstrap=20",)


def call(capsys, *words) -> tuple[int, str, str]:
  with pytest.raises(SystemExit) as stop:
    cli.main(["fit", *map(str, words)])
  return stop.value.code, *capsys.readouterr()


def fit_json(capsys, *words) -> dict:
  code, out, err = call(capsys, *words, "--json")
  assert (code, err) == (0, "")
  assert len(out.splitlines()) == 1
  return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def refused(capsys, *words) -> str:
  code, out, err = call(capsys, *words)
  assert (code, out) == (2, "")
  assert len(err.splitlines()) == 1
  return err


@pytest.fixture(scope="module")
def epoch():
  return folder("data", "curves", "epoch_chinchilla", "svg_extracted_data.csv")


@pytest.fixture
def table(tmp_path):
  """Returns a CSV of isoFLOP profiles with columns of its own names."""
  rng = np.random.default_rng(0)
  lines = ["size_M,D,unique,checkpoint loss,run"]
  for budget in np.geomspace(1e19, 1e22, 6):
    for N in 0.1 * np.sqrt(budget) * np.geomspace(0.2, 5, 8) / 6**0.5:
      D = budget / 6 / N
      loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(2e-3 * rng.normal())
      lines.append(f"{N / 1e6:.17g},{D:.17g},{D / 2:.17g},{loss:.17g},run {len(lines) // 2}")
  path = tmp_path / "points.csv"
  path.write_text("\n".join(lines))
  return path


COLUMNS = ("--columns=n_params=1e6*size_M,n_tokens=D", "--columns=value=checkpoint loss")


def with_metric(path):
  """Adds the name of the metric, without which a column of values says nothing."""
  head, *lines = path.read_text().splitlines()
  path.write_text("\n".join([head + ",metric", *(line + ",loss" for line in lines)]))
  return path


# --- what comes out ---------------------------------------------------------------------------------


def test_the_published_fit(capsys, epoch):
  tree = fit_json(capsys, f"--table={epoch}", "--law=chinchilla", "--loss=huber", "--delta=1e-3",
                  "--drop_highest=5", "--bootstrap=100", "--budgets=1e20,1e21")  # fmt: skip
  wanted = {"A": 477.8258, "B": 2143.417, "E": 1.817218, "alpha": 0.347310, "beta": 0.367172}
  assert {k: tree[k] for k in wanted} == pytest.approx(wanted, rel=2e-6)
  assert tree["a"] == pytest.approx(0.51390, abs=5e-6)
  assert tree["objective"] == pytest.approx(1.018274017801e-3, rel=1e-12)
  assert tree["status"] == "ok"
  for name in (*wanted, "a"):
    assert tree["ci95"][name][0] < tree[name] < tree["ci95"][name][1]
  assert (tree["bootstrap"], tree["bootstrap_converged"]) == (100, 100)
  assert [r["flops"] for r in tree["allocation"]] == [1e20, 1e21]
  assert [round(r["a"], 3) for r in tree["influence"]] == [0.565, 0.544, 0.524, 0.514, 0.509, 0.484]
  assert tree["columns"]["n_params"] == "Model Size"
  card = tree["card"]
  assert card["reduction"] == "sum" and card["delta"] == 1e-3 and card["learning_rates"] is None
  assert card["D"] == "C / (6 N)" and card["exclusions"] == "5 points of the highest losses"
  assert {"N", "C", "optimizer", "tolerance", "starts", "checkpoints", "intervals", "form"} <= set(card)


def test_the_text_says_the_same(capsys, epoch):
  code, out, err = call(capsys, f"--table={epoch}", "--drop_highest=5", *QUICK)
  assert (code, err) == (0, "")
  for part in ("n_params = Model Size", "0.5139", "objective 0.0010182740178 (sum)",
               "20 of 20 refits converged", "card:",
               "not stated by the table", "2 isoFLOP akima", "naive"):  # fmt: skip
    assert part in out
  assert "nan" not in out.lower()


@pytest.mark.parametrize("law", ["chinchilla", "isoflop", "envelope", "power", "bnsl"])
def test_lines_fit_a_terminal_and_the_first_say_what_was_found(capsys, table, law):
  with_metric(table)
  long = table.with_name("a_table_of_a_name_that_no_terminal_has_room_for" * 3 + ".csv")
  long.write_text(table.read_text().replace(",run ", f",{'a_run_of_a_long_name_' * 5}"))
  code, out, _ = call(capsys, f"--table={long}", f"--law={law}", "--x=C", "--breaks=4", *COLUMNS, *QUICK)
  assert code == 0
  lines = out.splitlines()
  assert max(map(len, lines)) < 160
  order = (
    "status",
    "note:",
    "compute-optimal allocation",
    "optimum of each",
    "with so many",
    "the exponents",
    "card:",
  )
  at = {part: i for part in order for i, line in reversed(list(enumerate(lines))) if part in line}
  assert {"status", "card:"} <= set(at) and list(at.values()) == sorted(at.values())
  assert at["status"] < 24
  if law in ("chinchilla", "isoflop", "envelope"):
    assert at["compute-optimal allocation"] < 20


@pytest.mark.parametrize("law", ["kaplan", "power", "bnsl", "data_constrained", "isoflop", "envelope"])
def test_every_law_of_a_table_with_names_of_its_own(capsys, table, law):
  with_metric(table)
  columns = (*COLUMNS, "--columns=unique_tokens=unique")
  tree = fit_json(capsys, f"--table={table}", f"--law={law}", "--x=C", *columns, *QUICK)
  assert (tree["law"], tree["n_points"]) == (law, 48)
  assert tree["card"]["form"]
  if law in ("isoflop", "envelope"):
    assert tree["a"] == pytest.approx(0.37 / 0.72, abs=0.1)
    assert tree["optima"] and tree["allocation"]
    assert "20 resamples" in tree["card"]["intervals"] and tree["card"]["method"]
  else:
    assert isinstance(tree["objective"], float) and tree["holdout"]
  code, out, _ = call(capsys, f"--table={table}", f"--law={law}", *columns, *QUICK)
  assert code == 0 and "card:" in out


def test_runs_are_drawn_together(capsys, table):
  with_metric(table)
  tree = fit_json(capsys, f"--table={table}", "--cluster=run", "--seed=3", *COLUMNS, *QUICK)
  assert (tree["cluster"], tree["seed"]) == ("run", 3)
  assert tree["n_runs"] < tree["n_points"] == 48
  assert "over runs" in tree["card"]["intervals"]
  assert tree["card"]["checkpoints"] == "1.92 points a run"


def test_no_bootstrap_has_no_intervals(capsys, epoch):
  tree = fit_json(capsys, f"--table={epoch}", "--bootstrap=0")
  assert tree["ci95"] is None and tree["bootstrap"] == 0
  assert tree["card"]["intervals"] == "none"
  assert all(r["loss_ci95"] is None for r in tree["allocation"])


def test_a_workdir(capsys, tmp_path):
  cells, rng = [], np.random.default_rng(0)
  for i, (params, steps) in enumerate((p, s) for p in np.geomspace(1e3, 1e6, 5) for s in (500, 2000, 8000)):
    one = cell(f"size {i}", int(params), num_steps=steps, task="python_stdlib")
    tokens = steps * 64 * 35
    nll = (1.1 + 30 / params**0.4 + 900 / tokens**0.5) * np.exp(1e-3 * rng.normal())
    write_cell(tmp_path / "cells" / one["cell_id"], one, [row(one, "nll", nll, step=steps)])
    cells.append(one)
  write_sweep(tmp_path, cells)
  tree = fit_json(capsys, f"--workdir={tmp_path}", "--n=nonembedding", "--c=exact", *QUICK)
  assert (tree["n_points"], tree["metric"]) == (15, "nll")
  assert tree["card"]["N"] == "parameters without embeddings and output layer"
  assert tree["card"]["C"] == "as the table counts it"
  panel = {(r["n"], r["c"]) for r in tree["sensitivity"]}
  assert panel == {(n, c) for n in ("total", "nonembedding") for c in ("6nd", "exact")}
  assert tree["alpha"] == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure(capsys, tmp_path, epoch, ending, start):
  path = tmp_path / f"fit.{ending}"
  fit_json(capsys, f"--table={epoch}", "--drop_highest=5", f"--figure={path}", *QUICK)
  assert path.read_bytes().startswith(start)
  if ending == "svg":
    text = path.read_text()
    assert "predicted loss (nats/token)" in text and "residual (%)" in text


@pytest.mark.parametrize("law", ["isoflop", "power", "envelope"])
def test_figures_of_other_laws(capsys, tmp_path, table, law):
  path = tmp_path / "fit.svg"
  fit_json(capsys, f"--table={with_metric(table)}", f"--law={law}", f"--figure={path}", *COLUMNS, *QUICK)
  text = path.read_text()
  assert "(FLOPs)" in text and "loss (nats/token)" in text
  assert ("isoFLOP profiles" in text) == (law == "isoflop")
  assert ("compute-optimal parameters" in text) == (law != "power")


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--law=chinchila",), "--law='chinchila': unknown; did you mean 'chinchilla'?"),
    (("--loss=hubber",), "loss='hubber': unknown; did you mean 'huber'?"),
    (("--loss=lad", "--delta=0.1"), "delta=0.1: must be left out"),
    (("--drop_highest=500",), "drop_highest=500: must be from 0 to 244"),
    (("--drop_highest=-1",), "drop_highest=-1: must be from 0 to 244"),
    (("--drop_highest=241",), "needs more points than that, and there are 2"),
    (("--edges=dorp",), "--edges='dorp': must be keep or drop"),
    (("--n=non",), "--n='non': must be total or nonembedding"),
    (("--c=6n",), "--c='6n': must be 6nd or exact"),
    (("--n=nonembedding",), "--n=nonembedding: no column of these parameters; it has --n=total"),
    (("--bootstrap=1",), "--bootstrap=1: must be 0, or 2 and more"),
    (("--law=isoflop", "--bootstrap=0"), "--bootstrap=0: must be 2 or more for --law=isoflop"),
    (("--cluster=seed",), "cluster='seed': must be point or run"),
    (("--budgets=many",), "--budgets=many: must be numbers with commas between"),
    (("--budgets=1e20,-1",), "--budgets=-1: must be a finite number greater than 0"),
    (("--cutoffs=1", "--bootstrap=0"), "cutoff=1: must leave points below and above it"),
    (("--law=power", "--x=M"), "x='M': unknown; allowed: N, D, C"),
    (("--law=bnsl", "--breaks=9"), "breaks=9: must be from 1 to 5"),
    (("--law=data_constrained",), "needs a column unique_tokens"),
    (("--figure=fit.jpg",), "--figure=fit.jpg: must end in .png, .svg, .pdf"),
    (("--figure=nowhere/fit.png",), "--figure=nowhere/fit.png: no such folder 'nowhere'"),
    (("--columns=n_parms=x",), "unknown name 'n_parms'; did you mean 'n_params'?"),
  ],
)
def test_one_line_says_what_is_wrong(capsys, epoch, words, message):
  assert message in refused(capsys, f"--table={epoch}", *words)


def test_a_table_or_a_workdir(capsys, epoch, tmp_path):
  message = "--table=FILE or --workdir=DIR: one of them must be given"
  assert message in refused(capsys)
  assert message in refused(capsys, f"--table={epoch}", f"--workdir={tmp_path}")
  assert "--columns: is for --table" in refused(capsys, f"--workdir={tmp_path}", "--columns=n_params=x")


@pytest.mark.parametrize(
  ("losses", "message"),
  [
    ([2.5] * 9, "all 9 losses are equal (2.5)"),
    ([2.0, -1.0, *[2.5] * 7], "loss of -1: must be greater than 0"),
    ([2.0, "oops", *[2.5] * 7], "loss='oops' is no number"),
    ([2.0, 2.1, 2.2, "NaN", "", *[2.5] * 2], "there are 5"),
  ],
)
def test_losses_that_cannot_be_fitted(capsys, tmp_path, losses, message):
  path = tmp_path / "bad.csv"
  lines = [f"{(i + 1) * 1e7},{(9 - i) * 1e9},{loss}" for i, loss in enumerate(losses)]
  path.write_text("\n".join(["n_params,n_tokens,loss", *lines]))
  assert message in refused(capsys, f"--table={path}")
