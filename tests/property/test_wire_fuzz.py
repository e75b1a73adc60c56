"""Whatever comes over the wire: a message, or WireError; never anything else, and never much memory."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamseg import wire
from streamseg.errors import WireError
from streamseg.types import LabelSet, Mask
from streamseg.wire.rle import decode_labels, encode_labels
from tests.masks import STREET, make_mask, same

MESSAGES = int(os.environ.get("STREAMSEG_FUZZ", "20000"))

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
counts = st.integers(0, 2**53 - 1)
small = st.tuples(st.integers(1, 20), st.integers(1, 20))


def seeds() -> list[list[bytes]]:
    """One good message of each kind and encoding."""
    mask = make_mask(3, run=77, captured_unix_ns=10**18, refined_seq=2, size=(9, 13))
    sure = make_mask(3, run=77, size=(9, 13), confidence=np.full((9, 13), 200, np.uint8))
    found = [wire.encode_mask(mask, encoding) for encoding in ("raw", "png", "zstd")]
    found += [wire.encode_mask(sure, "zstd", kind="mask+confidence")]
    found += [wire.encode_mask(make_mask(3, revision=1, size=(9, 13)), "zstd", kind="refined")]
    found += [wire.encode_mask(mask, "zstd", kind="rle", label_set=STREET), wire.encode_labels(STREET)]
    return found


def mutated(rng: random.Random, good: list[list[bytes]]) -> list[bytes]:
    """A message with one to three things wrong: bytes, lengths, parts, or everything."""
    parts = [bytearray(part) for part in rng.choice(good)]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(parts))
        part = parts[at]
        match rng.randrange(8):
            case 0 | 1 | 2 if part:
                part[rng.randrange(len(part))] = rng.randrange(256)
            case 3 if part:
                part[rng.randrange(len(part))] = rng.choice(b"\x00\x7f\x80\xc0\xcf\xd3\xdc\xdd\xde\xdf\xff")
            case 4 if part:
                del part[rng.randrange(len(part)) :]
            case 5:
                spot = rng.randrange(len(part) + 1)
                part[spot:spot] = rng.randbytes(rng.randrange(1, 9))
            case 6:
                parts[at] = bytearray(rng.choice(rng.choice(good)))
            case 7 if len(parts) > 1:
                del parts[at]
            case _:
                parts[at] = bytearray(rng.randbytes(rng.randrange(40)))
    return [bytes(part) for part in parts]


def test_random_and_mutated_messages_are_read_or_refused() -> None:
    rng, good = random.Random(20), seeds()
    read = refused = 0
    for i in range(MESSAGES):
        parts = (
            [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(6))]
            if i % 4 == 0
            else mutated(rng, good)
        )
        try:
            message = wire.decode_message(parts)
        except WireError:
            refused += 1
            continue
        assert isinstance(message, (Mask, LabelSet))
        read += 1
    assert read > MESSAGES // 100  # some changes leave a good message: the fuzz reaches the inside
    assert refused > MESSAGES // 2


def test_mutated_unchanged_messages_are_read_or_refused() -> None:
    rng = random.Random(23)
    good = [wire.encode_same(make_mask(9, run=77, same_as=3)), wire.encode_same(make_mask(2**50, same_as=0))]
    read = 0
    for _ in range(MESSAGES // 4):
        try:
            same = wire.parse_same(mutated(rng, good))
        except WireError:
            continue
        assert 0 <= same.same_as < same.seq
        read += 1
    assert read > MESSAGES // 400


def test_refusing_takes_no_memory() -> None:
    rng, good = random.Random(21), seeds()
    tracemalloc.start()
    try:
        for _ in range(3000):
            parts = mutated(rng, good)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                size = getattr(wire.decode_message(parts), "size", (0, 0))
            except WireError:
                size = (0, 0)
            assert tracemalloc.get_traced_memory()[1] - before < (1 << 20) + 8 * size[0] * size[1]
    finally:
        tracemalloc.stop()


def test_snapshot_requests_and_replies_are_read_or_refused() -> None:
    rng = random.Random(22)
    good = [wire.snapshot_reply(7, seeds()), wire.snapshot_request([b"mask/gate/", b"labels/"])]
    refused = Counter[str]()
    for _ in range(MESSAGES // 10):
        parts = mutated(rng, good)
        for read in (wire.parse_snapshot_reply, wire.parse_snapshot_request):
            try:
                read(parts)
            except WireError:
                refused[read.__name__] += 1
    assert len(refused) == 2
    assert min(refused.values()) > MESSAGES // 40


@settings(deadline=None, max_examples=50)
@given(
    labels=small.flatmap(lambda size: arrays(np.uint8, size)),
    stream=names,
    ints=st.tuples(st.integers(1, 2**53 - 1), counts, counts, counts),
    pts=st.none() | st.integers(-(2**63), 2**63 - 1),
    time_base=st.fractions(min_value=Fraction(1, 10**6), max_value=1000, max_denominator=10**6),
    encoding=st.sampled_from(["raw", "png", "zstd"]),
    kind=st.sampled_from(["mask", "mask+confidence", "rle"]),
)
def test_any_mask_comes_back_whole(labels, stream, ints, pts, time_base, encoding, kind) -> None:  # type: ignore[no-untyped-def]
    run, epoch, seq, n = ints
    mask = make_mask(
        seq,
        stream=stream,
        run=run,
        epoch=epoch,
        n=n,
        pts=pts,
        time_base=time_base,
        labels=labels,
        confidence=labels.copy() if kind == "mask+confidence" else None,
    )
    back = wire.decode_message(wire.encode_mask(mask, encoding, kind=kind))
    assert isinstance(back, Mask)
    assert same(mask, back)


@settings(deadline=None, max_examples=100)
@given(small.flatmap(lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 254, 255]))))
def test_any_labels_survive_run_lengths(labels: np.ndarray) -> None:
    back = decode_labels(((value, text) for value, _, text in encode_labels(labels)), labels.shape)
    np.testing.assert_array_equal(back, labels)
