// The first page: what is wrong now, and how jobs, sites and predictions do.
import { against, overTime, seconds, stacked } from "./charts.js";
import { address, amount, faint, get, link, make, percent, range } from "./dom.js";
import { heatMap } from "./drawings.js";
import { params } from "./router.js";
import { moment } from "./time.js";

function where(problem) {
  if (problem.task) return address("task", problem.task, problem.source);
  if (problem.state) return `/tasks?state=${problem.state}`;
  return problem.view ? `/${problem.view}` : null;
}

function listed(problem) {
  const href = where(problem);
  return make("li", {}, make("strong", { class: "kind" }, problem.kind), " ",
    href ? link(href, problem.text) : problem.text,
    problem.since ? make("span", { class: "since" }, "since ", moment(problem.since)) : null);
}

function wrong(problems, open) {
  if (!problems.length) {
    return make("p", { class: "good" }, `Nothing is known to be wrong; ${open} tasks are open.`);
  }
  return make("ul", { class: "problems" }, ...problems.map(listed));
}

// Charts of the error and the coverage of a target, with the promotions where they are known.
export function measured(chart, promotions = []) {
  const times = [...new Set(chart.lines.flatMap((line) => line.points.map(([at]) => seconds(at))))]
    .sort((a, b) => a - b);
  const lines = chart.lines.map((line, number) => {
    const values = new Map(line.points.map(([at, value]) => [seconds(at), value]));
    return { name: line.name, colour: number ? "--c1" : "--c0", dash: number ? [6, 4] : undefined,
      values: times.map((at) => values.get(at) ?? null) };
  });
  const marks = promotions.map((row) => ({ at: seconds(row.at), label: row.label }));
  const format = chart.most === 1 ? percent : (value) => amount(value, chart.unit);
  return overTime(chart.title, times, lines, { unit: chart.unit, most: chart.most, marks, format });
}

export function predictions(found) {
  const { predicted } = found;
  if (!predicted.job.length) {
    return faint("No job that ended in this time had been predicted before; brokers ask the predictor.");
  }
  const note = `${predicted.job.length} jobs, each by its first prediction, made before its end was known; ${
    percent(predicted.coverage)} within their 90 % range; mean error ${
    amount(predicted.mae, predicted.unit)}`;
  return against(`Predicted against actual ${predicted.target}`, predicted, note);
}

export async function overview() {
  const hours = params().get("hours") || "168";
  const late = get("/api/problems");
  const found = await get(`/api/overview?hours=${hours}`);
  const now = make("div", {}, wrong(found.problems, found.open));
  late.then((more) => now.replaceChildren(wrong([...found.problems, ...more.problems], found.open)))
    .catch((error) => now.append(make("p", { role: "alert" }, error.message)));
  const groups = Object.entries(found.jobs.groups);
  const kinds = [["waiting", "Jobs waiting, by group"], ["running", "Jobs running, by group"],
    ["ended", "Jobs ended, by group"]];
  const charts = kinds.map(([kind, title]) => stacked(title, found.jobs.times,
    groups.map(([name, counts]) => ({ name, values: counts[kind] })), { sync: "jobs" }));
  return [
    make("h1", {}, "Overview"),
    make("h2", {}, "What is wrong now"), now,
    found.trouble ? make("p", { role: "alert" }, found.trouble) : null,
    make("div", { class: "bar" }, range(hours)),
    make("h2", {}, "Jobs over time"),
    groups.length ? make("div", { class: "charts" }, ...charts) : faint("No job yet."),
    make("h2", {}, "Predictions"),
    make("div", { class: "charts" }, ...found.accuracy.map((chart) => measured(chart)),
      predictions(found)),
    found.accuracy.length ? null
      : faint("Error and coverage are drawn where gridcast monitor, or a schedule of gridcast up, ran in this time."),
    make("h2", {}, "Failures"), heatMap(found.failures),
  ];
}
