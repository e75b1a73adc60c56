// The zones of a tile: over its picture, and in a panel below it, where they are drawn, named, counted and saved.

import { Drawing, colourOf } from "./draw.js";
import { button, element, field, swatch } from "./elements.js";
import { eventForm, newEvent } from "./eventform.js";
import { History, LINE_WIDTH, copy, freeName, renamedKey } from "./outline.js";
import { Shares } from "./shares.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const DRAW_EVERY_MS = 480;
const NOTHING = { zones: {}, events: {} };

export class Zones {
  constructor(tile) {
    this.tile = tile;
    this.app = tile.app;
    this.panel = tile.element.querySelector(".zones-panel");
    this.saved = null; // what the daemon has: { revision, zones, events, kept }
    this.base = null; // the revision that the draft began with
    this.history = new History(NOTHING);
    this.shares = new Map(); // by zone
    this.classes = []; // of the last shares
    this.drawnMs = 0;
    this.saving = false;
    this.drawing = new Drawing(tile.element.querySelector(".stage"), () => tile.pictureBox(), {
      changed: (zones, run) => this.#change({ ...this.#now, zones }, run),
      selected: () => this.#later(),
      finished: (kind, points, zone) => this.#finished(kind, points, zone),
      announce: (text) => this.app.announce(text),
      mode: () => this.#buttons(),
    });
    this.#dress();
  }

  get open() {
    return !this.panel.hidden;
  }

  get dirty() {
    return this.base !== null;
  }

