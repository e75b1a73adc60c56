"""Fresh logits + what the last refinement and the last frames said → scores of the present frame.

Everything happens at half the resolution of the network's input, where it costs about 3 ms for 480×360 and
11 classes. The fresh logits always have a third of the weight or more: a mask is never an old one, held or
moved along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.refine.crf import labels_with_thin
from streamseg.refine.propagate import Flow, carry, chain, grey_of, standing_still, trust
from streamseg.types import F32, U8, Scores, Size
from streamseg.upsample import labels_from_logits

__all__ = ["Fused", "Fusion", "FusionParams", "labels_from_logits"]

_MOST_ANCHORS = 4  # the finished keyframe, the one at work, the one that waits, and one that was replaced
_LEAST = np.float32(1e-6)  # probability, so that its logarithm is finite


@dataclass(frozen=True, slots=True)
class FusionParams:
    """How much of the past goes into the present."""

    refined_weight: float = 0.3  # of the last refinement, in the log-linear blend
    decay: float = 0.97  # of that weight, for each frame since the keyframe
    soften: float = 0.05  # share of the refined posterior that is spread evenly over the classes
    recursion: float = 0.5  # of the fused posterior of the frame before, in the linear blend


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Scores after fusion."""

    log_probabilities: F32  # (C, h, w), half the network's input
    logits: F32  # (C, h', w'), the network's own
    thin: Sequence[bool]
    refined_seq: int | None  # the keyframe whose refinement went in

    def labels(self, size: Size, confidence: bool = False) -> tuple[U8, U8 | None]:
        """The frame's mask at `size`, thin classes as the network saw them; and confidence if asked for."""
        return labels_with_thin(self.log_probabilities, self.logits, self.thin, size, confidence)


@dataclass(slots=True)
class _Anchor:
    """A keyframe, and the way from the present back to it."""

    epoch: int
    seq: int
    grey: U8
    where: F32
    log_posterior: F32 | None = None  # (h, w, C), softened, once the CRF is through with it


@dataclass(slots=True)
class _Past:
    """The frame before, as far as the next one needs it."""

    epoch: int
    grey: U8
    posterior: F32  # (h, w, C)


