// The table of cells: its rows are made as they are asked for, since a study can have thousands.
const ROWS_AT_ONCE = 100;
const cellTable = { shown: ROWS_AT_ONCE, sort: null, down: false, words: [] };

const finalValue = (metric) => (cell) => {
  const of = data.tasks.find((t) => t.key === cell.task);
  return of && finalOf(cell, metric, of.selections[0]);
};

function cellColumns() {
  const text = (heading, key) => ({ heading, key: (cell) => cell[key], show: (cell) => ok(cell[key]) ? String(cell[key]) : "–" });
  const quantity = (heading, key) => ({ ...text(heading, key), numeric: true, show: (cell) => number(cell[key]) });
  const metrics = ["accuracy", "exact_match", "nll", "bits_per_byte"].filter((m) => data.cells.some(finalValue(m)));
  return [
    text("Size", "label"), text("Family", "family"), text("Task", "task"), quantity("Seed", "seed"), quantity("Parameters", "params_total"),
    quantity("Tokens", "tokens"), quantity("FLOPs", "flops_exact"), quantity("Loss", "final_loss"),
    ...metrics.map((metric) => ({
      heading: name(metric), numeric: true, key: (cell) => (finalValue(metric)(cell) || {}).value,
      show: (cell) => {
        const found = finalValue(metric)(cell);
        return found ? [found.value.toFixed(3), ok(found.error) ? `±${found.error.toFixed(3)}` : ""] : "–";
      },
    })),
    text("State", "state"), { ...text("Cell", "cell_id"), code: true }, { heading: "Files", key: (cell) => cell.files.length, files: true },
    text("Device", "device"), text("lm_jax", "lm_jax_version"), text("Commit", "git_commit"),
  ];
}

function fileLinks(cell) {
  const folder = ok(cell.folder) ? cell.folder.split("/").map((p) => p === ".." ? p : encodeURIComponent(p)).join("/") : "";
  return cell.files.flatMap((file) => [make("a", { href: `${folder}/${file}` }, file.split(".")[0]), " "]);
}

function cellRow(cell, columns) {
  return make("tr", {}, ...columns.map((column) => {
    if (column.files) return make("td", {}, ...fileLinks(cell));
    const shown = column.show(cell), [main, note] = Array.isArray(shown) ? shown : [shown, ""];
    const td = make("td", { className: column.numeric ? "num" : "" }, column.code ? make("code", {}, main) : main);
    if (note) td.append(" ", make("small", {}, note));
    const key = column.key(cell);
    if (ok(key)) td.dataset.v = key;
    return td;
  }));
}

function chosenCells(columns) {
  const list = data.cells.filter((cell) => passes(cell) && matches(cell, cellTable.words));
  const column = columns.find((c) => c.heading === cellTable.sort);
  if (!column) return list;
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = column.numeric || column.files ? (u, v) => u - v : (u, v) => collator.compare(u, v);
  return list.map((cell) => [column.key(cell), cell]).sort(([u], [v]) => {
    // What is missing comes last in either order.
    if (!ok(u) || !ok(v)) return (!ok(u)) - (!ok(v));
    return (cellTable.down ? -1 : 1) * compare(u, v);
  }).map(([, cell]) => cell);
}

function fillCells() {
  const columns = cellTable.columns, list = chosenCells(columns);
  const body = $("cells").tBodies[0];
  body.replaceChildren(...list.slice(0, cellTable.shown).map((cell) => cellRow(cell, columns)));
  [...$("cells").tHead.rows[0].cells].forEach((head, i) => {
    head.removeAttribute("aria-sort");
    if (columns[i].heading === cellTable.sort) head.setAttribute("aria-sort", cellTable.down ? "descending" : "ascending");
  });
  const shown = Math.min(list.length, cellTable.shown);
  $("cells-count").textContent = `${shown.toLocaleString("en-US")} of ${list.length.toLocaleString("en-US")} cells` +
    (list.length < data.cells.length ? ` that match (${data.cells.length.toLocaleString("en-US")} in all)` : "");
  $("cells-more").hidden = shown === list.length;
}

function startCells() {
  const columns = cellTable.columns = cellColumns();
  const heads = columns.map((column) => {
    const button = make("button", { type: "button" }, column.heading);
    button.addEventListener("click", () => {
      cellTable.down = cellTable.sort === column.heading && !cellTable.down;
      cellTable.sort = column.heading;
      fillCells();
    });
    return make("th", { scope: "col", className: column.numeric ? "num" : "" }, button);
  });
  $("cells").append(make("thead", {}, make("tr", {}, ...heads)), make("tbody"));
  $("cells-filter").addEventListener("input", () => {
    cellTable.words = value("cells-filter").toLowerCase().split(/\s+/).filter(Boolean);
    cellTable.shown = ROWS_AT_ONCE;
    fillCells();
  });
  $("cells-more").addEventListener("click", () => { cellTable.shown += ROWS_AT_ONCE * 5; fillCells(); });
}
