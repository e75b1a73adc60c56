"""Write the conformance vectors: python -m tests.vectors.make_vectors [FOLDER]

Each vector is NAME.bin, the parts of one message (each a 4-byte big-endian length and the bytes), and
NAME.json, what a reader must make of it. All in them is fixed: the same code writes the same bytes.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from streamseg import wire
from streamseg.types import IGNORE, U8, ClassInfo, LabelSet, Mask, Preview, Stamp
from streamseg.wire.message import stamp_fields

HERE = Path(__file__).resolve().parent

LABELS = LabelSet(
    "street3",
    (
        ClassInfo("road", (128, 64, 128)),
        ClassInfo("car", (64, 0, 128)),
        ClassInfo("pole", (192, 192, 128), thin=True),
    ),
)


def example_mask() -> Mask:
    """4 rows of 6 pixels: unknown above, road below, a car and a pole on it."""
    labels = np.array(
        [[255, 255, 255, 255, 2, 255], [0, 0, 0, 0, 2, 0], [0, 1, 1, 0, 2, 0], [0, 1, 1, 0, 0, 0]], np.uint8
    )
    stamp = Stamp(
        stream="gate",
        epoch=1,
        seq=42,
        pts=21504,
        time_base=Fraction(1, 15360),
        captured_unix_ns=1_700_000_000_123_456_789,
        clock="arrival",
        n=40,
        run=5_577_006_791_947_779,
        published_unix_ns=1_700_000_000_135_000_000,
    )
    return Mask(
        stamp,
        labels,
        label_set="street3",
        engine="camvid-slim",
        refined_seq=37,
        stage_us={"infer": 9000, "encode": 40},
    )


def vectors() -> Iterator[tuple[str, list[bytes], Any]]:
    """(name, parts, what a reader makes of them: a dict, or None where it must refuse)."""
    mask = example_mask()
    for encoding in ("raw", "png", "zstd"):
        yield f"mask-{encoding}", wire.encode_mask(mask, encoding), told(mask, "mask", encoding)
    confidence = (np.arange(24, dtype=np.uint8) * 10).reshape(4, 6)
    sure = replace(mask, confidence=confidence)
    parts = wire.encode_mask(sure, "zstd", kind="mask+confidence")
    yield "mask+confidence-zstd", parts, told(sure, "mask+confidence", "zstd")
    refined = replace(mask, revision=1, refined_seq=42)
    yield "refined-zstd", wire.encode_mask(refined, "zstd", kind="refined"), told(refined, "refined", "zstd")
    parts = wire.encode_mask(mask, "zstd", kind="rle", label_set=LABELS)
    yield "rle", parts, told(mask, "rle", "coco-rle")
    bare = replace(mask, refined_seq=None, stage_us={}).stamped(pts=None, clock="camera", epoch=0)
    yield "mask-nulls", wire.encode_mask(bare, "raw"), told(bare, "mask", "raw")
    tall = replace(mask, labels=np.full((301, 3), IGNORE, np.uint8))
    yield "mask-301x3-zstd", wire.encode_mask(tall, "zstd"), told(tall, "mask", "zstd")
    parts = wire.encode_mask(mask, "raw")
    header = msgspec.msgpack.decode(parts[1])
    grown = [parts[0], msgspec.msgpack.encode(header | {"weather": {"rain": [1, None]}}), parts[2]]
    yield "mask-unknown-field", grown, told(mask, "mask", "raw")
    classes = [
        {"id": i, "name": c.name, "colour": c.colour, "thin": c.thin} for i, c in enumerate(LABELS.classes)
    ]
    told_labels = {"kind": "labels", "id": LABELS.id, "classes": classes}
    yield "labels", wire.encode_labels(LABELS), told_labels
    both = [wire.encode_labels(LABELS), wire.encode_mask(mask, "zstd")]
    yield (
        "snapshot-request",
        wire.snapshot_request([b"labels/", b"mask/gate/"]),
        {"prefixes": ["labels/", "mask/gate/"]},
    )
    yield (
        "snapshot-reply",
        wire.snapshot_reply(mask.run, both),
        {
            "run": mask.run,
            "messages": [told_labels, told(mask, "mask", "zstd")],
        },
    )
    yield "picture", wire.encode_picture(example_picture(mask)), told_picture(example_picture(mask))
    state = example_status()
    yield "status", wire.encode_status(state, mask.run, mask.published_unix_ns), told_status(state, mask)
    begin, end = example_events(mask)
    yield "event-begin", wire.encode_event(begin), told_event(begin)
    yield "event-end", wire.encode_event(end), told_event(end)
    zones = example_zones(mask)
    yield "zones", wire.encode_zones(zones), told_event(zones)
    polygons = example_polygons(mask)
    yield "polygons", wire.encode_polygons(polygons), told_event(polygons)
    unchanged = example_unchanged(mask)
    yield "same", wire.encode_same(unchanged), told_same(unchanged)
    bare = replace(unchanged, stage_us={}).stamped(pts=None)
    topic, head = wire.encode_same(bare)
    fields = {name: value for name, value in msgspec.msgpack.decode(head).items() if name != "stage_us"}
    grown = [topic, msgspec.msgpack.encode(fields | {"weather": {"rain": [1, None]}})]
    yield "same-nulls-and-unknown-field", grown, told_same(bare)
    last = [*both, wire.encode_same(unchanged)]
    read = [told_labels, told(mask, "mask", "zstd"), told_same(unchanged)]
    yield (
        "snapshot-reply-unchanged",
        wire.snapshot_reply(mask.run, last),
        {"run": mask.run, "messages": read},
    )
    odd = "a\x1b[2J\n\u202eb\x7f"  # to be escaped by whoever shows it, not to be refused
    strange = replace(mask, engine=odd)
    yield "mask-control-characters", wire.encode_mask(strange, "raw"), told(strange, "mask", "raw")
    longest = replace(mask, engine="ä" * 256)  # characters, not bytes
    yield "mask-longest-engine", wire.encode_mask(longest, "raw"), told(longest, "mask", "raw")
    yield from broken(mask, parts, header, both)
    future = [parts[0], msgspec.msgpack.encode(header | {"version": 2}), parts[2]]
    yield "refuse-version-2", future, None
    yield "refuse-short-payload", [*parts[:2], parts[2][:-1]], None
    wide = [parts[0], msgspec.msgpack.encode(header | {"shape": [16385, 1]}), bytes(16385)]
    yield "refuse-shape", wide, None
    packed = wire.encode_mask(tall, "zstd")[2]
    zheader = msgspec.msgpack.encode(header | {"encoding": "zstd"})
    yield "refuse-zstd-of-other-size", [parts[0], zheader, packed], None
    yield "refuse-topic", [b"mask/yard/", *parts[1:]], None
    packed = wire.encode_mask(mask, "zstd")[2]
    yield "refuse-zstd-with-more-behind", [parts[0], zheader, packed + b"more"], None
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(mask.labels.tobytes())
    yield "refuse-zstd-without-size", [parts[0], zheader, unsized], None
    picture = filtered_png(mask.labels)
    pheader = msgspec.msgpack.encode(header | {"encoding": "png"})
    yield "mask-png-filtered", [parts[0], pheader, picture], told(mask, "mask", "png")
    yield "refuse-png-crc", [parts[0], pheader, picture[:-20] + b"\x00" + picture[-19:]], None
    yield "refuse-png-of-other-size", [parts[0], pheader, filtered_png(mask.labels.T)], None
    document = msgspec.json.decode(wire.encode_mask(mask, "raw", kind="rle", label_set=LABELS)[1])
    document["segments"][1]["segmentation"]["counts"] = document["segments"][0]["segmentation"]["counts"]
    yield "refuse-rle-two-on-a-pixel", [b"rle/gate/", msgspec.json.encode(document)], None
    document["segments"] = [document["segments"][0] | {"segmentation": {"size": [4, 6], "counts": "131"}}]
    yield "refuse-rle-too-short", [b"rle/gate/", msgspec.json.encode(document)], None


def broken(
    mask: Mask, parts: list[bytes], header: dict[str, Any], both: list[list[bytes]]
) -> Iterator[tuple[str, list[bytes], None]]:
    """Headers, pictures, statuses and snapshots that a reader must refuse."""
    yield "refuse-header-with-more-behind", [parts[0], parts[1] + b"\xc0", parts[2]], None
    yield "refuse-run-0", [parts[0], msgspec.msgpack.encode(header | {"run": 0}), parts[2]], None
    long = msgspec.msgpack.encode(header | {"engine": "e" * 257})
    yield "refuse-engine-of-257", [parts[0], long, parts[2]], None
    topic, head, jpeg = wire.encode_picture(example_picture(mask))
    yield "refuse-picture-that-is-no-jpeg", [topic, head, b"\x89PNG" + jpeg], None
    yield "refuse-picture-of-another-topic", [b"picture/yard/", head, jpeg], None
    topic, head = wire.encode_same(example_unchanged(mask))
    fields = msgspec.msgpack.decode(head)
    yield "refuse-same-of-another-topic", [b"same/yard/", head], None
    yield "refuse-same-with-a-payload", [topic, head, b""], None
    yield "refuse-same-with-more-behind", [topic, head + b"\xc0"], None
    for name, change in (
        ("version-2", {"version": 2}),
        ("as-itself", {"same_as": fields["seq"]}),
        ("as-a-later-one", {"same_as": 2**53 - 1}),
        ("as-nothing", {"same_as": None}),
        ("shape", {"shape": [16385, 1]}),
    ):
        yield f"refuse-same-{name}", [topic, msgspec.msgpack.encode(fields | change)], None
    topic, document = wire.encode_status(example_status(), mask.run, mask.published_unix_ns)
    yield "refuse-status-of-another-topic", [b"status/yard/", document], None
    yield "refuse-status-of-three-parts", [topic, document, b""], None
    topic, document = wire.encode_event(example_events(mask)[1])
    yield "refuse-event-of-another-topic", [b"event/yard/", document], None
    plain = msgspec.json.decode(document)
    yield "refuse-event-version-2", [topic, msgspec.json.encode(plain | {"version": 2})], None
    yield "refuse-event-with-more-behind", [topic, document + b"{}"], None
    yield "refuse-event-after-itself", [topic, msgspec.json.encode(plain | {"previous_n": 19})], None
    topic, document = wire.encode_polygons(example_polygons(mask))
    yield "refuse-polygons-of-another-topic", [b"polygons/yard/", document], None
    yield "refuse-polygons-with-more-behind", [topic, document + b"{}"], None
    plain = msgspec.json.decode(document)
    plain["polygons"][1]["rings"] = [[[0, 0], [3, 0]]]
    yield "refuse-polygons-with-a-ring-of-two-points", [topic, msgspec.json.encode(plain)], None
    plain["polygons"][1]["rings"] = [[[0, 0], [30.5, 0], [0, 20]]]
    yield "refuse-polygons-outside-the-shape", [topic, msgspec.json.encode(plain)], None
    topic, document = wire.encode_zones(example_zones(mask))
    yield "refuse-zones-of-another-topic", [b"zones/yard/", document], None
    plain = msgspec.json.decode(document)
    plain["zones"][1]["unknown"] = 15
    yield "refuse-zones-whose-pixels-do-not-add-up", [topic, msgspec.json.encode(plain)], None
    plain = msgspec.json.decode(document)
    plain["zones"].reverse()
    yield "refuse-zones-without-the-picture-first", [topic, msgspec.json.encode(plain)], None
    word, head, *rest = wire.snapshot_reply(mask.run, both)
    fields = msgspec.msgpack.decode(head)
    yield "refuse-snapshot-version-2", [word, msgspec.msgpack.encode(fields | {"version": 2}), *rest], None
    yield "refuse-snapshot-run-0", [word, msgspec.msgpack.encode(fields | {"run": 0}), *rest], None
    yield "refuse-snapshot-with-a-part-missing", [word, head, *rest[:-1]], None
    yield "refuse-snapshot-with-a-part-more", [word, head, *rest, b""], None
    single = [word, msgspec.msgpack.encode(fields | {"parts": [2, 2, 1]}), *rest]
    yield "refuse-snapshot-with-a-message-of-one-part", single, None
    yield "refuse-snapshot-head-with-more-behind", [word, head + b"\xc0", *rest], None


def example_unchanged(mask: Mask) -> Mask:
    """Three frames after the mask, a fifth of a second later, nothing has changed."""
    later = mask.stamped(
        seq=45,
        pts=24576,
        captured_unix_ns=mask.captured_unix_ns + 200_000_000,
        published_unix_ns=mask.published_unix_ns + 190_000_000,
    )
    return replace(later, same_as=42, stage_us={"gate": 300})


def example_picture(mask: Mask) -> Preview:
    """The frame of the mask; of a JPEG it has the mark of its beginning and that of its end."""
    return Preview(mask.stamp, bytes.fromhex("ffd8ffd9"), size=(2, 3), frame_size=(4, 6))


def example_status() -> wire.StreamStatus:
    return wire.StreamStatus(
        stream="gate",
        source="rtsp://eye@10.0.0.7/h264",
        state="playing",
        size=(1080, 1920),
        source_fps=25.0,
        fps=24.5,
        age_ms=87.25,
        silent_s=0.5,
        epoch=1,
        decoded=100,
        published=97,
        refined=4,
        drops={"slow engine": 3},
        connects=2,
        reconnects=1,
        stage_us={"infer": 9000},
    )


def example_events(mask: Mask) -> tuple[wire.EventDocument, wire.EventDocument]:
    """An event begins on the mask's frame, the first of its journal; it ends as the camera is back again."""
    begin = wire.EventDocument(
        version=1,
        kind="event",
        stream="gate",
        run=mask.run,
        journal="00c0ffee00c0ffee",
        event_n=0,
        previous_n=None,
        id="00c0ffee00c0ffee-gate-0",
        event="flood",
        zone="ramp",
        classes=["water", "tüll"],
        state="begin",
        value=0.3125,
        peak=0.5,
        begun_unix_ns=mask.captured_unix_ns - 5_000_000_000,
        at_unix_ns=mask.captured_unix_ns,
        duration_s=5.0,
        epoch=1,
        seq=42,
        pts=21504,
        time_base=(1, 15360),
        published_unix_ns=mask.published_unix_ns,
    )
    end = msgspec.structs.replace(
        begin, event_n=19, previous_n=0, state="end", why="below", no_data=True, value=0.0, peak=1.0,
        at_unix_ns=mask.captured_unix_ns + 60_000_000_000, duration_s=65.25, epoch=2, seq=0, pts=None,
    )  # fmt: skip
    return begin, end


