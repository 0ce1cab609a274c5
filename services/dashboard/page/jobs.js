// One user's open jobs with advice, and one job with the reasons of its prediction.
import { address, amount, duration, faint, get, link, make, named, state, table, text } from "./dom.js";
import { go, params } from "./router.js";
import { moment, utc } from "./time.js";

// The median, with the range below it; a median that has passed shows the upper end alone.
function between(times) {
  if (!times) return "unknown";
  if (!times.median && !times.high) return "later than predicted";
  const low = times.low ? utc(times.low) : "now", high = utc(times.high);
  return make("span", {}, times.median ? moment(times.median, false) : "any time",
    ...(low === high ? [] : [make("br"), make("span", { class: "faint" }, `${low} to ${high}`)]));
}

function starts(row) {
  if (row.started_at) return moment(row.started_at, false);
  if (!row.waits_for) return between(row.start);
  return make("span", {}, "once ", link(address("task", row.waits_for, row.source), row.waits_for),
    " is done");
}

const columns = [
  ["Job", (row) => link(address("job", row.job_id, row.source), row.job_id)],
  ["Task", (row) => (row.task_id ? link(address("task", row.task_id, row.source), row.task_id) : "–")],
  ["Program", (row) => text(row.program || row.job_name)],
  ["Site", (row) => named("site", row.site)], ["Queue", (row) => text(row.queue)],
  ["State", (row) => state(row.state)], ["Submitted", (row) => moment(row.submitted_at, false)],
  ["Starts", starts],
  ["Ends", (row) => between(row.end)],
];

function ask(name) {
  const submit = (event) => {
    event.preventDefault();
    const user = new FormData(event.target).get("user").trim();
    if (user) { localStorage.setItem("user", user); go(address("user", user)); }
  };
  return make("form", { class: "bar", onsubmit: submit },
    make("label", { for: "user" }, "User",
      make("input", { id: "user", name: "user", value: name, autocomplete: "username" })),
    make("button", {}, "Show"));
}

// What is advised; jobs that were killed show only that they needed more than their request.
function advised(row, target, show) {
  const value = row[`${target}_ask_for`], request = row[`${target}_asked`];
  const words = row[`${target}_beyond`] ? `more than ${show(request)}` : show(value);
  const same = !row[`${target}_beyond`] && value && value === request ? " (as now)" : "";
  const few = row[`${target}_enough`] === false ? " too few jobs to advise" : "";
  return make("strong", {}, words + same, few);
}

function needed(advice) {
  const request = (row) => duration(row.walltime_asked), used = (row) =>
    `${duration(row.walltime_used)}; 95 %: ${duration(row.walltime_used_95)}`;
  return make("div", {},
    advice.rows.length ? table("What the jobs of the last 28 days requested and used", [
      ["Program", (row) => row.program], ["Cores", (row) => row.cores, { number: true }],
      ["Jobs", (row) => row.jobs, { number: true }], ["Asked for", request, { number: true }],
      ["Used", used, { number: true }],
      ["Next job, 90 %", (row) => (row.walltime_high === undefined ? "–"
        : `${duration(row.walltime_low)} to ${duration(row.walltime_high)}`), { number: true }],
      ["Ask for", (row) => advised(row, "walltime", duration), { number: true }],
      ["Memory: asked for", (row) => amount(row.peak_memory_asked, "bytes"), { number: true }],
      ["Ask for", (row) => advised(row, "peak_memory", (value) => amount(value, "bytes")), { number: true }],
    ], advice.rows) : null,
    make("details", {}, make("summary", {}, "In words, with the risks"),
      make("ul", {}, ...advice.sentences.map((sentence) => make("li", {}, sentence)))));
}

