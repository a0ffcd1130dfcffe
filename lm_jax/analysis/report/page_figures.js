// What is drawn: specs {xtitle, ytitle, traces: [{key, name, color, x, y, text, ...}], note}.
const AXES = {
  size: ["params_total", "params_nonembedding", "flops_exact", "flops_6nd", "flops_6nd_nonembedding", "tokens"],
  compute: ["flops_exact", "flops_6nd", "flops_6nd_nonembedding", "tokens", "params_total", "params_nonembedding"],
  along: ["flops_exact", "flops_6nd", "flops_6nd_nonembedding", "tokens", "step"],
  best: ["flops_exact", "flops_6nd", "flops_6nd_nonembedding", "tokens"],
  left: ["accuracy", "exact_match", "beats_baseline"],
  right: ["nll", "choice_prob", "brier", "kl_bayes"],
};
// The names that analyses give to axes.
const AXIS_NAMES = { n_params: "params_total", n_params_nonembedding: "params_nonembedding", flops: "flops_exact",
                     n_tokens: "tokens" };
// More than these cannot be told apart, or take seconds to draw.
const MOST = { runs: 200, sizes: 24, dots: 1500, labels: 14 };

function pointText(p, metric, x) {
  const error = ok(p.error) ? ` ± ${p.error.toFixed(3)} (items)` : "";
  return `<b>${esc(p.cell.label)}</b>, ${esc(p.cell.family)}, seed ${p.cell.seed}<br>` +
    `${esc(name(metric))}: ${number(p.value)}${error}<br>${esc(name(x))}: ${number(p.x)}`;
}

function meanText(size, list, metric, x) {
  const values = list.map((p) => p.value), half = halfInterval(values);
  const span = values.length > 1
    ? `mean of ${values.length} seeds, ${number(Math.min(...values))} to ${number(Math.max(...values))}` : "one seed";
  const interval = ok(half) ? `<br>95 % interval over seeds: ${number(mean(values) - half)} to ${number(mean(values) + half)}` : "";
  return `<b>${esc(size.name)}</b><br>${esc(name(metric))}: ${number(mean(values))} (${span})${interval}<br>` +
    `${esc(name(x))}: ${number(list[0].x)}`;
}

// Labels stand on the side of the points that the line leaves free.
const falls = (y) => y.length > 1 && y[y.length - 1] < y[0];

function seedDots(list, metric, x, shared, most) {
  const shown = some(list, most);
  return { ...shared, mode: "markers", legend: false, dots: true, x: shown.map((p) => p.x), y: shown.map((p) => p.value),
           what: shown.map((p) => `${p.cell.label}, ${p.cell.family}, seed ${p.cell.seed}`),
           text: shown.map((p) => pointText(p, metric, x)) };
}

// One family: its seeds as dots, the interval of their mean, and the means, joined.
function familyTraces(gs, metric, x, look) {
  if (!gs.length) return [];
  const seeds = gs.flatMap((g) => g.list), ys = gs.map((g) => mean(g.list.map((p) => p.value)));
  // A line would go up and down between budgets, or learning rates, of one size.
  const parameters = gs.map((g) => g.list[0].cell.params_total).filter(ok), joined = new Set(parameters).size === parameters.length;
  const several = gs.map((g, i) => ({ x: g.list[0].x, y: ys[i], half: halfInterval(g.list.map((p) => p.value)) }))
    .filter((g) => ok(g.half));
  const shared = { key: look.key, color: look.color, symbol: look.symbol };
  const labelled = look.single && gs.length <= MOST.labels;
  const traces = [];
  if (look.single || seeds.length <= 400) {
    const dots = seedDots(seeds, metric, x, shared, MOST.dots);
    const error = look.single && seeds.length <= 200 ? seeds.map((p) => p.error) : null;
    traces.push({ ...dots, error, size: look.main && look.single ? 7 : 4.5, opacity: look.single ? 0.45 : 0.3 });
  }
  if (look.single && several.length > 1 && joined) {
    traces.push({ key: look.key, color: look.color, mode: "lines", band: true, legend: false, opacity: look.main ? 0.16 : 0.08,
      x: [...several.map((g) => g.x), ...several.map((g) => g.x).reverse()], text: "",
      y: [...several.map((g) => g.y + g.half), ...several.map((g) => g.y - g.half).reverse()] });
  }
  traces.push({ ...shared, legendColor: look.legendColor, name: look.name, mode: gs.length > 1 && joined ? "lines+markers" : "markers", size: look.single ? (look.main ? 7 : 9) : 5,
    width: look.main ? (look.single ? 2.5 : 1.6) : 1, dash: look.main ? "solid" : "dash", x: gs.map((g) => g.list[0].x), y: ys,
    what: gs.map((g) => g.size.name), half: gs.map((g) => halfInterval(g.list.map((p) => p.value))),
    text: gs.map((g) => meanText(g.size, g.list, metric, x)), endLabel: look.endLabel,
    pointLabels: labelled ? gs.map((g) => look.main ? g.size.label : g.size.name) : null,
    textAt: !look.main ? "bottom center" : falls(ys) ? "top right" : "top left" });
  return traces;
}