@dataclass(slots=True)
class Fusion:
    """The memory of one stream. step() takes its frames in order; used by one thread.

    Frames may be missing between two steps: how well the flow explains the picture decides what is kept.
    """

    thin: Sequence[bool]  # for each class: narrower than the CRF's kernels, kept as the network saw it
    params: FusionParams = FusionParams()
    _flow: Flow = field(default_factory=Flow)
    _past: _Past | None = None
    _anchors: list[_Anchor] = field(default_factory=list)  # oldest first; at most the first is finished

    def reset(self) -> None:
        """Forget everything: the scene has changed."""
        self._past = None
        self._anchors.clear()

    def refine(self, epoch: int, seq: int, log_probabilities: F32) -> bool:
        """Take the CRF's answer to an earlier keyframe, (C, h, w); False when it comes too late."""
        for at, anchor in enumerate(self._anchors):
            if (anchor.epoch, anchor.seq) == (epoch, seq):
                anchor.log_posterior = self._softened(log_probabilities, anchor.grey)
                del self._anchors[:at]
                return True
        return False

    def step(
        self, scores: Scores, *, keyframe: bool = False, cut: bool = False, refined: F32 | None = None
    ) -> Fused:
        """Fuse the next frame. A keyframe is remembered, so that refine() can bring its answer later.

        cut: this frame shares nothing with the one before. refined: the CRF's log-probabilities (C, h, w) of
        this very frame, which then stand for the network's.
        """
        size = fusion_size(scores.geometry.input_size)
        frame = scores.frame
        grey = grey_of(frame.rgb, size)
        past = self._past
        if cut or past is None or past.epoch != frame.epoch or past.grey.shape != size:
            self.reset()
            past = None
        # (C, h, w), log-probabilities up to a constant at each pixel, which no step below minds
        fresh = _resized(scores.logits if refined is None else refined, size)
        refined_seq = None if refined is None else frame.seq
        step = None
        if past is not None:
            step = self._flow(grey, past.grey)
            for anchor in self._anchors:
                anchor.where = chain(step, anchor.where)
            if refined is None:
                fresh, refined_seq = self._with_anchor(fresh, grey, frame.seq)
        posterior = _normalised(fresh)
        if past is not None and step is not None:
            before = _planes(carry(past.posterior, step))
            before -= posterior
            before *= np.float32(self.params.recursion) * trust(grey, past.grey, step)
            posterior += before
        self._past = _Past(frame.epoch, grey, cast(F32, cv2.merge(list(posterior))))
        if keyframe or refined is not None:
            self._remember(frame.epoch, frame.seq, grey, refined)
        fused = _log(np.maximum(posterior, _LEAST))
        return Fused(fused, scores.logits, self.thin, refined_seq)

    def _with_anchor(self, fresh: F32, grey: U8, seq: int) -> tuple[F32, int | None]:
        """The log-linear blend with the last finished keyframe, and its seq."""
        anchor = self._anchors[0] if self._anchors else None
        if anchor is None or anchor.log_posterior is None:
            return fresh, None
        peak = self.params.refined_weight * self.params.decay ** (seq - anchor.seq)
        if peak < 0.01:
            return fresh, None
        moved = _planes(carry(anchor.log_posterior, anchor.where))
        moved -= fresh
        moved *= np.float32(peak) * trust(grey, anchor.grey, anchor.where)
        moved += fresh
        return moved, anchor.seq

    def _remember(self, epoch: int, seq: int, grey: U8, refined: F32 | None) -> None:
        if refined is not None:
            self._anchors.clear()
        anchor = _Anchor(epoch, seq, grey, standing_still((grey.shape[0], grey.shape[1])))
        if refined is not None:
            anchor.log_posterior = self._softened(refined, grey)
        self._anchors.append(anchor)
        if len(self._anchors) > _MOST_ANCHORS:
            del self._anchors[1]  # the oldest one that still waits for its answer

    def _softened(self, log_probabilities: F32, grey: U8) -> F32:
        """(C, h, w) → log of the posterior with `soften` of it spread over all classes, (h, w, C)."""
        posterior = _normalised(_resized(log_probabilities, (grey.shape[0], grey.shape[1])))
        even = np.float32(self.params.soften / len(posterior))
        soft = _log(np.float32(1 - self.params.soften) * posterior + even + np.float32(1e-12))
        return cast(F32, cv2.merge(list(soft)))


def fusion_size(input_size: Size) -> Size:
    """Where fusion works: half the network's input, but no less than the flow needs."""
    return max(16, (input_size[0] + 1) // 2), max(16, (input_size[1] + 1) // 2)


def _normalised(log_probabilities: F32) -> F32:
    odds = log_probabilities - log_probabilities.max(0)
    odds = cast(F32, cv2.exp(odds.reshape(len(odds), -1))).reshape(odds.shape)
    odds /= odds.sum(0)
    return odds


def _log(probabilities: F32) -> F32:
    return cast(F32, cv2.log(probabilities.reshape(len(probabilities), -1))).reshape(probabilities.shape)


def _resized(planes: F32, size: Size) -> F32:
    """(C, h, w) scaled, pixel centres in line.

    Bicubic: two bilinear steps in a row, this one and that to the mask's size, cost half a point of mIoU
    within 5 pixels of CamVid's boundaries.
    """
    if planes.shape[1:] == size:
        return planes
    return np.stack([cv2.resize(p, size[::-1], interpolation=cv2.INTER_CUBIC) for p in planes])


def _planes(interleaved: F32) -> F32:
    """(h, w, C) → (C, h, w)."""
    planes: npt.NDArray[np.float32] = np.stack(cv2.split(interleaved))
    return planes
