"use strict";
// Lines and marks on a canvas, with axes, and a tip at the nearest point. All text is drawn as text.

const POWERS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function power(exponent) {
  const digits = [...String(Math.abs(exponent))].map((d) => POWERS[d]).join("");
  return "10" + (exponent < 0 ? "⁻" : "") + digits;
}

// Returns e.g. 950, 12.3k, 1.2M, 3.4B; 10¹⁵ and beyond as powers.
function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e15 || size < 1e-3) {
    const exponent = Math.floor(Math.log10(size) + 1e-9);
    const lead = value / 10 ** exponent;
    return (Math.abs(lead - 1) < 1e-9 ? "" : `${Number(lead.toPrecision(3))}·`) + power(exponent);
  }
  for (const [factor, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= factor) return Number((value / factor).toPrecision(3)) + letter;
  }
  return String(Number(value.toPrecision(3)));
}

class Axis {
  // Values are placed between two pixels; `log` needs positive ones.
  constructor(low, high, log, from, to) {
    if (low === high) { const room = log ? 2 : Math.abs(low) * 0.1 || 1; low = log ? low / room : low - room; high = log ? high * room : high + room; }
    this.log = log; this.from = from; this.to = to;
    const a = log ? Math.log10(low) : low, b = log ? Math.log10(high) : high, pad = (b - a) * 0.04;
    this.a = a - pad; this.b = b + pad;
  }
  at(value) {
    const v = this.log ? Math.log10(value) : value;
    return this.from + (this.to - this.from) * (v - this.a) / (this.b - this.a);
  }
  // Returns values with a label each; those without one have a line only.
  ticks(count) {
    return this.log && this.b - this.a > 0.7 ? this.decades(count) : this.steps(count);
  }
  decades(count) {
    const ticks = [], first = Math.floor(this.a), last = Math.ceil(this.b);
    const every = Math.max(1, Math.ceil((last - first) / count));
    const wide = this.b - this.a < 2.2;
    for (let e = first; e <= last; e++) {
      for (const m of [1, 2, 5]) {
        const value = m * 10 ** e, v = Math.log10(value);
        if (v < this.a || v > this.b || (m > 1 && every > 1)) continue;
        ticks.push([value, (m === 1 && e % every === 0) || (m > 1 && wide) ? short(value) : ""]);
      }
    }
    return ticks;
  }
  steps(count) {
    const low = this.log ? 10 ** this.a : this.a, high = this.log ? 10 ** this.b : this.b;
    const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * ([1, 2, 5, 10].find((m) => m * unit >= rough) || 10), ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push([k * step, short(Number((k * step).toPrecision(12)))]);
    return ticks;
  }
}

