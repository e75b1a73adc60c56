"""Frames → network input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np

from streamseg.types import U8, Size


def fit_size(frame_size: Size, target: Size, multiple: int) -> Size:
    """The input size for a frame: its aspect ratio, about as many pixels as target, sides a multiple.

    With the same number of pixels the network costs the same for every aspect ratio.
    """
    height, width = frame_size
    scale = math.sqrt(target[0] * target[1] / (height * width))
    sides = (max(1, round(side * scale / multiple)) * multiple for side in (height, width))
    return next(sides), next(sides)


def make_batch(pictures: Sequence[U8], size: Size) -> U8:
    """Scale RGB pictures (H, W, 3) to one size → (N, h, w, 3) uint8, contiguous.

    Area averaging where a picture shrinks to less than half, else bilinear, with aligned pixel centres. A
    single picture that already has the size is not copied.
    """
    if len(pictures) == 1:
        return scale_picture(pictures[0], size)[None]
    return np.stack([scale_picture(p, size) for p in pictures])


def scale_picture(picture: U8, size: Size) -> U8:
    """Scale one picture (H, W, 3); itself when it has the size."""
    if picture.shape[:2] == size:
        return picture
    how = cv2.INTER_AREA if shrinks_much((picture.shape[0], picture.shape[1]), size) else cv2.INTER_LINEAR
    return cast(U8, cv2.resize(picture, size[::-1], interpolation=how))


def shrinks_much(size: Size, to: Size) -> bool:
    """Whether bilinear scaling would skip pixels."""
    return size[0] > 2 * to[0] or size[1] > 2 * to[1]
