"""A publisher in a process of its own: python -m tests.integration.publish_child ENDPOINT FPS H W [COUNT].

Prints its endpoint, publishes raw masks at that pace until its input ends or COUNT are out, then prints one
JSON line: when each mask had been put (unix ns), the slowest put, resident memory, and when it was held up.
"""

from __future__ import annotations

import json
import select
import sys
import time

import psutil

from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from tests.integration.children import HeldUp
from tests.masks import STREET, make_mask


def main(endpoint: str, fps: str, height: str, width: str, count: str = "1000000000") -> None:
    put_unix_ns: list[int] = []
    rss: list[int] = []
    slowest_s = 0.0
    process = psutil.Process()
    masks = [make_mask(seq, size=(int(height), int(width))) for seq in range(7)]
    held_up = HeldUp()
    with Publisher(PublishConfig(endpoint=endpoint, encoding="raw"), [STREET]) as publisher:
        print(publisher.endpoint, flush=True)
        due = time.monotonic()
        while len(put_unix_ns) < int(count):
            seq = len(put_unix_ns)
            mask = make_mask(seq, labels=masks[seq % 7].labels)
            begun = time.monotonic()
            publisher.put(mask)
            put_unix_ns.append(time.time_ns())
            slowest_s = max(slowest_s, time.monotonic() - begun)
            if seq % 10 == 0:
                rss.append(process.memory_info().rss)
            due = max(due + 1 / float(fps), time.monotonic())
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                break
    print(
        json.dumps(
            {"put_unix_ns": put_unix_ns, "slowest_put_s": slowest_s, "rss": rss, "held_up": held_up.times}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
