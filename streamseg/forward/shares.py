"""A document of shares, as far as a forwarder reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streamseg.errors import WireError
from streamseg.wire.message import StreamText, read_document, topic_of

MAX_ZONES = 1 << 20
"""Bytes of a document."""


class _Class(msgspec.Struct):
    name: str
    share: float


class _Zone(msgspec.Struct):
    zone: StreamText
    pixels: int
    unknown: int
    classes: list[_Class]


class Zones(msgspec.Struct):
    version: int
    stream: StreamText
    captured_unix_ns: int
    zones: list[_Zone]


def parse_zones(parts: Sequence[bytes]) -> Zones:
    """Read a zones message; raises WireError, and nothing else, on what is not one."""
    if len(parts) != 2:
        raise WireError(f"message: zones must have 2 parts, has {len(parts)}")
    zones = read_document(parts[1], Zones, MAX_ZONES, json=True)
    if parts[0] != topic_of("zones", zones.stream):
        raise WireError(f"topic: {parts[0][:80]!r} carries the zones of stream {zones.stream!r}")
    return zones


def percents(document: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is published of each zone: the classes' shares in percent, of the zone's pixels."""
    said = msgspec.json.decode(document, type=Zones)
    for zone in said.zones:
        yield (
            zone.zone,
            {
                "percent": {one.name: round(one.share * 100, 2) for one in zone.classes},
                "unknown": round(zone.unknown * 100 / zone.pixels, 2) if zone.pixels else 0.0,
                "pixels": zone.pixels,
                "captured_unix_ns": said.captured_unix_ns,
            },
        )
