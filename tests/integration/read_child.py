"""A subscriber in a process of its own: python -m tests.integration.read_child ENDPOINT READ_S.

Takes READ_S for each mask. Says "ready" after the first one; at the end of its input, one JSON line: when
each mask was handed out (unix ns) and its seq, the counts, its resident memory, and when it was held up.
"""

from __future__ import annotations

import dataclasses
import json
import select
import sys
import time

import psutil

from streamseg.client import subscribe
from tests.integration.children import HeldUp


def main(endpoint: str, read_s: str) -> None:
    read: list[tuple[int, int]] = []
    rss: list[int] = []
    process = psutil.Process()
    held_up = HeldUp()
    with subscribe(endpoint, ["gate"], timeout_s=300) as masks:
        for mask in masks:
            read.append((time.time_ns(), mask.seq))
            if len(read) == 1:
                print("ready", flush=True)
            rss.append(process.memory_info().rss)
            if select.select([sys.stdin], [], [], float(read_s))[0]:
                break
    stats = dataclasses.asdict(masks.stats)
    print(json.dumps({"read": read, "rss": rss, "stats": stats, "held_up": held_up.times}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
