"use strict";
// One page over the JSON API: what is drawn is rebuilt from it whenever the server says that something is new.
const main = document.getElementById("main"), SIZE = 50;
const view = { kind: "task", state: "", group: "", text: "", page: 0 };
const NAMED = { task: ["Task", "Tasks"], chain: ["Chain", "Chains"], request: ["Request", "Requests"] };
const make = (name, attributes = {}, ...children) => {
  const node = document.createElementNS(attributes.svg ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", name);
  for (const [key, value] of Object.entries(attributes)) if (key.startsWith("on")) node.addEventListener(key.slice(2), value); else if (key !== "svg" && value !== null) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined)); return node;
};
const text = (value) => (value === null || value === undefined || value === "" ? "–" : String(value));
const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
const when = (value) => (value ? value.slice(0, 16).replace("T", " ") : "–");
const hours = (value) => { const left = (new Date(value) - Date.now()) / 36e5; return left > 0 ? `in ${left < 1 ? `${Math.round(60 * left)} min` : `${left.toFixed(1)} h`}` : ""; };
const get = async (path) => { const answer = await fetch(path); if (!answer.ok) throw new Error((await answer.json()).error); return answer.json(); };

function table(caption, columns, rows) {
  const head = make("tr", {}, ...columns.map(([name, , kind]) => make("th", { scope: "col", class: kind || "" }, name)));
  const body = rows.map((row) => make("tr", {}, ...columns.map(([name, of, kind]) => make("td", { class: kind || "", "data-name": name }, of(row)))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, make("table", { class: "cards" }, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body)));
}
const stateOf = (row) => make("span", { class: `state ${row.state}` }, row.state);
const bar = (row) => make("span", {}, make("progress", { max: 1, value: row.progress, "aria-label": `${row.task}: jobs ended` }), ` ${percent(row.progress)}`);
const link = (row) => make("a", { href: `#${row.kind}/${encodeURIComponent(row.task)}/${encodeURIComponent(row.source)}` }, row.task);
const range = (row) => row.median === null ? make("span", { class: "faint" }, row.stalled_since ? `no end: nothing has happened since ${when(row.stalled_since)}` : "no end while what it waits for stalls") : make("span", {}, when(row.median), make("br"), make("span", { class: "faint" }, row.state === "done" ? "" : `${when(row.low)} to ${when(row.high)}`));

const columnsOfTasks = [["Task", link], ["Source", (r) => text(r.source)], ["Owner", (r) => text(r.owner)], ["Group", (r) => text(r.group)], ["State", stateOf], ["Jobs ended", bar], ["Jobs", (r) => text(r.jobs), "n"], ["Will be done", range], ["What delays it", (r) => (r.reasons || []).slice(0, 2).join("; ")]];

async function tasks() {
  const query = new URLSearchParams({ ...view, size: SIZE });
  const found = await get(`/api/tasks?${query}`);
  const counts = Object.entries(found.states).map(([name, count]) => make("li", {}, make("button", { "aria-pressed": view.state === name, onclick: () => { view.state = view.state === name ? "" : name; view.page = 0; show(); } }, make("span", { class: `state ${name}` }, name), ` ${count}`)));
  const filter = make("input", { id: "filter", type: "search", value: view.text, onchange: (event) => { view.text = event.target.value; view.page = 0; show(); } });
  const kinds = make("select", { id: "kind", onchange: (event) => { Object.assign(view, { kind: event.target.value, state: "", page: 0 }); show(); } }, ...Object.entries(NAMED).map(([kind, [, many]]) => make("option", { value: kind, selected: view.kind === kind ? "" : null }, many)));
  const pages = Math.max(1, Math.ceil(found.count / SIZE));
  const turn = (by, name) => make("button", { disabled: view.page + by < 0 || view.page + by >= pages ? "" : null, onclick: () => { view.page += by; show(); } }, name);
  return [make("h1", {}, NAMED[view.kind][1]), make("ul", { class: "counts", "aria-label": `${NAMED[view.kind][1]} by state` }, ...counts),
    make("div", { class: "bar" }, make("label", { for: "kind" }, "Show", kinds), make("label", { for: "filter" }, "Name, owner or group has", filter), turn(-1, "Previous"), make("span", {}, `page ${view.page + 1} of ${pages}`), turn(1, "Next")),
    found.count ? null : make("p", { class: "faint" }, `No ${view.kind} matches, or the store has none with jobs submitted in the last 60 days.`),
    found.trouble ? make("p", { role: "alert" }, found.trouble) : null,
    table(`${found.count} ${NAMED[view.kind][1].toLowerCase()}, the gravest states first; times in UTC`, columnsOfTasks, found.rows)];
}

