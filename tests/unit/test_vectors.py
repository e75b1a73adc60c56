"""The conformance vectors are what this code writes and reads, and docs/protocol.md shows their bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg import wire
from streamseg.errors import WireError
from streamseg.types import LabelSet, Mask
from tests.vectors.make_vectors import (
    HERE,
    example_mask,
    main,
    told,
    told_event,
    told_picture,
    unpack,
    vectors,
)

NAMES = sorted(path.stem for path in HERE.glob("*.bin"))


def reading(name: str) -> tuple[list[bytes], dict[str, Any]]:
    return unpack((HERE / f"{name}.bin").read_bytes()), json.loads((HERE / f"{name}.json").read_text())


def as_told(message: Mask | LabelSet, parts: list[bytes]) -> dict[str, Any]:
    """What we read from a message, in the vectors' own form."""
    if isinstance(message, Mask):
        header = wire.parse_message(parts)
        assert isinstance(header, wire.MaskMessage)
        found: dict[str, Any] = told(message, header.header.kind, header.header.encoding)
    else:
        classes = [
            {"id": i, "name": c.name, "colour": c.colour, "thin": c.thin}
            for i, c in enumerate(message.classes)
        ]
        found = {"kind": "labels", "id": message.id, "classes": classes}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def test_the_files_are_those_that_the_script_makes() -> None:
    assert sorted(name for name, _, _ in vectors()) == NAMES


OTHERS = ("refuse", "snapshot", "same", "picture", "status", "event", "polygons", "zones")


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(OTHERS)])
def test_a_vector_is_read_as_it_says(name: str) -> None:
    parts, expected = reading(name)
    assert as_told(wire.decode_message(parts), parts) == expected


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("refuse")])
def test_a_vector_that_must_be_refused_is(name: str) -> None:
    parts, expected = reading(name)
    assert expected == {"refuse": True}
    readers: dict[bytes, Any] = {
        b"snapshot": wire.parse_snapshot_reply,
        b"picture": wire.parse_picture,
        b"status": wire.parse_status,
        b"event": wire.parse_event,
        b"polygons": wire.parse_polygons,
        b"zones": wire.parse_zones,
        b"same": wire.parse_same,
    }
    with pytest.raises(WireError):
        readers.get(parts[0].partition(b"/")[0], wire.decode_message)(parts)


def test_the_vectors_of_a_picture_and_a_status_are_read_as_they_say() -> None:
    parts, expected = reading("picture")
    assert json.loads(json.dumps(told_picture(wire.parse_picture(parts)))) == expected
    parts, expected = reading("status")
    status = msgspec.to_builtins(wire.parse_status(parts))
    assert status.pop("version") == 1
    assert json.loads(json.dumps(status)) == expected


@pytest.mark.parametrize("name", ["event-begin", "event-end"])
def test_the_vectors_of_events_are_read_as_they_say(name: str) -> None:
    parts, expected = reading(name)
    assert json.loads(json.dumps(told_event(wire.parse_event(parts)))) == expected


def test_the_vector_of_zones_is_read_as_it_says() -> None:
    parts, expected = reading("zones")
    assert json.loads(json.dumps(told_event(wire.parse_zones(parts)))) == expected


def test_the_vector_of_polygons_is_read_as_it_says() -> None:
    parts, expected = reading("polygons")
    assert json.loads(json.dumps(told_event(wire.parse_polygons(parts)))) == expected


def read_same(parts: list[bytes]) -> dict[str, Any]:
    """What we read from an unchanged message, in the vectors' own form."""
    fields: dict[str, Any] = json.loads(msgspec.json.encode(wire.parse_same(parts)))
    return {name: value for name, value in fields.items() if name != "version"}


@pytest.mark.parametrize("name", ["same", "same-nulls-and-unknown-field"])
def test_the_vectors_of_unchanged_frames_are_read_as_they_say(name: str) -> None:
    parts, expected = reading(name)
    assert read_same(parts) == expected


def test_a_snapshot_brings_the_unchanged_frame_behind_its_mask() -> None:
    parts, expected = reading("snapshot-reply-unchanged")
    *others, last = wire.parse_snapshot_reply(parts)
    assert [as_told(wire.decode_message(m), m) for m in others] == expected["messages"][:-1]
    assert read_same(last) == expected["messages"][-1]
    mask = wire.parse_message(others[-1])
    assert isinstance(mask, wire.MaskMessage)
    assert wire.parse_same(last).holds(mask.header)


def test_the_snapshot_vectors_are_read_as_they_say() -> None:
    parts, expected = reading("snapshot-request")
    assert [p.decode() for p in wire.parse_snapshot_request(parts)] == expected["prefixes"]
    parts, expected = reading("snapshot-reply")
    messages = wire.parse_snapshot_reply(parts)
    assert [as_told(wire.decode_message(m), m) for m in messages] == expected["messages"]


def test_the_same_code_writes_the_same_bytes(tmp_path: Path) -> None:
    main(tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_text() == (HERE / f"{name}.json").read_text()
        if (
            "png" not in name and "zstd" not in name and not name.startswith("snapshot-reply")
        ):  # those hang on a library's version
            assert (tmp_path / f"{name}.bin").read_bytes() == (HERE / f"{name}.bin").read_bytes()


def test_labels_at_another_size_are_those_of_the_vector(tmp_path: Path) -> None:
    main(tmp_path)
    assert (tmp_path / "scaled.json").read_text() == (HERE / "scaled.json").read_text()
    vector = json.loads((HERE / "scaled.json").read_text())
    labels = np.array(vector["labels"], np.uint8)
    mask = replace(example_mask(), labels=labels, confidence=labels // 2)
    for at in vector["at"]:
        found = mask.at(tuple(at["shape"]))
        assert found.labels.tolist() == at["labels"]
        assert found.confidence is not None
        np.testing.assert_array_equal(found.confidence, found.labels // 2)


@pytest.mark.parametrize("name", ["mask-raw", "mask-zstd", "labels", "snapshot-request"])
def test_the_protocol_document_shows_the_bytes_of_the_vectors(name: str) -> None:
    shown = "".join((HERE.parents[1] / "docs/protocol.md").read_text().split())
    for part in unpack((HERE / f"{name}.bin").read_bytes()):
        assert part.hex() in shown


def test_the_protocol_document_shows_the_run_lengths_of_the_vector() -> None:
    shown = (HERE.parents[1] / "docs/protocol.md").read_text()
    document = msgspec.json.decode(reading("rle")[0][1])
    assert len(document["segments"]) == 3
    for segment in document["segments"]:
        assert f'"counts": "{segment["segmentation"]["counts"]}"' in shown
        assert f'"area": {segment["area"]}' in shown


def test_the_protocol_document_states_the_limits() -> None:
    shown = (HERE.parents[1] / "docs/protocol.md").read_text()
    most = (
        wire.MAX_SIDE,
        wire.MAX_PIXELS,
        wire.MAX_HEADER,
        wire.MAX_DOCUMENT,
        wire.MAX_LABELS,
        wire.MAX_PART,
    )
    for number in most:
        assert f"{number:,}".replace(",", " ") in shown
