// Sites and hosts, and one site over time.
import { overTime, sparkline } from "./charts.js";
import { address, duration, faint, get, link, make, percent, range, table, text } from "./dom.js";
import { predictions } from "./overview.js";
import { params } from "./router.js";
import { utc } from "./time.js";

const speed = (value) => (value === null || value === undefined ? "–"
  : value > 1.005 ? `${Math.round(100 * value - 100)} % longer`
    : value < 0.995 ? `${Math.round(100 - 100 * value)} % shorter` : "as elsewhere");

const hostColumns = [
  ["Host", (row) => row.host], ["Running", (row) => row.running, { number: true }],
  ["Ended", (row) => row.ended, { number: true }], ["Failed", (row) => row.failed, { number: true }],
  ["Jobs run", (row) => speed(row.speed)],
];

const RESOURCES = { cpu: "CPU", io: "disk, stage-in or missing cores", unknown: "unknown" };

const slowColumns = [
  ["Site", (row) => text(row.site)], ["Host", (row) => row.host],
  ["Jobs take", (row) => `${row.factor.toFixed(1)} times as long`, { number: true }],
  ["Since", (row) => utc(1000 * row.since)], ["For", (row) => RESOURCES[row.resource]],
  ["Jobs", (row) => row.jobs, { number: true }],
];

const ORDERS = { name: (row) => row.name, running: (row) => row.running, ended: (row) => row.ended,
  waiting: (row) => row.waiting, failed_share: (row) => row.failed_share ?? -1,
  wait: (row) => row.wait ?? -1, speed: (row) => row.speed ?? 0 };

// Few rows, so the page sorts them itself; the order is in the address as everywhere.
function sorted(rows) {
  const order = params().get("sort") || "-running", value = ORDERS[order.replace("-", "")];
  if (!value) return rows;
  const sign = order.startsWith("-") ? -1 : 1;
  return [...rows].sort((a, b) => sign * (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0));
}

export async function sites() {
  const found = await get("/api/sites");
  const largest = { number: true, largest: true };
  const columns = [
    ["Site", (row) => link(address("site", row.name), row.name), { sort: "name" }],
    ["Running", (row) => row.running, { ...largest, sort: "running" }],
    ["By hour", (row) => sparkline(row.running_by_hour, "Running jobs by hour")],
    ["Waiting", (row) => row.waiting, { ...largest, sort: "waiting" }],
    ["Ended", (row) => row.ended, { ...largest, sort: "ended" }],
    ["Failed", (row) => percent(row.failed_share), { ...largest, sort: "failed_share" }],
    ["Failed by hour", (row) => sparkline(row.failed_by_hour, "Failed jobs by hour", "--bad")],
    ["Median wait", (row) => duration(row.wait), { ...largest, sort: "wait" }],
    ["Jobs run", (row) => speed(row.speed), { sort: "speed" }],
  ];
  const hosts = [["Site", (row) => text(row.site)], ...hostColumns.slice(0, 4),
    ["Share", (row) => percent(row.failed_share), { number: true }], ...hostColumns.slice(4)];
  return [
    make("h1", {}, "Sites and hosts"),
    table("Sites, jobs of the last day; speed against the same jobs elsewhere", columns,
      sorted(found.sites)),
    make("h2", {}, "Slow hosts"),
    found.slow_hosts.length ? table("Hosts on which the jobs of a task take longer than elsewhere at their site",
      slowColumns, found.slow_hosts) : faint("On no host do the same jobs take longer than elsewhere at its site."),
    make("h2", {}, "Hosts where most fail"),
    found.hosts.length ? table("Hosts with at least two failed jobs in the last day", hosts, found.hosts)
      : faint("On no host have two jobs failed in the last day."),
  ];
}

export async function site(name) {
  const hours = params().get("hours") || "168";
  const found = await get(`/api/sites/${encodeURIComponent(name)}?hours=${hours}`), row = found.site;
  const line = (title, values, colour) => ({ name: title, values, colour });
  const slow = found.hosts.filter((host) => host.speed > 1.1).map((host) => host.host);
  return [
    make("h1", {}, `Site ${name}`),
    make("p", {}, `${row.running} jobs run and ${row.waiting} wait; in the last day ${row.ended} ended, ${
      row.failed} of them failed. Jobs run ${speed(row.speed)}${
      row.speed ? " at other sites" : ""}.`.replace("longer at", "longer than at")
      .replace("shorter at", "shorter than at").replace("as elsewhere at other sites", "as long as elsewhere")
      .replace("Jobs run –", "How fast it is, too few jobs tell")),
    make("div", { class: "bar" }, range(hours)),
    make("div", { class: "charts" },
      overTime("Jobs waiting and running", found.times, [line("waiting", found.waiting, "--c1"),
        line("running", found.running, "--c0")], { whole: true, sync: "site" }),
      overTime("Jobs ended and failed", found.times, [{ ...line("ended", found.ended, "--c2"), fill: "20" },
        line("failed", found.failed, "--bad")], { whole: true, sync: "site" }),
      overTime("Median wait of the jobs that started", found.times, [line("wait", found.wait, "--c1")],
        { unit: "s", sync: "site" }),
      predictions(found)),
    make("h2", {}, "Waits as predicted while they waited, and as they were"),
    found.waits.length ? table("Waits by day of submission, medians", [
      ["Day", (day) => utc(day.day).slice(0, 10)], ["Jobs", (day) => day.jobs, { number: true }],
      ["Predicted", (day) => duration(day.predicted), { number: true }],
      ["Was", (day) => duration(day.actual), { number: true }],
      ["Within the 90 % range", (day) => percent(day.within), { number: true }],
    ], found.waits) : faint("No wait that was predicted has ended in this time."),
    make("h2", {}, "Hosts"),
    slow.length ? make("p", {}, `Slow: ${slow.join(", ")}; the same jobs run at least 10 % longer there.`) : null,
    found.hosts.length ? table("Hosts of the last day, the worst first; speed against the site's",
      hostColumns, found.hosts) : faint("The records name no host."),
  ];
}
