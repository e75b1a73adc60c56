"""What was counted in a mask ⇄ the parts of a `zones/<stream>/` message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.errors import WireError
from streamseg.wire.codec import check_size
from streamseg.wire.fields import Count, OfMask, StreamText
from streamseg.wire.message import read_of_stream, topic_of

MAX_ZONES_DOCUMENT = 1 << 20
"""Bytes of a zones message's JSON document."""

MAX_ZONES = 65
"""The whole picture, and the zones of a stream."""

Share = Annotated[float, Meta(ge=0, le=1)]
Area = Annotated[float, Meta(ge=0, le=1e15)]


class ZoneClass(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The pixels of one class in a zone."""

    id: Annotated[int, Meta(ge=0, le=254)]
    name: Annotated[str, Meta(max_length=256)] | None
    pixels: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    share: Share  # pixels of the class / pixels of the zone
    confidence: Share | None = None  # mean of its pixels
    square_m: Area | None = None  # on the ground, where the zone has one


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """One zone; the classes are those that are present, by their id."""

    zone: StreamText  # "picture" is the whole one
    pixels: Count  # 0 where it covers no pixel's centre
    unknown: Count  # of them, pixels of label 255
    square_m: Area | None
    classes: Annotated[list[ZoneClass], Meta(max_length=255)]


class ZonesDocument(OfMask, frozen=True, kw_only=True):
    """The second part of a zones message; the fields in front are those of a mask's header."""

    kind: Literal["zones"]
    zones: Annotated[list[Zone], Meta(min_length=1, max_length=MAX_ZONES)]  # the whole picture first
    events: Annotated[list[StreamText], Meta(max_length=64)] | msgspec.UnsetType = (
        msgspec.UNSET
    )  # the stream's


class ZoneMark(msgspec.Struct, frozen=True):
    """Which zones and events a stream has; in the daemon's status."""

    revision: str = ""  # differs where they differ; empty for none
    kept: bool = False  # other ones than the configuration's; the daemon keeps them in its state folder


class ZoneShares(msgspec.Struct, frozen=True):
    """What was counted in a stream's masks last; at most a second old where the status is asked for often."""

    age_s: float
    classes: list[str]  # of its label set, by id; zones list those that are present
    zones: list[Zone]
    dropped: Count = 0  # masks that were not counted because others waited


def encode_zones(document: ZonesDocument) -> list[bytes]:
    """Make the parts of the message; raises WireError for what no message may carry."""
    check_size(*document.shape)
    data = msgspec.json.encode(document)
    if len(data) > MAX_ZONES_DOCUMENT:
        raise WireError(f"zones: {len(data)} bytes of JSON; the most is {MAX_ZONES_DOCUMENT}")
    return [topic_of("zones", document.stream), data]


def parse_zones(parts: Sequence[bytes]) -> ZonesDocument:
    """Read a zones message; raises WireError, and nothing else, on what is not one."""
    document = read_of_stream(parts, "zones", ZonesDocument, MAX_ZONES_DOCUMENT)
    height, width = check_size(*document.shape)
    if document.zones[0].zone != "picture" or document.zones[0].pixels != height * width:
        raise WireError(f"zones: the first must be picture, of {height * width} pixels")
    if len({zone.zone for zone in document.zones}) != len(document.zones):
        raise WireError("zones: a name is there twice")
    for zone in document.zones:
        ids = [one.id for one in zone.classes]
        if ids != sorted(set(ids)):
            raise WireError(f"classes: of zone {zone.zone!r} must be in the order of their ids, each once")
        if sum(one.pixels for one in zone.classes) + zone.unknown != zone.pixels:
            raise WireError(
                f"pixels: those of zone {zone.zone!r} are not those of its classes and unknown ones"
            )
    return document
