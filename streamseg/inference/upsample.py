"""Bilinear upsampling of logits and their argmax in one fused pass."""

from __future__ import annotations

import ctypes
from typing import cast

import cv2
import numpy as np

from streamseg.runtime.native import load_library
from streamseg.types import F32, U8, Logits, Size

_BAND = 32  # rows that the array fallback interpolates at once, to stay in the CPU's cache


def labels_of(logits: Logits, size: Size, confidence: bool = False) -> tuple[U8, U8 | None]:
    """labels_from_logits for one frame: on the device that has its logits, on the host for confidence."""
    if isinstance(logits.data, np.ndarray) or confidence:
        return labels_from_logits(logits.array, size, confidence)
    return logits.data.labels(size), None


def labels_from_logits(logits: F32, size: Size, confidence: bool = False) -> tuple[U8, U8 | None]:
    """Scale logits (C, h, w) float32 bilinearly to size → labels uint8 (H, W), and confidence if asked for.

    Pixel centres are aligned (as cv2.INTER_LINEAR); of equal logits the lower class wins. confidence is the
    highest softmax probability of the scaled logits in 1/255, (H, W) uint8. No full-resolution float tensor
    is made. Releases the GIL; the caller owns both results. Raises ValueError or MemoryError.
    """
    try:
        library = load_library("_upsample")
    except OSError:
        return fallback(logits, size, confidence)
    logits = np.ascontiguousarray(logits, np.float32)
    labels = np.empty(size, np.uint8)
    highest = np.empty(size, np.uint8) if confidence else None
    code = library.streamseg_upsample_argmax(
        logits.ctypes.data_as(ctypes.c_void_p),
        *logits.shape,
        *size,
        labels.ctypes.data_as(ctypes.c_void_p),
        None if highest is None else highest.ctypes.data_as(ctypes.c_void_p),
    )
    if code == 2:
        raise MemoryError(f"upsampling logits {logits.shape} to {size}")
    if code:
        raise ValueError(
            f"upsampling logits {logits.shape} to {size}: must have 1 to 255 classes and sides above 0"
        )
    return labels, highest


def fallback(logits: F32, size: Size, confidence: bool = False) -> tuple[U8, U8 | None]:
    """The same in NumPy and OpenCV, a band of rows at a time: for installs without a compiler."""
    h = logits.shape[1]
    height, width = size
    labels = np.empty(size, np.uint8)
    highest = np.empty(size, np.uint8) if confidence else None
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
            band -= band.max(0)
            highest[rows] = np.rint(255 / np.exp(band).sum(0)).astype(np.uint8)
    return labels, cast("U8 | None", highest)
