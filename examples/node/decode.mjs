// From the parts of a message to what they say: docs/protocol.md without the sockets.

import { decodeMulti } from "@msgpack/msgpack";
import zlib from "node:zlib";
import { ZSTDDecoder } from "zstddec";

const zstd = new ZSTDDecoder();
if (!zlib.zstdDecompressSync) await zstd.init(); // Node 22.15 and newer have zstd themselves

const PARTS = { mask: 3, refined: 3, "mask+confidence": 4, same: 2, rle: 2, labels: 2, picture: 3, status: 2, event: 2, polygons: 2, zones: 2 };
const JSON_KINDS = ["rle", "event", "polygons", "zones"];
const LONGEST = { rle: 4 << 20, labels: 256 << 10, status: 64 << 10, event: 64 << 10, polygons: 4 << 20, zones: 1 << 20 }; // bytes of a document; a header has 16 KiB
const COUNTS = ["run", "epoch", "seq", "n"];
const STATES = ["connecting", "playing", "paused", "reconnecting", "ended", "failed"];
const TIMES = ["captured_unix_ns", "published_unix_ns"]; // BigInt, since a double does not hold them

/** Read everything but the payload; throws an Error on what is not a message of version 1. */
export function parse(parts) {
  const topic = Buffer.from(parts[0]).toString("latin1");
  const kind = topic.split("/")[0];
  must(Object.hasOwn(PARTS, kind) && parts.length === PARTS[kind], "kind or number of parts");
  must(parts[1].length <= (LONGEST[kind] ?? 16384), "length of the header");
  const header = JSON_KINDS.includes(kind) ? fromJson(parts[1]) : fromMsgpack(parts[1]);
  must(header.version === 1, "version");
  must(header.kind === kind && topic === `${kind}/${kind === "labels" ? header.id : header.stream}/`, "topic");
  if (kind === "labels") {
    must(Array.isArray(header.classes) && header.classes.length < 256, "classes");
    header.classes.forEach((c, i) => must(c.id === i && c.colour.length === 3, "class"));
    return header;
  }
  must(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(header.stream), "stream");
  must(header.run >= 1, "run");
  if (kind === "status") {
    must(Number.isSafeInteger(header.run) && STATES.includes(header.state), "status");
    header.unix_ns = BigInt(header.unix_ns);
    return header;
  }
  if (kind === "event") {
    must(/^[0-9a-f]{16}$/.test(header.journal) && ["begin", "update", "end"].includes(header.state), "event");
    must(Number.isSafeInteger(header.event_n) && header.event_n > (header.previous_n ?? -1), "event_n");
    for (const name of ["begun_unix_ns", "at_unix_ns", "published_unix_ns"]) header[name] = BigInt(header[name]);
    return header;
  }
  for (const name of COUNTS) must(Number.isSafeInteger(header[name]) && header[name] >= 0, name);
  for (const name of TIMES) header[name] = BigInt(header[name]);
  if (kind === "picture") {
    must(header.encoding === "jpeg" && parts[2].length <= 4 << 20, "picture");
    must(Buffer.from(parts[2]).subarray(0, 2).toString("hex") === "ffd8", "JPEG");
    for (const size of [header.shape, header.frame_shape]) mustBeSize(size);
    return header;
  }
  must([...header.engine].length <= 256, "engine");
  if (kind === "polygons") {
    mustBeSize(header.shape);
    for (const { id, rings } of header.polygons) mustBeRings(id, rings, header.shape);
    return header;
  }
  if (kind === "zones") {
    mustBeSize(header.shape);
    mustBeZones(header.zones, header.shape[0] * header.shape[1]);
    return header;
  }
  header.stage_us ??= {};
  if (kind === "same") {
    mustBeSize(header.shape);
    must(Number.isSafeInteger(header.same_as) && header.same_as >= 0 && header.same_as < header.seq, "same_as");
    return header;
  }
  must(header.revision === (kind === "refined" ? 1 : 0), "revision");
  must((header.encoding === "coco-rle") === (kind === "rle"), "encoding");
  mustBeSize(header.shape);
  return header;
}

/** Whether this is the mask that an unchanged message says it has the labels of. */
export const holds = (same, mask) =>
  mask.seq === same.same_as && ["stream", "run", "epoch", "n", "engine", "label_set"].every((name) => mask[name] === same[name]) &&
  String(mask.shape) === String(same.shape);