async function task(kind, name, source) {
  const found = await get(`/api/tasks/${encodeURIComponent(name)}?${new URLSearchParams({ kind, source })}`), row = found.task;
  const end = row.median === null ? "unknown until it goes on" : `${when(row.median)} ${hours(row.median)}`;
  const facts = [["State", stateOf(row)], ["Source", text(row.source)], ["Owner", text(row.owner)], ["Group", text(row.group)], ["Defined", when(row.defined_at)], ["Will be done", end], ["Nine of ten times between", row.median === null ? "–" : `${when(row.low)} and ${when(row.high)}`], ["Ceiling of its group", when(row.ceiling)], ["Jobs", `${row.ended} of ${row.jobs} ended, ${row.failed} failed`], ["Progress", `${percent(row.progress)}, expected ${percent(row.expected_progress)}`], ["Confidence", percent(row.confidence)]];
  if (row.stalled_since) facts.splice(1, 0, ["Stalled since", `${when(row.stalled_since)} UTC`]);
  if (kind !== "task") facts.splice(1, 0, ["Tasks", text(row.tasks)]);
  const parts = kind === "task" ? [make("h2", {}, "Its jobs"),
    table(`${found.jobs.length} of ${row.jobs} jobs, the open ones first`, [["Job", (r) => r.job_id], ["Site", (r) => text(r.site)], ["Host", (r) => text(r.host)], ["State", (r) => text(r.status)], ["Submitted", (r) => when(r.submitted_at)], ["Started", (r) => when(r.started_at)], ["Ended", (r) => when(r.ended_at)]], found.jobs)]
    : [make("h2", {}, "Its tasks"), table(`${found.tasks.length} of ${row.tasks} tasks: those that are open or lately done, as they were defined`, columnsOfTasks, found.tasks)];
  return [make("h1", {}, kind === "task" ? row.task : `${NAMED[kind][0]} ${row.task}`), make("dl", {}, ...facts.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)])),
    make("h2", {}, "What delays it"), row.reasons && row.reasons.length ? make("ul", {}, ...row.reasons.map((reason) => make("li", {}, reason))) : make("p", { class: "faint" }, "Nothing is known to."),
    make("h2", {}, "Its predicted end over time"), converging(found.history), ...parts];
}

async function sites() {
  const found = await get("/api/sites");
  const columns = (first) => [[first, (r) => text(r.name)], ["Running", (r) => r.running, "n"], ["Waiting", (r) => r.waiting, "n"], ["Ended", (r) => r.ended, "n"], ["Failed", (r) => percent(r.failed_share), "n"], ["Longest running, h", (r) => text(r.longest_hours), "n"]];
  return [make("h1", {}, "Sites and hosts"), table("Sites, jobs of the last day", columns("Site"), found.sites), make("h2", {}, "Hosts where most fail"), table("Hosts", columns("Host"), found.hosts)];
}

