"""Which frames go to the CRF: every so often, when the scene changes, and on request. Pure.

A change of scene is looked for in the picture that the network saw (a histogram of coarse colours) and in the
logits (labels that changed in place), both on a thinned grid: 0.1 ms for a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamseg.types import F32, U8, Logits

Why = Literal["first", "interval", "scene", "request"]

CUT = 0.1
"""Share of the picture whose colour was not there in the frame before, times share of labels that changed.

On CamVid two frames a second apart reach 0.05 at most, successive ones 0.004; two random places of its drives
have 0.04 to 0.38, half of them above 0.2.
"""

_GRID = 48  # samples along the longer side, about
_PEAK = 4  # levels of each colour channel


@dataclass(frozen=True, slots=True)
class Features:
    """What two frames are compared by."""

    colours: npt.NDArray[np.float64]  # shares of the coarse colours, summing to 1
    labels: U8  # the network's, on a thinned-out grid


@dataclass(frozen=True, slots=True)
class KeyframeDecision:
    """Whether a frame is a keyframe and why, and whether it begins another scene."""

    keyframe: Why | None
    cut: bool


class KeyframeSelector:
    """Chooses the keyframes of one stream from its frames in order. request() may come from any thread."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._before: Features | None = None
        self._epoch = -1
        self._last_seq: int | None = None  # of the last keyframe, in this epoch
        self._requested = False  # set by any thread; a request that comes during a decision counts for it

    def request(self) -> None:
        """Make the next frame a keyframe."""
        self._requested = True

    def observe(self, logits: Logits) -> KeyframeDecision:
        """Take the next frame."""
        frame = logits.frame
        if frame.epoch != self._epoch:
            self._epoch, self._last_seq, self._before = frame.epoch, None, None
        now = features(frame.scaled(logits.geometry.input_size), logits.array)
        requested, self._requested = self._requested, False
        decision = decide(self._before, now, frame.seq, self._last_seq, self._every, requested)
        self._before = now
        if decision.keyframe:
            self._last_seq = frame.seq
        return decision


def decide(
    before: Features | None, now: Features, seq: int, last_seq: int | None, every: int, requested: bool
) -> KeyframeDecision:
    """The rule, from both frames' features, the frame's seq, the last keyframe's, and the request."""
    cut = before is not None and is_cut(before, now)
    if last_seq is None:
        return KeyframeDecision("first", cut)
    if cut:
        return KeyframeDecision("scene", cut)
    if requested:
        return KeyframeDecision("request", cut)
    return KeyframeDecision("interval" if seq - last_seq >= every else None, cut)


def is_cut(before: Features, now: Features) -> bool:
    """Whether another scene begins: both the colours and the labels say so, or their grid is another one.

    Either alone happens within a scene: a lamp is switched on, the camera turns.
    """
    if before.labels.shape != now.labels.shape:
        return True
    colours = float(np.abs(before.colours - now.colours).sum()) / 2
    labels = float((before.labels != now.labels).mean())
    return colours * labels >= CUT


def features(rgb: U8, logits: F32) -> Features:
    """Thin out a picture (H, W, 3) and its logits (C, h, w)."""
    coarse = _thinned(rgb[..., 0]).astype(np.intp) * _PEAK // 256
    for channel in (1, 2):
        coarse = coarse * _PEAK + _thinned(rgb[..., channel]).astype(np.intp) * _PEAK // 256
    counts = np.bincount(coarse.ravel(), minlength=_PEAK**3)
    few = np.stack([_thinned(plane) for plane in logits])
    return Features(counts / coarse.size, few.argmax(0).astype(np.uint8))


def _thinned(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    step = max(1, max(plane.shape) // _GRID)
    return plane[step // 2 :: step, step // 2 :: step]
