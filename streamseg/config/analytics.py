"""Zones of a stream's picture, and events: what is counted in its masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from msgspec import Meta

from streamseg.config.settings import Settings

MOST_ZONES = 64
MOST_EVENTS = 64
MOST_POINTS = 256  # of a polygon or a line
MOST_HOLES = 16
MOST_CLASS_BYTES = 16 << 10  # of the names in an event, which travel in each of its messages
PICTURE = "picture"
"""What the whole picture is called where a zone is named."""

_FLAT = 1e-9  # of the picture: an area below it is none

Point = tuple[float, float]
Points = tuple[Point, ...]
Share = Annotated[float, Meta(ge=0, le=1)]
Limit = Annotated[float, Meta(gt=0, le=1)]  # no share is below 0, so that what begins at 0 never ends
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class ZoneConfig(Settings, frozen=True):
    """A part of a stream's picture, in which the pixels of each class are counted."""

    polygon: Annotated[
        Annotated[Points, Meta(min_length=3, max_length=MOST_POINTS)] | None,
        Meta(
            description="Corners [x, y] as shares of the picture's width and height; where it crosses "
            "itself, the even-odd rule decides."
        ),
    ] = None
    holes: Annotated[
        tuple[Annotated[Points, Meta(min_length=3, max_length=MOST_POINTS)], ...],
        Meta(max_length=MOST_HOLES, description="Polygons that are cut out."),
    ] = ()
    line: Annotated[
        Annotated[Points, Meta(min_length=2, max_length=MOST_POINTS)] | None,
        Meta(description="Points [x, y] of a line, instead of a polygon; the pixels near it are counted."),
    ] = None
    width: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Width of the line, as a share of the picture's height."),
    ] = None
    ground: Annotated[
        tuple[Point, Point, Point, Point] | None,
        Meta(
            description="Four corners [x, y], one after the other, of a rectangle on the ground: areas are "
            "given in square metres, too."
        ),
    ] = None
    ground_size_m: Annotated[
        tuple[Annotated[float, Meta(gt=0, le=100000)], Annotated[float, Meta(gt=0, le=100000)]] | None,
        Meta(
            description="Lengths (m) of that rectangle: from the first corner to the second, and from the "
            "second to the third."
        ),
    ] = None

    def conflicts(self) -> Iterator[str]:
        if (self.polygon is None) == (self.line is None):
            has = "has both" if self.polygon is not None else "has neither"
            yield f"polygon: a zone needs a polygon, or a line with a width; {has}"
        if self.line is not None and self.width is None:
            yield "width: is missing; a line needs one, as a share of the picture's height"
        if self.line is None and self.width is not None:
            yield "width: belongs to a line; a polygon has none"
        if self.holes and self.polygon is None:
            yield "holes: belong to a polygon; there is none"
        rings = {"polygon": self.polygon} | {f"holes[{i}]": hole for i, hole in enumerate(self.holes)}
        for key, points in {**rings, "line": self.line, "ground": self.ground}.items():
            if points is None:
                continue
            outside = [f"{key}[{i}]: {_OUTSIDE}; is [{x:g}, {y:g}]" for i, (x, y) in enumerate(points)
                       if not (0 <= x <= 1 and 0 <= y <= 1)]  # fmt: skip
            yield from outside
            if outside:
                continue
            if key in rings and _is_flat(points):
                yield f"{key}: has no area; its points lie on one line"
            elif key == "line" and len(set(points)) < 2:
                yield "line: has no length; its points are one"
            elif key == "ground" and not _is_convex(points):
                yield "ground: must be four corners of a convex shape, one after the other around it"
        if (self.ground is None) != (self.ground_size_m is None):
            missing, other = (
                ("ground_size_m", "ground") if self.ground_size_m is None else ("ground", "ground_size_m")
            )
            yield f"{missing}: is missing; {other} needs it"


_OUTSIDE = "must be [x, y] with numbers from 0 to 1, as shares of width and height"


