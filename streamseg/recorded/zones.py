"""What --zones gives: tables of the zones' shares and of events, lines of events, and a chart.

Counted in the finished labels by what counts live masks, in one pass over all frames: neither where a file
was cut into segments nor whether the work was interrupted changes an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamseg.analytics.counting import count
from streamseg.analytics.counts import ZoneCount, ZoneCounts
from streamseg.analytics.events import EventMessage, StreamEvents
from streamseg.analytics.media_clock import MediaClock
from streamseg.analytics.raster import rasterise
from streamseg.config import PICTURE, EventConfig
from streamseg.recorded.exports import Target, time_s
from streamseg.recorded.opening import Recording
from streamseg.recorded.segments import FrameRecord
from streamseg.recorded.tables import Columns, open_rows
from streamseg.recorded.zone_chart import ZoneChart
from streamseg.types import U8, LabelSet, Mask, Stamp

ENDED_WITH_IT = "recording_ended"
"""Why an event ended that was open at the last frame."""

_AREA_DIGITS = 6


class ZoneResults:
    """Counts each frame once, for the tables, the events and the chart."""

    def __init__(self, recording: Recording, target: Target, span_s: tuple[float, float]) -> None:
        config, zones = recording.config, recording.config.zones
        self.labels, self.tick = recording.label_set, recording.tick
        self.engine, self.stream = recording.engines[0].info.id, recording.input.stem
        self.raster = rasterise(zones.zones, recording.mask_size)
        self.clock = MediaClock()
        ground = any(zone.ground is not None for zone in zones.zones.values())
        self.tables = [
            ZoneTable(target("zones" + ending), self.labels, confidence=config.confidence, ground=ground)
            for ending in config.table_endings
        ]
        self.chart = ZoneChart(
            target("zones_chart"), (PICTURE, *zones.zones), self.labels, span_s, zones.events
        )
        self.events: Events | None = None
        if zones.events:
            tables = [target("zone_events" + ending) for ending in config.table_endings]
            self.events = Events(zones.events, target("zone_events_lines"), tables, self.chart)

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
        time = time_s(record, self.tick)
        stamp = self._stamp(record)
        mask = Mask(stamp, labels, self.labels.id, self.engine, confidence=confidence)
        counts = count(mask, self.labels, self.raster)
        for table in self.tables:
            table.add(record, time, counts)
        if self.events is not None:
            self.events.add(self.clock.frame(stamp), counts)
        self.chart.add(time, counts)

    def close(self) -> dict[str, Any]:
        """What the summary tells of them."""
        for table in self.tables:
            table.close()
        found: dict[str, Any] = {"zones": self.chart.summary()}
        if self.events is not None:
            found["zone_events"] = self.events.close()
        self.chart.draw(self.stream)
        return found

    def _stamp(self, record: FrameRecord) -> Stamp:
        """Of a frame whose clock is the video's own."""
        at_ns = round(record.ticks * self.tick * 1_000_000_000)
        return Stamp(self.stream, 0, record.seq, record.ticks, self.tick, at_ns, "arrival")


class ZoneTable:
    """A row for each frame and zone: its pixels, the unknown ones, and share and pixels of each class.

    With confidence the mean of each class, empty where it is not; with a ground, square metres.
    """

    def __init__(self, path: Path, labels: LabelSet, *, confidence: bool, ground: bool) -> None:
        self.classes, self.confidence, self.ground = len(labels.names), confidence, ground
        fixed: Columns = {"seq": int, "pts": int, "time_s": float, "zone": str, "pixels": int, "unknown": int}
        kinds: list[tuple[str, type]] = [("share", float), ("pixels", int)]
        kinds += [("confidence", float)] if confidence else []
        kinds += [("square_m", float)] if ground else []
        each = {f"{name}_{what}": kind for what, kind in kinds for name in labels.names}
        self.rows = open_rows(path, {**fixed, **each})

    def add(self, record: FrameRecord, time: float, counts: ZoneCounts) -> None:
        nothing = [None] * self.classes
        for one in counts.zones:
            pixels = one.counts[: self.classes].tolist()
            row: list[Any] = [record.seq, record.pts, time, one.zone, one.pixels, one.unknown]
            row += [n / one.pixels for n in pixels] if one.pixels else nothing
            row += pixels
            if self.confidence:
                row += _means(one, pixels)
            if self.ground:
                areas = one.square_m
                row += (
                    nothing
                    if areas is None
                    else [round(a, _AREA_DIGITS) for a in areas[: self.classes].tolist()]
                )
            self.rows.write(row)

    def close(self) -> None:
        self.rows.close()


