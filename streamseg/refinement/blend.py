"""Fusion's arithmetic in one pass over memory: scale, blend with the past, soft-max, blend again.

Compiled (blend.cpp) where there was a compiler, else the same in NumPy and OpenCV. Both keep what they make
for the next frame as rows (h, w, row): the classes of a pixel lie together.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.refinement.flow import TRUST, carry, trust
from streamseg.runtime.native import load_library
from streamseg.types import F32, U8, Size

LEAST = 1e-6  # probability, so that its logarithm is finite
_LEAST_SOFT = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """The result for an earlier picture, and where each pixel of the present was in it."""

    rows: F32  # (h, w, row)
    grey: U8  # (h, w)
    where: F32  # (h, w, 2)
    weight: float  # where the two pictures agree; below 1


def blend(
    logits: F32, grey: U8, refined: Past | None, before: Past | None, *, compiled: bool = True
) -> tuple[F32, F32]:
    """Log-probabilities (C, h', w') up to a constant at each pixel → posterior at the size of grey (h, w).

    They are scaled bicubically (two bilinear steps in a row, this one and that to the mask's size, cost half
    a point of mIoU within 5 pixels of CamVid's boundaries), then pulled towards `refined`, whose rows are
    logarithms, and after the soft-max towards `before`, whose rows are probabilities; each by its weight
    times trust(). Returns the posterior as rows and its logarithm (C, h, w), both the caller's. Releases the
    GIL. compiled=False: the array fallback.
    """
    _check((grey.shape[0], grey.shape[1]), refined, before)
    library = _library() if compiled else None
    if library is None:
        return _blend(logits, grey, refined, before)
    size = (grey.shape[0], grey.shape[1])
    log_probabilities = np.empty((len(logits), *size), np.float32)
    rows = _run(library, logits, size, grey, refined, before, LEAST, log_probabilities=log_probabilities)
    return rows, log_probabilities


def softened(logits: F32, size: Size, soften: float, *, compiled: bool = True) -> F32:
    """The posterior at `size`, `soften` of it spread evenly over all classes: its logarithm, as rows."""
    library = _library() if compiled else None
    if library is None:
        posterior = _normalised(_resized(logits, size))
        posterior *= np.float32(1 - soften)
        posterior += np.float32(soften / len(posterior))
        return _rows(_log(np.maximum(posterior, np.float32(_LEAST_SOFT))))
    return _run(library, logits, size, None, None, None, _LEAST_SOFT, soften=soften)


class _Past(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("grey", ctypes.c_void_p),
        ("where", ctypes.c_void_p),
        ("weight", ctypes.c_float),
    )


class _Job(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("classes", ctypes.c_int32),
        ("from_height", ctypes.c_int32),
        ("from_width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("grey", ctypes.c_void_p),
        ("refined", ctypes.c_void_p),
        ("before", ctypes.c_void_p),
        ("trust", ctypes.c_void_p),
        ("soften", ctypes.c_float),
        ("least", ctypes.c_float),
        ("log_rows", ctypes.c_int32),
        ("rows", ctypes.c_void_p),
        ("log_planes", ctypes.c_void_p),
    )


def _check(size: Size, *pasts: Past | None) -> None:
    for past in pasts:
        if past is None:
            continue
        if past.rows.shape[:2] != size or past.grey.shape != size or past.where.shape != (*size, 2):
            raise ValueError(
                f"fusion: a past of {past.rows.shape[:2]}, {past.grey.shape} does not fit {size}"
            )


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return load_library("_blend")
    except OSError:
        return None


def _run(
    library: ctypes.CDLL,
    logits: F32,
    size: Size,
    grey: U8 | None,
    refined: Past | None,
    before: Past | None,
    least: float,
    *,
    soften: float = 0.0,
    log_probabilities: F32 | None = None,
) -> F32:
    logits = np.ascontiguousarray(logits, np.float32)
    row = int(library.ss_blend_row(len(logits)))
    rows = np.empty((*size, row), np.float32)
    alive: list[object] = [logits, rows]

    def given(array: npt.NDArray[np.generic] | None) -> int | None:
        if array is None:
            return None
        alive.append(array)
        return array.ctypes.data

    def looked_at(past: Past | None) -> int | None:
        if past is None:
            return None
        assert past.rows.shape[2] == row, "rows of the array fallback are narrower"
        kept = _Past(
            given(np.ascontiguousarray(past.rows, np.float32)),
            given(np.ascontiguousarray(past.grey, np.uint8)),
            given(np.ascontiguousarray(past.where, np.float32)),
            past.weight,
        )
        alive.append(kept)
        return ctypes.addressof(kept)

    job = _Job(
        logits.ctypes.data,
        *logits.shape,
        *size,
        given(None if grey is None else np.ascontiguousarray(grey, np.uint8)),
        looked_at(refined),
        looked_at(before),
        TRUST.ctypes.data,
        soften,
        least,
        log_probabilities is None,
        rows.ctypes.data,
        given(log_probabilities),
    )
    code = library.ss_blend_run(ctypes.byref(job))
    alive.clear()  # kept what the structures point to until here
    if code == 2:
        raise MemoryError(f"fusion of logits {logits.shape} at {size}")
    if code:
        raise ValueError(f"fusion of logits {logits.shape} at {size}: 1 to 255 classes, sides from 2")
    return rows


def _blend(logits: F32, grey: U8, refined: Past | None, before: Past | None) -> tuple[F32, F32]:
    fresh = _resized(logits, (grey.shape[0], grey.shape[1]))
    if refined is not None:
        fresh = _pulled(fresh, grey, refined)
    posterior = _normalised(fresh)
    if before is not None:
        posterior = _pulled(posterior, grey, before)
    return _rows(posterior), _log(np.maximum(posterior, np.float32(LEAST)))


def _pulled(planes: F32, grey: U8, past: Past) -> F32:
    moved: F32 = np.stack(cv2.split(carry(past.rows, past.where))[: len(planes)])
    moved -= planes
    moved *= np.float32(past.weight) * trust(grey, past.grey, past.where)
    moved += planes
    return moved


def _normalised(log_probabilities: F32) -> F32:
    odds = log_probabilities - log_probabilities.max(0)
    odds = cast(F32, cv2.exp(odds.reshape(len(odds), -1))).reshape(odds.shape)
    odds /= odds.sum(0)
    return odds


def _log(probabilities: F32) -> F32:
    return cast(F32, cv2.log(probabilities.reshape(len(probabilities), -1))).reshape(probabilities.shape)


def _resized(planes: F32, size: Size) -> F32:
    if planes.shape[1:] == size:
        return planes
    return np.stack([cv2.resize(p, size[::-1], interpolation=cv2.INTER_CUBIC) for p in planes])


def _rows(planes: F32) -> F32:
    return np.ascontiguousarray(planes.transpose(1, 2, 0))
