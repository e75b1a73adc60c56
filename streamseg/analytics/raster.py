"""Zones as pixels, once for each size of mask.

A pixel belongs to a zone when its centre does: ((x + 0.5) / W, (y + 0.5) / H) inside the polygon by the
even-odd rule and inside no hole; for a line, at most half its width away. docs/protocol.md has the formula,
so that others come to the same pixels.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamseg.analytics.ground import Ground, ground_of
from streamseg.config import ZoneConfig
from streamseg.config.analytics import Points
from streamseg.runtime.native import load_library
from streamseg.types import F64, U64, Size

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


MOST_SETS = 4096
"""Sets of zones that are counted in one pass; zones that cross each other in more ways take several."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Each row of a picture cut into spans whose pixels lie in the same zones, of some zones."""

    first: I64  # (H + 1,) the first span of each row
    ends: I32  # (S,) the x behind each span; it begins where the one before it ends
    sets: I32  # (S,) which set of zones it lies in
    zones: tuple[int, ...]
    within: F64  # (zones, sets): 1 where a zone belongs to a set

    def lengths(self) -> I32:
        """Pixels of each span, (S,)."""
        starts = np.concatenate([np.zeros(1, np.int32), self.ends[:-1]])
        starts[self.first[:-1]] = 0
        lengths: I32 = self.ends - starts
        return lengths


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """The pixels of all zones of a stream, at one size of mask."""

    size: Size
    names: tuple[str, ...]
    pixels: tuple[int, ...]  # of each zone
    grounds: tuple[Ground | None, ...]  # of each zone
    layers: tuple[Layer, ...]  # at least one

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """The pixels of a zone, (H, W)."""
        z = self.names.index(name)
        layer = next(one for one in self.layers if z in one.zones)
        inside = layer.within[layer.zones.index(z)] > 0
        return np.repeat(inside[layer.sets], layer.lengths()).reshape(self.size)


def rasterise(zones: Mapping[str, ZoneConfig], size: Size, *, compiled: bool = True) -> Raster:
    """Find the pixels of zones in a picture of this size; compiled=False: the array fallback."""
    library = _library() if compiled else None
    runs = [_zone_edges(zone, size, library) for zone in zones.values()]
    pixels, grounds = [], []
    for zone, edges in zip(zones.values(), runs, strict=True):
        rows, columns = np.divmod(edges, size[1] + 1)
        begins, ends = columns[::2], columns[1::2]
        pixels.append(int((ends - begins).sum()))
        grounds.append(ground_of(zone, size, rows[::2], begins, ends))
    layers = _layers(runs, range(len(runs)), size, library)
    return Raster(size, tuple(zones), tuple(pixels), tuple(grounds), tuple(layers))


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = load_library("_count")
    except OSError:
        return None
    library.ss_zone_edges.restype = ctypes.c_int64
    library.ss_zone_spans.restype = ctypes.c_int32
    return library


def _layers(
    runs: Sequence[I64], zones: Sequence[int], size: Size, library: ctypes.CDLL | None
) -> Iterator[Layer]:
    """One layer of all these zones, or two of half of them where there are too many sets."""
    chosen = [runs[z] for z in zones]
    found = _spans(chosen, size) if library is None else _spans_compiled(chosen, size, library)
    if found is None:
        half = len(zones) // 2
        yield from _layers(runs, zones[:half], size, library)
        yield from _layers(runs, zones[half:], size, library)
        return
    first, ends, sets, members = found
    within = np.array([members >> np.uint64(i) & np.uint64(1) for i in range(len(zones))], np.float64)
    yield Layer(first, ends, sets, tuple(zones), within.reshape(len(zones), len(members)))


Spans = tuple[I64, I32, I32, U64]
"""first, ends and sets of a layer, and the zones of each set as bits."""


