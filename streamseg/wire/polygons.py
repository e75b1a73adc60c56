"""The regions of a mask as outlines ⇄ the parts of a `polygons/<stream>/` message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.errors import WireError
from streamseg.wire.codec import MAX_SIDE, check_size
from streamseg.wire.fields import Count, OfMask
from streamseg.wire.message import read_of_stream, topic_of

MAX_POLYGONS_DOCUMENT = 4 << 20
"""Bytes of a polygons message's JSON document."""

MAX_POLYGONS = 4096
"""Polygons of a message."""

MAX_POINTS = 1 << 17
"""Points of all rings of a message."""

Coordinate = Annotated[float, Meta(ge=0, le=MAX_SIDE)]
Ring = Annotated[list[tuple[Coordinate, Coordinate]], Meta(min_length=3, max_length=MAX_POINTS)]


class Polygon(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Connected pixels of one class; its rings are filled together by the even-odd rule."""

    id: Annotated[int, Meta(ge=0, le=254)]  # of the class
    name: Annotated[str, Meta(max_length=256)] | None
    area: Count  # pixels
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None  # mean of its pixels
    rings: Annotated[list[Ring], Meta(min_length=1, max_length=MAX_POINTS)]  # the outline, then holes


class PolygonsDocument(OfMask, frozen=True, kw_only=True):
    """The second part of a polygons message; the fields in front are those of a mask's header."""

    kind: Literal["polygons"]
    polygons: Annotated[list[Polygon], Meta(max_length=MAX_POLYGONS)]  # the largest first
    left_out: Count  # regions, the smallest ones
    left_out_pixels: Count


def encode_polygons(document: PolygonsDocument) -> list[bytes]:
    """Make the parts of the message; raises WireError for what no message may carry."""
    check_size(*document.shape)
    data = msgspec.json.encode(document)
    if len(data) > MAX_POLYGONS_DOCUMENT:
        raise WireError(f"polygons: {len(data)} bytes of JSON; the most is {MAX_POLYGONS_DOCUMENT}")
    return [topic_of("polygons", document.stream), data]


def parse_polygons(parts: Sequence[bytes]) -> PolygonsDocument:
    """Read a polygons message; raises WireError, and nothing else, on what is not one."""
    document = read_of_stream(parts, "polygons", PolygonsDocument, MAX_POLYGONS_DOCUMENT)
    height, width = check_size(*document.shape)
    points = 0
    for polygon in document.polygons:
        for ring in polygon.rings:
            points += len(ring)
            if any(x > width or y > height for x, y in ring):
                raise WireError(f"rings: a point lies outside the shape, {height}x{width}")
    if points > MAX_POINTS:
        raise WireError(f"rings: have {points} points; the most is {MAX_POINTS}")
    return document
