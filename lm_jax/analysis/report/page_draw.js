// How a spec is drawn: axes, legend, labels, its text for a screen reader, its numbers as a table.
const BOUNDED = new Set(["accuracy", "exact_match", "choice_prob", "beats_baseline"]);
const TABLE_ROWS = 300;
const hidden = {};  // plot -> keys switched off in its legend
const lastSpec = {};  // plot -> what its table of numbers shows

// Drops what a log axis cannot show, and says how much.
function drawable(trace, xlog, ylog) {
  const keep = trace.x.map((x, i) => (!xlog || x > 0) && (!ylog || !ok(trace.y[i]) || trace.y[i] > 0));
  const pick = (list) => Array.isArray(list) ? list.filter((_, i) => keep[i]) : list;
  const lost = trace.band ? 0 : keep.filter((k) => !k).length;
  if (!keep.includes(false)) return { lost, trace };
  return { lost, trace: { ...trace, x: pick(trace.x), y: pick(trace.y), text: pick(trace.text), what: pick(trace.what),
                          half: pick(trace.half), error: pick(trace.error), pointLabels: pick(trace.pointLabels) } };
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
  if (bounds[1] - bounds[0] > 1.4) return { ...shared, dtick: bounds[1] - bounds[0] > 8 ? 2 : 1 };
  // Plotly would write 5 for 5e9 here.
  return { ...shared, tickvals: fewTicks(bounds), tickformat: power ? "~e" : shared.tickformat };
}

function endLabels(traces, spec, xr, yr, ylog, height) {
  const at = (v, log) => log ? Math.log10(v) : v;
  let labels = [];
  for (const trace of traces.filter((t) => t.endLabel && !t.off)) {
    const group = traces.filter((t) => t.key === trace.key && t.mode !== "markers" && !t.band && t.x.length);
    const last = Math.max(...trace.x.filter((_, i) => ok(trace.y[i])));
    // Runs of one size share a label, at the mean of their ends.
    const ends = group.map((t) => t.y[t.x.indexOf(last)]).filter(ok);
    if (Number.isFinite(last) && ends.length) {
      labels.push({ x: at(last, spec.xlog), y: at(mean(ends), ylog), text: trace.name, color: trace.legendColor || trace.color });
    }
  }
  const pixel = (y) => (y - yr[0]) / (yr[1] - yr[0]) * height;
  labels.sort((a, b) => a.y - b.y);
  labels = some(labels, Math.max(2, Math.floor(height / 14)));
  labels.forEach((l) => { l.at = pixel(l.y); });
  for (let i = 1; i < labels.length; i++) labels[i].at = Math.max(labels[i].at, labels[i - 1].at + 14);
  const over = labels.length ? labels[labels.length - 1].at - height : 0;
  if (over > 0) {
    labels[labels.length - 1].at -= over;
    for (let i = labels.length - 2; i >= 0; i--) labels[i].at = Math.min(labels[i].at, labels[i + 1].at - 14);
  }
  return labels.map((l) => ({ x: 1, xref: "paper", y: l.y, yref: "y", yshift: l.at - pixel(l.y), text: esc(short(l.text)),
    showarrow: false, xanchor: "left", xshift: 6, font: { size: 11.5, color: l.color } }));
}

// Names of any length are whole in the legend and in what the pointer shows.
const short = (text, most = 28) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

function plotlyTrace(t) {
  const hover = t.band ? { hoverinfo: "skip" } : { hoverinfo: "text", hovertext: t.text, hoverlabel: { align: "left" } };
  const bars = t.error && t.error.some(ok)
    ? { error_y: { type: "data", array: t.error.map((e) => ok(e) ? e : 0), thickness: 1, width: 0, color: t.color } } : {};
  const filled = t.band ? { fill: "toself", fillcolor: t.color } : {};
  return { type: "scatter", x: t.x, y: t.y, mode: t.pointLabels ? `${t.mode}+text` : t.mode, ...hover, ...bars, ...filled,
    opacity: t.opacity || 1, visible: !t.off, connectgaps: false,
    line: { color: t.color, width: t.band ? 0 : t.width || 2, dash: t.dash || "solid", shape: t.shape || "linear" },
    marker: { color: t.color, size: t.size || 6, symbol: t.symbol || "circle", line: { color: css("--card"), width: t.mode === "markers" ? 0 : 1 } },
    text: t.pointLabels ? t.pointLabels.map((label) => esc(short(label))) : undefined, textposition: t.textAt,
    textfont: { size: 11, color: css("--quiet") }, showlegend: false, cliponaxis: false };
}

