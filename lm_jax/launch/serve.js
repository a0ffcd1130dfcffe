"use strict";
// Asks the server every two seconds for how the cells stand and for what is new of their curves.

const EVERY_MS = 2000, PATIENCE_MS = 20000;
const $ = (id) => document.getElementById(id);
const charts = new Charts(), table = new Table(charts);
let cursor = "", goneSince = null;

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Problem((await answer.text()).trim() || `error ${answer.status}`);
  return answer.json();
}

class Problem extends Error {}

function showStatus(status) {
  document.title = `${Math.floor(100 * status.fraction)}% · ${status.study || status.workdir}`;
  put($("study"), status.study || status.workdir);
  const percent = `${Math.floor(100 * status.fraction)}%`;
  put($("percent"), percent);
  $("bar").firstElementChild.style.width = `${100 * status.fraction}%`;
  $("bar").setAttribute("aria-valuenow", String(Math.floor(100 * status.fraction)));
  put($("flops"), status.flops ? `${status.flops_done.toExponential(2)} of ${status.flops.toExponential(2)} FLOPs` : "");
  const counts = STATES.filter((s) => status.counts[s]).map((s) => `${status.counts[s].toLocaleString("en")} ${s}`);
  put($("counts"), `${status.cells.length.toLocaleString("en")} cells: ${counts.join(", ")}`);
  const ended = status.cells.every((c) => c.state === "done");
  put($("left"), status.left_s != null ? `about ${duration(status.left_s)} left` : ended ? "all cells are done" : status.counts.running ? "" : "nothing runs now");
  $("report").hidden = !status.report;
}

function showProblems(problems) {
  const told = Object.entries(problems).map(([id, why]) => `${id}: ${why}`);
  $("problems").hidden = told.length === 0;
  put($("problems"), told.slice(0, 5).join("; ") + (told.length > 5 ? `; and ${told.length - 5} more` : ""));
}

function showAway(why) {
  goneSince = goneSince ?? new Date();
  document.body.classList.add("away");
  $("pulse").className = "off";
  put($("live"), "not live");
  $("away").hidden = false;
  put($("away"), why instanceof Problem ? `The server cannot read the folder: ${why.message}`
    : `The server has not answered since ${goneSince.toLocaleTimeString()}; what is shown may be old. Trying again.`);
}

function showBack() {
  goneSince = null;
  document.body.classList.remove("away");
  $("pulse").className = "on";
  $("away").hidden = true;
  put($("live"), `live, ${new Date().toLocaleTimeString()}`);
}

async function look() {
  const status = await ask("/status.json");
  showStatus(status);
  let changed = charts.setCells(status.cells);
  table.set(status.cells, status.counts);
  for (let more = true; more; ) {
    const answer = await ask(`/curves.json?since=${encodeURIComponent(cursor)}`);
    cursor = answer.cursor; more = answer.more;
    showProblems(answer.problems);
    if (charts.take(answer) || changed) charts.draw();
    changed = false;
  }
  document.documentElement.dataset.looks = Number(document.documentElement.dataset.looks || 0) + 1;
}

async function live() {
  try {
    await look();
    showBack();
  } catch (error) {
    showAway(error);
  }
  setTimeout(live, EVERY_MS);
}

live();
