"""From logits to labels with the CRF and fusion: one state machine for each stream, live and recorded.

Live, the CRF runs in a process of its own and its answers come some frames later; recorded, it runs in line.
Where nothing is wanted but the network's own labels, nothing else is computed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from streamseg.config import RefinementConfig
from streamseg.inference.label_view import LabelView, drop_small
from streamseg.inference.scaling import labels_of, numbers_of, unlabelled
from streamseg.inference.spec import EngineSpec
from streamseg.refinement.crf_process import CrfWorker
from streamseg.refinement.crf_step import (
    CrfSetup,
    Keyframe,
    Posterior,
    crf_setup,
    need_crf,
    refine,
    workspace_of,
)
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fused, Fusion
from streamseg.refinement.keyframes import KeyframeDecision, KeyframeSelector
from streamseg.refinement.smoothing import Smoothing
from streamseg.runtime.counters import Stats
from streamseg.runtime.mailbox import Mailbox
from streamseg.types import NO_CLASSES, U8, EngineKey, LabelSet, Logits, Refined, Size

_ANSWERS = 4  # kept for a stream whose frames do not come


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A frame's labels (H, W), confidence where asked for, and the seq of the refinement in them."""

    logits: Logits
    labels: U8
    confidence: U8 | None
    refined_seq: int | None


class StreamRefinement:
    """The memory of one stream; add() takes its frames in order. Used by one thread, but for answer().

    The result depends, to the byte, on nothing but the arguments, the answers and the frames since reset().
    """

    def __init__(
        self,
        config: RefinementConfig,
        setup: CrfSetup,
        crf: Callable[[Keyframe], Posterior | None],
        lookahead: int = 0,
        *,
        label_set: LabelSet = NO_CLASSES,
    ) -> None:
        """crf: refines a keyframe in line, or gives None and has answer() called later.

        lookahead: frames that add() looks at beyond each block of frames; fusion must be on.
        """
        self.setup = setup
        self.label_set = label_set
        self._config = config
        self._crf = crf
        self._lookahead = lookahead
        self._on = config.crf_on
        self._answers: Mailbox[Refined] = Mailbox(_ANSWERS)  # to the thread of add()
        self.reset()

    def reset(self) -> None:
        """Forget all frames, as at the start of a segment of a recording."""
        self.keyframes = KeyframeSelector(self._config.every)
        self._fusion = Fusion(self.setup.thin, self._config.fusion) if self._config.fuses else None
        self._smoothing = Smoothing(self._lookahead) if self._lookahead else None
        # Of frames that are being smoothed, and whether each cell is known.
        self._waiting: deque[tuple[Logits, bool]] = deque()

    def answer(self, refined: Refined) -> None:
        """Take the CRF's answer to an earlier keyframe; from any thread."""
        if self._fusion is not None and refined.log_probabilities is not None:
            self._answers.replace(refined)

    def add(
        self,
        logits: Logits,
        size: Size,
        confidence: bool = False,
        view: LabelView | None = None,
        *,
        refined_wanted: bool = False,
    ) -> list[Labelled]:
        """Take the next frame → the frames that are finished now, in order: itself, or earlier ones.

        labels (H, W) have this size. refined_wanted: the CRF's own labels of keyframes are wanted, too.
        Class ids are not refined. view: how they are published, which is the last step: the CRF and fusion
        work on the engine's own classes. Raises CrfError.
        """
        if logits.kind == "labels" or (self._fusion is None and not refined_wanted):
            return [Labelled(logits, *labels_of(logits, size, confidence, view), None)]
        numbers, whole = numbers_of(logits)
        decision = self.keyframes.observe(numbers)
        sent = whole and self._goes_to_crf(decision, refined_wanted)
        posterior = None
        if sent:
            labels_size = size if refined_wanted else None
            fuses = self._fusion is not None
            posterior = self._crf(Keyframe(self.setup, numbers, labels_size, fuses, confidence, view))
        if self._fusion is None:
            if posterior is None or posterior.labels is None:
                return [Labelled(logits, *labels_of(logits, size, confidence, view), None)]
            return [Labelled(logits, posterior.labels, posterior.confidence, logits.frame.seq)]
        while len(self._answers):
            answer = self._answers.get()
            assert answer.log_probabilities is not None, "fusion asked for them"
            self._fusion.refine(answer.logits.frame.epoch, answer.logits.frame.seq, answer.log_probabilities)
        fused = self._fusion.step(
            numbers,
            keyframe=sent,
            cut=decision.cut,
            refined=None if posterior is None else posterior.log_probabilities,
        )
        self._waiting.append((logits, whole))
        finished = [fused] if self._smoothing is None else self._smoothing.add(fused, decision.cut)
        return self._labelled(finished, size, confidence, view)

    def rest(self, size: Size, confidence: bool = False, view: LabelView | None = None) -> list[Labelled]:
        """The frames that add() has kept; then forgets all, as reset()."""
        finished = self._smoothing.flush() if self._smoothing is not None else []
        rest = self._labelled(finished, size, confidence, view)
        self.reset()
        return rest

    def _goes_to_crf(self, decision: KeyframeDecision, refined_wanted: bool) -> bool:
        if self._on == "off":  # by its level, which still lets subscribers have refined keyframes
            return refined_wanted and self._config.crf.on is None and decision.keyframe is not None
        return self._on == "all" or decision.keyframe is not None

    def _labelled(
        self, finished: list[Fused], size: Size, confidence: bool, view: LabelView | None
    ) -> list[Labelled]:
        labelled = []
        for fused in finished:
            logits, whole = self._waiting.popleft()
            made = fused.labels(size, confidence, view)
            if not whole:
                made = unlabelled(logits, *made)
            if view is not None:
                made = drop_small(*made, view.min_region)
            labelled.append(Labelled(logits, *made, fused.refined_seq))
        return labelled


