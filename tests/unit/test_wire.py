"""Masks to message parts and back, and what is refused."""

from __future__ import annotations

import itertools
import tracemalloc
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import cv2
import msgspec
import numpy as np
import pytest
import zstandard

from streamseg import wire
from streamseg.errors import WireError
from streamseg.types import LabelSet, Mask
from streamseg.wire import Encoding, Kind
from tests.masks import STREET, draw_labels, make_mask, same

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def repack(parts: list[bytes], **fields: Any) -> list[bytes]:
    """The message with header fields replaced; a field given as ... is left out."""
    header = {**msgspec.msgpack.decode(parts[1]), **fields}
    return [parts[0], msgspec.msgpack.encode({k: v for k, v in header.items() if v is not ...}), *parts[2:]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 257), (37, 53), (360, 480)])
def test_a_mask_comes_back_whole_in_every_encoding(encoding: Encoding, size: tuple[int, int]) -> None:
    mask = make_mask(5, size=size, run=2**53 - 1, refined_seq=3, pts=-7, published_unix_ns=9)
    back = wire.decode_message(wire.encode_mask(mask, encoding))
    assert isinstance(back, Mask)
    assert same(mask, back)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_confidence_travels_as_a_further_part(encoding: Encoding) -> None:
    confidence = np.random.default_rng(1).integers(0, 256, (36, 48), dtype=np.uint8)
    mask = make_mask(confidence=confidence)
    parts = wire.encode_mask(mask, encoding, kind="mask+confidence")
    back = wire.decode_message(parts)
    assert len(parts) == 4
    assert isinstance(back, Mask)
    assert same(mask, back)
    plain = wire.decode_message(wire.encode_mask(mask, encoding))
    assert isinstance(plain, Mask)
    assert plain.confidence is None


def test_a_refined_mask_has_a_topic_of_its_own() -> None:
    mask = make_mask(revision=1)
    parts = wire.encode_mask(mask, "raw", kind="refined")
    assert parts[0] == b"refined/gate/"
    back = wire.decode_message(parts)
    assert isinstance(back, Mask)
    assert back.revision == 1
    with pytest.raises(WireError, match="revision"):
        wire.encode_mask(mask, "raw", kind="mask")
    with pytest.raises(WireError, match="revision"):
        wire.encode_mask(make_mask(), "raw", kind="refined")


def test_json_readers_get_coco_run_lengths_with_names() -> None:
    mask = make_mask(4, pts=None)
    topic, document = wire.encode_mask(mask, "zstd", kind="rle", label_set=STREET)
    plain = msgspec.json.decode(document)
    assert topic == b"rle/gate/"
    assert next(iter(plain)) == "version"
    assert plain["encoding"] == "coco-rle"
    assert {s["category_id"]: s["category"] for s in plain["segments"]} == {0: "road", 1: "car", 2: "pole"}
    assert all(s["segmentation"]["size"] == [36, 48] for s in plain["segments"])
    back = wire.decode_message([topic, document])
    assert isinstance(back, Mask)
    assert same(mask, back)


def test_a_label_set_comes_back_whole() -> None:
    parts = wire.encode_labels(STREET)
    assert parts[0] == b"labels/street3/"
    assert wire.decode_message(parts) == STREET


def test_the_header_begins_with_the_version_and_time_base_stays_exact() -> None:
    parts = wire.encode_mask(make_mask(time_base=Fraction(1001, 30000)), "raw")
    header = msgspec.msgpack.decode(parts[1])
    assert next(iter(header)) == "version"
    assert header["time_base"] == [1001, 30000]


def test_the_header_is_read_before_the_payload_is() -> None:
    parts = wire.encode_mask(make_mask(3), "zstd")
    message = wire.parse_message([*parts[:2], b"not zstd"])
    assert isinstance(message, wire.MaskMessage)
    assert message.header.seq == 3
    with pytest.raises(WireError, match="payload"):
        message.decode()


