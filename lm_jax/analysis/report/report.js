// The page's controls: what is chosen, and drawing anew when it changes.
const TITLES = {
  "plot-size": "At the end of training, against size", "plot-compute": "At the end of training, against compute",
  "plot-shots": "Against the number of shots", "plot-seeds": "Seeds of each size", "plot-along": "Along training",
  "plot-loss": "Training loss", "plot-best": "Best at this compute", "plot-left": "Thresholded metric", "plot-right": "Continuous metric",
};

let waiting = [];  // [plot, its spec] of what is out of sight and still to be drawn

// Draws what is in sight at once, and the rest a plot at a time, so that the page answers in between.
function draw() {
  const metric = value("metric"), shots = value("shots"), one = shots === "every" ? summary() : shots;
  const present = (list) => list.some((m) => task.metrics.includes(m));
  const pair = present(AXES.left) && present(AXES.right), several = task.shots.length > 1;
  $("shots-section").hidden = !several;
  $("pair-section").hidden = !pair;
  const plots = [
    ["plot-size", scaling, metric, shots, value("size")], ["plot-compute", scaling, metric, shots, value("compute")],
    ["plot-seeds", seedStrip, metric, one], ...(several ? [["plot-shots", againstShots, metric]] : []),
    ["plot-along", alongTraining, metric, shots], ["plot-loss", losses], ["plot-best", bestAtCompute, metric, one],
    ...(pair ? ["left", "right"].map((side) => [`plot-${side}`, scaling, value(side), value("pair-shots"), value("size")]) : []),
  ];
  waiting = plots.filter(([id]) => !inSight(id));
  plots.filter((plot) => !waiting.includes(plot)).forEach(drawOne);
  const root = document.documentElement;
  root.dataset.drawn = Number(root.dataset.drawn || 0) + 1;
  root.dataset.waiting = waiting.length;
  setTimeout(drawNext, 0, waiting);
}

function inSight(id) {
  const box = $(id).getBoundingClientRect();
  return box.top < innerHeight && box.bottom > 0;
}

function drawOne([id, spec, ...options]) {
  render(id, spec(TITLES[id], ...options));
}

function drawNext(list) {
  // Another choice may have been made meanwhile.
  if (list !== waiting || !list.length) return;
  drawOne(list.shift());
  document.documentElement.dataset.waiting = list.length;
  setTimeout(drawNext, 0, list);
}

function drawAll() {
  while (waiting.length) drawOne(waiting.shift());
  document.documentElement.dataset.waiting = 0;
}

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

// --- the filter -----------------------------------------------------------------------------------

function filtered() {
  const kept = data.cells.filter(passes).length;
  $("filter-told").textContent = kept < data.cells.length ? `${kept} of ${data.cells.length} cells` : "all cells";
  cellTable.shown = ROWS_AT_ONCE;
  draw();
  fillCells();
}

function checkboxes(kind, values, title) {
  const boxes = values.map((text) => {
    const box = make("input", { type: "checkbox", checked: true, value: text });
    box.addEventListener("change", () => {
      if (box.checked) filter[kind].delete(text); else filter[kind].add(text);
      filtered();
    });
    return make("label", {}, box, text);
  });
  const group = make("fieldset", {}, make("legend", {}, title), ...boxes);
  group.dataset.kind = kind;
  return group;
}

function startFilter() {
  const distinct = (key) => [...new Set(data.cells.map((cell) => String(cell[key])))];
  const seeds = distinct("seed").sort((a, b) => a - b);
  $("filter-boxes").append(checkboxes("family", distinct("family"), "Family"), checkboxes("label", distinct("label"), "Size"),
                           checkboxes("seed", seeds, "Seed"));
  let typing = null;
  $("filter-text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      filter.words = value("filter-text").toLowerCase().split(/\s+/).filter(Boolean);
      filtered();
    }, 250);
  });
  $("filter-clear").addEventListener("click", () => {
    for (const set of [filter.family, filter.label, filter.seed]) set.clear();
    for (const box of $("filter-boxes").querySelectorAll("input")) box.checked = true;
    $("filter-text").value = "";
    filter.words = [];
    filtered();
  });
}

function start() {
  fill("task", data.tasks.map((t) => t.key), String, data.tasks[0].key);
  $("task-field").hidden = data.tasks.length < 2;
  for (const id of ["size", "compute", "along", "best"]) fill(id, AXES[id], name, AXES[id][0]);
  chooseTask();
  startCells();
  startOverview();
  startFilter();
  $("task").addEventListener("change", chooseTask);
  for (const select of document.querySelectorAll("select")) select.addEventListener("change", draw);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  dark.addEventListener("change", draw);
  // On paper figures are as wide as the page, not as the window.
  const printing = (on) => { document.documentElement.classList.toggle("printing", on); draw(); drawAll(); };
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  draw();
  fillCells();
}

try {
  start();
} catch (error) {
  $("failure").hidden = false;
  $("failure").textContent = `The figures could not be drawn: ${error}`;
  throw error;
}
