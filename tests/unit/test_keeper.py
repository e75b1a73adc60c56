"""Events of streams while a daemon runs, and what becomes of them when it is started again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.analytics.counts import ZoneCount, ZoneCounts
from streamseg.analytics.journal import EventJournal
from streamseg.analytics.keeper import EventKeeper, rule_of
from streamseg.config import EventConfig, ZoneConfig
from streamseg.types import ClassInfo, FrameSettings, LabelSet, Stamp
from streamseg.wire import EventDocument, KeptEvent, parse_event

START_NS = 1_700_000_000_000_000_000
LABELS = LabelSet("two", (ClassInfo("road", (0, 0, 0)), ClassInfo("water", (0, 0, 255))))
RAMP = ZoneConfig(polygon=((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)))
ZONES = {"ramp": RAMP}


def flood(**more: Any) -> EventConfig:
    return EventConfig(**{"classes": ("water",), "zone": "ramp", "above": 0.5} | more)


def counted(time_s: float, water: int, stream: str = "gate", epoch: int = 0) -> ZoneCounts:
    counts = np.zeros(256, np.uint64)
    counts[1], counts[0] = water, 100 - water
    captured_ns = START_NS + round(time_s * 1e9)
    stamp = Stamp(
        stream, epoch, round(time_s * 10), round(time_s * 1000), Fraction(1, 1000), captured_ns, "arrival"
    )
    return ZoneCounts(
        stamp, (10, 10), "tiny", LABELS, (ZoneCount("picture", 100, counts), ZoneCount("ramp", 100, counts))
    )


def settings(events: dict[str, EventConfig], zones: dict[str, ZoneConfig] = ZONES) -> FrameSettings:
    return FrameSettings(zones=zones, events=events)


class Published:
    """What a publisher has been given."""

    def __init__(self) -> None:
        self.events: list[EventDocument] = []
        self.kept: dict[str, list[KeptEvent]] = {}

    def put(self, stream: str, new: list[list[bytes]], kept: list[KeptEvent]) -> None:
        self.events += map(parse_event, new)
        self.kept[stream] = kept

    def told(self) -> list[str]:
        return [f"{e.event} {e.state} {e.why}".strip() for e in self.events]


Start = Callable[..., tuple[EventKeeper, Published]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a keeper on the same folder; the one before ends as with kill -9."""
    keepers: list[EventKeeper] = []

    def begin(**streams: Any) -> tuple[EventKeeper, Published]:
        while keepers:
            keepers.pop().close()
        published = Published()
        folder = tmp_path / "state"
        journal = EventJournal(folder, lambda: folder.mkdir(exist_ok=True))
        keepers.append(EventKeeper(journal, len(keepers) + 1, published.put, streams))
        published.kept = keepers[0].kept()
        for stream, (zones, events) in streams.items():
            keepers[0].changed(stream, settings(events, zones))
        keepers[0].tick()
        return keepers[0], published

    yield begin
    for keeper in keepers:
        keeper.close()


def test_what_is_counted_becomes_messages_that_snapshots_bring(start: Start) -> None:
    events = {"flood": flood()}
    keeper, published = start(gate=(ZONES, events))
    for time_s, water in ((0.0, 10), (1.0, 60), (2.0, 20)):
        keeper.counted(counted(time_s, water), settings(events))
    assert published.told() == ["flood begin", "flood end below"]
    begin, end = published.events
    assert (begin.stream, begin.zone, begin.event_n, begin.previous_n) == ("gate", "ramp", 0, None)
    assert (end.id, end.duration_s, end.epoch, end.seq, end.pts) == (begin.id, 1.0, 0, 20, 2000)
    assert [parse_event(one.parts) for one in published.kept["gate"]] == [begin, end]


def test_an_open_event_goes_on_after_a_restart_or_ends_by_what_is_seen_first(start: Start) -> None:
    events = {"flood": flood(), "wet": flood(above=0.1)}
    keeper, published = start(gate=(ZONES, events))
    keeper.counted(counted(0.0, 60), settings(events))
    first = published.events
    keeper, published = start(gate=(ZONES, events))
    assert [parse_event(one.parts) for one in published.kept["gate"]] == first, "before any mask"
    assert published.told() == []
    keeper.counted(counted(30.0, 20), settings(events))
    assert published.told() == ["flood end restarted", "wet update"]
    assert [(e.id, e.event_n, e.duration_s) for e in published.events] == [
        (first[0].id, 2, 30.0), (first[1].id, 3, 30.0)
    ]  # fmt: skip
    assert published.events[0].journal == first[0].journal


def test_what_is_gone_or_another_after_a_restart_ends_at_once(start: Start) -> None:
    events = {"flood": flood(), "wet": flood(above=0.1), "same": flood(above=0.2)}
    keeper, published = start(gate=(ZONES, events), yard=(ZONES, events))
    for stream in ("gate", "yard"):
        keeper.counted(counted(0.0, 60, stream), settings(events))
    assert len(published.events) == 6
    later = {"flood": flood(above=0.6), "same": flood(above=0.2, for_s=9, cooldown_s=9)}
    keeper, published = start(gate=(ZONES, later))
    told = sorted(f"{e.stream} {e.event} {e.why}" for e in published.events)
    assert told == [
        "gate flood changed", "gate wet removed",
        "yard flood removed", "yard same removed", "yard wet removed",
    ]  # fmt: skip
    keeper.counted(counted(1.0, 60), settings(later))
    assert published.told()[-2:] == ["flood begin", "same update"]


