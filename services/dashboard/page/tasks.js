// The list of tasks, chains and requests.
import { sparkline } from "./charts.js";
import {
  address, choice, faint, get, link, make, named, pager, percent, state, table, text,
} from "./dom.js";
import { changed, params } from "./router.js";
import { moment, utc } from "./time.js";

const SIZE = 50;
export const KINDS = {
  task: ["Task", "Tasks"], chain: ["Chain", "Chains"], request: ["Request", "Requests"],
};
const ORDERS = [["", "the gravest state"], ["task", "name"], ["owner", "owner"], ["group", "group"],
  ["-progress", "progress"], ["-jobs", "jobs"], ["-failed", "failed jobs"], ["median", "end"],
  ["-defined_at", "definition, latest first"]];

function end(row) {
  if (row.median === null) {
    return make("span", { class: "faint" }, row.stalled_since
      ? `no end: nothing has happened since ${utc(row.stalled_since)}`
      : "no end while what it waits for stalls");
  }
  const between = row.state === "done" ? "" : `${utc(row.low).slice(5)} to ${utc(row.high).slice(5)}`;
  return make("span", {}, moment(row.median, false), make("br"),
    make("span", { class: "faint" }, between));
}

const progress = (row) => make("span", {}, make("progress", { max: 1, value: row.progress,
  "aria-label": `${row.task}: jobs ended` }), make("br"), percent(row.progress),
row.failed ? make("span", { class: "faint" }, `, ${row.failed} failed`) : null);

export const columns = [
  ["Task", (row) => link(address(row.kind, row.task, row.source), row.task), { sort: "task" }],
  ["State", (row) => state(row.state)],
  ["Owner", (row) => named("user", row.owner), { sort: "owner" }],
  ["Group", (row) => text(row.group), { sort: "group" }],
  ["Jobs ended", progress, { sort: "progress" }],
  ["Jobs", (row) => text(row.jobs), { number: true, sort: "jobs" }],
  ["Ended by hour", (row) => sparkline(row.ended_by_hour, "Jobs ended by hour")],
  ["Will be done", end, { sort: "median" }],
  ["What delays it", (row) => (row.reasons || []).slice(0, 2).join("; "), { wide: true }],
];

export async function tasks() {
  const query = params(), kind = query.get("kind") || "task", shown = query.get("state") || "";
  query.set("size", SIZE);
  const found = await get(`/api/tasks?${query}`), plural = KINDS[kind][1];
  const counts = Object.entries(found.states).map(([name, count]) => make("li", {},
    make("button", {
      id: `state-${name}`, "aria-pressed": shown === name,
      onclick: () => changed({ state: shown === name ? "" : name, page: "" }),
    }, state(name), ` ${count}`)));
  const filter = make("input", { id: "filter", type: "search", value: query.get("text") || "",
    onchange: (event) => changed({ text: event.target.value, page: "" }) });
  const groups = [["", "all groups"], ...found.groups.map((name) => [name, name])];
  return [
    make("h1", {}, plural),
    make("ul", { class: "counts", "aria-label": `${plural} by state` }, ...counts),
    make("div", { class: "bar" },
      choice("kind", "Show", Object.entries(KINDS).map(([name, [, many]]) => [name, many]), kind),
      choice("group", "Group", groups, query.get("group") || ""),
      choice("sort", "Sort by", ORDERS, query.get("sort") || ""),
      make("label", { for: "filter" }, "Name, owner or group has", filter),
      pager(found.count, SIZE)),
    found.count ? null
      : faint(`No ${kind} matches, or the store has none with jobs submitted in the last 60 days.`),
    found.trouble ? make("p", { role: "alert" }, found.trouble) : null,
    table(`${found.count} ${plural.toLowerCase()}; times in UTC`, columns, found.rows),
  ];
}
