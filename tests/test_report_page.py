"""The report's page in a browser: no error, nothing fetched, and every selector redraws the figures."""

import json
import re
import subprocess

import numpy as np
import pytest
import synthetic_study as synthetic
from browser import CHROMIUM, needs_browser
from test_analysis import EDGES, EVIL

from lm_jax.analysis import curve_table, frame
from lm_jax.analysis.report import compare, page, report

pytestmark = needs_browser

# Collects what went wrong, waits for figures that are drawn later, leaves in the page what SCRIPT has `seen`.
HARNESS = """
const seen = {errors: []};
addEventListener("error", (e) => seen.errors.push(String(e.message)));
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
const $ = (id) => document.getElementById(id);
const settled = () => new Promise((done) => {
  const look = () => document.documentElement.dataset.waiting === "0" ? done() : setTimeout(look, 3);
  look();
});
const plots = [...document.querySelectorAll(".plot")];
const counts = () => Object.fromEntries(plots.map((p) => [p.id, Number(p.dataset.traces)]));
const choose = async (id, v) => {
  $(id).value = v;
  $(id).dispatchEvent(new Event($(id).type === "search" ? "input" : "change"));
  if ($(id).type === "search") await new Promise((done) => setTimeout(done, 300));
  await settled();
};
(async () => {
  await settled();
  SCRIPT
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.failure = $("failure").textContent;
  seen.images = document.images.length;
  seen.links = document.querySelectorAll(".plot svg a").length;
  const out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify(seen).replace(/</g, "\\u003c");
  document.body.append(out);
})();
"""
# Sets every selector to each of its options (FROM 0) or the last (FROM -1), switches a legend entry; sorts.
SELECTORS = """
seen.atFirst = counts();
seen.options = {};
for (const select of document.querySelectorAll("select")) {
  const first = select.value, options = [...select.options].map((o) => o.value).slice(FROM);
  seen.options[select.id] = {};
  for (const o of options) { await choose(select.id, o); seen.options[select.id][o] = counts(); }
  await choose(select.id, first);
}
const entry = () => document.querySelector("#plot-size .legend button");
if (entry()) { entry().click(); await settled(); seen.pressed = entry().getAttribute("aria-pressed"); }
const table = $("cells"), heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex((c) => c.textContent === "Accuracy");
const shown = () => [...table.tBodies[0].rows].map((r) => r.cells[column].dataset.v ?? null);
if (column >= 0) {
  const button = heads[column].firstChild;
  button.click(); seen.ascending = shown();
  button.click(); seen.descending = shown();
}
"""