function otherFamilies(metric, shots, x, tint) {
  const families = [...new Set(task.sizes.filter((s) => !s.main).map((s) => s.family))];
  return families.flatMap((family) => {
    const gs = groups(task.sizes.filter((s) => s.family === family), metric, shots, x);
    if (!gs.length) return [];
    const size = gs[0].size, label = gs.length === 1 ? size.name : family;
    return familyTraces(gs, metric, x, { key: `family ${family}`, name: label, color: tint || color(size),
      legendColor: color(size), symbol: size.symbol, single: !tint, main: false });
  });
}

// Levels that hold at every x; `span` is the part of the axes' width that they take.
function levelLine(y, key, label, dash, tint, span = [0, 1], legend = true) {
  return { key, name: label, color: tint, level: y, span, dash, width: span[0] ? 3 : 1.5, legend,
           x: [], y: [], text: `${esc(label)}: ${number(y)}` };
}

function yardsticks(metric, shots) {
  const lines = [], chance = level(metric, shots, "chance"), bayes = level(metric, shots, "bayes");
  if (ok(chance)) lines.push(levelLine(chance, "chance", "chance", "dash", css("--quiet")));
  if (ok(bayes)) lines.push(levelLine(bayes, "bayes", "Bayes-optimal", "dot", css("--ink")));
  return lines;
}

function scaling(title, metric, shots, x) {
  const every = shots === "every", main = task.sizes.filter((s) => s.main);
  const spec = { title, xtitle: name(x), ytitle: name(metric), metric, x, xlog: value("xscale") === "log", traces: [] };
  if (!every) {
    const gs = groups(main, metric, shots, x);
    const look = { key: "main", name: `mean over seeds, ${shotsName(shots)}`, color: css("--accent"), symbol: "circle", single: true, main: true };
    spec.traces = [...yardsticks(metric, shots), ...familyTraces(gs, metric, x, look), ...otherFamilies(metric, shots, x)];
    spec.band = thresholdBand(metric, shots, x);
    if (spec.band) spec.note = spec.band.note;
    return spec;
  }
  const others = [];
  task.shot_lines.forEach((k, i) => {
    const gs = groups(main, metric, k, x);
    if (!gs.length) return;
    spec.traces.push(...familyTraces(gs, metric, x, { key: `shots ${k}`, name: shotsName(k), color: shotColor(i), symbol: "circle",
                                                      single: false, main: true, endLabel: true }));
    others.push(...otherFamilies(metric, k, x, shotColor(i)).map((t) => ({ ...t, endLabel: false })));
    const bayes = level(metric, k, "bayes");
    if (ok(bayes)) {
      spec.traces.push(levelLine(bayes, `shots ${k}`, `Bayes-optimal, ${shotsName(k)}`, "dot", shotColor(i), [0.965, 1], false));
    }
  });
  spec.traces.push(...others);
  const chance = task.shot_lines.map((k) => level(metric, k, "chance")).find(ok);
  if (ok(chance)) spec.traces.unshift(levelLine(chance, "chance", "chance", "dash", css("--quiet")));
  const left = task.shots.length - task.shot_lines.length;
  if (left) spec.note = `${task.shot_lines.length} of ${task.shots.length} numbers of shots are drawn.`;
  return spec;
}

