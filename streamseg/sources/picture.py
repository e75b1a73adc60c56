"""A picture in host memory as the decoder left it; what is asked of it is converted then."""

from __future__ import annotations

import threading
from collections.abc import Callable

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from streamseg.sources.pixel_format import Mixture, colours_of, has_planes, luma_of, rgb_of
from streamseg.sources.planes import scale_planes
from streamseg.sources.surface import Turn
from streamseg.types import U8, Size
from streamseg.types.picture import scale_picture, shrinks_much

ON_GPU = "cuda"
"""The pixel format of pictures in a GPU's memory."""
_FAST = {"yuv420p": cv2.COLOR_YUV2RGB_I420, "nv12": cv2.COLOR_YUV2RGB_NV12}  # nv12: of hardware decoders
_EXACT = 2 | 0x2000 | 0x40000  # SWS_BILINEAR, SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND
_REPACKED = {"yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p"}  # of USB cameras


class HostPicture:
    """A decoded picture in host memory. It owns the decoder's buffer; any thread may ask.

    What is asked for has the same bytes, whatever was asked before.
    """

    def __init__(self, image: VideoFrame, turn: Turn, to_rgb: RgbConverter) -> None:
        self._image, self._turn, self._to_rgb = image, turn, to_rgb
        # Written whole; two threads that ask at once make it twice, and equal.
        self._rgb: U8 | None = None
        self._scaled: U8 | None = None

    @property
    def size(self) -> Size:
        return turned_size((self._image.height, self._image.width), self._turn)

    def rgb(self) -> U8:
        if self._rgb is None:
            self._rgb = apply_turn(self._to_rgb(self._image), self._turn)
        return self._rgb

    def scaled(self, size: Size) -> U8:
        if size == self.size:
            return self.rgb()
        kept = self._scaled
        if kept is None or kept.shape[:2] != size:
            # Where each output is made of a few pixels, going by the whole RGB costs no more.
            planes = shrinks_much(self.size, size)
            kept = self._scaled = self._made(size, rgb_of) if planes else scale_picture(self.rgb(), size)
        return kept

    def luma(self, size: Size) -> U8:
        return self._made(size, luma_of)

    def _made(self, size: Size, how: Callable[[VideoFrame], Mixture]) -> U8:
        """The planes scaled and mixed, upright: (h, w, 3), or (h, w) of luma."""
        coded, to = (self._image.height, self._image.width), turned_size(size, self._turn)
        planes, matrix, offset = how(self._to_rgb.with_planes(self._image))
        made = scale_planes(planes, coded, to, matrix, offset)
        return apply_turn(made if len(offset) > 1 else made[..., 0], self._turn)


class RgbConverter:
    """Turns pictures of any pixel format and size into RGB with the matrix and range they were made with.

    Within a level or two of the exact conversion: by OpenCV of 8-bit 4:2:0 BT.601 limited, else by our pass
    over the planes; of what has no such planes by swscale's exact way (its fast one is a level too dark).
    """

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        self._lock = threading.Lock()  # guards it: any thread may be the first to ask for a picture's RGB

    def __call__(self, image: VideoFrame) -> U8:
        """RGB, (height, width, 3), contiguous, owned by the caller. From any thread."""
        matrix, full = colours_of(image)
        if (
            image.format.name in _FAST
            and matrix == Colorspace.ITU601
            and not full
            and image.width % 2 == 0
            and image.height % 2 == 0
        ):
            return np.asarray(cv2.cvtColor(image.to_ndarray(), _FAST[image.format.name]), np.uint8)
        planes, to_rgb, offset = rgb_of(self.with_planes(image))
        size = image.height, image.width
        return scale_planes(planes, size, size, to_rgb, offset)

    def with_planes(self, image: VideoFrame) -> VideoFrame:
        """The picture with planes that can be scaled; converted where it has others. From any thread."""
        if has_planes(image):
            return image
        with self._lock:
            if image.format.name in _REPACKED:
                return self.reformatter.reformat(image, format=_REPACKED[image.format.name])
            return self._by_swscale(image)

    def _by_swscale(self, image: VideoFrame) -> VideoFrame:
        matrix, full = colours_of(image)
        yuv = not image.format.is_rgb and not image.format.name.startswith(("gray", "pal", "mono"))
        src_range = (ColorRange.JPEG if full else ColorRange.MPEG) if yuv or full else None
        return self.reformatter.reformat(
            image,
            format="rgb24",
            src_colorspace=matrix if yuv else None,
            src_color_range=src_range,
            interpolation=_EXACT,
            threads=1,  # swscale's own threads cost more than they bring at camera sizes
        )


def to_host(image: VideoFrame) -> VideoFrame:
    """A copy of a picture in a GPU's memory, in its format on the host."""
    assert image.sw_format is not None, "a picture on a device has one"
    return image.reformat(format=image.sw_format.name)


def turned_size(size: Size, turn: Turn) -> Size:
    """The size of a picture once turned, and of a turned one before."""
    return size[::-1] if turn[0] else size


def apply_turn(picture: U8, turn: Turn) -> U8:
    """The turned picture, contiguous; the same array when there is nothing to turn."""
    transpose, left_right, top_bottom = turn
    turned = cv2.transpose(picture) if transpose else picture
    if left_right or top_bottom:
        turned = cv2.flip(turned, -1 if left_right and top_bottom else int(left_right))
    return np.asarray(turned, np.uint8)
