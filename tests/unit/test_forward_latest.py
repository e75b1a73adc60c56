"""What is newest of each stream, for places that want it so often and no oftener."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from streamseg import wire
from streamseg.forward.intake import Intake
from streamseg.forward.latest import Latest
from streamseg.forward.store import Store
from tests.masks import STREET, make_mask

MASK = make_mask(5, n=2)


@pytest.fixture
def intake() -> Iterator[Intake]:
    with contextlib.closing(Store(None, [], most_bytes=1 << 20)) as store:
        intake = Intake(store, Latest(), past=False)
        intake.put(wire.encode_mask(MASK, "raw", kind="rle", label_set=STREET))
        yield intake


def newest(intake: Intake, seen: dict[str, int]) -> dict[str, Any] | None:
    items = intake._latest.newer("masks", seen)
    seen |= {name: item.number for name, item in items.items()}
    return msgspec.json.decode(items["gate"].document()) if items else None


def test_an_unchanged_frame_is_the_document_of_its_mask_with_its_own_times(intake: Intake) -> None:
    seen: dict[str, int] = {}
    first = newest(intake, seen)
    assert first is not None
    assert newest(intake, seen) is None
    for seq in (7, 9, 8):  # the last of them comes late
        intake.put(wire.encode_same(make_mask(seq, n=2, same_as=5, captured_unix_ns=2**62 + seq)))
    later = newest(intake, seen)
    assert later is not None
    assert (later["seq"], later["same_as"], later["captured_unix_ns"]) == (9, 5, 2**62 + 9)
    assert (later["kind"], later["encoding"]) == ("rle", "coco-rle")
    assert later["segments"] == first["segments"]
    mask = wire.decode_message([b"rle/gate/", msgspec.json.encode(later)])  # as any other
    assert (mask.labels == MASK.labels).all()  # type: ignore[union-attr]
    intake.put(wire.encode_mask(make_mask(10, n=3), "raw", kind="rle", label_set=STREET))
    assert "same_as" not in (newest(intake, seen) or {})


def test_an_unchanged_frame_without_its_mask_is_passed_over(intake: Intake) -> None:
    seen: dict[str, int] = {}
    newest(intake, seen)
    for fields in ({"n": 3}, {"same_as": 4}, {"run": 8}, {"stream": "yard"}, {"epoch": 1}):
        intake.put(wire.encode_same(make_mask(7, **({"n": 2, "same_as": 5} | fields))))
    assert newest(intake, seen) is None
    assert intake.bad == 0
