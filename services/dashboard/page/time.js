// Times as people read them: in UTC, beside it in the zone of the reader, and how far they are.
import { make } from "./dom.js";

const LOCAL = new Intl.DateTimeFormat(undefined, {
  weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZoneName: "short",
});
const UNITS = [["days", 86400], ["h", 3600], ["min", 60]];

export const utc = (value) =>
  (value ? new Date(value).toISOString().slice(0, 16).replace("T", " ") : "–");

export function distance(value, now = Date.now()) {
  const seconds = (new Date(value) - now) / 1000, size = Math.abs(seconds);
  const [unit, divisor] = UNITS.find(([, length]) => size >= 2 * length) || UNITS.at(-1);
  const words = size < 60 ? "less than 1 min" : `${Math.round(size / divisor)} ${unit}`;
  return seconds > 0 ? `in ${words}` : `${words} ago`;
}

export function beside(value) {
  const local = new Date(value), offset = local.getTimezoneOffset();
  return offset ? `${LOCAL.format(local).replace(",", "")}, ${distance(value)}` : distance(value);
}

export function moment(value, zone = true) {
  if (!value) return "–";
  return make("time", { datetime: value }, `${utc(value)}${zone ? " UTC" : ""}`, " ",
    make("span", { class: "faint nowrap" }, beside(value)));
}
