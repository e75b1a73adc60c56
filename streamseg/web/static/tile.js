// One stream: its newest frame, drawn by the page's settings, and its state.

import { inflate, paint, paletteOf } from "./compose.js";
import { Details } from "./details.js";
import { Probe } from "./probe.js";
import { median, ms, span } from "./words.js";
import { Zones } from "./zones.js";

const SILENT_MS = 1500; // without a mask for this long, the tile reports it; slow streams get three intervals
const LONGEST_SILENT_MS = 30000;
const LATE_MS = 5000; // a live mask whose picture is older is a warning
const HOLD_MS = 1500; // how long a keyframe that was asked for stays visible
const FORCED_MS = 10000; // how long its refinement is waited for
const FLASH_MS = 1200;

export class Tile {
  // app: { link, settings, labelSets, announce(text), complain(text), remove(tile), changed(), showToml(name, text), chooseEngine(tile) }
  constructor(name, app) {
    this.name = name;
    this.app = app;
    this.element = document.getElementById("tile").content.firstElementChild.cloneNode(true);
    this.canvas = this.element.querySelector(".stage canvas");
    this.overlay = document.createElement("canvas");
    this.frames = [null, null]; // the newest one of each revision: { header, labels, bitmap }
    this.shown = null;
    this.visible = false;
    this.drawn = 0;
    this.drawnMs = []; // when frames were drawn, the last two seconds
    this.forcedUntilMs = 0;
    this.holdUntilMs = 0;
    this.flashUntilMs = 0;
    this.labels = [null, null]; // that came last, of each revision: unchanged frames have them again
    this.owed = [0, 0]; // frames of each revision to be acknowledged with the next drawing
    this.details = new Details(this.element);
    this.intervalsMs = []; // between the last masks
    this.cameMs = 0; // when the last one came
    this.announced = "";
    this.#dress();
    this.probe = new Probe(this);
    this.zones = new Zones(this);
  }

  // Where what is drawn lies in the canvas, which may be wider or higher than it; in CSS pixels.
  canvasBox() {
    const { clientWidth, clientHeight } = this.canvas;
    const scale = Math.min(clientWidth / this.canvas.width, clientHeight / this.canvas.height);
    const width = this.canvas.width * scale;
    const height = this.canvas.height * scale;
    return { left: (clientWidth - width) / 2, top: (clientHeight - height) / 2, width, height };
  }

  // The same for the picture: side by side it is the left half.
  pictureBox() {
    const box = this.canvasBox();
    return { ...box, width: box.width / (this.app.settings.view === "side" ? 2 : 1) };
  }

  get watches() {
    const refined = this.app.settings.view === "refined" || performance.now() < this.forcedUntilMs;
    const across = this.app.settings.view === "side" ? 2 : 1;
    const width = (this.canvas.clientWidth / across) * devicePixelRatio;
    return { width: Math.max(64, Math.ceil(width / 64) * 64), refined, shares: this.zones.open };
  }

  // Masks are asked for from now on.
  begin() {
    this.seenMs = performance.now();
    this.cameMs = 0;
  }

  // The tile became visible, or left the screen.
  see(visible) {
    if (visible && !this.visible) this.begin();
    this.visible = visible;
  }

  update(status) {
    this.status = status;
    this.details.update(status);
    this.element.querySelector('[data-do="picture"]').hidden = !status.detail;
    if (!this.shown && status.size) { // as high as it will be, before the first picture
      const [height, width] = status.size;
      if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    }
    this.tick();
  }

  // Another daemon, or a lost connection: nothing on its way comes any more.
  reset() {
    this.half = null;
    this.owed = [0, 0];
    this.begin();
  }

  take(header, payload) {
    if (header.kind === "picture") {
      const half = this.half;
      this.half = null;
      if (half?.header.seq !== header.seq) return;
      this.#finish(half.header, half.labels, createImageBitmap(new Blob([payload], { type: "image/jpeg" })));
      return;
    }
    const [height, width] = header.shape;
    const labels = header.kept ? this.labels[header.revision] : inflate(payload, height * width);
    this.labels[header.revision] = labels;
    labels.catch(() => {}); // met where it is awaited
    if (header.picture) this.half = { header, labels };
    else this.#finish(header, labels, null);
  }