class Plot {
  constructor(element) {
    this.element = element;
    this.canvas = document.createElement("canvas");
    this.tip = document.createElement("div");
    this.tip.className = "tip"; this.tip.hidden = true;
    element.append(this.canvas, this.tip);
    this.near = null; this.picture = null; this.highlighted = null;
    new ResizeObserver(() => this.draw()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    element.addEventListener("pointermove", (event) => this.point(event));
    element.addEventListener("pointerleave", () => { this.near = null; this.tip.hidden = true; this.draw(); });
  }

  // picture: {x: {label, log}, y: {label, log}, empty, lines: [{key, color, points: [x, y, ...], name, grows}],
  //   marks: [{key, x, y, color, shape, filled, name}], joins: [{points, color}], levels: [{y, label}]}
  show(picture) {
    this.picture = picture;
    this.draw();
  }

  highlight(key) {
    if (this.highlighted !== key) { this.highlighted = key; this.draw(); }
  }

  draw() {
    const p = this.picture, { clientWidth: width, clientHeight: height } = this.element;
    if (!p || !width) return;
    const scale = devicePixelRatio || 1, canvas = this.canvas;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
    }
    const g = canvas.getContext("2d"), css = getComputedStyle(this.element);
    const color = (name) => css.getPropertyValue(name).trim();
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = `12px ${css.fontFamily}`;
    this.spots = [];
    const fits = (x, y) => Number.isFinite(x) && Number.isFinite(y) && (!p.x.log || x > 0) && (!p.y.log || y > 0);
    const range = this.range(p, fits);
    if (!range) {
      g.fillStyle = color("--quiet"); g.textAlign = "center";
      g.fillText(p.empty, width / 2, height / 2);
      return;
    }
    const left = 52, bottom = height - 42, x = new Axis(range[0], range[1], p.x.log, left, width - 8);
    const y = new Axis(range[2], range[3], p.y.log, bottom, 10);
    this.axes(g, p, x, y, left, bottom, width, height, color);
    g.save();
    g.beginPath(); g.rect(left, 4, width - left, bottom - 3); g.clip();
    const chosen = this.near ? this.near.key : this.highlighted;
    for (const { y: level } of p.levels) {
      g.strokeStyle = color("--quiet"); g.setLineDash([5, 4]); g.lineWidth = 1;
      g.beginPath(); g.moveTo(left, y.at(level)); g.lineTo(width, y.at(level)); g.stroke();
    }
    g.setLineDash([]);
    for (const join of p.joins) this.line(g, join, x, y, fits, 1.5, 0.8, false);
    const many = p.lines.length > 60, last = p.lines.filter((l) => l.key === chosen);
    for (const line of p.lines) this.line(g, line, x, y, fits, many ? 1 : 1.5, chosen && line.key !== chosen ? 0.18 : many ? 0.6 : 0.9, true);
    for (const line of last) this.line(g, line, x, y, fits, 2.5, 1, false);
    for (const mark of p.marks) if (fits(mark.x, mark.y)) this.mark(g, mark, x, y, chosen, color("--card"));
    g.restore();
    g.fillStyle = color("--quiet"); g.textAlign = "right";
    for (const { y: level, label } of p.levels) {
      const at = y.at(level);
      if (at > 4 && at < bottom) g.fillText(label, width - 10, at - 4);
    }
  }

