// Heat maps over training step and time step.

class HeatChart extends Chart {
  constructor(panel, board) { super(panel, board); this.button.hidden = true; }

  columns() { const data = this.board.maps.get(this.panel.map); return data ? data.columns : []; }

  steps() { return this.columns().map(column => column[0]); }

  draw() {
    const columns = this.columns();
    if (!columns.length) return;
    const context = this.begin(230), {left, right, top, bottom} = this.box, ratio = RATIO();
    const root = this.panel.unit !== "log₁₀", name = root ? "magma" : "viridis";
    const all = columns.flatMap(column => column[2]).filter(v => v !== null).map(v => v / 100);
    let [low, high] = root ? [0, 1] : heatRange(all);
    this.range = [low, high];
    const xs = columns.map(column => column[0]), last = xs.length - 1;
    const width = last ? xs[last] - xs[last - 1] : 1;
    this.scaleX(xs[0], xs[last] + width);
    const longest = Math.max(...columns.map(column => column[1]));
    const axis = this.panel.axis || [1, longest];
    this.y = spot => bottom - (spot - axis[0] + (this.panel.axis ? 0 : .5)) / (axis[1] - axis[0] + (this.panel.axis ? 0 : 1)) * (bottom - top);
    this.paint(context, columns, longest, name, ratio);
    this.axes(context, ticksOf(axis[0], axis[1], 5).filter(v => this.panel.axis || Number.isInteger(v)).map(v => [v, written(v)]), [xs[0], xs[last] + width]);
    this.bar(context, name, root);
    const shown = all.length ? `from ${written(Math.min(...extremes(all)))} to ${written(Math.max(...extremes(all)))}` : "no numbers";
    this.canvas.setAttribute("aria-label", `${this.panel.title}, heat map of ${this.panel.unit} over training steps ${xs[0]} to ${xs[last]} and ${longest} time steps, ${shown}. Arrow keys move along the steps.`);
    this.cursor();
  }

  paint(context, columns, longest, name, ratio) {
    const {left, right, top, bottom} = this.box, wide = Math.max(1, Math.round((right - left) * ratio)), tall = Math.max(1, Math.round((bottom - top) * ratio));
    const image = context.createImageData(wide, tall), table = [], [low, high] = this.range;
    for (let i = 0; i < 256; i++) { const text = shade(name, i / 255); table.push([1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16))); }
    const nothing = dark.matches ? [58, 60, 64] : [221, 221, 221];
    let at = 0;
    for (let column = 0; column < wide; column++) {
      const step = this.stepAt(left + (column + .5) / ratio);
      while (at < columns.length - 1 && columns[at + 1][0] <= step) at++;
      const [, length, values] = columns[at], of = Math.ceil(length / values.length);
      for (let row = 0; row < tall; row++) {
        const t = Math.floor((1 - (row + .5) / tall) * longest), value = t < length ? values[Math.floor(t / of)] : null;
        const colour = value === null || value === undefined ? nothing : table[Math.round(255 * Math.min(Math.max((value / 100 - low) / (high - low), 0), 1))];
        const pixel = 4 * (row * wide + column);
        image.data[pixel] = colour[0]; image.data[pixel + 1] = colour[1]; image.data[pixel + 2] = colour[2]; image.data[pixel + 3] = 255;
      }
    }
    context.putImageData(image, Math.round(left * ratio), Math.round(top * ratio));
  }

  bar(context, name, root) {
    const {right, top, bottom} = this.box, [low, high] = this.range, at = right + 10;
    for (let y = top; y < bottom; y++) { context.fillStyle = shade(name, (bottom - y) / (bottom - top)); context.fillRect(at, y, 8, 1.5); }
    context.fillStyle = INK("quiet"); context.textAlign = "left"; context.textBaseline = "middle";
    const spot = value => bottom - (value - low) / (high - low) * (bottom - top);
    const ticks = root ? [0, .1, .25, .5, 1].map(share => [Math.sqrt(share), `${100 * share} %`]) : logTicks(low, high);
    for (const [value, text] of ticks) context.fillText(text, at + 11, Math.min(Math.max(spot(value), top + 4), bottom - 4));
  }

  read() {
    const step = this.board.step, columns = this.columns();
    if (!columns.length) return;
    const at = step === null ? columns.length - 1 : Math.max(0, columns.findLastIndex(column => column[0] <= step));
    const [first, length, values] = columns[at], numbers = values.filter(v => v !== null).map(v => v / 100);
    const root = this.panel.unit !== "log₁₀", words = v => root ? `${written(100 * v * v)} %` : pretty(written(10 ** v));
    const parts = [`step ${first}: `];
    const pointed = this.board.pointed && this.board.pointed.chart === this ? this.board.pointed.y : null;
    if (pointed !== null && pointed !== undefined) {
      const {top, bottom} = this.box, share = Math.min(Math.max((bottom - pointed) / (bottom - top), 0), .9999), t = Math.floor(share * length);
      const value = values[Math.floor(t / Math.ceil(length / values.length))];
      const name = this.panel.axis ? `value ${written(this.panel.axis[0] + share * (this.panel.axis[1] - this.panel.axis[0]))}` : `t ${t + 1}`;
      parts.push(`${name} `, el("b", {}, value === null || value === undefined ? "none" : words(value / 100)));
    } else if (numbers.length && !this.panel.axis) parts.push("first ", el("b", {}, words(numbers[0])), ", last ", el("b", {}, words(numbers[numbers.length - 1])));
    else if (this.panel.axis) {
      const [low, high] = this.panel.axis, most = values.indexOf(Math.max(...values.filter(v => v !== null)));
      parts.push("most at ", el("b", {}, written(Number((low + (most + .5) / values.length * (high - low)).toFixed(3)))));
    }
    this.legend.replaceChildren(el("li", {}, ...parts));
  }
}

// At most twelve decades below the largest have colours of their own.
function heatRange(places) {
  if (!places.length) return [-1, 0];
  const [low, high] = withoutSpikes(places.map(v => 10 ** Math.max(v, -300)), true) || extremes(places);
  return [Math.max(low, high - 12), Math.max(high, low + .1)];
}
