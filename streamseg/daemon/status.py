"""How the daemon and its streams are, as the control socket and the status topics tell it."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from streamseg.config import StreamConfig
from streamseg.config.redact import redact
from streamseg.live.pipeline import Pipeline
from streamseg.publish import Publisher
from streamseg.runtime.counters import State, StreamStats
from streamseg.wire.control import PublisherStatus
from streamseg.wire.status import Histogram, StreamStatus

LIBRARIES = ("av", "numpy", "onnxruntime", "opencv-python-headless", "pyzmq")
_MOST_TEXT = 1000  # of an error, far below what a status may hold


def stream_statuses(pipeline: Pipeline, *, histograms: bool) -> Iterator[StreamStatus]:
    """The status of each stream now."""
    configs, states, stats = pipeline.streams.configs(), pipeline.streams.states(), pipeline.stats.all()
    for name, config in configs.items():
        if name in states and name in stats:
            yield _stream_status(name, config, states[name], stats[name], histograms)


def waiting_status(name: str, config: StreamConfig) -> StreamStatus:
    """The status of a stream that the daemon has not begun yet."""
    return StreamStatus(
        stream=name, source=redact(config.source), state="connecting", max_age_ms=config.max_age_ms
    )


def publisher_status(publisher: Publisher) -> PublisherStatus:
    stats = publisher.stats
    return PublisherStatus(
        run=publisher.run,
        endpoint=publisher.endpoint,
        snapshot_endpoint=publisher.snapshot_endpoint,
        subscribers=stats.subscribers,
        connections=stats.connections,
        published=stats.published,
        refined=stats.refined,
        messages=stats.messages,
        snapshots=stats.snapshots,
        refused=stats.refused,
        denied=stats.denied,
        hung_up=stats.disconnected,
    )


def library_versions() -> dict[str, str]:
    """The versions of what the daemon stands on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def memory_bytes() -> int:
    """What this process holds in memory now; where there is no /proc, the most that it ever held."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_files() -> int:
    """File descriptors of this process; 0 where that cannot be told, as when none is left to look with."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def thread_count() -> int:
    """Threads of this process, those of libraries included."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _stream_status(
    name: str, config: StreamConfig, state: State, stats: StreamStats, histograms: bool
) -> StreamStatus:
    now_s = time.monotonic()
    return StreamStatus(
        stream=name,
        source=redact(config.source)[:_MOST_TEXT],
        state=state,
        error=stats.error[:_MOST_TEXT],
        size=stats.size,
        source_fps=stats.source_fps,
        fps=stats.fps(now_s),
        age_ms=stats.age_ms,
        silent_s=stats.silent_s(now_s),
        max_age_ms=config.max_age_ms,
        epoch=stats.epoch,
        decoded=stats.decoded,
        published=stats.published,
        refined=stats.refined,
        drops=dict(stats.drops),
        unrefined=dict(stats.unrefined),
        connects=stats.connects,
        reconnects=max(0, stats.connects - 1),
        stage_us=stats.stage_medians_us(),
        histograms=_histograms(stats) if histograms else {},
    )


def _histograms(stats: StreamStats) -> dict[str, Histogram]:
    return {
        stage: Histogram(counts=list(times.counts), sum_us=times.sum_us)
        for stage, times in dict(stats.times).items()
    }
