// Charts on a canvas by uPlot: lines over time, stacked areas, a fan, and points against points.
// Colours come from the style sheet, so that they follow the scheme; words say what a reader hears.
import { amount, make, svg, text } from "./dom.js";
import { go } from "./router.js";

const HEIGHT = 230;
// Steps of an axis.
const COUNTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
const DURATIONS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
  172800, 432000, 864000];
const plots = new Set();
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const seconds = (value) => new Date(value) / 1000;
export const colour = (number) => `--c${number % 8}`;

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of plots) plot.redraw(false);
});

function axis(more) {
  const line = { stroke: () => style("--line"), width: 1 };
  return { stroke: () => style("--faint"), grid: line, ticks: line, font: "12px system-ui", ...more };
}

// Draws when the figure is in the page and knows its width, and again when that changes.
function figure(title, words, options, data, note = "") {
  const holder = make("div", { class: "plot", role: "img", "aria-label": `${title}. ${words}` });
  const caption = make("figcaption", {}, make("strong", {}, title),
    note ? make("span", { class: "faint" }, note) : null);
  let plot = null;
  const observer = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (!holder.isConnected) {
      observer.disconnect();
      if (plot) { plots.delete(plot); plot.destroy(); }
    } else if (!plot && width) {
      plot = new uPlot({ width, height: HEIGHT, ...options }, data, holder);
      plots.add(plot);
    } else if (plot && width !== plot.width) plot.setSize({ width, height: options.height || HEIGHT });
  });
  observer.observe(holder);
  return make("figure", {}, caption, holder);
}

