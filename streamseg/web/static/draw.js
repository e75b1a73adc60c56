// Drawing zones over a tile's picture: an SVG of its own, by mouse, touch and keyboard.

import { FEWEST, LINE_WIDTH, MOST_POINTS, clamp, middleOf, middles, moved, rings, round } from "./outline.js";

const NEAR_PX = { mouse: 10, pen: 14, touch: 24 }; // of a point: a click there closes, or ends
const STEP = 0.01;
const FINE = 0.001; // with Alt
const LONG_STEP = 0.1; // with Shift
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#ffd23f", "#4cc9f0", "#ff6b9d", "#7ae582", "#c77dff", "#ff9f1c", "#9bf6ff", "#f4a6d7"];

export const colourOf = (index) => COLOURS[index % COLOURS.length];

export class Drawing {
  // on: { changed(zones, run), selected(name), finished(kind, points, zone), announce(text), mode() }
  constructor(stage, box, on) {
    this.svg = stage.querySelector(".zones");
    this.box = box; // () => { left, top, width, height } of the picture in the stage, in CSS pixels
    this.on = on;
    this.zones = {};
    this.editing = false;
    this.selected = null; // name of a zone
    this.point = null; // { ring, index } of it
    this.adding = null; // { kind, points, zone, cursor }
    this.drag = null;
    for (const [what, act] of Object.entries({ pointerdown: this.#down, pointermove: this.#move, pointerup: this.#up, pointercancel: this.#up, keydown: this.#key, focusin: this.#focus })) {
      this.svg.addEventListener(what, (event) => act.call(this, event));
    }
    this.svg.addEventListener("dblclick", (event) => event.preventDefault());
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  show(zones) {
    this.zones = zones;
    if (this.selected !== null && !Object.hasOwn(zones, this.selected)) this.select(null);
    if (this.point && !this.#pointOf(this.point)) this.point = null;
    this.draw();
  }

  edit(editing) {
    this.editing = editing;
    if (!editing) {
      this.adding = this.drag = this.point = null;
      this.selected = null;
    }
    this.draw();
  }

  select(name, point = null) {
    if (name !== this.selected) this.on.selected(name);
    this.selected = name;
    this.point = point;
    this.draw();
  }

  // Begin a new outline: each click is a point, until it is closed.
  begin(kind, zone = null) {
    this.adding = { kind, zone, points: [], cursor: null };
    this.draw();
    this.svg.focus();
    const ends = kind === "line" ? "End with a double click, or with Enter" : "Close it with a click on the first point, a double click, or Enter";
    this.on.announce(`Click the points of the ${kind === "polygon" ? "zone" : kind}, or move with the arrow keys and set one with Space. ${ends}; Escape cancels.`);
    this.on.mode();
  }

  cancel() {
    this.adding = null;
    this.draw();
    this.on.mode();
  }

  get canFinish() {
    return this.adding !== null && this.adding.points.length >= FEWEST[this.adding.kind];
  }

  finish() {
    if (!this.canFinish) return;
    const { kind, points, zone } = this.adding;
    this.adding = null;
    this.on.finished(kind, points, zone);
    this.on.mode();
  }

  // Remove the selected point; a ring keeps its fewest points, and a hole goes with them.
  removePoint() {
    if (!this.point) return;
    const { ring, index } = this.point;
    const { kind, points } = rings(this.zones[this.selected])[ring];
    if (points.length <= FEWEST[kind] && kind !== "hole") {
      this.on.announce(`A ${kind === "line" ? "line" : "zone"} has at least ${FEWEST[kind]} points`);
      return;
    }
    const rest = points.length <= FEWEST[kind] ? null : points.filter((_, i) => i !== index);
    this.point = rest ? { ring, index: Math.min(index, rest.length - 1) } : null;
    this.#setRing(ring, rest);
    this.#focusPoint();
  }

  insertPoint(ring, at, point) {
    const { points } = rings(this.zones[this.selected])[ring];
    if (points.length >= MOST_POINTS) return this.on.announce(`A zone has at most ${MOST_POINTS} points`);
    this.point = { ring, index: at };
    this.#setRing(ring, [...points.slice(0, at), point.map(round), ...points.slice(at)]);
  }

  draw() {
    const box = this.box();
    this.svg.classList.toggle("editing", this.editing);
    this.svg.classList.toggle("adding", this.adding !== null);
    if (this.editing) {
      this.svg.setAttribute("tabindex", "0");
      this.svg.removeAttribute("aria-hidden");
    } else {
      this.svg.removeAttribute("tabindex");
      this.svg.setAttribute("aria-hidden", "true");
    }
    const at = ([x, y]) => [box.left + x * box.width, box.top + y * box.height];
    const held = this.svg.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const parts = [];
    if (this.adding) parts.push(make("rect", { class: "catch", x: 0, y: 0, width: "100%", height: "100%" }));
    Object.entries(this.zones).forEach(([name, zone], i) => parts.push(this.#zone(name, zone, colourOf(i), box, at)));
    if (this.adding) parts.push(this.#draft(at));
    else if (this.editing && this.selected !== null) parts.push(...this.#handles(at));
    this.svg.replaceChildren(...parts);
    if (held) this.#focusKey(held);
  }

  #zone(name, zone, colour, box, at) {
    const group = make("g", { class: "zone" });
    group.dataset.zone = name;
    group.style.setProperty("--zone", colour);
    group.classList.toggle("selected", name === this.selected);
    const all = rings(zone);
    const d = all.map(({ kind, points }) => path(points.map(at), kind !== "line")).join("");
    if (zone.line) {
      const band = make("path", { class: "band", d });
      band.setAttribute("stroke-width", Math.max(3, (zone.width ?? LINE_WIDTH) * box.height));
      group.append(band);
    }
    group.append(make("path", { class: "halo", d }), make("path", { class: zone.line ? "line" : "area", d }));
    const [x, y] = at(middleOf(zone));
    const label = make("text", { x, y });
    label.textContent = name;
    group.append(label);
    return group;
  }

  #handles(at) {
    const zone = this.zones[this.selected];
    if (!zone) return [];
    const parts = [];
    rings(zone).forEach((ring, r) => {
      for (const { at: index, point } of middles(ring)) {
        const [x, y] = at(point);
        const middle = make("g", { class: "middle", transform: `translate(${x} ${y})` });
        Object.assign(middle.dataset, { insert: index, ring: r });
        middle.append(make("circle", { class: "hit", r: 14 }), make("path", { d: "M-5 0H5M0-5V5" }));
        parts.push(middle);
      }
      ring.points.forEach((point, index) => {
        const [x, y] = at(point);
        const handle = make("g", { class: "handle", transform: `translate(${x} ${y})`, tabindex: 0, role: "button" });
        Object.assign(handle.dataset, { point: index, ring: r, key: `${r}-${index}` });
        handle.classList.toggle("chosen", this.point?.ring === r && this.point.index === index);
        const which = ring.kind === "hole" ? `hole ${r} of ${this.selected}` : this.selected;
        handle.setAttribute("aria-label", `Point ${index + 1} of ${which}: ${percent(point[0])} across, ${percent(point[1])} down. Arrow keys move it, Delete removes it, Insert adds one behind it.`);
        handle.append(make("circle", { class: "hit", r: 20 }), make("circle", { class: "knob", r: 6.5 }));
        parts.push(handle);
      });
    });
    return parts;
  }

  #draft(at) {
    const { points, kind, cursor } = this.adding;
    const group = make("g", { class: "draft" });
    const shown = cursor ? [...points, cursor] : points;
    if (shown.length) {
      const d = path(shown.map(at), false);
      group.append(make("path", { class: "halo", d }), make("path", { class: "line", d }));
    }
    points.forEach((point, i) => {
      const [x, y] = at(point);
      const closes = i === 0 && kind !== "line" && points.length >= FEWEST[kind];
      group.append(make("circle", { class: closes ? "knob closes" : "knob", cx: x, cy: y, r: closes ? 9 : 5 }));
    });
    if (cursor) {
      const [x, y] = at(cursor);
      group.append(make("path", { class: "cross", d: `M${x - 10} ${y}H${x + 10}M${x} ${y - 10}V${y + 10}` }));
    }
    return group;
  }

  #place(event) {
    const { left, top, width, height } = this.box();
    const frame = this.svg.getBoundingClientRect();
    return [clamp((event.clientX - frame.left - left) / width), clamp((event.clientY - frame.top - top) / height)];
  }

  #distance([x1, y1], [x2, y2]) {
    const { width, height } = this.box();
    return Math.hypot((x1 - x2) * width, (y1 - y2) * height);
  }

  #down(event) {
    if (!this.editing || event.button !== 0) return;
    const place = this.#place(event);
    if (this.adding) {
      event.preventDefault();
      this.svg.focus({ preventScroll: true });
      this.#put(place, NEAR_PX[event.pointerType] ?? NEAR_PX.mouse);
      return;
    }
    const target = event.target.closest("[data-point], [data-insert], [data-zone]");
    if (!target) return;
    event.preventDefault();
    const { point, insert, ring, zone } = target.dataset;
    if (point !== undefined) {
      this.point = { ring: Number(ring), index: Number(point) };
      this.#begin(event, { ...this.point });
    } else if (insert !== undefined) {
      const middle = middles(rings(this.zones[this.selected])[ring]).find(({ at }) => at === Number(insert));
      this.insertPoint(Number(ring), Number(insert), middle.point);
      if (this.point) this.#begin(event, { ...this.point });
    } else {
      if (this.selected !== zone) this.select(zone);
      this.point = null;
      this.#begin(event, { from: place, zone: this.zones[zone] });
    }
    this.draw();
    this.#focusPoint();
    this.on.mode();
  }

  #begin(event, drag) {
    this.drag = { ...drag, run: `${event.pointerId}-${event.timeStamp}`, moved: false, at: [event.clientX, event.clientY] };
    this.svg.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const place = this.#place(event);
    if (this.adding) {
      this.adding.cursor = place;
      this.draw();
      return;
    }
    const { drag } = this;
    if (!drag) return;
    if (!drag.moved && Math.hypot(event.clientX - drag.at[0], event.clientY - drag.at[1]) < 3) return;
    drag.moved = true;
    if (drag.from) {
      const zone = moved(drag.zone, place[0] - drag.from[0], place[1] - drag.from[1]);
      this.on.changed({ ...this.zones, [this.selected]: zone }, drag.run);
    } else this.#movePoint(drag, place, drag.run);
  }

  #up() {
    this.drag = null;
  }

