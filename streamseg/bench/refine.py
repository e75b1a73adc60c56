"""Does the CRF delay masks? One daemon, and subscribers of refined masks that come and go every few seconds.

Whatever else the machine does falls on both sides alike, which two runs one after the other cannot promise.
"""

from __future__ import annotations

import subprocess
import sys
import time

import msgspec

from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import Config
from streamseg.daemon import Daemon
from streamseg.errors import StreamsegError
from streamseg.stage import Stage

PERIOD_S = 3.0  # with refined masks, then without
SETTLE_S = 0.5  # left out after each change: the last keyframe is still at work, or none is yet
WARM_UP_S = 6.0  # the CRF's process starts in it


class Latencies(msgspec.Struct, kw_only=True):
    """Milliseconds from the decoded frame to the subscriber, of masks of revision 0, in order."""

    without: list[float] = []
    refined: list[float] = []


class RefineResult(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of masks while nobody wants refined ones and while somebody does."""

    seconds: float
    without: Spread
    refined: Spread
    p99_ratio: float
    refinements: int
    unrefined: dict[str, int]
    machine: Machine


def bench_refine(config: Config, seconds: float) -> RefineResult:
    """Run `config` for so many seconds; raises StreamsegError."""
    daemon = Daemon(config)
    thread = Stage("daemon", daemon.run, lambda _: daemon.ready.set())
    thread.start()
    daemon.ready.wait()
    seen = Latencies()
    try:
        if thread.error is None:
            command = [sys.executable, "-m", "streamseg.bench.refine", daemon.endpoint, str(seconds)]
            child = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds + 90, check=True)
            seen = msgspec.json.decode(child.stdout, type=Latencies)
    finally:
        daemon.stop()
        thread.join()
    if thread.error is not None:
        raise thread.error
    if not seen.without or not seen.refined or daemon.pipeline is None:
        raise StreamsegError("bench: not one mask came; give a longer --seconds, or a source that lasts")
    without, refined = spread_of(seen.without), spread_of(seen.refined)
    stats = daemon.pipeline.stats.all().values()
    return RefineResult(
        seconds=seconds,
        without=without,
        refined=refined,
        p99_ratio=round(refined.p99_ms / without.p99_ms, 3),
        refinements=sum(s.refined for s in stats),
        unrefined={why: sum(s.unrefined[why] for s in stats) for s in stats for why in s.unrefined},
        machine=this_machine("onnxruntime", "numpy"),
    )


def receive(endpoint: str, seconds: float) -> Latencies:
    """Subscribe to every mask, and by turns to refined ones."""
    from streamseg.client import Subscription, subscribe

    seen = Latencies()
    other: Subscription | None = None  # there in every turn, so that the turns differ in the CRF alone
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
                    if other is not None:
                        other.close()
                    other = subscribe(endpoint, refined=turn % 2 == 0, snapshot=False)
                if now_s >= begin_s and since_s >= SETTLE_S:
                    latency_ms = (unix_ns - mask.captured_unix_ns) / 1e6
                    (seen.without if turn % 2 else seen.refined).append(latency_ms)
    finally:
        if other is not None:
            other.close()
    return seen


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(receive(sys.argv[1], float(sys.argv[2]))))
