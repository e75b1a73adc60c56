"""Square metres: what the pixels of a zone cover on the ground, by four of its corners (a homography)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamseg.config import ZoneConfig
from streamseg.types import F64, Size

FARTHEST = 10.0
"""Pixels of ground this many times as far away as the rectangle's farthest corner have no area."""

I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The ground below the pixels of one zone.

    The area of a run of pixels in a row is that of its four corners on the ground, exactly, so runs add up.
    Pixels at the horizon and above have none.
    """

    to_ground: F64  # (3, 3): shares of the picture (x, y, 1) → metres (u, v, 1), up to a factor
    rows: I32  # (n,) runs of the zone's pixels that have an area
    begins: I32
    ends: I32

    def areas(self, rows: npt.NDArray[np.intp], begins: F64, ends: F64, size: Size) -> F64:
        """Square metres below runs of pixels [begins, ends) of rows, (n,)."""
        height, width = size
        corners = [(begins, rows), (ends, rows), (ends, rows + 1), (begins, rows + 1)]
        us, vs = zip(*(_mapped(self.to_ground, x / width, y / height) for x, y in corners), strict=True)
        across = [us[i] * vs[(i + 1) % 4] - us[(i + 1) % 4] * vs[i] for i in range(4)]
        area: F64 = np.abs(across[0] + across[1] + across[2] + across[3]) / 2
        return area


def ground_of(
    zone: ZoneConfig,
    size: Size,
    rows: npt.NDArray[np.int64],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> Ground | None:
    """The ground of a zone that consists of these runs of pixels; None where the settings have none."""
    if zone.ground is None or zone.ground_size_m is None:
        return None
    height, width = size
    matrix = homography(np.asarray(zone.ground, np.float64), *zone.ground_size_m)
    corners = np.asarray(zone.ground, np.float64) @ matrix[2, :2] + matrix[2, 2]
    least = corners.min() / FARTHEST
    # A pixel has an area where the denominator, which is linear, is at least that in its four corners.
    slope = matrix[2, 0] / width
    low, high = begins.astype(np.float64), ends.astype(np.float64)
    for y in (rows / height, (rows + 1) / height):
        left = matrix[2, 1] * y + matrix[2, 2] - least  # of x = 0
        if slope > 0:
            low = np.maximum(low, np.ceil(-left / slope))
        elif slope < 0:
            high = np.minimum(high, np.floor(-left / slope))
        else:
            high = np.where(left >= 0, high, low)
    kept = high > low
    return Ground(
        matrix, rows[kept].astype(np.int32), low[kept].astype(np.int32), high[kept].astype(np.int32)
    )


def homography(corners: F64, width_m: float, depth_m: float) -> F64:
    """The projective map (3, 3) from four corners (4, 2) to a rectangle; its denominator is above 0 there."""
    target = ((0.0, 0.0), (width_m, 0.0), (width_m, depth_m), (0.0, depth_m))
    # With the corners' mean as origin: there the denominator is not 0, which is fixed to 1.
    middle = corners.mean(0)
    shift = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
    rows, right = [], []
    for (x, y), (u, v) in zip((corners - middle).tolist(), target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(right))
    matrix: F64 = np.append(solved, 1.0).reshape(3, 3) @ shift
    return matrix


def _mapped(matrix: F64, x: F64, y: F64) -> tuple[F64, F64]:
    below = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return (
        (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / below,
        (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / below,
    )