  get #now() {
    return this.history.now;
  }

  toggle() {
    this.panel.hidden = this.open;
    this.drawing.edit(this.open);
    this.#render();
    this.app.changed();
    return this.open;
  }

  // The tables that the daemon has, whoever set them.
  take(message) {
    const changed = this.saved !== null && message.revision !== this.saved.revision;
    this.saved = message;
    if (!this.dirty) return this.#adopt();
    if (changed && !this.saving) this.app.announce(`${this.tile.name}: its zones were changed elsewhere`);
    this.#buttons();
  }

  // The pixels of each class in each zone, of one mask.
  count(message) {
    this.classes = this.app.labelSets.get(message.label_set) ?? [];
    for (const zone of message.zones) {
      if (!this.shares.has(zone.zone)) this.shares.set(zone.zone, new Shares());
      this.shares.get(zone.zone).add(zone, this.classes, message.captured_ms);
    }
    const present = new Set(message.zones.map(({ zone }) => zone));
    for (const name of this.shares.keys()) if (!present.has(name)) this.shares.delete(name);
  }

  // Draw charts and figures; called four times a second.
  tick() {
    const nowMs = performance.now();
    if (!this.open || nowMs - this.drawnMs < DRAW_EVERY_MS) return;
    this.drawnMs = nowMs;
    for (const row of this.list.querySelectorAll("[data-zone]")) {
      const shares = this.shares.get(row.dataset.zone);
      const words = shares?.words() ?? "not counted yet";
      const said = row.querySelector(".share-words");
      if (said.textContent !== words) said.textContent = words;
      const canvas = row.querySelector("canvas");
      canvas.setAttribute("aria-label", `${row.dataset.zone}, the last three minutes; now ${words}`);
      shares?.draw(canvas, this.app.link.now());
    }
  }

  place() {
    this.drawing.draw();
  }

  #dress() {
    const panel = this.panel;
    panel.setAttribute("aria-label", `Zones of ${this.tile.name}`);
    this.state = element("p", { className: "zones-state", aria: { role: "status" } });
    this.adopt = button("Take theirs", () => this.#adopt(), { className: "plain" });
    this.problems = element("p", { className: "problems", aria: { role: "alert" } });
    this.tools = {
      polygon: button("Draw a zone", () => this.drawing.begin("polygon")),
      line: button("Draw a line", () => this.drawing.begin("line")),
      hole: button("Cut a hole", () => this.drawing.begin("hole", this.drawing.selected)),
      finish: button("Finish", () => this.drawing.finish(), { className: "strong" }),
      back: button("Remove last point", () => this.drawing.removeLast()),
      cancel: button("Cancel", () => this.drawing.cancel()),
      point: button("Delete point", () => this.drawing.removePoint()),
      undo: button("Undo", () => this.#step(-1), { title: "Ctrl+Z" }),
      redo: button("Redo", () => this.#step(1), { title: "Ctrl+Y" }),
      event: button("Event of the whole picture", () => this.#addEvent("")),
      save: button("Save", () => this.#save(), { className: "strong" }),
      discard: button("Discard", () => this.#adopt()),
      toml: button("Export as TOML", () => this.#export()),
    };
    for (const [what, one] of Object.entries(this.tools)) one.dataset.tool = what;
    this.list = element("ul", { className: "zone-list" });
    this.form = element("div", { className: "zone-form" });
    panel.append(element("div", { className: "zone-tools", aria: { role: "toolbar", label: `Draw zones of ${this.tile.name}` } }, ...Object.values(this.tools)),
      element("div", { className: "zones-said" }, this.state, this.adopt), this.problems, this.list, this.form);
    const keys = (event) => {
      if (!this.open || !(event.ctrlKey || event.metaKey) || !["z", "y", "Z"].includes(event.key)) return;
      if (event.target.matches("input:not([type=checkbox]), textarea")) return; // texts have an undo of their own
      event.preventDefault();
      this.#step(event.key === "y" || event.shiftKey ? 1 : -1);
    };
    panel.addEventListener("keydown", keys);
    this.tile.element.querySelector(".stage").addEventListener("keydown", keys);
    this.#render();
  }

  // Take what the daemon has; what was drawn and not saved is gone.
  #adopt() {
    this.base = null;
    this.history.reset(this.saved ? { zones: this.saved.zones, events: this.saved.events } : NOTHING);
    this.problems.textContent = "";
    this.#render();
  }

  #change(tables, run = null) {
    if (this.base === null) this.base = this.saved?.revision ?? "";
    this.history.add(tables, run);
    if (run === null) this.#render();
    else {
      this.drawing.show(this.#now.zones);
      this.#buttons();
    }
  }

  #step(by) {
    this.history.step(by);
    this.base = this.history.at ? (this.base ?? this.saved?.revision ?? "") : null;
    this.#render();
  }

  #finished(kind, points, of) {
    const { zones } = this.#now;
    if (kind === "hole") {
      const zone = { ...zones[of], holes: [...(zones[of].holes ?? []), points] };
      this.#change({ ...this.#now, zones: { ...zones, [of]: zone } });
      return;
    }
    const name = freeName(kind === "line" ? "line" : "zone", zones);
    const zone = kind === "line" ? { line: points, width: LINE_WIDTH } : { polygon: points };
    this.#change({ ...this.#now, zones: { ...zones, [name]: zone } });
    this.drawing.select(name);
    this.app.announce(`${name} was drawn; it is saved with Save`);
    this.#render();
    this.form.querySelector('[name="zone-name"]')?.select();
  }

  #rename(before, after) {
    const { zones, events } = this.#now;
    const why = !NAME.test(after) ? "a name must be letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
      : after === "picture" ? "'picture' is the whole picture" : Object.hasOwn(zones, after) ? "exists already" : "";
    if (after === before) return;
    if (why) return this.#complain([`${after}: ${why}`]);
    this.problems.textContent = "";
    const follow = Object.fromEntries(Object.entries(events).map(([name, event]) => [name, event.zone === before ? { ...event, zone: after } : event]));
    this.drawing.selected = after;
    this.#change({ zones: renamedKey(zones, before, after), events: follow });
  }

  #removeZone(name) {
    const { [name]: _, ...zones } = this.#now.zones;
    const events = Object.fromEntries(Object.entries(this.#now.events).filter(([, event]) => event.zone !== name));
    const gone = Object.keys(this.#now.events).length - Object.keys(events).length;
    this.drawing.select(null);
    this.#change({ zones, events });
    this.app.announce(`${name} was deleted${gone ? `, with ${gone} of its events` : ""}; Undo brings it back`);
    this.tools.undo.focus();
  }

  #addEvent(zone) {
    const { events } = this.#now;
    const name = freeName("event", events);
    const last = this.app.labelSets.get(this.tile.shown?.header.label_set) ?? this.classes;
    this.#change({ ...this.#now, events: { ...events, [name]: newEvent(zone, last) } });
    this.form.querySelector(`[data-event="${name}"] [name="event"]`)?.select();
  }

  async #save() {
    const tables = copy(this.#now);
    const replaces = this.saved.revision !== this.base;
    this.saving = true;
    this.#buttons();
    const answer = await this.app.link.request("zones", this.tile.name, tables);
    this.saving = false;
    if (answer.problems.length) {
      this.#buttons();
      return this.#complain(answer.problems);
    }
    this.saved = answer.zones;
    this.#adopt();
    this.app.announce(`${this.tile.name}: zones and events are saved${replaces ? "; they replace what was saved elsewhere meanwhile" : ""}`);
  }

  async #export() {
    const answer = await this.app.link.request("toml", this.tile.name, copy(this.#now));
    if (answer.problems.length) return this.#complain(answer.problems);
    this.app.showToml(this.tile.name, answer.toml);
  }

  #complain(problems) {
    this.problems.textContent = problems.join("\n");
  }

  #said() {
    if (this.saved === null) return "";
    if (this.dirty && this.saved.revision !== this.base) return "Changed elsewhere meanwhile. Save replaces that with what is drawn here.";
    if (this.dirty) return "Not saved yet.";
    if (this.saved.kept) return "Saved by streamseg, which keeps it through restarts; it is not in the configuration. Export it to write it there.";
    return Object.keys(this.saved.zones).length + Object.keys(this.saved.events).length ? "As in the configuration." : "No zones yet: draw one on the picture.";
  }

  #later() {
    queueMicrotask(() => this.#render());
  }

  #buttons() {
    const { adding, selected, point } = this.drawing;
    const tools = this.tools;
    for (const what of ["finish", "back", "cancel"]) tools[what].hidden = !adding;
    for (const what of ["polygon", "line", "hole", "point", "undo", "redo", "event", "save", "discard", "toml"]) tools[what].hidden = adding !== null;
    tools.finish.disabled = !this.drawing.canFinish;
    tools.back.disabled = !adding?.points.length;
    tools.hole.disabled = selected === null || Boolean(this.#now.zones[selected]?.line);
    tools.point.disabled = point === null;
    tools.undo.disabled = this.history.at === 0;
    tools.redo.disabled = this.history.at === this.history.steps.length - 1;
    tools.save.disabled = !this.dirty || this.saving || this.saved === null;
    tools.discard.disabled = !this.dirty;
    const said = this.#said();
    if (this.state.textContent !== said) this.state.textContent = said;
    this.adopt.hidden = !(this.dirty && this.saved && this.saved.revision !== this.base);
  }

  #render() {
    const { zones, events } = this.#now;
    this.drawing.show(zones);
    this.#buttons();
    if (!this.open) return;
    const held = this.list.contains(document.activeElement) ? document.activeElement.closest("[data-zone]")?.dataset.zone : null;
    const rows = [["picture", null], ...Object.entries(zones)].map(([name], i) => this.#row(name, i - 1, events));
    this.list.replaceChildren(...rows);
    if (held) this.list.querySelector(`[data-zone="${held}"] button`)?.focus({ preventScroll: true });
    this.#renderForm();
    this.drawnMs = 0;
    this.tick();
  }

  #row(name, index, events) {
    const whole = index < 0;
    const of = Object.values(events).filter((event) => (event.zone ?? "picture") === name).length;
    const choose = whole ? element("span", { className: "zone-name", textContent: "Whole picture" })
      : button("", () => this.drawing.select(this.drawing.selected === name ? null : name), { className: "zone-name" });
    if (!whole) {
      choose.append(swatch(colourOf(index)), name);
      choose.setAttribute("aria-pressed", this.drawing.selected === name);
    }
    return element("li", { dataset: { zone: name } }, choose,
      element("canvas", { className: "share-chart", width: 180, height: 28, aria: { role: "img", label: name } }),
      element("span", { className: "share-words" }), element("span", { className: "dim", textContent: of ? `${of} event${of > 1 ? "s" : ""}` : "" }));
  }

  #renderForm() {
    const held = this.form.contains(document.activeElement) ? document.activeElement : null;
    const place = held && { event: held.closest("[data-event]")?.dataset.event, name: held.name, value: held.value };
    const { zones, events } = this.#now;
    const name = this.drawing.selected;
    const parts = [];
    if (name !== null && zones[name]) parts.push(this.#zoneForm(name, zones[name]));
    const shown = Object.entries(events).filter(([, event]) => (name === null ? true : event.zone === name));
    const classes = this.app.labelSets.get(this.tile.shown?.header.label_set) ?? this.classes;
    for (const [event, table] of shown) {
      parts.push(eventForm(event, table, zones, classes, {
        changed: (changed) => this.#change({ ...this.#now, events: { ...this.#now.events, [event]: changed } }),
        renamed: (after) => this.#renameEvent(event, after),
        removed: () => {
          const { [event]: _, ...rest } = this.#now.events;
          this.#change({ ...this.#now, events: rest });
        },
      }));
    }
    this.form.replaceChildren(...parts);
    if (place) {
      const within = place.event ? this.form.querySelector(`[data-event="${place.event}"]`) : this.form;
      const same = [...(within?.querySelectorAll(`[name="${place.name}"]`) ?? [])];
      (same.find((one) => one.value === place.value) ?? same[0])?.focus({ preventScroll: true });
    }
  }

  #zoneForm(name, zone) {
    const named = element("input", { name: "zone-name", value: name, required: true, maxLength: 64, spellcheck: false, autocomplete: "off" });
    named.addEventListener("change", () => this.#rename(name, named.value.trim()));
    const parts = [field("Name", named, "field small")];
    if (zone.line) {
      const width = element("input", { type: "number", name: "width", min: 0.1, max: 100, step: "any", value: Number((zone.width * 100).toFixed(3)) });
      width.addEventListener("change", () => {
        if (width.reportValidity() && width.value) this.#change({ ...this.#now, zones: { ...this.#now.zones, [name]: { ...zone, width: width.valueAsNumber / 100 } } });
      });
      parts.push(field("Width", element("span", { className: "with-unit" }, width, "% of the height"), "field small"));
    }
    parts.push(button("Add event", () => this.#addEvent(name)), button("Delete zone", () => this.#removeZone(name), { className: "plain" }));
    return element("div", { className: "zone-edit" }, ...parts);
  }

  #renameEvent(before, after) {
    const { events } = this.#now;
    if (after === before) return;
    if (!NAME.test(after) || Object.hasOwn(events, after)) return this.#complain([`${after}: ${NAME.test(after) ? "exists already" : "is no name of an event"}`]);
    this.problems.textContent = "";
    this.#change({ ...this.#now, events: renamedKey(events, before, after) });
  }
}
