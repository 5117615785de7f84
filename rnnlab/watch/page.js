// The page: asks for what is new, keeps it, and shows a run, a sweep, or what it waits for.

const $ = id => document.getElementById(id);

function el(name, properties = {}, ...children) {
  const {role, label, ...others} = properties, node = Object.assign(document.createElement(name), others);
  if (role) node.setAttribute("role", role);
  if (label) node.setAttribute("aria-label", label);
  node.append(...children);
  return node;
}

const TONES = {running: "good", finished: "good", stopped_early: "good", diverged: "bad", stopped: "bad", quiet: "wait", interrupted: "wait", paused: "wait", starting: "wait"};
const chip = word => el("span", {className: `chip ${TONES[word] || "rest"}`}, word.replace("_", " "));
const EVERY = {busy: 30, live: 1500, over: 6000, hidden: 20000, lost: 15000};

const board = {
  run: null, kind: null, head: null, hash: "", tick: 0, token: "", metric: "", colour: "",
  curves: new Map(), maps: new Map(), rows: new Map(), charts: [], step: null, lit: null, pointed: null,
  smoothing: 0, scale: "", sort: {by: "name", down: false}, order: "",

  // The pointer, or a key, is at a step of a chart.
  point(step, chart = null, x, y) {
    this.step = step === null || Number.isNaN(step) ? null : Math.max(0, Math.round(step));
    this.pointed = chart && y !== undefined ? {chart, x, y} : null;
    if (this.kind === "sweep") { sweep.light(step === null ? null : chart.under ? chart.under(this.step, y) : null); }
    $("readout").textContent = this.step === null ? "" : `step ${this.step.toLocaleString("en")}`;
    for (const each of this.charts) each.cursor();
  },

  forget() {
    Object.assign(this, {kind: null, head: null, hash: "", tick: 0, charts: [], step: null, lit: null, order: ""});
    for (const table of [this.curves, this.maps, this.rows]) table.clear();
    $("main").replaceChildren();
    $("choices").replaceChildren();
    for (const id of ["progress", "controls", "trouble"]) $(id).hidden = true;
    for (const id of ["subtitle", "status", "folder", "readout"]) $(id).textContent = "";
  },
};

// Takes in what is new of a curve: from a number of a point onwards all is as it comes.
function grow(table, name, fresh) {
  if (!table.has(name)) table.set(name, {});
  const old = table.get(name), from = fresh.from;
  if (fresh.columns) { table.set(name, {columns: (old.columns || []).slice(0, from).concat(fresh.columns)}); return; }
  const joined = key => fresh[key] ? (from ? old[key] || old.y : []).slice(0, from).concat(fresh[key]) : undefined;
  const odd = (old.odd || []).filter(([at]) => at < from).concat(fresh.odd || []);
  table.set(name, {x: joined("x"), y: joined("y"), low: joined("low"), high: joined("high"), odd});
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.round(seconds), two = value => String(value).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

// --- asking --------------------------------------------------------------------------------------------------------

let timer = 0, asking = null, failures = 0;

async function ask() {
  clearTimeout(timer);
  asking?.abort();
  const mine = asking = new AbortController(), name = board.run || "";
  const query = new URLSearchParams({run: name, since: board.tick, head: board.hash, token: board.token, metric: board.metric});
  let wait = EVERY.live;
  try {
    const response = await fetch(`/api?${query}`, {signal: mine.signal}), answer = await response.json();
    if (failures) { failures = 0; $("trouble").hidden = true; }
    take(answer);
    const words = answer.kind === "run" ? [answer.status.word] : [...board.rows.values()].map(row => row.status);
    const over = words.length && !words.some(word => ["running", "quiet", "starting", "waiting"].includes(word));
    wait = answer.more ? EVERY.busy : document.hidden ? EVERY.hidden : over ? EVERY.over : EVERY.live;
  } catch (error) {
    if (mine.signal.aborted) return;
    failures++;
    $("trouble").textContent = `No answer (${error.message}); is rnnlab.watch still at work? It is asked again.`;
    $("trouble").hidden = false;
    wait = Math.min(EVERY.lost, 1000 * 2 ** failures);
  }
  timer = setTimeout(ask, wait);
}

function take(answer) {
  if (answer.token !== board.token && board.token) { const {run} = board; board.forget(); board.run = run; }
  board.token = answer.token;
  if (answer.kind !== board.kind) { board.forget(); board.kind = answer.kind; }
  board.tick = answer.tick;
  board.hash = answer.hash || "";
  for (const [name, fresh] of Object.entries(answer.curves || {})) grow(board.curves, name, fresh);
  for (const [name, fresh] of Object.entries(answer.maps || {})) grow(board.maps, name, fresh);
  $("trail").replaceChildren(...(board.run ? [el("a", {href: "#"}, "← all runs")] : []));
  if (answer.kind === "run") run.show(answer);
  else if (answer.kind === "sweep") sweep.show(answer);
  else {
    $("title").textContent = answer.kind === "waiting" ? "Waiting for a run" : "No such run";
    document.title = $("title").textContent;
    $("status").replaceChildren(chip(answer.kind === "waiting" ? "waiting" : "unknown"));
    $("main").replaceChildren(el("p", {className: "hint"}, answer.text, answer.kind === "waiting" ? ". The page shows it as soon as it is there." : ""));
  }
}

function route() {
  const name = new URLSearchParams(location.hash.slice(1)).get("run");
  if (name === board.run && board.kind) return;
  board.forget();
  board.run = name;
  scrollTo(0, 0);
  ask();
}

const redraw = () => { for (const chart of board.charts) chart.draw(); };
$("smoothing").oninput = event => { board.smoothing = Number(event.target.value); $("smoothed").textContent = event.target.value; redraw(); };
$("scale").onchange = event => { board.scale = event.target.value; for (const chart of board.charts) chart.chosen = undefined; redraw(); };
$("controls").onsubmit = event => event.preventDefault();
addEventListener("hashchange", route);
addEventListener("resize", () => { clearTimeout(board.resized); board.resized = setTimeout(redraw, 120); });
dark.addEventListener("change", () => { if (board.kind === "sweep") sweep.draw(); else redraw(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
route();