def example_zones(mask: Mask) -> wire.ZonesDocument:
    """The whole picture of a mask of 20 by 30, and a zone with its ground."""
    return wire.ZonesDocument(
        version=1,
        kind="zones",
        **stamp_fields(mask.stamp),
        shape=(20, 30),
        engine=mask.engine,
        label_set=mask.label_set,
        zones=[
            wire.Zone(
                zone="picture",
                pixels=600,
                unknown=24,
                square_m=None,
                classes=[
                    wire.ZoneClass(id=0, name="road", pixels=450, share=0.75, confidence=0.9375),
                    wire.ZoneClass(id=1, name="tüll", pixels=126, share=0.21, confidence=0.5),
                ],
            ),
            wire.Zone(
                zone="ramp",
                pixels=80,
                unknown=16,
                square_m=40.0,
                classes=[
                    wire.ZoneClass(id=1, name="tüll", pixels=60, share=0.75, confidence=0.5, square_m=30.5),
                    wire.ZoneClass(id=7, name=None, pixels=4, share=0.05, confidence=0.25, square_m=1.5),
                ],
            ),
        ],
    )


def example_polygons(mask: Mask) -> wire.PolygonsDocument:
    """A square with a hole, and a triangle without a confidence, of a mask of 20 by 30."""
    return wire.PolygonsDocument(
        version=1,
        kind="polygons",
        **stamp_fields(mask.stamp),
        shape=(20, 30),
        engine=mask.engine,
        label_set=mask.label_set,
        polygons=[
            wire.Polygon(
                id=1,
                name="tüll",
                area=84,
                confidence=0.8125,
                rings=[[(0, 0), (10, 0), (10, 10), (0, 10)], [(2, 2), (2, 6), (6, 6), (6, 2)]],
            ),
            wire.Polygon(id=7, name=None, area=12, rings=[[(20.5, 10), (30, 15.5), (20.5, 20)]]),
        ],
        left_out=3,
        left_out_pixels=5,
    )