class EventConfig(Settings, frozen=True):
    """What is reported when the share of some classes in a zone is too high or low for some time."""

    classes: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
        Meta(min_length=1, max_length=255, description="Names of classes; their pixels are added up."),
    ]
    zone: Annotated[str | None, Meta(description="The zone's name; unset takes the whole picture.")] = None
    above: Annotated[
        Limit | None, Meta(description="It begins when the share has been at least this for for_s.")
    ] = None
    below: Annotated[
        Limit | None,
        Meta(
            description="It ends when the share has been below this for for_s; unset takes above, or appears."
        ),
    ] = None
    appears: Annotated[
        Limit | None,
        Meta(description="Like above, but the share must have been seen below it before."),
    ] = None
    disappears: Annotated[
        Limit | None,
        Meta(
            description="It begins when a share that was at least this is below it, and ends with its return."
        ),
    ] = None
    changes_by: Annotated[
        Limit | None,
        Meta(description="It begins when the share changes by so much within within_s."),
    ] = None
    within_s: Annotated[
        Annotated[float, Meta(gt=0, le=3600)] | None,
        Meta(description="The time (s) in which the share changes by changes_by."),
    ] = None
    for_s: Annotated[
        Seconds, Meta(description="How long (s) a state must last to begin or end an event; 0: at once.")
    ] = 0.0
    cooldown_s: Annotated[Seconds, Meta(description="After an end nothing begins for this long (s).")] = 0.0
    max_unknown: Annotated[
        Share,
        Meta(description="Share of unknown pixels (255) in the zone above which a mask is no data."),
    ] = 0.5
    stale_s: Annotated[
        Annotated[float, Meta(gt=0, le=86400)],
        Meta(description="Without a mask for this long (s) there is no data: nothing begins or ends."),
    ] = 10.0
    update_s: Annotated[
        Annotated[float, Meta(ge=1, le=86400)],
        Meta(description="An open event sends an update at most this often (s)."),
    ] = 10.0

    def conflicts(self) -> Iterator[str]:
        kinds = ("above", "appears", "disappears", "changes_by")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            has = "has " + (" and ".join(given) or "none")
            yield f"above: an event needs exactly one of {', '.join(kinds)}; {has}"
        begins = self.above if self.above is not None else self.appears
        if self.below is not None and begins is None:
            yield "below: belongs to above or appears; there is neither"
        elif self.below is not None and begins is not None and self.below > begins:
            which = "above" if self.above is not None else "appears"
            yield f"below: must be at most {which}, {begins:g}; is {self.below:g}"
        if self.changes_by is not None and self.within_s is None:
            yield "within_s: is missing; changes_by needs a time (s)"
        if self.changes_by is None and self.within_s is not None:
            yield "within_s: belongs to changes_by; there is none"
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            yield f"classes: each class once; {twice[0]} is there twice"
        if (letters := sum(len(name.encode()) for name in self.classes)) > MOST_CLASS_BYTES:
            yield f"classes: {letters} bytes of names do not go in a message; at most {MOST_CLASS_BYTES}"


def answer_conflicts(zones: Mapping[str, ZoneConfig], events: Mapping[str, EventConfig]) -> Iterator[str]:
    """What is wrong with zones and events together, each line beginning with zones. or events."""
    if len(zones) > MOST_ZONES:
        yield f"zones: at most {MOST_ZONES} zones a stream; has {len(zones)}"
    if len(events) > MOST_EVENTS:
        yield f"events: at most {MOST_EVENTS} events a stream; has {len(events)}"
    if PICTURE in zones:
        yield f"zones.{PICTURE}: is the name of the whole picture; choose another"
    for name, event in events.items():
        if event.zone is not None and event.zone != PICTURE and event.zone not in zones:
            yield f"events.{name}.zone: unknown zone {event.zone!r}; zones: {', '.join(zones) or 'none'}"


def _is_flat(points: Points) -> bool:
    """Whether all points lie on one line."""
    x0, y0 = points[0]
    x1, y1 = max(points, key=lambda p: math.dist(p, (x0, y0)))
    return all(abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) < _FLAT for x, y in points)


def _is_convex(points: Points) -> bool:
    """Whether four points go around a convex shape, in either direction."""
    turns = []
    for i in range(4):
        (ax, ay), (bx, by), (cx, cy) = points[i], points[(i + 1) % 4], points[(i + 2) % 4]
        turns.append((bx - ax) * (cy - by) - (by - ay) * (cx - bx))
    return all(t > _FLAT for t in turns) or all(t < -_FLAT for t in turns)
