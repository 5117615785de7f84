// Colours, numbers as text, ranges without spikes, ticks of scales, smoothing.

const dark = matchMedia("(prefers-color-scheme: dark)");
const RATIO = () => Math.max(1, devicePixelRatio || 1);
const ROOM = {left: 56, right: 18, top: 8, bottom: 22};
const INK = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function mix(colour, other, share) {
  const parts = text => [1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16));
  const [a, b] = [parts(colour), parts(other)];
  return "#" + a.map((value, i) => Math.round(value + (b[i] - value) * share).toString(16).padStart(2, "0")).join("");
}

// A number counts through the palette; the splits have the colours that they have in the figures. On a dark ground all but
// the brightest are lightened.
const SPLITS = {train: 5, validation: 0, test: 1};

function ink(colour) {
  const at = SPLITS[colour] ?? colour, base = colour === "grey" ? PALETTE.grey : PALETTE.colours[at % PALETTE.colours.length];
  return dark.matches && at !== SPLITS.train ? mix(base, "#ffffff", colour === "validation" ? .6 : .42) : base;
}

function shade(name, share) {
  const stops = PALETTE.maps[name], at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), low = Math.floor(at);
  return mix(stops[low], stops[Math.min(low + 1, stops.length - 1)], at - low);
}

function written(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return `${Number(mantissa)}·10^${Number(exponent)}`;
  }
  return String(Number(value.toPrecision(4)));
}

const SUPER = {"-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹"};
const power = exponent => "10" + [...String(exponent)].map(sign => SUPER[sign]).join("");
const pretty = text => text.replace(/·10\^(-?\d+)/, (_, exponent) => "·" + power(exponent));

// The range without spikes: what is further from the middle half than ten times what that spans (on a logarithmic scale
// than six decades), unless others lead up to it.
function withoutSpikes(values, log) {
  const places = (log ? values.filter(v => v > 0).map(Math.log10) : values.slice()).sort((a, b) => a - b);
  if (!places.length) return null;
  const n = places.length, low = places[Math.ceil((n - 1) / 4)], high = places[Math.floor(3 * (n - 1) / 4)];
  const [under, over] = low < high ? [low, high] : [high, low];
  const reach = log ? Math.max(10 * (over - under), 6) : 10 * (over - under) || Infinity;
  let first = 0, last = n - 1;
  while (places[first] < under - reach) first++;
  while (places[last] > over + reach) last--;
  if (log) {
    while (first > 0 && places[first] - places[first - 1] <= 3) first--;
    while (last < n - 1 && places[last + 1] - places[last] <= 3) last++;
  }
  const kept = places[last] - places[first], whole = places[n - 1] - places[0];
  return whole > (log ? 2 : 10) * kept && kept > 0 ? [places[first], places[last]] : [places[0], places[n - 1]];
}

function wholeRange(values, log) {
  const places = log ? values.filter(v => v > 0).map(Math.log10) : values;
  return places.length ? extremes(places) : null;
}

function ticksOf(low, high, count) {
  const span = high - low || 1, rough = span / count, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(times => times * unit).find(each => each >= rough);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) ticks.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return ticks;
}

// [spot, text] of a logarithmic axis between two exponents.
function logTicks(low, high) {
  const ticks = [], every = Math.max(1, Math.ceil((high - low) / 6));
  for (let exponent = Math.ceil(low); exponent <= high; exponent++)
    if (exponent % every === 0) ticks.push([exponent, high - low > 2.5 || Math.abs(exponent) > 4 ? power(exponent) : written(10 ** exponent)]);
  if (high - low < 2.5) for (let exponent = Math.floor(low); exponent <= high; exponent++)
    for (const times of high - low < .6 ? [1.5, 2, 3, 4, 5, 7] : [2, 5]) {
      const spot = exponent + Math.log10(times);
      if (spot >= low && spot <= high) ticks.push([spot, pretty(written(times * 10 ** exponent))]);
    }
  return ticks;
}

const steps = value => value >= 1e6 ? written(value / 1e6) + " M" : value >= 1e4 ? written(value / 1e3) + " k" : written(value);

// The exponential moving average, without the bias of its start; gaps stay gaps.
function smooth(values, weight) {
  let sum = 0, norm = 0;
  return values.map(value => {
    if (value === null || value === undefined) return value;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + 1 - weight;
    return sum / norm;
  });
}

const extremes = values => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
