"""A mask's pixels by zone and class, in one pass; compiled (count.cpp) where there was a compiler."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import numpy.typing as npt

from streamseg.analytics.counts import ZoneCount, ZoneCounts
from streamseg.analytics.ground import Ground
from streamseg.analytics.raster import Layer, Raster
from streamseg.config import PICTURE
from streamseg.runtime.native import load_library
from streamseg.types import F64, U8, U64, LabelSet, Mask


def count(mask: Mask, label_set: LabelSet, raster: Raster, *, compiled: bool = True) -> ZoneCounts:
    """Count a mask of the raster's size. Releases the GIL; compiled=False: the array fallback."""
    assert mask.size == raster.size, f"a mask of {mask.size} on a raster of {raster.size}"
    pixels = np.zeros((1 + len(raster.names), 256), np.uint64)  # of the picture, then of each zone
    sums = None if mask.confidence is None else np.zeros_like(pixels)
    for layer in raster.layers:
        tables = _tables(mask.labels, mask.confidence, layer, compiled)
        for table, into in zip(tables, (pixels, sums), strict=True):
            if table is not None and into is not None:
                _add_up(table, layer, into)
    zones = [ZoneCount(PICTURE, mask.labels.size, pixels[0], None if sums is None else sums[0])]
    for z, (name, size, ground) in enumerate(zip(raster.names, raster.pixels, raster.grounds, strict=True)):
        areas = None if ground is None else _areas(mask.labels, ground, compiled)
        zones.append(ZoneCount(name, size, pixels[1 + z], None if sums is None else sums[1 + z], areas))
    return ZoneCounts(mask.stamp, mask.size, mask.engine, label_set, tuple(zones))


def _add_up(table: U64, layer: Layer, into: U64) -> None:
    """Write what is counted by sets of zones (sets, 256) by zone; no number reaches 2**53."""
    present = np.nonzero(table.any(0))[0]
    counted = table[:, present].astype(np.float64)
    into[0, present] = counted.sum(0)
    rows = np.array(layer.zones, np.intp) + 1
    into[rows[:, None], present] = layer.within @ counted


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = load_library("_count")
    except OSError:
        return None
    library.ss_count_zones.restype = library.ss_count_ground.restype = None
    return library


def _tables(labels: U8, confidence: U8 | None, layer: Layer, compiled: bool) -> tuple[U64, U64 | None]:
    """Pixels by set of zones and label, (sets, 256), and sums of their confidence."""
    pixels = np.zeros((layer.within.shape[1], 256), np.uint64)
    sums = None if confidence is None else np.zeros_like(pixels)
    library = _library() if compiled else None
    if library is not None:
        library.ss_count_zones(
            _at(labels), _at(confidence), *labels.shape, _at(layer.first), _at(layer.ends),
            _at(layer.sets), _at(pixels), _at(sums),
        )  # fmt: skip
        return pixels, sums
    where = np.repeat(layer.sets, layer.lengths()).astype(np.intp) * 256 + labels.reshape(-1)
    pixels[:] = np.bincount(where, minlength=pixels.size).reshape(pixels.shape)
    if sums is not None and confidence is not None:  # sums below 2**53 are exact
        weighted = np.bincount(where, confidence.reshape(-1), sums.size)
        sums[:] = weighted.reshape(sums.shape).astype(np.uint64)
    return pixels, sums


def _areas(labels: U8, ground: Ground, compiled: bool) -> F64:
    """Square metres of each label's pixels on a zone's ground, (256,)."""
    library = _library() if compiled else None
    if library is not None:
        areas: F64 = np.zeros(256)
        library.ss_count_ground(
            _at(labels), *labels.shape, ctypes.c_int64(len(ground.rows)), _at(ground.rows),
            _at(ground.begins), _at(ground.ends), _at(ground.to_ground), _at(areas),
        )  # fmt: skip
        return areas
    lengths = ground.ends - ground.begins
    rows = np.repeat(ground.rows, lengths).astype(np.intp)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])[:-1]
    x = np.arange(lengths.sum()) - np.repeat(before, lengths) + np.repeat(ground.begins, lengths)
    each = ground.areas(rows, x.astype(np.float64), x + 1.0, (labels.shape[0], labels.shape[1]))
    return np.bincount(labels[rows, x], each, 256).astype(np.float64)


def _at(array: npt.NDArray[np.generic] | None) -> ctypes.c_void_p | None:
    return None if array is None else ctypes.c_void_p(array.ctypes.data)
