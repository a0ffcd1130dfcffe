"use strict";
// Draws the report's figures from the data embedded in the page. Every string of the data is shown
// through textContent or esc(): plotly reads tags in the texts it draws.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const BOUNDED = new Set(["accuracy", "exact_match", "choice_prob", "beats_baseline"]);
  const AXES = {
    size: ["params_total", "params_nonembedding"],
    compute: ["flops_exact", "flops_6nd", "flops_6nd_nonembedding", "tokens", "params_total", "params_nonembedding"],
    along: ["flops_exact", "flops_6nd", "flops_6nd_nonembedding", "tokens", "step"],
    left: ["accuracy", "exact_match", "beats_baseline"],
    right: ["nll", "choice_prob", "brier", "kl_bayes"],
  };
  const hidden = {};  // plot -> keys switched off in its legend
  let task = data.tasks[0];

  const esc = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const name = (key) => data.names[key] || key;
  const css = (key) => getComputedStyle(document.documentElement).getPropertyValue(key).trim();
  const ok = (v) => v !== null && v !== undefined;
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const number = (v) => !ok(v) ? "–" : Math.abs(v) >= 1e7 ? v.toExponential(2)
    : Number.isInteger(v) ? v.toLocaleString("en-US") : v.toPrecision(4);
  const shotsName = (s) => s === "window" ? `${task.window || "window"}` : s === "all" ? "all tokens"
    : s === "every" ? "every number, a line each" : `${s} ${s === "1" ? "shot" : "shots"}`;
  const summary = () => task.selections[0];
  const color = (size) => dark.matches ? size.dark : size.light;
  const shotColor = (i) => (dark.matches ? task.shot_dark : task.shot_light)[i];
  const cellsOf = (size) => data.cells.filter(
    (c) => c.task === task.key && c.label === size.label && c.family === size.family);
  const level = (metric, shots, kind) => ((task.levels[metric] || {})[shots] || {})[kind];
  const value = (key) => $(key).value;

  // --- what is drawn: traces {key, name, color, x, y, text, ...} ------------------------------

  function evalSeries(cell, metric, shots) {
    return cell.evals && cell.evals.values[metric] && cell.evals.values[metric][shots];
  }

  function finalOf(cell, metric, shots) {
    const series = cell.finished && evalSeries(cell, metric, shots);
    if (!series) return null;
    const [values, errors] = series.map((list) => list[list.length - 1]);
    return ok(values) ? { value: values, error: errors } : null;
  }

  function points(size, metric, shots, x) {
    return cellsOf(size).map((cell) => ({ cell, x: cell[x], ...finalOf(cell, metric, shots) }))
      .filter((p) => ok(p.value) && ok(p.x));
  }

  function pointText(p, metric, x) {
    const error = ok(p.error) ? ` ± ${p.error.toFixed(3)} (items)` : "";
    return `<b>${esc(p.cell.label)}</b>, ${esc(p.cell.family)}, seed ${p.cell.seed}<br>` +
      `${esc(name(metric))}: ${number(p.value)}${error}<br>${esc(name(x))}: ${number(p.x)}`;
  }

  function meanText(size, list, metric, x) {
    const values = list.map((p) => p.value);
    const span = values.length > 1
      ? `mean of ${values.length} seeds, ${number(Math.min(...values))} to ${number(Math.max(...values))}` : "one seed";
    return `<b>${esc(size.name)}</b><br>${esc(name(metric))}: ${number(mean(values))} (${span})<br>` +
      `${esc(name(x))}: ${number(list[0].x)}`;
  }

  // Labels stand on the side of the points that the line leaves free.
  const falls = (y) => y.length > 1 && y[y.length - 1] < y[0];

  function scalingLine(metric, shots, x, tint, key, label, single) {
    const main = task.sizes.filter((s) => s.main).map((size) => ({ size, list: points(size, metric, shots, x) }))
      .filter((g) => g.list.length).sort((a, b) => a.list[0].x - b.list[0].x);
    const seeds = main.flatMap((g) => g.list);
    return [
      { key, color: tint, mode: "markers", size: single ? 7 : 4, opacity: single ? 0.45 : 0.3, legend: false,
        x: seeds.map((p) => p.x), y: seeds.map((p) => p.value), text: seeds.map((p) => pointText(p, metric, x)),
        error: single ? seeds.map((p) => p.error) : null },
      { key, name: label, color: tint, mode: "lines+markers", size: single ? 7 : 5, width: single ? 2.5 : 1.6,
        x: main.map((g) => g.list[0].x), y: main.map((g) => mean(g.list.map((p) => p.value))),
        text: main.map((g) => meanText(g.size, g.list, metric, x)), endLabel: !single,
        pointLabels: single ? main.map((g) => g.size.label) : null },
    ].map((t) => ({ ...t, textAt: falls(t.y) ? "top right" : "top left" }));
  }

  function otherFamilies(metric, shots, x, tint) {
    return task.sizes.filter((s) => !s.main).flatMap((size) => {
      const list = points(size, metric, shots, x);
      if (!list.length) return [];
      const shared = { key: `size ${size.name}`, color: tint || color(size), mode: "markers", symbol: "diamond" };
      return [
        { ...shared, legend: false, size: 6, opacity: 0.4, x: list.map((p) => p.x), y: list.map((p) => p.value),
          text: list.map((p) => pointText(p, metric, x)), error: tint ? null : list.map((p) => p.error) },
        { ...shared, name: size.name, legendColor: color(size), size: tint ? 7 : 10, x: [list[0].x],
          y: [mean(list.map((p) => p.value))], text: [meanText(size, list, metric, x)],
          pointLabels: tint ? null : [size.name], textAt: "bottom center" },
      ];
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

  function scaling(metric, shots, x) {
    const every = shots === "every";
    const spec = { xtitle: name(x), ytitle: name(metric), metric, x, xlog: value("xscale") === "log", traces: [] };
    if (!every) {
      spec.traces = [...yardsticks(metric, shots), ...scalingLine(metric, shots, x, css("--accent"), "main",
        `mean over seeds, ${shotsName(shots)}`, true), ...otherFamilies(metric, shots, x)];
      return spec;
    }
    const others = [];
    task.shot_lines.forEach((k, i) => {
      const lines = scalingLine(metric, k, x, shotColor(i), `shots ${k}`, shotsName(k), false);
      if (!lines[1].x.length) return;
      spec.traces.push(...lines);
      others.push(...otherFamilies(metric, k, x, shotColor(i)));
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

  function againstShots(metric) {
    const spec = { xtitle: "Number of shots", ytitle: name(metric), metric, traces: [], xlog: false };
    const x = task.shots.map(Number);
    const bayes = task.shots.map((k) => level(metric, k, "bayes"));
    const chance = task.shots.map((k) => level(metric, k, "chance"));
    const line = (y, key, label, dash, tint) => ({ key, name: label, color: tint, dash, width: 2, mode: "lines", x, y,
      text: y.map((v, i) => `${label}, ${shotsName(task.shots[i])}: ${number(v)}`), endLabel: true });
    if (chance.some(ok)) spec.traces.push(line(chance, "chance", "chance", "dash", css("--quiet")));
    if (bayes.some(ok)) spec.traces.push(line(bayes, "bayes", "Bayes-optimal", "dot", css("--ink")));
    for (const size of task.sizes) {
      const at = task.shots.map((k) => points(size, metric, k, "params_total"));
      const seeds = at.flatMap((list, i) => list.map((p) => ({ ...p, shots: x[i] })));
      if (!seeds.length) continue;
      const shared = { key: size.name, color: color(size), symbol: size.main ? "circle" : "diamond" };
      spec.traces.push(
        { ...shared, legend: false, mode: "markers", size: 5, opacity: 0.3, x: seeds.map((p) => p.shots),
          y: seeds.map((p) => p.value), text: seeds.map((p) => pointText(p, metric, "params_total")) },
        { ...shared, name: size.name, mode: "lines+markers", size: 5, width: 2, dash: size.main ? "solid" : "dash", x,
          y: at.map((list) => list.length ? mean(list.map((p) => p.value)) : null), endLabel: true,
          text: at.map((list, i) => list.length ? `${shotsName(task.shots[i])}<br>${meanText(size, list, metric, "params_total")}` : "") });
    }
    return spec;
  }

  function runs(x, seriesOf, metric, label) {
    const spec = { xtitle: name(x), ytitle: label, metric, x, xlog: value("xscale") === "log", traces: [] };
    for (const size of task.sizes) {
      let first = true;
      for (const cell of cellsOf(size)) {
        const series = seriesOf(cell);
        if (!series || !series.y.some(ok)) continue;
        spec.traces.push({
          key: size.name, name: size.name, legend: first, color: color(size), mode: "lines", width: 1.6, opacity: 0.85,
          dash: !cell.finished ? "dot" : size.main ? "solid" : "dash", x: series.x, y: series.y, endLabel: first && cell.finished,
          text: series.y.map((v, i) => `<b>${esc(size.name)}</b>, seed ${cell.seed}, ${esc(cell.state)}<br>` +
            `${esc(label)}: ${number(v)}<br>${esc(name(x))}: ${number(series.x[i])}<br>step ${number(series.step[i])}`),
        });
        first = first && !cell.finished;
      }
    }
    return spec;
  }

  function alongTraining(metric, shots) {
    const x = value("along"), one = shots === "every" ? summary() : shots;
    const spec = runs(x, (cell) => {
      const series = evalSeries(cell, metric, one);
      return series && { x: cell.evals[x], y: series[0], step: cell.evals.step };
    }, metric, name(metric));
    spec.traces.push(...yardsticks(metric, one));
    spec.note = `Shown: ${shotsName(one)}${shots === "every" ? " (choose one number of shots to change it)" : ""}.`;
    return spec;
  }

  function losses() {
    const x = value("along");
    return runs(x, (cell) => cell.loss && { x: cell.loss[x], y: cell.loss.value, step: cell.loss.step }, "loss", name("loss"));
  }

  // --- how it is drawn --------------------------------------------------------------------------

  // Drops what a log axis cannot show, and says how much.
  function drawable(trace, xlog, ylog) {
    const keep = trace.x.map((x, i) => (!xlog || x > 0) && (!ylog || !ok(trace.y[i]) || trace.y[i] > 0));
    const pick = (list) => Array.isArray(list) ? list.filter((_, i) => keep[i]) : list;
    const lost = keep.filter((k) => !k).length;
    return { lost, trace: { ...trace, x: pick(trace.x), y: pick(trace.y), text: pick(trace.text),
                            error: pick(trace.error), pointLabels: pick(trace.pointLabels) } };
  }

  function range(values, log, pad) {
    const scaled = values.map((v) => log ? Math.log10(v) : v);
    let low = scaled.reduce((a, b) => Math.min(a, b), Infinity), high = scaled.reduce((a, b) => Math.max(a, b), -Infinity);
    if (low === high) { low -= log ? 0.5 : Math.abs(low) * 0.5 || 0.5; high += log ? 0.5 : Math.abs(high) * 0.5 || 0.5; }
    return [low - pad * (high - low), high + pad * (high - low)];
  }

  function fewTicks([low, high]) {
    const multiples = high - low > 0.9 ? [1, 2, 5] : high - low > 0.4 ? [1, 2, 3, 5, 7] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
    const values = [];
    for (let e = Math.floor(low); e <= high; e++) values.push(...multiples.map((m) => m * 10 ** e));
    return values.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
  }

  function axis(title, log, bounds, key) {
    const power = Boolean(key) && key.startsWith("flops_");
    const shared = { title: { text: esc(title), font: { size: 12.5 }, standoff: 8 }, type: log ? "log" : "linear", range: bounds,
      gridcolor: css("--grid"), linecolor: css("--rule"), zeroline: false, automargin: false, tickfont: { size: 11.5 },
      exponentformat: power ? "power" : "SI" };
    if (key && !power) shared.tickformat = "~s";
    if (!log) return shared;
    if (bounds[1] - bounds[0] > 1.4) return { ...shared, dtick: 1 };
    // Plotly would write 5 for 5e9 here.
    return { ...shared, tickvals: fewTicks(bounds), tickformat: power ? "~e" : shared.tickformat };
  }

  function endLabels(traces, spec, xr, yr, ylog, height) {
    const at = (v, log) => log ? Math.log10(v) : v;
    const labels = [];
    for (const trace of traces.filter((t) => t.endLabel && !t.off)) {
      const group = traces.filter((t) => t.key === trace.key && t.mode !== "markers" && t.x.length);
      const last = Math.max(...trace.x.filter((_, i) => ok(trace.y[i])));
      // Runs of one size share a label, at the mean of their ends.
      const ends = group.map((t) => t.y[t.x.indexOf(last)]).filter(ok);
      if (Number.isFinite(last) && ends.length) {
        labels.push({ x: at(last, spec.xlog), y: at(mean(ends), ylog), text: trace.name, color: trace.legendColor || trace.color });
      }
    }
    const pixel = (y) => (y - yr[0]) / (yr[1] - yr[0]) * height;
    labels.sort((a, b) => a.y - b.y).forEach((l) => { l.at = pixel(l.y); });
    for (let i = 1; i < labels.length; i++) labels[i].at = Math.max(labels[i].at, labels[i - 1].at + 14);
    const over = labels.length ? labels[labels.length - 1].at - height : 0;
    if (over > 0) {
      labels[labels.length - 1].at -= over;
      for (let i = labels.length - 2; i >= 0; i--) labels[i].at = Math.min(labels[i].at, labels[i + 1].at - 14);
    }
    return labels.map((l) => ({ x: 1, xref: "paper", y: l.y, yref: "y", yshift: l.at - pixel(l.y), text: esc(l.text),
      showarrow: false, xanchor: "left", xshift: 6, font: { size: 11.5, color: l.color } }));
  }

  function plotlyTrace(t) {
    const hover = { hoverinfo: "text", hovertext: t.text, hoverlabel: { align: "left" } };
    const bars = t.error && t.error.some(ok)
      ? { error_y: { type: "data", array: t.error.map((e) => ok(e) ? e : 0), thickness: 1, width: 0, color: t.color } } : {};
    return { type: "scatter", x: t.x, y: t.y, mode: t.pointLabels ? `${t.mode}+text` : t.mode, ...hover, ...bars, opacity: t.opacity || 1,
      visible: !t.off, line: { color: t.color, width: t.width || 2, dash: t.dash || "solid" }, connectgaps: false,
      marker: { color: t.color, size: t.size || 6, symbol: t.symbol || "circle", line: { color: css("--card"), width: t.mode === "markers" ? 0 : 1 } },
      text: t.pointLabels ? t.pointLabels.map(esc) : undefined, textposition: t.textAt, textfont: { size: 11, color: css("--quiet") },
      showlegend: false, cliponaxis: false };
  }

  function legend(box, id, traces) {
    box.replaceChildren();
    const seen = new Set();
    for (const t of traces.filter((u) => u.legend !== false && u.name)) {
      if (seen.has(t.key + t.name) || seen.has(t.key)) continue;
      seen.add(t.key);
      const button = document.createElement("button"), swatch = document.createElement("i");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!t.off));
      swatch.className = t.symbol === "diamond" && t.mode === "markers" ? "diamond" : { dash: "dash", dot: "dot" }[t.dash] || "";
      swatch.style.color = swatch.style.borderColor = t.legendColor || t.color;
      button.append(swatch, t.name);
      button.addEventListener("click", () => {
        if (!hidden[id].delete(t.key)) hidden[id].add(t.key);
        draw();
      });
      box.append(button);
    }
  }

  function render(id, spec) {
    const box = $(id);
    if (!box.firstChild) {
      for (const kind of ["canvas", "legend", "note"]) {
        box.append(Object.assign(document.createElement("div"), { className: kind }));
      }
    }
    const [canvas, legendBox, note] = box.children;
    hidden[id] = hidden[id] || new Set();
    const ylog = value("yscale") === "log";
    let lost = 0;
    let traces = spec.traces.map((raw) => {
      const kept = drawable(raw, spec.xlog, ylog);
      lost += kept.lost;
      return { ...kept.trace, off: hidden[id].has(raw.key) };
    });
    traces = traces.filter((t) => t.x.length || (ok(t.level) && (!ylog || t.level > 0)));
    const shown = traces.filter((t) => t.x.length);
    const xs = shown.flatMap((t) => t.x).filter(ok), ys = traces.flatMap((t) => [...t.y, t.level]).filter(ok);
    const empty = !xs.length;
    const xr = empty ? [0, 1] : range(xs, spec.xlog, traces.some((t) => t.pointLabels) ? 0.09 : 0.05);
    const yr = BOUNDED.has(spec.metric) && !ylog ? [-0.03, 1.05] : ys.length ? range(ys, ylog, 0.06) : [0, 1];
    const wide = canvas.clientWidth > 520;
    const labelled = wide && traces.some((t) => t.endLabel);
    const longest = Math.max(0, ...traces.filter((t) => t.endLabel).map((t) => t.name.length));
    const margin = { l: 62, r: labelled ? Math.min(190, 20 + 6.8 * longest) : 14, t: wide ? 34 : 14, b: 48 };
    const height = canvas.clientHeight - margin.t - margin.b;
    const levels = traces.filter((t) => ok(t.level));
    const unlog = (v) => spec.xlog ? 10 ** v : v;
    const drawn = traces.map((t) => ok(t.level) ? {
      ...plotlyTrace({ ...t, mode: "lines" }), x: t.span.map((s) => unlog(xr[0] + s * (xr[1] - xr[0]))), y: [t.level, t.level],
      cliponaxis: true } : plotlyTrace(wide ? t : { ...t, pointLabels: null }));
    const annotations = labelled ? endLabels(traces, spec, xr, yr, ylog, height) : [];
    if (empty) {
      annotations.push({ text: "No values for this choice", showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper",
        font: { size: 14, color: css("--quiet") } });
    }
    Plotly.react(canvas, empty ? [] : drawn, {
      font: { family: getComputedStyle(document.body).fontFamily, color: css("--ink") }, margin, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", annotations, showlegend: false,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent") }, dragmode: wide ? "zoom" : false,
      xaxis: axis(spec.xtitle, spec.xlog, xr, spec.x), yaxis: axis(spec.ytitle, ylog, yr),
    }, { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
         displayModeBar: wide ? "hover" : false, toImageButtonOptions: { format: "svg", filename: id } });
    legend(legendBox, id, empty ? [] : traces);
    const zero = lost ? `${lost} points at 0 (or below) have no place on a log axis and are not drawn.` : "";
    note.textContent = [spec.note, zero].filter(Boolean).join(" ");
    box.dataset.traces = empty ? 0 : drawn.length;
    box.dataset.levels = levels.length;
  }

  function draw() {
    const metric = value("metric"), shots = value("shots");
    const present = (list) => list.some((m) => task.metrics.includes(m));
    $("shots-section").hidden = task.shots.length < 2;
    $("pair-section").hidden = !(present(AXES.left) && present(AXES.right));
    render("plot-size", scaling(metric, shots, value("size")));
    render("plot-compute", scaling(metric, shots, value("compute")));
    if (task.shots.length > 1) render("plot-shots", againstShots(metric));
    render("plot-along", alongTraining(metric, shots));
    render("plot-loss", losses());
    if (!$("pair-section").hidden) {
      render("plot-left", scaling(value("left"), value("pair-shots"), value("size")));
      render("plot-right", scaling(value("right"), value("pair-shots"), value("size")));
    }
    document.documentElement.dataset.drawn = Number(document.documentElement.dataset.drawn || 0) + 1;
  }

  // --- controls -----------------------------------------------------------------------------------

  function fill(id, keys, label, chosen) {
    const before = $(id).value;
    $(id).replaceChildren(...keys.map((key) => new Option(label(key), key)));
    $(id).value = keys.includes(before) ? before : keys.includes(chosen) ? chosen : keys[0];
  }

  function chooseTask() {
    task = data.tasks.find((t) => t.key === $("task").value);
    Object.values(hidden).forEach((set) => set.clear());
    fill("metric", task.metrics, name, task.primary);
    const every = task.shots.length > 1 ? ["every"] : [];
    fill("shots", [...task.selections, ...every], shotsName, every[0] || task.selections[0]);
    fill("pair-shots", [...task.selections, ...every], shotsName, task.selections[0]);
    const among = (list) => list.filter((m) => task.metrics.includes(m));
    fill("left", among(AXES.left), name, "exact_match");
    fill("right", among(AXES.right), name, "nll");
  }

  function start() {
    fill("task", data.tasks.map((t) => t.key), String, data.tasks[0].key);
    $("task-field").hidden = data.tasks.length < 2;
    for (const id of ["size", "compute", "along"]) fill(id, AXES[id], name, AXES[id][0]);
    chooseTask();
    $("task").addEventListener("change", chooseTask);
    for (const select of document.querySelectorAll("select")) select.addEventListener("change", draw);
    dark.addEventListener("change", draw);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
    draw();
  }

  try {
    start();
  } catch (error) {
    $("failure").hidden = false;
    $("failure").textContent = `The figures could not be drawn: ${error}`;
    throw error;
  }
})();