function legend(box, id, traces) {
  box.replaceChildren();
  const seen = new Set();
  for (const t of traces.filter((u) => u.legend !== false && u.name)) {
    if (seen.has(t.key)) continue;
    seen.add(t.key);
    const swatch = make("i");
    swatch.className = t.mode === "markers" || t.symbol && t.symbol !== "circle" ? `mark ${t.symbol || "circle"}`
      : { dash: "dash", dot: "dot" }[t.dash] || "";
    swatch.style.color = swatch.style.borderColor = t.legendColor || t.color;
    const button = make("button", { type: "button" }, swatch, t.name);
    button.setAttribute("aria-pressed", String(!t.off));
    button.addEventListener("click", () => {
      const place = [...box.children].indexOf(button);
      if (!hidden[id].delete(t.key)) hidden[id].add(t.key);
      draw();
      if (box.children[place]) box.children[place].focus();
    });
    box.append(button);
  }
}

// What a figure shows, in words.
function described(spec, traces) {
  const shown = traces.filter((t) => !t.off);
  const lines = shown.filter((t) => t.name && !t.dots && !ok(t.level) && t.legend !== false && t.x.length);
  const dots = shown.filter((t) => t.dots).reduce((n, t) => n + t.x.length, 0);
  const ends = (t) => {
    const there = t.x.map((x, i) => [x, t.y[i]]).filter(([, y]) => ok(y));
    const [first, last] = [there[0], there[there.length - 1]];
    return there.length ? ` from ${number(first[1])} at ${number(first[0])} to ${number(last[1])} at ${number(last[0])}` : "";
  };
  const told = lines.slice(0, 8).map((t) => spec.ticks ? `${t.name}, mean ${number(t.y[0])}` : `${t.name}, ${t.x.length} points,${ends(t)}`);
  if (lines.length > 8) told.push(`and ${lines.length - 8} more lines`);
  const levels = shown.filter((t) => ok(t.level) && t.legend !== false).map((t) => `${t.name} ${number(t.level)}`);
  const against = spec.xtitle ? ` against ${spec.xtitle}` : " by size";
  return `${spec.title}: ${spec.ytitle}${against}. ` + (lines.length + dots
    ? [...told, dots ? `${dots} dots of single runs` : "", ...levels].filter(Boolean).join("; ") : "No values for this choice") + ".";
}

function tableRows(spec) {
  return spec.traces.filter((t) => !t.band && !hidden[spec.id].has(t.key)).flatMap((t) => ok(t.level)
    ? [[t.name, "", number(t.level), ""]]
    : t.x.map((x, i) => ok(t.y[i]) && [
      [t.dots ? "" : t.name, t.what && t.what[i]].filter(Boolean).join(": ") || t.name, spec.ticks ? "" : number(x), number(t.y[i]),
      t.half && ok(t.half[i]) ? `± ${number(t.half[i])} (95 %, seeds)` : t.error && ok(t.error[i]) ? `± ${number(t.error[i])} (items)` : "",
    ]).filter(Boolean));
}

function fillTable(details) {
  const spec = lastSpec[details.dataset.plot], rows = tableRows(spec);
  const row = (cells, tag) => make("tr", {}, ...cells.map((text, i) => make(tag, { className: i ? "num" : "" }, text)));
  const caption = rows.length > TABLE_ROWS ? `The first ${TABLE_ROWS} of ${rows.length} rows` : `${rows.length} rows`;
  details.lastChild.replaceChildren(make("table", {}, make("caption", {}, `${spec.title}. ${caption}.`),
    make("thead", {}, row(["What", spec.xtitle || "Size", spec.ytitle, "±"], "th")),
    make("tbody", {}, ...rows.slice(0, TABLE_ROWS).map((cells) => row(cells, "td")))));
}

function frame(box, id) {
  const canvas = make("div", { className: "canvas" });
  canvas.setAttribute("role", "img");
  const table = make("details", { className: "numbers" }, make("summary", {}, "Data table"), make("div", { className: "scroll" }));
  table.dataset.plot = id;
  table.addEventListener("toggle", () => { if (table.open) fillTable(table); });
  box.append(canvas, make("div", { className: "legend" }), make("p", { className: "note" }), table, make("p", { className: "own-files" }));
}

function linkFiles(box, id) {
  const path = (data.figures[task.key] || {})[id], links = box.children[4];
  links.replaceChildren();
  if (!path) return;
  links.append("As a figure: ");
  for (const ending of ["png", "svg", "pdf"]) links.append(make("a", { href: encodeURI(`${path}.${ending}`) }, ending.toUpperCase()), " ");
  links.append("its numbers: ", make("a", { href: encodeURI(`${path.replace("figures/", "tables/")}.csv`) }, "CSV"));
}

