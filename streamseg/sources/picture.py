"""A picture in host memory as the decoder left it; what is asked of it is converted then."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from streamseg.sources.surface import Turn
from streamseg.types import U8, Size
from streamseg.types.picture import grey, scale_picture

# ITU-T H.273 matrix coefficients, as FFmpeg numbers them, and swscale's name for each.
_UNSPECIFIED = 2
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
LUMA_OF_RED_AND_BLUE = {
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}
"""What red and blue contribute to luma; green the rest."""
ON_GPU = "cuda"
"""The pixel format of pictures in a GPU's memory."""
_FULL_RANGE = 2
_FAST = {"yuv420p": cv2.COLOR_YUV2RGB_I420, "nv12": cv2.COLOR_YUV2RGB_NV12}  # nv12: of hardware decoders


class HostPicture:
    """A decoded picture in host memory. It owns the decoder's buffer; any thread may ask."""

    def __init__(self, image: VideoFrame, turn: Turn, to_rgb: RgbConverter) -> None:
        self._image, self._turn, self._to_rgb = image, turn, to_rgb
        # Written whole; two threads that ask at once make it twice, and equal.
        self._rgb: U8 | None = None
        self._scaled: U8 | None = None

    @property
    def size(self) -> Size:
        height, width = self._image.height, self._image.width
        return (width, height) if self._turn[0] else (height, width)

    def rgb(self) -> U8:
        if self._rgb is None:
            self._rgb = apply_turn(self._to_rgb(self._image), self._turn)
        return self._rgb

    def scaled(self, size: Size) -> U8:
        kept = self._scaled
        if kept is None or kept.shape[:2] != size:
            kept = self._scaled = scale_picture(self.rgb(), size)
        return kept

    def luma(self, size: Size) -> U8:
        return grey(self.scaled(size))


class RgbConverter:
    """Turns pictures of any pixel format and size into RGB with the matrix and range they were made with.

    8-bit 4:2:0 BT.601 limited goes through OpenCV, which is within one level of the exact conversion;
    everything else through swscale, within three. One in a GPU's memory is copied to the host first.
    """

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        self._lock = threading.Lock()  # guards it: who first wants a picture that stayed on a GPU converts it

    def __call__(self, image: VideoFrame) -> U8:
        """RGB, (height, width, 3), contiguous, owned by the caller. From any thread."""
        with self._lock:
            return self._converted(image)

    def _converted(self, image: VideoFrame) -> U8:
        if image.format.name == ON_GPU and image.sw_format is not None:
            image = image.reformat(format=image.sw_format.name)
        matrix, full = colours_of(image)
        if (
            image.format.name in _FAST
            and matrix == Colorspace.ITU601
            and not full
            and image.width % 2 == 0
            and image.height % 2 == 0
        ):
            return np.asarray(cv2.cvtColor(image.to_ndarray(), _FAST[image.format.name]), np.uint8)
        yuv = not image.format.is_rgb and not image.format.name.startswith(("gray", "pal", "mono"))
        src_range = (ColorRange.JPEG if full else ColorRange.MPEG) if yuv or full else None
        rgb = self.reformatter.reformat(
            image,
            format="rgb24",
            src_colorspace=matrix if yuv else None,
            src_color_range=src_range,
            threads=1,  # swscale's own threads cost more than they bring at camera sizes
        )
        return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)


def colours_of(image: VideoFrame) -> tuple[Colorspace, bool]:
    """A picture's matrix, and whether its levels are of full range.

    An unspecified matrix is BT.709 from 1280 wide or 577 high on, as players assume.
    """
    full = image.color_range == _FULL_RANGE or image.format.name.startswith("yuvj")
    if image.colorspace == _UNSPECIFIED or image.colorspace not in _MATRICES:
        hd = image.width >= 1280 or image.height > 576
        return Colorspace.ITU709 if hd else Colorspace.ITU601, full
    return _MATRICES[image.colorspace], full


def apply_turn(rgb: U8, turn: Turn) -> U8:
    """The turned picture, contiguous; the same array when there is nothing to turn."""
    transpose, left_right, top_bottom = turn
    turned = cv2.transpose(rgb) if transpose else rgb
    if left_right or top_bottom:
        turned = cv2.flip(turned, -1 if left_right and top_bottom else int(left_right))
    return np.asarray(turned, np.uint8)