def _means(one: ZoneCount, pixels: Sequence[int]) -> list[float | None]:
    """The mean confidence, 0…1, of each class that is there."""
    sums = [0] * len(pixels) if one.confidence is None else one.confidence[: len(pixels)].tolist()
    return [total / (255 * n) if n else None for n, total in zip(pixels, sums, strict=True)]


class Events:
    """A line for each message of an event, as live, and a row for each event when it has ended."""

    def __init__(
        self, events: Mapping[str, EventConfig], lines: Path, tables: Sequence[Path], chart: ZoneChart
    ) -> None:
        self.configs, self.chart = events, chart
        self.machine = StreamEvents(events)
        self.lines = lines.open("wb")
        self.tables = [open_rows(path, _EVENT_COLUMNS) for path in tables]
        self.told = {name: _Told() for name in events}
        self.media_s = 0.0  # of the last frame, from the first on

    def add(self, media_s: float, counts: ZoneCounts) -> None:
        self.media_s = media_s
        for message in self.machine.step(media_s, counts):
            self._write(message)

    def close(self) -> list[dict[str, Any]]:
        """End what is open, with the recording → what the summary tells of each event."""
        for message in self.machine.end(self.media_s, ""):
            self._write(message)
        self.lines.close()
        for table in self.tables:
            table.close()
        return [
            {"event": name, "zone": one.zone or PICTURE, **self.told[name].shown()}
            for name, one in self.configs.items()
        ]

    def _write(self, message: EventMessage) -> None:
        told = self.told[message.event]
        told.count += message.state == "begin"
        to_s = self.chart.first_s + message.time_s
        about = {"id": f"{message.event}-{told.count}", "event": message.event, "zone": message.zone}
        from_s, to_s, duration_s = (
            round(s, 6) for s in (to_s - message.duration_s, to_s, message.duration_s)
        )
        why = message.why or (ENDED_WITH_IT if message.state == "end" else "")
        peak = message.peak
        line = {
            **about,
            "classes": message.classes,
            "state": message.state,
            "why": why,
            "no_data": message.no_data,
            "value": message.value,
            "peak": peak,
            "time_s": to_s,
            "from_s": from_s,
            "duration_s": duration_s,
            "seq": message.stamp.seq,
        }
        self.lines.write(msgspec.json.encode(line) + b"\n")
        if message.state == "end":
            told.add(message.duration_s)
            self.chart.mark(message.event, from_s, to_s)
            row = [*about.values(), ";".join(message.classes), from_s, to_s, duration_s, peak, why]
            for table in self.tables:
                table.write(row)


_EVENT_COLUMNS: Columns = {
    "id": str,
    "event": str,
    "zone": str,
    "classes": str,
    "from_s": float,
    "to_s": float,
    "duration_s": float,
    "peak": float,
    "why": str,
}


@dataclass(slots=True)
class _Told:
    """What was told of an event."""

    count: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    def add(self, duration_s: float) -> None:
        self.total_s += duration_s
        self.longest_s = max(self.longest_s, duration_s)

    def shown(self) -> dict[str, Any]:
        return {"count": self.count, "total_s": round(self.total_s, 6), "longest_s": round(self.longest_s, 6)}
