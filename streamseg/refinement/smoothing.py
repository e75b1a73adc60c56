"""Fused frames of a recording → frames that also know what came after them.

Fusion is a recursion forwards: each frame's posterior is pulled towards the one before, along the flow. Of a
recording the frames to come are there as well, so a second recursion runs backwards over what the first one
made: each frame is pulled towards the smoothed one behind it. It restarts in each block of frames, a few
frames beyond its end, so that it needs little memory, and a frame's result depends on nothing behind those.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from streamseg.refinement.blend import Past, blend
from streamseg.refinement.flow import Flow
from streamseg.refinement.fusion import Fused
from streamseg.types import F32

AHEAD = 4
"""Frames that are looked at beyond a block, unless another number is set."""

BLOCK = 2
"""In `lookahead`: a block's frames. So 1.5 steps of the backward recursion are done for each frame."""

WEIGHT = 0.5
"""Of the smoothed frame behind, where the flow explains the picture."""


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """A fused frame that waits for those behind it."""

    fused: Fused
    onward: F32 | None  # where each pixel of the frame before it is in this one; None for the first


@dataclass(slots=True)
class Smoothing:
    """Takes fused frames in order and gives them back smoothed, in order, some frames later.

    The last frame of a block knows the `lookahead` next ones, the first one more; flush() ends a block.
    Repeatable to the byte where OpenCV uses one thread. Used by one thread.
    """

    lookahead: int
    weight: float = WEIGHT
    _flow: Flow = field(default_factory=Flow)
    _frames: list[_Frame] = field(default_factory=list)

    def add(self, fused: Fused, cut: bool = False) -> list[Fused]:
        """Take the next frame → the frames that are finished now.

        cut: it shares nothing with the one before; neither does a frame of another size.
        """
        finished = []
        if self._frames and (cut or self._frames[-1].fused.grey.shape != fused.grey.shape):
            finished = self.flush()
        onward = self._flow(self._frames[-1].fused.grey, fused.grey) if self._frames else None
        self._frames.append(_Frame(fused, onward))
        if len(self._frames) == (BLOCK + 1) * self.lookahead:
            finished += self._smoothed()[: BLOCK * self.lookahead]
            del self._frames[: BLOCK * self.lookahead]
        return finished

    def flush(self) -> list[Fused]:
        """The frames that are left: nothing behind them belongs to them."""
        finished = self._smoothed()
        self._frames.clear()
        return finished

    def _smoothed(self) -> list[Fused]:
        behind: Past | None = None
        made: list[Fused] = []
        for frame in reversed(self._frames):
            grey = frame.fused.grey
            rows, log_probabilities = blend(frame.fused.log_probabilities, grey, None, behind)
            made.append(
                frame.fused if behind is None else replace(frame.fused, log_probabilities=log_probabilities)
            )
            behind = None if frame.onward is None else Past(rows, grey, frame.onward, self.weight)
        return made[::-1]
