// The thread behind a Subscription: it owns the sockets and does nothing but empty them, so that what waits
// is never old. One slot for each topic; the topic that was served longest ago goes first.

import { parentPort, workerData } from "node:worker_threads";
import * as zmq from "zeromq";
import { holds, parse, parseSnapshot, snapshotRequest } from "./decode.mjs";

const { endpoint, snapshotEndpoint, topics } = workerData;
const SILENT_MS = 5000; // libzmq tries again at least every 2 s; after this long we reconnect ourselves
const common = { receiveHighWaterMark: 0, maxMessageSize: 68157440, reconnectMaxInterval: 2000, linger: 0 };
const options = { ...common, tcpKeepalive: 1, tcpKeepaliveIdle: 4, tcpKeepaliveInterval: 1, tcpKeepaliveCount: 4 };

const stats = { received: 0, unchanged: 0, skipped: 0, lost: 0, repeated: 0, restarts: 0, bad: 0 };
const slots = new Map(); // topic → the message that waits
const last = new Map(); // topic → {header, parts, snapshot, seq}: the last mask; seq: of it, or of the last unchanged frame since
const served = new Map(); // topic → its last turn
const replaced = new Set(); // runs that a newer one has replaced
const labelSets = new Map();
let turn = 0;
let wanted = 0; // answers that the reader waits for

parentPort.on("message", () => (wanted++, answer()));
const masks = new zmq.Subscriber(options);
const snapshots = new zmq.Dealer({ ...options, sendTimeout: 0 });
let connected = false;
let heard = Date.now();

masks.subscribe(...topics);
follow(masks.events);
masks.connect(endpoint);
snapshots.connect(snapshotEndpoint);
setInterval(reconnect, 1000);
takeSnapshots();
for await (const parts of masks) put(parts, false);

async function follow(events) {
  for await (const { type } of events) {
    heard = Date.now();
    if (type === "handshake") {
      connected = true;
      snapshots.send(snapshotRequest(topics)).catch(() => {}); // it is asked again at the next connection
    } else if (type === "disconnect" || type.startsWith("handshake:error")) connected = false;
  }
}

function reconnect() {
  if (connected || Date.now() - heard < SILENT_MS) return;
  heard = Date.now();
  masks.disconnect(endpoint);
  masks.connect(endpoint);
}

async function takeSnapshots() {
  for await (const reply of snapshots) {
    try {
      for (const parts of parseSnapshot(reply).messages) put(parts, true);
    } catch {
      stats.bad++;
    }
  }
}

function put(parts, snapshot) {
  let header;
  try {
    header = parse(parts);
  } catch {
    stats.bad++;
    return;
  }
  if (header.kind === "labels") return void labelSets.set(header.id, header);
  if (header.kind === "same") return putUnchanged(header);
  stats.received++;
  const topic = `${header.kind}/${header.stream}`;
  const before = last.get(topic);
  if (before?.header.run === header.run) {
    if (header.n <= before.header.n) return void stats.repeated++;
    if (header.revision === 0 && !before.snapshot) stats.lost += header.n - before.header.n - 1;
  } else if (before) {
    if (snapshot && replaced.has(header.run)) return void stats.repeated++;
    stats.restarts++;
    replaced.add(before.header.run);
  }
  last.set(topic, { header, parts, snapshot, seq: header.seq });
  hold(topic, { parts, labelSet: header.label_set });
}

// A frame in which nothing has changed: the mask that holds, with the times of this frame.
function putUnchanged(same) {
  const topic = `mask/${same.stream}`;
  const before = last.get(topic);
  if (!before || !holds(same, before.header)) return; // the next mask makes it right
  if (same.seq <= before.seq) return void stats.repeated++;
  stats.received++;
  stats.unchanged++;
  before.seq = same.seq;
  hold(topic, { parts: before.parts, same, labelSet: same.label_set });
}

function hold(topic, message) {
  if (slots.has(topic)) stats.skipped++;
  slots.set(topic, message);
  answer();
}

function answer() {
  while (wanted && slots.size) {
    const turnOf = (topic) => served.get(topic) ?? -1;
    const topic = [...slots.keys()].reduce((a, b) => (turnOf(b) < turnOf(a) ? b : a));
    const { parts, same, labelSet } = slots.get(topic);
    slots.delete(topic);
    served.set(topic, turn++);
    wanted--;
    parentPort.postMessage({ parts, same, classes: labelSets.get(labelSet)?.classes, stats });
  }
}
