// The page of a sweep: the curves of its runs together, and a table of them that can be sorted.

const short = path => path.split(".").slice(-2).join(".");
const plain = value => value === null || value === undefined ? "–" : typeof value === "object" ? value.name || JSON.stringify(value) : typeof value === "number" ? pretty(written(value)) : String(value);
const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : typeof a === "number" ? -1 : typeof b === "number" ? 1 : String(a).localeCompare(String(b), "en", {numeric: true});

const sweep = {
  show(answer) {
    if (answer.head) this.head(answer.head);
    for (const row of answer.rows) board.rows.set(row.name, row);
    board.metric = answer.metric;
    $("metric").value = answer.metric;
    const counts = new Map();
    for (const {status} of board.rows.values()) counts.set(status, (counts.get(status) || 0) + 1);
    $("status").replaceChildren(...[...counts].flatMap(([word, count]) => [`${count} `, chip(word), " "]));
    const passed = [...board.rows.values()].reduce((sum, row) => sum + (row.steps ? Math.min(1, TONES[row.status] === "good" && row.status !== "running" || row.status === "diverged" || row.status === "pruned" ? 1 : row.step / row.steps) : 0), 0);
    $("progress").hidden = !board.rows.size;
    $("bar").value = passed / Math.max(1, board.rows.size);
    const over = [...board.rows.values()].filter(row => ["finished", "stopped_early", "diverged", "pruned"].includes(row.status)).length;
    $("numbers").replaceChildren(...[`${over} of ${board.rows.size} runs are over`, ...(answer.more ? [`reading: ${Math.floor(100 * answer.share)} %`] : [])].map(text => el("span", {}, text)));
    document.title = `${over}/${board.rows.size} ${$("title").textContent}`;
    $("controls").hidden = false;
    if (answer.rows.length || answer.head || Object.keys(answer.curves).length) this.draw();
  },

  head(head) {
    board.head = head;
    $("title").textContent = head.title;
    $("subtitle").textContent = head.subtitle;
    $("folder").textContent = head.folder;
    const colours = ["", ...head.axes];
    if (!colours.includes(board.colour)) board.colour = "";
    if (!board.colour) board.colour = head.axes.find(path => path !== "seed") || "";
    const metric = el("select", {id: "metric", onchange: event => { board.metric = event.target.value; board.tick = 0; board.curves.clear(); ask(); }}, ...head.metrics.map(name => el("option", {value: name}, name.replace("/", " "))));
    const colour = el("select", {id: "colour", onchange: event => { board.colour = event.target.value; this.draw(); }}, ...colours.map(path => el("option", {value: path}, path ? short(path) : "nothing")));
    colour.value = board.colour;
    $("choices").replaceChildren(el("label", {}, "Metric ", metric), el("label", {}, "Colour by ", colour));
    if (!board.charts.length) {
      const chart = new ManyChart({title: "", curves: [], scale: "log", levels: [], many: true, height: 320}, board);
      board.charts = [chart];
      this.table = el("table"), this.body = el("tbody"), this.top = el("thead");
      this.table.append(el("caption", {className: "skip"}, "The runs of the sweep"), this.top, this.body);
      $("main").replaceChildren(el("div", {className: "big split"}, chart.node, el("div", {className: "wide", tabIndex: 0, role: "region", label: "The runs"}, this.table)));
    }
  },

  draw() {
    const {head, metric} = board, rows = [...board.rows.values()], look = this.colours(rows), chart = board.charts[0];
    const base = metric.endsWith("/loss") ? [...new Set(Object.values(head.baselines))].map(v => [v, `baseline ${written(v)}`]) : [];
    chart.set({...chart.panel, title: metric.replace("/", " ").replace("_", " "), levels: base, scale: head.larger.includes(metric) ? "linear" : "log",
      curves: rows.map(row => ({name: row.name, label: row.name, colour: look.of(row), dashed: false}))});
    chart.legend.replaceChildren(...look.words.map(([colour, text]) => el("li", {}, swatch(colour), text)));
    chart.draw();
    this.rows(rows, look);
  },

  // The colours of the values of an axis: the palette for a few, a colour map for many numbers.
  colours(rows) {
    const path = board.colour, values = path ? [...new Set(rows.map(row => plain(row.axes[path])))] : [];
    const first = new Map(rows.map(row => [plain(row.axes[path]), row.axes[path]]));
    values.sort((a, b) => compare(first.get(a), first.get(b)));
    if (!path || !values.length) return {of: () => ink(0), words: []};
    const many = values.length > PALETTE.colours.length;
    const colour = value => many ? shade("viridis", (dark.matches ? .15 : 0) + .85 * values.indexOf(value) / (values.length - 1)) : ink(values.indexOf(value));
    const shown = many ? [values[0], values[Math.floor(values.length / 2)], values[values.length - 1]] : values;
    return {of: row => colour(plain(row.axes[path])), words: shown.map(value => [colour(value), `${short(path)} ${value}`])};
  },

  columns() {
    const {head, metric} = board;
    return [
      {id: "name", title: "run", value: row => row.name},
      {id: "status", title: "status", value: row => row.status},
      ...head.axes.map(path => ({id: `axes.${path}`, title: short(path), value: row => row.axes[path], text: row => plain(row.axes[path])})),
      {id: "curve", title: "curve", value: null},
      {id: "last", title: "last", number: true, value: row => row.last[metric] ?? null},
      {id: "best", title: "best", number: true, value: row => row.best[metric] ?? null},
      {id: "step", title: "step", number: true, value: row => row.step, text: row => `${steps(row.step)} of ${row.steps ? steps(row.steps) : "–"}`},
      {id: "seconds", title: "seconds", number: true, value: row => row.seconds},
      {id: "group", title: "group", value: row => row.group},
    ];
  },

  rows(rows, look) {
    const columns = this.columns(), {by, down} = board.sort, column = columns.find(each => each.id === by) || columns[0];
    rows.sort((a, b) => {
      const [x, y] = [column.value(a), column.value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || compare(a.name, b.name);
      return (down ? -1 : 1) * compare(plainer(x), plainer(y)) || compare(a.name, b.name);
    });
    const order = JSON.stringify([columns.map(each => each.id), board.sort]);
    if (order !== board.order) {
      board.order = order;
      this.top.replaceChildren(el("tr", {}, ...columns.map(each => {
        const cell = el("th", {scope: "col", className: each.number ? "number" : ""});
        if (!each.value) cell.textContent = each.title;
        else cell.append(el("button", {type: "button", onclick: () => { board.sort = {by: each.id, down: by === each.id ? !down : false}; this.draw(); }}, `${each.title}${by === each.id ? down ? " ▼" : " ▲" : ""}`));
        if (by === each.id) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        return cell;
      })));
      this.body.replaceChildren();
    }
    const nodes = new Map([...this.body.children].map(node => [node.dataset.name, node]));
    const wanted = rows.map(row => {
      const text = JSON.stringify([row, board.metric, look.of(row)]);
      let node = nodes.get(row.name);
      if (!node) {
        node = el("tr", {onpointerenter: () => this.light(row.name), onpointerleave: () => this.light(null)});
        node.dataset.name = row.name;
      }
      if (node.text !== text) {
        node.text = text;
        node.drawn = null;
        node.className = row.in_sweep ? "" : "gone";
        node.replaceChildren(...columns.map(each => this.cell(each, row)));
      }
      const data = board.curves.get(row.name);
      if (node.drawn !== data) spark(node.querySelector("canvas"), data, look.of(row), !board.head.larger.includes(board.metric));
      node.drawn = data;
      return node;
    });
    if (wanted.some((node, at) => this.body.children[at] !== node) || this.body.children.length !== wanted.length) this.body.replaceChildren(...wanted);
  },

  cell(column, row) {
    if (column.id === "name") return el("th", {scope: "row"}, el("a", {href: `#run=${row.name}`}, row.name));
    if (column.id === "status") return el("td", {}, chip(row.status));
    if (column.id === "curve") return el("td", {}, el("canvas", {role: "img", label: `curve of run ${row.name}`}));
    const value = column.value(row);
    return el("td", {className: column.number ? "number" : ""}, column.text ? column.text(row) : typeof value === "number" ? pretty(written(value)) : plain(value));
  },

  light(name) {
    if (board.lit === name) return;
    board.lit = name;
    for (const node of this.body ? this.body.children : []) node.classList.toggle("lit", node.dataset.name === name);
    const row = board.rows.get(name);
    if (row) $("readout").textContent = `run ${name}: ${Object.entries(row.axes).map(([path, value]) => `${short(path)} ${plain(value)}`).join(", ")}`;
    if (board.charts[0]) board.charts[0].draw();
  },
};

const plainer = value => typeof value === "object" ? plain(value) : value === "inf" ? Infinity : value === "-inf" ? -Infinity : value;

class ManyChart extends LineChart {
  // The curve that is nearest to the pointer at a step.
  under(step, y) {
    let best = null, distance = 40;
    for (const {name, data} of this.lines()) {
      const at = this.atValue(data.y[nearest(data.x, step)]);
      if (at !== null && y !== undefined && Math.abs(at - y) < distance) [best, distance] = [name, Math.abs(at - y)];
    }
    return best;
  }
}

function spark(canvas, data, colour, log) {
  const ratio = RATIO(), width = 110, height = 26;
  canvas.width = width * ratio; canvas.height = height * ratio;
  if (!data || !data.x.length) return;
  const context = canvas.getContext("2d"), spot = v => v === null || v === undefined || (log && v <= 0) ? null : log ? Math.log10(v) : v;
  const places = data.y.map(spot).filter(v => v !== null), range = places.length ? withoutSpikes(log ? places.map(v => 10 ** v) : places, log) : null;
  if (!range) return;
  const [low, high] = range, span = high - low || 1, end = data.x[data.x.length - 1] || 1;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = 1.4;
  context.beginPath();
  let open = false, x = 0, y = 0;
  data.y.forEach((value, i) => {
    const at = spot(value);
    if (at === null) { open = false; return; }
    [x, y] = [2 + data.x[i] / end * (width - 6), Math.min(Math.max(height - 3 - (at - low) / span * (height - 6), 1), height - 1)];
    if (open) context.lineTo(x, y); else context.moveTo(x, y);
    open = true;
  });
  context.stroke();
  context.beginPath(); context.arc(x, y, 2, 0, 7); context.fill();
}