function againstShots(title, metric) {
  const spec = { title, xtitle: "Number of shots", ytitle: name(metric), metric, traces: [], xlog: false };
  const x = task.shots.map(Number);
  const bayes = task.shots.map((k) => level(metric, k, "bayes"));
  const chance = task.shots.map((k) => level(metric, k, "chance"));
  const line = (y, key, label, dash, tint) => ({ key, name: label, color: tint, dash, width: 2, mode: "lines", x, y,
    text: y.map((v, i) => `${label}, ${shotsName(task.shots[i])}: ${number(v)}`), endLabel: true });
  if (chance.some(ok)) spec.traces.push(line(chance, "chance", "chance", "dash", css("--quiet")));
  if (bayes.some(ok)) spec.traces.push(line(bayes, "bayes", "Bayes-optimal", "dot", css("--ink")));
  const there = task.sizes.map((size) => ({ size, at: task.shots.map((k) => points(size, metric, k, "params_total")) }))
    .filter((s) => s.at.some((list) => list.length));
  const shown = some(there, MOST.sizes);
  for (const { size, at } of shown) {
    const seeds = at.flatMap((list, i) => list.map((p) => ({ ...p, shots: x[i] })));
    const shared = { key: size.name, color: color(size), symbol: size.symbol };
    const ys = at.map((list) => list.length ? mean(list.map((p) => p.value)) : null);
    spec.traces.push(
      { ...shared, legend: false, dots: true, mode: "markers", size: 5, opacity: 0.3, x: seeds.map((p) => p.shots),
        y: seeds.map((p) => p.value), text: seeds.map((p) => pointText(p, metric, "params_total")),
        what: seeds.map((p) => `${p.cell.label}, ${p.cell.family}, seed ${p.cell.seed}`) },
      { ...shared, name: size.name, mode: "lines+markers", size: 5, width: 2, dash: size.main ? "solid" : "dash", x,
        y: ys, endLabel: true, half: at.map((list) => halfInterval(list.map((p) => p.value))),
        text: at.map((list, i) => list.length ? `${shotsName(task.shots[i])}<br>${meanText(size, list, metric, "params_total")}` : "") });
  }
  if (shown.length < there.length) spec.note = `${shown.length} of ${there.length} sizes are drawn; the filter chooses others.`;
  return spec;
}

function seedStrip(title, metric, shots) {
  const spec = { title, xtitle: "", ytitle: name(metric), metric, xlog: false, traces: [...yardsticks(metric, shots)], ticks: [] };
  const gs = task.sizes.map((size) => ({ size, list: points(size, metric, shots, "params_total") })).filter((g) => g.list.length);
  const shown = some(gs, MOST.sizes);
  shown.forEach(({ size, list }, place) => {
    const n = list.length, shared = { key: size.name, color: color(size), symbol: size.symbol, legend: false };
    const m = mean(list.map((p) => p.value));
    spec.ticks.push([place, size.name]);
    spec.traces.push(
      { ...seedDots(list, metric, "params_total", shared, MOST.dots), legend: false, size: 6, opacity: 0.75, error: list.map((p) => p.error),
        x: list.map((_, i) => place + 0.5 * (i + 0.5) / n - 0.25) },
      { ...shared, name: size.name, mode: "lines", width: 3, x: [place - 0.35, place + 0.35], y: [m, m],
        what: ["mean", ""], text: Array(2).fill(meanText(size, list, metric, "params_total")) });
  });
  spec.note = `Shown: ${shotsName(shots)}.`;
  if (shown.length < gs.length) spec.note += ` ${shown.length} of ${gs.length} sizes are drawn; the filter chooses others.`;
  return spec;
}

