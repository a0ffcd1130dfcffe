// What emerges, where, how sure: rows of the analysis of emergence, where the page has them.
const emergence = data.emergence || [];
const shotsOf = (r) => (r.shots === "window" && (data.tasks.find((t) => t.key === r.task) || {}).window) || (ok(r.shots) ? String(r.shots) : "–");
const TOO_FEW = "insufficient data";
const end = (x) => ok(x) ? estimate(x) : "?";
const interval = (r, x) => `${end(r[x])} [${end(r[x + "_low"])}, ${end(r[x + "_high"])}]`;
// Only where the runs of a size fall into two groups.
const GROUPS = ["Two groups of runs: half past at", (r) => !r.seeds_bimodal ? "–"
  : `${r.bimodal_sizes.length} of ${r.n_sizes} sizes` + (ok(r.past_x50) ? `: ${interval(r, "past_x50")}` : ""), true];
const OVERVIEW = [
  ["Metric", (r) => name(r.metric)], ["Shots", shotsOf], ["Family", (r) => ok(r.family) ? r.family : "–"],
  ["Verdict", (r) => ok(r.verdict) ? r.verdict : "–"],
  ["Threshold x50", (r) => ok(r.x50) ? interval(r, "x50") : "–", true],
  ...(emergence.some((r) => r.seeds_bimodal) ? [GROUPS] : []),
  ["Width (decades)", (r) => number(r.width_decades), true], ["Breakthroughness", (r) => number(r.breakthroughness), true],
  ["q", (r) => number(r.q_value), true],
  ["Beside it", (r) => ok(r.paired_metric) ? `${name(r.paired_metric)}: ${ok(r.paired_verdict) ? r.paired_verdict : "–"}` : "–"],
];

function thresholdBand(metric, shots, x) {
  const main = (task.sizes.find((s) => s.main) || {}).family;
  const found = emergence.filter((r) => r.task === task.key && r.metric === metric && String(r.shots) === shots && ok(r.x50) &&
    (AXIS_NAMES[r.x || "n_params"] || r.x) === x);
  const row = found.find((r) => r.family === main) || found[0];
  if (!row) return null;
  return { x: row.x50, low: row.x50_low, high: row.x50_high,
           note: `Vertical: x50 = ${interval(row, "x50")}${ok(row.family) ? ` of ${row.family}` : ""}.` };
}

function flatTable(headings, rows, caption) {
  return make("div", { className: "scroll" }, make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...headings.map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows)));
}

function choose(row) {
  if (value("task") !== row.task && data.tasks.some((t) => t.key === row.task)) {
    $("task").value = row.task;
    chooseTask();
  }
  if (task.metrics.includes(row.metric)) $("metric").value = row.metric;
  if (task.selections.includes(String(row.shots))) $("shots").value = String(row.shots);
  draw();
  $("controls").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function verdictRow(row) {
  return make("tr", {}, ...OVERVIEW.map(([, show, numeric], i) => {
    const text = show(row);
    if (i) return make("td", { className: numeric ? "num" : "" }, text);
    const button = make("button", { type: "button", className: "link" }, text);
    button.addEventListener("click", () => choose(row));
    return make("td", {}, button);
  }));
}

function startOverview() {
  $("emergence-section").hidden = !emergence.length;
  for (const key of new Set(emergence.map((r) => r.task))) {
    // A family of few sizes is named below the table, unless no other is there.
    const own = emergence.filter((r) => r.task === key), judged = own.filter((r) => r.verdict !== TOO_FEW);
    const rows = (judged.length ? judged : own).map(verdictRow);
    $("emergence").append(flatTable(OVERVIEW.map(([heading]) => heading), rows, key));
    const few = [...new Set(own.filter((r) => r.verdict === TOO_FEW && judged.length).map((r) => r.family ?? "–"))];
    if (few.length) $("emergence").append(make("p", { className: "quiet" }, `Too few sizes for a verdict: ${few.join(", ")}.`));
  }
}
