// Always the newest mask of each stream:
//
//   for await (const mask of subscribe("tcp://127.0.0.1:5570")) console.log(mask.stream, ageS(mask));

import { Worker } from "node:worker_threads";
import { decode, holds } from "./decode.mjs";

/**
 * Yield masks without end: the header's fields (docs/protocol.md), `labels` as bytes row by row, `classes` (names
 * and colours, or undefined while they have not come) and `stats`. In an unchanged frame the mask that holds is given with
 * its own times and `same_as`, and the very same `labels`. Waits for a daemon that is away.
 */
export async function* subscribe(endpoint, streams = [""]) {
  const topics = ["labels/", ...streams.flatMap((name) => ["mask", "same"].map((kind) => `${kind}/${name && `${name}/`}`))];
  const snapshotEndpoint = endpoint.startsWith("ipc:")
    ? `${endpoint}.snapshot`
    : endpoint.replace(/\d+$/, (port) => Number(port) + 1);
  const receiver = new Worker(new URL("receiver.mjs", import.meta.url), {
    workerData: { endpoint, snapshotEndpoint, topics },
  });
  const kept = new Map(); // stream → the mask that unchanged frames refer to
  try {
    while (true) {
      const came = new Promise((resolve, reject) => receiver.once("message", resolve).once("error", reject));
      receiver.postMessage("next");
      const { parts, same, classes, stats } = await came;
      receiver.removeAllListeners("error");
      let mask;
      try {
        mask = same && kept.has(same.stream) && holds(same, kept.get(same.stream)) ? kept.get(same.stream) : decode(parts);
      } catch {
        continue; // its payload is not what its header says
      }
      if (same) kept.set(mask.stream, mask);
      yield { ...mask, ...same, kind: mask.kind, classes, stats };
    }
  } finally {
    await receiver.terminate();
  }
}

/** Seconds since the picture was taken, by this machine's clock. */
export const ageS = (mask) => Number(BigInt(Date.now()) * 1_000_000n - mask.captured_unix_ns) / 1e9;
