"""same/<stream>/: what an unchanged message says, whose labels hold, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.errors import WireError
from streamseg.types import Mask
from streamseg.wire import MAX_HEADER, MaskMessage, encode_mask, encode_same, parse_message, parse_same
from tests.masks import make_mask
from tests.unit.test_vectors import reading

PARTS, _ = reading("same")


def changed(**fields: Any) -> list[bytes]:
    return [PARTS[0], msgspec.msgpack.encode(msgspec.msgpack.decode(PARTS[1]) | fields)]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (PARTS[:1], "2 parts"),
        ([*PARTS, b""], "2 parts"),
        ([b"same/yard/", PARTS[1]], "topic"),
        ([b"mask/gate/", PARTS[1]], "topic"),
        ([PARTS[0], b"\x81"], "header"),
        ([PARTS[0], b"\x91" * 10_000], "header"),
        ([PARTS[0], b"\x91" * (MAX_HEADER + 1)], "at most"),
        ([PARTS[0], b""], "header"),
        (changed(version=2), "version"),
        (changed(kind="mask"), "kind"),
        (changed(stream="a/b"), "stream"),
        (changed(run=0), "run"),
        (changed(same_as=45), "below seq, 45; is 45"),
        (changed(same_as=2**53), "same_as"),
        (changed(same_as=-1), "same_as"),
        (changed(same_as=41.5), "same_as"),
        (changed(n=None), "n"),
        (changed(shape=[16385, 1]), "shape"),
        (changed(shape=[4]), "shape"),
        (changed(label_set="a b"), "label_set"),
        (changed(engine="e" * 257), "engine"),
    ],
)
def test_what_is_no_message_is_refused(parts: list[bytes], says: str) -> None:
    with pytest.raises(WireError, match=says):
        parse_same(parts)


def message(mask: Mask) -> MaskMessage:
    found = parse_message(encode_mask(mask, "raw", kind="refined" if mask.revision else "mask"))
    assert isinstance(found, MaskMessage)
    return found


MASK = make_mask(10, n=4, run=9)


@pytest.mark.parametrize("revision", [0, 1])
def test_the_mask_that_holds_is_known_by_its_header(revision: int) -> None:
    same = parse_same(encode_same(make_mask(13, n=4, run=9, same_as=10)))
    assert same.holds(message(replace(MASK, revision=revision)).header)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        MASK.stamped(run=8),
        MASK.stamped(epoch=1),
        MASK.stamped(seq=9),
        MASK.stamped(n=3),
        MASK.stamped(stream="yard"),
        replace(MASK, engine="another"),
        replace(MASK, label_set="another"),
        replace(MASK, labels=np.zeros((36, 49), np.uint8)),
    ],
)
def test_no_other_mask_holds(other: Mask) -> None:
    same = parse_same(encode_same(make_mask(13, n=4, run=9, same_as=10)))
    assert not same.holds(message(other).header)


def test_the_labels_are_given_with_the_new_times_and_are_not_copied() -> None:
    later = make_mask(13, n=4, run=9, same_as=10, stage_us={"gate": 200}, published_unix_ns=77)
    mask = replace(MASK, confidence=MASK.labels.copy(), refined_seq=7)
    given = parse_same(encode_same(later)).mask_of(mask)
    assert given.labels is mask.labels
    assert given.confidence is mask.confidence
    assert (given.stamp, given.same_as, given.stage_us) == (later.stamp, 10, {"gate": 200})
    assert (given.refined_seq, given.engine, given.label_set) == (7, mask.engine, mask.label_set)


def test_a_mask_with_labels_of_its_own_is_no_unchanged_one() -> None:
    with pytest.raises(WireError, match="labels of its own"):
        encode_same(MASK)
