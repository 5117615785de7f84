// Charts of curves on canvases: axes, bands, levels, spikes at the edge, and the numbers under the pointer.

class Chart {
  constructor(panel, board) {
    this.board = board;
    this.canvas = el("canvas", {tabIndex: 0, role: "img"});
    this.line = el("span", {className: "cursor", hidden: true});
    this.legend = el("ul", {className: "legend"});
    this.title = el("h3");
    this.button = el("button", {type: "button", className: "plain"});
    this.caption = el("figcaption", {}, this.title, this.button);
    this.hint = el("p", {className: "hint"});
    this.plot = el("div", {className: "plot"}, this.canvas, this.line);
    this.node = el("figure", {}, this.caption, this.legend, this.plot, this.hint);
    this.button.onclick = () => { this.chosen = this.log ? "linear" : "log"; this.draw(); };
    this.canvas.onpointermove = event => board.point(this.stepAt(event.offsetX), this, event.offsetX, event.offsetY);
    this.canvas.onpointerleave = () => board.point(null);
    this.canvas.onkeydown = event => this.key(event);
    this.set(panel);
  }

  set(panel) {
    this.panel = panel;
    this.title.textContent = panel.title;
    this.hint.textContent = panel.hint || "";
    this.hint.hidden = !panel.hint;
    this.plot.hidden = this.legend.hidden = !(panel.map || (panel.curves || []).length);
  }

  key(event) {
    const move = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity}[event.key];
    if (event.key === "Escape") this.board.point(null);
    if (move === undefined) return;
    event.preventDefault();
    const xs = this.steps();
    if (!xs.length) return;
    const now = this.board.step === null ? xs.length - 1 : nearest(xs, this.board.step);
    this.board.point(xs[Math.min(Math.max(now + move, 0), xs.length - 1)], this);
  }

  // A canvas of the size of its box, in the pixels of the screen.
  begin(height) {
    const width = Math.max(120, this.plot.clientWidth || 360), ratio = RATIO();
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.height = `${height}px`;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    this.box = {left: ROOM.left, right: width - ROOM.right - (this.panel.map ? 52 : 0), top: ROOM.top, bottom: height - ROOM.bottom};
    return context;
  }

  axes(context, yTicks, [low, high]) {
    const {left, right, top, bottom} = this.box, y = this.y, seen = [];
    context.strokeStyle = INK("line");
    context.fillStyle = INK("quiet");
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [spot, text] of yTicks) {
      const at = y(spot);
      if (at < top - 1 || at > bottom + 1 || seen.some(other => Math.abs(other - at) < 13)) continue;
      seen.push(at);
      if (!this.panel.map) { context.beginPath(); context.moveTo(left, at); context.lineTo(right, at); context.stroke(); }
      context.fillText(text, left - 6, at);
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const tick of ticksOf(low, high, Math.max(2, (right - left) / 80))) context.fillText(steps(tick), this.x(tick), bottom + 6);
  }

  scaleX(low, high) {
    const {left, right} = this.box, span = high - low || 1;
    this.x = step => left + (step - low) / span * (right - left);
    this.stepAt = at => low + (at - left) / (right - left) * span;
  }

  stepAt() { return null; }

  cursor() {
    const step = this.board.step, shown = step !== null && this.x && !this.plot.hidden;
    this.line.hidden = !shown;
    if (shown) this.line.style.transform = `translateX(${Math.min(Math.max(this.x(step), this.box.left), this.box.right)}px)`;
    this.read();
  }
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) { const half = (low + high) >> 1; if (xs[half] <= x) low = half; else high = half; }
  return high >= 0 && Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

class LineChart extends Chart {
  steps() {
    return this.lines().reduce((longest, {data}) => data.x.length > longest.length ? data.x : longest, []);
  }

  lines() {
    return (this.panel.curves || []).map(curve => ({...curve, data: this.board.curves.get(curve.name)})).filter(({data}) => data && data.x.length);
  }

