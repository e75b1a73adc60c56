"""Shares as places of the MQTT kind get them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamseg.wire import ZonesDocument


def percents(said: ZonesDocument) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is published of each zone: the classes' shares in percent, of the zone's pixels."""
    for zone in said.zones:
        yield (
            zone.zone,
            {
                "percent": {one.name or str(one.id): round(one.share * 100, 2) for one in zone.classes},
                "unknown": round(zone.unknown * 100 / zone.pixels, 2) if zone.pixels else 0.0,
                "pixels": zone.pixels,
                "captured_unix_ns": said.captured_unix_ns,
            },
        )
