"""What the route counts: frames, drops by cause and stage times of each stream.

Every number has one writing thread; readers may be an instant late, which is harmless.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

_RECENT = 128  # frames over which stage times are summed up


@dataclass(slots=True)
class StreamStats:
    """Counters of one stream since it was added."""

    decoded: int = 0
    published: int = 0
    refined: int = 0  # keyframes that the CRF answered in time
    unrefined: Counter[str] = field(default_factory=Counter)  # keyframes it did not, by cause
    refine_error: str = ""  # what the CRF last refused a keyframe for
    connects: int = 0
    drops: Counter[str] = field(default_factory=Counter)  # by cause
    last_capture_unix_ns: int = 0
    error: str = ""  # why the stream is not delivering now, empty when it is
    _recent: deque[Mapping[str, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def record(self, stage_us: Mapping[str, int]) -> None:
        """Remember the stage times of a published mask."""
        self._recent.append(stage_us)

    def stage_medians_us(self) -> dict[str, int]:
        """The median time of each stage over the last masks."""
        times: dict[str, list[int]] = {}
        for one in list(self._recent):
            for stage, value in one.items():
                times.setdefault(stage, []).append(value)
        return {stage: int(median(values)) for stage, values in times.items()}


class Stats:
    """The counters of all streams."""

    def __init__(self) -> None:
        self.crf_restarts = 0  # times the CRF's process died or hung
        self._lock = threading.Lock()  # guards the dictionary, not the counters in it
        self._streams: dict[str, StreamStats] = {}

    def of(self, stream: str) -> StreamStats:
        with self._lock:
            return self._streams.setdefault(stream, StreamStats())

    def all(self) -> dict[str, StreamStats]:
        with self._lock:
            return dict(self._streams)


class Report:
    """Turns counters into one log line for each stream, over the time since the last report."""

    def __init__(self, stats: Stats, now_s: float) -> None:
        self._stats = stats
        self._before_s = now_s
        self._seen: dict[str, tuple[int, int, Counter[str]]] = {}

    def lines(self, now_s: float) -> list[tuple[bool, str]]:
        """(is a warning, text) for each stream that has something to tell."""
        span_s = max(now_s - self._before_s, 1e-9)
        self._before_s = now_s
        lines = []
        for name, stats in self._stats.all().items():
            drops = Counter(stats.drops)
            decoded, published, dropped = self._seen.get(name, (0, 0, Counter()))
            self._seen[name] = (stats.decoded, stats.published, drops)
            new = drops - dropped
            medians = ", ".join(f"{k} {v / 1000:.1f} ms" for k, v in stats.stage_medians_us().items())
            rate = f"{(stats.published - published) / span_s:.1f} masks/s"
            if set(new) - {"skipped"}:  # skipped for max_fps is what was asked for
                lost = ", ".join(f"{count} {cause}" for cause, count in sorted(new.items()))
                total = stats.decoded - decoded
                lines.append(
                    (True, f"{name}: {rate} of {total} frames in {span_s:.0f} s; {lost} ({medians})")
                )
            elif stats.published > published:
                lines.append((False, f"{name}: {rate} ({medians})"))
        return lines
