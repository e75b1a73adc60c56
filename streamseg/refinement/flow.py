"""Dense optical flow at reduced resolution: where each pixel was, and how far that can be trusted.

DIS flow: Kroeger, Timofte, Dai, Van Gool, "Fast optical flow using dense inverse search", 2016. A `where` map
(h, w, 2) float32 holds for each pixel of the present its position (x, y) in an earlier picture, so that maps
chain by looking one up in the other.
"""

from __future__ import annotations

import functools
from typing import TypeVar, cast

import cv2
import numpy as np

from streamseg.types import F32, U8, Size
from streamseg.types.picture import grey, scale_picture

T = TypeVar("T", U8, F32)

ERROR_SCALE = 20.0  # grey levels between the two pictures at which trust has fallen to 1/e
REFINEMENTS = 2  # of the flow; the preset has 5, which gain nothing (docs/design/0004)
_OUTSIDE = -1e4  # a position in no picture
TRUST: F32 = np.exp(-((np.arange(256) / ERROR_SCALE) ** 2)).astype(np.float32)  # by difference in grey


def grey_of(rgb: U8, size: Size) -> U8:
    """The picture (H, W, 3) as grey levels at `size`."""
    return grey(scale_picture(rgb, size))


@functools.lru_cache(maxsize=16)
def standing_still(size: Size) -> F32:
    """The map of a picture onto itself; shared, so read only."""
    height, width = size
    where = np.empty((height, width, 2), np.float32)
    where[..., 0] = np.arange(width, dtype=np.float32)
    where[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    where.setflags(write=False)
    return where


class Flow:
    """Estimates motion between grey pictures. Belongs to one thread.

    OpenCV divides the estimation among its threads, and its result depends on how many they are: runs repeat
    to the byte only where the process has called one_thread().
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._dis.setVariationalRefinementIterations(REFINEMENTS)

    def __call__(self, now: U8, then: U8) -> F32:
        """Where each pixel of `now` was in `then`; both (h, w) grey, at least 16 pixels a side."""
        where = cast(F32, self._dis.calc(now, then, None))  # type: ignore[call-overload]
        where += standing_still((now.shape[0], now.shape[1]))
        return where


def one_thread() -> None:
    """Let OpenCV use the calling thread alone, in all of this process: then results repeat."""
    cv2.setNumThreads(1)


def chain(step: F32, earlier: F32) -> F32:
    """Now → then (`step`) followed by then → long ago (`earlier`); outside stays outside."""
    return _looked_up(earlier, step, cv2.INTER_LINEAR, outside=_OUTSIDE)


def carry(then: F32, where: F32) -> F32:
    """What lay at `where` in `then` (h, w, C); positions outside give the nearest border."""
    return _looked_up(then, where, cv2.INTER_LINEAR).reshape(*where.shape[:2], -1)


def trust(now: U8, then: U8, where: F32) -> F32:
    """How well the flow explains the picture, (h, w) in 0..1: exp(−(error / 20)²), 0 outside `then`.

    The error is the difference in grey levels between a pixel and where the flow places it in `then`.
    """
    moved = _looked_up(then, where, cv2.INTER_LINEAR)
    inside = _looked_up(np.ones_like(then), where, cv2.INTER_NEAREST, outside=0)
    trusted: F32 = TRUST[cv2.absdiff(now, moved)] * inside
    return trusted


def _looked_up(of: T, where: F32, interpolation: int, outside: float | None = None) -> T:
    """`of` at the positions `where`; beyond its border the border, or the value `outside`."""
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    value = (outside or 0.0,) * 4
    found = cv2.remap(of, where, None, interpolation, borderMode=border, borderValue=value)  # type: ignore[call-overload]
    return cast(T, found)
