// Drawings that are no lines over time: a heat map, and jobs as bars by site and host.
import { address, duration, faint, make, svg } from "./dom.js";
import { utc } from "./time.js";

const hour = (stamp) => utc(stamp * 1000).slice(5);

// Share of failed jobs by site (row) and time (column); empty cells had no job that ended.
export function heatMap(data) {
  const names = Object.keys(data.sites), columns = data.times.length;
  if (!names.length) return faint("No job ended in this time.");
  const left = 150, cell = Math.max(14, Math.floor(800 / columns)), row = 20, width = left + columns * cell;
  const height = names.length * row + 22;
  let worst = { failed: 0, words: "no job failed" };
  const cells = names.flatMap((name, line) => data.sites[name].ended.map((ended, column) => {
    const failed = data.sites[name].failed[column];
    if (!ended) return null;
    const words = `${name}, ${data.step} h until ${hour(data.times[column])} UTC: ${failed} of ${
      ended} jobs failed`;
    if (failed > worst.failed) worst = { failed, words };
    const level = failed ? Math.min(5, 1 + Math.floor(5 * failed / ended)) : 0;
    return svg("rect", { x: left + column * cell, y: line * row, width: cell - 1, height: row - 2,
      rx: 2, class: `heat${level}` }, svg("title", {}, words));
  }));
  const labels = names.map((name, line) => svg("a", { href: address("site", name) },
    svg("text", { x: left - 8, y: line * row + 14, "text-anchor": "end" },
      name.length > 20 ? `${name.slice(0, 19)}…` : name)));
  const ticks = data.times.map((stamp, column) => (column % Math.ceil(columns / 6) ? null
    : svg("text", { x: left + column * cell, y: height - 5 }, hour(stamp))));
  const label = `Failed jobs by site and hour; most: ${worst.words}`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "heatmap", role: "group",
    "aria-label": label, "data-wide": "" }, ...cells, ...labels, ...ticks);
  drawing.style.minWidth = `${Math.min(width, 700)}px`;
  const shares = ["none", "up to 20 %", "40 %", "60 %", "80 %", "all"];
  const legend = make("p", { class: "legend faint" }, "failed: ",
    ...shares.map((share, level) => make("span", { class: `swatch heat${level}` }, share)));
  const region = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    drawing);
  requestAnimationFrame(() => { region.scrollLeft = region.scrollWidth; }); // the newest first
  return make("div", {}, region, legend);
}

// Jobs as bars in lanes under their host, hosts under their site; slow ones are named.
export function gantt(jobs, source, now) {
  if (!jobs.length) return faint("No job was submitted yet.");
  const start = (job) => +new Date(job.started_at || job.submitted_at);
  const end = (job) => (job.ended_at ? +new Date(job.ended_at) : now);
  const first = Math.min(...jobs.map(start)), last = Math.max(...jobs.map(end), now);
  const left = 170, width = 1000, row = 13;
  const x = (time) => left + (width - left - 4) * (time - first) / Math.max(last - first, 1);
  const groups = new Map();
  const key = (job) => `${job.site || "(unknown site)"}\n${
    job.host || (job.started_at ? "(unknown host)" : "(waiting)")}`;
  for (const job of [...jobs].sort((a, b) => start(a) - start(b))) {
    if (!groups.has(key(job))) groups.set(key(job), []);
    const lanes = groups.get(key(job)), free = lanes.find((lane) => end(lane.at(-1)) <= start(job));
    if (free) free.push(job); else lanes.push([job]);
  }
  let y = 18, site = null;
  const drawn = [];
  for (const name of [...groups.keys()].sort()) {
    const [ownSite, host] = name.split("\n");
    if (ownSite !== site) {
      drawn.push(svg("a", { href: address("site", ownSite) },
        svg("text", { x: 2, y: y + 12, class: "strong" }, ownSite)));
      site = ownSite;
      y += 17;
    }
    drawn.push(svg("text", { x: left - 8, y: y + 10, "text-anchor": "end" },
      host.length > 24 ? `${host.slice(0, 23)}…` : host));
    for (const lane of groups.get(name)) {
      for (const job of lane) {
        const from = x(start(job)), wide = Math.max(x(end(job)) - from, 2);
        const words = `${job.job_id}: ${job.status}${job.hours === null ? ""
          : `, ${duration(job.hours * 3600)}`}${job.slow ? ` – slow: ${job.slow}` : ""}`;
        const bar = svg("rect", { x: from, y: y + 1, width: wide, height: row - 3, rx: 2,
          class: `job ${job.status}${job.slow ? " slow" : ""}` }, svg("title", {}, words));
        const isLate = from + wide > width * 0.8;
        const label = job.slow && svg("text", { y: y + 10, class: "slowname",
          x: from + wide + (isLate ? -6 : 4), "text-anchor": isLate ? "end" : "start" }, job.job_id);
        drawn.push(svg("a", { href: address("job", job.job_id, source), tabindex: "-1" }, bar),
          label || "");
      }
      y += row;
    }
    y += 3;
  }
  const ticks = [0, 1, 2, 3, 4].map((part) => {
    const time = first + (last - first) * part / 4, at = x(time);
    return [svg("line", { x1: at, x2: at, y1: 16, y2: y, class: "grid" }),
      svg("text", { x: at, y: 11, "text-anchor": part === 4 ? "end" : part ? "middle" : "start" },
        utc(time).slice(5))];
  });
  const slow = jobs.filter((job) => job.slow);
  const label = `${jobs.length} jobs by site and host; slow: ${
    slow.slice(0, 5).map((job) => job.job_id).join(", ") || "none"}`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${y + 4}`, class: "gantt", role: "group",
    "aria-label": label }, ...ticks.flat(), ...drawn);
  const states = [...new Set(jobs.map((job) => job.status))];
  const legend = make("p", { class: "legend faint" },
    ...states.map((name) => make("span", { class: `swatch job ${name}` }, name)),
    slow.length ? make("span", { class: "swatch job slow" }, "slow") : null);
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": label };
  return make("div", {}, make("div", region, drawing), legend);
}

