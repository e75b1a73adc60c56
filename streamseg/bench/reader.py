"""The subscriber of `streamseg bench transport`, in a process of its own: ENDPOINT COUNT.

Prints one JSON list: the milliseconds from publishing to having the labels, for each of COUNT masks.
"""

from __future__ import annotations

import json
import sys
import time

from streamseg.client import subscribe


def main(endpoint: str, count: str) -> None:
    times_ms: list[float] = []
    with subscribe(endpoint, timeout_s=30, snapshot=False) as masks:
        for mask in masks:
            times_ms.append((time.time_ns() - mask.published_unix_ns) / 1e6)
            if len(times_ms) == int(count):
                break
    sys.stdout.write(json.dumps(times_ms))


if __name__ == "__main__":
    main(*sys.argv[1:])