def _spans_compiled(runs: Sequence[I64], size: Size, library: ctypes.CDLL) -> Spans | None:
    """The same as _spans()."""
    height, width = size
    keys = np.concatenate([np.empty(0, np.int64), *runs])
    ends_at = np.cumsum([len(one) for one in runs], dtype=np.int64)
    at = np.concatenate([np.zeros(1, np.int64), ends_at])
    room = min(len(keys) + height, height * width)
    first, ends, sets = np.empty(height + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.int32)
    members, slots = np.empty(MOST_SETS, np.uint64), np.full(4 * MOST_SETS, -1, np.int32)
    flips = np.zeros(width + 1, np.uint64)
    bits = len(slots).bit_length() - 1
    known = library.ss_zone_spans(
        _at(keys), _at(at), _at(ends_at), len(runs), height, width, MOST_SETS, bits, _at(flips), _at(slots),
        _at(first), _at(ends), _at(sets), _at(members),
    )  # fmt: skip
    count = int(first[-1])
    return None if known < 0 else (first, ends[:count].copy(), sets[:count].copy(), members[:known])


def _spans(runs: Sequence[I64], size: Size) -> Spans | None:
    """Cut each row into spans of the same zones; None where there are too many sets of zones."""
    height, width = size
    row_starts = np.arange(height, dtype=np.int64) * (width + 1)
    keys = np.concatenate([row_starts, *runs])
    bits = np.repeat(np.array([0] + [1 << i for i in range(len(runs))], np.uint64), [height, *map(len, runs)])
    keys, states = _states(keys, bits)
    rows, starts = np.divmod(keys, width + 1)
    kept = starts < width
    rows, starts, states = rows[kept], starts[kept], states[kept]
    members, sets = np.unique(states, return_inverse=True)
    if len(members) > MOST_SETS:
        return None
    ends = np.append(starts[1:], 0).astype(np.int32)
    first = np.searchsorted(rows, np.arange(height + 1)).astype(np.int64)
    ends[first[1:] - 1] = width
    return first, ends, sets.astype(np.int32).reshape(-1), members


def _zone_edges(zone: ZoneConfig, size: Size, library: ctypes.CDLL | None) -> I64:
    """Where a zone's pixels begin and end in each row: sorted y · (W + 1) + x, two for each run of pixels."""
    if zone.line is not None:
        assert zone.width is not None, "the settings say so"
        return _line_edges(zone.line, zone.width, size)
    rings = [zone.polygon or (), *zone.holes]
    if library is not None:
        return _polygon_edges(rings, size, library)
    edges = [_ring_edges(ring, size) for ring in rings]
    bits = [np.full(len(one), np.uint64(1 << i)) for i, one in enumerate(edges)]
    keys, states = _states(np.concatenate(edges), np.concatenate(bits))
    return _changes(keys, states == 1)  # in the polygon, and in no hole


def _polygon_edges(rings: Sequence[Points], size: Size, library: ctypes.CDLL) -> I64:
    """The same for a polygon and its holes."""
    height, width = size
    points = np.array([point for ring in rings for point in ring], np.float64)
    ends = np.cumsum([len(ring) for ring in rings], dtype=np.int32)
    rises = [np.abs(np.diff(ring, axis=0, append=ring[:1])[:, 1]) for ring in rings]
    room = int(sum((rise * height + 2).sum() for rise in rises))
    firsts, crossings = np.empty(height + 1, np.int64), np.empty(room, np.uint32)
    keys = np.empty(room, np.int64)
    count = library.ss_zone_edges(
        _at(points), _at(ends), len(rings), height, width, _at(firsts), _at(crossings), _at(keys)
    )
    return keys[:count].copy()


