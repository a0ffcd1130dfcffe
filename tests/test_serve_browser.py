"""The live page: a sweep that trains while it is watched, and a browser that shows it."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import synthetic_study as synthetic
from browser import browser as browser
from browser import needs_browser
from processes import finish, start, sweep_tree, wait_until, write_config
from served import address as address
from served import ladder as ladder
from served import served

from lm_jax import sweep
from lm_jax.launch import study

EVIL = "<img src=x onerror=alert(1)>"
LOOKED = "Number(document.documentElement?.dataset.looks || 0)"
ROWS = """[...document.querySelectorAll("#cells tbody tr:not(.note)")].map(
  (r) => [r.dataset.id, r.dataset.state, r.querySelector(".step").textContent])"""
POINTS = 'Number(document.getElementById("loss").dataset.points)'


@needs_browser
def test_a_sweep_is_watched_while_it_trains(tmp_path, browser):
  tree = sweep_tree(
    widths=(8, 16), train={"num_steps": 4000}, runtime={"log_every": 10, "steps_per_dispatch": 10}
  )
  workdir = tmp_path / "w"
  file = write_config(tmp_path / "sweep.py", tree)
  study.write_sweep(sweep.from_tree(tree), workdir)
  with served(workdir) as (host, port, server):
    browser.open(f"http://{host}:{port}/")
    browser.wait_for(f"{LOOKED} > 0")
    assert [state for _, state, _ in browser.value(ROWS)] == ["waiting", "waiting"]
    assert browser.value(POINTS) == 0
    training = start("sweep", f"--config={file}", f"--workdir={workdir}", "--workers=1", "--quiet")
    try:
      running = (
        '[...document.querySelectorAll("#cells tr[data-state=running] .step")].map((c) => c.textContent)[0]'
      )
      step = wait_until(lambda: browser.value(running), training)
      points = wait_until(lambda: browser.value(POINTS), training)
      wait_until(lambda: browser.value(running) not in (step, None), training)
      wait_until(lambda: browser.value(POINTS) > points, training)
    finally:
      done = finish(training)
    assert done.returncode == 0, done.stderr
    browser.wait_for(f"{ROWS}.every((r) => r[1] === 'done' && r[2].startsWith('4,000 / 4,000'))")
    browser.wait_for(f"{POINTS} === 800")
    seen = browser.value("""({
      percent: document.getElementById("percent").textContent,
      left: document.getElementById("left").textContent,
      report: document.getElementById("report").hidden, test: {...document.getElementById("test").dataset},
      label: document.getElementById("loss").getAttribute("aria-label")})""")
    assert (seen["percent"], seen["left"], seen["test"]["marks"]) == ("100%", "all cells are done", "2")
    assert seen["label"] == "Training loss (nats/token) against Training tokens: 2 curves of 800 points"
    browser.wait_for('document.getElementById("report").hidden === false')
    # The server goes away, and comes back as another process.
    server.send_signal(signal.SIGINT)
    server.wait(60)
    browser.wait_for('document.getElementById("away").textContent.startsWith("The server has not answered")')
    # It may have gone in the middle of an answer.
    gone = ("ERR_CONNECTION", "ERR_CONTENT_LENGTH_MISMATCH", "ERR_EMPTY_RESPONSE")
    assert browser.errors and all(any(name in error for name in gone) for error in browser.errors)
    with served(workdir, f"--port={port}"):
      browser.wait_for(f'document.getElementById("away").hidden && {POINTS} === 800')


@needs_browser
def test_sorted_filtered_and_drawn_as_asked(address, browser):
  browser.resize(1200)
  browser.open(f"http://{address[0]}:{address[1]}/")
  browser.wait_for(f"{LOOKED} > 0")
  states = [state for _, state, _ in browser.value(ROWS)]
  assert states == ["failed", "lost", "waiting"] + ["done"] * 18
  notes = browser.value('[...document.querySelectorAll("#cells tr.note")].map((r) => r.textContent)')
  assert (
    notes[0] == "FloatingPointError: loss is not finite at step 200" and "died without a word" in notes[1]
  )
  click = """(selector, text) => [...document.querySelectorAll(selector)].find(
    (b) => b.textContent === text).click()"""
  sizes = '[...document.querySelectorAll("#cells td.size")].map((c) => c.textContent)'
  browser.value(f'({click})("th button", "Size")')
  ascending = browser.value(sizes)
  assert list(dict.fromkeys(ascending)) == [
    "d8 L1",
    "d8 L2",
    "d16 L2",
    "d32 L2",
    "d64 L1",
    "d48 L2",
    "d64 L2",
  ]
  browser.value(f'({click})("th button", "Size")')
  assert browser.value(sizes)[0] == "d64 L2"
  assert browser.value('document.querySelector("th[aria-sort]").getAttribute("aria-sort")') == "descending"
  browser.value(f'({click})("#chips button", "1 lost")')
  assert [name for name, *_ in browser.value(ROWS)] == ["rule-d48L2-1"]
  assert browser.value(POINTS) > 700
  choose = """(id, value) => { const e = document.getElementById(id); e.value = value;
    e.dispatchEvent(new Event("change")); }"""
  label = 'document.getElementById("{}").getAttribute("aria-label")'
  browser.value(f'({choose})("loss-x", "flops")')
  assert browser.value(label.format("loss")).startswith(
    "Training loss (nats/token) against Training FLOPs: 20 "
  )
  assert browser.value(label.format("test")) == "Accuracy against Parameters: 20 cells"
  browser.value(f'({choose})("metric-x", "tokens")')
  # Nine evaluations of a cell that is done; four and six of those that are not.
  assert browser.value(label.format("test")).startswith("Accuracy against Training tokens: 20 curves of ")
  for value in ("nll", "exact_match"):
    key = json.dumps(json.dumps(["rule_induction", value, None], separators=(",", ":")))
    browser.value(f'({choose})("metric", {key})')
  assert browser.value(label.format("test")).startswith("Exact match against")
  assert browser.errors == []


@needs_browser
@pytest.mark.parametrize("name", [EVIL, "</script><script>alert(1)</script>", "Ω" * 300])
def test_names_do_no_harm(name, tmp_path, browser):
  cells = [synthetic.cell(name, 1000, family=name), synthetic.cell("d8 L1", 3000, family="other", seed=1)]
  for i, cell in enumerate(cells):
    cell["cell_id"] = f"c{i}"
    rows = synthetic.few_shot_rows(cell | {"task": name}, 0.4, np.random.default_rng(0))
    state = {"state": "failed", "error": name} if i else {}
    synthetic.write_cell(tmp_path / "cells" / cell["cell_id"], cell, rows, **state)
  synthetic.write_sweep(tmp_path, cells, study=name)
  (tmp_path / "report").mkdir()
  (tmp_path / "report" / "index.html").write_text("<script>top.location = '/evil'; parent.alert(1)</script>")
  with served(tmp_path) as (host, port, _):
    browser.resize(420)
    browser.open(f"http://{host}:{port}/")
    browser.wait_for(f"{LOOKED} > 1")
    seen = browser.value("""({
      title: document.getElementById("study").textContent, images: document.images.length,
      scripts: document.scripts.length, size: document.querySelector("td.size").textContent,
      note: document.querySelector("tr.note").textContent,
      wide: document.documentElement.scrollWidth - document.documentElement.clientWidth})""")
    assert (seen["title"], seen["note"], seen["images"], seen["scripts"]) == (name, name, 0, 4)
    assert seen["wide"] <= 0
    assert browser.errors == []


@needs_browser
def test_a_report_is_shown_in_an_origin_of_its_own(tmp_path, ladder, browser):
  workdir = tmp_path / "w"
  shutil.copytree(ladder, workdir, symlinks=True)
  with served(workdir) as (host, port, _):
    url = f"http://{host}:{port}/report/"
    browser.open(url)
    # Its own scripts run and draw, and its pictures are there.
    browser.wait_for('document.querySelectorAll(".plot .js-line, .plot canvas, .plot svg").length > 0')
    assert browser.value("self.origin") == "null"
    assert browser.value('fetch("/status.json").then(() => "read", () => "refused")') == "refused"


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_and_draws(width, dark, address, browser):
  browser.resize(width, dark=dark)
  browser.open(f"http://{address[0]}:{address[1]}/")
  browser.wait_for(f"{LOOKED} > 0")
  time.sleep(0.5)
  seen = browser.value("""({
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    page: getComputedStyle(document.body).backgroundColor,
    colors: [...document.querySelectorAll(".plot canvas")].map((c) => new Set(
      new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size)})""")
  assert seen["wide"] <= 0
  assert min(seen["colors"]) > 20
  assert seen["page"] == ("rgb(20, 21, 24)" if dark else "rgb(251, 251, 250)")
  assert browser.errors == []
