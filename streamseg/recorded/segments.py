"""Segments: the finished work on a segment of a file, committed atomically and read back when all are there.

A segment file is a run of records, each a kind, a length and its bytes; the last record is the SHA-256 of all
before it. It is written under another name, synced, and renamed: a segment that has its name is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np

from streamseg.errors import OutputError
from streamseg.recorded.selection import Account
from streamseg.recorded.tracks import Packet, TrackName
from streamseg.runtime.files import move_into_place, replaced
from streamseg.types import U8

_HEAD = struct.Struct("<BI")
_PACKET = struct.Struct("<q?")
_FRAME, _LABELS, _CONFIDENCE, _OVERLAY, _TAIL, _SUM = range(1, 7)
_KIND: dict[TrackName, int] = {"labels": _LABELS, "confidence": _CONFIDENCE, "overlay": _OVERLAY}


class FrameRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one mask besides its pictures."""

    seq: int
    pts: int | None  # the source's own
    ticks: int  # in the result videos
    resized: bool  # the frame's size differs from that of the file's first
    pixels: dict[int, int]  # by class
    digest: bytes  # SHA-256 of the labels


def count_pixels(labels: U8) -> dict[int, int]:
    """Pixels of each class that is there. OpenCV's histogram takes a fifth of np.bincount's time."""
    if labels.size < 1 << 24:  # it counts in float32
        counts = np.asarray(cv2.calcHist([labels], [0], None, [256], [0, 256])).reshape(-1)
    else:
        counts = np.bincount(labels.reshape(-1), minlength=256)
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a segment; with the last segment of a file, the account of the whole file."""

    frames: int
    last: bool
    decoded: int = 0
    taken: int = 0
    corrupt: int = 0
    damage: str | None = None
    damaged_at_s: tuple[float, ...] = ()


class SegmentWriter:
    """Writes one segment, in the thread that made it; ends with commit() or discard()."""

    def __init__(self, folder: Path, index: int) -> None:
        self.path = segment_path(folder, index)
        self._temporary = self.path.with_suffix(".tmp")
        self._sum = hashlib.sha256()
        self._frames = 0
        self._file = self._temporary.open("wb")

    def frame(self, record: FrameRecord) -> None:
        self._frames += 1
        self._write(_FRAME, msgspec.msgpack.encode(record))

    def packet(self, track: TrackName, packet: Packet) -> None:
        self._write(_KIND[track], _PACKET.pack(packet.ticks, packet.intra) + packet.data)

    def commit(self, account: Account | None) -> int:
        """Make the segment permanent → its number of frames. account: this is the file's last segment."""
        tail = Tail(frames=self._frames, last=False)
        if account is not None:
            tail = Tail(
                frames=self._frames,
                last=True,
                decoded=account.decoded,
                taken=account.taken,
                corrupt=account.corrupt,
                damage=account.line,
                damaged_at_s=tuple(account.at_s),
            )
        self._write(_TAIL, msgspec.msgpack.encode(tail))
        self._write(_SUM, self._sum.digest())
        self._file.close()
        move_into_place(self._temporary, self.path)
        return self._frames

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        with contextlib.suppress(OSError):  # closing writes what is buffered, and the disk may be full
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, kind: int, data: bytes) -> None:
        head = _HEAD.pack(kind, len(data))
        self._file.write(head)
        self._file.write(data)
        if kind != _SUM:
            self._sum.update(head)
            self._sum.update(data)


def segment_path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.segment"


def whole_segments(folder: Path) -> dict[int, Tail]:
    """The tails of all segments that are there and whole, by their index; what is damaged is removed."""
    whole = {}
    for path in [*folder.glob("*.segment"), *folder.glob("*.tmp")]:
        if path.suffix == ".segment":
            with contextlib.suppress(OutputError):
                whole[int(path.stem)] = read_tail(folder, int(path.stem))
                continue
        path.unlink()
    return whole


def keep_leading(folder: Path, whole: dict[int, Tail]) -> dict[int, Tail]:
    """Remove the segments after a missing one → those before it."""
    count = next(n for n in range(len(whole) + 1) if n not in whole)
    for index in whole:
        if index >= count:
            segment_path(folder, index).unlink()
    return {index: whole[index] for index in range(count)}


def keep_segment(folder: Path, index: int, data: bytes) -> Tail:
    """Commit a segment that was made elsewhere; raises OutputError when it did not come whole."""
    with replaced(segment_path(folder, index)) as beside:
        beside.write_bytes(data)
        return _tail_of(beside)


def read_tail(folder: Path, index: int) -> Tail:
    """A segment's tail, after its whole content has been checked; raises OutputError."""
    return _tail_of(segment_path(folder, index))


def read_frames(folder: Path, count: int) -> Iterator[FrameRecord]:
    """The frames of the first `count` segments, in order."""
    decoder = msgspec.msgpack.Decoder(FrameRecord)
    for kind, data in _all(folder, count):
        if kind == _FRAME:
            yield decoder.decode(data)


def read_packets(folder: Path, count: int, track: TrackName) -> Iterator[Packet]:
    """The packets of a track, in order."""
    wanted = _KIND[track]
    for kind, data in _all(folder, count):
        if kind == wanted:
            ticks, intra = _PACKET.unpack_from(data)
            yield Packet(ticks, intra, data[_PACKET.size :])


def _tail_of(path: Path) -> Tail:
    tail = b""
    for kind, data in _records(path):
        if kind == _TAIL:
            tail = data
    return msgspec.msgpack.decode(tail, type=Tail)  # behind the check: damage is no matter for a decoder


def _all(folder: Path, count: int) -> Iterator[tuple[int, bytes]]:
    for index in range(count):
        yield from _records(segment_path(folder, index))


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every record; raises OutputError at the end when the sum is wrong, or where the file is cut off."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise OutputError(f"{path}: is cut off")
            kind, length = _HEAD.unpack(head)
            data = file.read(length) if length <= os.fstat(file.fileno()).st_size else b""
            if len(data) < length:
                raise OutputError(f"{path}: is cut off")
            if kind == _SUM:
                if data != total.digest():
                    raise OutputError(f"{path}: is damaged; remove it and run the same command again")
                return
            total.update(head)
            total.update(data)
            yield kind, data
