// Print a line of JSON for each mask: node subscribe.mjs tcp://127.0.0.1:5570 [MILLISECONDS]
// MILLISECONDS stands for work that each mask costs; the masks stay fresh, and some are skipped.

import { setTimeout as sleep } from "node:timers/promises";
import { ageS, subscribe } from "./streamseg.mjs";

const [endpoint = "tcp://127.0.0.1:5570", workMs = "0"] = process.argv.slice(2);

for await (const mask of subscribe(endpoint)) {
  const { stream, run, seq, n, same_as, shape, classes, stats } = mask;
  const counts = new Array(256).fill(0);
  for (const label of mask.labels) counts[label]++;
  const shares = Object.fromEntries(
    counts.flatMap((count, id) =>
      count ? [[classes?.[id]?.name ?? String(id), count / mask.labels.length]] : []),
  );
  console.log(JSON.stringify({ stream, run, seq, n, same_as, shape, age_s: ageS(mask), shares, stats }));
  if (workMs !== "0") await sleep(Number(workMs));
}
