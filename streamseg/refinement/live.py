"""From scores to labels with the CRF and fusion: beside the live route, or inline for recorded files.

Live, the fuse stage asks labels() for every frame, and run() is the refine stage. Where nobody subscribes to
refined masks and fusion is off, nothing is computed at all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from streamseg.config import Config, CrfConfig, FusionConfig, RefineConfig
from streamseg.crf import Workspace, native_available
from streamseg.inference.preprocess import scale_picture
from streamseg.inference.spec import EngineSpec
from streamseg.inference.upsample import labels_from_logits, labels_of
from streamseg.refinement.crf_process import CrfWorker, Keyframe
from streamseg.refinement.crf_step import Posterior, crf_setup, need_crf, refine_picture
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fused, Fusion, FusionParams
from streamseg.refinement.keyframes import Choice, Keyframes
from streamseg.refinement.smoothing import Smoothing
from streamseg.runtime.counters import Stats
from streamseg.runtime.mailbox import Mailbox
from streamseg.types import U8, Logits, Refined, Size

_ANSWERS = 4  # kept for a stream whose frames do not come


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """What is kept of one stream. keyframes and fusion belong to the fuse stage, answers hands over to it."""

    keyframes: Keyframes
    fusion: Fusion | None
    answers: Mailbox[Refined]


CrfMode = Literal["off", "keyframes", "all"]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A recorded frame's labels (H, W), confidence where asked for, and the seq of the refinement in them."""

    scores: Logits
    labels: U8
    confidence: U8 | None
    refined_seq: int | None


