// The versions of the model: how good they are, why one answers, and buttons to change that.
import { amount, duration, faint, get, make, percent, table, text } from "./dom.js";
import { measured } from "./overview.js";
import { act } from "./act.js";
import { moment } from "./time.js";

// A button that cannot work is disabled, and the reason is beside it.
function button(id, path, body, title, refusal, shared = "") {
  const note = shared ? "shared-why" : `${id}-why`;
  const attributes = refusal ? { disabled: "", "aria-describedby": note } : {};
  return make("span", { class: "action" },
    make("button", { id, onclick: () => act(path, body), ...attributes }, title),
    refusal && !shared ? make("span", { id: note, class: "faint" }, refusal) : null);
}

function error(row) {
  const { tested } = row;
  if (tested.candidate === undefined) return "–";
  const rivals = Object.entries(tested)
    .filter(([name, value]) => !["candidate", "champion", "coverage_90"].includes(name) && value !== null);
  const best = rivals.sort((a, b) => a[1] - b[1])[0];
  return make("span", {}, duration(tested.candidate), make("br"), make("span", { class: "faint" },
    [tested.champion === undefined ? "" : `champion then ${duration(tested.champion)}`,
      best ? `${best[0]} ${duration(best[1])}` : ""].filter(Boolean).join("; ")));
}

// All versions with numbers here were tested on the same later jobs, so these may be compared.
function common({ common_test: test }) {
  if (!test) return "–";
  return make("span", {}, amount(test.mae, test.unit), make("br"), make("span", { class: "faint" },
    `best simple rule ${amount(test.baseline, test.unit)}; ${percent(test.coverage)} in the 90 % range`));
}

const signed = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}\u00a0%`;

// The version that waits for a decision: the evidence so far, who may decide, and how.
function decision({ label, version, share, evidence, sentence, decision: by, approval, refusal, withdrawal_refusal: kept }, shared) {
  const rows = evidence && table(`${label} as the canary, beside ${evidence.champion} on the same jobs`, [
    ["Share of the jobs", () => `${+(100 * share).toPrecision(2)} %`, { number: true }],
    ["Since", (row) => moment(row.since)],
    ["Jobs answered", (row) => amount(row.answers, ""), { number: true }],
    ["Outcomes", (row) => amount(row.outcomes, ""), { number: true }],
    ["Judged", (row) => amount(row.judged, ""), { number: true }],
    ["Change of the mean absolute error", ({ change }) => (change
      ? `${signed(change.share)} (95 %: ${signed(change.low)} to ${signed(change.high)})` : "–"), { number: true }],
    ["Next look at", (row) => `${amount(row.next_look, "")} outcomes`, { number: true }],
  ], [evidence]);
  const own = (reason) => [reason, reason === shared ? shared : ""];
  return make("section", { id: "challenger" },
    make("h2", {}, `Challenger: ${label}`),
    make("p", {}, `${sentence} ${by}`), rows,
    make("div", { class: "bar" },
      button("promote-challenger", "/api/promote", { version }, `Promote ${label}`, ...own(refusal)),
      button("withdraw-challenger", "/api/withdraw", { version }, `Withdraw ${label}`, ...own(kept))),
    faint(approval));
}

export async function models() {
  const found = await get("/api/models"), { refusals } = found;
  const reasons = Object.values(refusals);
  const shared = reasons.every((reason) => reason && reason === reasons[0]) ? reasons[0] : "";
  const tested = found.versions.filter((row) => row.common_test);
  const columns = [
    ["Version", (row) => text(row.label)], ["Alias", (row) => text(row.alias)],
    ["Since", (row) => moment(row.created_at)],
    ["Trained until", (row) => moment(row.trained_until)],
    ...(tested.length ? [["Error on the common test", common, { number: true }]] : []),
    ["Error on its later jobs", error, { number: true }],
    ["In the 90 % range", (row) => percent(row.tested.coverage_90), { number: true }],
    ["Why", (row) => text(row.why), { wide: true }],
    ["Change", (row) => (row.alias === "champion" ? "answers now" : button(`promote-${row.version}`,
      "/api/promote", { version: row.version }, `Promote ${row.label}`, row.refusal,
      row.refusal === shared ? shared : ""))],
  ];
  return [
    make("h1", {}, "Models"), make("p", {}, found.sentence),
    make("div", { class: "bar" },
      button("retrain", "/api/retrain", {}, "Train a new version", refusals.retrain, shared),
      button("pin", "/api/pin", {}, "Pin the champion", refusals.pin, shared),
      button("unpin", "/api/unpin", {}, "Unpin", refusals.unpin, shared),
      shared ? make("span", { id: "shared-why", class: "faint" }, shared) : null),
    found.challenger ? decision(found.challenger, shared) : null,
    table(`Versions; each was tested on jobs later than its training, beside the champion then${
      tested.length ? `; ${tested.length} on the same ${tested[0].common_test.jobs} jobs, that none was trained on` : ""}`,
    columns, found.versions),
    make("h2", {}, "Error, coverage, drift and decay over time"),
    found.charts.length
      ? make("div", { class: "charts" }, ...found.charts.map((chart) => measured(chart, found.promotions)))
      : faint("Nothing was measured yet: gridcast monitor measures, and so do the schedules of gridcast up."),
    make("h2", {}, "Promotions"),
    table("Promotions, newest first", [["When", (row) => moment(row.at)], ["Version", (row) => row.label],
      ["By", (row) => text(row.by)], ["Why", (row) => text(row.why), { wide: true }]], found.promotions),
    make("h2", {}, "Other pages"),
    make("ul", {}, ...found.links.map(([name, href]) => make("li", {}, make("a", { href }, name)))),
    found.login ? faint(found.login) : null,
    make("details", {}, make("summary", {}, "Newest numbers"), table("Measurements, newest first", [["When", (row) => moment(row.measured_at)],
      ["Kind", (row) => row.kind], ["Name", (row) => row.name],
      ["Value", (row) => amount(row.value, ""), { number: true }]], found.measurements)),
  ];
}
