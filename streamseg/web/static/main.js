// The page: what is shown and how, which tiles are visible, and the daemon's messages.

import { chooseEngine } from "./engines.js";
import { EventList } from "./events.js";
import { Link } from "./link.js";
import { Tile } from "./tile.js";
import { bytes } from "./words.js";

const TICK_MS = 250;
const $ = (id) => document.getElementById(id);

const tiles = new Map(); // by stream
const zones = new Map(); // the tables of each stream, which may come before its tile
const dirty = new Set(); // tiles to be drawn with the next animation frame
let version = null;
let started = null;
let complaintMs = 0;

const app = {
  settings: { view: "overlay", opacity: 0.55, outlines: false, hidden: new Set() },
  labelSets: new Map(),
  announce,
  complain,
  draw,
  pointed,
  changed: watch,
  remove,
  showToml,
  chooseEngine: (tile) => chooseEngine(tile, app),
};
const events = new EventList($("events"), app);
app.link = new Link({ open: opened, closed, text: received, frame: took });

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) tiles.get(target.dataset.stream)?.see(isIntersecting);
  watch();
}, { rootMargin: "40px" });

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const tile of tiles.values()) tile.begin();
  watch();
});
new ResizeObserver(watch).observe($("wall"));
setInterval(() => {
  if (document.hidden) return;
  for (const tile of tiles.values()) tile.tick();
  events.draw();
  if (complaintMs && performance.now() > complaintMs) notice("");
}, TICK_MS);

const unpacks = "DecompressionStream" in window; // labels, see compose.js
if (!unpacks) notice("This browser is too old to show masks. Take a newer one.");

// Send which tiles are visible; nothing is made or sent for the others.
function watch() {
  const seen = document.hidden ? [] : [...tiles.values()].filter((tile) => tile.visible);
  app.link.watch(Object.fromEntries(seen.map((tile) => [tile.name, tile.watches])), document.hidden);
}

function draw(tile) {
  if (!dirty.size) requestAnimationFrame(drawDirty);
  dirty.add(tile);
}

function drawDirty() {
  const now = [...dirty];
  dirty.clear();
  for (const tile of now) tile.draw();
}

function drawAll() {
  for (const tile of tiles.values()) draw(tile);
}

function opened() {
  for (const tile of tiles.values()) tile.reset();
  events.reset(); // the server sends them again
}

function closed(reason) {
  connection("lost", reason || "No connection. Trying again…");
}

function took(header, payload) {
  tiles.get(header.stream)?.take(header, payload);
}

function received(message) {
  if (message.type === "labels") {
    app.labelSets.set(message.id, message.classes);
    showLegend();
    drawAll();
  } else if (message.type === "shares") {
    tiles.get(message.stream)?.zones.count(message);
  } else if (message.type === "zones") {
    for (const one of message.streams) {
      zones.set(one.stream, one);
      tiles.get(one.stream)?.zones.take(one);
    }
  } else if (message.type === "events") {
    for (const one of message.events) events.take(one);
  } else if (message.type === "status") {
    if (version !== null && version !== message.version) return location.reload();
    version = message.version;
    showStatus(message);
  } else if (message.type === "console") {
    document.title = `${message.host} · streamseg`;
    $("host").textContent = message.host;
    $("logout").hidden = !message.login;
  } else if (message.type === "no daemon") connection("lost", message.problems.join("; "));
}

