"""The stage `answers`: counts masks for those who ask, in a thread of its own, beside the route."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import msgspec

from streamseg.analytics.counting import count
from streamseg.analytics.counts import ZoneCounts
from streamseg.analytics.polygons import polygons_of
from streamseg.analytics.raster import Raster, rasterise
from streamseg.analytics.zones import zones_of
from streamseg.runtime.mailbox import Closed
from streamseg.types import FrameSettings, LabelSet, Mask
from streamseg.wire.message import stamp_fields
from streamseg.wire.polygons import PolygonsDocument
from streamseg.wire.zones import ZonesDocument

log = logging.getLogger(__name__)

WAITING_MASKS = 4
TICK_S = 1.0
ASKED_FOR_S = 300.0  # after somebody asked for the shares in the status, they are kept up to date
REPORT_EVERY_S = 60.0

Document = ZonesDocument | PolygonsDocument


class Sink(Protocol):
    """What looks at every count of streams that have events. The stage's thread alone calls it, in order."""

    def changed(self, stream: str, settings: FrameSettings | None) -> None:
        """A stream has come, has other zones or events, or was removed (None)."""
        ...

    def counted(self, counts: ZoneCounts, settings: FrameSettings) -> None:
        """A mask was counted; it comes after changed() with its settings or newer ones."""
        ...

    def tick(self) -> None:
        """Called at least every TICK_S or so."""
        ...

    def close(self) -> None:
        """The stage ends; after it nothing is called."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Masked:
    mask: Mask
    label_set: LabelSet
    settings: FrameSettings


@dataclass(frozen=True, slots=True)
class Counted:
    """The last counts of a stream, and when they were made."""

    counts: ZoneCounts
    monotonic_s: float


@dataclass(slots=True, eq=False)
class _Known:
    """What was found in a stream's last mask, for unchanged frames that have its labels."""

    mask: Mask
    raster: Raster | None = None
    counts: ZoneCounts | None = None
    outlines: PolygonsDocument | None = None


