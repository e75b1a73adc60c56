"""The planes of a decoded picture to RGB, or luma, of another size: in one pass of a compiled kernel.

Averaging YUV and then converting it gives what converting and then averaging gives, but for colours outside
RGB, which are clipped after averaging. All is integer up to the colours: the array fallback gives the same
bytes.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from streamseg.runtime.native import load_library
from streamseg.types import F32, U8, Size
from streamseg.types.picture import shrinks_much

_DOWN, _ACROSS = 256, 16384  # what the weights of an output row and of an output column add up to
_BAND = 32  # rows that the array fallback makes at once, to stay in the CPU's cache
_LANES = 4, 8  # the kernel reads so many samples at once: up to the first, or several times the second


class Taps(NamedTuple):
    """Output i is the sum of weight[i, k] times sample first[i] + k; the weights of each are of one sum."""

    first: npt.NDArray[np.int32]  # (target,)
    weight: npt.NDArray[np.int16]  # (target, count)


@dataclass(frozen=True, slots=True)
class Plane:
    """Samples of one or more components side by side, and how many pixels a sample stands for."""

    samples: npt.NDArray[Any]  # (rows, columns, channels) uint8 or uint16; rows may lie apart
    bits: int  # of a sample: 8, or more of uint16
    shifts: tuple[int, int] = (0, 0)  # a sample stands for 2**shift rows, and columns, of pixels
    owner: object = None  # of memory that NumPy does not keep


def scale_planes(planes: list[Plane], size: Size, to: Size, matrix: F32, offset: F32) -> U8:
    """Scale planes of a picture of `size` and mix the first three components → (h, w, colours) uint8.

    As scale_picture: area averaging where it shrinks to less than half, else bilinear. matrix (1 or 3, 3) and
    offset (1 or 3,): from components in units of 15 bits to 0..255. Releases the GIL.
    """
    taps = [taps_of(size, to, plane.shifts) for plane in planes]
    try:
        library = load_library("_scale_planes")
    except OSError:
        return fallback(planes, taps, matrix, offset)
    out = np.empty((*to, len(offset)), np.uint8)
    asked = (_Plane * len(planes))(*map(_as_plane, planes, taps))
    code = library.streamseg_scale_planes(
        asked, len(planes), *to, len(offset), _at(matrix), _at(offset), _at(out)
    )
    if code:
        raise MemoryError(f"scaling a picture of {size} to {to}")
    return out


def taps_of(size: Size, to: Size, shifts: tuple[int, int] = (0, 0)) -> tuple[Taps, Taps]:
    """The taps of a plane's rows and columns."""
    area = shrinks_much(size, to)
    return (
        _taps(size[0], to[0], area and to[0] < size[0], shifts[0], _DOWN),
        _taps(size[1], to[1], area and to[1] < size[1], shifts[1], _ACROSS),
    )


@functools.lru_cache(maxsize=256)
def _taps(source: int, target: int, area: bool, shift: int, total: int) -> Taps:
    """The weight of each sample in each output: that of its pixels, rounded so that the sum stays."""
    edges = np.arange(target + 1) * (source / target)
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = edges[:-1].astype(int) if area else np.minimum(at.astype(int), max(source - 2, 0))
    high = np.ceil(edges[1:]).astype(int) if area else low + 2  # of the pixels, behind the last one
    first = low >> shift
    last = np.minimum(high - 1, source - 1) >> shift
    count = int((last - first).max() + 1)
    if total == _ACROSS:
        count = _LANES[0] if count <= _LANES[0] else -(-count // _LANES[1]) * _LANES[1]
    pixels = np.minimum((first[:, None] + np.arange(count + 1)) << shift, source)
    if area:
        step = source / target
        sums = np.clip((pixels - edges[:-1, None]) / step, 0, 1)
    else:
        right = (at - low)[:, None]  # the weight of pixel low + 1
        sums = (pixels > low[:, None]) * (1 - right) + (pixels > np.minimum(low + 1, source)[:, None]) * right
        sums[pixels == source] = 1
    weight = np.diff(np.rint(sums * total), axis=1).astype(np.int16)
    return Taps(first.astype(np.int32), np.ascontiguousarray(weight))


def fallback(planes: list[Plane], taps: list[tuple[Taps, Taps]], matrix: F32, offset: F32) -> U8:
    """The same in NumPy, to the byte, a band of rows at a time: for installs without a compiler."""
    rows, columns = (len(taps[0][axis].first) for axis in (0, 1))
    out = np.empty((rows, columns, len(offset)), np.uint8)
    for y in range(0, rows, _BAND):
        some = slice(y, y + _BAND)
        of_band = [(Taps(down.first[some], down.weight[some]), across) for down, across in taps]
        out[some] = _band(planes, of_band, matrix, offset)
    return out


def _band(planes: list[Plane], taps: list[tuple[Taps, Taps]], matrix: F32, offset: F32) -> F32:
    """Colours of some rows, to be cut to whole numbers."""
    levels: list[F32] = []
    for plane, (down, across) in zip(planes, taps, strict=True):
        tall = _added(plane.samples, down, 0, np.uint32) >> (plane.bits - 7)
        wide = _added(tall.astype(np.int32), across, 1, np.int32)
        levels += [
            wide[..., c].astype(np.float32) * np.float32(1 / _ACROSS) for c in range(plane.samples.shape[2])
        ]
    mixed = [
        functools.reduce(lambda sum_, of: sum_ + of[0] * of[1], zip(row, levels[:3], strict=False), start)
        for row, start in zip(matrix, offset, strict=True)
    ]
    colours: F32 = np.stack(mixed, -1)
    colours.clip(0, 255, out=colours)
    colours += np.float32(0.5)
    return colours


def _added(samples: npt.NDArray[Any], taps: Taps, axis: int, kind: type[np.integer[Any]]) -> npt.NDArray[Any]:
    """The sums of samples along an axis, without the taps that weigh nothing anywhere."""
    shape = tuple(-1 if i == axis else 1 for i in range(3))
    sums: npt.NDArray[Any] | None = None
    for k in np.flatnonzero(taps.weight.any(0)):
        at = np.minimum(taps.first + k, samples.shape[axis] - 1)
        part = samples.take(at, axis).astype(kind)
        part *= taps.weight[:, k].astype(kind).reshape(shape)
        sums = part if sums is None else np.add(sums, part, out=sums)
    assert sums is not None, "weights add up to more than nothing"
    return sums


class _Taps(ctypes.Structure):
    _fields_ = (("first", ctypes.c_void_p), ("weight", ctypes.c_void_p), ("count", ctypes.c_int32))


class _Plane(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("line_size", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("rows", "columns", "channels", "bytes", "bits")),
        ("down", _Taps),
        ("across", _Taps),
    )


def _as_plane(plane: Plane, taps: tuple[Taps, Taps]) -> _Plane:
    samples = plane.samples
    down, across = (_Taps(t.first.ctypes.data, t.weight.ctypes.data, t.weight.shape[1]) for t in taps)
    return _Plane(
        samples.ctypes.data, samples.strides[0], *samples.shape, samples.itemsize, plane.bits, down, across
    )


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)
