"""Frames to the network's size, and its logits to labels of the frame's size.

Upsampling and argmax are one fused pass: no tensor of full resolution is made.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import cv2
import numpy as np

from streamseg.errors import NotNumbersError
from streamseg.inference.holes import LARGEST, cover, holes_in, reports, without_holes
from streamseg.inference.label_view import LabelView, drop_small
from streamseg.runtime.native import load_library
from streamseg.types import F32, IGNORE, U8, Logits, Size
from streamseg.types.picture import scale_picture
from streamseg.types.sizes import MaskSize, nearest

_LEAST = np.float32(1e-6)  # a probability; below it none can be told from another
_BAND = 32  # rows that the array fallback interpolates at once, to stay in the CPU's cache


def mask_size_of(wanted: MaskSize, frame: Size, seen: Size) -> Size:
    """The size of a frame's masks; seen: at which the network saw it."""
    return frame if wanted == "frame" else seen if wanted == "input" else wanted


def fit_size(frame_size: Size, target: Size, multiple: int) -> Size:
    """The input size for a frame: its aspect ratio, about as many pixels as target, sides a multiple.

    With the same number of pixels the network costs the same for every aspect ratio.
    """
    height, width = frame_size
    scale = math.sqrt(target[0] * target[1] / (height * width))
    sides = (max(1, round(side * scale / multiple)) * multiple for side in (height, width))
    return next(sides), next(sides)


def make_batch(pictures: Sequence[U8], size: Size) -> U8:
    """Scale RGB pictures (H, W, 3) to one size, as scale_picture → (N, h, w, 3) uint8, contiguous."""
    return stacked([scale_picture(p, size) for p in pictures])


def stacked(pictures: Sequence[U8]) -> U8:
    """Pictures of one size as a batch; a single one is not copied."""
    return pictures[0][None] if len(pictures) == 1 else np.stack(pictures)


def labels_of(
    logits: Logits, size: Size, confidence: bool = False, view: LabelView | None = None
) -> tuple[U8, U8 | None]:
    """labels_from_logits for one frame: on the device that has its logits, on the host for confidence.

    Where nothing is known (holes.py) labels are IGNORE, and the log says so. Probabilities are scaled as they
    are; of class ids, which have no confidence, the nearest is taken. view: how they are published.
    """
    if view is None or not view.changes:
        return _labels_of(logits, size, confidence, None)
    return drop_small(*_labels_of(logits, size, confidence, view), view.min_region)


def _labels_of(logits: Logits, size: Size, confidence: bool, view: LabelView | None) -> tuple[U8, U8 | None]:
    if logits.kind == "labels":
        ids = nearest(logits.array[0].astype(np.uint8), size)
        return (ids if view is None else view.of(ids)), None
    probabilities = logits.kind == "probabilities"
    try:
        if isinstance(logits.data, np.ndarray) or confidence:
            return labels_from_logits(logits.array, size, confidence, probabilities, logits.temperature, view)
        return logits.data.labels(size, view, probabilities, logits.temperature), None
    except NotNumbersError:
        numbers, plane = without_holes(logits.array)
        assert plane is not None
        reports.count(logits.engine, float(holes_in(logits.array).mean()))
        planes = np.concatenate([numbers, plane[None]])
        return _scaled(planes, size, confidence, probabilities, logits.temperature, view, len(numbers))


def all_numbers(logits: F32) -> bool:
    """Whether the logits can be interpolated as they are."""
    return bool(np.abs(logits).max() <= LARGEST)


def numbers_of(logits: Logits) -> tuple[Logits, bool]:
    """A frame's logits with a number in each cell, and whether they were so: what the CRF and fusion take.

    The logits of probabilities are their logarithms. Class ids have none.
    """
    assert logits.kind != "labels", "class ids are scaled as they are"
    numbers, plane = (logits.array, None) if all_numbers(logits.array) else without_holes(logits.array)
    if logits.kind == "probabilities":
        return replace(logits, data=np.log(np.maximum(numbers, _LEAST)), kind="logits"), plane is None
    return (logits if numbers is logits.array else replace(logits, data=numbers)), plane is None


def unlabelled(logits: Logits, labels: U8, confidence: U8 | None) -> tuple[U8, U8 | None]:
    """Labels made from numbers_of(logits), without those of pixels where nothing is known."""
    raw, _ = labels_of(logits, (labels.shape[0], labels.shape[1]))
    labels, confidence = labels.copy(), None if confidence is None else confidence.copy()
    cover(labels, confidence, raw == IGNORE)
    return labels, confidence


