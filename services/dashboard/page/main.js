// The views by their name in the address, and news from the server.
import { make } from "./dom.js";
import { job, user } from "./jobs.js";
import { models } from "./models.js";
import { overview } from "./overview.js";
import { current, fromHash, onAddress } from "./router.js";
import { site, sites } from "./sites.js";
import { task } from "./task.js";
import { tasks } from "./tasks.js";
import { thresholds } from "./thresholds.js";
import { beside, utc } from "./time.js";

const VIEWS = {
  overview, tasks, task, chain: task, request: task, sites, site, models, user, job, thresholds,
};
const SECTIONS = { task: "tasks", chain: "tasks", request: "tasks", site: "sites" };
const main = document.getElementById("main"), updated = document.getElementById("updated");
let turn = 0;

async function show(focus = false) {
  turn += 1;
  const mine = turn, { view, name } = current(), section = SECTIONS[view] || view;
  const focused = document.activeElement && document.activeElement.id;
  for (const anchor of document.querySelectorAll("nav a")) {
    if (anchor.dataset.view === section) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  try {
    if (!VIEWS[view]) throw new Error(`There is no page /${view}.`);
    const nodes = await VIEWS[view](name, view);
    if (mine !== turn) return;
    main.replaceChildren(...nodes.filter((node) => node !== null));
    document.title = `${main.querySelector("h1").textContent} – Gridcast`;
  } catch (error) {
    if (mine !== turn) return;
    main.replaceChildren(make("h1", {}, "This cannot be shown"), make("p", { role: "alert" }, error.message));
  }
  if (focus) { main.focus(); window.scrollTo(0, 0); }
  else if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
}

fromHash();
onAddress(show);
window.addEventListener("hashchange", () => { fromHash(); show(true); });
const events = new EventSource("/api/events");
events.onmessage = (event) => {
  if (!event.data) return;
  updated.textContent = `as of ${utc(event.data)} UTC, ${beside(event.data)}`;
  const active = document.activeElement;
  if (!active || !["INPUT", "SELECT"].includes(active.tagName)) show();
};
events.onerror = () => { updated.textContent = "not connected: trying again"; };
show();