  async #finish(header, labels, bitmap) {
    this.owed[header.revision]++;
    try {
      const frame = { header, labels: await labels, bitmap: await bitmap };
      const before = this.frames[header.revision];
      if (before && before.header.run === header.run && place(before.header) > place(header)) {
        frame.bitmap?.close();
      } else {
        before?.bitmap?.close();
        this.frames[header.revision] = frame;
        this.#arrived(header);
      }
    } catch (error) {
      console.warn(`${this.name}: a frame cannot be shown`, error);
    }
    this.app.draw(this);
  }

  #arrived(header) {
    const nowMs = performance.now();
    if (header.revision === 1 && nowMs < this.forcedUntilMs) {
      this.forcedUntilMs = 0;
      this.holdUntilMs = nowMs + HOLD_MS;
      this.app.announce(`${this.name}: keyframe ${header.seq} was refined`);
      this.app.changed();
    }
    if (header.revision === 1 || (header.refined_seq !== null && header.refined_seq !== this.refinedSeq)) {
      this.flashUntilMs = nowMs + FLASH_MS;
    }
    if (header.revision === 0) {
      if (this.cameMs) this.intervalsMs = [...this.intervalsMs, nowMs - this.cameMs].slice(-5);
      this.cameMs = nowMs;
      this.liveAgeMs = this.app.link.now() - header.captured_ms;
    }
    if (header.refined_seq !== null) this.refinedSeq = header.refined_seq;
    this.details.add(header, this.app.link.now());
  }

  #choose() {
    const [fresh, refined] = this.frames;
    if (this.app.settings.view === "refined" || performance.now() < this.holdUntilMs) return refined ?? null;
    if (fresh && refined && refined.bitmap && place(refined.header) >= place(fresh.header) &&
        refined.header.run === fresh.header.run) return refined;
    return fresh;
  }

  // Draw what is newest; the settings take effect at once, without a new frame.
  draw() {
    const frame = this.#choose();
    if (frame) this.#compose(frame);
    const fresh = frame !== this.shown;
    this.shown = frame;
    if (frame && fresh) {
      this.drawn++;
      this.drawnMs.push(performance.now());
      this.ageMs = Math.max(0, this.app.link.now() - frame.header.captured_ms);
    }
    for (const revision of [0, 1]) {
      for (; this.owed[revision] > 0; this.owed[revision]--) this.app.link.drawn(this.name, revision);
    }
    this.probe.show();
  }

  #compose({ header, labels, bitmap }) {
    const { view, opacity, outlines, hidden } = this.app.settings;
    const [rows, columns] = header.shape;
    const width = bitmap?.width ?? columns;
    const height = bitmap?.height ?? rows;
    const across = view === "side" ? 2 : 1;
    if (this.canvas.width !== width * across || this.canvas.height !== height) {
      Object.assign(this.canvas, { width: width * across, height });
      this.zones.place();
    }
    if (this.overlay.width !== columns || this.overlay.height !== rows) {
      Object.assign(this.overlay, { width: columns, height: rows });
      this.image = new ImageData(columns, rows);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const classes = this.app.labelSets.get(header.label_set) ?? [];
    paint(labels, columns, paletteOf(classes, hidden), outlines, this.pixels);
    this.overlay.getContext("2d").putImageData(this.image, 0, 0);
    const context = this.canvas.getContext("2d", { alpha: false });
    context.globalAlpha = 1;
    context.fillStyle = "#0b0f14";
    if (bitmap && view !== "labels") {
      for (let i = 0; i < across; i++) context.drawImage(bitmap, i * width, 0);
    } else context.fillRect(0, 0, width * across, height);
    context.globalAlpha = view === "labels" || outlines || !bitmap ? 1 : opacity;
    context.imageSmoothingEnabled = columns > width;
    context.drawImage(this.overlay, (across - 1) * width, 0, width, height);
  }

  // Four times a second: figures, and what is wrong.
  tick() {
    const nowMs = performance.now();
    const find = (selector) => this.element.querySelector(selector);
    while (this.drawnMs.length && this.drawnMs[0] < nowMs - 2000) this.drawnMs.shift();
    const { problem, quiet } = this.#problem(nowMs);
    const header = this.shown?.header;
    const still = header ? this.app.link.now() - header.captured_ms : 0;
    const state = this.status?.state ?? "connecting";
    const late = Boolean(header) && state !== "paused" && state !== "ended" && (problem ? still : this.liveAgeMs) > LATE_MS;
    set(find(".rate"), header && !problem ? `${(this.drawnMs.length / 2).toFixed(1)} fps` : "");
    set(find(".age"), header ? (problem ? `${span(still)} old` : late ? `${span(this.ageMs)} late` : `${ms(this.ageMs)} old`) : "");
    find(".age").classList.toggle("late", late);
    set(find(".state"), state !== "playing" ? state : problem ? "silent" : late ? "late" : state);
    find(".state").className =
      `badge state ${state === "failed" ? "bad" : problem || late || state !== "playing" ? "warn" : "good"}`;
    set(find(".revision"), header?.revision === 1 ? "refined" : !header ? "" : header.same_as !== null ? "unchanged" : header.refined_seq !== null ? "fused" : "");
    find(".revision").classList.toggle("refined", header?.revision === 1);
    find(".key").hidden = nowMs > this.flashUntilMs;
    const veil = find(".veil");
    set(veil, problem);
    veil.hidden = !problem;
    this.element.classList.toggle("stale", Boolean(problem) && Boolean(header));
    Object.assign(this.element.dataset, { drawn: this.drawn, ageMs: Math.round(this.ageMs ?? -1), n: header?.n ?? "", revision: header?.revision ?? "" });
    const news = problem.replace(/\d+ (s|min|h)/g, "…");
    if (news !== this.announced && this.visible && !quiet) {
      this.app.announce(`${this.name}: ${problem || "masks come again"}`);
    }
    if (!quiet) this.announced = news;
    const paused = state === "paused";
    const pause = find('[data-do="pause"]');
    pause.querySelector("use").setAttribute("href", paused ? "#i-play" : "#i-pause");
    this.#name(pause, paused ? "Resume" : "Pause");
    if (this.forcedUntilMs && nowMs > this.forcedUntilMs) {
      this.forcedUntilMs = 0;
      this.app.changed();
    }
    if (this.holdUntilMs && nowMs > this.holdUntilMs) {
      this.holdUntilMs = 0;
      this.app.draw(this);
    }
    this.details.draw();
    this.zones.tick();
  }

  // Why no masks come, in words; quiet where it is the usual start and not worth an announcement.
  #problem(nowMs) {
    const { state, error } = this.status ?? { state: "connecting", error: "" };
    const why = error ? `\n${error}` : "";
    if (!this.app.link.open) return { problem: "No connection to streamseg", quiet: true };
    if (state === "paused") return { problem: "Paused" };
    if (state === "failed") return { problem: `Failed${why}` };
    if (state === "ended") return { problem: "Ended" };
    const newest = this.frames[0]?.header;
    const seenMs = nowMs - (this.seenMs ?? nowMs);
    if (!newest) {
      const problem = state === "reconnecting" ? `Reconnecting${why}` : seenMs > SILENT_MS ? `Waiting for the first mask${why}` : "Connecting…";
      return { problem, quiet: state !== "reconnecting" };
    }
    const silentMs = this.app.link.now() - newest.published_ms;
    const limitMs = Math.min(LONGEST_SILENT_MS, Math.max(SILENT_MS, 3 * median(this.intervalsMs)));
    if (Math.min(silentMs, seenMs) > limitMs) return { problem: `No masks for ${span(silentMs)}${why}` };
    if (!this.#choose()) return { problem: "Waiting for a refined keyframe", quiet: true };
    return { problem: "", quiet: false };
  }

  #dress() {
    const find = (selector) => this.element.querySelector(selector);
    this.element.dataset.stream = this.name;
    find(".name").textContent = this.name;
    this.element.setAttribute("aria-label", `Stream ${this.name}`);
    this.canvas.setAttribute("aria-label", `${this.name}, live. The arrow keys move a pointer that names the class under it.`);
    const save = find('[data-do="save"]');
    save.href = `streams/${encodeURIComponent(this.name)}/mask.png`;
    find('[data-do="picture"]').href = `streams/${encodeURIComponent(this.name)}/detail.jpg`;
    for (const [what, words] of Object.entries({ keyframe: "Refine a keyframe now", save: "Download the current mask", picture: "Full picture of the camera", large: "Enlarge", zones: "Zones and events", engine: "Choose a network", details: "Times and counts", remove: "Remove" })) {
      this.#name(find(`[data-do="${what}"]`), words);
    }
    find(".actions").addEventListener("click", (event) => this.#act(event.target.closest("[data-do]")));
  }

  #name(element, words) {
    const label = `${words}: ${this.name}`;
    if (element.getAttribute("aria-label") !== label) element.setAttribute("aria-label", label);
    if (element.title !== words) element.title = words;
  }

  async #act(element) {
    const what = element?.dataset.do;
    if (what === "large") {
      const large = this.element.classList.toggle("large");
      element.setAttribute("aria-pressed", large);
      this.app.changed();
    } else if (what === "engine") {
      this.app.chooseEngine(this);
    } else if (what === "zones") {
      element.setAttribute("aria-expanded", this.zones.toggle());
    } else if (what === "details") {
      element.setAttribute("aria-expanded", this.details.toggle());
    } else if (what === "remove") {
      this.app.remove(this);
    } else if (what === "save") {
      element.search = this.shown?.header.revision === 1 ? "?refined=1" : "";
    } else if (what === "pause") {
      await this.#ask(this.status?.state === "paused" ? "resume" : "pause");
    } else if (what === "keyframe") {
      this.forcedUntilMs = performance.now() + FORCED_MS;
      this.app.changed();
      await this.#ask("keyframe");
    }
  }

  async #ask(what) {
    const problems = await this.app.link.ask(what, this.name);
    if (problems.length) this.app.complain(`${this.name}: ${problems.join("; ")}`);
  }
}

// Where a frame stands among those of its run.
const place = ({ epoch, seq }) => epoch * 2 ** 40 + seq;

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