/** A mask at another size, [height, width]: each pixel from the one that its centre lies in. */
export function at(mask, [height, width]) {
  const [rows, columns] = mask.shape;
  const across = Uint32Array.from({ length: width }, (_, x) => Math.floor(((2 * x + 1) * columns) / (2 * width)));
  const scaled = (labels) => {
    const made = Buffer.alloc(height * width);
    for (let y = 0; y < height; y++) {
      const row = Math.floor(((2 * y + 1) * rows) / (2 * height)) * columns;
      for (let x = 0; x < width; x++) made[y * width + x] = labels[row + across[x]];
    }
    return made;
  };
  const confidence = mask.confidence && { confidence: scaled(mask.confidence) };
  return { ...mask, shape: [height, width], labels: scaled(mask.labels), ...confidence };
}

/** The whole message: the header with `labels` (and `confidence`), bytes row by row. */
export function decode(parts) {
  const header = parse(parts);
  if (["labels", "same", "status", "event", "polygons", "zones"].includes(header.kind)) return header;
  if (header.kind === "picture") return { ...header, jpeg: Buffer.from(parts[2]) };
  if (header.kind === "rle") header.labels = fromRuns(header.segments, header.shape);
  else header.labels = unpack(parts[2], header);
  if (header.kind === "mask+confidence") header.confidence = unpack(parts[3], header);
  return header;
}

export const snapshotRequest = (prefixes) => ["snapshot", ...prefixes];

/** The messages of a snapshot's reply, each as its parts. */
export function parseSnapshot([word, head, ...parts]) {
  const { version, run, parts: counts } = fromMsgpack(head);
  must(Buffer.from(word).equals(Buffer.from("snapshot")) && version === 1, "snapshot");
  must(Number.isSafeInteger(run) && run >= 1, "run");
  must(counts.every((c) => Number.isInteger(c) && c >= 2 && c <= 4), "parts");
  must(counts.reduce((sum, c) => sum + c, 0) === parts.length, "parts");
  return { run, messages: counts.map((count) => parts.splice(0, count)) };
}

function mustBeRings(id, rings, [height, width]) {
  must(Number.isInteger(id) && id >= 0 && id <= 254 && rings.length >= 1, "polygon");
  for (const ring of rings) {
    must(ring.length >= 3, "ring");
    for (const [x, y] of ring) must(x >= 0 && x <= width && y >= 0 && y <= height, "point");
  }
}

function mustBeZones(zones, pixels) {
  must(zones.length >= 1 && zones.length <= 65 && zones[0].zone === "picture" && zones[0].pixels === pixels, "zones");
  must(new Set(zones.map((one) => one.zone)).size === zones.length, "zones");
  for (const one of zones) {
    one.classes.forEach(({ id, share }, i) => {
      must(Number.isInteger(id) && id >= 0 && id <= 254 && (i === 0 || id > one.classes[i - 1].id), "class");
      must(share >= 0 && share <= 1, "share");
    });
    must(one.classes.reduce((sum, { pixels }) => sum + pixels, one.unknown) === one.pixels, "pixels");
  }
}

function mustBeSize(shape) {
  must(Array.isArray(shape) && shape.length === 2, "shape");
  for (const side of shape) must(Number.isInteger(side) && side >= 1 && side <= 16384, "shape");
  must(shape[0] * shape[1] <= 2 ** 26, "shape");
}

function must(right, what) {
  if (!right) throw new Error(`not a message of version 1: ${what}`);
}

function fromMsgpack(bytes) {
  const [value, ...more] = decodeMulti(bytes, { useBigInt64: true });
  must(value && typeof value === "object" && !more.length, "header");
  return JSON.parse(JSON.stringify(value, small)); // one form for both kinds of header
}

const small = (name, value) =>
  typeof value !== "bigint" ? value : name.endsWith("unix_ns") ? String(value) : Number(value);

function fromJson(bytes) {
  const text = Buffer.from(bytes).toString();
  return JSON.parse(text.replace(/(?<!\\)"(captured|published|begun|at)_unix_ns":\s*(\d+)/g, '"$1_unix_ns":"$2"'));
}