class InlineRefinement:
    """The same steps for one recorded stream, in a plain loop: frames in order in, labels out.

    The CRF runs in the caller, on no frame, on keyframes or on all; the result depends, to the byte, on
    nothing but the arguments and the frames since the last reset(). Used by one thread.
    """

    def __init__(
        self,
        config: CrfConfig,
        spec: EngineSpec,
        mode: CrfMode,
        *,
        every: int = RefineConfig().every,
        fusion: FusionConfig | None = None,
        ahead: int = 0,
    ) -> None:
        """every: the interval of keyframes. fusion: None for off. Raises ConfigError.

        ahead: frames that add() looks at beyond each block of frames, for which fusion is on.

        Lets OpenCV use one thread in the whole process, because its flow depends on their number.
        """
        one_thread()
        self._setup = crf_setup(config, spec)
        if mode != "off":
            need_crf(self._setup)
        self._workspace = Workspace() if native_available() else None
        self._mode = mode
        self._every = every
        self._fuses = ahead > 0 or (fusion is not None and fusion.enabled)
        self._ahead = ahead
        self._params = fusion_params(fusion or FusionConfig())
        self.reset()

    def reset(self) -> None:
        """Begin anew, as at the start of a part that may be made again by itself."""
        self._keyframes = Keyframes(self._every)
        self._fusion = Fusion(self._setup.thin, self._params)
        self._smoothing = Smoothing(self._ahead) if self._ahead else None
        self._waiting: deque[Logits] = deque()  # of frames that are being smoothed

    def add(self, scores: Logits, size: Size, confidence: bool = False) -> list[Labelled]:
        """Take the next frame → those that are finished now, in order: itself, or earlier ones with `ahead`.

        Raises CrfError.
        """
        if self._smoothing is None:
            return [Labelled(scores, *self.labels(scores, size, confidence))]
        choice = self._keyframes.observe(scores)
        refined = self._refined(scores, choice, size, confidence)
        fused = self._fused(scores, choice, refined)
        finished = self._smoothing.add(fused, scores.frame.rgb, choice.cut)
        self._waiting.append(scores)
        return self._labelled(finished, size, confidence)

    def rest(self, size: Size, confidence: bool = False) -> list[Labelled]:
        """The frames that add() has kept; begins anew."""
        finished = self._smoothing.flush() if self._smoothing is not None else []
        rest = self._labelled(finished, size, confidence)
        self.reset()
        return rest

    def labels(
        self, scores: Logits, size: Size, confidence: bool = False
    ) -> tuple[U8, U8 | None, int | None]:
        """A frame's labels (H, W), confidence where asked for, and the seq of the refinement in them.

        A frame that went through the CRF itself is its own refinement. Raises CrfError.
        """
        choice = self._keyframes.observe(scores)
        refined = self._refined(scores, choice, size, confidence)
        if refined is not None and refined.labels is not None:
            return refined.labels, refined.confidence, scores.frame.seq
        if not self._fuses:
            return *labels_from_logits(scores.array, size, confidence), None
        fused = self._fused(scores, choice, refined)
        return *fused.labels(size, confidence), fused.refined_seq

    def _refined(self, scores: Logits, choice: Choice, size: Size, confidence: bool) -> Posterior | None:
        """The CRF's answer, where this frame goes through it: labels, or what fusion wants."""
        through = self._mode == "all" or (self._mode == "keyframes" and choice.keyframe is not None)
        if not through:
            return None
        picture = scale_picture(scores.frame.rgb, scores.geometry.input_size)
        own_size = None if self._fuses else size
        return refine_picture(
            self._setup,
            scores.array,
            picture,
            own_size,
            confidence=confidence,
            scores=self._fuses,
            workspace=self._workspace,
        )

    def _fused(self, scores: Logits, choice: Choice, refined: Posterior | None) -> Fused:
        log_probabilities = None if refined is None else refined.log_probabilities
        return self._fusion.step(scores, cut=choice.cut, refined=log_probabilities)

    def _labelled(self, finished: list[Fused], size: Size, confidence: bool) -> list[Labelled]:
        return [
            Labelled(self._waiting.popleft(), *fused.labels(size, confidence), fused.refined_seq)
            for fused in finished
        ]


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
        self._wants_refined = wants_refined
        self._on_refined = on_refined
        self._thin = setup.thin
        self._lock = threading.Lock()  # guards the dictionary, not what is in it, and the two settings below
        self._streams: dict[str, _Stream] = {}
        self._every = config.refine.every
        self._fusion_params: FusionParams | None = None
        self._worker = CrfWorker(setup, config.refine, stats, self._answered)
        self.apply(config.refine, config.fusion)

    def run(self) -> None:
        """Refine keyframes until close(); raises Closed then."""
        self._worker.run()

    def close(self) -> None:
        """End run() at once; closing twice is fine."""
        self._worker.close()

    def apply(self, refine: RefineConfig, fusion: FusionConfig) -> None:
        """Take other settings; refine.priority is that of a process that runs already, and stays.

        Every stream's memory begins anew. From any thread.
        """
        params = fusion_params(fusion) if fusion.enabled else None
        if params is not None:
            one_thread()
        self._worker.apply(refine)
        with self._lock:
            self._every = refine.every
            self._fusion_params = params
            self._streams = {}

    def wanted(self, stream: str) -> bool:
        """Whether somebody has the stream's refinement: a subscriber, or fusion."""
        return self._fusion_params is not None or self._wants_refined(stream)

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        with self._lock:
            self._streams.pop(stream, None)

    @property
    def pid(self) -> int | None:
        """The CRF's process, None while there is none."""
        return self._worker.pid

    def request_keyframe(self, stream: str) -> None:
        """Refine the next frame of this stream, whatever the interval; from any thread."""
        self._of(stream).keyframes.request()

    def labels(
        self, scores: Logits, size: Size, confidence: bool = False
    ) -> tuple[U8, U8 | None, int | None]:
        """A frame's labels and confidence (where asked for), and the keyframe whose refinement is in them.

        Sends the frame to the CRF when it is a keyframe; of its refinement the labels have this size, too.
        """
        fused = self._fused(scores, size)
        if fused is None:
            return *labels_of(scores, size, confidence), None
        return *fused.labels(size, confidence), fused.refined_seq

    def _fused(self, scores: Logits, size: Size) -> Fused | None:
        stream = self._of(scores.frame.stream)
        wanted = self._wants_refined(scores.frame.stream)
        fusion = stream.fusion
        if not wanted and fusion is None:
            return None
        choice = stream.keyframes.observe(scores)
        if choice.keyframe:
            self._worker.submit(Keyframe(scores, size if wanted else None, fusion is not None))
        if fusion is None:
            return None
        while len(stream.answers):
            answer = stream.answers.get()
            frame = answer.scores.frame
            assert answer.log_probabilities is not None, "fusion asked for them"
            fusion.refine(frame.epoch, frame.seq, answer.log_probabilities)
        return fusion.step(scores, keyframe=choice.keyframe is not None, cut=choice.cut)

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
        with self._lock:
            stream = self._streams.get(refined.scores.frame.stream)
        if stream is not None and stream.fusion is not None and refined.log_probabilities is not None:
            stream.answers.replace(refined)


def fusion_params(config: FusionConfig) -> FusionParams:
    """The settings as fusion.py takes them."""
    return FusionParams(config.refined_weight, config.decay, recursion=config.recursion)