def test_fields_that_a_reader_does_not_know_are_passed_over() -> None:
    parts = repack(wire.encode_mask(make_mask(), "raw"), weather={"rain": [1, 2]}, zoom=2.5)
    assert isinstance(wire.decode_message(parts), Mask)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_refused_by_its_number(version: int) -> None:
    parts = repack(wire.encode_mask(make_mask(), "raw"), version=version, seq="new meaning")
    with pytest.raises(WireError, match=f"knows 1, the message is {version}"):
        wire.decode_message(parts)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", ...),
        ("version", "1"),
        ("stream", ""),
        ("stream", "a/b"),
        ("stream", "gate\n"),
        ("stream", 7),
        ("seq", -1),
        ("seq", 2**60),
        ("n", ...),
        ("revision", 2),
        ("revision", 1),
        ("time_base", [1, 0]),
        ("time_base", [1]),
        ("clock", "wall"),
        ("shape", [0, 48]),
        ("shape", [36, 16385]),
        ("shape", [16384, 16384]),
        ("shape", [36, 48, 1]),
        ("shape", [48, 36.5]),
        ("shape", [36, 47]),
        ("encoding", "gif"),
        ("encoding", "coco-rle"),
        ("encoding", "zstd"),
        ("kind", "refined"),
        ("label_set", "a/b"),
        ("engine", "x" * 300),
        ("stage_us", {"infer": -1}),
        ("pts", 2**64 - 1),
    ],
)
def test_a_wrong_header_field_is_refused(field: str, value: object) -> None:
    parts = wire.encode_mask(make_mask(), "raw")
    assert isinstance(wire.decode_message(parts), Mask)
    with pytest.raises(WireError):
        wire.decode_message(repack(parts, **{field: value}))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"mask/gate/"],
        [b"mask/gate/", b"", b"", b"", b""],
        [b"mask/gate/", b"\x81\xa1z" + b"\x91" * 16000, b""],
        [b"mask/gate/", b"\x80" + b" " * wire.MAX_HEADER, b""],
        [b"mask/gate/", b"\xdf\xff\xff\xff\xff", b""],
        [b"rle/gate/", b"[" * 100_000],
        [b"rle/gate/", b'{"version":1}'],
        [b"rle/gate/", b" " * (wire.MAX_DOCUMENT + 1)],
        [b"labels/street3/", b"\x80"],
        [b"labels/street3/", b"\xff" * (wire.MAX_LABELS + 1)],
        [b"status/gate/", b"\x80"],
        [b"\xff\xfe", b"\x80", b""],
        [b"mask/" + b"a" * 1000, b"\x80", b""],
    ],
)
def test_what_is_no_message_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode_message(parts)


def test_a_topic_that_disagrees_with_its_header_is_refused() -> None:
    parts = wire.encode_mask(make_mask(), "raw")
    for topic in (b"mask/other/", b"mask/gate", b"mask/gate/x", b"refined/gate/"):
        with pytest.raises(WireError):
            wire.decode_message([topic, *parts[1:]])


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        pair
        for pair in itertools.product(ENCODINGS, ("cut", "longer", "empty", "other size", "bit"))
        if pair != ("raw", "bit")  # raw pixels have no wrong values
    ],
)
def test_a_payload_that_is_not_exactly_the_mask_is_refused(encoding: Encoding, change: str) -> None:
    topic, header, payload = wire.encode_mask(make_mask(size=(36, 48)), encoding)
    other = wire.encode_mask(make_mask(size=(36, 49)), encoding)[2]
    broken = {
        "cut": payload[:-1],
        "longer": payload + b"\0",
        "empty": b"",
        "other size": other,
        "bit": bytes([payload[0] ^ 1]) + payload[1:],
    }[change]
    with pytest.raises(WireError, match="payload"):
        wire.decode_message([topic, header, broken])


def zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))


def endless_zstd() -> bytes:
    """A frame that does not say how long it is."""
    packer = zstandard.ZstdCompressor(level=1, write_content_size=False)
    return packer.compress(bytes(1 << 26))