function showStatus(message) {
  if (started !== message.started_unix_ns) {
    started = message.started_unix_ns;
    for (const tile of tiles.values()) tile.reset();
  }
  connection("live", message.state === "running" ? "Connected" : message.state);
  const streams = message.streams.length === 1 ? "1 stream" : `${message.streams.length} streams`;
  $("about").textContent = `${message.engine.id}${message.engine.device ? ` on ${message.engine.device}` : ""} · ${streams} · ${bytes(message.memory_bytes)}`;
  const present = new Set(message.streams.map(({ stream }) => stream));
  for (const [name, tile] of tiles) {
    if (!present.has(name)) {
      sight.unobserve(tile.element);
      tile.element.remove();
      tiles.delete(name);
      zones.delete(name);
    }
  }
  for (const status of message.streams) {
    if (!tiles.has(status.stream)) {
      const tile = new Tile(status.stream, app);
      tiles.set(status.stream, tile);
      $("wall").append(tile.element);
      sight.observe(tile.element);
      if (zones.has(status.stream)) tile.zones.take(zones.get(status.stream));
    }
    tiles.get(status.stream).update(status);
  }
  events.keep(present);
  $("wall").dataset.count = tiles.size;
  if (!unpacks) return; // nothing is asked for, and the notice stays
  if (!tiles.size) notice("There are no streams. Add one.");
  else if (!complaintMs) notice("");
  watch();
}

function connection(state, words) {
  $("connection").className = `connection ${state}`;
  if ($("connection-text").textContent !== words) $("connection-text").textContent = words;
}

function notice(words) {
  complaintMs = 0;
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

function complain(words) {
  notice(words);
  announce(words);
  complaintMs = performance.now() + 8000;
}

function announce(words) {
  $("announce").textContent = words;
}

// The classes of all label sets, as buttons that hide and show them.
function showLegend() {
  const classes = new Map([...app.labelSets.values()].flat().map(({ name, colour }) => [name, colour]));
  $("legend").replaceChildren(...[...classes].map(([name, colour]) => {
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.setProperty("--swatch", `rgb(${colour})`);
    button.type = "button";
    button.dataset.class = name;
    button.setAttribute("aria-pressed", !app.settings.hidden.has(name));
    button.append(swatch, name);
    button.addEventListener("click", () => {
      if (!app.settings.hidden.delete(name)) app.settings.hidden.add(name);
      button.setAttribute("aria-pressed", !app.settings.hidden.has(name));
      drawAll();
    });
    return button;
  }));
}

function pointed(name) {
  for (const button of $("legend").children) button.classList.toggle("pointed", button.dataset.class === name);
}

$("views").addEventListener("change", (event) => {
  app.settings.view = event.target.value;
  for (const tile of tiles.values()) tile.zones.place();
  watch();
  drawAll();
});
$("opacity").addEventListener("input", ({ target }) => {
  app.settings.opacity = target.value / 100;
  $("opacity-text").textContent = `${target.value} %`;
  drawAll();
});
$("outline").addEventListener("change", ({ target }) => {
  app.settings.outlines = target.checked;
  drawAll();
});

$("add").addEventListener("click", () => {
  $("add-problems").textContent = "";
  $("add-dialog").showModal();
});
$("add-cancel").addEventListener("click", () => $("add-dialog").close());
$("add-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { stream, source, realtime, loop, max_fps: maxFps } = event.target.elements;
  const settings = { source: source.value.trim(), realtime: realtime.checked, loop: loop.checked };
  if (maxFps.value) settings.max_fps = Number(maxFps.value);
  const problems = await app.link.ask("add", stream.value.trim(), settings);
  $("add-problems").textContent = problems.join("\n");
  if (!problems.length) {
    $("add-dialog").close();
    event.target.reset();
  }
});

function remove(tile) {
  const dialog = $("remove-dialog");
  $("remove-text").textContent = `${tile.name} is no longer decoded and published, until it is added again.`;
  dialog.returnValue = "no";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "yes") return;
    const problems = await app.link.ask("remove", tile.name);
    if (problems.length) complain(`${tile.name}: ${problems.join("; ")}`);
    $("add").focus();
  };
  dialog.showModal();
}

function showToml(name, text) {
  $("toml-title").textContent = `Zones and events of ${name} as TOML`;
  $("toml-text").value = text;
  $("toml-copy").textContent = "Copy";
  $("toml-dialog").showModal();
  $("toml-text").select();
}

$("toml-copy").addEventListener("click", async () => {
  $("toml-text").select();
  try {
    await navigator.clipboard.writeText($("toml-text").value);
  } catch {
    document.execCommand("copy"); // the clipboard is closed to pages that came by http
  }
  $("toml-copy").textContent = "Copied";
});