def test_another_polygon_is_another_event_and_a_longer_time_is_not() -> None:
    other = {"ramp": ZoneConfig(polygon=((0.0, 0.0), (1.0, 0.0), (1.0, 0.9)))}
    assert rule_of(flood(), ZONES) != rule_of(flood(), other)
    assert rule_of(flood(zone=None), ZONES) == rule_of(flood(zone=None), other)
    assert rule_of(flood(), ZONES) != rule_of(flood(zone=None), ZONES)
    assert rule_of(flood(), ZONES) == rule_of(flood(for_s=5, cooldown_s=1, update_s=2, stale_s=3), ZONES)
    for other_settings in ({"below": 0.1}, {"above": None, "appears": 0.5}, {"classes": ("road",)}):
        assert rule_of(flood(), ZONES) != rule_of(flood(**other_settings), ZONES)


def test_a_reload_ends_what_is_gone_and_lets_the_others_go_on(start: Start) -> None:
    events = {"flood": flood(), "wet": flood(above=0.1)}
    keeper, published = start(gate=(ZONES, events))
    keeper.counted(counted(0.0, 60), settings(events))
    keeper.changed("gate", settings({"flood": flood(for_s=1)}))
    assert published.told()[2:] == ["wet end removed"]
    keeper.changed("gate", settings({}, {}))
    assert published.told()[3:] == ["flood end removed"]
    keeper.counted(counted(1.0, 60), settings(events))
    assert published.told()[4:] == [], "a mask that was on its way with the settings before"
    keeper.changed("gate", settings(events))
    keeper.counted(counted(1.0, 60), settings(events))
    assert published.told()[4:] == ["flood begin", "wet begin"]


def test_a_removed_stream_ends_its_events_and_they_can_still_be_asked_for(start: Start) -> None:
    events = {"flood": flood()}
    keeper, published = start()
    keeper.counted(counted(0.0, 60), settings(events))  # added while it runs
    keeper.changed("gate", None)
    keeper.changed("unknown", None)
    assert published.told() == ["flood begin", "flood end removed"]
    assert len(published.kept["gate"]) == 2
    keeper, published = start()
    assert len(published.kept["gate"]) == 2
    assert published.told() == []


def test_a_stream_without_frames_has_no_data(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("streamseg.analytics.keeper.time.monotonic", lambda: now_s)
    events = {"flood": flood(stale_s=5)}
    keeper, published = start(gate=(ZONES, events))
    keeper.tick()
    keeper.counted(counted(0.0, 60), settings(events))
    now_s += 4
    keeper.tick()
    assert published.told() == ["flood begin"]
    now_s += 2
    keeper.tick()
    keeper.tick()
    assert published.told() == ["flood begin", "flood update"]
    assert (published.events[1].no_data, published.events[1].duration_s) == (True, 5.0)
    now_s += 14
    keeper.counted(counted(0.0, 55, epoch=1), settings(events))
    assert (published.events[2].no_data, published.events[2].duration_s) == (False, 20.0)


def test_streams_without_events_cost_nothing_and_make_no_file(start: Start, tmp_path: Path) -> None:
    keeper, published = start(gate=(ZONES, {}))
    keeper.counted(counted(0.0, 60), settings({}))
    keeper.tick()
    assert published.events == []
    assert not (tmp_path / "state").exists()


def test_the_log_has_a_line_a_second_at_most(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = {"flood": flood()}
    keeper, published = start(gate=(ZONES, events))
    for i in range(50):
        keeper.counted(counted(float(i), 60 if i % 2 else 10), settings(events))
    assert len(published.events) == 49
    assert caplog.messages[0] == "gate: event flood begins: 60% of ramp"
    assert len(caplog.messages) < 5


def test_classes_that_a_network_does_not_have_are_named_once_for_each_network(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """An event of them would say nothing, and nobody would know why."""
    events = {"flood": flood(classes=("wather",))} | {
        f"e{i}": flood(classes=("water", f"fog {i}")) for i in range(3)
    }
    keeper, published = start(gate=(ZONES, events))
    for i in range(3):
        keeper.counted(counted(float(i), 10), settings(events))
    assert published.events == []
    assert caplog.messages == [
        "gate: events.flood.classes: engine tiny has no class 'wather'; did you mean 'water'?",
        "gate: events.e0.classes: engine tiny has no class 'fog 0'; classes: road, water",
        "gate: events.e1.classes: engine tiny has no class 'fog 1'; classes: road, water",
        "gate: events: more classes that it does not have: 1",
    ]
    caplog.clear()
    right = {"flood": flood()}
    keeper.changed("gate", settings(right))
    keeper.counted(counted(3.0, 10), settings(right))
    assert caplog.messages == []
