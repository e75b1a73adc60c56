// The class under the pointer, or under the point that the arrow keys move.

import { IGNORE, labelAt } from "./compose.js";

const STEP = 0.02;
const LONG_STEP = 0.1; // with Shift

export class Probe {
  constructor(tile) {
    this.tile = tile;
    this.canvas = tile.canvas;
    this.label = tile.element.querySelector(".probe");
    this.text = this.label.querySelector(".probe-text");
    this.at = null; // { u, v } over the picture
    this.canvas.addEventListener("pointermove", (event) => {
      const { left, top, width, height } = this.tile.canvasBox();
      this.#point((event.offsetX - left) / width, (event.offsetY - top) / height);
    });
    this.canvas.addEventListener("pointerleave", () => this.#point());
    this.canvas.addEventListener("blur", () => this.#point());
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  // Name what is there now; for each new frame, too.
  show() {
    const { app, shown } = this.tile;
    if (!this.at || !shown) return;
    const { header, labels } = shown;
    const { u, v } = this.at;
    const across = app.settings.view === "side" ? 2 : 1;
    const value = labelAt(labels, header.shape[1], (u * across) % 1, v);
    const known = app.labelSets.get(header.label_set)?.[value];
    this.text.textContent = known?.name ?? (value === IGNORE ? "unknown" : `class ${value}`);
    this.label.querySelector(".swatch").style.setProperty("--swatch", `rgb(${known?.colour ?? [0, 0, 0]})`);
    this.label.hidden = false;
    const { left, top, width, height } = this.tile.canvasBox();
    const x = Math.min(left + u * width + 14, this.canvas.clientWidth - this.label.offsetWidth - 4);
    const below = top + v * height + 16;
    const above = below - this.label.offsetHeight - 24;
    const y = below + this.label.offsetHeight > this.canvas.clientHeight - 4 ? above : below;
    this.label.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
    app.pointed(known?.name ?? null);
  }

  #key(event) {
    const step = event.shiftKey ? LONG_STEP : STEP;
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    const { u, v } = this.at ?? { u: 0.5, v: 0.5 };
    const inside = (value) => Math.min(0.999, Math.max(0, value));
    this.#point(inside(u + way[0]), inside(v + way[1]));
    this.tile.app.announce(this.text.textContent);
  }

  #point(u, v) {
    this.at = u >= 0 && u < 1 && v >= 0 && v < 1 ? { u, v } : null;
    this.label.hidden = true;
    if (this.at && this.tile.shown) this.show();
    else this.tile.app.pointed(null);
  }
}