def browse(path, profile, width=1200):
  """Returns the page's DOM after its scripts have run, and what the browser printed."""
  command = [
    CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", f"--user-data-dir={profile}", "--virtual-time-budget=60000",
    f"--window-size={width},900", "--dump-dom", path.as_uri(),
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
  return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probe(html, tmp_path, script, width=1200):
  """Returns what the script has seen in the page; it may await `choose` and `settled`."""
  # The page's own policy would not let the probe run.
  html = re.sub(r"<meta http-equiv[^>]*>", "", html)
  html = html.replace("</body>", f"<script>{HARNESS.replace('SCRIPT', script)}</script></body>")
  (tmp_path / "probed.html").write_text(html)
  dom, console = browse(tmp_path / "probed.html", tmp_path / "profile", width)
  assert console == []
  # The script itself holds the word too; the element it adds comes last.
  text = re.findall(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)[-1]
  seen = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
  assert seen["errors"] == [] and seen["failure"] == ""
  assert seen["overflow"] <= 0
  return seen


def selectors(study, tmp_path, width=1200, *, every_option=False):
  return probe(page.render(study), tmp_path, SELECTORS.replace("FROM", "0" if every_option else "-1"), width)


def test_selectors_redraw(tmp_path):
  synthetic.realistic(tmp_path)
  seen = selectors(frame.load(tmp_path), tmp_path, every_option=True)
  options = seen["options"]
  assert set(options["metric"]) == {"accuracy", "exact_match", "nll", "choice_prob", "brier"}
  assert set(options["shots"]) == {"window", "every", *map(str, range(12))}
  drawn = [count for chosen in options.values() for plots in chosen.values() for count in plots.values()]
  assert min(drawn) > 0
  # Every number of shots: a chance line, and for each of 12 the seeds, the mean, its Bayes-optimal level
  # and the control family's seeds and mean.
  assert options["shots"]["every"]["plot-size"] == 1 + 12 * 5
  assert options["shots"]["3"]["plot-size"] == 2 + 3 + 2  # the main family has an interval
  assert seen["atFirst"]["plot-along"] == 2 + 20  # chance and Bayes-optimal; 20 of 21 runs have started
  assert seen["atFirst"]["plot-shots"] == 2 + 7 * 2
  assert seen["pressed"] == "false"
  numbers = [float(v) for v in seen["ascending"] if v is not None]
  assert len(numbers) == 18 and numbers == sorted(numbers)
  assert seen["ascending"][18:] == seen["descending"][18:] == [None] * 3
  assert [float(v) for v in seen["descending"][:18]] == numbers[::-1]


def test_policy_lets_the_page_run(tmp_path):
  synthetic.text_study(tmp_path)
  (tmp_path / "index.html").write_text(page.render(frame.load(tmp_path)))
  dom, console = browse(tmp_path / "index.html", tmp_path / "profile", width=500)
  assert console == []
  assert re.search(r'<html[^>]* data-drawn="1"', dom)


@pytest.mark.parametrize("name", ["no_finished", "single_run", "two_tasks"])
def test_edges_draw_without_error(name, tmp_path):
  EDGES[name](tmp_path)
  seen = selectors(frame.load(tmp_path), tmp_path, width=600)
  if name == "two_tasks":
    assert set(seen["options"]["task"]) == {"python_stdlib"}
    assert seen["options"]["task"]["python_stdlib"]["plot-size"] > 0


def test_a_written_report_runs_and_offers_its_verdicts(ladder, tmp_path):
  # As it lies on the disk, with the policy that names its scripts.
  dom, console = browse(ladder / "report/index.html", tmp_path / "profile")
  assert console == []
  overview = re.search(r'<section id="emergence-section">(.*?)</section>', dom, flags=re.DOTALL)[1]
  assert overview.count("<tr>") == 1 + 4  # four metrics of the family that has sizes enough
  assert "Too few sizes for a verdict: depth control." in overview
  assert "<li>rule_induction, decoder: accuracy " in overview and 'id="emergence-section" hidden' not in dom
  assert '<img alt="power fit of rule_induction' in dom


LONG = "Ω" * 100 + "'\"&<b>" + "x" * 100


@pytest.mark.parametrize("name", [EVIL, LONG], ids=["markup", "long"])
@pytest.mark.parametrize("width", [1200, 500])
def test_names_cannot_inject_markup_nor_break_the_page(name, width, tmp_path):
  cells = [synthetic.cell(name, 1000, family=name), synthetic.cell(name, 3000, family="other")]
  for i, cell in enumerate(cells):
    cell["cell_id"] = f"c{i}"
    rows = synthetic.few_shot_rows(cell, 0.4, np.random.default_rng(0))
    synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows)
  synthetic.write_sweep(tmp_path, cells, study=name)
  seen = selectors(frame.load(tmp_path), tmp_path, width)
  assert seen["images"] == seen["links"] == 0


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
  """A study like a real one, with its report."""
  workdir = tmp_path_factory.mktemp("ladder")
  synthetic.realistic(workdir)
  report.write(workdir)
  return workdir


def test_filter_changes_figures_and_table(ladder, tmp_path):
  script = """
  await choose("shots", "window");
  const points = () => ["plot-size", "plot-seeds", "plot-along"].map((id) => Number($(id).dataset.points));
  seen.all = points();
  const boxes = [...document.querySelectorAll('fieldset[data-kind="family"] input')];
  boxes.find((b) => b.value === "depth control").click(); await settled();
  seen.withoutFamily = points(); seen.told = $("filter-told").textContent;
  await choose("filter-text", "seed 0 d8");
  seen.seedOfSize = points(); seen.rows = $("cells").tBodies[0].rows.length;
  $("filter-clear").click(); await settled(); seen.cleared = points();
  await choose("filter-text", "no such cell"); seen.nothing = points();
  """
  seen = probe((ladder / "report/index.html").read_text(), tmp_path, script)
  # Sizes: 6 with 16 finished seeds and their interval of both edges, and the control with 2 seeds.
  assert seen["all"][0] == 16 + 2 * 6 + 6 + 2 + 1
  assert seen["withoutFamily"][0] == seen["all"][0] - 3
  assert seen["told"] == "18 of 21 cells"
  assert seen["seedOfSize"][0] == 2 + 2 and seen["rows"] == 2  # d8 L1 and d8 L2: one seed and its mean each
  assert (
    seen["seedOfSize"][2] == 2 * 8
  )  # of 9 evaluations, the one before the first step has no place on a log axis
  assert seen["cleared"] == seen["all"] and seen["nothing"] == [0, 0, 0]


