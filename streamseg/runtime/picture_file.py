"""The bytes of a picture file → RGB, checked before memory is taken for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from streamseg.errors import SourceError
from streamseg.runtime.file_kinds import kind_of
from streamseg.types import U8, Size

FORMATS = "JPEG, PNG, WebP, BMP or TIFF"
MOST_PIXELS, MOST_SIDE = 1 << 26, 16384
"""As many as a mask may have."""


class TooLarge(SourceError):
    """It has more pixels than may be decoded."""


def read_rgb(data: bytes, most_pixels: int = MOST_PIXELS) -> U8:
    """Decode one picture → RGB (H, W, 3), turned as its EXIF says; raises SourceError without a name.

    More than 8 bits become 8, grey and CMYK become RGB, what is transparent has the colour that lies below.
    Of several pages the first is taken.
    """
    import cv2  # late: who only looks at a command's help does not wait for it

    height, width = _checked_size(data)
    if height * width > most_pixels or max(height, width) > MOST_SIDE:
        raise TooLarge(
            f"has {width}x{height} pixels; the most is {most_pixels} in all and {MOST_SIDE} a side"
        )
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        bgr = None
    if bgr is None or bgr.size > 3 * most_pixels:
        raise SourceError("is damaged, or of a kind that cannot be read")
    rgb: U8 = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
    return rgb


def _checked_size(data: bytes) -> Size:
    """What the header says; raises SourceError for what is no picture, or is cut off."""
    if not data:
        raise SourceError("is empty (0 bytes)")
    whole, size = True, None
    try:
        if data[:2] == b"\xff\xd8":
            size, at = _jpeg_size(data)
            whole = data.rfind(b"\xff\xd9") > at  # behind the small picture that EXIF may hold
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", data[16:24])
            size, whole = (height, width), b"IEND" in data
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            size, whole = _webp_size(data), len(data) >= struct.unpack("<I", data[4:8])[0] + 8
        elif data[:2] == b"BM":
            width, height = struct.unpack("<ii", data[18:26])
            size = (abs(height), abs(width))
        elif data[:4] in (b"II*\0", b"MM\0*"):
            size = _tiff_size(data)
        else:
            kind = kind_of(data[:64])
            raise SourceError(f"is {kind or 'not a picture'}; must be {FORMATS}")
    except (struct.error, IndexError):
        whole = False
    if not whole:
        raise SourceError("is cut off")
    if size is None or min(size) < 1:
        raise SourceError("is damaged: its header gives no size")
    return size


def _jpeg_size(data: bytes) -> tuple[Size | None, int]:
    """Of the frame's header (ITU T.81, B.2.2), and where that is."""
    for marker, at in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 1 : at + 5])
            return (height, width), at
    return None, 0


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    at = 2
    while True:
        while data[at] != 0xFF:
            at += 1
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in (0xD9, 0xDA):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack(">H", data[at : at + 2])
        yield marker, at + 2
        at += max(2, length)


def _webp_size(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return height, width
    return None


def _tiff_size(data: bytes) -> Size | None:
    """Of the first page: tags 257 and 256, each of 16 or 32 bits."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(f"{order}I", data[4:8])
    (entries,) = struct.unpack(f"{order}H", data[at : at + 2])
    found: dict[int, int] = {}
    for i in range(entries):
        entry = data[at + 2 + 12 * i : at + 14 + 12 * i]
        tag, kind = struct.unpack(f"{order}HH", entry[:4])
        if tag in (256, 257):
            form, end = ("H", 10) if kind == 3 else ("I", 12)
            (found[tag],) = struct.unpack(order + form, entry[8:end])
    return (found[257], found[256]) if len(found) == 2 else None
