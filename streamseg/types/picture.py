"""A picture as the route passes it on, wherever its pixels lie; arrays of RGB are pictures, too."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
"""(height, width) in pixels."""

U8 = npt.NDArray[np.uint8]


class Picture(Protocol):
    """A decoded picture, upright. Any thread may ask; what is given is kept by both and written by nobody."""

    @property
    def size(self) -> Size: ...

    def rgb(self) -> U8:
        """The whole picture on the host, (H, W, 3); made when it is first asked for, and kept."""
        ...

    def scaled(self, size: Size) -> U8:
        """RGB at this size, (h, w, 3), as scale_picture gives it; that of the last size asked for is kept."""
        ...

    def luma(self, size: Size) -> U8:
        """Its brightness alone at this size, (h, w), 0 to 255."""
        ...


class ArrayPicture:
    """An RGB array (H, W, 3) as a picture."""

    def __init__(self, rgb: U8) -> None:
        self._rgb = rgb
        self._scaled: U8 | None = None  # written whole; two threads that ask at once make it twice

    @property
    def size(self) -> Size:
        return self._rgb.shape[0], self._rgb.shape[1]

    def rgb(self) -> U8:
        return self._rgb

    def scaled(self, size: Size) -> U8:
        kept = self._scaled
        if kept is None or kept.shape[:2] != size:
            kept = self._scaled = scale_picture(self._rgb, size)
        return kept

    def luma(self, size: Size) -> U8:
        return grey(self.scaled(size))


def scale_picture(picture: U8, size: Size) -> U8:
    """Scale one picture (H, W, 3) or (H, W); itself when it has the size.

    Area averaging where a picture shrinks to less than half, else bilinear, with aligned pixel centres.
    """
    if picture.shape[:2] == size:
        return picture
    import cv2  # not for the receivers of masks

    how = cv2.INTER_AREA if shrinks_much((picture.shape[0], picture.shape[1]), size) else cv2.INTER_LINEAR
    return cast(U8, cv2.resize(picture, size[::-1], interpolation=how))


def shrinks_much(size: Size, to: Size) -> bool:
    """Whether bilinear scaling would skip pixels."""
    return size[0] > 2 * to[0] or size[1] > 2 * to[1]


def grey(rgb: U8) -> U8:
    """The brightness of an RGB picture, (H, W), as BT.601 weighs its colours."""
    import cv2

    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