def filtered_png(labels: U8) -> bytes:
    """A PNG whose rows use each of the five filters in turn, in two IDAT chunks."""
    height, width = labels.shape
    above, rows = [0] * width, b""
    for y, row in enumerate(labels.tolist()):
        left, corner = [0, *row[:-1]], [0, *above[:-1]]
        guess = [
            [0] * width,
            left,
            above,
            [(a + b) // 2 for a, b in zip(left, above, strict=True)],
            [paeth(a, b, c) for a, b, c in zip(left, above, corner, strict=True)],
        ][4 - y % 5]
        rows += bytes([4 - y % 5, *((v - g) % 256 for v, g in zip(row, guess, strict=True))])
        above = row
    packed = zlib.compress(rows)
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)]
    chunks += [b"IDAT" + packed[:9], b"IDAT" + packed[9:], b"IEND"]
    written = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def paeth(left: int, above: int, corner: int) -> int:
    """The neighbour that is nearest to left + above - corner (PNG, 9.4)."""
    return min((left, above, corner), key=lambda value: abs(left + above - corner - value))


def told(mask: Mask, kind: str, encoding: str) -> dict[str, Any]:
    """What a reader must find in a message, as plain JSON values."""
    plain = (
        "stream",
        "run",
        "epoch",
        "seq",
        "n",
        "revision",
        "refined_seq",
        "pts",
        "captured_unix_ns",
        "clock",
    )
    plain += ("published_unix_ns", "label_set", "engine", "stage_us")
    found = {"kind": kind, "encoding": encoding, **{name: getattr(mask, name) for name in plain}}
    found["time_base"] = list(mask.time_base.as_integer_ratio())
    found["shape"] = list(mask.size)
    found["labels"] = mask.labels.tolist()
    if mask.confidence is not None:
        found["confidence"] = mask.confidence.tolist()
    return found