  draw() {
    if (this.plot.hidden) { this.button.hidden = true; return; }
    const lines = this.lines(), context = this.begin(this.panel.height || 210), weight = this.board.smoothing;
    const all = lines.flatMap(({data}) => [...(data.low || data.y), ...(data.high || [])]).filter(v => v !== null && v !== undefined);
    const positive = all.some(v => v > 0);
    const wish = this.chosen || this.board.scale || (this.panel.scale === "log" && spread(all) > 20 ? "log" : "linear");
    const log = this.log = wish === "log" && positive;
    this.button.hidden = !positive;
    this.button.textContent = log ? "log" : "linear";
    this.button.setAttribute("aria-label", `${this.panel.title}: ${log ? "logarithmic" : "linear"} scale; change`);
    const range = (this.panel.whole ? wholeRange(all, log) : withoutSpikes(all, log)) || [0, 1];
    const levels = (this.panel.levels || []).filter(([v]) => !log || v > 0).map(([v, words]) => [log ? Math.log10(v) : v, words]);
    let [low, high] = range;
    for (const [at] of levels) if (lines.length && (log ? Math.abs(at - high) < 4 || Math.abs(at - low) < 4 : Math.abs(at) <= 3 * Math.max(Math.abs(low), Math.abs(high)))) { low = Math.min(low, at); high = Math.max(high, at); }
    const margin = .06 * (high - low) || (log ? .1 : .06 * Math.abs(high) || 1);
    low -= margin; high += margin;
    if (!log && range[0] >= 0 && low < 0) low = 0;
    const begin = 0, end = Math.max(1, ...lines.map(({data}) => data.x[data.x.length - 1]));
    const {left, right, top, bottom} = this.box;
    if (!lines.length) {
      context.fillStyle = INK("quiet");
      context.textAlign = "center";
      context.fillText("no line yet", (left + right) / 2, (top + bottom) / 2);
      this.described(lines);
      return;
    }
    this.scaleX(begin, end);
    this.y = spot => bottom - (spot - low) / (high - low) * (bottom - top);
    this.atValue = value => value === null || value === undefined || (log && value <= 0) ? null : this.y(log ? Math.log10(value) : value);
    this.axes(context, log ? logTicks(low, high) : ticksOf(low, high, 5).map(v => [v, pretty(written(v))]), [begin, end]);
    for (const [at] of levels) this.level(context, this.y(at));
    for (const line of lines) this.curve(context, line, weight, lines.length);
    for (const [at, words] of levels) this.name(context, this.y(at), words);
    this.spikes(context, lines, log, low, high);
    this.described(lines);
    this.cursor();
  }

  level(context, at) {
    const {left, right, top, bottom} = this.box;
    if (at < top || at > bottom) return;
    context.save();
    context.strokeStyle = INK("quiet");
    context.setLineDash([5, 4]);
    context.beginPath(); context.moveTo(left, at); context.lineTo(right, at); context.stroke();
    context.restore();
  }

  name(context, at, words) {
    const {right, top, bottom} = this.box, y = at > top + 18 ? at - 9 : at + 9;
    if (at < top || at > bottom) return;
    context.save();
    context.textAlign = "right"; context.textBaseline = "middle"; context.lineJoin = "round";
    context.strokeStyle = INK("card"); context.lineWidth = 4;
    context.strokeText(words, right - 3, y);
    context.fillStyle = INK("quiet");
    context.fillText(words, right - 3, y);
    context.restore();
  }

  curve(context, {name, data, colour, dashed}, weight, count) {
    const {left, right, top, bottom} = this.box, lit = this.board.lit === undefined || this.board.lit === null || this.board.lit === name;
    const look = typeof colour === "string" && colour.startsWith("#") ? colour : ink(colour);
    context.save();
    context.beginPath(); context.rect(left, top - 4, right - left + 4, bottom - top + 8); context.clip();
    context.globalAlpha = lit ? 1 : .15;
    if (data.low && count <= 12) {
      context.fillStyle = look;
      context.globalAlpha = .2;
      for (let i = 0; i < data.x.length; i++) {
        const a = this.atValue(data.high[i]), b = this.atValue(data.low[i]);
        if (a === null) continue;
        const from = this.x(i ? data.x[i - 1] : data.x[0]);
        context.fillRect(from, a, Math.max(1, this.x(data.x[i]) - from), Math.max(1, (b === null ? bottom : b) - a));
      }
      context.globalAlpha = 1;
    }
    const stroke = (values, width, alpha) => {
      context.strokeStyle = look; context.lineWidth = width; context.globalAlpha = alpha * (lit ? 1 : .15);
      context.setLineDash(dashed ? [4, 3] : []);
      context.lineJoin = "round";
      context.beginPath();
      let open = false;
      values.forEach((value, i) => {
        const at = this.atValue(value);
        if (at === null) { open = false; return; }
        if (open) context.lineTo(this.x(data.x[i]), at); else context.moveTo(this.x(data.x[i]), at);
        open = true;
      });
      context.stroke();
    };
    const width = this.board.lit === name ? 2.6 : count > 20 ? 1 : 1.7;
    if (weight > 0 && !this.panel.raw) { stroke(data.y, 1, .35); stroke(smooth(data.y, weight), width, 1); } else stroke(data.y, width, 1);
    if (data.x.length < (count > 12 ? 2 : 25)) {
      context.fillStyle = look;
      data.y.forEach((value, i) => { const at = this.atValue(value); if (at !== null) { context.beginPath(); context.arc(this.x(data.x[i]), at, 2.4, 0, 7); context.fill(); } });
    }
    context.restore();
  }

