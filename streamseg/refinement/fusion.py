"""Fresh logits + the last refinement and the last frames → log-probabilities of the present frame.

Everything happens at half the resolution of the network's input, from the picture that the network saw: it
costs about 3 ms for 480×360 and 11 classes, whatever the frame's size. The fresh logits always have a third
of the weight or more: a mask is never an old one, held or moved along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from streamseg.config import FusionConfig
from streamseg.inference.label_view import LabelView
from streamseg.refinement.blend import Past, blend, softened
from streamseg.refinement.crf_step import labels_with_thin
from streamseg.refinement.flow import Flow, chain, grey_of, standing_still
from streamseg.types import F32, U8, Logits, Size

_DEFAULTS = FusionConfig()
_MOST_ANCHORS = 4  # the finished keyframe, the one at work, the one that waits, and one that was replaced


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Logits after fusion."""

    log_probabilities: F32  # (C, h, w), half the network's input
    logits: F32  # (C, h', w'), the network's own
    thin: Sequence[bool]
    refined_seq: int | None  # the keyframe whose refinement went in
    grey: U8  # (h, w), the picture
    temperature: float = 1.0  # of the confidence

    def labels(
        self, size: Size, confidence: bool = False, view: LabelView | None = None
    ) -> tuple[U8, U8 | None]:
        """The frame's mask at `size`, thin classes as the network saw them; and confidence if asked for.

        view: how labels are published; all but its regions.
        """
        return labels_with_thin(
            self.log_probabilities, self.logits, self.thin, size, confidence, self.temperature, view
        )


@dataclass(slots=True)
class _Anchor:
    """A keyframe, and the way from the present back to it."""

    epoch: int
    seq: int
    grey: U8
    where: F32
    log_posterior: F32 | None = None  # rows of blend.py, softened, once the CRF is through with it


@dataclass(slots=True)
class _Before:
    """The frame before, as far as the next one needs it."""

    epoch: int
    grey: U8
    posterior: F32  # rows of blend.py


@dataclass(slots=True)
class Fusion:
    """The memory of one stream. step() takes its frames in order; used by one thread.

    Frames may be missing between two steps: how well the flow explains the picture decides what is kept.
    """

    thin: Sequence[bool]  # for each class: narrower than the CRF's kernels, kept as the network saw it
    config: FusionConfig = _DEFAULTS
    _flow: Flow = field(default_factory=Flow)
    _past: _Before | None = None
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
        self, logits: Logits, *, keyframe: bool = False, cut: bool = False, refined: F32 | None = None
    ) -> Fused:
        """Fuse the next frame. A keyframe is remembered, so that refine() can bring its answer later.

        cut: this frame shares nothing with the one before. refined: the CRF's log-probabilities (C, h, w) of
        this very frame, which then stand for the network's.
        """
        seen = logits.geometry.input_size
        size = fusion_size(seen)
        frame = logits.frame
        grey = grey_of(frame.scaled(seen), size)
        past = self._past
        if cut or past is None or past.epoch != frame.epoch or past.grey.shape != size:
            self.reset()
            past = None
        refined_seq = None if refined is None else frame.seq
        anchor = before = None
        if past is not None:
            step = self._flow(grey, past.grey)
            for kept in self._anchors:
                kept.where = chain(step, kept.where)
            before = Past(past.posterior, past.grey, step, self.config.recursion)
            if refined is None:
                anchor, refined_seq = self._anchor(frame.seq)
        # Log-probabilities up to a constant at each pixel, which fusion does not mind.
        fresh = logits.array if refined is None else refined
        posterior, fused = blend(fresh, grey, anchor, before)
        self._past = _Before(frame.epoch, grey, posterior)
        if keyframe or refined is not None:
            self._remember(frame.epoch, frame.seq, grey, refined)
        return Fused(fused, logits.array, self.thin, refined_seq, grey, logits.temperature)

    def _anchor(self, seq: int) -> tuple[Past | None, int | None]:
        """The last finished keyframe, with its weight in the log-linear blend, and its seq."""
        anchor = self._anchors[0] if self._anchors else None
        if anchor is None or anchor.log_posterior is None:
            return None, None
        peak = self.config.refined_weight * self.config.decay ** (seq - anchor.seq)
        if peak < 0.01:
            return None, None
        return Past(anchor.log_posterior, anchor.grey, anchor.where, peak), anchor.seq

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
        return softened(log_probabilities, (grey.shape[0], grey.shape[1]), self.config.soften)


def fusion_size(input_size: Size) -> Size:
    """Where fusion works: half the network's input, but no less than the flow needs."""
    return max(16, (input_size[0] + 1) // 2), max(16, (input_size[1] + 1) // 2)