def recorded_refinement(config: RefinementConfig, spec: EngineSpec) -> StreamRefinement:
    """The state machine of a recorded stream, with the CRF in line. Raises ConfigError.

    Lets OpenCV use one thread in the whole process, because its flow depends on their number.
    """
    one_thread()
    setup = crf_setup(config.crf, spec)
    if config.crf_on != "off":
        need_crf(setup)
    workspace = workspace_of(setup)

    def in_line(keyframe: Keyframe) -> Posterior:
        return refine(keyframe.request(), workspace)

    return StreamRefinement(config, setup, in_line, config.frames_ahead)


class LiveRefinement:
    """The state machines of all live streams, and the CRF's process."""

    def __init__(self, config: RefinementConfig, stats: Stats) -> None:
        """Raises ConfigError."""
        self._lock = threading.Lock()  # guards the dictionaries, not what is in them, and the settings
        self._engines: WeakKeyDictionary[EngineKey, _OfEngine] = WeakKeyDictionary()
        self._streams: dict[str, StreamRefinement] = {}
        self._worker = CrfWorker(config, stats)
        self.apply(config)

    def serve(self, key: EngineKey, spec: EngineSpec) -> None:
        """Learn how the frames of an engine are refined, for as long as a frame has this key.

        From any thread. Raises ConfigError where its settings do not fit.
        """
        setup = crf_setup(self._config.crf, spec)
        if self._config.crf_on != "off":
            need_crf(setup)
        with self._lock:
            self._engines[key] = _OfEngine(setup, spec.gives != "labels")

    def refined(self) -> Generator[Refined, None, None]:
        """Refine keyframes until close(), one after another; raises Closed then.

        The work of one thread, which closes the generator when it ends; that kills the CRF's process.
        """
        with contextlib.closing(self._worker.refined()) as answers:
            for answer in answers:
                with self._lock:
                    stream = self._streams.get(answer.logits.frame.stream)
                if stream is not None:
                    stream.answer(answer)
                yield answer

    def close(self) -> None:
        """End refined() at once; closing twice is fine."""
        self._worker.close()

    def apply(self, config: RefinementConfig) -> None:
        """Take other settings; refinement.priority is that of a process that runs already, and stays.

        Every stream's memory is cleared. From any thread. Raises ConfigError where the CRF is missing.
        """
        with self._lock:
            setups = [one.setup for one in self._engines.values()]
        if config.crf_on != "off":
            for setup in setups:
                need_crf(setup)
        if config.fuses:
            one_thread()
        self._worker.apply(config)
        # Read for each frame: whether all frames go through labels(), and whether those of a stream with a
        # subscriber of refined masks do.
        self.fuses, self.refines = config.fuses, config.crf.on != "off"
        with self._lock:
            self._config = config
            self._streams = {}

    def needed(self, engine: EngineKey, refined_wanted: bool) -> bool:
        """Whether it needs the pictures of a stream on this engine: for fusion, or for the CRF."""
        return (self.fuses and self._engines[engine].refines) or self.uses_crf(engine, refined_wanted)

    def uses_crf(self, engine: EngineKey, refined_wanted: bool) -> bool:
        """Whether a stream's keyframes go through the CRF: by its level, or for wanted refined masks."""
        return self._engines[engine].refines and (
            self._config.crf_on != "off" or (refined_wanted and self.refines)
        )

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        with self._lock:
            self._streams.pop(stream, None)

    @property
    def pid(self) -> int | None:
        """The CRF's process, None while there is none."""
        return self._worker.pid

    def request_keyframe(self, stream: str) -> None:
        """Refine the next frame of this stream before the interval is over; from any thread."""
        with self._lock:
            known = self._streams.get(stream)
            if known is None:  # its first frame is a keyframe in any case
                return
        known.keyframes.request()

    def labels(
        self,
        logits: Logits,
        size: Size,
        confidence: bool = False,
        view: LabelView | None = None,
        *,
        refined_wanted: bool = False,
    ) -> Labelled:
        """A frame's labels (H, W) of this size; sends the frame to the CRF when it is a keyframe."""
        (labelled,) = self._of(logits).add(logits, size, confidence, view, refined_wanted=refined_wanted)
        return labelled

    def _of(self, logits: Logits) -> StreamRefinement:
        """The memory of a frame's stream, which begins again where its engine is of another kind."""
        name = logits.frame.stream
        with self._lock:
            setup = self._engines[logits.frame.settings.engine].setup
            known = self._streams.get(name)
            if known is None or known.setup != setup or known.label_set != logits.label_set:
                known = StreamRefinement(self._config, setup, self._submit, label_set=logits.label_set)
                self._streams[name] = known
            return known

    def _submit(self, keyframe: Keyframe) -> None:
        self._worker.submit(replace(keyframe, confidence=False))  # revision 1 has none


@dataclass(frozen=True, slots=True)
class _OfEngine:
    """How an engine's frames are refined, if at all: class ids are not."""

    setup: CrfSetup
    refines: bool
