// A tile's figures: the time of each stage as graphs, drops by cause, counters.

import { Series, drawLine, drawStack } from "./spark.js";
import { median, ms, plain } from "./words.js";

const DRAW_EVERY_MS = 480;
const COLOURS = {
  decode: "#5aa9e6", wait: "#8d99a6", preprocess: "#7bc8a4", infer: "#f2a541", fuse: "#c77dff",
  encode: "#e4572e", refine: "#2ec4b6", delivery: "#f78fb3",
};

const order = (stage) => (Object.keys(COLOURS).indexOf(stage) + 99) % 99; // unknown ones last

export class Details {
  constructor(element) {
    this.element = element;
    this.panel = element.querySelector(".details");
    this.strip = element.querySelector(".strip");
    this.series = new Map();
    this.drawnMs = 0;
  }

  toggle() {
    this.panel.hidden = !this.panel.hidden;
    this.drawnMs = 0;
    this.draw();
    return !this.panel.hidden;
  }

  // The stage times of a mask, and how long it took from the daemon to this page.
  add(header, nowMs) {
    const times = { ...header.stage_us, delivery: Math.max(0, nowMs - header.published_ms) * 1000 };
    if (header.revision === 1) return this.#add("refine", header.stage_us.refine ?? 0);
    for (const [stage, us] of Object.entries(times)) this.#add(stage, us);
  }

  update(status) {
    this.status = status;
  }

  draw() {
    const nowMs = performance.now();
    if (nowMs - this.drawnMs < DRAW_EVERY_MS) return;
    this.drawnMs = nowMs;
    const stages = [...this.series].filter(([stage]) => stage !== "refine");
    drawStack(this.strip, stages.map(([stage, series]) => ({ series, colour: COLOURS[stage] ?? "#9aa5b1" })));
    const words = stages.map(([stage, series]) => `${stage} ${ms(median(series) / 1000)}`);
    const [longest] = stages.map(([stage, series]) => [median(series), stage]).sort((a, b) => b[0] - a[0]);
    this.strip.setAttribute("aria-label", words.length ? `Time of each stage: ${words.join(", ")}` : "Time of each stage: not known yet");
    this.strip.title = words.join("\n");
    this.element.querySelector(".stages").textContent = longest ? `${longest[1]} ${ms(longest[0] / 1000)}` : "";
    if (!this.panel.hidden) this.#drawPanel();
  }

  #add(stage, us) {
    if (!this.series.has(stage)) {
      this.series.set(stage, new Series());
      this.series = new Map([...this.series].sort(([a], [b]) => order(a) - order(b)));
    }
    this.series.get(stage).add(us);
  }

  #drawPanel() {
    const times = this.panel.querySelector(".times tbody");
    for (const [stage, series] of this.series) {
      const row = rowOf(times, stage, () => {
        const canvas = document.createElement("canvas");
        canvas.setAttribute("aria-hidden", "true");
        return canvas;
      });
      drawLine(row.querySelector("canvas"), series, COLOURS[stage] ?? "#9aa5b1");
      row.lastElementChild.textContent = ms(median(series) / 1000);
    }
    const status = this.status;
    if (!status) return;
    const drops = this.panel.querySelector(".drops tbody");
    const causes = { ...status.drops, ...Object.fromEntries(Object.entries(status.unrefined).map(([k, v]) => [`not refined: ${k}`, v])) };
    for (const [cause, count] of Object.entries(causes).sort()) rowOf(drops, cause).lastElementChild.textContent = plain(count);
    if (!drops.children.length) rowOf(drops, "none").lastElementChild.textContent = "0";
    if (Object.keys(causes).length) drops.querySelector('[data-row="none"]')?.remove();
    const facts = {
      Source: status.source,
      Picture: status.size ? `${status.size[1]} × ${status.size[0]}` : "–",
      "Masks a second": status.fps.toFixed(1),
      "Masks published": plain(status.published),
      ...(status.unchanged ? { "Of these unchanged": `${plain(status.unchanged)}, now ${Math.round(100 * status.unchanged_share)} %` } : {}),
      "Keyframes refined": plain(status.refined),
      Reconnects: plain(status.reconnects),
    };
    const list = this.panel.querySelector(".facts");
    list.replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
  }
}

// The table row of this name, made when it is new: a header, `middle`, and a figure.
function rowOf(body, name, middle) {
  for (const row of body.children) if (row.dataset.row === name) return row;
  const row = document.createElement("tr");
  row.dataset.row = name;
  const head = text("th", name);
  head.scope = "row";
  row.append(head);
  if (middle) row.insertCell().append(middle());
  row.insertCell();
  body.append(row);
  return row;
}

function text(tag, words) {
  const element = document.createElement(tag);
  element.textContent = words;
  return element;
}
