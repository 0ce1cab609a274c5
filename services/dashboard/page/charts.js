"use strict";
// Lines over time as SVG: each line has a shape of its own beside its colour, each mark a name, and the words say what a reader hears.
const WIDTH = 800, HEIGHT = 220, LEFT = 84, BOTTOM = 24, TOP = 10;
const short = (value) => { const size = Math.abs(value); return size >= 1e6 ? `${+(value / 1e6).toPrecision(3)} M` : size >= 1e3 ? `${+(value / 1e3).toPrecision(3)} k` : `${+value.toPrecision(3)}`; };

const span = (seconds) => { const size = Math.abs(seconds); return size >= 3600 ? `${+(seconds / 3600).toPrecision(3)} h` : size >= 60 ? `${+(seconds / 60).toPrecision(3)} min` : `${+seconds.toPrecision(3)} s`; };

function scales(times, values) {
  const [x0, x1] = [Math.min(...times), Math.max(...times)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) { low -= Math.abs(low) / 2 || 1; high += Math.abs(high) / 2 || 1; }
  const x = (v) => LEFT + (WIDTH - LEFT - 12) * (v - x0) / Math.max(x1 - x0, 1);
  return { x: x1 === x0 ? () => (LEFT + WIDTH) / 2 : x, y: (v) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (v - low) / (high - low), low, high, x0, x1 };
}

function frame(label, scale, yLabel, ...drawn) {
  const svg = { svg: true }, levels = [scale.low, (scale.low + scale.high) / 2, scale.high];
  const grid = levels.flatMap((level) => [make("line", { ...svg, class: "grid", x1: LEFT, x2: WIDTH - 12, y1: scale.y(level), y2: scale.y(level) }),
    make("text", { ...svg, x: LEFT - 6, y: scale.y(level) + 4, "text-anchor": "end" }, yLabel(level))]);
  const ends = [["start", LEFT, scale.x0], ["end", WIDTH - 12, scale.x1]].map(([anchor, at, time]) => make("text", { ...svg, x: at, y: HEIGHT - 6, "text-anchor": anchor }, when(new Date(time).toISOString())));
  return make("svg", { ...svg, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, ...grid, ...drawn, ...ends);
}

function chart(found, marks) {
  const all = found.lines.flatMap((line) => line.points), scale = scales(all.map(([at]) => +new Date(at)), all.map(([, value]) => value)), svg = { svg: true };
  const place = ([at, value]) => [scale.x(+new Date(at)), scale.y(value)];
  const lines = found.lines.flatMap((line, number) => [make("polyline", { ...svg, class: `line line${number}`, points: line.points.map((point) => place(point).join(",")).join(" ") }),
    ...line.points.slice(-1).map((point) => make("circle", { ...svg, class: `dot${number}`, r: 4, cx: place(point)[0], cy: place(point)[1] }))]);
  const shown = marks.filter((mark) => +new Date(mark.at) >= scale.x0 && +new Date(mark.at) <= scale.x1);
  const moves = shown.flatMap((mark) => [make("line", { ...svg, class: "mark", x1: scale.x(+new Date(mark.at)), x2: scale.x(+new Date(mark.at)), y1: TOP, y2: HEIGHT - BOTTOM }),
    make("text", { ...svg, x: scale.x(+new Date(mark.at)) - 4, y: TOP + 12, "text-anchor": "end" }, mark.label)]);
  const told = found.unit === "s" ? span : (value) => `${short(value)}${found.unit ? ` ${found.unit}` : ""}`, last = (line) => told(line.points.at(-1)[1]);
  const words = found.lines.map((line) => `${line.name} ${last(line)}, ${line.points.length === 1 ? "measured once" : `at first ${told(line.points[0][1])}`}`).join("; ");
  const legend = make("figcaption", {}, make("strong", {}, found.title), ...found.lines.map((line, number) => make("span", { class: `key key${number}` }, `${line.name}: ${last(line)}`)));
  return make("figure", {}, legend, frame(`${found.title}. ${words}`, scale, told, ...moves, ...lines));
}

function converging(history) {
  const rows = history.filter((row) => row.median), svg = { svg: true };
  if (rows.length < 2) return make("p", { class: "faint" }, "Its predictions are drawn from the second on.");
  const at = rows.map((row) => +new Date(row.asked_at)), scale = scales(at, rows.flatMap((row) => [+new Date(row.low), +new Date(row.high)]));
  const line = (name) => rows.map((row, place) => `${scale.x(at[place])},${scale.y(+new Date(row[name]))}`);
  return frame(`Predicted end, first ${when(rows[0].median)}, now ${when(rows.at(-1).median)}`, scale, (value) => new Date(value).toISOString().slice(5, 13).replace("T", " ") + "h",
    make("polygon", { ...svg, class: "range", points: [...line("low"), ...line("high").reverse()].join(" ") }), make("polyline", { ...svg, class: "line line0", points: line("median").join(" ") }));
}
