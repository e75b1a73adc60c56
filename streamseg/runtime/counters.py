"""Counters of the live route: frames, drops by cause and stage times of each stream.

Each number is written by one thread and read by others without a lock: a read is atomic, and a value that is
an instant old is harmless.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, Protocol, get_args

from streamseg.types import Size

State = Literal["connecting", "playing", "paused", "reconnecting", "ended", "failed"]
"""What a stream does: its source is being opened, is played, is paused by an operator, was lost and is being
reconnected, came to its end, or failed."""

STATES: tuple[State, ...] = get_args(State)

BOUNDS_US = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
"""Upper bounds of a histogram's buckets in µs; there is one more bucket for all above."""

_BEFORE_DECODE = frozenset(
    {"skipped", "corrupt", "disconnected", "behind"}
)  # drops of frames that were never decoded
_REPLACED = "slow engine"  # the drop of a frame that a newer one replaced while it waited

_EXPECTED = frozenset({"skipped", "disconnected"})

SUMMARY_EVERY_S = 600.0
"""A stream of which nothing new can be said has a line of the log this often."""

LEAST_CHANGE = 0.3  # frames a second: a mask more or less in ten seconds is no news
SLOWER_BY_US = 10_000

_RECENT = 128  # frames of which stage times are kept
_RATE_OVER_S = 5.0
_REMOVED_KNOWN = 1024  # names of removed streams; frames of them may still be on their way


@dataclass(slots=True)
class Times:
    """A histogram of one stage's times: a count for each of BOUNDS_US and one for all above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_US) + 1))
    sum_us: int = 0

    def add(self, us: int) -> None:
        self.counts[bisect_left(BOUNDS_US, us)] += 1
        self.sum_us += us


@dataclass(slots=True)
class StreamStats:
    """Counters of one stream since it was added."""

    decoded: int = 0
    published: int = 0
    unchanged: int = 0  # of these, for frames that the gate kept from the network
    refined: int = 0  # keyframes whose refinement came in time
    unrefined: Counter[str] = field(default_factory=Counter)  # keyframes without refinement, by cause
    refine_error: str = ""  # the CRF's last error
    connects: int = 0
    drops: Counter[str] = field(default_factory=Counter)  # by cause
    state: State = "connecting"
    error: str = ""  # why the stream delivers nothing now; else empty
    size: Size | None = None  # of its pictures
    source_fps: float | None = None
    epoch: int = 0
    age_ms: float | None = None  # of the last mask when it was published
    times: dict[str, Times] = field(default_factory=dict)  # by stage, and "age"
    _recent: deque[Mapping[str, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _published_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))  # monotonic

    def record(self, stage_us: Mapping[str, int], age_us: int | None = None) -> None:
        """Remember the stage times of a mask that is published now, and its age."""
        self._recent.append(stage_us)
        self._published_s.append(time.monotonic())
        for stage, us in stage_us.items():
            self._times(stage).add(us)
        if age_us is not None:
            self.age_ms = age_us / 1000
            self._times("age").add(max(0, age_us))

    def stage_medians_us(self) -> dict[str, int]:
        """The median time of each stage over the last masks."""
        return {stage: int(median(values)) for stage, values in self._stage_times().items()}

    def stage_quartiles_us(self) -> dict[str, int]:
        """The lower quartile instead, which a busy machine disturbs less."""
        return {stage: sorted(values)[len(values) // 4] for stage, values in self._stage_times().items()}

    def _stage_times(self) -> dict[str, list[int]]:
        times: dict[str, list[int]] = {}
        for one in list(self._recent):
            for stage, value in one.items():
                times.setdefault(stage, []).append(value)
        return times

    def unchanged_share(self) -> float:
        """Of the last masks, the share of those that the gate kept from the network."""
        recent = list(self._recent)
        return sum("gate" in stage_us for stage_us in recent) / max(len(recent), 1)

    def fps(self, now_s: float) -> float:
        """Masks a second over the last 5 s, or over the last _RECENT masks where those are more recent."""
        recent = [at_s for at_s in list(self._published_s) if at_s > now_s - _RATE_OVER_S]
        if len(recent) == _RECENT:
            return (len(recent) - 1) / max(recent[-1] - recent[0], 1e-9)
        return len(recent) / _RATE_OVER_S

    def silent_s(self, now_s: float) -> float | None:
        """Seconds since a mask was published; None before the first."""
        return max(0.0, now_s - self._published_s[-1]) if self._published_s else None

    def _times(self, stage: str) -> Times:
        known = self.times.get(stage)
        if known is None:
            known = self.times[stage] = Times()
        return known


class Stats:
    """The counters of all streams."""

    def __init__(self) -> None:
        self.crf_restarts = 0  # of the CRF's process, because it died or hung
        self._lock = threading.Lock()  # guards the two below, not the counters in them
        self._streams: dict[str, StreamStats] = {}
        self._removed: deque[str] = deque(maxlen=_REMOVED_KNOWN)

    def of(self, stream: str) -> StreamStats:
        """The counters of a stream, made when it is new. For a removed one: counters that are not kept."""
        with self._lock:
            if stream in self._removed:
                return StreamStats()
            return self._streams.setdefault(stream, StreamStats())

    def begin(self, stream: str) -> StreamStats:
        """New counters for a stream that is added, perhaps again."""
        with self._lock:
            if stream in self._removed:
                self._removed.remove(stream)
            counters = self._streams[stream] = StreamStats()
            return counters

    def forget(self, stream: str) -> None:
        """Drop the counters of a stream that is removed."""
        with self._lock:
            if self._streams.pop(stream, None) is not None:
                self._removed.append(stream)

    def all(self) -> dict[str, StreamStats]:
        with self._lock:
            return dict(self._streams)


class Progress(Protocol):
    """Counters of one stream: StreamStats, or wire's StreamStatus."""

    @property
    def decoded(self) -> int: ...
    @property
    def published(self) -> int: ...
    @property
    def drops(self) -> Mapping[str, int]: ...