def told_same(mask: Mask) -> dict[str, Any]:
    plain = ("stream", "run", "epoch", "seq", "n", "pts", "captured_unix_ns", "clock", "published_unix_ns")
    plain += ("engine", "label_set", "same_as", "stage_us")
    found = {"kind": "same", **{name: getattr(mask, name) for name in plain}}
    return found | {"time_base": list(mask.time_base.as_integer_ratio()), "shape": list(mask.size)}


def told_picture(picture: Preview) -> dict[str, Any]:
    plain = ("stream", "run", "epoch", "seq", "n", "pts", "captured_unix_ns", "clock", "published_unix_ns")
    found = {"kind": "picture", "encoding": "jpeg", **{name: getattr(picture, name) for name in plain}}
    found["time_base"] = list(picture.time_base.as_integer_ratio())
    found |= {"shape": list(picture.size), "frame_shape": list(picture.frame_size)}
    return found | {"jpeg": picture.jpeg.hex()}


def told_status(status: wire.StreamStatus, mask: Mask) -> dict[str, Any]:
    fields = msgspec.to_builtins(status)
    return fields | {"kind": "status", "run": mask.run, "unix_ns": mask.published_unix_ns}


def told_event(event: wire.EventDocument | wire.PolygonsDocument | wire.ZonesDocument) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name != "version"}


def scaled() -> dict[str, Any]:
    """Labels, and what they are at other sizes: each pixel's from the one that its centre lies in."""
    labels = example_mask().labels.tolist()
    height, width = len(labels), len(labels[0])
    sizes = [(4, 6), (8, 12), (12, 6), (5, 7), (9, 13), (7, 2), (3, 4), (2, 3), (1, 1), (3, 17)]
    return {
        "labels": labels,
        "at": [
            {
                "shape": [rows, columns],
                "labels": [
                    [
                        labels[(2 * y + 1) * height // (2 * rows)][(2 * x + 1) * width // (2 * columns)]
                        for x in range(columns)
                    ]
                    for y in range(rows)
                ],
            }
            for rows, columns in sizes
        ],
    }


def pack(parts: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def unpack(data: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return parts


def main(folder: Path) -> None:
    for name, parts, expected in vectors():
        (folder / f"{name}.bin").write_bytes(pack(parts))
        document = {"refuse": True} if expected is None else expected
        rows = json.dumps(document, indent=1)
        (folder / f"{name}.json").write_text(rows + "\n")
    (folder / "scaled.json").write_text(json.dumps(scaled()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
