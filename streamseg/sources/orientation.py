"""Turning pictures the way their metadata says they were meant."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import cast

import cv2
import numpy as np
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

from streamseg.types import U8, Size

Turn = tuple[bool, bool, bool]
"""(transpose, then mirror left-right, then mirror top-bottom)"""

UPRIGHT: Turn = (False, False, False)


def turn_of(image: VideoFrame) -> Turn:
    """How this picture has to be turned: the display matrix, as the nearest of its eight right-angled cases.

    FFmpeg's matrix takes (x, y) to (a·x + c·y, b·x + d·y), with y downwards (libavutil/display.h).
    """
    for data in cast("Iterable[SideData]", image.side_data):  # its stub says dict; it is a sequence
        if data.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = struct.unpack("<5i", bytes(data)[:20])
            if abs(b) + abs(c) > abs(a) + abs(d):
                return True, c < 0, b < 0
            return False, a < 0, d < 0
    return UPRIGHT


class Turning:
    """How the pictures of one connection have to be turned, one after the other.

    Asking PyAV for a picture's side data ties both together in a cycle, so that its pixels stay in memory
    until Python collects cycles: 3 MB for each picture of 1080p, by the hundred. So it is asked again only
    when the angle changes, which can be had without.
    """

    def __init__(self) -> None:
        self._angle: int | None = None
        self._turn = UPRIGHT

    def of(self, image: VideoFrame) -> Turn:
        """turn_of() of this picture. A mirroring that begins midway without a new angle is not seen."""
        angle = image.rotation
        if angle != self._angle:
            self._angle, self._turn = angle, turn_of(image)
        return self._turn


def oriented_size(image: VideoFrame) -> Size:
    """(height, width) of the picture once turned."""
    return (image.width, image.height) if turn_of(image)[0] else (image.height, image.width)


def apply_turn(rgb: U8, turn: Turn) -> U8:
    """The turned picture, contiguous; the same array when there is nothing to turn."""
    transpose, left_right, top_bottom = turn
    turned = cv2.transpose(rgb) if transpose else rgb
    if left_right or top_bottom:
        turned = cv2.flip(turned, -1 if left_right and top_bottom else int(left_right))
    return np.asarray(turned, np.uint8)