class ProgressWatch:
    """Whether frames leave the route, by the counters each time that moves() is called."""

    def __init__(self) -> None:
        self._done = -1
        self._moved_s = time.monotonic()

    def moves(self, streams: Iterable[Progress]) -> bool:
        """True when a frame has left the route since the last call, or when none is on its way."""
        streams = list(streams)
        done = sum(stream.published + _dropped(stream, replaced=False) for stream in streams)
        moves = done != self._done or all(on_their_way(stream) <= 0 for stream in streams)
        self._done = done
        if moves:
            self._moved_s = time.monotonic()
        return moves

    @property
    def stuck_s(self) -> float:
        """Seconds since moves() was last true."""
        return time.monotonic() - self._moved_s


def on_their_way(stream: Progress) -> int:
    """Frames of a stream that were decoded, and neither published nor dropped yet."""
    return stream.decoded - stream.published - _dropped(stream, replaced=True)


def _dropped(stream: Progress, *, replaced: bool) -> int:
    """Frames dropped after decoding; those that newer ones replaced need no work of the engine."""
    without = _BEFORE_DECODE if replaced else _BEFORE_DECODE | {_REPLACED}
    return sum(count for cause, count in list(stream.drops.items()) if cause not in without)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A stream's counters at one moment."""

    at_s: float
    stats: StreamStats
    decoded: int = 0
    published: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class _Said:
    """What the last line of a stream said."""

    rate: float
    lost: dict[str, float]  # frames a second, by cause
    medians_us: Mapping[str, int]


class Report:
    """Turns counters into log lines: of a stream where something has changed, and of all now and then."""

    def __init__(self, stats: Stats, now_s: float) -> None:
        self._stats = stats
        self._before_s = now_s
        self._before: dict[str, _Counted] = {}  # at the last call
        self._told: dict[str, _Counted] = {}  # at the last line
        self._said: dict[str, _Said] = {}

    def lines(self, now_s: float, *, final: bool = False) -> list[tuple[bool, str]]:
        """(is a warning, text) for each stream with news: its first masks, another rate, time or loss.

        After SUMMARY_EVERY_S without any, and when it is final: over the time since its last line.
        """
        lines = []
        before, self._before = self._before, {}
        before_s, self._before_s = self._before_s, now_s
        known = self._stats.all()
        for name, stats in known.items():
            now = _Counted(
                now_s, stats, stats.decoded, stats.published, Counter(stats.drops), stats.unchanged
            )
            self._before[name] = now
            new = _Counted(before_s, stats)
            last = _same(before.get(name), stats) or new
            told = _same(self._told.get(name), stats) or new
            due = final or now_s - told.at_s >= SUMMARY_EVERY_S
            since = told if due else last
            said = _said(since, now)
            if not said.lost and now.published == since.published:
                continue
            previous = self._said.get(name) if told is not new else None
            if due or previous is None or _is_news(previous, said):
                lines.append((bool(said.lost), _line(name, since, now, said)))
                self._told[name], self._said[name] = now, said
        for name in set(self._told) - set(known):
            del self._told[name], self._said[name]
        return lines


def _same(counted: _Counted | None, stats: StreamStats) -> _Counted | None:
    """The counters of before, unless the stream was removed and added again."""
    return counted if counted is not None and counted.stats is stats else None


def _said(since: _Counted, now: _Counted) -> _Said:
    span_s = max(now.at_s - since.at_s, 1e-9)
    new = now.drops - since.drops
    # Skipped for max_fps is what was asked for, and each loss of a source has had its own line.
    lost = {cause: count / span_s for cause, count in new.items()} if set(new) - _EXPECTED else {}
    return _Said((now.published - since.published) / span_s, lost, now.stats.stage_medians_us())


def _line(name: str, since: _Counted, now: _Counted, said: _Said) -> str:
    span_s = max(now.at_s - since.at_s, 1e-9)
    medians = ", ".join(f"{k} {v / 1000:.1f} ms" for k, v in said.medians_us.items())
    medians = f" ({medians})" if medians else ""
    if unchanged := now.unchanged - since.unchanged:
        share = unchanged / max(now.published - since.published, 1)
        medians = f", {min(share, 1):.0%} unchanged{medians}"
    if not said.lost:
        return f"{name}: {said.rate:.1f} masks/s{medians}"
    lost = ", ".join(f"{count} {cause}" for cause, count in sorted((now.drops - since.drops).items()))
    total = now.decoded - since.decoded
    return f"{name}: {said.rate:.1f} masks/s of {total} frames in {span_s:.0f} s; {lost}{medians}"


def _is_news(before: _Said, now: _Said) -> bool:
    """Whether a rate or a loss is another by more than a fifth, or a stage takes half as long again."""
    rates = [(before.rate, now.rate)]
    rates += [(before.lost.get(cause, 0.0), now.lost.get(cause, 0.0)) for cause in {*before.lost, *now.lost}]
    if bool(before.lost) != bool(now.lost) or any(
        abs(one - other) > max(max(one, other) / 5, LEAST_CHANGE) for one, other in rates
    ):
        return True
    return any(
        us > 1.5 * before.medians_us.get(stage, us) + SLOWER_BY_US for stage, us in now.medians_us.items()
    )
