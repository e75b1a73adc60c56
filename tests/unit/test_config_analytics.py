"""Zones and events in the settings: a line for each mistake, which names the table and the key."""

from __future__ import annotations

from typing import Any

import pytest

from streamseg.config import PICTURE, EventConfig, StreamConfig, ZoneConfig, parse_config
from streamseg.errors import ConfigError

SQUARE = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
FLAT = [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]
BOW = [[0, 0], [1, 1], [1, 0], [0, 1]]
ZONE = "streams.gate.zones.ramp"
EVENT = "streams.gate.events.flood"


def problems(zone: dict[str, Any] | None = None, event: dict[str, Any] | None = None) -> list[str]:
    """What is said of a stream with this zone, called ramp, and this event, called flood."""
    stream: dict[str, Any] = {"source": "demo:"}
    stream |= {"zones": {"ramp": zone}} if zone is not None else {}
    stream |= {"events": {"flood": {"classes": ["water"]} | event}} if event is not None else {}
    try:
        parse_config({"streams": {"gate": stream}})
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("zone", "key", "says"),
    [
        ({}, "polygon", "a zone needs a polygon, or a line with a width; has neither"),
        ({"polygon": SQUARE, "line": SQUARE, "width": 0.1}, "polygon", "has both"),
        ({"polygon": SQUARE[:2]}, "polygon", "at least 3"),
        ({"polygon": SQUARE * 65}, "polygon", "at most 256"),
        ({"polygon": [[0, 0], [1, 0], [0.5, 1.01]]}, "polygon[2]", "from 0 to 1"),
        ({"polygon": [[0, 0], [1, 0], [0.5, float("nan")]]}, "polygon[2]", "is [0.5, nan]"),
        ({"polygon": [[0, 0], [1, 0], [float("inf"), 1]]}, "polygon[2]", "is [inf, 1]"),
        ({"polygon": [[0, 0, 0], [1, 0], [0, 1]]}, "polygon", "each a list of 2"),
        ({"polygon": "SQUARE"}, "polygon", "must be a list"),
        ({"polygon": FLAT}, "polygon", "has no area"),
        ({"polygon": [[0.5, 0.5]] * 3}, "polygon", "has no area"),
        ({"polygon": SQUARE, "holes": [FLAT]}, "holes[0]", "has no area"),
        ({"polygon": SQUARE, "holes": [SQUARE] * 17}, "holes", "at most 16"),
        ({"line": SQUARE, "width": 0.1, "holes": [SQUARE]}, "holes", "belong to a polygon"),
        ({"line": SQUARE}, "width", "is missing"),
        ({"line": SQUARE, "width": 0}, "width", "above 0"),
        ({"line": [[0.5, 0.5]] * 2, "width": 0.1}, "line", "has no length"),
        ({"polygon": SQUARE, "width": 0.1}, "width", "belongs to a line"),
        ({"polygon": SQUARE, "ground": SQUARE}, "ground_size_m", "is missing"),
        ({"polygon": SQUARE, "ground_size_m": [1, 1]}, "ground", "is missing"),
        ({"polygon": SQUARE, "ground": BOW, "ground_size_m": [1, 1]}, "ground", "convex"),
        ({"polygon": SQUARE, "ground": SQUARE[:3], "ground_size_m": [1, 1]}, "ground", "a list of 4"),
        ({"polygon": SQUARE, "ground": SQUARE, "ground_size_m": [0, 1]}, "ground_size_m", "above 0"),
        ({"polygons": SQUARE}, "polygons", "did you mean"),
    ],
)
def test_a_zone_that_cannot_be_is_refused(zone: dict[str, Any], key: str, says: str) -> None:
    found = problems(zone)
    assert any(one.startswith(f"{ZONE}.{key}: ") and says in one for one in found), found


@pytest.mark.parametrize(
    ("event", "key", "says"),
    [
        ({}, "above", "exactly one of above, appears, disappears, changes_by; has none"),
        ({"above": 0.1, "appears": 0.1}, "above", "has above and appears"),
        ({"above": 1.1}, "above", "at most 1"),
        ({"above": float("nan")}, "above", "a number"),
        ({"above": 0.3, "below": 0.4}, "below", "must be at most above, 0.3; is 0.4"),
        ({"above": 0}, "above", "above 0"),
        ({"above": 0.3, "below": 0}, "below", "above 0"),
        ({"appears": 0.3, "below": 0.4}, "below", "must be at most appears, 0.3; is 0.4"),
        ({"disappears": 0.3, "below": 0.2}, "below", "belongs to above or appears"),
        ({"above": 0.3, "update_s": 0.5}, "update_s", "at least 1"),
        ({"above": 0.3, "classes": ["w" * 200 + str(i) for i in range(99)]}, "classes", "at most 16384"),
        ({"changes_by": 0.3}, "within_s", "is missing"),
        ({"above": 0.3, "within_s": 1}, "within_s", "belongs to changes_by"),
        ({"above": 0.3, "zone": "nowhere"}, "zone", "unknown zone 'nowhere'; zones: none"),
        ({"above": 0.3, "classes": []}, "classes", "at least 1"),
        ({"above": 0.3, "classes": ["water", "water"]}, "classes", "water is there twice"),
        ({"above": 0.3, "for_s": -1}, "for_s", "at least 0"),
    ],
)
def test_an_event_that_cannot_be_is_refused(event: dict[str, Any], key: str, says: str) -> None:
    found = problems(event=event)
    assert any(one.startswith(f"{EVENT}.{key}: ") and says in one for one in found), found


def test_zones_and_events_are_taken_with_their_defaults() -> None:
    assert problems({"polygon": SQUARE, "holes": [SQUARE]}, {"zone": "ramp", "above": 0.3}) == []
    assert (
        problems({"line": SQUARE, "width": 0.02}, {"zone": PICTURE, "changes_by": 0.1, "within_s": 5}) == []
    )
    assert problems({"polygon": BOW}, {"disappears": 0.3}) == [], "it may cross itself"


def test_the_whole_picture_is_no_zone_of_ones_own() -> None:
    with pytest.raises(ConfigError, match=r"zones\.picture: is the name of the whole picture"):
        StreamConfig(source="demo:", zones={PICTURE: ZoneConfig(polygon=((0, 0), (1, 0), (0, 1)))})


def test_there_are_at_most_64_zones_and_events() -> None:
    zones = {f"z{i}": ZoneConfig(polygon=((0, 0), (1, 0), (0, 1))) for i in range(65)}
    events = {f"e{i}": EventConfig(classes=("water",), above=0.5) for i in range(65)}
    with pytest.raises(ConfigError) as caught:
        StreamConfig(source="demo:", zones=zones, events=events)
    assert [problem[:27] for problem in caught.value.problems] == [
        "zones: at most 64 zones a s",
        "events: at most 64 events a",
    ]