function unpack(bytes, { encoding, shape: [height, width] }) {
  const size = height * width;
  bytes = Buffer.from(bytes);
  if (encoding === "zstd") {
    must(zstdSize(bytes) === size, "size in the zstd frame");
    bytes = zlib.zstdDecompressSync?.(bytes, { maxOutputLength: size }) ?? zstd.decode(bytes, size);
  } else if (encoding === "png") bytes = fromPng(bytes, height, width);
  else must(encoding === "raw", "encoding");
  must(bytes.length === size, "length of the payload");
  return bytes;
}

/** The content size that a zstd frame states (RFC 8878, 3.1.1.1), or -1. */
function zstdSize(bytes) {
  if (bytes.length < 6 || bytes.readUInt32LE(0) !== 0xfd2fb528) return -1;
  const flags = bytes[4];
  const single = (flags >> 5) & 1;
  const at = 5 + (single ? 0 : 1) + [0, 1, 2, 4][flags & 3]; // behind the window and the dictionary's id
  const length = [single, 2, 4, 8][flags >> 6];
  if (!length || bytes.length < at + length) return -1;
  if (length === 8) return Number(bytes.readBigUInt64LE(at));
  return bytes.readUIntLE(at, length) + (length === 2 ? 256 : 0);
}

function fromPng(bytes, height, width) {
  must(bytes.subarray(0, 8).toString("latin1") === "\x89PNG\r\n\x1a\n", "PNG");
  const data = [];
  let kinds = "";
  for (let at = 8; at < bytes.length; ) {
    const end = at + 8 + bytes.readUInt32BE(at);
    const kind = bytes.toString("latin1", at + 4, at + 8);
    must(end + 4 <= bytes.length && zlib.crc32(bytes.subarray(at + 4, end)) === bytes.readUInt32BE(end), "CRC");
    const body = bytes.subarray(at + 8, end);
    if (kind === "IHDR") {
      must(body.readUInt32BE(0) === width && body.readUInt32BE(4) === height, "size of the PNG");
      must(body.toString("hex", 8) === "0800000000", "8-bit grey, not interlaced");
    }
    if (kind === "IDAT") data.push(body);
    kinds += kind;
    at = end + 4;
  }
  must(/^IHDR(IDAT)+IEND$/.test(kinds), "chunks of the PNG");
  const rows = zlib.inflateSync(Buffer.concat(data), { maxOutputLength: height * (width + 1) });
  must(rows.length === height * (width + 1), "rows of the PNG");
  const labels = Buffer.alloc(height * width);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (width + 1)];
    must(filter <= 4, "filter of the PNG");
    for (let x = 0; x < width; x++) {
      const at = y * width + x;
      const left = x ? labels[at - 1] : 0;
      const above = y ? labels[at - width] : 0;
      const corner = x && y ? labels[at - width - 1] : 0;
      const guess = [0, left, above, (left + above) >> 1, filter === 4 ? paeth(left, above, corner) : 0][filter];
      labels[at] = rows[y * (width + 1) + 1 + x] + guess;
    }
  }
  return labels;
}

function paeth(left, above, corner) {
  const [a, b, c] = [above - corner, left - corner, left + above - 2 * corner].map(Math.abs);
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/** COCO's run lengths, painted into labels that are unknown (255) elsewhere. */
function fromRuns(segments, [height, width]) {
  const labels = Buffer.alloc(height * width, 255);
  for (const { category_id, segmentation } of segments) {
    must(String(segmentation.size) === String([height, width]), "size of a segment");
    let pixel = 0;
    for (const [i, length] of runLengths(segmentation.counts).entries()) {
      must(length >= 0 && pixel + length <= labels.length, "run length");
      for (const end = pixel + length; pixel < end; pixel++) {
        if (i % 2 === 0) continue;
        const at = (pixel % height) * width + Math.floor(pixel / height); // down the columns
        must(labels[at] === 255, "two classes on one pixel");
        labels[at] = category_id;
      }
    }
    must(pixel === labels.length, "run lengths");
  }
  return labels;
}

function runLengths(text) {
  const numbers = [];
  let number = 0;
  let place = 1;
  for (const character of text) {
    const bits = character.charCodeAt(0) - 48;
    must(bits >= 0 && bits < 64 && place < 2 ** 35, "counts");
    number += (bits & 31) * place;
    place *= 32;
    if (bits & 32) continue;
    if (bits & 16) number -= place;
    numbers.push(number + (numbers.length > 2 ? numbers.at(-2) : 0));
    [number, place] = [0, 1];
  }
  must(place === 1, "counts end in the middle of a number");
  return numbers;
}