function runs(title, x, seriesOf, metric, label) {
  const spec = { title, xtitle: name(x), ytitle: label, metric, x, xlog: value("xscale") === "log", traces: [] };
  const all = task.sizes.flatMap((size) => cellsOf(size).map((cell) => ({ size, cell, series: seriesOf(cell) })))
    .filter((r) => r.series && r.series.y.some(ok));
  const shown = some(all, MOST.runs), seen = new Set(), labelled = new Set();
  for (const { size, cell, series } of shown) {
    spec.traces.push({
      key: size.name, name: size.name, legend: !seen.has(size.name), color: color(size), mode: "lines", width: 1.6, opacity: 0.85,
      dash: !cell.finished ? "dot" : size.main ? "solid" : "dash", x: series.x, y: series.y,
      endLabel: cell.finished && !labelled.has(size.name), what: series.x.map(() => `${size.name}, seed ${cell.seed}`),
      text: series.y.map((v, i) => `<b>${esc(size.name)}</b>, seed ${cell.seed}, ${esc(cell.state)}<br>` +
        `${esc(label)}: ${number(v)}<br>${esc(name(x))}: ${number(series.x[i])}<br>step ${number(series.step[i])}`),
    });
    seen.add(size.name);
    if (cell.finished) labelled.add(size.name);
  }
  if (shown.length < all.length) spec.note = `${shown.length} of ${all.length} runs are drawn; the filter chooses others.`;
  return spec;
}

function alongTraining(title, metric, shots) {
  const x = value("along"), one = shots === "every" ? summary() : shots;
  const spec = runs(title, x, (cell) => {
    const series = evalSeries(cell, metric, one);
    return series && { x: axisOf(cell.evals, x), y: series[0], step: axisOf(cell.evals, "step") };
  }, metric, name(metric));
  spec.traces.push(...yardsticks(metric, one));
  const shown = `Shown: ${shotsName(one)}${shots === "every" ? " (choose one number of shots to change it)" : ""}.`;
  spec.note = [shown, spec.note].filter(Boolean).join(" ");
  return spec;
}

function losses(title) {
  const x = value("along");
  return runs(title, x, (cell) => cell.loss && { x: axisOf(cell.loss, x), y: cell.loss.value, step: axisOf(cell.loss, "step") },
              "loss", name("loss"));
}

// Every evaluation of every run, and the best there is at this compute or less.
function bestAtCompute(title, metric, shots) {
  const x = value("best"), direction = data.directions[metric];
  const spec = { title, xtitle: name(x), ytitle: name(metric), metric, x, xlog: value("xscale") === "log", traces: [] };
  const all = task.sizes.map((size) => ({ size, list: cellsOf(size).flatMap((cell) => {
    const series = evalSeries(cell, metric, shots);
    if (!series) return [];
    return axisOf(cell.evals, x).map((at, i) => ({ cell, size, x: at, value: series[0][i], step: axisOf(cell.evals, "step")[i] }))
      .filter((p) => ok(p.value) && p.x > 0);
  }) })).filter((g) => g.list.length);
  const total = all.reduce((n, g) => n + g.list.length, 0);
  for (const { size, list } of all) {
    const shown = some(list, Math.max(2, Math.round(MOST.dots * list.length / total)));
    spec.traces.push({ key: size.name, name: size.name, color: color(size), symbol: size.symbol, mode: "markers", size: 4.5, opacity: 0.5,
      dots: true, x: shown.map((p) => p.x), y: shown.map((p) => p.value), what: shown.map((p) => `${size.name}, seed ${p.cell.seed}, step ${p.step}`),
      text: shown.map((p) => `${pointText(p, metric, x)}<br>step ${number(p.step)}`) });
  }
  if (total > MOST.dots) spec.note = `About ${MOST.dots} of ${total} evaluations are drawn; the line takes all.`;
  if (!direction) {
    spec.note = [spec.note, "Which way of this metric is better is not known, so no line of the best is drawn."].filter(Boolean).join(" ");
  } else {
    const sign = direction === "higher" ? 1 : -1, best = [];
    for (const p of all.flatMap((g) => g.list).sort((a, b) => a.x - b.x || sign * (b.value - a.value))) {
      if (!best.length || sign * (p.value - best[best.length - 1].value) > 0) best.push(p);
    }
    spec.traces.push({ key: "best", name: "best at this compute or less", color: css("--ink"), mode: "lines+markers", shape: "hv", size: 5,
      width: 2, x: best.map((p) => p.x), y: best.map((p) => p.value), what: best.map((p) => `${p.size.name}, seed ${p.cell.seed}, step ${p.step}`),
      text: best.map((p) => `best so far<br>${pointText(p, metric, x)}<br>step ${number(p.step)}`) });
  }
  spec.traces.push(...yardsticks(metric, shots));
  spec.note = [`Shown: ${shotsName(shots)}.`, spec.note].filter(Boolean).join(" ");
  return spec;
}
