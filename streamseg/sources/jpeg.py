"""JPEGs of cameras and snapshot addresses, decoded at a quarter or an eighth of their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from streamseg.types import U8, Size
from streamseg.types.picture import Picture, scale_picture

Needed = Callable[[Size], Size | None]
"""The least size of which a picture of a size is wanted now; None: the whole."""

HALVINGS = (3, 2)
"""To an eighth or a quarter. FFmpeg decodes no faster to the half, and scaling the whole is cheap."""

MARGIN = 1.5
"""What is decoded is scaled down further: alone, a decoder's own way is 2 levels from that on average."""

_FRAME_HEADS = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; what else there is FFmpeg does not halve
_EXIF = 0xE1
_STANDALONE = {0x01, *range(0xD0, 0xD9)}


class JpegDecoder:
    """Decodes JPEGs as small as is enough for who needs them; used like the decoder that it was made from.

    Each picture stands alone, so another size holds from one picture to the next.
    """

    skip_frame: Any = "DEFAULT"  # no other picture refers to any

    def __init__(
        self,
        decoder: VideoCodecContext,
        needed: Needed,
        upright: Callable[[VideoFrame], bool] | None = None,
    ) -> None:
        """upright: asked of the first picture where the container may say how all of them are to be turned,
        which only the decoder that is given knows: it goes on alone then."""
        self._whole, self._needed, self._upright = decoder, needed, upright
        self._smaller: dict[int, VideoCodecContext] = {}
        self._now = decoder
        self.whole_size: Size | None = None  # of the picture decoded last, where it was decoded smaller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)

    def flush_buffers(self) -> None:
        for decoder in (self._whole, *self._smaller.values()):
            if decoder.is_open:
                decoder.flush_buffers()

    def decode(self, packet: av.Packet[Any] | None) -> list[VideoFrame]:
        if packet is not None and packet.size:
            size = self._size_of(packet)
            halvings = 0 if size is None else halvings_of(size, self._needed(size))
            self._now = self._decoder(halvings)
            self.whole_size = size if halvings else None
        images = self._now.decode(packet)
        if images and self._upright is not None and self._upright(images[0]):
            self._upright = None
        return images

    def _size_of(self, packet: av.Packet[Any]) -> Size | None:
        """(height, width) of the picture in a packet; None where it has to be decoded whole.

        So is one of another size than the last whole one: its packet may hold a field of it only.
        """
        known, size = (self._whole.height, self._whole.width), upright_size(memoryview(packet))
        return None if self._upright is not None or known not in ((0, 0), size) else size

    def _decoder(self, halvings: int) -> VideoCodecContext:
        if not halvings:
            return self._whole
        if halvings not in self._smaller:
            decoder = CodecContext.create("mjpeg", "r")
            decoder.extradata = self._whole.extradata
            decoder.thread_type, decoder.thread_count = "SLICE", 1
            decoder.options = {"lowres": str(halvings)}
            self._smaller[halvings] = decoder
        return self._smaller[halvings]


class SmallerPicture:
    """A picture of its whole size of which only a smaller one was decoded."""

    def __init__(self, decoded: Picture, size: Size) -> None:
        self._decoded, self.size = decoded, size

    def rgb(self) -> U8:
        """The whole size, as far as it was decoded: less sharp."""
        return scale_picture(self._decoded.rgb(), self.size)

    def scaled(self, size: Size) -> U8:
        return self._decoded.scaled(size)

    def luma(self, size: Size) -> U8:
        return self._decoded.luma(size)


def halvings_of(size: Size, needed: Size | None) -> int:
    """How often both sides can be halved, if that saves anything, and stay MARGIN times what is needed.

    Without a rest, which a decoder rounds up: the picture would be stretched.
    """
    if needed is None:
        return 0
    enough = (
        n
        for n in HALVINGS
        if all(a % 2**n == 0 and a // 2**n >= MARGIN * b for a, b in zip(size, needed, strict=True))
    )
    return next(enough, 0)


def upright_size(data: memoryview) -> Size | None:
    """(height, width) by a JPEG's own head; None where that is not known, or it may have to be turned."""
    at = 2
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _EXIF or marker == 0xDA:
            return None
        if marker in _FRAME_HEADS:
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return (height, width) if height and width else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
