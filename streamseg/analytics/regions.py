"""Labels → regions: connected pixels of one class, with area, confidence, box and simplified outlines.

Pixel (x, y) covers x…x+1 and y…y+1; an outline's points lie at whole and half numbers on the edges between
pixels. The rings of a region are filled together by the even-odd rule: a pixel belongs to it when its centre
is inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.types import IGNORE, U8, Size

MOST_REGIONS = 2048
MOST_POINTS = 65536  # of all outlines together: at most 1 MiB as JSON
MOST_WRONG = 0.008  # of a region's pixels, between its outlines and what they were made from
TOLERANCES = (1.0, 0.5, 0.3)
"""Pixels that an outline may be off: the first that keeps MOST_WRONG is taken, or else none at all."""

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Connected pixels of one class; pixels that touch at a corner are connected."""

    label: int
    area: int  # pixels, before its outlines were simplified
    box: tuple[int, int, int, int]  # x, y, width, height
    rings: tuple[F64, ...]  # (N, 2) each, x and y: the outline, then those of holes; no point is repeated
    confidence: float | None = None  # mean of its pixels, 0…1


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The regions of one mask, the largest first, and what was left out."""

    found: tuple[Region, ...]
    left_out: int = 0  # regions, the smallest ones
    left_out_pixels: int = 0  # theirs, and those of holes that are not drawn


def find_regions(
    labels: U8,
    confidence: U8 | None = None,
    *,
    most_regions: int = MOST_REGIONS,
    most_points: int = MOST_POINTS,
) -> Regions:
    """The regions of an (H, W) label mask, IGNORE left out; confidence (H, W) is 0..255 for 0..1.

    Each region's outlines, filled, differ from it in at most MOST_WRONG of its pixels. Where there are too
    many regions or points, the smallest regions are left out, and of a region that is too long by itself the
    smallest holes.
    """
    found: list[_Outlined] = []
    present = np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256]))
    for label in present[present != IGNORE]:
        found += _outlined(labels, int(label), confidence)
    found.sort(key=lambda one: (-one.area, one.label, one.box[1], one.box[0]))
    kept = found[:most_regions]
    points_left, regions = most_points, []
    missing = sum(one.area for one in found[most_regions:])
    for one, rings in zip(kept, _simplified(kept), strict=True):
        fitting, closed = _fitting(rings, points_left)
        missing += closed if fitting else one.area
        if fitting:
            points_left -= sum(map(len, fitting))
            halves = tuple(ring / 2 for ring in fitting)
            regions.append(Region(one.label, one.area, one.box, halves, one.confidence))
    return Regions(tuple(regions), len(found) - len(regions), missing)


def fill(rings: Iterable[npt.ArrayLike], size: Size) -> npt.NDArray[np.bool_]:
    """The pixels (H, W) whose centres are inside rings of whole and half numbers, by the even-odd rule.

    A centre on an edge belongs to the pixels right of it.
    """
    height, width = size
    doubled = [np.rint(2 * np.asarray(ring, np.float64)).astype(np.int32) for ring in rings]
    rows, columns, _ = _crossings(doubled)
    inside = (rows >= 0) & (rows < height)
    columns = columns[inside].clip(0, width)
    flips = np.bincount(rows[inside] * (width + 1) + columns, minlength=height * (width + 1))
    even_odd: npt.NDArray[np.bool_] = np.cumsum(flips.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return even_odd


@dataclass(frozen=True, slots=True, eq=False)
class _Outlined:
    """A region with outlines that give exactly its pixels back; in half pixels: all numbers are whole."""

    label: int
    area: int
    box: tuple[int, int, int, int]
    corners: tuple[I32, ...]  # the corners of its outlines
    middles: tuple[I32, ...]  # the middle of each pixel's edge instead, from which slanted lines are made
    confidence: float | None


def _outlined(labels: U8, label: int, confidence: U8 | None) -> list[_Outlined]:
    """The regions of one class."""
    whole = (labels == label).view(np.uint8)
    left, top, width, height = cv2.boundingRect(whole)
    mask = whole[top : top + height, left : left + width]
    # OpenCV's outlines go through the centres of border pixels. In a picture of twice the size, where each
    # pixel is 2 by 2, those at 2x and 2x + 1 lie beside the pixel's edges x and x + 1: (v + 1) // 2 of both.
    twice = cv2.resize(mask, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
    outlines, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    corners, middles = _unit_steps([outline[:, 0] for outline in outlines], (left, top))
    parents = tree[0, :, 3].tolist()
    holes: dict[int, list[int]] = {}
    for i, parent in enumerate(parents):
        if parent >= 0:
            holes.setdefault(parent, []).append(i)
    areas = _areas(corners)
    means = None if confidence is None else _means(mask, confidence[top : top + height, left : left + width])
    found = []
    for i in (i for i, parent in enumerate(parents) if parent < 0):
        mine = [i, *holes.get(i, [])]
        (x, y), (right, bottom) = corners[i].min(axis=0) // 2, corners[i].max(axis=0) // 2
        at = outlines[i][0, 0] // 2
        found.append(
            _Outlined(
                label,
                int(2 * areas[i] - areas[mine].sum()),
                (int(x), int(y), int(right - x), int(bottom - y)),
                tuple(corners[k] for k in mine),
                tuple(middles[k] for k in mine),
                None if means is None else float(means[at[1], at[0]]),
            )
        )
    return found


def _unit_steps(outlines: Sequence[I32], origin: tuple[int, int]) -> tuple[list[I32], list[I32]]:
    """Outlines in a picture of twice the size → their corners, and the middles of steps, in half pixels."""
    points, ring_of = np.concatenate(outlines), _numbered(outlines)
    points = (points + 1) // 2 + np.array(origin, np.int32)
    new = (points != points[_neighbours(ring_of)[0]]).any(axis=1)
    points, ring_of = points[new], ring_of[new]
    before, after = _neighbours(ring_of)
    middles = points + points[after]
    bend = (middles - points - points[before]).all(axis=1)  # of two steps that are no straight line
    corners, of_corner = 2 * points[bend], ring_of[bend]
    return _split(corners, of_corner, len(outlines)), _split(middles, ring_of, len(outlines))


def _numbered(rings: Sequence[npt.NDArray[np.int32]]) -> I64:
    """The number of its ring, for each point of all."""
    return np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])


def _split(points: I32, ring_of: I64, rings: int) -> list[I32]:
    return np.split(points.astype(np.int32), np.searchsorted(ring_of, np.arange(1, rings)))


def _neighbours(ring_of: I64) -> tuple[I64, I64]:
    """Where the points before and behind each one of their ring are."""
    places = np.arange(len(ring_of))
    first = np.flatnonzero(np.diff(ring_of, prepend=-1))
    last = np.append(first[1:], len(ring_of)) - 1
    before, after = places - 1, places + 1
    before[first], after[last] = last, first
    return before, after


def _areas(rings: Sequence[I32]) -> I64:
    """Pixels inside each outline of corners (the shoelace formula)."""
    points, ring_of = np.concatenate(rings).astype(np.int64), _numbered(rings)
    x, y = points.T
    _, after = _neighbours(ring_of)
    doubled = np.bincount(ring_of, x * y[after] - x[after] * y, len(rings))
    return np.rint(abs(doubled) / 8).astype(np.int64)  # twice the area of half pixels, of which four are one


def _means(mask: U8, confidence: U8) -> F64:
    """The mean confidence, 0…1, of the region that each pixel lies in."""
    count, numbers = cv2.connectedComponents(mask, connectivity=8)
    sums = np.bincount(numbers.reshape(-1), confidence.reshape(-1), count)
    means: F64 = (sums / np.bincount(numbers.reshape(-1), minlength=count).clip(1) / 255)[numbers]
    return means


def _simplified(regions: Sequence[_Outlined]) -> list[tuple[I32, ...]]:
    """The outlines of each region with as few points as MOST_WRONG allows (Douglas and Peucker)."""
    done = [one.corners for one in regions]
    left = list(range(len(regions)))
    for tolerance in TOLERANCES:
        tried = [tuple(_simpler(ring, tolerance) for ring in regions[i].middles) for i in left]
        wrong = _differing([(*regions[i].corners, *rings) for i, rings in zip(left, tried, strict=True)])
        again = []
        for i, rings, pixels in zip(left, tried, wrong, strict=True):
            if pixels > MOST_WRONG * regions[i].area:
                again.append(i)
            elif sum(map(len, rings)) < sum(map(len, regions[i].corners)):
                done[i] = tuple(ring for ring in rings if len(ring) > 2)
        left = again
    return done


def _simpler(ring: I32, tolerance: float) -> I32:
    return cast(I32, cv2.approxPolyDP(ring, 2 * tolerance, True)[:, 0])


def _differing(groups: Sequence[Sequence[I32]]) -> I64:
    """Pixels inside each group's rings by the even-odd rule: of two pictures together, where they differ."""
    rings = [ring for group in groups for ring in group]
    rows, columns, ring_of = _crossings(rings)
    group = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[ring_of]
    if not len(rows):
        return np.zeros(len(groups), np.int64)
    height, width = rows.max() + 1, columns.max() + 1
    places = np.sort((group * height + rows) * width + columns)  # one key: a third of lexsort's time
    of_pair = places[::2] // (height * width)
    return np.bincount(of_pair, places[1::2] - places[::2], len(groups)).astype(np.int64)


