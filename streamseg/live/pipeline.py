"""The live route: streams → frame scheduler → infer → fuse → publish; the CRF, previews, answers beside it.

decode-<stream> threads own their container; each engine has an infer thread, which owns it and batches over
its streams (with replicas there are several, each with its own, and logits leave in the order in which frames
were taken); fuse turns logits into labels; refine owns the CRF's process; preview makes JPEGs for
subscribers; answers counts masks for them and for events; the publisher's thread owns its sockets. Frames are
dropped in one place only, the frame scheduler, where a live stream's newest frame replaces the one that
waits. Behind it every mailbox is bounded and waits, so the age of a mask is bounded by the speed of the
slowest stage.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from streamseg.analytics.stage import Answers, Sink
from streamseg.config import Config
from streamseg.errors import ControlError
from streamseg.inference.engine import Engine
from streamseg.inference.infer import FramePlacement, batch_key, infer, input_size
from streamseg.inference.label_view import LabelView, LabelViews
from streamseg.inference.scaling import labels_of, mask_size_of
from streamseg.live.detail import Details
from streamseg.live.engines import LiveEngines, ServedEngine
from streamseg.live.gate import Gate, Unchanged
from streamseg.live.pictures import STREAM as PICTURE
from streamseg.live.pictures import Pictures
from streamseg.live.stream import EngineOf
from streamseg.live.streams import Streams
from streamseg.outputs.previews import Previews, preview_size
from streamseg.publish import Publisher
from streamseg.refinement.streams import LiveRefinement
from streamseg.runtime.counters import Stats
from streamseg.runtime.mailbox import Closed, Ended, FrameScheduler, Mailbox
from streamseg.runtime.stage import Stage
from streamseg.types import NO_CLASSES, Frame, FrameSettings, LabelSet, Logits, Mask, Size
from streamseg.wire.codec import may_be_sent


class Pipeline:
    """Runs the stages until every stream has ended, a stage fails, or it is stopped.

    Streams may be added, removed, paused and changed while it runs, from any thread; others do not notice.
    """

    def __init__(
        self, config: Config, publisher: Publisher, engine_of: EngineOf, sinks: Sequence[Sink] = ()
    ) -> None:
        """engine_of: the key of the engine that a stream's setting names, of those in `engines`.

        sinks: what looks at the counts of streams with events.
        """
        self.stats = Stats()
        self.over = threading.Event()
        self.answers = Answers(publisher.wants, publisher.put, sinks)
        self.streams = Streams(
            self.stats, self._submit, self._streams_ended, self.answers.changed, engine_of, self._needed
        )
        self.details = Details(self.streams.configs)
        self._config = config
        self._publisher = publisher
        self._views = LabelViews()
        self._scheduler: FrameScheduler[Frame] = FrameScheduler(lambda frame: frame.settings.engine)
        self.engines = LiveEngines(self._scheduler, self._infer, self._engine_failed, self._engines_ended)
        self.failed_engine = ""  # the id of the one that ended it, if one did
        self._logits: Mailbox[Logits | Unchanged] = Mailbox(2)
        self._failures: list[BaseException] = []  # of stages, first cause first; list.append is atomic
        self._putting = threading.Lock()  # guards that no mask of a stream is put after it was forgotten
        self.refinement = LiveRefinement(config.refinement, self.stats)
        self.gate = Gate(self._logits.put, self._replaced, publisher.wants, self._uses_crf)
        self._held: dict[str, tuple[Mask, LabelSet]] = {}  # the last of gated streams; changed in _putting
        self._placement = FramePlacement(self.engines.of, self._needs_refinement)
        self._previews = Previews(publisher.put)
        self.pictures = Pictures(self._scheduler.replace, self._scheduler.forget, self.engines.main)
        self._stages = [
            Stage("preview", self._previews.run, self._stage_ended),
            Stage("answers", self.answers.run, self._stage_ended),
            Stage("refine", self._refine, self._stage_ended),
            Stage("fuse", self._fuse, self._stage_ended),
        ]

    @property
    def errors(self) -> list[BaseException]:
        """What ended it, first cause first; sources that failed come last."""
        return [*self._failures, *self.streams.failures.values()]

    def start(self) -> None:
        for stage in self._stages:
            stage.start()
        self.streams.add(self._config.streams)

    def stop(self, timeout_s: float = 3.0) -> bool:
        """End every stage, dropping the frames on their way; True when all threads ended in time."""
        self.streams.stop()
        self._scheduler.close(discard=True)
        self.engines.stop()
        self._logits.close(discard=True)
        self._previews.close()
        self.answers.close()
        self.refinement.close()
        self.details.close()
        deadline_s = time.monotonic() + timeout_s
        stages = [*self.engines.stages(), *self._stages]
        for stage in stages:
            if stage.is_alive():
                stage.join(max(0.0, deadline_s - time.monotonic()))
        joined = self.streams.join(deadline_s) and self.details.join(deadline_s)
        return joined and not any(stage.is_alive() for stage in stages)

    def prepare(self, served: ServedEngine) -> None:
        """Learn what is needed of an engine before it serves; raises ConfigError."""
        self.refinement.serve(served.key, served.first.info.spec)

    def remove(self, name: str) -> None:
        """End a stream and forget it, except n and epoch, which go on later; raises ControlError."""
        with self._putting:
            self.streams.remove(name)
            self._held.pop(name, None)
            with contextlib.suppress(Closed):
                self._publisher.forget(name)
        self._scheduler.forget(name)
        self.gate.forget(name)
        self._previews.forget(name)
        self.refinement.forget(name)
        self._placement.forget(name)
        self.details.forget(name)

    def request_keyframe(self, name: str) -> None:
        """Send a stream's next frame to the CRF; raises ControlError where nothing would use the result."""
        if name not in self.streams:
            raise ControlError("unknown stream", f"{name}: unknown stream")
        engine = self.streams.settings(name).engine
        if not self.refinement.uses_crf(engine, self._publisher.wants("refined", name)):
            raise ControlError(
                "bad state",
                f"{name}: its frames do not go through the CRF: no one subscribes to its refined masks, and "
                "refinement.level is off, or refinement.crf.on is",
            )
        self.refinement.request_keyframe(name)
        self.gate.must_look(name)

    def _submit(self, frame: Frame) -> None:
        """Leave a frame for the network; called in its stream's thread."""
        self._placement.apply(frame)
        if frame.settings.gate != "none" and self._passes_gate(frame):
            return
        try:
            if not frame.settings.live:
                self._scheduler.put(frame)
            elif self._scheduler.replace(frame) is not None:
                self._replaced(frame)
        except Ended:  # its stream has another engine since it was decoded
            with contextlib.suppress(ControlError):  # removed
                self._submit(replace(frame, settings=self.streams.settings(frame.stream)))

    def _replaced(self, by: Frame) -> None:
        self.stats.of(by.stream).drops["slow engine"] += 1

    def _passes_gate(self, frame: Frame) -> bool:
        engine = self.engines.of(frame.settings.engine)
        return engine is not None and self.gate.passes(frame, input_size(engine, frame.size))

    def _infer(self, served: ServedEngine, engine: Engine) -> None:
        while True:
            ticket, (frames, taken) = served.workers.take(partial(self._take, served, engine))
            logits = infer(engine, frames) if frames else []
            with served.workers.leaving(ticket):
                for one in logits:
                    self._logits.put(one)
                    if one.frame.settings.gate != "none":
                        self.gate.answered(one.frame)
                self._scheduler.left(taken)

    def _needed(self, stream: str, settings: FrameSettings, size: Size) -> Size | None:
        """The least size of which a stream's picture is wanted now: by its network, and for previews."""
        engine = self.engines.of(settings.engine)
        if engine is None:
            return None
        seen = input_size(engine, size)
        shown = preview_size(size) if self._publisher.wants("picture", stream) else seen
        return max(seen[0], shown[0]), max(seen[1], shown[1])

    def _take(self, served: ServedEngine, engine: Engine) -> tuple[list[Frame], list[Frame]]:
        """Wait for frames that make one batch; and those with them that are too old now."""
        taken = self._scheduler.take(served.max_batch, partial(batch_key, engine), served.key)
        frames = [frame for frame in taken if self._still_wanted(frame)]
        for frame in taken:
            if frame.settings.gate != "none":
                self.gate.taken(frame, dropped=frame not in frames)
        return frames, taken

    def _fuse(self) -> None:
        while True:
            made = self._logits.get()
            frame = made.frame
            if isinstance(made, Unchanged):
                held, classes = self._held.get(frame.stream, (None, NO_CLASSES))
                if held is not None and made.holds(held):
                    self._publish(made.mask(held), classes, frame)
            elif frame.stream == PICTURE:
                self.pictures.answer(made)
            elif not frame.settings.removed.is_set():
                view, classes = self._view(made)
                self._publish(self._mask(made, view, classes), classes, frame)

    def _publish(self, mask: Mask, classes: LabelSet, frame: Frame) -> None:
        """Leave a frame's mask for subscribers and for those that count; a frame's preview with it."""
        if frame.settings.gate != "none" and mask.same_as is None:
            with self._putting:  # even if it is too old to be published itself
                if not frame.settings.removed.is_set():
                    self._held[frame.stream] = mask, classes
        if not self._still_wanted(frame) or not self._put(mask, classes, frame):
            return
        stats = self.stats.of(frame.stream)
        if not may_be_sent(mask.size):  # the publisher says so, once
            stats.drops["too large"] += 1
            return
        stats.record(mask.stage_us, age_ns(frame) // 1000)
        stats.published += 1
        stats.unchanged += mask.same_as is not None
        if self._publisher.wants("picture", frame.stream):
            self._previews.offer(frame)
        if self._is_asked_about(frame):
            self.answers.offer(mask, classes, frame.settings)

    def _view(self, logits: Logits) -> tuple[LabelView | None, LabelSet]:
        """How a frame's labels are published, and their classes; its settings were checked for its engine."""
        labels = logits.frame.settings.labels
        if labels is None:
            return None, logits.label_set
        view = self._views.of(logits.label_set, labels)
        return view, view.label_set

    def _mask(self, logits: Logits, view: LabelView | None, classes: LabelSet) -> Mask:
        begun = time.monotonic_ns()
        frame = logits.frame
        size = mask_size_of(frame.settings.mask_size, frame.size, logits.geometry.input_size)
        confident = self._publisher.wants("mask+confidence", frame.stream)
        refined = self._publisher.wants("refined", frame.stream)
        if frame.settings.gate != "none" and self.gate.is_keyframe(frame):
            self.refinement.request_keyframe(frame.stream)
        refined_seq = None
        if self.refinement.fuses or (refined and self.refinement.refines):
            labelled = self.refinement.labels(logits, size, confident, view, refined_wanted=refined)
            labels, confidence, refined_seq = labelled.labels, labelled.confidence, labelled.refined_seq
        else:
            labels, confidence = labels_of(logits, size, confident, view)
        stage_us = logits.stage_us | {"fuse": (time.monotonic_ns() - begun) // 1000}
        return Mask(
            frame.stamp,
            labels,
            classes.id,
            logits.engine,
            refined_seq=refined_seq,
            confidence=confidence,
            stage_us=stage_us,
        )

    def _refine(self) -> None:
        """Publish revision 1 of keyframes' masks."""
        with contextlib.closing(self.refinement.refined()) as answers:
            for refined in answers:
                if refined.labels is None:
                    continue
                logits = refined.logits
                frame = logits.frame
                stage_us = logits.stage_us | {"refine": round(refined.took_s * 1e6)}
                labels, (_, classes) = refined.labels, self._view(logits)
                mask = Mask(frame.stamp, labels, classes.id, logits.engine, 1, frame.seq, stage_us=stage_us)
                self._put(mask, classes, frame)

    def _needs_refinement(self, frame: Frame) -> bool:
        return self.refinement.needed(frame.settings.engine, self._publisher.wants("refined", frame.stream))

    def _uses_crf(self, frame: Frame) -> bool:
        return self.refinement.uses_crf(frame.settings.engine, self._publisher.wants("refined", frame.stream))

    def _put(self, mask: Mask, labels: LabelSet, frame: Frame) -> bool:
        """Leave a frame's mask, and its classes where they are new; False when its stream was removed."""
        with self._putting:
            if frame.settings.removed.is_set():
                return False
            self._publisher.add_label_set(labels)
            self._publisher.put(mask)
            return True

    def _is_asked_about(self, frame: Frame) -> bool:
        """Whether what is in the frame's mask is counted: for events, for subscribers, or for the status."""
        settings, stream, wants = frame.settings, frame.stream, self._publisher.wants
        return (
            bool(settings.events)
            or wants("zones", stream)
            or wants("polygons", stream)
            or (bool(settings.zones) and self.answers.is_due(stream))
        )

    def _still_wanted(self, frame: Frame) -> bool:
        """Whether a frame's stream was not removed, and it is not too old, which is counted."""
        if frame.settings.removed.is_set():
            if frame.stream not in self.streams:  # it came just after remove() had called this
                self._scheduler.forget(frame.stream)
            return False
        limit_ms = frame.settings.max_age_ms
        if limit_ms is None or age_ns(frame) <= limit_ms * 1e6:
            return True
        self.stats.of(frame.stream).drops["stale"] += 1
        return False

    def _streams_ended(self) -> None:
        self._scheduler.close()  # the frames in it are still taken

    def _engines_ended(self) -> None:
        self._logits.close()

    def _engine_failed(self, served: ServedEngine, error: BaseException) -> None:
        self.failed_engine = self.failed_engine or served.first.info.id
        self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._failures.append(error)
        self.streams.stop()
        self._scheduler.close(discard=True)
        self.engines.stop()
        self._logits.close()

    def _stage_ended(self, stage: Stage) -> None:
        """infer → fuse → over: each closes what the next one reads, and what it reads itself."""
        if stage.error is not None:
            self._failed(stage.error)
        self._scheduler.close()
        self.engines.stop()
        self._logits.close()
        if stage.name == "fuse":
            self._previews.close()
            self.pictures.close()
            self.answers.close()
            self.refinement.close()
            self.over.set()


def age_ns(frame: Frame) -> int:
    """Time since a frame was captured; by the monotonic clock where that is when it arrived."""
    if frame.clock == "arrival":
        return time.monotonic_ns() - (frame.decoded_ns if frame.arrived_ns is None else frame.arrived_ns)
    return time.time_ns() - frame.captured_unix_ns
