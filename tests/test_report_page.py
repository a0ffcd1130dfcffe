"""The report's page in a browser: no error, nothing fetched, and every selector redraws the figures."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import synthetic_study as synthetic
from test_analysis import EDGES, EVIL

from lm_jax.analysis import frame, page, report

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

# Sets every selector to each of its options (FROM 0) or the last (FROM -1), switches a legend entry; sorts.
PROBE = """
const seen = {errors: []};
addEventListener("error", (e) => seen.errors.push(String(e.message)));
const plots = [...document.querySelectorAll(".plot")];
const counts = () => Object.fromEntries(plots.map((p) => [p.id, Number(p.dataset.traces)]));
const choose = (id, v) => {
  const select = document.getElementById(id);
  select.value = v;
  select.dispatchEvent(new Event("change"));
};
seen.atFirst = counts();
seen.options = {};
for (const select of document.querySelectorAll("select")) {
  const first = select.value, options = [...select.options].map((o) => o.value).slice(FROM);
  seen.options[select.id] = {};
  for (const o of options) { choose(select.id, o); seen.options[select.id][o] = counts(); }
  choose(select.id, first);
}
const entry = () => document.querySelector("#plot-size .legend button");
if (entry()) { entry().click(); seen.pressed = entry().getAttribute("aria-pressed"); }
const table = document.getElementById("cells"), heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex((c) => c.textContent === "Accuracy");
const shown = () => [...table.tBodies[0].rows].map((r) => r.cells[column].dataset.v ?? null);
if (column >= 0) {
  const button = heads[column].firstChild;
  button.click(); seen.ascending = shown();
  button.click(); seen.descending = shown();
}
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.failure = document.getElementById("failure").textContent;
seen.images = document.images.length;
seen.links = document.querySelectorAll(".plot svg a").length;
const out = document.createElement("pre");
out.id = "probe"; out.textContent = JSON.stringify(seen).replace(/</g, "\\\\u003c");
document.body.append(out);
"""


def browse(path, profile, width=1200):
  """Returns the page's DOM after its scripts have run, and what the browser printed."""
  command = [
    CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", f"--user-data-dir={profile}", "--virtual-time-budget=8000",
    f"--window-size={width},900", "--dump-dom", path.as_uri(),
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
  return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def probe(study, tmp_path, width=1200, *, every_option=False):
  html = page.render(study)
  # The page's own policy would not let the probe run.
  html = re.sub(r"<meta http-equiv[^>]*>", "", html)
  script = PROBE.replace("FROM", "0" if every_option else "-1")
  html = html.replace("</body>", f"<script>{script}</script></body>")
  (tmp_path / "probed.html").write_text(html)
  dom, console = browse(tmp_path / "probed.html", tmp_path / "profile", width)
  assert console == []
  # The script itself holds the word too; the element it adds comes last.
  text = re.findall(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)[-1]
  seen = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
  assert seen["errors"] == [] and seen["failure"] == ""
  assert seen["overflow"] <= 0
  return seen


def test_selectors_redraw(tmp_path):
  synthetic.realistic(tmp_path)
  seen = probe(frame.load(tmp_path), tmp_path, every_option=True)
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
  seen = probe(frame.load(tmp_path), tmp_path, width=600)
  if name == "two_tasks":
    assert set(seen["options"]["task"]) == {"python_stdlib"}
    assert seen["options"]["task"]["python_stdlib"]["plot-size"] > 0


def test_a_written_report_runs_and_offers_its_verdicts(tmp_path):
  synthetic.realistic(tmp_path)
  dom, console = browse(report.write(tmp_path), tmp_path / "profile")
  assert console == []
  overview = re.search(r'<div id="emergence">(.*?)</section>', dom, flags=re.DOTALL)[1]
  assert overview.count("<tr>") == 1 + 8  # four metrics of two families
  assert "insufficient data" in overview and 'id="emergence-section" hidden' not in dom
  assert '<img alt="power fit of rule_induction' in dom


def test_names_cannot_inject_markup(tmp_path):
  cell = synthetic.cell(EVIL, 1000, family=EVIL) | {"cell_id": "c"}
  rows = synthetic.few_shot_rows(cell, 0.4, np.random.default_rng(0))
  synthetic.write_cell(tmp_path / "cells/c", cell, rows)
  synthetic.write_sweep(tmp_path, [cell], study=EVIL)
  seen = probe(frame.load(tmp_path), tmp_path)
  assert seen["images"] == seen["links"] == 0
