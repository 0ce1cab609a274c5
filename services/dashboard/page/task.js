// One task, chain or request: how far it is, when it will be done, and what delays it.
import { overTime, seconds } from "./charts.js";
import { address, choice, duration, faint, get, link, make, named, pager, percent, state, table,
  text } from "./dom.js";
import { gantt } from "./drawings.js";
import { params } from "./router.js";
import { columns, KINDS } from "./tasks.js";
import { moment, utc } from "./time.js";

const SIZE = 50;
const clock = (value) => utc(value * 1000).slice(5);

// The jobs that ended, and from now on between the early and the late end of the prediction.
function ended(found) {
  const row = found.task, now = seconds(row.asked_at), done = row.ended;
  const past = found.ended.times.map(seconds);
  const points = new Map(past.map((at, index) => [at,
    { ended: found.ended.ended[index], failed: found.ended.failed[index] }]));
  const start = seconds(row.defined_at), failed = found.ended.failed.at(-1) || 0;
  points.set(start, { ended: 0, failed: 0, ...points.get(start) });
  points.set(now, { ended: done, failed, early: done, median: done, late: done });
  const hasEnd = row.median !== null && row.state !== "done";
  const [low, median, high] = hasEnd ? [row.low, row.median, row.high].map(seconds) : [];
  const reached = (end, at) => Math.min(row.jobs, done + (row.jobs - done) * (at - now) / (end - now));
  for (const at of hasEnd ? [low, median, high].filter((end) => end > now) : []) {
    points.set(at, { early: reached(low, at), median: reached(median, at), late: reached(high, at) });
  }
  const ceiling = row.ceiling ? seconds(row.ceiling) : null;
  const far = Math.max(hasEnd ? high : now, Math.min(ceiling || now, now + 2 * (now - start)));
  const times = [...points.keys()].sort((a, b) => a - b);
  const values = (name) => times.map((at) => points.get(at)[name] ?? null);
  const lines = [
    { name: "ended", values: values("ended"), colour: "--c0", stepped: true, fill: "20" },
    { name: "failed", values: values("failed"), colour: "--bad", stepped: true },
  ];
  if (hasEnd) {
    const silent = { silent: true, dash: [3, 4] };
    lines.push({ name: "early", values: values("early"), colour: "--c2", ...silent },
      { name: "median", values: values("median"), colour: "--c2", silent: true },
      { name: "late", values: values("late"), colour: "--c2", ...silent });
  }
  const marks = [{ at: now, label: "now" }];
  if (row.stalled_since) {
    marks.push({ at: seconds(row.stalled_since), label: "stalled since", colour: "--bad" });
  }
  if (ceiling && ceiling <= far) marks.push({ at: ceiling, label: "ceiling", colour: "--c1" });
  return overTime("Ended jobs, and as predicted", times, lines, {
    whole: true, most: row.jobs, marks, bands: hasEnd ? [[2, 4, "--c2"]] : [],
    x: (_, first, last) => [first, Math.max(last, far)], axis: 50,
    note: hasEnd ? "The fan lies between the early and the late end: 90 % of such tasks"
      : row.state === "done" ? "" : "No end is predicted while nothing happens",
  });
}

function predicted(found) {
  const rows = found.history.filter((row) => row.median);
  if (rows.length < 2) return faint("Its predictions are drawn from the second on.");
  const times = found.history.map((row) => seconds(row.asked_at));
  const values = (name) => found.history.map((row) => (row[name] ? seconds(row[name]) : null));
  const { ceiling } = found.task; // the newest: a group's ceiling moves with its ended tasks
  const lines = [
    { name: "latest (95 %)", values: values("high"), colour: "--c2", dash: [3, 4], stepped: true },
    { name: "median", values: values("median"), colour: "--c0", stepped: true },
    { name: "earliest (5 %)", values: values("low"), colour: "--c2", dash: [3, 4], stepped: true },
  ];
  if (ceiling) {
    lines.push({ name: "ceiling", colour: "--c1", dash: [8, 4],
      values: times.map(() => seconds(ceiling)) });
  }
  return overTime("Its predicted end, by when it was predicted", times, lines, {
    least: null, unit: "s", format: clock, bands: [[0, 2, "--c2"]], axis: 92,
  });
}