  #movePoint({ ring, index }, place, run) {
    const points = [...rings(this.zones[this.selected])[ring].points];
    points[index] = place.map(round);
    this.#setRing(ring, points, run);
  }

  // A point where the pointer is; near the first one, or twice at the same place, ends the outline.
  #put(place, near) {
    const { points, kind } = this.adding;
    const last = points.at(-1);
    if (this.canFinish && kind !== "line" && this.#distance(points[0], place) < near) return this.finish();
    if (last && this.#distance(last, place) < near / 2) return this.canFinish ? this.finish() : undefined;
    if (points.length >= MOST_POINTS) return this.on.announce(`A zone has at most ${MOST_POINTS} points`);
    points.push(place.map(round));
    this.draw();
    this.on.mode();
  }

  #key(event) {
    if (!this.editing) return;
    const step = event.shiftKey ? LONG_STEP : event.altKey ? FINE : STEP;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (this.adding) {
      if (way) {
        const [x, y] = this.adding.cursor ?? this.adding.points.at(-1) ?? [0.5, 0.5];
        this.adding.cursor = [clamp(x + way[0]), clamp(y + way[1])];
        this.draw();
        this.on.announce(`${percent(this.adding.cursor[0])} across, ${percent(this.adding.cursor[1])} down`);
      } else if (event.key === " ") this.#put(this.adding.cursor ?? [0.5, 0.5], 1);
      else if (event.key === "Enter") this.finish();
      else if (event.key === "Escape") this.cancel();
      else if (event.key === "Backspace" || event.key === "Delete") this.removeLast();
      else return;
    } else if (this.point && way) {
      const [x, y] = this.#pointOf(this.point);
      this.#movePoint(this.point, [clamp(x + way[0]), clamp(y + way[1])], "keys");
      this.#focusPoint();
    } else if (this.point && (event.key === "Delete" || event.key === "Backspace")) this.removePoint();
    else if (this.point && event.key === "Insert") {
      const { ring, index } = this.point;
      const found = middles(rings(this.zones[this.selected])[ring]).find(({ at }) => at === index + 1);
      if (found) this.insertPoint(ring, found.at, found.point);
      this.#focusPoint();
    } else if (event.key === "Escape") this.select(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  removeLast() {
    this.adding.points.pop();
    this.draw();
    this.on.mode();
  }

  #focus(event) {
    const { point, ring } = event.target.dataset;
    if (point === undefined || this.drag || this.refocusing) return;
    const chosen = { ring: Number(ring), index: Number(point) };
    if (this.point?.ring === chosen.ring && this.point.index === chosen.index) return;
    this.point = chosen;
    for (const handle of this.svg.querySelectorAll(".handle")) handle.classList.toggle("chosen", handle === event.target);
    this.on.mode();
  }

  #focusPoint() {
    if (this.point) this.#focusKey(`${this.point.ring}-${this.point.index}`);
  }

  // Give a point the focus again after it was made anew; that chooses no other point.
  #focusKey(key) {
    this.refocusing = true;
    this.svg.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
    this.refocusing = false;
  }

  #pointOf({ ring, index }) {
    const zone = this.zones[this.selected];
    return zone ? rings(zone)[ring]?.points[index] : undefined;
  }

  // Give the selected zone's ring other points; null takes a hole away.
  #setRing(ring, points, run = null) {
    const zone = { ...this.zones[this.selected] };
    if (ring > 0) {
      zone.holes = points ? zone.holes.map((one, i) => (i === ring - 1 ? points : one)) : zone.holes.filter((_, i) => i !== ring - 1);
      if (!zone.holes.length) delete zone.holes;
    } else zone[zone.line ? "line" : "polygon"] = points;
    this.on.changed({ ...this.zones, [this.selected]: zone }, run);
  }
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;

function path(points, closed) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("") + (closed && points.length ? "Z" : "");
}

function make(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