  // Marks at the edge for what lies beyond it, and for what is not finite; the furthest is named.
  spikes(context, lines, log, low, high) {
    const {left, right, top, bottom} = this.box;
    let far = null;
    const mark = (x, edge, look) => {
      context.fillStyle = look;
      context.beginPath();
      const y = edge > 0 ? top - 2 : bottom + 2, way = edge > 0 ? 6 : -6;
      context.moveTo(x, y); context.lineTo(x - 4, y + way); context.lineTo(x + 4, y + way); context.fill();
    };
    for (const {data, colour} of lines) {
      const look = typeof colour === "string" && colour.startsWith("#") ? colour : ink(colour);
      const spot = value => log ? Math.log10(value) : value;
      (data.high || data.y).forEach((value, i) => {
        if (value === null || value === undefined || (log && value <= 0)) return;
        if (spot(value) > high) { mark(this.x(data.x[i]), 1, look); if (!far || value > far.value) far = {value, x: this.x(data.x[i]), look}; }
        else if (spot(value) < low) mark(this.x(data.x[i]), -1, look);
      });
      for (const [at, word] of data.odd || []) if (at < data.x.length) {
        const x = this.x(data.x[at]);
        if (word === "inf") mark(x, 1, look);
        else { context.fillStyle = look; context.textAlign = "center"; context.textBaseline = "top"; context.fillText(word === "nan" ? "✕" : "▼", x, top); }
      }
    }
    if (far) {
      context.fillStyle = far.look; context.textBaseline = "top"; context.textAlign = far.x > (left + right) / 2 ? "right" : "left";
      context.fillText(pretty(written(far.value)), far.x + (far.x > (left + right) / 2 ? -7 : 7), top - 4);
    }
  }

  read() {
    if (this.panel.many) return;
    const step = this.board.step;
    const items = this.lines().filter(({label}) => label).map(({label, colour, dashed, data}) => {
      const at = step === null ? data.x.length - 1 : nearest(data.x, step);
      const odd = (data.odd || []).find(([number]) => number === at);
      const value = odd ? odd[1] === "inf" ? "∞" : odd[1] : pretty(written(data.y[at]));
      const range = step !== null && data.low && data.low[at] !== data.high[at] && data.low[at] !== null ? ` (${pretty(written(data.low[at]))} to ${pretty(written(data.high[at]))})` : "";
      return el("li", {}, swatch(colour, dashed), `${label} `, el("b", {}, value), range);
    });
    this.legend.replaceChildren(...items);
  }

  described(lines) {
    const parts = lines.filter(({label}) => label).slice(0, 8).map(({label, data}) => `${label} ${written(data.y[data.y.length - 1])} at step ${data.x[data.x.length - 1]}`);
    this.canvas.setAttribute("aria-label", `${this.panel.title}: ${parts.join("; ") || "no data yet"}${lines.length > 8 ? `; and ${lines.length - 8} more` : ""}. Arrow keys move along the steps.`);
  }
}

const spread = values => {
  let low = Infinity, high = 0;
  for (const value of values) if (value > 0) { low = Math.min(low, value); high = Math.max(high, value); }
  return high / low;
};

function swatch(colour, dashed) {
  const look = typeof colour === "string" && colour.startsWith("#") ? colour : ink(colour);
  const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg"), line = document.createElementNS(space, "line");
  for (const [name, value] of Object.entries({width: 16, height: 8, "aria-hidden": "true"})) svg.setAttribute(name, value);
  for (const [name, value] of Object.entries({x1: 0, x2: 16, y1: 4, y2: 4, stroke: look, "stroke-width": 2.5, "stroke-dasharray": dashed ? "4 3" : ""})) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}
