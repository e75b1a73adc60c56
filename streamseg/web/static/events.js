// The events of all streams: open ones first, then the newest that ended.

import { element } from "./elements.js";
import { percent } from "./shares.js";
import { span } from "./words.js";

const MOST = 200;
const WHY = { below: "over", removed: "the event was removed", changed: "the event was changed", restarted: "streamseg was restarted" };

export class EventList {
  constructor(section, app) {
    this.section = section;
    this.app = app;
    this.body = section.querySelector("tbody");
    this.summary = section.querySelector(".event-summary");
    this.events = new Map(); // by stream and id: the newest message of each
    this.stale = false;
  }

  take(message) {
    const key = `${message.stream}/${message.id}`;
    const known = this.events.get(key);
    if (known && known.event_n >= message.event_n) return;
    this.events.set(key, message);
    for (const [other, { stream, journal, state }] of this.events) {
      if (stream === message.stream && journal !== message.journal && state !== "end") this.events.delete(other); // its end never comes
    }
    if (message.fresh && !(known && known.state !== "end" && message.state === "update")) {
      const what = message.state === "end" ? "has ended" : "has begun";
      this.app.announce(`${message.stream}: ${message.event} in ${zoneWords(message.zone)} ${what}`);
    }
    this.stale = true;
  }

  // Streams that are there no more have no open events to show.
  keep(streams) {
    for (const [key, { stream, state }] of this.events) {
      if (!streams.has(stream) && state !== "end") this.stale = this.events.delete(key) || this.stale;
    }
  }

  reset() {
    this.events.clear();
    this.stale = true;
  }

  open(stream) {
    return [...this.events.values()].filter((one) => one.stream === stream && one.state !== "end");
  }

  draw() {
    const nowMs = this.app.link.now();
    if (this.stale) this.#rows(nowMs);
    this.stale = false;
    for (const row of this.body.children) {
      if (row.dataset.open) row.querySelector(".lasted").textContent = span(nowMs - Number(row.dataset.open));
    }
  }

  #rows(nowMs) {
    const sorted = [...this.events.entries()].sort(([, a], [, b]) => (b.state !== "end") - (a.state !== "end") || b.begun_ms - a.begun_ms || (a.id < b.id ? 1 : -1));
    for (const [key] of sorted.splice(MOST)) this.events.delete(key);
    this.section.hidden = !sorted.length;
    this.body.replaceChildren(...sorted.map(([, event]) => row(event, nowMs)));
    const open = sorted.filter(([, { state }]) => state !== "end").length;
    this.summary.textContent = open ? `${open} open` : "none open";
    this.summary.className = `badge event-summary ${open ? "warn" : ""}`;
  }
}

function row(event, nowMs) {
  const over = event.state === "end";
  const state = over ? "ended" : event.no_data ? "no data" : "open";
  const badge = element("span", { className: `badge ${over ? "" : event.no_data ? "bad" : "warn"}`, textContent: state, title: over ? (WHY[event.why] ?? event.why) : event.no_data ? "No mask, or too many unknown pixels: it neither goes on nor ends" : "" });
  const cells = [
    element("td", {}, badge),
    element("th", { scope: "row", textContent: event.event }),
    element("td", { textContent: event.stream }),
    element("td", { textContent: `${event.classes.join(", ")} in ${zoneWords(event.zone)}` }),
    element("td", { className: "number", textContent: percent(event.value) }),
    element("td", { className: "number", textContent: percent(event.peak) }),
    element("td", {}, time(event.begun_ms)),
    element("td", {}, over ? time(event.at_ms) : ""),
    element("td", { className: "number lasted", textContent: span(over ? event.duration_s * 1000 : nowMs - event.begun_ms) }),
  ];
  const made = element("tr", { dataset: { id: event.id } }, ...cells);
  if (!over) made.dataset.open = event.begun_ms;
  return made;
}

function time(unixMs) {
  const date = new Date(unixMs);
  const today = date.toDateString() === new Date().toDateString();
  const words = today ? date.toLocaleTimeString("en-GB") : date.toLocaleString("en-GB");
  return element("time", { dateTime: date.toISOString(), textContent: words, title: date.toLocaleString("en-GB") });
}

const zoneWords = (zone) => (zone === "picture" ? "the whole picture" : zone);