function changes(rows) {
  if (!rows.length) return faint("It has not changed by more than a tenth of the time left.");
  const moved = ({ moved: by }) => (by === null ? "no end now, or none before"
    : by > 0 ? `${duration(by)} later` : by < 0 ? `${duration(-by)} earlier` : "as before");
  return table("Changes of the prediction, newest first", [
    ["When", (row) => moment(row.at)], ["End", moved], ["Why", (row) => row.why, { wide: true }],
  ], rows);
}

const jobColumns = (source) => [
  ["Job", (row) => link(address("job", row.job_id, source), row.job_id), { sort: "job_id" }],
  ["Site", (row) => named("site", row.site), { sort: "site" }],
  ["Host", (row) => text(row.host), { sort: "host" }],
  ["State", (row) => state(row.status), { sort: "status" }],
  ["Submitted", (row) => utc(row.submitted_at), { sort: "submitted_at" }],
  ["Started", (row) => utc(row.started_at), { sort: "started_at" }],
  ["Ended", (row) => utc(row.ended_at), { sort: "ended_at" }],
  ["Ran", (row) => duration(row.hours === null ? null : 3600 * row.hours),
    { sort: "hours", number: true }],
];

function facts(found, kind) {
  const row = found.task;
  const end = row.median === null ? "unknown until it goes on" : moment(row.median);
  const list = [
    ["State", state(row.state)],
    row.stalled_since ? ["Stalled since", moment(row.stalled_since)] : null,
    kind === "task" ? null : ["Tasks", text(row.tasks)],
    ["Source", text(row.source)], ["Owner", named("user", row.owner)], ["Group", text(row.group)],
    ["Defined", moment(row.defined_at)],
    [row.state === "done" ? "Was done" : "Will be done", end],
    row.median === null || row.state === "done" ? null
      : ["Nine of ten times between", make("span", {}, utc(row.low), " and ", utc(row.high), " UTC")],
    ["Ceiling of its group", moment(row.ceiling)],
    ["Jobs", `${row.ended} of ${row.jobs} ended, ${row.failed} failed`],
    ["Progress", `${percent(row.progress)}, expected ${percent(row.expected_progress)}`],
    ["Confidence", percent(row.confidence)],
  ].filter(Boolean);
  return make("dl", {}, ...list.flatMap(([key, value]) =>
    [make("dt", {}, key), make("dd", {}, value)]));
}

function ofJobs(found) {
  const { task: row, errors } = found, status = params().get("status") || "";
  const states = [["", `all ${row.jobs}`],
    ...Object.entries(found.statuses).map(([name, count]) => [name, `${name}: ${count}`])];
  return [
    make("h2", {}, "Jobs by site and host"),
    gantt(found.bars, row.source, +new Date(row.asked_at)),
    make("h2", {}, "Errors"),
    errors.length ? table("Jobs that did not complete", [
      ["How it ended", (error) => state(error.status)],
      ["Jobs", (error) => error.jobs, { number: true }],
      ["Most at site", (error) => text(error.site)], ["Most on host", (error) => text(error.host)],
    ], errors) : faint("No job has failed."),
    make("h2", {}, "Its jobs"),
    make("div", { class: "bar" }, choice("status", "State", states, status),
      pager(found.job_count, SIZE)),
    table(`${found.job_count} jobs; times in UTC`, jobColumns(row.source), found.jobs),
  ];
}

export async function task(name, kind) {
  const query = params();
  query.set("kind", kind);
  query.set("size", SIZE);
  const found = await get(`/api/tasks/${encodeURIComponent(name)}?${query}`), row = found.task;
  const reasons = row.reasons || [];
  return [
    make("h1", {}, kind === "task" ? row.task : `${KINDS[kind][0]} ${row.task}`),
    facts(found, kind),
    make("h2", {}, "What delays it"),
    reasons.length ? make("ul", {}, ...reasons.map((reason) => make("li", {}, reason)))
      : faint("Nothing is known to."),
    make("h2", {}, "Its end"),
    make("div", { class: "charts" }, kind === "task" ? ended(found) : null, predicted(found)),
    make("h2", {}, "When the prediction changed, and why"), changes(found.changes),
    ...(kind === "task" ? ofJobs(found) : [make("h2", {}, "Its tasks"),
      table(`${found.tasks.length} of ${row.tasks} tasks: those that are open or lately done`,
        columns, found.tasks)]),
  ];
}
