"use strict";
// The table of cells. Only what changed is written, so that nothing flickers and a selection stays.

const STATES = ["running", "failed", "lost", "stopped", "paused", "waiting", "pruned", "done"];
const AT_ONCE = 200;

// Returns e.g. "45 s", "3 m 20 s", "2 h 05 m".
function duration(seconds) {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h} h ${two(m)} m` : m ? `${m} m ${two(s)} s` : `${s} s`;
}

const isRunning = (c) => c.state === "running";
// Title, class, text, what is sorted by.
const COLUMNS = [
  ["Cell", "id", (c) => c.id, (c) => c.id],
  ["Size", "size", (c) => c.label, (c) => c.params],
  ["Family", "family", (c) => c.family ?? "", (c) => c.family],
  ["Seed", "num seed", (c) => String(c.seed), (c) => c.seed],
  ["State", "state", (c) => c.state, (c) => STATES.indexOf(c.state)],
  ["Step", "num step", (c) => (c.step == null ? "" : c.step.toLocaleString("en")), (c) => c.step],
  ["Loss", "num", (c) => (c.loss == null ? "" : c.loss.toFixed(3)), (c) => c.loss],
  ["Tokens/s", "num speed", (c) => (isRunning(c) && c.tokens_per_s ? short(c.tokens_per_s) : ""), (c) => (isRunning(c) ? c.tokens_per_s : null)],
  ["Left", "num", (c) => (isRunning(c) && c.eta_s != null ? duration(c.eta_s) : ""), (c) => (isRunning(c) ? c.eta_s : null)],
  ["Run by", "who", (c) => (isRunning(c) ? c.who : ""), (c) => (isRunning(c) ? c.who : null)],
];

class Table {
  constructor(charts) {
    this.charts = charts; this.cells = []; this.rows = new Map(); this.notes = new Map(); this.state = null; this.all = false;
    this.sorted = { column: 4, descending: false };
    this.head = document.querySelector("#cells thead tr"); this.body = document.querySelector("#cells tbody");
    this.more = document.getElementById("more"); this.chips = document.getElementById("chips");
    COLUMNS.forEach(([title, name], i) => {
      const th = document.createElement("th"), button = document.createElement("button");
      th.className = name; th.scope = "col"; button.type = "button"; button.textContent = title;
      button.addEventListener("click", () => {
        this.sorted = { column: i, descending: this.sorted.column === i && !this.sorted.descending };
        this.show();
      });
      th.append(button); this.head.append(th);
    });
    this.more.addEventListener("click", () => { this.all = true; this.show(); });
    this.body.addEventListener("pointerover", (event) => this.highlight(event.target.closest("tr")));
    this.body.addEventListener("pointerleave", () => this.highlight(null));
  }

  highlight(row) {
    for (const plot of [this.charts.loss, this.charts.test]) plot.highlight(row ? row.dataset.id : null);
  }

  set(cells, counts) {
    this.cells = cells;
    this.listStates(counts);
    this.show();
  }

  listStates(counts) {
    const entries = [[null, "all", this.cells.length], ...STATES.filter((s) => counts[s]).map((s) => [s, s, counts[s]])];
    if (this.state && !counts[this.state]) this.state = null;
    while (this.chips.children.length > entries.length) this.chips.lastChild.remove();
    entries.forEach(([state, name, count], i) => {
      let button = this.chips.children[i];
      if (!button) {
        button = document.createElement("button"); button.type = "button"; this.chips.append(button);
        button.addEventListener("click", () => { this.state = button.dataset.state || null; this.listStates(this.counts); this.show(); });
      }
      button.dataset.state = state ?? "";
      put(button, `${count.toLocaleString("en")} ${name}`);
      button.setAttribute("aria-pressed", String(this.state === state));
    });
    this.counts = counts;
  }

  show() {
    const { column, descending } = this.sorted, value = COLUMNS[column][3], missing = (v) => v === null || v === undefined;
    [...this.head.children].forEach((th, i) => (i === column ? th.setAttribute("aria-sort", descending ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    const chosen = this.cells.map((cell, at) => ({ cell, at, v: value(cell) })).filter(({ cell }) => !this.state || cell.state === this.state);
    chosen.sort((a, b) => {
      if (missing(a.v) || missing(b.v)) return missing(a.v) - missing(b.v) || a.at - b.at;
      const order = typeof a.v === "number" && typeof b.v === "number" ? a.v - b.v : String(a.v).localeCompare(String(b.v), "en", { numeric: true });
      return (descending ? -order : order) || a.at - b.at;
    });
    const shown = this.all ? chosen : chosen.slice(0, AT_ONCE);
    const rows = shown.flatMap(({ cell }) => (cell.notes.length ? [this.row(cell), this.note(cell)] : [this.row(cell)]));
    if (rows.length !== this.body.children.length || rows.some((row, i) => this.body.children[i] !== row)) this.body.replaceChildren(...rows);
    this.more.hidden = shown.length === chosen.length;
    put(this.more, `show all ${chosen.length.toLocaleString("en")} cells`);
  }

  row(cell) {
    let row = this.rows.get(cell.id);
    if (!row) {
      row = document.createElement("tr"); row.dataset.id = cell.id;
      for (const [, name] of COLUMNS) {
        const td = document.createElement("td"), text = document.createElement("span");
        td.className = name; td.append(text);
        if (name === "size") { const dot = document.createElement("i"); dot.className = "dot"; td.prepend(dot); }
        if (name === "num step") {
          const bar = document.createElement("span"); bar.className = "steps"; bar.append(document.createElement("i"));
          const of = document.createElement("small"); of.className = "of"; td.append(of, bar);
        }
        row.append(td);
      }
      this.rows.set(cell.id, row);
    }
    if (row.dataset.state !== cell.state) row.dataset.state = cell.state;
    COLUMNS.forEach(([, name, text], i) => {
      const td = row.children[i];
      put(td.querySelector("span"), text(cell));
      if (name === "size") td.querySelector(".dot").style.background = this.charts.color(cell);
      if (name === "num step") {
        put(td.querySelector(".of"), cell.step == null ? "" : ` / ${cell.num_steps.toLocaleString("en")}`);
        td.querySelector(".steps").hidden = cell.step == null;
        td.querySelector(".steps i").style.width = cell.step == null ? "0" : `${100 * cell.step / cell.num_steps}%`;
      }
    });
    return row;
  }

  note(cell) {
    let note = this.notes.get(cell.id);
    if (!note) {
      note = document.createElement("tr"); note.className = "note"; note.dataset.id = cell.id;
      const td = document.createElement("td"); td.colSpan = COLUMNS.length; td.append(document.createElement("div"));
      note.append(td); this.notes.set(cell.id, note);
    }
    note.dataset.state = cell.state;
    put(note.querySelector("div"), cell.notes.join("\n"));
    return note;
  }
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
