"""The pixels of a zone by its definition in docs/protocol.md, in plain NumPy: what the package must equal."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from streamseg.config import ZoneConfig
from streamseg.config.analytics import Points
from streamseg.types import Size


def in_ring(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], ring: Points) -> npt.NDArray[np.bool_]:
    """The even-odd rule as docs/protocol.md writes it, for all pixels at once."""
    inside = np.zeros(np.broadcast(x, y).shape, bool)
    for (x1, y1), (x2, y2) in zip(ring, (*ring[1:], ring[0]), strict=True):
        if y1 == y2:
            continue
        crosses = (y1 > y) != (y2 > y)
        inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def pixels_of(zone: ZoneConfig, size: Size) -> npt.NDArray[np.bool_]:
    """The pixels of a zone by its definition, without anything of raster.py."""
    height, width = size
    x, y = (np.arange(width)[None] + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height
    if zone.polygon is not None:
        inside = in_ring(x, y, zone.polygon)
        for hole in zone.holes:
            inside &= ~in_ring(x, y, hole)
        return inside
    assert zone.line is not None
    assert zone.width is not None
    near = np.zeros(size, bool)
    px, py = np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5
    for (ax, ay), (bx, by) in itertools.pairwise((x * width, y * height) for x, y in zone.line):
        dx, dy = bx - ax, by - ay
        square = dx * dx + dy * dy
        t = np.clip(((px - ax) * dx + (py - ay) * dy) / (square if square > 0 else 1.0), 0.0, 1.0)
        ex, ey = px - (ax + t * dx), py - (ay + t * dy)
        near |= ex * ex + ey * ey <= (zone.width * height / 2) ** 2
    return near
