"""Events of a zone's share: what begins, goes on and ends, beside a reference without a state."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from streamseg.analytics.counts import ZoneCount, ZoneCounts
from streamseg.analytics.events import EventMachine, EventMessage, StreamEvents
from streamseg.config import EventConfig
from streamseg.types import IGNORE, ClassInfo, LabelSet, Stamp
from tests.oracles.events import Found, Row, reference

START_NS = 1_700_000_000_000_000_000
LABELS = LabelSet("two", (ClassInfo("road", (0, 0, 0)), ClassInfo("water", (0, 0, 255))))


def config(**settings: Any) -> EventConfig:
    return EventConfig(**{"classes": ("water",), **settings})


def stamp(time_s: float, seq: int = 0) -> Stamp:
    captured_ns = START_NS + round(time_s * 1e9)
    return Stamp("gate", 0, seq, round(time_s * 1000), Fraction(1, 1000), captured_ns, "arrival")


def played(settings: EventConfig, *shares: float | None, step_s: float = 1.0) -> list[EventMessage]:
    """What comes of these shares, one a second."""
    machine = EventMachine("flood", settings)
    return [message for i, share in enumerate(shares)
            for message in machine.step(i * step_s, share, stamp(i * step_s, i))]  # fmt: skip


def told(messages: Sequence[EventMessage]) -> list[tuple[str, float]]:
    return [(f"{one.state} {one.why}".strip(), one.time_s) for one in messages]


def test_it_begins_when_the_share_has_been_high_for_long_enough_and_says_since_when() -> None:
    begin, end = played(config(above=0.5, for_s=2), 0.4, 0.5, 0.9, 0.7, 0.7, 0.4, 0.4, 0.4)
    assert told([begin, end]) == [("begin", 3.0), ("end below", 7.0)]
    assert (begin.value, begin.peak, begin.duration_s) == (0.7, 0.9, 2.0)
    assert begin.begun_unix_ns == START_NS + 1_000_000_000
    assert (end.value, end.peak, end.duration_s) == (0.4, 0.9, 6.0)
    assert (end.stamp.seq, end.at_unix_ns) == (7, START_NS + 7_000_000_000)


def test_between_below_and_above_it_neither_begins_nor_ends() -> None:
    settings = config(above=0.5, below=0.3)
    assert told(played(settings, 0.4, 0.5, 0.4, 0.3, 0.4, 0.29, 0.4)) == [("begin", 1.0), ("end below", 5.0)]


def test_a_moment_below_starts_the_time_again() -> None:
    assert told(played(config(above=0.5, for_s=2), 0.6, 0.6, 0.4, 0.6, 0.6)) == []


def test_what_was_there_from_the_start_has_not_appeared() -> None:
    settings = config(appears=0.5)
    assert told(played(settings, 0.9, 0.9, 0.1, 0.9, 0.1)) == [("begin", 3.0), ("end below", 4.0)]


def test_what_was_never_there_has_not_disappeared() -> None:
    messages = played(config(disappears=0.5), 0.1, 0.1, 0.9, 0.3, 0.1, 0.2, 0.5)
    assert told(messages) == [("begin", 3.0), ("end back", 6.0)]
    assert messages[-1].peak == 0.1


def test_a_change_counts_within_its_time_in_both_directions() -> None:
    settings = config(changes_by=0.5, within_s=2)
    assert told(played(settings, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9, 0.9, 0.9)) == []
    down = played(settings, 0.75, 0.75, 0.25, 0.25, 0.25, 0.25)
    assert told(down) == [("begin", 2.0), ("end steady", 4.0)]
    assert (down[0].value, down[1].value) == (0.5, 0.0)


def test_after_an_end_nothing_begins_for_the_cooldown_and_then_what_still_holds_does() -> None:
    settings = config(above=0.5, cooldown_s=4)
    begun = played(settings, 0.6, 0.1, 0.6, 0.6, 0.6, 0.6, 0.6)
    assert told(begun) == [("begin", 0.0), ("end below", 1.0), ("begin", 5.0)]
    assert begun[-1].duration_s == 3.0


def test_no_data_is_not_zero() -> None:
    """Unknown pixels end nothing; after stale_s it is said, and what was about to end is forgotten."""
    settings = config(above=0.5, for_s=3, stale_s=2)
    shares = [0.9, 0.9, 0.9, 0.9, 0.1, 0.1, None, None, None, 0.1, 0.1, 0.1, 0.1]
    messages = played(settings, *shares)
    expected = [("begin", 3.0), ("update", 7.0), ("update", 9.0), ("end below", 12.0)]
    assert told(messages) == expected
    assert [one.no_data for one in messages] == [False, True, False, False]
    assert messages[1].at_unix_ns == START_NS + 7_000_000_000


def test_a_short_time_without_data_counts_with_what_was_before_and_after_it() -> None:
    assert told(played(config(above=0.5, for_s=4, stale_s=4), 0.9, None, None, None, 0.9)) == [("begin", 4.0)]
    assert told(played(config(above=0.5, for_s=4, stale_s=3), 0.9, None, None, None, 0.9)) == []


def test_a_stream_without_frames_is_told_by_the_time_alone_and_once() -> None:
    machine = EventMachine("flood", config(above=0.5, stale_s=10))
    machine.step(0.0, 0.9, stamp(0.0))
    assert machine.tick(10.0) == []
    (update,) = machine.tick(10.5)
    assert (update.state, update.no_data, update.time_s, update.value) == ("update", True, 10.0, 0.9)
    assert machine.tick(5000.0) == []
    (update,) = machine.step(6000.0, 0.8, stamp(6000.0))
    assert (update.state, update.no_data, update.duration_s) == ("update", False, 6000.0)


def test_an_open_event_sends_updates_not_more_often_than_asked() -> None:
    messages = played(config(above=0.5, update_s=3), *[0.6, 0.7, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8])
    assert told(messages) == [("begin", 0.0), ("update", 3.0), ("update", 6.0)]
    assert [one.peak for one in messages] == [0.6, 0.9, 0.9]


def test_an_open_event_goes_on_after_a_restart_where_it_still_holds() -> None:
    before = played(config(above=0.5), 0.6, 0.9)[0]
    machine = EventMachine("flood", config(above=0.5, below=0.2), before)
    (update,) = machine.step(0.0, 0.4, stamp(100.0))
    assert (update.state, update.duration_s, update.peak) == ("update", 100.0, 0.6)
    assert update.begun_unix_ns == before.begun_unix_ns
    machine = EventMachine("flood", config(above=0.5, for_s=60), before)
    (end,) = machine.step(0.0, 0.4, stamp(100.0))
    assert (end.state, end.why, end.duration_s) == ("end", "restarted", 100.0)


def test_an_open_event_whose_stream_does_not_come_back_is_told_to_have_no_data() -> None:
    before = played(config(above=0.5), 0.6)[0]
    machine = EventMachine("flood", config(above=0.5, stale_s=10), before)
    assert machine.tick(5.0) == []
    (update,) = machine.tick(15.5)
    assert (update.no_data, update.duration_s) == (True, 10.0)


def test_a_cooldown_lasts_over_a_restart() -> None:
    before = played(config(above=0.5), 0.6, 0.1)[-1]
    assert before.state == "end"
    machine = EventMachine("flood", config(above=0.5, cooldown_s=60), before)
    assert machine.step(0.0, 0.9, stamp(31.0)) == []
    assert machine.step(29.0, 0.9, stamp(60.0)) == []
    assert told(machine.step(30.0, 0.9, stamp(61.0))) == [("begin", 30.0)]
    back = EventMachine("flood", config(above=0.5, cooldown_s=60), before)  # the clock was set back
    assert back.step(0.0, 0.9, stamp(-7000.0)) == []
    assert told(back.step(60.0, 0.9, stamp(-6940.0))) == [("begin", 60.0)]


def counted(time_s: float, *, water: int, unknown: int = 0, pixels: int = 100) -> ZoneCounts:
    counts = np.zeros(256, np.uint64)
    counts[1], counts[IGNORE], counts[0] = water, unknown, pixels - water - unknown
    zones = (ZoneCount("picture", pixels, counts), ZoneCount("ramp", pixels, counts))
    return ZoneCounts(stamp(time_s), (10, 10), "tiny", LABELS, (*zones, ZoneCount("none", 0, counts * 0)))


def test_the_share_is_of_all_pixels_of_the_zone_and_too_many_unknown_ones_are_no_data() -> None:
    settings = config(zone="ramp", above=0.5, max_unknown=0.4)
    events = StreamEvents({"flood": settings})
    assert events.step(0.0, counted(0.0, water=49, unknown=40)) == []
    assert events.step(1.0, counted(1.0, water=50, unknown=41)) == []
    (begin,) = events.step(2.0, counted(2.0, water=50, unknown=40))
    assert (begin.zone, begin.value, begin.classes) == ("ramp", 0.5, ("water",))


def test_a_zone_without_pixels_or_classes_that_the_network_lacks_are_no_data() -> None:
    settings = {
        "empty": config(zone="none", above=0.1),
        "foreign": config(classes=("lava",), disappears=0.1),
        "gone": config(zone="gone", above=0.1),
    }
    events = StreamEvents(settings)
    assert [m for i in range(20) for m in events.step(i, counted(i, water=100))] == []
    both = StreamEvents({"any": config(classes=("road", "water"), above=1.0)})
    assert [m.event for m in both.step(0.0, counted(0.0, water=30))] == ["any"]


def test_other_settings_end_what_is_gone_or_compares_something_else() -> None:
    settings = {name: config(above=0.1) for name in ("flood", "gone", "other")}
    events = StreamEvents(settings)
    assert len(events.step(0.0, counted(0.0, water=50))) == 3
    changed = {"flood": config(above=0.1, for_s=5), "other": config(above=0.2), "new": config(above=0.4)}
    messages = events.change(1.0, changed, ["other"])
    assert [(m.event, m.state, m.why) for m in messages] == [
        ("gone", "end", "removed"), ("other", "end", "changed")
    ]  # fmt: skip
    messages = events.step(2.0, counted(2.0, water=0)) + events.step(6.0, counted(6.0, water=0))
    assert told(messages) == [], "flood ends after 5 s now"
    assert told(events.step(7.0, counted(7.0, water=0))) == [("end below", 7.0)]


def random_case(rng: random.Random) -> tuple[list[Row], EventConfig]:
    """A series with plateaus, noise, unknown frames, gaps and equal times; eighths and 32nds are exact."""
    kind = rng.choice(["above", "appears", "disappears", "changes_by"])
    limit = rng.randint(1, 24) / 32
    settings: dict[str, Any] = {kind: limit, "stale_s": rng.choice([0.5, 2.0, 10.0])}
    if kind in ("above", "appears") and rng.random() < 0.5:
        settings["below"] = rng.randint(1, round(limit * 32)) / 32
    if kind == "changes_by":
        settings["within_s"] = rng.choice([0.25, 1.0, 4.0])
    settings["for_s"] = rng.choice([0.0, 0.0, 0.5, 2.0])
    settings["cooldown_s"] = rng.choice([0.0, 0.0, 1.0, 6.0])
    settings["update_s"] = rng.choice([1.0, 3.0, 10.0])
    rows: list[Row] = []
    time_s, level = 0.0, rng.randint(0, 32)
    for i in range(rng.randint(1, 70)):
        steps = [0.125] * 12 + [0.0, 0.5, 1.0, 2.0, 2.125, 11.0]
        time_s += rng.choice(steps) if i else 0.0
        level = rng.randint(0, 32) if rng.random() < 0.15 else min(32, max(0, level + rng.randint(-2, 2)))
        share = None if rng.random() < rng.choice([0.0, 0.1, 0.5]) else level / 32
        rows.append((time_s, share, START_NS + round(time_s * 1e9) + i))
    return rows, config(**settings)


@pytest.mark.parametrize(
    "cases", [500, pytest.param(10_000, marks=pytest.mark.slow)], ids=lambda cases: str(cases)
)
def test_random_series_give_what_the_reference_finds(cases: int) -> None:
    rng, kinds = random.Random(cases), Counter[str]()
    for case in range(cases):
        rows, settings = random_case(rng)
        machine = EventMachine("flood", settings)
        messages: list[EventMessage] = []
        for seq, (time_s, share, unix_ns) in enumerate(rows):
            one = Stamp("gate", 0, seq, None, Fraction(1), unix_ns, "arrival")
            messages += machine.step(time_s, share, one)
        found = [Found(**{f.name: getattr(m, f.name) for f in fields(Found)}) for m in messages]
        assert found == reference(rows, settings), f"case {case}: {settings} {rows}"
        kinds.update(f"{m.state} {m.why} {m.no_data}" for m in messages)
    assert len(kinds) == 6, kinds  # begin, update, update without data, and three kinds of end