function marking(marks) {
  return (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui`;
    for (const [row, mark] of marks.entries()) {
      const x = plot.valToPos(mark.at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = style(mark.colour || "--faint");
      ctx.setLineDash([4, 4]);
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      const right = x > bbox.left + bbox.width * 0.6;
      ctx.textAlign = right ? "right" : "left";
      ctx.fillText(mark.label, x + (right ? -5 : 5) * devicePixelRatio,
        bbox.top + (14 + 15 * (row % 3)) * devicePixelRatio);
    }
    ctx.restore();
  };
}

// Days, or hours with the day where it changes; ISO as everywhere on the page.
function ticks(_, values, number, space, step) {
  return values.map((value, row) => {
    const words = new Date(value * 1000).toISOString();
    const isNewDay = row === 0 || words.slice(0, 10)
      !== new Date(values[row - 1] * 1000).toISOString().slice(0, 10);
    return step >= 86400 ? words.slice(5, 10)
      : words.slice(11, 16) + (isNewDay ? `\n${words.slice(5, 10)}` : "");
  });
}

const inUtc = (stamp) => uPlot.tzDate(new Date(stamp * 1000), "Etc/UTC");

// lines: [{name, values, colour, dash, fill, stepped, raw}], of which raw are the numbers that the
// legend shows; marks: [{at (s), label}]; bands: [[upper, lower]] numbers of lines.
export function overTime(title, times, lines, options = {}) {
  if (times.length === 1) { // drawn in the middle of a day
    const alone = lines.map((line) => ({ ...line, raw: undefined, values: [null, ...line.values, null] }));
    return overTime(title, [times[0] - 43200, times[0], times[0] + 43200], alone, options);
  }
  const { unit = "", most = null, least = 0, marks = [], bands = [], note = "" } = options;
  const show = options.format || ((value) => amount(value, unit));
  const last = (line) => (line.raw || line.values).filter((value) => value !== null).at(-1);
  const words = lines.filter((line) => !line.silent)
    .map((line) => `${line.name}: ${text(last(line) === undefined ? null : show(last(line)))}`);
  const series = lines.map((line) => ({
    label: line.name,
    stroke: () => style(line.colour),
    fill: line.fill ? () => `${style(line.colour)}${line.fill}` : undefined,
    width: 2,
    dash: line.dash,
    spanGaps: true,
    points: { show: (line.raw || line.values).filter((value) => value !== null).length < 3 },
    paths: line.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    value: (_, value, number, row) =>
      (row === null || row === undefined ? show(last(line) ?? 0) : show((line.raw || line.values)[row])),
  }));
  const ends = (_, low, high) => [
    least === null ? low - (high - low || 1) * 0.05 : least,
    most === null ? (high > 0 || least === null ? high + ((high - (least ?? low)) || 1) * 0.05 : 1) : most,
  ];
  const settings = {
    tzDate: inUtc,
    scales: { x: { time: true, range: options.x }, y: { range: ends } },
    axes: [axis({ values: ticks }), axis({
      size: options.axis || 62,
      values: (_, values) => values.map((value) => show(value)),
      incrs: options.whole ? COUNTS : unit === "s" ? DURATIONS : undefined,
    })],
    series: [{ label: "UTC", value: (_, value) => (value ? new Date(value * 1000).toISOString()
      .slice(5, 16).replace("T", " ") : "latest") }, ...series],
    bands: bands.map(([upper, lower, name]) => ({
      series: [upper + 1, lower + 1], fill: () => `${style(name)}40`,
    })),
    cursor: { drag: { x: true, y: false }, sync: options.sync ? { key: options.sync } : undefined },
    hooks: { draw: [marking(marks)] },
  };
  return figure(title, words.join("; "), settings, [times, ...lines.map((line) => line.values)], note);
}

// Areas on top of each other: the first is the lowest.
export function stacked(title, times, groups, options = {}) {
  const sums = times.map(() => 0);
  const lines = groups.map(({ name, values }, number) => {
    values.forEach((value, row) => { sums[row] += value; });
    return { name, values: [...sums], raw: values, colour: colour(number), fill: "30" };
  });
  const bands = lines.slice(1).map((line, number) => [number + 1, number, line.colour]);
  return overTime(title, times, lines, { whole: true, bands, ...options });
}

// One point a job, on logarithmic axes; the diagonal is where both are equal.
export function against(title, data, note) {
  const { predicted, actual, unit } = data, floor = unit === "s" ? 1 : 1e-9;
  const order = actual.map((_, row) => row).sort((a, b) => actual[a] - actual[b]);
  const x = order.map((row) => Math.max(actual[row], floor));
  const y = order.map((row) => Math.max(predicted[row], floor));
  const low = Math.min(...x, ...y) / 1.3, high = Math.max(...x, ...y) * 1.3;
  const show = (_, values) => values.map((value) => (value === null ? "" : amount(value, unit)));
  const splits = (unit === "s" ? [1, 10, 60, 600, 3600, 21600, 86400, 604800] : [])
    .filter((value) => value >= low && value <= high);
  const logarithmic = { values: show, filter: (_, found) => found,
    splits: splits.length > 1 ? () => splits : undefined };
  const dots = (plot, number, from, to) => {
    const { ctx } = plot;
    ctx.save();
    ctx.fillStyle = `${style("--c0")}99`;
    for (let row = from; row <= to; row += 1) {
      const left = plot.valToPos(x[row], "x", true), top = plot.valToPos(y[row], "y", true);
      ctx.beginPath(); ctx.arc(left, top, 2.4 * devicePixelRatio, 0, 7); ctx.fill();
    }
    ctx.strokeStyle = style("--faint");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(plot.valToPos(low, "x", true), plot.valToPos(low, "y", true));
    ctx.lineTo(plot.valToPos(high, "x", true), plot.valToPos(high, "y", true));
    ctx.stroke();
    ctx.restore();
    return null;
  };
  const log = { distr: 3, log: 10, range: () => [low, high], time: false };
  const at = (row) => (row === null || row === undefined ? null : order[row]);
  const settings = {
    height: 300,
    scales: { x: log, y: { ...log } },
    axes: [axis({ ...logarithmic, label: "took", labelSize: 18, labelFont: "12px system-ui" }),
      axis({ ...logarithmic, label: "predicted", labelSize: 18, labelFont: "12px system-ui", size: 56 })],
    series: [{ label: "took", value: (_, value) => amount(value, unit) },
      { label: "predicted", stroke: () => style("--c0"), paths: dots, points: { show: false },
        value: (_, value) => amount(value, unit) }],
    hooks: { ready: [(plot) => plot.over.addEventListener("click", () => {
      const row = at(plot.cursor.idx);
      if (row !== null) go(`/job/${encodeURIComponent(data.job[row])}?source=${
        encodeURIComponent(data.source[row])}`);
    })] },
  };
  const words = `${x.length} jobs; mean absolute error ${amount(data.mae, unit)}`;
  return figure(title, words, settings, [x, y], note);
}

// A line without axes for a row of a table; its title has the numbers.
export function sparkline(values, title, tone = "--c0") {
  if (!values || !values.length) return make("span", { class: "faint" }, "–");
  const top = Math.max(...values, 1), step = 90 / Math.max(values.length - 1, 1);
  const points = values.map((value, row) =>
    `${(1 + step * row).toFixed(1)},${(21 - 19 * value / top).toFixed(1)}`).join(" ");
  const line = svg("polyline", { points, class: "spark", "data-tone": tone });
  const label = `${title}: ${values.reduce((sum, value) => sum + value, 0)} in ${values.length} h`;
  return svg("svg", { viewBox: "0 0 92 22", class: `sparkline ${tone.slice(2)}`, role: "img",
    "aria-label": label }, svg("title", {}, label), line);
}