def _at(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _states(keys: I64, bits: U64) -> tuple[I64, U64]:
    """Sorted keys, each once, and which bits are set from there on when each key flips its own."""
    order = np.argsort(keys, kind="stable")
    keys, states = keys[order], np.bitwise_xor.accumulate(bits[order])
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return keys[last], states[last]


def _changes(keys: I64, inside: npt.NDArray[np.bool_]) -> I64:
    """The keys at which `inside` becomes another; it begins with False."""
    before = np.concatenate([np.zeros(1, np.bool_), inside[:-1]])[: len(inside)]
    changes: I64 = keys[inside != before]
    return changes


def _ring_edges(ring: Points, size: Size) -> I64:
    """Where a polygon's edges cross the rows: the pixels from there on are on their other side."""
    height, width = size
    points = np.asarray(ring, np.float64)
    x1, y1 = points[:, 0], points[:, 1]
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    rows = (np.arange(height) + 0.5) / height
    columns = (np.arange(width) + 0.5) / width
    edge, row = np.nonzero((y1[:, None] > rows) != (y2[:, None] > rows))
    crossing = (x2[edge] - x1[edge]) * (rows[row] - y1[edge]) / (y2[edge] - y1[edge]) + x1[edge]
    return np.asarray(row * (width + 1) + np.searchsorted(columns, crossing, side="left"), np.int64)


def _line_edges(line: Points, width: float, size: Size) -> I64:
    """The same of the pixels whose centre is at most half the width from the line, round at its ends."""
    height, columns = size
    points = np.asarray(line, np.float64) * (columns, height)  # in pixels
    radius = width * height / 2
    a, b = points[:-1], points[1:]
    reach = np.arange(height, dtype=np.float64) + 0.5
    near = (reach >= np.minimum(a, b)[:, 1:] - radius - 1) & (reach <= np.maximum(a, b)[:, 1:] + radius + 1)
    segment, row = np.nonzero(near)
    a, b = a[segment], b[segment]
    y: F64 = reach[row]
    left, right = _extent(a, b, y, radius)
    around = np.arange(-2, 3)
    x = np.concatenate([np.floor(left)[:, None] + around, np.floor(right)[:, None] + around], 1)
    inside = (x >= 0) & (x < columns) & _is_near(x + 0.5, y, a, b, radius)
    # What reaches over an edge of the picture is inside at that edge, too.
    edge = np.array([0, columns - 1], np.float64)
    x = np.concatenate([x, np.broadcast_to(edge, (len(x), 2))], 1)
    inside = np.concatenate([inside, _is_near(edge + 0.5, y, a, b, radius)], 1)
    some = inside.any(1)
    begins = np.where(inside, x, np.inf).min(1)[some].astype(np.int64)
    ends = np.where(inside, x, -np.inf).max(1)[some].astype(np.int64) + 1
    keys = np.concatenate([row[some] * (columns + 1) + begins, row[some] * (columns + 1) + ends])
    order = np.argsort(keys, kind="stable")
    depth = np.cumsum(np.where(order < len(begins), 1, -1))
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return _changes(keys[last], depth[last] > 0)


def _extent(a: F64, b: F64, y: F64, radius: float) -> tuple[F64, F64]:
    """About where rows at y cross the shapes that lie within radius of the segments from a to b."""
    along = b - a
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-12)
    across = np.stack([-along[:, 1], along[:, 0]], 1) * (radius / length)[:, None]
    corners = np.stack([a + across, b + across, b - across, a - across], 1)  # (n, 4, 2)
    nexts = np.roll(corners, -1, 1)
    rise = nexts[..., 1] - corners[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (y[:, None] - corners[..., 1]) / rise
        crossing = corners[..., 0] + t * (nexts[..., 0] - corners[..., 0])
        crossing = np.where((t >= 0) & (t <= 1), crossing, np.nan)
        caps = [np.sqrt(radius**2 - (y - end[:, 1]) ** 2) for end in (a, b)]
    rims = [end[:, 0] + sign * cap for end, cap in ((a, caps[0]), (b, caps[1])) for sign in (-1, 1)]
    all_x = np.concatenate([crossing, np.stack(rims, 1)], 1)
    none = np.isnan(all_x).all(1)
    all_x[none] = ((a + b) / 2)[none, :1]
    return np.nanmin(all_x, 1), np.nanmax(all_x, 1)


def _is_near(x: F64, y: F64, a: F64, b: F64, radius: float) -> npt.NDArray[np.bool_]:
    """Whether the points x (n, k) or (k,), y (n,) are at most radius from the segments from a to b (n, 2)."""
    ax, ay, bx, by = (part[:, None] for part in (a[:, 0], a[:, 1], b[:, 0], b[:, 1]))
    dx, dy, y = bx - ax, by - ay, y[:, None]
    square = dx * dx + dy * dy
    t = np.clip(((x - ax) * dx + (y - ay) * dy) / np.where(square > 0, square, 1.0), 0.0, 1.0)
    ex, ey = x - (ax + t * dx), y - (ay + t * dy)
    near: npt.NDArray[np.bool_] = ex * ex + ey * ey <= radius * radius
    return near