def labels_from_logits(
    logits: F32,
    size: Size,
    confidence: bool = False,
    probabilities: bool = False,
    temperature: float = 1.0,
    view: LabelView | None = None,
) -> tuple[U8, U8 | None]:
    """Scale logits (C, h, w) float32 bilinearly to size → labels uint8 (H, W), and confidence if asked for.

    Pixel centres are aligned (as cv2.INTER_LINEAR); of equal logits the lower class wins. confidence is the
    highest softmax probability of the scaled logits in 1/255, (H, W) uint8; they are divided by `temperature`
    for it, which changes no label. No full-resolution float tensor is made. A class of -inf is ruled out.
    Probabilities are scaled as they are, and the confidence is the highest of them. Releases the GIL; the
    caller owns both results. view: labels are published classes, confidence that of their members together,
    0 where the label is IGNORE; all but view.min_region. Raises ValueError, MemoryError, and NotNumbersError
    where a class is NaN or infinite, or all are ruled out.
    """
    if not 1 <= len(logits) <= IGNORE:
        raise ValueError(f"upsampling logits {logits.shape}: must have 1 to 255 classes")
    return _scaled(logits, size, confidence, probabilities, temperature, view)


def _scaled(
    logits: F32,
    size: Size,
    confidence: bool,
    probabilities: bool,
    temperature: float,
    view: LabelView | None,
    unknown: int | None = None,
) -> tuple[U8, U8 | None]:
    """The same of up to 256 planes; that of `unknown` is no class."""
    try:
        library = load_library("_upsample")
    except OSError:
        return fallback(logits, size, confidence, probabilities, temperature, view, unknown)
    logits = np.ascontiguousarray(logits, np.float32)
    labels = np.empty(size, np.uint8)
    highest = np.empty(size, np.uint8) if confidence else None
    code = library.streamseg_upsample_argmax(
        logits.ctypes.data_as(ctypes.c_void_p),
        *logits.shape,
        *size,
        labels.ctypes.data_as(ctypes.c_void_p),
        None if highest is None else highest.ctypes.data_as(ctypes.c_void_p),
        int(probabilities),
        ctypes.c_float(1 / temperature),
        None if view is None else view.table.ctypes.data_as(ctypes.c_void_p),
        0 if view is None else int(view.merges),
        0 if view is None else view.least,
    )
    if code == 2:
        raise MemoryError(f"upsampling logits {logits.shape} to {size}")
    if code == 3:
        return _scaled(_numbers(logits), size, confidence, probabilities, temperature, view)
    if code:
        raise ValueError(
            f"upsampling logits {logits.shape} to {size}: must have 1 to 255 classes and sides above 0"
        )
    if unknown is not None and view is None:  # a view has no class for it
        cover(labels, highest, labels == unknown)
    return labels, highest


def _numbers(logits: F32) -> F32:
    """The logits with classes that are ruled out far below the others; raises NotNumbersError for holes."""
    numbers, plane = without_holes(logits)
    if plane is not None:
        share = float(holes_in(logits).mean())
        raise NotNumbersError(
            f"the network computes NaN or infinity in {100 * share:.3g} % of its cells; its weights are "
            "damaged, its input is not normalised as in training, or its precision is too low"
        )
    return numbers


def fallback(
    logits: F32,
    size: Size,
    confidence: bool = False,
    probabilities: bool = False,
    temperature: float = 1.0,
    view: LabelView | None = None,
    unknown: int | None = None,
) -> tuple[U8, U8 | None]:
    """The same in NumPy and OpenCV, a band of rows at a time: for installs without a compiler."""
    if not all_numbers(logits) and unknown is None:
        logits = _numbers(logits)
    h = logits.shape[1]
    height, width = size
    labels = np.empty(size, np.uint8)
    highest = np.empty(size, np.uint8) if confidence or (view is not None and view.least) else None
    at = np.clip((np.arange(height) + 0.5) * (h / height) - 0.5, 0, h - 1)
    above = np.minimum(at.astype(np.int64), max(h - 2, 0))
    weight = (at - above).astype(np.float32)[None, :, None]
    below = np.minimum(above + 1, h - 1)
    wide = np.stack([cv2.resize(plane, (width, h), interpolation=cv2.INTER_LINEAR) for plane in logits])
    for y in range(0, height, _BAND):
        rows = slice(y, y + _BAND)
        band = wide[:, above[rows]]
        band += weight[:, rows] * (wide[:, below[rows]] - band)  # (C, band, W)
        labels[rows] = band.argmax(0)
        if highest is not None:
            highest[rows] = _confidence(band, labels[rows], probabilities, temperature, view)
        if view is not None:
            labels[rows] = view.table[labels[rows]]
    if unknown is not None and view is None:
        cover(labels, highest, labels == unknown)
    if view is not None and highest is not None:
        cover(labels, highest, (highest < view.least) | (labels == IGNORE))
    return labels, cast("U8 | None", highest) if confidence else None


def _confidence(band: F32, ids: U8, probabilities: bool, temperature: float, view: LabelView | None) -> F32:
    """The confidence of some rows (C, h, W), which are overwritten, in 1/255."""
    if not probabilities:
        band -= band.max(0)
        band *= np.float32(1 / temperature)
        np.exp(band, out=band)
    if view is not None and view.merges:
        table = view.table[: len(band)]
        highest = np.where(table[:, None, None] == view.table[ids], band, 0).sum(0)
    else:
        highest = band.max(0)
    if probabilities:
        return cast(F32, np.rint(255 * highest.clip(0, 1)))
    return cast(F32, np.rint(255 * highest / band.sum(0)))
