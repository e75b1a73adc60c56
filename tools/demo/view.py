"""The camera of the drawn street, and its classes.

The world is in metres: x to the right, y up from the road, z ahead of the camera, which looks along z.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.types import U8, Size

DEMO_SIZE: Size = (360, 480)
FOCAL = 430.0  # pixels
CENTRE_X, HORIZON = 236.0, 172.0
CAMERA_HEIGHT = 1.45
PERIOD_M = 90.0
"""The street repeats itself after this length, which is what the camera drives in one clip."""

FAR_M = 115.0

# Edges across the street (x, metres); traffic keeps to the left.
LEFT_WALL, LEFT_KERB, RIGHT_KERB, RIGHT_WALL = -7.0, -4.3, 5.7, 9.0

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

Point = tuple[float, float, float]
F32 = npt.NDArray[np.float32]


def project(points: Iterable[Point]) -> list[tuple[float, float]]:
    """World points → pixels (x, y); what is nearer than half a metre counts as half a metre away."""
    out = []
    for x, y, z in points:  # a loop: for the few corners of a face it is ten times faster than arrays
        scale = FOCAL / (z if z > 0.5 else 0.5)
        out.append((CENTRE_X + scale * x, HORIZON + scale * (CAMERA_HEIGHT - y)))
    return out


def noise(rng: np.random.Generator, size: Size, spread: float, grain: int = 1) -> F32:
    """Noise of the given standard deviation whose grains are about `grain` pixels wide."""
    h, w = size
    coarse = rng.standard_normal((max(1, h // grain), max(1, w // grain)), np.float32) * spread
    return coarse if grain == 1 else np.asarray(cv2.resize(coarse, (w, h)), np.float32)


def f32(values: Any) -> F32:
    return np.asarray(values, np.float32)


def as_u8(array: Any) -> U8:
    """The same array, which OpenCV's stubs call anything."""
    return np.asarray(array, np.uint8)


def to_u8(values: F32) -> U8:
    return np.clip(values, 0, 255).astype(np.uint8)