class Answers:
    """Counts masks, keeps the last counts of each stream, and hands documents on.

    offer(), changed() and counted() may be called from any thread and never wait; run() is the work of one.
    Of the masks that wait the oldest is dropped when there are more than WAITING_MASKS, and counted.
    """

    def __init__(
        self,
        wants: Callable[[Literal["zones", "polygons"], str], bool],
        put: Callable[[Document], None],
        sinks: Sequence[Sink] = (),
    ) -> None:
        """wants: whether a kind of document of a stream has a subscriber; put gets them, and may wait."""
        self.dropped: Counter[str] = Counter()  # masks that were not counted because others waited, by stream
        self._wants = wants
        self._put = put
        self._sinks = sinks
        self._changed = threading.Condition()  # guards the three below
        self._masks: deque[_Masked] = deque()
        self._changes: deque[tuple[str, FrameSettings | None]] = deque()
        self._closed = False
        self._last: dict[str, Counted] = {}  # each operation on it is whole
        self._asked_s = -ASKED_FOR_S  # when counted() was called last; monotonic
        self._rasters: dict[str, tuple[FrameSettings, Raster]] = {}
        self._known: dict[str, _Known] = {}
        self._outlined_s: dict[str, float] = {}  # when outlines of a stream were begun last; monotonic
        self._reported: Counter[str] = Counter()
        self._report_s = 0.0

    def is_due(self, stream: str) -> bool:
        """Whether the shares in the status are asked for, and those of this stream are a second old."""
        now_s = time.monotonic()
        if now_s - self._asked_s > ASKED_FOR_S:
            return False
        last = self._last.get(stream)
        return last is None or now_s - last.monotonic_s >= TICK_S

    def offer(self, mask: Mask, label_set: LabelSet, settings: FrameSettings) -> None:
        """Leave a mask that was handed to the publisher, where somebody asks about it; never waits."""
        with self._changed:
            if self._closed:
                return
            if len(self._masks) >= WAITING_MASKS:
                self.dropped[self._masks.popleft().mask.stream] += 1
            self._masks.append(_Masked(mask, label_set, settings))
            self._changed.notify()

    def changed(self, stream: str, settings: FrameSettings | None) -> None:
        """A stream has come, has other settings, or was removed (None)."""
        with self._changed:
            self._changes.append((stream, settings))
            self._changed.notify()

    def counted(self) -> dict[str, Counted]:
        """The last counts by stream, at most a second older than its last mask if this is asked often.

        Streams without zones are there only while their zones or polygons have a subscriber.
        """
        self._asked_s = time.monotonic()
        return dict(self._last)

    def run(self) -> None:
        """Count masks until close() and until none waits; raises Closed then."""
        try:
            while True:
                self._step()
        finally:
            for sink in self._sinks:
                sink.close()

    def close(self) -> None:
        """End run() when what waits is counted; closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _step(self) -> None:
        with self._changed:
            if not self._masks and not self._changes and not self._closed:
                self._changed.wait(TICK_S if self._sinks else None)
            changes = list(self._changes)
            self._changes.clear()
            one = self._masks.popleft() if self._masks else None
            if one is None and not changes and self._closed:
                raise Closed
        for stream, settings in changes:
            if settings is None:
                self._last.pop(stream, None)
                self._rasters.pop(stream, None)
                self._known.pop(stream, None)
                self._outlined_s.pop(stream, None)
            for sink in self._sinks:
                sink.changed(stream, settings)
        if one is not None and not one.settings.removed.is_set():
            self._answer(one)
        for sink in self._sinks:
            sink.tick()
        self._report()

    def _answer(self, one: _Masked) -> None:
        stream, settings = one.mask.stream, one.settings
        zones = self._wants("zones", stream)
        if settings.events or zones or settings.zones:
            counts = self._counts(one)
            self._last[stream] = Counted(counts, time.monotonic())
            if settings.events:
                for sink in self._sinks:
                    sink.counted(counts, settings)
            if zones:
                self._put(zones_of(counts, settings.events))
        if self._wants("polygons", stream) and self._may_outline(stream):
            self._put(self._outlines(one))

    def _counts(self, one: _Masked) -> ZoneCounts:
        known, raster = self._known_of(one.mask), self._raster(one)
        if known.counts is None or known.raster is not raster:
            known.counts, known.raster = count(one.mask, one.label_set, raster), raster
        return replace(known.counts, stamp=one.mask.stamp)

    def _outlines(self, one: _Masked) -> PolygonsDocument:
        known = self._known_of(one.mask)
        if known.outlines is None:
            known.outlines = polygons_of(one.mask, one.label_set)
        return msgspec.structs.replace(known.outlines, **stamp_fields(one.mask.stamp))

    def _known_of(self, mask: Mask) -> _Known:
        """What is known of a mask; nothing yet, unless it is unchanged since the last one."""
        known = self._known.get(mask.stream)
        if known is None or known.mask.labels is not mask.labels:
            known = self._known[mask.stream] = _Known(mask)
        return known

    def _may_outline(self, stream: str) -> bool:
        """Outlines take longer than counts: where masks wait, they are made once a second alone."""
        now_s = time.monotonic()
        if self._masks and now_s - self._outlined_s.get(stream, -math.inf) < TICK_S:
            return False
        self._outlined_s[stream] = now_s
        return True

    def _raster(self, one: _Masked) -> Raster:
        """The zones of a mask at its size; made again when it, or the zones, are other ones."""
        kept = self._rasters.get(one.mask.stream)
        if kept is None or kept[0].zones is not one.settings.zones or kept[1].size != one.mask.size:
            kept = one.settings, rasterise(one.settings.zones, one.mask.size)
            self._rasters[one.mask.stream] = kept
        return kept[1]

    def _report(self) -> None:
        """Log how many masks were dropped, once in a while."""
        now_s = time.monotonic()
        if self.dropped == self._reported or now_s - self._report_s < REPORT_EVERY_S:
            return
        dropped = self.dropped.copy()
        for stream, total in dropped.items():
            if new := total - self._reported[stream]:
                log.warning("%s: counting is slower than the masks: %d of them were not counted", stream, new)
        self._reported, self._report_s = dropped, now_s