def test_every_figure_is_told_in_words_and_as_a_table(ladder, tmp_path):
  script = """
  await choose("shots", "window");
  seen.labels = Object.fromEntries([...document.querySelectorAll('.plot [role="img"]')].map(
    (c) => [c.parentNode.id, c.getAttribute("aria-label")]));
  const tables = [...document.querySelectorAll("details.numbers")];
  tables.forEach((t) => { t.open = true; });
  await new Promise((done) => setTimeout(done, 50));
  const texts = (row) => [...row.cells].map((c) => c.textContent);
  const read = () => [...document.querySelectorAll("#plot-size .numbers tbody tr")].map(texts);
  seen.rows = read();
  seen.empty = tables.filter((t) => !t.querySelector("tbody tr")).length;
  await choose("metric", "nll");
  seen.after = document.querySelector("#plot-size [role=img]").getAttribute("aria-label");
  seen.rowsAfter = read();
  seen.skip = document.querySelector(".skip").getAttribute("href");
  """
  seen = probe((ladder / "report/index.html").read_text(), tmp_path, script)
  assert len(seen["labels"]) == 9 and seen["empty"] == 0
  label = seen["labels"]["plot-size"]
  # By hand: means of the window over the seeds of the least and the greatest size.
  assert (
    "Accuracy against Parameters" in label and "6 points, from 0.2877 at 1,024 to 0.931 at 100,800" in label
  )
  assert "Bayes-optimal 0.9965" in label
  means = {
    row[0].split(": ")[-1]: float(row[2]) for row in seen["rows"] if row[0].startswith("mean over seeds")
  }
  assert means["d32 L2"] == pytest.approx(np.mean([0.632, 0.633, 0.629]), abs=1e-4)
  assert "NLL" in seen["after"] and seen["rowsAfter"] != seen["rows"]
  assert seen["skip"] == "#main"


def test_links_of_cells_and_figures_lead_to_files(ladder, tmp_path):
  script = """
  const links = (where) => [...document.querySelectorAll(where)].map((a) => a.getAttribute("href"));
  seen.cells = links("#cells a"); seen.figures = links(".own-files a"); seen.all = links("main a");
  """
  seen = probe((ladder / "report/index.html").read_text(), tmp_path, script)
  assert "../cells/rule-d8L1-0/records.jsonl" in seen["cells"]
  assert len(seen["cells"]) == 20 * 3  # one cell has not started
  assert len(seen["figures"]) == 8 * 4
  for link in seen["all"]:
    assert (ladder / "report" / link).is_file(), link


def test_a_line_joins_sizes_that_were_trained_in_one_way(ladder, tmp_path):
  synthetic.two_ways(tmp_path)
  script = 'seen.lines = document.querySelectorAll("#plot-size .scatterlayer .js-line").length;'
  script += 'seen.marks = document.querySelectorAll("#plot-size .scatterlayer .points path").length;'
  one, two = (probe(page.render(frame.load(w)), tmp_path, script) for w in (ladder, tmp_path))
  assert one["lines"] > two["lines"] == 2  # chance and the Bayes-optimal level
  assert two["marks"] == 16 + 8  # seeds, and means of two


