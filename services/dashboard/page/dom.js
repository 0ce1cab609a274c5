// Elements, texts and tables, from which every view is made.
import { changed, params } from "./router.js";

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const make = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

export const text = (value) =>
  value === null || value === undefined || value === "" ? "–" : String(value);
export const percent = (value) =>
  value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`;
export const faint = (...words) => make("p", { class: "faint" }, ...words);

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const size = Math.abs(seconds);
  const [unit, divisor] = size >= 259200 ? ["days", 86400] : size >= 3600 ? ["h", 3600]
    : size >= 60 ? ["min", 60] : ["s", 1];
  return `${+(seconds / divisor).toPrecision(3)} ${unit}`;
}

export function amount(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "s") return duration(value);
  if (unit === "bytes") return `${+(value / 2 ** 30).toPrecision(3)} GiB`;
  const size = Math.abs(value);
  const number = size >= 1e6 ? `${+(value / 1e6).toPrecision(3)} M`
    : size >= 1e4 ? `${+(value / 1e3).toPrecision(3)} k` : `${+value.toPrecision(3)}`;
  return unit ? `${number} ${unit}` : number;
}

export async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
}

export function address(view, name, source = "") {
  const query = source ? `?source=${encodeURIComponent(source)}` : "";
  return `/${view}/${encodeURIComponent(name)}${query}`;
}
export const link = (href, ...children) => make("a", { href }, ...children);
export const named = (view, name) => (name ? link(address(view, name), name) : "–");
export const state = (name) => make("span", { class: `state ${name}` }, name);

// A column is [title, cell of a row, {number, sort, largest, wide}]; sort is the field that the
// server sorts by, with the largest first if it says so; the order is kept in the address.
export function table(caption, columns, rows) {
  const sorted = params().get("sort") || "";
  const head = columns.map(([title, , options = {}]) => {
    const attributes = { scope: "col", class: options.number ? "n" : "" };
    if (!options.sort) return make("th", attributes, title);
    const down = sorted === `-${options.sort}`, up = sorted === options.sort;
    if (down || up) attributes["aria-sort"] = down ? "descending" : "ascending";
    const [first, second] = options.largest ? [`-${options.sort}`, options.sort]
      : [options.sort, `-${options.sort}`];
    const next = sorted === first ? second : sorted === second ? "" : first;
    const order = { onclick: () => changed({ sort: next, page: "" }), class: "sort" };
    return make("th", attributes, make("button", { ...order, id: `sort-${options.sort}` },
      title, make("span", { "aria-hidden": "true" }, up ? " ▲" : down ? " ▼" : " ↕")));
  });
  const body = rows.map((row) => make("tr", {}, ...columns.map(([title, cell, options = {}]) =>
    make("td", { class: options.number ? "n" : options.wide ? "wide" : "", "data-name": title },
      cell(row)))));
  const grid = make("table", { class: "cards" }, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": caption };
  return make("div", region, grid);
}

// The orders that the phone, which shows cards without a head, offers too.
export function pager(count, size) {
  const page = Number(params().get("page") || 0), pages = Math.max(1, Math.ceil(count / size));
  const turn = (by, title) => make("button", {
    id: title.toLowerCase(),
    disabled: page + by < 0 || page + by >= pages ? "" : null,
    onclick: () => changed({ page: page + by || "" }),
  }, title);
  return make("div", { class: "bar pager" }, turn(-1, "Previous"),
    make("span", {}, `page ${page + 1} of ${pages}`), turn(1, "Next"));
}

export function choice(name, title, values, chosen) {
  const options = values.map(([value, label]) =>
    make("option", { value, selected: value === chosen ? "" : null }, label));
  const select = make("select", {
    id: name, onchange: (event) => changed({ [name]: event.target.value, page: "" }),
  }, ...options);
  return make("label", { for: name }, title, select);
}

const RANGES = [["24", "one day"], ["72", "three days"], ["168", "a week"], ["336", "two weeks"]];
export const range = (hours) => choice("hours", "Time range", RANGES, String(hours));
