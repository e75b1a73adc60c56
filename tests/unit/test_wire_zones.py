"""zones/<stream>/: what does not add up is refused, and nothing else is raised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamseg.errors import WireError
from streamseg.wire import MAX_ZONES_DOCUMENT, Zone, ZoneClass, ZonesDocument, encode_zones, parse_zones
from tests.unit.test_vectors import reading

PARTS, _ = reading("zones")


def changed(**fields: Any) -> list[bytes]:
    return [PARTS[0], msgspec.json.encode(msgspec.json.decode(PARTS[1]) | fields)]


def picture(**fields: Any) -> list[bytes]:
    """The document with the whole picture alone, and these fields of it."""
    zone = {"zone": "picture", "pixels": 600, "unknown": 600, "square_m": None, "classes": []}
    return changed(zones=[zone | fields])


ROAD = {"id": 3, "name": "road", "pixels": 5, "share": 0.5}


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (PARTS[:1], "2 parts"),
        ([*PARTS, b""], "2 parts"),
        ([b"zones/yard/", PARTS[1]], "topic"),
        ([PARTS[0], b"{"], "header"),
        ([PARTS[0], b"[" * 100_000], "header"),
        ([PARTS[0], b" " * (MAX_ZONES_DOCUMENT + 1)], "at most"),
        (changed(version=2), "version"),
        (changed(shape=[16385, 1]), "shape"),
        (changed(shape=[10, 10]), "of 100 pixels"),
        (changed(zones=[]), "length"),
        (picture(zone="ramp"), "first must be picture"),
        (picture(unknown=0), "not those of its classes"),
        (picture(unknown=595, classes=[ROAD | {"id": 255}]), "id"),
        (picture(unknown=595, classes=[ROAD | {"share": 1.5}]), "share"),
        (picture(unknown=590, classes=[ROAD, ROAD]), "each once"),
        (picture(unknown=590, classes=[ROAD, ROAD | {"id": 2}]), "in the order"),
        (picture(unknown=600, classes=[ROAD | {"pixels": 0}]), "pixels"),
    ],
)
def test_what_is_no_message_is_refused(parts: list[bytes], says: str) -> None:
    with pytest.raises(WireError, match=says):
        parse_zones(parts)


def test_a_zone_is_named_once() -> None:
    zones = msgspec.json.decode(PARTS[1])["zones"]
    with pytest.raises(WireError, match="twice"):
        parse_zones(changed(zones=[*zones, zones[1]]))


def test_unknown_fields_are_skipped() -> None:
    assert parse_zones(changed(more=1)) == parse_zones(PARTS)


def test_a_document_that_is_too_long_is_not_made() -> None:
    classes = [ZoneClass(id=i, name="x" * 256, pixels=1, share=1 / 255) for i in range(255)]
    zones = [Zone(zone=f"z{i}", pixels=255, unknown=0, square_m=None, classes=classes) for i in range(64)]
    document: ZonesDocument = msgspec.structs.replace(parse_zones(PARTS), zones=zones)
    with pytest.raises(WireError, match="bytes of JSON"):
        encode_zones(document)
