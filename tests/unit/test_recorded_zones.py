"""Zones of a recording: memory that does not grow with its frames, and a chart of it."""

from __future__ import annotations

import gc
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from streamseg.config import EventConfig, ZoneConfig
from streamseg.recorded.polygons import Coco, GeoJson, Polygons
from streamseg.recorded.segments import FrameRecord
from streamseg.recorded.settings import ProcessConfig, ZoneTables
from streamseg.recorded.zone_chart import clock
from streamseg.recorded.zones import ZoneResults
from streamseg.types import ClassInfo, LabelSet

SIZE = (12, 16)
LABELS = LabelSet("two", (ClassInfo("dry", (90, 90, 90)), ClassInfo("water", (40, 60, 220))))
TICK = Fraction(1, 25)


def results(folder: Path, frames: int) -> ZoneResults:
    tables = ZoneTables(
        zones={"left": ZoneConfig(polygon=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))},
        events={"flood": EventConfig(zone="left", classes=("water",), above=0.5)},
    )
    recording: Any = SimpleNamespace(
        config=ProcessConfig(zones=tables),
        label_set=LABELS,
        tick=TICK,
        engines=[SimpleNamespace(info=SimpleNamespace(id="tiny"))],
        input=SimpleNamespace(stem="clip"),
        mask_size=SIZE,
    )
    return ZoneResults(recording, lambda name: folder / name, (0.0, float((frames - 1) * TICK)))


def record(seq: int) -> FrameRecord:
    return FrameRecord(seq=seq, pts=seq, ticks=seq, resized=False, pixels={}, digest=b"")


def labels(wet: bool) -> np.ndarray:
    return np.full(SIZE, int(wet), np.uint8)


@pytest.mark.slow  # each allocation is recorded
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Nor with the events: one begins with every other frame."""
    frames = 2001
    zones = results(tmp_path, frames)
    polygons = Polygons(
        [GeoJson(tmp_path / "a.geojson", SIZE, LABELS, TICK), Coco(tmp_path / "a.json", SIZE, LABELS, TICK)]
    )
    tracemalloc.start()
    try:
        sizes = []
        for seq in range(frames):
            for export in (zones, polygons):
                export.add(record(seq), labels(bool(seq % 2)), None)
            if seq in (400, frames - 1):
                gc.collect()  # and what Python keeps for its next objects
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    told = zones.close()
    polygons.close()
    assert told["zone_events"][0]["count"] == frames // 2
    assert sizes[1] - sizes[0] < 45_000  # 1,600 frames: an object of each would be more


def test_the_chart_has_a_bar_while_an_event_was_open(tmp_path: Path) -> None:
    zones = results(tmp_path, 101)
    for seq in range(101):
        zones.add(record(seq), labels(25 <= seq < 75), None)
    zones.close()
    chart = cv2.imread(str(tmp_path / "zones_chart"))
    assert chart is not None
    bar = (chart == (40, 110, 220)).all(axis=2)
    row = bar[np.argmax(bar.sum(axis=1))]
    columns = np.flatnonzero(row)
    plot = 1200  # columns, for 4 s
    assert row.sum() == columns[-1] - columns[0] + 1 == pytest.approx(plot / 2, abs=2)


def test_a_recording_of_one_frame_has_a_chart(tmp_path: Path) -> None:
    zones = results(tmp_path, 1)
    zones.add(record(0), labels(True), None)
    told = zones.close()
    assert told["zones"][1]["classes"] == [
        {"id": 1, "name": "water", "share": 1.0, "least_share": 1.0, "peak_share": 1.0}
    ]
    assert cv2.imread(str(tmp_path / "zones_chart")) is not None


@pytest.mark.parametrize(
    ("time_s", "length_s", "said"),
    [(12.34, 60, "12.3 s"), (187, 600, "3:07"), (3750, 7200, "1:02:30"), (59.9, 600, "1:00")],
)
def test_times_stand_at_the_axis_as_its_length_needs(time_s: float, length_s: float, said: str) -> None:
    assert clock(time_s, length_s) == said
