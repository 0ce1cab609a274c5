// The limits by which a state is given, and who set them.
import { act } from "./act.js";
import { get, make, table } from "./dom.js";
import { moment } from "./time.js";

const field = (id, name, node) => make("label", { for: id }, name, node);

export async function thresholds() {
  const found = await get("/api/thresholds");
  const submit = (event) => {
    event.preventDefault();
    const { group, name, value, by } = Object.fromEntries(new FormData(event.target));
    act("/api/thresholds", { group: group || "all", name, value: Number(value), by });
  };
  const names = Object.keys(found.usual).map((name) => make("option", {}, name));
  const form = make("form", { class: "bar", onsubmit: submit },
    field("g", "Group, or all", make("input", { id: "g", name: "group", value: "all" })),
    field("n", "Threshold", make("select", { id: "n", name: "name" }, ...names)),
    field("v", "Value", make("input", { id: "v", name: "value", type: "number", step: "any", required: "" })),
    field("b", "Your name", make("input", { id: "b", name: "by", required: "" })),
    make("button", {}, "Set"));
  const usual = Object.entries(found.usual).map(([name, value]) => `${name} ${value}`).join(", ");
  return [
    make("h1", {}, "Thresholds"), make("p", {}, `Unless set: ${usual}. ${found.meaning}`), form,
    table("Thresholds that were set, newest first", [["When", (row) => moment(row.set_at)],
      ["Group", (row) => row.group], ["Threshold", (row) => row.name],
      ["Value", (row) => row.value, { number: true }], ["By", (row) => row.set_by]], found.rows),
  ];
}
