"""Does the CRF delay masks? One daemon, and subscribers of refined masks that come and go every few seconds.

Whatever else the machine does falls on both sides alike, which two runs one after the other cannot promise.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import Config
from streamseg.daemon import Daemon
from streamseg.errors import StreamsegError
from streamseg.runtime.stage import Stage

PERIOD_S = 3.0  # with refined masks, then without
SETTLE_S = 0.5  # left out after each change: the last keyframe is still at work, or none is yet
WARM_UP_S = 6.0  # the CRF's process starts in it


class Latencies(msgspec.Struct, kw_only=True):
    """Milliseconds from the decoded frame to the subscriber, of masks of revision 0: a list for each turn."""

    without: list[list[float]] = []
    refined: list[list[float]] = []


class RefineResult(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of masks while nobody wants refined ones and while somebody does."""

    seconds: float
    without: Spread
    refined: Spread
    p99_ratio: float  # refined / without
    noise_ratio: float  # every second turn without / the other turns without: what is nobody's doing
    crf_cpu_s: float  # CPU time of the CRF's process; of the last one, if it was replaced
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
    crf_cpu_s = 0.0
    try:
        if thread.error is None:
            command = [sys.executable, "-m", "streamseg.bench.refine", daemon.endpoint, str(seconds)]
            child = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds + 90, check=True)
            seen = msgspec.json.decode(child.stdout, type=Latencies)
            crf_cpu_s = _cpu_s(None if daemon.pipeline is None else daemon.pipeline.refinement.pid)
    finally:
        daemon.stop()
        thread.join()
    if thread.error is not None:
        raise thread.error
    halves = [list(itertools.chain(*seen.without[first::2])) for first in (0, 1)]
    with_crf = list(itertools.chain(*seen.refined))
    if not all(halves) or not with_crf or daemon.pipeline is None:
        raise StreamsegError("bench: too few masks came; give a longer --seconds, or a source that lasts")
    without, refined = spread_of(halves[0] + halves[1]), spread_of(with_crf)
    stats = daemon.pipeline.stats.all().values()
    return RefineResult(
        seconds=seconds,
        without=without,
        refined=refined,
        p99_ratio=round(refined.p99_ms / without.p99_ms, 3),
        noise_ratio=round(spread_of(halves[1]).p99_ms / spread_of(halves[0]).p99_ms, 3),
        crf_cpu_s=round(crf_cpu_s, 2),
        refinements=sum(s.refined for s in stats),
        unrefined={why: sum(s.unrefined[why] for s in stats) for s in stats for why in s.unrefined},
        machine=this_machine("onnxruntime", "numpy"),
    )


def _cpu_s(pid: int | None) -> float:
    """CPU time of a process that runs, on Linux; 0 for none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
    sys.stdout.buffer.write(msgspec.json.encode(receive(sys.argv[1], float(sys.argv[2]))))
