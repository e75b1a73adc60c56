"""Logits that are not numbers: what an overflow, a damaged weight or a wrong normalisation leaves behind.

-inf is a class that the network rules out, and fine. Where a class is NaN or infinite, or all are ruled out,
nothing is known: the label is IGNORE and the confidence 0, and the log says so, at most once a minute.
"""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import numpy.typing as npt

from streamseg.types import F32, IGNORE, U8

log = logging.getLogger(__name__)

LARGEST = 1e30  # a larger logit is an overflow; the compiled pass looks for holes from 1e37 on
_FAR = 4096  # spans of the logits: enough for any share in an interpolation to decide
_BELOW = 100.0  # logits: adds nothing to a softmax
REPORT_EVERY_S = 60.0


def holes_in(logits: F32) -> npt.NDArray[np.bool_]:
    """The cells (h, w) of logits (C, h, w) where nothing is known."""
    with np.errstate(invalid="ignore"):
        unknown = np.any(np.isnan(logits) | (logits > LARGEST), axis=0)
        return np.asarray(unknown | np.all(logits < -LARGEST, axis=0))


def without_holes(logits: F32) -> tuple[F32, F32 | None]:
    """Logits (C, h, w) that can be interpolated, and a plane (h, w) for "nothing is known"; None without one.

    A class that is ruled out lies so far below the others that it wins nowhere near; the plane lies as far
    above them where nothing is known, and below them elsewhere. All classes are equal in such a cell.
    """
    unknown = holes_in(logits)
    out = logits < -LARGEST
    known = logits[~out & ~unknown]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    far = _FAR * (high - low + _BELOW)
    numbers = np.where(unknown, low, np.where(out, low - far, logits)).astype(np.float32)
    if not unknown.any():
        return numbers, None
    return numbers, np.where(unknown, high + far, low - _BELOW).astype(np.float32)


def cover(labels: U8, confidence: U8 | None, unknown: npt.NDArray[np.bool_]) -> None:
    """Say IGNORE and no confidence where nothing is known; all (H, W), in place."""
    labels[unknown] = IGNORE
    if confidence is not None:
        confidence[unknown] = 0


class HoleReports:
    """Counts frames with holes by engine, and logs it when it begins and then once a minute; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both
        self._frames: dict[str, int] = {}
        self._reported_s: dict[str, float] = {}

    def count(self, engine: str, share: float) -> None:
        """A frame of this engine has no label in this share of its cells."""
        now_s = time.monotonic()
        with self._lock:
            frames = self._frames[engine] = self._frames.get(engine, 0) + 1
            if now_s - self._reported_s.get(engine, -REPORT_EVERY_S) < REPORT_EVERY_S:
                return
            self._reported_s[engine] = now_s
        log.warning(
            "engine %s computes NaN or infinity: %.3g %% of this frame has no label (255), %d frames so far; "
            'try engine.precision = "fp32", or another backend',
            engine or "(unnamed)",
            100 * share,
            frames,
        )


reports = HoleReports()
