// Read conformance vectors: node vectors.mjs ../../tests/vectors/*.bin
// Prints a line of JSON for each: its name, and what was read or {"refuse": true}. Of scaled.json: the labels at its sizes.

import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { at, decode, parseSnapshot } from "./decode.mjs";

function partsOf(bytes) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += 4 + parts.at(-1).length)
    parts.push(bytes.subarray(at + 4, at + 4 + bytes.readUInt32BE(at)));
  return parts;
}

function rows(mask) {
  if (["labels", "same", "status", "event", "polygons", "zones"].includes(mask.kind)) return mask;
  if (mask.kind === "picture") return { ...mask, jpeg: mask.jpeg.toString("hex") };
  const [height, width] = mask.shape;
  for (const name of ["labels", "confidence"])
    if (mask[name])
      mask[name] = Array.from({ length: height }, (_, y) => [...mask[name].subarray(y * width, (y + 1) * width)]);
  return mask;
}

function read(parts) {
  if (parts[0].toString() !== "snapshot") return rows(decode(parts));
  if (parts[1][0] < 0x80) return { prefixes: parts.slice(1).map(String) }; // text, so it is a request
  const { run, messages } = parseSnapshot(parts);
  return { run, messages: messages.map((message) => rows(decode(message))) };
}

function scaled({ labels, at: cases }) {
  const mask = { shape: [labels.length, labels[0].length], labels: Buffer.from(labels.flat()) };
  return { labels, at: cases.map(({ shape }) => rows(at(mask, shape))) };
}

for (const path of process.argv.slice(2)) {
  let output;
  try {
    output = path.endsWith(".json") ? scaled(JSON.parse(readFileSync(path))) : read(partsOf(readFileSync(path)));
  } catch {
    output = { refuse: true };
  }
  const text = JSON.stringify({ name: basename(path).replace(/\.\w+$/, ""), output }, (_, value) =>
    typeof value === "bigint" ? `${value}n` : value);
  console.log(text.replace(/"(\d+)n"/g, "$1")); // JSON has integers of any length, JavaScript has not
}