function render(id, spec) {
  const box = $(id);
  if (!box.firstChild) frame(box, id);
  const [canvas, legendBox, note, table] = box.children;
  hidden[id] = hidden[id] || new Set();
  const ylog = value("yscale") === "log";
  let lost = 0;
  let traces = spec.traces.map((raw) => {
    const kept = drawable(raw, spec.xlog, ylog);
    lost += kept.lost;
    return { ...kept.trace, off: hidden[id].has(raw.key) };
  });
  traces = traces.filter((t) => t.x.length || (ok(t.level) && (!ylog || t.level > 0)));
  const xs = traces.flatMap((t) => t.x).filter(ok);
  // The interval of two seeds can be far wider than what was measured.
  const ys = traces.flatMap((t) => t.band ? [] : ok(t.level) ? [t.level] : t.y).filter(ok);
  const empty = !xs.length;
  const xr = spec.ticks ? [-0.6, spec.ticks.length - 0.4] : empty ? [0, 1]
    : range(xs, spec.xlog, traces.some((t) => t.pointLabels) ? 0.09 : 0.05);
  const yr = BOUNDED.has(spec.metric) && !ylog ? [-0.03, 1.05] : ys.length ? range(ys, ylog, 0.06) : [0, 1];
  const wide = canvas.clientWidth > 520;
  const labelled = wide && traces.some((t) => t.endLabel);
  const longest = Math.max(0, ...traces.filter((t) => t.endLabel).map((t) => short(t.name).length));
  const margin = { l: 62, r: labelled ? Math.min(190, 20 + 6.8 * longest) : 14, t: wide ? 34 : 14, b: spec.ticks ? 90 : 48 };
  const height = canvas.clientHeight - margin.t - margin.b;
  const unlog = (v) => spec.xlog ? 10 ** v : v;
  const drawn = traces.map((t) => ok(t.level) ? {
    ...plotlyTrace({ ...t, mode: "lines" }), x: t.span.map((s) => unlog(xr[0] + s * (xr[1] - xr[0]))), y: [t.level, t.level],
    cliponaxis: true } : plotlyTrace(wide ? t : { ...t, pointLabels: null }));
  if (spec.band && !empty) drawn.unshift(...bandTraces(spec.band, yr, ylog));
  const annotations = labelled ? endLabels(traces, spec, xr, yr, ylog, height) : [];
  if (empty) {
    annotations.push({ text: "No values for this choice", showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper",
      font: { size: 14, color: css("--quiet") } });
  }
  const ticks = spec.ticks ? { tickvals: spec.ticks.map((t) => t[0]), ticktext: spec.ticks.map((t) => esc(short(t[1], 18))), tickangle: -35,
                               tickmode: "array", showgrid: false } : {};
  Plotly.react(canvas, empty ? [] : drawn, {
    font: { family: getComputedStyle(document.body).fontFamily, color: css("--ink") }, margin, hovermode: "closest",
    width: canvas.clientWidth, height: canvas.clientHeight, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", annotations, showlegend: false,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent") }, dragmode: wide ? "zoom" : false,
    xaxis: { ...axis(spec.xtitle, spec.xlog, xr, spec.x), ...ticks }, yaxis: axis(spec.ytitle, ylog, yr),
  }, { responsive: false, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
       displayModeBar: wide ? "hover" : false, toImageButtonOptions: { format: "svg", filename: id } });
  legend(legendBox, id, empty ? [] : traces);
  const zero = lost ? `${lost} points at 0 (or below) have no place on a log axis and are not drawn.` : "";
  note.textContent = [spec.note, zero].filter(Boolean).join(" ");
  canvas.setAttribute("aria-label", described(spec, traces));
  lastSpec[id] = { ...spec, id };
  if (table.open) fillTable(table);
  linkFiles(box, id);
  box.dataset.traces = empty ? 0 : drawn.length;
  box.dataset.points = xs.length;
}

// A threshold with its interval, over the whole height.
function bandTraces(band, yr, ylog) {
  const [low, high] = yr.map((y) => ylog ? 10 ** y : y), traces = [];
  const shared = { color: css("--warn-rule"), key: "threshold", text: esc(band.note) };
  if (ok(band.low) && ok(band.high)) {
    traces.push({ ...plotlyTrace({ ...shared, band: true, mode: "lines", opacity: 0.22, x: [band.low, band.high, band.high, band.low],
                                   y: [low, low, high, high] }), cliponaxis: true });
  }
  traces.push({ ...plotlyTrace({ ...shared, mode: "lines", width: 1.5, dash: "dashdot", x: [band.x, band.x], y: [low, high] }), cliponaxis: true });
  return traces;
}