export async function user(name) {
  if (!name) {
    const last = localStorage.getItem("user") || "";
    return [make("h1", {}, "My jobs"), faint("Whose jobs?"), ask(last)];
  }
  const found = await get(`/api/users/${encodeURIComponent(name)}`);
  const advice = make("div", { "aria-busy": "true" }, faint("Reading the jobs of the last 28 days …"));
  get(`/api/advice/${encodeURIComponent(name)}`)
    .then((more) => { advice.removeAttribute("aria-busy"); advice.replaceChildren(needed(more)); })
    .catch((error) => { advice.removeAttribute("aria-busy"); advice.replaceChildren(faint(error.message)); });
  const { waiting = 0, running = 0 } = found.count;
  return [
    make("h1", {}, `Jobs of ${name}`), ask(name),
    make("p", {}, `${waiting} wait and ${running} run.`),
    found.jobs.length ? table(`${found.jobs.length} open jobs, those submitted last; times in UTC`, columns,
      [...found.jobs].reverse()) : faint("No job of this user is open."),
    make("h2", {}, "What to ask for instead"), advice,
  ];
}

const predicted = [
  ["When", (row) => moment(row.asked_at)], ["Quantity", (row) => row.target.replace("_", " ")],
  ["Predicted", (row) => amount(row.point, row.unit), { number: true }],
  ["Median", (row) => amount(row.median, row.unit), { number: true }],
  ["90 % range", (row) => `${amount(row.low, row.unit)} to ${amount(row.high, row.unit)}`, { number: true }],
  ["Was", (row) => amount(row.actual, row.unit), { number: true }], ["Model", (row) => row.model_version],
];

const attempted = [
  ["Started", (row) => moment(row.started_at)], ["Ended as", (row) => state(row.status)],
  ["Ran", (row) => duration(row.walltime), { number: true }],
  ["Asked for", (row) => amount(row.requested_memory, "bytes"), { number: true }],
  ["Used", (row) => amount(row.peak_memory, "bytes"), { number: true }], ["Host", (row) => row.host || "–"],
];

const HIDDEN = new Set(["job_id", "source"]);
const UNITS = { walltime: "s", cpu_time: "s", requested_walltime: "s", peak_memory: "bytes",
  requested_memory: "bytes" };

function field(name, value, source) {
  if (name.endsWith("_at")) return moment(value);
  if (name === "site" || name === "user") return named(name, value);
  if (name === "task_id") return link(address("task", value, source), value);
  if (name === "status") return state(value);
  return UNITS[name] ? amount(value, UNITS[name]) : String(value);
}

export async function job(name) {
  const source = params().get("source") || "";
  const found = await get(`/api/jobs/${encodeURIComponent(name)}?source=${encodeURIComponent(source)}`);
  const facts = Object.entries(found.job).filter(([key]) => !HIDDEN.has(key)).flatMap(([key, value]) =>
    [make("dt", {}, key.replaceAll("_", " ")), make("dd", {}, field(key, value, source))]);
  return [
    make("h1", {}, `Job ${name}`),
    make("h2", {}, "Why it was predicted so"),
    found.trouble ? faint(found.trouble)
      : make("div", { class: "words" }, ...found.sentences.map((sentence) => make("p", {}, sentence))),
    found.similar.length ? table("The most similar jobs that had ended before", [
      ["Job", (row) => (row.job_id ? link(address("job", row.job_id, row.source), row.job_id) : "–")],
      ["Ended", (row) => moment(row.ended_at)], ["Took", (row) => duration(row.value), { number: true }],
      ["Alike in", (row) => row.alike.filter((key) => key !== "source").join(", ").replaceAll("_", " "),
        { wide: true }],
    ], found.similar) : null,
    make("h2", {}, "Predictions made before its end was known"),
    found.predictions.length ? table("Logged predictions, by quantity and time", predicted, found.predictions)
      : faint("None was logged."),
    found.predictions.some((row) => found.job.ended_at && row.asked_at > found.job.ended_at)
      ? faint("Some were made after its end, but before the store had it: they did not know it.") : null,
    make("h2", {}, "Its record"), make("dl", {}, ...facts),
    found.attempts.length ? table("Its earlier attempts, by their end", attempted, found.attempts) : null,
  ];
}
