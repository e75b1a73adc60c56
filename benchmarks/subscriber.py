"""Subscribers in a process of their own: python -m benchmarks.subscriber delays|turns ENDPOINT NUMBER.

They print one JSON value: milliseconds of each mask.
"""

from __future__ import annotations

import subprocess
import sys
import time

import msgspec

from benchmarks import ROOT
from streamseg.client import Subscription, subscribe

PERIOD_S = 3.0  # with refined masks, then without
SETTLE_S = 0.5  # left out after each change: the last keyframe is still in work, or none is yet
WARM_UP_S = 6.0  # the CRF's process starts in it


class Latencies(msgspec.Struct, kw_only=True):
    """Milliseconds from the decoded frame to the subscriber, of masks of revision 0: a list for each turn."""

    without: list[list[float]] = []
    refined: list[list[float]] = []


def start(kind: str, endpoint: str, number: float) -> subprocess.Popen[bytes]:
    """Start a subscriber; the caller reads its standard output to the end and waits for it."""
    command = [sys.executable, "-m", "benchmarks.subscriber", kind, endpoint, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def delays(endpoint: str, count: float) -> list[float]:
    """From publishing to having the labels, for each of `count` masks."""
    times_ms: list[float] = []
    with subscribe(endpoint, timeout_s=30, snapshot=False) as masks:
        for mask in masks:
            times_ms.append((time.time_ns() - mask.published_unix_ns) / 1e6)
            if len(times_ms) == int(count):
                break
    return times_ms


def turns(endpoint: str, seconds: float) -> Latencies:
    """Subscribe to every mask, and by turns to refined ones."""
    seen = Latencies()
    other: Subscription | None = None  # open in every turn, so that turns differ only in the CRF
    turn = -1
    begin_s: float | None = None
    try:
        with subscribe(endpoint, newest=False, snapshot=False, timeout_s=30.0) as masks:
            for mask in masks:
                unix_ns, now_s = time.time_ns(), time.monotonic()
                begin_s = now_s + WARM_UP_S if begin_s is None else begin_s
                if now_s >= begin_s + seconds:
                    break
                due, since_s = divmod(max(now_s - begin_s + PERIOD_S, 0.0), PERIOD_S)
                if due != turn:  # 0 is the warm-up, with refined masks; then without and with by turns
                    turn = int(due)
                    (seen.without if turn % 2 else seen.refined).append([])
                    if other is not None:
                        other.close()
                    other = subscribe(endpoint, refined=turn % 2 == 0, snapshot=False)
                if now_s >= begin_s and since_s >= SETTLE_S:
                    latency_ms = (unix_ns - mask.captured_unix_ns) / 1e6
                    (seen.without if turn % 2 else seen.refined)[-1].append(latency_ms)
    finally:
        if other is not None:
            other.close()
    return seen


if __name__ == "__main__":
    work = {"delays": delays, "turns": turns}[sys.argv[1]]
    sys.stdout.buffer.write(msgspec.json.encode(work(sys.argv[2], float(sys.argv[3]))))
