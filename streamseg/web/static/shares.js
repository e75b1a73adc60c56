// The shares of the last minutes as small charts: stacked, one colour for each class, gaps where nothing came.

export const SPAN_MS = 180000;
const GAP_MS = 4000; // longer without a value is shown as a gap
const EVERY_MS = 450; // values that come faster are left out
const UNKNOWN = "#8a96a3";

export class Shares {
  constructor() {
    this.samples = []; // { ms, parts: [{ name, colour, share }] }, oldest first
  }

  // zone: as in the daemon's message; classes: of the label set.
  add(zone, classes, ms) {
    const last = this.samples.at(-1);
    if (last && (ms < last.ms || ms - last.ms > SPAN_MS)) this.samples = [];
    const parts = zone.classes.map(({ id, name, share }) => ({ name: name ?? `class ${id}`, share, colour: classes[id] ? `rgb(${classes[id].colour})` : UNKNOWN }));
    if (zone.unknown && zone.pixels) parts.push({ name: "unknown", share: zone.unknown / zone.pixels, colour: UNKNOWN });
    this.now = { ...zone, parts: parts.sort((a, b) => b.share - a.share) };
    if (last && ms - last.ms < EVERY_MS && this.samples.length) return;
    this.samples.push({ ms, parts });
    while (ms - this.samples[0].ms > SPAN_MS) this.samples.shift();
  }

  // In words, the largest first.
  words(most = 4) {
    if (!this.now) return "no mask yet";
    if (!this.now.pixels) return "no pixels at this size";
    const said = this.now.parts.filter(({ share }) => share >= 0.0005).slice(0, most);
    return said.map(({ name, share }) => `${name} ${percent(share)}`).join(", ") || "nothing";
  }

  draw(canvas, nowMs) {
    const width = Math.round(canvas.clientWidth * devicePixelRatio) || canvas.width;
    const height = Math.round(canvas.clientHeight * devicePixelRatio) || canvas.height;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const x = (ms) => width * (1 - (nowMs - ms) / SPAN_MS);
    const order = new Map(); // a class keeps its layer over the whole chart
    for (const { parts } of this.samples) for (const { name } of parts) order.set(name, 0);
    const names = [...order.keys()].sort();
    this.samples.forEach((sample, i) => {
      const next = this.samples[i + 1];
      const until = Math.min(next?.ms ?? nowMs, sample.ms + GAP_MS);
      const [left, right] = [x(sample.ms), x(until)];
      let floor = height;
      for (const name of names) {
        const part = sample.parts.find((one) => one.name === name);
        if (!part) continue;
        context.fillStyle = part.colour;
        context.fillRect(left, floor - part.share * height, right - left + 0.6, part.share * height);
        floor -= part.share * height;
      }
    });
  }
}

export const percent = (share) => (share > 0 && share < 0.0995 ? `${(share * 100).toFixed(1)} %` : `${Math.round(share * 100)} %`);
