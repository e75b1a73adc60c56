// The events of a zone as small forms. They read and write tables as in the configuration.

import { button, element, field } from "./elements.js";

const KINDS = {
  above: "is at least",
  appears: "appears: rises to",
  disappears: "disappears: falls below",
  changes_by: "changes by",
};
const DEFAULTS = { for_s: 0, cooldown_s: 0, max_unknown: 0.5, stale_s: 10, update_s: 10 };

// One event: on: { changed(table, run), renamed(name), removed() }
export function eventForm(name, event, zones, classes, on) {
  const kind = Object.keys(KINDS).find((one) => event[one] !== undefined) ?? "above";
  const set = (changes, run = null) => {
    const table = { ...event, ...changes };
    for (const [key, value] of Object.entries(table)) if (value === undefined || value === DEFAULTS[key]) delete table[key];
    on.changed(table, run);
  };
  const number = (key, words, { percent = false, unit = "", ...limits } = {}) => {
    const scale = percent ? 100 : 1;
    const value = event[key] ?? DEFAULTS[key];
    const input = element("input", { type: "number", min: 0, step: "any", required: event[key] !== undefined, name: key, value: value === undefined ? "" : tidy(value * scale), ...limits });
    if (percent) input.max = 100;
    input.addEventListener("change", () => set({ [key]: input.value === "" ? undefined : tidy(input.valueAsNumber / scale) }));
    return field(words, element("span", { className: "with-unit" }, input, percent ? "%" : unit), "field small");
  };

  const named = element("input", { value: name, required: true, maxLength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]*", spellcheck: false, autocomplete: "off", name: "event" });
  named.addEventListener("change", () => (named.reportValidity() ? on.renamed(named.value.trim()) : null));
  const where = select({ "": "the whole picture", ...Object.fromEntries(Object.keys(zones).map((one) => [one, one])) }, event.zone === "picture" ? "" : (event.zone ?? ""));
  where.name = "zone";
  where.addEventListener("change", () => set({ zone: where.value || undefined }));
  const how = select(KINDS, kind);
  how.name = "kind";
  how.addEventListener("change", () => {
    const share = event[kind] ?? 0.3;
    set({ ...Object.fromEntries(Object.keys(KINDS).map((one) => [one, undefined])), below: undefined, [how.value]: share, within_s: how.value === "changes_by" ? (event.within_s ?? 10) : undefined });
  });
  const known = [...new Set([...classes.map((one) => one.name), ...event.classes])];
  const chosen = element("div", { className: "classes", aria: { role: "group", label: `Classes of ${name}` } }, ...known.map((one) => {
    const box = element("input", { type: "checkbox", checked: event.classes.includes(one), value: one, name: "class" });
    box.addEventListener("change", () => set({ classes: box.checked ? [...event.classes, one] : event.classes.filter((other) => other !== one) }));
    return element("label", { className: "check" }, box, one);
  }));
  const more = element("details", {}, element("summary", { textContent: "No data, updates" }),
    element("div", { className: "numbers" }, number("max_unknown", "Unknown pixels at most", { percent: true }), number("stale_s", "No data after", { unit: "s" }), number("update_s", "Updates every", { unit: "s" })));
  return element("fieldset", { className: "event-form", dataset: { event: name } },
    element("legend", { className: "unseen", textContent: `Event ${name}` }),
    element("div", { className: "numbers" }, field("Event", named, "field small"), field("In", where, "field small"), field("The share", how, "field small"),
      number(kind, kind === "changes_by" ? "By" : "Share", { percent: true }),
      ...(kind === "above" ? [number("below", "Ends below", { percent: true })] : []),
      ...(kind === "changes_by" ? [number("within_s", "Within", { unit: "s" })] : []),
      number("for_s", "For", { unit: "s" }), number("cooldown_s", "Then none for", { unit: "s" })),
    element("p", { className: "dim", textContent: "of these classes:" }), chosen, more,
    button("Remove event", on.removed, { className: "plain" }));
}

export function newEvent(zone, classes) {
  return { ...(zone ? { zone } : {}), classes: classes.length ? [classes[0].name] : ["class"], above: 0.3, for_s: 2 };
}

function select(options, value) {
  const made = element("select", {}, ...Object.entries(options).map(([key, words]) => element("option", { value: key, textContent: words })));
  made.value = value;
  return made;
}

const tidy = (value) => Number(value.toFixed(6));
