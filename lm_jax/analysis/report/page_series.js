// What the page knows: its data, which cells the filter lets through, and their values.
// Every string of the data is shown through textContent or esc(): plotly reads tags in the texts it draws.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const filter = { family: new Set(), label: new Set(), seed: new Set(), words: [] };  // sets: switched off
let task = data.tasks[0];

const esc = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const name = (key) => data.names[key] || key;
const css = (key) => getComputedStyle(document.documentElement).getPropertyValue(key).trim();
const ok = (v) => v !== null && v !== undefined;
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const number = (v) => !ok(v) ? "–" : Math.abs(v) >= 1e7 ? v.toExponential(2)
  : Number.isInteger(v) ? v.toLocaleString("en-US") : estimate(v);
// To four digits, also where it happens to be whole.
const estimate = (v) => {
  const rounded = Number(v.toPrecision(4));
  return Number.isInteger(rounded) ? number(rounded) : String(rounded);
};
const value = (key) => $(key).value;
const shotsName = (s) => s === "window" ? `${task.window || "window"}` : s === "all" ? "all tokens"
  : s === "every" ? "every number, a line each" : `${s} ${s === "1" ? "shot" : "shots"}`;
const summary = () => task.selections[0];
const color = (size) => dark.matches ? size.dark : size.light;
const shotColor = (i) => (dark.matches ? task.shot_dark : task.shot_light)[i];
const level = (metric, shots, kind) => ((task.levels[metric] || {})[shots] || {})[kind];
const make = (tag, fields = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...children);
  return node;
};

// At most `most` of a list, evenly, with the first and the last.
function some(list, most) {
  if (list.length <= most) return list;
  return Array.from({ length: most }, (_, i) => list[Math.round(i * (list.length - 1) / (most - 1))]);
}

const sizeKey = (x) => JSON.stringify([x.task || task.key, x.family, x.label]);
const cellsBySize = new Map();
for (const cell of data.cells) {
  cell.words = [cell.label, cell.family, cell.task, `seed ${cell.seed}`, cell.cell_id, cell.state].join(" ").toLowerCase();
  if (!cellsBySize.has(sizeKey(cell))) cellsBySize.set(sizeKey(cell), []);
  cellsBySize.get(sizeKey(cell)).push(cell);
}

const matches = (cell, words) => words.every((word) => cell.words.includes(word));
const passes = (cell) => !filter.family.has(cell.family) && !filter.label.has(cell.label) &&
  !filter.seed.has(String(cell.seed)) && matches(cell, filter.words);
const cellsOf = (size) => (cellsBySize.get(sizeKey(size)) || []).filter(passes);

const axisOf = (series, x) => data.axes[series.axis][x];
const evalSeries = (cell, metric, shots) => cell.evals && cell.evals.values[metric] && cell.evals.values[metric][shots];

function finalOf(cell, metric, shots) {
  const series = cell.finished && evalSeries(cell, metric, shots);
  if (!series) return null;
  const [values, error] = series, last = values[values.length - 1];
  return ok(last) ? { value: last, error } : null;
}

function points(size, metric, shots, x) {
  return cellsOf(size).map((cell) => ({ cell, x: cell[x], ...finalOf(cell, metric, shots) }))
    .filter((p) => ok(p.value) && ok(p.x));
}

// Sizes with their points, those without left out, smallest first.
function groups(sizes, metric, shots, x) {
  return sizes.map((size) => ({ size, list: points(size, metric, shots, x) }))
    .filter((g) => g.list.length).sort((a, b) => a.list[0].x - b.list[0].x);
}

// Half the 95 % interval of a mean over seeds (Student's t), null for one seed.
function halfInterval(values) {
  const n = values.length;
  if (n < 2) return null;
  const m = mean(values), s = Math.sqrt(values.reduce((a, v) => a + (v - m) ** 2, 0) / (n - 1));
  return data.t95[Math.min(n - 2, data.t95.length - 1)] * s / Math.sqrt(n);
}