def png_bomb() -> bytes:
    """A picture of 6000x6000 in 36 KB."""
    return bytes(cv2.imencode(".png", np.zeros((6000, 6000), np.uint8))[1].tobytes())


def text_bomb() -> bytes:
    """A small PNG with a compressed text chunk that unpacks to 64 MB."""
    payload = wire.encode_array(draw_labels((36, 48)), "png")
    body = b"zTXtbomb\0\0" + zlib.compress(bytes(1 << 26), 1)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return payload[:33] + chunk + payload[33:]


@pytest.mark.parametrize(
    ("encoding", "make"),
    [("zstd", zstd_bomb), ("zstd", endless_zstd), ("png", png_bomb), ("png", text_bomb)],
)
def test_a_decompression_bomb_takes_no_memory(encoding: Encoding, make: Any) -> None:
    topic, header, _ = wire.encode_mask(make_mask(size=(36, 48)), encoding)
    bomb = make()
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="payload"):
            wire.decode_message([topic, header, bomb])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_mask_larger_than_the_protocol_carries_is_refused_on_the_way_out() -> None:
    mask = make_mask(labels=np.zeros((1, wire.MAX_SIDE + 1), np.uint8))
    with pytest.raises(WireError, match="shape"):
        wire.encode_mask(mask, "raw")


def test_label_sets_with_holes_in_their_ids_are_refused() -> None:
    topic, document = wire.encode_labels(STREET)
    plain = msgspec.msgpack.decode(document)
    plain["classes"].pop(1)
    with pytest.raises(WireError, match="classes"):
        wire.decode_message([topic, msgspec.msgpack.encode(plain)])


def test_a_snapshot_reply_gives_its_messages_back() -> None:
    messages = [wire.encode_labels(STREET), wire.encode_mask(make_mask(), "zstd")]
    reply = wire.snapshot_reply(7, messages)
    assert wire.parse_snapshot_reply(reply) == messages
    assert isinstance(wire.decode_message(wire.parse_snapshot_reply(reply)[0]), LabelSet)
    for broken in ([], reply[:1], reply[:-1], [*reply, b""], [b"x", *reply[1:]], [reply[0], b"\x91" * 9000]):
        with pytest.raises(WireError):
            wire.parse_snapshot_reply(broken)


def test_snapshot_requests_are_bounded() -> None:
    assert wire.parse_snapshot_request(wire.snapshot_request([b"mask/", b""])) == [b"mask/", b""]
    for broken in ([], [b"snapshot"], [b"x", b""], [b"snapshot"] + [b""] * 65, [b"snapshot", b"x" * 257]):
        with pytest.raises(WireError):
            wire.parse_snapshot_request(broken)


@pytest.mark.parametrize(
    ("endpoint", "snapshots"),
    [
        ("tcp://127.0.0.1:5570", "tcp://127.0.0.1:5571"),
        ("tcp://[::1]:9", "tcp://[::1]:10"),
        ("ipc:///run/seg.sock", "ipc:///run/seg.sock.snapshot"),
    ],
)
def test_snapshots_are_asked_for_next_to_the_masks(endpoint: str, snapshots: str) -> None:
    assert wire.default_snapshot_endpoint(endpoint) == snapshots


@pytest.mark.parametrize("kind", ["mask", "rle"])
def test_real_label_maps_come_back_exactly(shared_data: Path, kind: Kind) -> None:
    for path in sorted((shared_data / "camvid/val/labels").iterdir())[::20]:
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        mask = make_mask(labels=np.ascontiguousarray(labels, np.uint8))
        for encoding in ENCODINGS:
            back = wire.decode_message(wire.encode_mask(mask, encoding, kind=kind))
            assert isinstance(back, Mask)
            np.testing.assert_array_equal(back.labels, labels)


def test_a_mask_without_confidence_is_not_sent_as_if_it_had_one() -> None:
    with pytest.raises(WireError, match="the mask has none"):
        wire.encode_mask(make_mask(), "raw", kind="mask+confidence")
