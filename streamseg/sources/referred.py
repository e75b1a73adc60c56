"""Whether other pictures refer to a picture, told by the head of its packet: what need not be decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Referred(NamedTuple):
    """What the head of a picture's packet says of it."""

    by_others: bool
    layer: int = 0  # HEVC: temporal; others of higher layers may refer to it whatever it says


Reader = Callable[[memoryview, bytes], Referred | None]

_INTRA_ONLY = ("mjpeg", "png", "rawvideo", "prores", "dnxhd", "dvvideo", "jpeg2000", "bmp", "ffv1", "qoi")


def intra_only(codec: str) -> bool:
    """Whether each picture of a codec, by FFmpeg's name, stands alone."""
    return codec in _INTRA_ONLY


def reader_of(codec: str) -> Reader | None:
    """What tells for a packet and the codec's extradata; None of codecs where nothing here can tell."""
    return _READERS.get(codec)


def _h264(packet: memoryview, extradata: bytes) -> Referred | None:
    """nal_ref_idc of the first slice (H.264, 7.3.1): 0 where nothing refers to the picture."""
    for unit in _units(packet, _length_size(extradata, 4)):
        if unit[0] & 31 in (1, 5):
            return Referred(bool(unit[0] & 0x60))
    return None


def _hevc(packet: memoryview, extradata: bytes) -> Referred | None:
    """The type of the first slice (H.265, 7.4.2.2): none of its layer refers to even ones below 16."""
    for unit in _units(packet, _length_size(extradata, 21)):
        kind = unit[0] >> 1 & 63
        if kind < 32 and len(unit) > 1:
            return Referred(kind >= 16 or kind % 2 == 1, max(0, (unit[1] & 7) - 1))
    return None


def _mpeg2(packet: memoryview, extradata: bytes) -> Referred | None:
    """picture_coding_type 3, B (H.262, 6.2.3)."""
    at = bytes(packet[:512]).find(b"\0\0\1\0")
    return None if at < 0 or at + 6 > len(packet) else Referred(packet[at + 5] >> 3 & 7 != 3)


def _mpeg4(packet: memoryview, extradata: bytes) -> Referred | None:
    """vop_coding_type 2, B (ISO 14496-2, 6.2.5); packed bitstreams hold two pictures in one packet."""
    data = bytes(packet)
    at = data.find(b"\0\0\1\xb6")
    if at < 0 or at + 5 > len(data) or data.find(b"\0\0\1\xb6", at + 4) >= 0:
        return None
    return Referred(data[at + 4] >> 6 != 2)


_READERS: dict[str, Reader] = {
    "h264": _h264,
    "hevc": _hevc,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "mpeg4": _mpeg4,
}

_HEADS = 32  # units in front of the first slice at most


def _length_size(extradata: bytes, at: int) -> int:
    """Bytes of the length in front of each unit, as of MP4; 0 where start codes are between them."""
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def _units(packet: memoryview, length_size: int) -> list[memoryview]:
    """The first NAL units of a packet, each at least from its head on."""
    units: list[memoryview] = []
    at = 0
    if length_size:
        while len(units) < _HEADS and at + length_size < len(packet):
            length = int.from_bytes(packet[at : at + length_size], "big")
            at += length_size
            units.append(packet[at : at + length])
            at += length
        return [unit for unit in units if len(unit)]
    data = bytes(packet)
    while len(units) < _HEADS and (at := data.find(b"\0\0\1", at)) >= 0 and at + 3 < len(data):
        units.append(packet[at + 3 : at + 5])
        at += 3
    return units
