"""Polygons to message parts and back, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from streamseg.errors import WireError
from streamseg.wire import (
    MAX_POINTS,
    MAX_POLYGONS_DOCUMENT,
    PolygonsDocument,
    encode_polygons,
    parse_polygons,
)
from tests.masks import make_mask
from tests.vectors.make_vectors import example_polygons

GOOD = example_polygons(make_mask(run=77))
SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4]]


def changed(polygon: dict[str, Any] | None = None, **fields: Any) -> list[bytes]:
    """The message with fields of the document, or of its first polygon, replaced; ... leaves one out."""
    topic, document = encode_polygons(GOOD)
    plain = msgspec.json.decode(document) | fields
    if polygon is not None:
        first = plain["polygons"][0] | polygon
        plain["polygons"][0] = {k: v for k, v in first.items() if v is not ...}
    return [topic, msgspec.json.encode({k: v for k, v in plain.items() if v is not ...})]


def test_polygons_come_back_whole() -> None:
    topic, document = encode_polygons(GOOD)
    assert topic == b"polygons/gate/"
    assert document.startswith(b'{"version":1,"kind":"polygons",')
    assert parse_polygons([topic, document]) == GOOD


def test_fields_that_a_reader_does_not_know_are_passed_over() -> None:
    assert parse_polygons(changed({"box": [0, 0, 10, 10]}, weather={"rain": [1]})) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", ...), ("version", 2), ("kind", "rle"), ("stream", "yard"), ("run", 0), ("n", -1),
        ("seq", 2**53), ("pts", 0.5), ("time_base", [1, 0]), ("clock", "sun"), ("shape", [0, 30]),
        ("shape", [20]), ("shape", [16384, 16384]), ("engine", "e" * 257), ("label_set", "a b"),
        ("polygons", {}), ("polygons", ...), ("left_out", -1), ("left_out_pixels", ...),
    ],
)  # fmt: skip
def test_a_document_that_breaks_a_rule_is_refused(field: str, value: Any) -> None:
    with pytest.raises(WireError):
        parse_polygons(changed(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", -1), ("id", 255), ("id", ...), ("name", 5), ("name", "x" * 257), ("area", -1),
        ("area", 1.5), ("confidence", 1.1), ("confidence", "0.5"), ("rings", []), ("rings", [[]]),
        ("rings", [SQUARE[:2]]), ("rings", [[[0, 0], [31, 0], [0, 20]]]),
        ("rings", [[[0, 0], [30, 0], [0, 20.5]]]), ("rings", [[[0, 0], [-0.5, 0], [0, 20]]]),
        ("rings", [[[0, 0, 0], [4, 0, 0], [0, 4, 0]]]), ("rings", [[0, 0, 4, 0, 4, 4]]),
        ("rings", [SQUARE, SQUARE[:1]]), ("rings", SQUARE), ("rings", [[["0", 0], [4, 0], [4, 4]]]),
        ("rings", [SQUARE] * (MAX_POINTS // 4)),
    ],
)  # fmt: skip
def test_a_polygon_that_breaks_a_rule_is_refused(field: str, value: Any) -> None:
    with pytest.raises(WireError):
        parse_polygons(changed({field: value}))


def test_a_message_of_other_parts_or_another_topic_is_refused() -> None:
    topic, document = encode_polygons(GOOD)
    for parts in (
        [],
        [topic],
        [topic, document, b""],
        [b"polygons/gate", document],
        [b"rle/gate/", document],
    ):
        with pytest.raises(WireError):
            parse_polygons(parts)


def test_what_is_longer_than_the_limit_is_neither_written_nor_read() -> None:
    long = msgspec.structs.replace(GOOD.polygons[0], rings=[[(1.5, 2.5)] * 500_000])
    with pytest.raises(WireError, match=f"the most is {MAX_POLYGONS_DOCUMENT}"):
        encode_polygons(msgspec.structs.replace(GOOD, polygons=[long]))
    topic, document = encode_polygons(GOOD)
    with pytest.raises(WireError, match=f"at most {MAX_POLYGONS_DOCUMENT}"):
        parse_polygons([topic, document + b" " * MAX_POLYGONS_DOCUMENT])


def test_mutated_documents_are_read_or_refused() -> None:
    rng, read = random.Random(5), 0
    topic, document = encode_polygons(GOOD)
    for _ in range(2000):
        data = bytearray(document)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            assert isinstance(parse_polygons([topic, bytes(data)]), PolygonsDocument)
            read += 1
        except WireError:
            pass
    assert read > 20
