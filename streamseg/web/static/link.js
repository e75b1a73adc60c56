// The WebSocket to the daemon's console process: reconnects, and sends the watched tiles again each time.

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 3000;
const PING_EVERY_MS = 5000;
const SILENT_MS = 12000; // the server sends its status every second, or answers pings

export class Link {
  // on: { open(), closed(reason), text(message), frame(header, payload) }
  constructor(on) {
    this.on = on;
    this.offsetMs = 0; // server's clock minus ours
    this.bestTripMs = Infinity;
    this.watched = JSON.stringify({ type: "watch", tiles: {}, hidden: document.hidden });
    this.pauseMs = FIRST_PAUSE_MS;
    this.asked = new Map();
    this.lastId = 0;
    this.refused = 0; // times in a row that only the WebSocket was
    setInterval(() => this.#ping(), PING_EVERY_MS);
    this.#connect();
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  // The daemon's time now, in ms since 1970.
  now() {
    return performance.timeOrigin + performance.now() + this.offsetMs;
  }

  watch(tiles, hidden) {
    const text = JSON.stringify({ type: "watch", tiles, hidden });
    if (text === this.watched) return;
    this.watched = text;
    this.receivedMs = performance.now();
    this.#send(text);
  }

  drawn(stream, revision) {
    this.#send(JSON.stringify({ type: "drawn", stream, revision }));
  }

  // Resolves to a list of problems, empty when it was done.
  async ask(what, stream, settings = {}) {
    return (await this.request(what, stream, settings)).problems;
  }

  // Resolves to the whole answer; its `problems` are empty when it was done.
  request(what, stream, settings = {}) {
    return new Promise((resolve) => {
      if (!this.open) return resolve({ problems: ["there is no connection to streamseg"] });
      const id = ++this.lastId;
      this.asked.set(id, resolve);
      this.#send(JSON.stringify({ type: "do", id, what, stream, settings }));
    });
  }

  #send(text) {
    if (this.open) this.socket.send(text);
  }

  #connect() {
    const url = new URL("link", document.baseURI); // relative: a proxy may serve us below a path
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.refused = 0;
      this.pauseMs = FIRST_PAUSE_MS;
      this.receivedMs = performance.now();
      this.bestTripMs = Infinity;
      for (let i = 0; i < 5; i++) setTimeout(() => this.#ping(), i * 200); // the quickest one counts
      this.#send(this.watched);
      this.on.open();
    };
    socket.onmessage = ({ data }) => {
      this.receivedMs = performance.now();
      if (typeof data === "string") this.#receive(JSON.parse(data));
      else {
        const length = new DataView(data).getUint32(0, true);
        const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
        this.on.frame(header, new Uint8Array(data, 4 + length));
      }
    };
    socket.onclose = async () => {
      for (const resolve of this.asked.values()) resolve({ problems: ["the connection was lost"] });
      this.asked.clear();
      this.on.closed(await this.#refusal());
      setTimeout(() => this.#connect(), this.pauseMs * (0.5 + Math.random() / 2));
      this.pauseMs = Math.min(LONGEST_PAUSE_MS, this.pauseMs * 1.6);
    };
  }

  #receive(message) {
    const nowMs = performance.timeOrigin + performance.now();
    if (message.type === "console") this.offsetMs = message.unix_ms - nowMs; // until a ping knows better
    if (message.type === "pong") {
      const tripMs = nowMs - message.at;
      if (tripMs <= this.bestTripMs) {
        this.bestTripMs = tripMs;
        this.offsetMs = message.unix_ms - (message.at + nowMs) / 2;
      }
    } else if (message.type === "done") {
      this.asked.get(message.id)?.(message);
      this.asked.delete(message.id);
    } else this.on.text(message);
  }

  #ping() {
    if (document.hidden) this.receivedMs = performance.now(); // timers rest, and the server sends little
    if (this.open && performance.now() - this.receivedMs > SILENT_MS) this.socket.close();
    this.bestTripMs *= 1.1; // clocks drift: an old answer gives way to one that was nearly as quick
    this.#send(JSON.stringify({ type: "ping", at: performance.timeOrigin + performance.now() }));
  }

  // Why the connection is refused, as far as it is known; empty when the server does not answer.
  async #refusal() {
    try {
      const answer = await fetch(new URL("link", document.baseURI), { method: "POST", cache: "no-store" });
      if (answer.status === 401) location.reload(); // to the login page
      if (answer.status === 403 || answer.status === 503) return (await answer.text()).trim();
      this.refused++; // it may have been started in between
      return this.refused > 2 ? "The server answers, but not by WebSocket. A proxy in between must pass Upgrade on." : "";
    } catch {
      return "";
    }
  }
}
