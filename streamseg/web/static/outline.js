// Zones as outlines, pure: points are [x, y], each from 0 to 1 over the picture; tables are as in the configuration.

export const MOST_POINTS = 256;
export const FEWEST = { polygon: 3, line: 2, hole: 3 };
export const LINE_WIDTH = 0.02;
const DIGITS = 1e4; // a tenth of a pixel at 1000 pixels

export const clamp = (value) => Math.min(1, Math.max(0, value));
export const round = (value) => Math.round(clamp(value) * DIGITS) / DIGITS;
export const copy = (tables) => structuredClone(tables);

// The rings of a zone: { kind, points } with its polygon or line first, then its holes.
export function rings(zone) {
  if (zone.line) return [{ kind: "line", points: zone.line }];
  return [{ kind: "polygon", points: zone.polygon ?? [] }, ...(zone.holes ?? []).map((points) => ({ kind: "hole", points }))];
}

// Whether a point lies in a ring, by the even-odd rule.
export function inside(points, [x, y]) {
  let within = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [x1, y1] = points[i];
    const [x2, y2] = points[j];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) within = !within;
  }
  return within;
}

// The points between neighbours, where a new one can be put: { at, point }, to be inserted before index `at`.
export function middles({ kind, points }) {
  const ends = kind === "line" ? points.length - 1 : points.length;
  return Array.from({ length: Math.max(0, ends) }, (_, i) => {
    const [a, b] = [points[i], points[(i + 1) % points.length]];
    return { at: i + 1, point: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
  });
}

// Move all rings by (dx, dy), as far as the picture goes.
export function moved(zone, dx, dy) {
  const all = rings(zone).flatMap(({ points }) => points);
  const limit = (d, values) => Math.min(1 - Math.max(...values), Math.max(-Math.min(...values), d));
  const [x, y] = [limit(dx, all.map(([v]) => v)), limit(dy, all.map(([, v]) => v))];
  const shift = (points) => points.map(([a, b]) => [round(a + x), round(b + y)]);
  const out = { ...zone };
  if (zone.polygon) out.polygon = shift(zone.polygon);
  if (zone.line) out.line = shift(zone.line);
  if (zone.holes) out.holes = zone.holes.map(shift);
  return out;
}

// Where a zone's name is written: the middle of its points.
export function middleOf(zone) {
  const { points } = rings(zone)[0];
  const sum = points.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0]);
  return [sum[0] / points.length, sum[1] / points.length];
}

// A name that is not taken: zone1, zone2, …
export function freeName(stem, taken) {
  for (let i = 1; ; i++) if (!Object.hasOwn(taken, `${stem}${i}`)) return `${stem}${i}`;
}

export function renamedKey(table, before, after) {
  return Object.fromEntries(Object.entries(table).map(([name, value]) => [name === before ? after : name, value]));
}

// What was drawn, and the way back: each step is the whole of the tables.
export class History {
  constructor(tables) {
    this.reset(tables);
  }

  reset(tables) {
    this.steps = [copy(tables)];
    this.at = 0;
  }

  get now() {
    return this.steps[this.at];
  }

  // Note a step; one with the same `run` as the last replaces it (a point that is dragged is one step).
  add(tables, run = null) {
    const replaces = run !== null && run === this.run && this.at === this.steps.length - 1 && this.at > 0;
    this.steps.length = this.at + (replaces ? 0 : 1);
    this.steps.push(copy(tables));
    if (this.steps.length > 200) this.steps.splice(1, 1);
    this.at = this.steps.length - 1;
    this.run = run;
  }

  step(by) {
    this.run = null;
    this.at = Math.min(this.steps.length - 1, Math.max(0, this.at + by));
    return copy(this.now);
  }
}