  range(p, fits) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    const take = (x, y) => {
      if (!fits(x, y)) return;
      x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y);
    };
    for (const line of p.lines) for (let i = 0; i < line.points.length; i += 2) take(line.points[i], line.points[i + 1]);
    for (const mark of p.marks) take(mark.x, mark.y);
    if (x0 > x1) return null;
    for (const { y } of p.levels) if (!p.y.log || y > 0) { y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
    return [x0, x1, y0, y1];
  }

  axes(g, p, x, y, left, bottom, width, height, color) {
    g.strokeStyle = color("--grid"); g.lineWidth = 1; g.fillStyle = color("--quiet");
    g.beginPath();
    g.textAlign = "right"; g.textBaseline = "middle";
    for (const [value, label] of y.ticks(6)) {
      const at = Math.round(y.at(value)) + 0.5;
      g.moveTo(left, at); g.lineTo(width, at);
      if (label) g.fillText(label, left - 7, at);
    }
    g.textAlign = "center"; g.textBaseline = "top";
    let free = left - 20;
    for (const [value, label] of x.ticks(Math.max(2, Math.floor(width / 90)))) {
      const at = Math.round(x.at(value)) + 0.5, room = g.measureText(label).width / 2;
      g.moveTo(at, 4); g.lineTo(at, bottom);
      if (label && at - room > free && at + room < width) { g.fillText(label, at, bottom + 6); free = at + room + 6; }
    }
    g.stroke();
    g.strokeStyle = color("--quiet");
    g.beginPath(); g.moveTo(left, 4); g.lineTo(left, bottom + 0.5); g.lineTo(width, bottom + 0.5); g.stroke();
    g.textBaseline = "bottom";
    g.fillText(p.x.label, (left + width) / 2, height - 2);
    g.save(); g.translate(12, bottom / 2); g.rotate(-Math.PI / 2); g.textBaseline = "middle"; g.fillText(p.y.label, 0, 0); g.restore();
    g.textBaseline = "alphabetic";
  }

  // Of the points in one column of pixels, the first, the least, the greatest and the last are drawn.
  line(g, line, x, y, fits, width, alpha, keeps) {
    g.strokeStyle = line.color; g.globalAlpha = alpha; g.lineWidth = width; g.lineJoin = "round";
    g.beginPath();
    let column = null, low = 0, high = 0, end = 0, drawn = 0, px = 0;
    const flush = () => { for (const v of [low, high, end]) g.lineTo(px, v); };
    for (let i = 0; i < line.points.length; i += 2) {
      const vx = line.points[i], vy = line.points[i + 1];
      if (!fits(vx, vy)) continue;
      const at = x.at(vx), py = y.at(vy);
      if (keeps) this.spots.push(at, py, line, i);
      if (Math.floor(at) === column) { low = Math.min(low, py); high = Math.max(high, py); end = py; continue; }
      if (column !== null) flush();
      px = at; column = Math.floor(at); low = high = end = py;
      if (drawn++ === 0) g.moveTo(at, py); else g.lineTo(at, py);
    }
    if (column !== null) flush();
    g.stroke();
    if (drawn === 1 || (line.grows && drawn)) { g.fillStyle = line.color; g.beginPath(); g.arc(px, end, line.grows ? 3 : 2.5, 0, 7); g.fill(); }
    g.globalAlpha = 1;
  }

  mark(g, mark, x, y, chosen, card) {
    const cx = x.at(mark.x), cy = y.at(mark.y), r = mark.key === chosen ? 6.5 : 4.5;
    this.spots.push(cx, cy, mark, -1);
    g.globalAlpha = chosen && mark.key !== chosen ? 0.3 : 1;
    g.beginPath();
    if (mark.shape === 1) { g.moveTo(cx, cy - r * 1.2); g.lineTo(cx + r * 1.2, cy); g.lineTo(cx, cy + r * 1.2); g.lineTo(cx - r * 1.2, cy); g.closePath(); }
    else if (mark.shape === 2) g.rect(cx - r * 0.9, cy - r * 0.9, r * 1.8, r * 1.8);
    else if (mark.shape === 3) { g.moveTo(cx, cy - r * 1.2); g.lineTo(cx + r * 1.1, cy + r * 0.8); g.lineTo(cx - r * 1.1, cy + r * 0.8); g.closePath(); }
    else g.arc(cx, cy, r, 0, 7);
    g.fillStyle = mark.filled ? mark.color : card; g.strokeStyle = mark.color; g.lineWidth = 1.6;
    g.fill(); g.stroke();
    g.globalAlpha = 1;
  }

  point(event) {
    const box = this.element.getBoundingClientRect(), ex = event.clientX - box.left, ey = event.clientY - box.top;
    let best = 28 ** 2, found = -1;
    const spots = this.spots || [];
    for (let i = 0; i < spots.length; i += 4) {
      const distance = (spots[i] - ex) ** 2 + (spots[i + 1] - ey) ** 2;
      if (distance < best) { best = distance; found = i; }
    }
    const near = found < 0 ? null : spots[found + 2];
    this.tip.hidden = !near;
    if (near) {
      const i = spots[found + 3], px = i < 0 ? near.x : near.points[i], py = i < 0 ? near.y : near.points[i + 1];
      this.tip.textContent = `${near.name}\n${this.picture.y.label} ${short(Number(py.toPrecision(4)))} at ${short(px)} ${this.picture.x.label.toLowerCase()}`;
      const right = spots[found] > box.width / 2;
      this.tip.style.left = right ? "auto" : `${spots[found] + 12}px`;
      this.tip.style.right = right ? `${box.width - spots[found] + 12}px` : "auto";
      this.tip.style.top = `${Math.max(0, spots[found + 1] - 20)}px`;
    }
    if ((near && near.key) !== (this.near && this.near.key)) { this.near = near; this.draw(); }
  }
}