def _crossings(rings: Sequence[I32]) -> tuple[I64, I64, I64]:
    """Where edges cross the middle lines of rows: the row, the first column right of it, the ring's number.

    Rings are in half pixels: rows and columns have their middles at odd numbers.
    """
    if not rings:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    start, ring_of = np.concatenate(rings).astype(np.int64), _numbered(rings)
    end = start[_neighbours(ring_of)[1]]
    low, high = np.minimum(start[:, 1], end[:, 1]) // 2, np.maximum(start[:, 1], end[:, 1]) // 2
    count = high - low
    edge = np.repeat(np.arange(len(start)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + low[edge]
    (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
    # Column c is right of a crossing at x when 2c + 1 ≥ x; in whole numbers, so that no rounding decides.
    columns = -(-((x - 1) * dy + dx * (2 * rows + 1 - y)) // (2 * dy))
    return rows, columns, ring_of[edge]


def _fitting(rings: tuple[I32, ...], most_points: int) -> tuple[tuple[I32, ...], int]:
    """Those of a region's rings that fit, none where its outline does not; the pixels of holes left out."""
    points = sum(map(len, rings))
    if points <= most_points:
        return rings, 0
    if len(rings[0]) > most_points:
        return (), 0
    holes, closed = sorted(zip(_areas(rings[1:]), rings[1:], strict=True), key=lambda hole: hole[0]), 0
    while points > most_points:
        area, hole = holes.pop(0)
        points -= len(hole)
        closed += int(area)
    return (rings[0], *(hole for _, hole in holes)), closed