def test_verdicts_choose_what_is_drawn(ladder, tmp_path):
  shared = {"task": "rule_induction", "family": "decoder", "x50_low": None, "x50_high": None, "q_value": 0.01}
  rows = [
    {**shared, "metric": "accuracy", "shots": "window", "x50": None, "verdict": "no rise resolved"},
    {**shared, "metric": "exact_match", "shots": "3", "x50": 20000.0, "x50_low": 9e3, "x50_high": 4e4,
     "verdict": f"sharp {EVIL}", "paired_metric": "nll", "paired_verdict": "smooth", "seeds_bimodal": True,
     "bimodal_sizes": [1e3, 2e3], "n_sizes": 6, "past_x50": 20224.8, "past_x50_low": 12003.0,
     "past_x50_high": None},
    {**shared, "metric": "nll", "family": EVIL, "shots": "window", "x50": None,
     "verdict": "insufficient data"},
  ]  # fmt: skip
  script = """
  seen.hidden = $("emergence-section").hidden;
  const texts = (row) => [...row.cells].map((c) => c.textContent);
  seen.rows = [...document.querySelectorAll("#emergence tbody tr")].map(texts);
  const buttons = document.querySelectorAll("#emergence button");
  const picked = async (i) => {
    buttons[i].click(); await settled();
    const note = document.querySelector("#plot-size .note").textContent;
    return [$("metric").value, $("shots").value, counts()["plot-size"], note];
  };
  seen.few = document.querySelector("#emergence p").textContent;
  seen.first = await picked(0); seen.second = await picked(1);
  await choose("size", "tokens"); seen.otherAxis = counts()["plot-size"];
  """
  study = frame.load(ladder)
  seen = probe(page.render(study, verdicts=rows), tmp_path, script)
  assert not seen["hidden"] and seen["images"] == 0
  assert seen["rows"][1][2:5] == ["decoder", f"sharp {EVIL}", "20,000 [9,000, 40,000]"]
  assert seen["rows"][1][5] == "2 of 6 sizes: 20,220 [12,000, ?]" and seen["rows"][0][5] == "–"
  assert seen["rows"][0][4] == "–" and len(seen["rows"]) == 2
  assert seen["few"] == f"Too few sizes for a verdict: {EVIL}."
  assert seen["first"][:2] == ["accuracy", "window"] and "x50" not in seen["first"][3]
  assert seen["second"][:2] == ["exact_match", "3"]
  assert "Vertical: x50 = 20,000 [9,000, 40,000] of decoder." in seen["second"][3]
  assert seen["otherAxis"] == seen["second"][2] - 2  # the band and its line are of parameters
  assert probe(page.render(study), tmp_path, 'seen.hidden = $("emergence-section").hidden;')["hidden"]


def test_thousands_of_cells_are_made_into_rows_as_they_are_asked_for(tmp_path):
  synthetic.large(tmp_path, steps=(0, 1000), num_losses=4)
  html = page.render(frame.load(tmp_path))
  assert len(html) < 15e6
  script = """
  const rows = () => $("cells").tBodies[0].rows.length;
  seen.atFirst = counts(); seen.rows = rows(); seen.told = $("cells-count").textContent;
  $("cells-more").click(); seen.more = rows();
  await choose("cells-filter", "3-4-24-9");
  seen.found = [...$("cells").tBodies[0].rows].map((r) => r.textContent);
  seen.notes = [...document.querySelectorAll(".plot .note")].map((n) => n.textContent).join(" ");
  """
  seen = probe(html, tmp_path, script)
  assert min(seen["atFirst"].values()) > 0
  assert seen["rows"] == 100 and seen["more"] == 600 and seen["told"] == "100 of 5,000 cells"
  assert len(seen["found"]) == 1 and "3-4-24-9" in seen["found"][0]
  assert "200 of 1250 runs are drawn" in seen["notes"] and "24 of 125 sizes are drawn" in seen["notes"]


def test_compared_studies_share_a_page(ladder, tmp_path):
  synthetic.realistic(tmp_path / "second", study="second")
  table = tmp_path / "pretrained.csv"
  table.write_text("family,model,n_params,task,metric,value,shots\n"
                   "Pythia,14m,14000,rule_induction,accuracy,0.5,window\n"
                   "Pythia,70m,70000,rule_induction,accuracy,0.75,window\n")  # fmt: skip
  study = compare.merge([frame.load(ladder), frame.load(tmp_path / "second")], [curve_table.read(table)])
  script = """
  await choose("shots", "window");
  seen.legend = [...document.querySelectorAll("#plot-size .legend button")].map((b) => b.textContent);
  seen.label = document.querySelector("#plot-size [role=img]").getAttribute("aria-label");
  """
  seen = probe(page.render(study), tmp_path, script)
  assert {"second: decoder", "Pythia"} <= set(seen["legend"])
  assert "Pythia, 2 points, from 0.5 at 14,000 to 0.75 at 70,000" in seen["label"]