async function models() {
  const found = await get("/api/models"), promote = (row) => make("button", { id: `promote-${row.version}`, onclick: () => act("/api/promote", { version: row.version }) }, `Promote ${row.label}`);
  const button = (id, path, name) => make("button", { id, onclick: () => act(path, {}) }, name);
  return [make("h1", {}, "Models"), make("p", {}, found.sentence), make("p", { class: "bar" }, button("retrain", "/api/retrain", "Train a new version"), button("pin", "/api/pin", "Pin the champion"), button("unpin", "/api/unpin", "Unpin")),
    table("Versions", [["Version", (r) => text(r.label)], ["Alias", (r) => text(r.alias)], ["Since", (r) => when(r.created_at)], ["Change", (r) => (r.alias === "champion" ? "answers now" : promote(r))]], found.versions),
    make("h2", {}, "Error, coverage, drift and decay over time"), ...(found.charts.length ? [make("div", { class: "charts" }, ...found.charts.map((one) => chart(one, found.promotions)))] : [make("p", { class: "faint" }, "Nothing was measured yet: gridcast monitor measures, and so do the schedules of gridcast up.")]),
    make("h2", {}, "Promotions"), table("Promotions, newest first", [["When", (r) => when(r.at)], ["Version", (r) => r.label], ["By", (r) => text(r.by)], ["Why", (r) => text(r.why)]], found.promotions),
    make("h2", {}, "Other pages"), make("ul", {}, ...found.links.map(([name, address]) => make("li", {}, make("a", { href: address }, name)))),
    make("h2", {}, "Newest numbers"), table("Measurements, newest first", [["When", (r) => when(r.measured_at)], ["Kind", (r) => r.kind], ["Name", (r) => r.name], ["Value", (r) => (r.value === null ? "–" : String(+r.value.toPrecision(4))), "n"]], found.measurements)];
}

async function act(path, body) {
  let token = sessionStorage.getItem("token") || "";
  const send = () => fetch(path, { method: "POST", headers: { "content-type": "application/json", authorization: `Bearer ${token}` }, body: JSON.stringify(body) });
  let answer = await send();
  if (answer.status === 401) { token = window.prompt("An admin token of GRIDCAST_TOKENS") || ""; sessionStorage.setItem("token", token); answer = await send(); }
  const found = await answer.json(); document.getElementById("updated").textContent = found.sentence || found.error; if (answer.ok) show();
}

async function thresholds() {
  const found = await get("/api/thresholds");
  const field = (id, name, node) => make("label", { for: id }, name, node);
  const form = make("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); const d = new FormData(event.target); act("/api/thresholds", { group: d.get("group") || "all", name: d.get("name"), value: Number(d.get("value")), by: d.get("by") }); } },
    field("g", "Group, or all", make("input", { id: "g", name: "group", value: "all" })), field("n", "Threshold", make("select", { id: "n", name: "name" }, ...Object.keys(found.usual).map((name) => make("option", {}, name)))),
    field("v", "Value", make("input", { id: "v", name: "value", type: "number", step: "any", required: "" })), field("b", "Your name", make("input", { id: "b", name: "by", required: "" })), make("button", {}, "Set"));
  return [make("h1", {}, "Thresholds"), make("p", {}, `Unless set: ${Object.entries(found.usual).map(([k, v]) => `${k} ${v}`).join(", ")}. ${found.meaning}`), form,
    table("Thresholds that were set, newest first", [["When", (r) => when(r.set_at)], ["Group", (r) => r.group], ["Threshold", (r) => r.name], ["Value", (r) => r.value, "n"], ["By", (r) => r.set_by]], found.rows)];
}

let turn = 0;
async function show(focus = false) {
  const mine = ++turn, [page, name, source = ""] = (location.hash.slice(1) || "tasks").split("/"), focused = document.activeElement && document.activeElement.id;
  for (const a of document.querySelectorAll("nav a")) if (a.getAttribute("href") === `#${page}`) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
  try {
    const nodes = await (NAMED[page] ? task(page, decodeURIComponent(name), decodeURIComponent(source)) : ({ tasks, sites, models, thresholds }[page] || tasks)());
    if (mine !== turn) return;
    main.replaceChildren(...nodes.filter((node) => node !== null)); document.title = `${main.querySelector("h1").textContent} – Gridcast`;
    if (focus) main.focus(); else if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
  } catch (error) { if (mine === turn) main.replaceChildren(make("p", { role: "alert" }, error.message)); }
}
window.addEventListener("hashchange", () => show(true));
const events = new EventSource("/api/events");
events.onmessage = (event) => { document.getElementById("updated").textContent = `as of ${when(event.data)} UTC`; if (!document.activeElement || !["INPUT", "SELECT"].includes(document.activeElement.tagName)) show(); };
events.onerror = () => { document.getElementById("updated").textContent = "not connected: trying again"; };
show();
