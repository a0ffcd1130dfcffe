"use strict";
// The curves of a study: training loss along training, and a test metric against size or along training.

const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const NAMES = {
  accuracy: "Accuracy", exact_match: "Exact match", nll: "NLL (nats/token)", choice_prob: "Probability of the right choice",
  brier: "Brier score", kl_bayes: "KL from Bayes (nats/token)", bits_per_byte: "Bits per byte", loss: "Loss (nats/token)",
  beats_baseline: "Closer to Bayes than to the baseline", icl_score: "In-context-learning score (nats/token)",
};
const AXES = { tokens: "Training tokens", flops: "Training FLOPs", params: "Parameters" };
const PREFERRED = ["accuracy", "bits_per_byte", "nll"];

function viridis(share) {
  // The ends that a light or a dark page would swallow are left out.
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const at = (dark ? 0.22 + 0.78 * share : 0.85 * share) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const [a, b] = [rgb(VIRIDIS[i]), rgb(VIRIDIS[i + 1])];
  return `rgb(${a.map((v, k) => Math.round(v + (b[k] - v) * (at - i))).join(" ")})`;
}

class Charts {
  constructor() {
    this.curves = new Map();  // id: {train: {tokens, flops, values}, tests: Map of the same by series}
    this.series = new Map();  // key: {task, metric, shots, chance}
    this.cells = new Map();
    this.loss = new Plot(document.getElementById("loss"));
    this.test = new Plot(document.getElementById("test"));
    this.pick = document.getElementById("metric");
    for (const id of ["loss-x", "loss-log-x", "loss-log-y", "metric", "metric-x", "metric-log-x", "metric-log-y"]) {
      document.getElementById(id).addEventListener("change", () => this.draw());
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.sizes(); this.draw(); });
  }

  // Takes an answer of /curves.json; returns whether anything is new.
  take(answer) {
    if (answer.fresh) { this.curves.clear(); this.series.clear(); }
    for (const [id, told] of Object.entries(answer.cells)) {
      if (told.reset) this.curves.delete(id);
      if (!this.curves.has(id)) this.curves.set(id, { train: { tokens: [], flops: [], values: [] }, tests: new Map() });
      const { train, tests } = this.curves.get(id);
      for (const [tokens, flops, value] of told.train) { train.tokens.push(tokens); train.flops.push(flops); train.values.push(value); }
      for (const [tokens, flops, task, metric, shots, value, chance] of told.test) {
        const key = JSON.stringify([task, metric, shots]);
        if (!this.series.has(key)) this.series.set(key, { task, metric, shots, chance });
        if (!tests.has(key)) tests.set(key, { tokens: [], flops: [], values: [] });
        const one = tests.get(key);
        one.tokens.push(tokens); one.flops.push(flops); one.values.push(value);
      }
    }
    return answer.fresh || Object.keys(answer.cells).length > 0;
  }

  // Takes the cells of /status.json; returns whether a curve's look is another.
  setCells(cells) {
    const look = (c) => `${c.params} ${c.state} ${c.label} ${c.family} ${c.seed}`;
    const changed = cells.length !== this.cells.size || cells.some((c) => !this.cells.has(c.id) || look(this.cells.get(c.id)) !== look(c));
    this.cells = new Map(cells.map((c) => [c.id, c]));
    if (changed) {
      const params = cells.map((c) => c.params).filter((p) => p > 0);
      this.low = Math.min(...params); this.high = Math.max(...params);
      this.families = [...new Set(cells.map((c) => c.family))];
      this.sizes();
    }
    return changed;
  }

  color(cell) {
    if (!(cell.params > 0)) return viridis(0.5);
    return viridis(this.high > this.low ? Math.log(cell.params / this.low) / Math.log(this.high / this.low) : 0.5);
  }

  name(cell) {
    const family = this.families.length > 1 ? `, ${cell.family}` : "";
    return `${cell.label}${family}, seed ${cell.seed}`;
  }

  // The legend: each size where there are few, a ramp otherwise.
  sizes() {
    const legend = document.getElementById("sizes"), bySize = new Map();
    for (const cell of this.cells.values()) if (cell.params > 0) bySize.set(`${cell.params} ${cell.label}`, cell);
    const sorted = [...bySize.values()].sort((a, b) => a.params - b.params), parts = [];
    const entry = (...children) => { const span = document.createElement("span"); span.append(...children); parts.push(span); };
    const dot = (background, name = "dot") => { const d = document.createElement("i"); d.className = name; d.style.background = background; return d; };
    if (sorted.length > 12) {
      const ramp = `linear-gradient(to right, ${[0, 0.2, 0.4, 0.6, 0.8, 1].map(viridis).join(", ")})`;
      entry(`${short(this.low)} parameters`, dot(ramp, "ramp"), short(this.high));
    } else for (const cell of sorted) entry(dot(this.color(cell)), `${cell.label} (${short(cell.params)})`);
    const shapes = this.families.length > 1 ? this.families.map((family, i) => `${"●◆■▲"[i % 4]} ${family}`) : [];
    for (const text of [...shapes, "filled: done, hollow: so far"]) entry(text);
    legend.replaceChildren(...parts);
  }

  draw() {
    if (!this.families) return;
    this.listSeries();
    const chosen = (id) => document.getElementById(id).value, on = (id) => document.getElementById(id).checked;
    const x = chosen("loss-x");
    this.along(this.loss, "Training loss (nats/token)", x, on("loss-log-x"), on("loss-log-y"), (c) => c.train, []);
    const series = this.series.get(this.pick.value), against = chosen("metric-x");
    const label = series ? this.label(series) : "", logs = [on("metric-log-x"), on("metric-log-y")];
    const levels = series && series.chance !== null ? [{ y: series.chance, label: "chance" }] : [];
    if (against === "params") this.bySize(label, ...logs, levels);
    else this.along(this.test, label, against, ...logs, (c) => c.tests.get(this.pick.value), levels);
  }

  along(plot, label, x, logX, logY, part, levels) {
    const lines = [];
    for (const [id, cell] of this.cells) {
      const curve = this.curves.has(id) && part(this.curves.get(id));
      if (!curve || !curve.values.length) continue;
      const points = new Float64Array(2 * curve.values.length);
      curve.values.forEach((v, i) => { points[2 * i] = curve[x][i]; points[2 * i + 1] = v; });
      lines.push({ key: id, color: this.color(cell), points, name: this.name(cell), params: cell.params, grows: cell.state === "running" });
    }
    lines.sort((a, b) => a.params - b.params);
    this.put(plot, { x: { label: AXES[x], log: logX }, y: { label, log: logY }, lines, marks: [], joins: [], levels });
  }

  bySize(label, logX, logY, levels) {
    const marks = [], finished = new Map();
    for (const [id, cell] of this.cells) {
      const curve = this.curves.has(id) && this.curves.get(id).tests.get(this.pick.value);
      if (!curve || !(cell.params > 0)) continue;
      const done = cell.state === "done", y = curve.values.at(-1);
      marks.push({ key: id, x: cell.params, y, color: this.color(cell), filled: done, shape: this.families.indexOf(cell.family) % 4,
                   name: this.name(cell) + (done ? "" : `, ${cell.state}: so far`) });
      if (!done) continue;
      if (!finished.has(cell.family)) finished.set(cell.family, new Map());
      const sizes = finished.get(cell.family);
      if (!sizes.has(cell.params)) sizes.set(cell.params, []);
      sizes.get(cell.params).push(y);
    }
    const grey = getComputedStyle(document.body).getPropertyValue("--waiting").trim();
    const joins = [...finished.values()].map((sizes) => ({
      color: grey,
      points: [...sizes].sort((a, b) => a[0] - b[0]).flatMap(([size, ys]) => [size, ys.reduce((a, b) => a + b) / ys.length]),
    })).filter((join) => join.points.length > 2);
    this.put(this.test, { x: { label: "Parameters", log: logX }, y: { label, log: logY }, lines: [], marks, joins, levels });
  }

  put(plot, picture) {
    plot.show({ ...picture, empty: "no points yet" });
    const points = picture.lines.reduce((n, line) => n + line.points.length / 2, picture.marks.length);
    Object.assign(plot.element.dataset, { lines: picture.lines.length, marks: picture.marks.length, points });
    const what = picture.lines.length ? `${picture.lines.length} curves of ${points} points` : `${points} cells`;
    plot.element.setAttribute("aria-label", points ? `${picture.y.label} against ${picture.x.label}: ${what}` : "no points yet");
  }

  label({ task, metric, shots }) {
    const tasks = new Set([...this.series.values()].map((s) => s.task));
    const name = (Object.hasOwn(NAMES, metric) ? NAMES[metric] : metric) + (shots === null ? "" : `, ${shots} shots`);
    return tasks.size > 1 ? `${task}: ${name}` : name;
  }

  listSeries() {
    const keys = [...this.series.keys()];
    const labels = keys.map((key) => this.label(this.series.get(key)));
    if (labels.join("\n") === [...this.pick.options].map((o) => o.textContent).join("\n")) return;
    const before = this.pick.value;
    const rank = (key) => { const i = PREFERRED.indexOf(this.series.get(key).metric); return i < 0 ? PREFERRED.length : i; };
    this.pick.replaceChildren(...keys.map((key, i) => new Option(labels[i], key)));
    this.pick.value = keys.includes(before) && this.chose ? before : keys.reduce((a, b) => (rank(b) < rank(a) ? b : a), keys[0]);
    this.chose = keys.length > 0;
  }
}
