"""Refinement of live streams: which frames go to the CRF, and what its answers do for the frames after them.

The fuse stage asks fused() for every frame; run() is the refine stage. Where nobody subscribes to refined
masks and fusion is off, nothing is computed at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from streamseg.config import Config
from streamseg.engine.spec import EngineSpec
from streamseg.fuse import Fusion, FusionParams
from streamseg.mailbox import Mailbox
from streamseg.refine.crf import crf_setup
from streamseg.refine.keyframes import Keyframes
from streamseg.refine.propagate import one_thread
from streamseg.refine.worker import CrfWorker, Keyframe
from streamseg.stats import Stats
from streamseg.types import F32, Refined, Scores, Size

_ANSWERS = 4  # kept for a stream whose frames do not come


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """What is kept of one stream. keyframes and fusion belong to the fuse stage, answers hands over to it."""

    keyframes: Keyframes
    fusion: Fusion | None
    answers: Mailbox[Refined]


class Refinement:
    """The CRF and the fusion of all live streams."""

    def __init__(
        self,
        config: Config,
        spec: EngineSpec,
        stats: Stats,
        wants_refined: Callable[[str], bool],
        on_refined: Callable[[Refined], None],
    ) -> None:
        """on_refined gets each keyframe whose labels were wanted, in the refine stage. Raises ConfigError."""
        setup = crf_setup(config.crf, spec)
        params = FusionParams(
            config.fusion.refined_weight, config.fusion.decay, recursion=config.fusion.recursion
        )
        self._wants_refined = wants_refined
        self._on_refined = on_refined
        self._every = config.refine.every
        self._thin = setup.thin
        self._fusion_params = params if config.fusion.enabled else None
        self._lock = threading.Lock()  # guards the dictionary, not what is in it
        self._streams: dict[str, _Stream] = {}
        self._worker = CrfWorker(setup, config.refine, stats, self._answered)
        if config.fusion.enabled:
            one_thread()

    def run(self) -> None:
        """Refine keyframes until close(); raises Closed then."""
        self._worker.run()

    def close(self) -> None:
        """End run() at once; closing twice is fine."""
        self._worker.close()

    def request_keyframe(self, stream: str) -> None:
        """Refine the next frame of this stream, whatever the interval; from any thread."""
        self._of(stream).keyframes.request()

    def fused(self, scores: Scores, mask_size: Size) -> tuple[F32, int | None]:
        """What is to be upsampled to the frame's mask, (C, h, w), and the keyframe whose refinement is in it.

        Sends the frame to the CRF when it is a keyframe. mask_size is that of a refined mask.
        """
        stream = self._of(scores.frame.stream)
        wanted = self._wants_refined(scores.frame.stream)
        fusion = stream.fusion
        if not wanted and fusion is None:
            return scores.logits, None
        choice = stream.keyframes.sees(scores)
        if choice.keyframe:
            self._worker.submit(Keyframe(scores, mask_size if wanted else None))
        if fusion is None:
            return scores.logits, None
        while len(stream.answers):
            answer = stream.answers.get()
            frame = answer.scores.frame
            fusion.refine(frame.epoch, frame.seq, answer.log_probabilities)
        fused = fusion.step(scores, keyframe=choice.keyframe is not None, cut=choice.cut)
        return fused.log_probabilities, fused.refined_seq

    def _of(self, name: str) -> _Stream:
        with self._lock:
            if name not in self._streams:
                params = self._fusion_params
                fusion = None if params is None else Fusion(self._thin, params)
                self._streams[name] = _Stream(Keyframes(self._every), fusion, Mailbox(_ANSWERS))
            return self._streams[name]

    def _answered(self, refined: Refined) -> None:
        if refined.labels is not None:
            self._on_refined(refined)
        stream = self._of(refined.scores.frame.stream)
        if stream.fusion is not None:
            stream.answers.put_newest(refined)
