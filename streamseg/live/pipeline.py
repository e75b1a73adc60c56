"""The live route: streams → frame scheduler → infer → fuse → publish, with refine and previews beside it.

decode-<stream> threads own their container; infer owns the engine and batches over streams (with replicas
several threads do, each with its own engine, and results leave in the order in which the frames were taken);
fuse turns logits into labels; refine owns the CRF's process; picture makes JPEGs for subscribers; the
publisher's thread owns its sockets. Frames are dropped in one place only, the frame scheduler, where a live
stream's newest frame replaces the one that waits. Behind it every hand-over is bounded and waits, so the age
of a mask is bounded by the speed of the slowest stage.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Literal

from streamseg.config import Config, StreamConfig
from streamseg.errors import ControlError
from streamseg.inference.backends.protocol import Engine
from streamseg.inference.infer import accepts_device_frames, infer, input_size
from streamseg.inference.placement import FramePlacement
from streamseg.live.streams import Streams
from streamseg.outputs.previews import Previews
from streamseg.publish import Publisher
from streamseg.refinement.live import Refinement
from streamseg.runtime.counters import Stats
from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.runtime.ordered import OrderedWorkers
from streamseg.runtime.scheduler import FrameScheduler
from streamseg.runtime.stage import Stage
from streamseg.sources import is_live
from streamseg.types import U8, Frame, LabelSet, Logits, Mask, Refined, Size


class Pipeline:
    """Runs the stages until every stream has ended, one inside fails, or it is stopped.

    Streams may be added, removed, paused and changed while it runs, from any thread; others do not notice.
    """

    def __init__(self, config: Config, engines: Sequence[Engine], publisher: Publisher) -> None:
        """engines: alike, one for each replica; used by its infer thread alone from start() until it is over.

        They may become others of the same network meanwhile (SwitchEngine): each mask names its own.
        """
        self.stats = Stats()
        self.over = threading.Event()
        self.streams = Streams(self.stats, self._take_in, self._streams_over)
        self._config = config
        self._label_set = engines[0].info.spec.labels
        self._publisher = publisher
        self._board: FrameScheduler[Frame] = FrameScheduler()
        self._turnstile = OrderedWorkers()  # between the replicas and _scores
        self._scores: Mailbox[Logits] = Mailbox(2)
        self._failures: list[BaseException] = []  # of stages, first cause first; list.append is whole
        self._putting = threading.Lock()  # guards that no mask of a stream is put after it was forgotten
        self.refinement = Refinement(
            config,
            engines[0].info.spec,
            self.stats,
            wants_refined=lambda stream: publisher.wants("refined", stream),
            on_refined=self._put_refined,
        )
        self._placement = FramePlacement(engines[0], self.refinement.wanted)
        self._pictures = Previews(lambda stream: publisher.wants("picture", stream), publisher.put)
        self._stages = [
            Stage("picture", self._pictures.run, self._stage_ended),
            Stage("refine", self.refinement.run, self._stage_ended),
            *(
                Stage(
                    "infer" if len(engines) == 1 else f"infer-{i}",
                    partial(self._infer, engine),
                    self._stage_ended,
                )
                for i, engine in enumerate(engines)
            ),
            Stage("fuse", self._fuse, self._stage_ended),
        ]

    @property
    def label_set(self) -> LabelSet:
        """The classes of all masks."""
        return self._label_set

    @property
    def errors(self) -> list[BaseException]:
        """What ended it, first cause first; streams that could not be had come last."""
        return [*self._failures, *self.streams.failures.values()]

    def start(self) -> None:
        for stage in self._stages:
            stage.start()
        self.streams.add(self._config.streams)

    def stop(self, timeout_s: float = 3.0) -> bool:
        """End every stage, leaving out what is still on its way; True when all threads ended in time."""
        self.streams.stop()
        self._board.close()
        self._turnstile.close()
        self._scores.close(discard=True)
        self._pictures.close()
        self.refinement.close()
        deadline_s = time.monotonic() + timeout_s
        for stage in self._stages:
            if stage.is_alive():
                stage.join(max(0.0, deadline_s - time.monotonic()))
        return self.streams.join(deadline_s) and not any(stage.is_alive() for stage in self._stages)

    def remove(self, name: str) -> None:
        """End a stream and forget it, but for its n and epoch, which go on if it comes again.

        Raises ControlError.
        """
        with self._putting:
            self.streams.remove(name)
            with contextlib.suppress(Closed):
                self._publisher.forget(name)
        self._board.forget(name)
        self._pictures.forget(name)
        self.refinement.forget(name)
        self._placement.forget(name)

    def request_keyframe(self, name: str) -> None:
        """Send a stream's next frame to the CRF; raises ControlError where nobody would have the result."""
        if name not in self.streams:
            raise ControlError("unknown stream", f"{name}: there is no such stream")
        if not self.refinement.wanted(name):
            raise ControlError(
                "bad state", f"{name}: nobody subscribes to its refined masks, and fusion.enabled is off"
            )
        self.refinement.request_keyframe(name)

    def _take_in(self, frame: Frame, config: StreamConfig) -> None:
        """Leave a frame for the network; called in its stream's thread."""
        self._placement.apply(frame, config)
        if not is_live(config):
            self._board.put(frame)
        elif self._board.replace(frame) is not None:
            self.stats.of(frame.stream).drops["slow engine"] += 1

    def _infer(self, engine: Engine) -> None:
        while True:
            ticket, frames = self._turnstile.take(partial(self._take, engine))
            made = infer(engine, frames) if frames else []
            with self._turnstile.leaving(ticket):
                for scores in made:
                    self._scores.put(scores)

    def _take(self, engine: Engine) -> list[Frame]:
        """Wait for frames of one input size, and leave out those that are not to go on."""
        taken = self._board.take(
            self._config.engine.max_batch,
            alike=lambda frame: (input_size(engine, frame.size), accepts_device_frames(engine, frame)),
        )
        return [frame for frame in taken if self._goes_on(frame)]

    def _fuse(self) -> None:
        while True:
            scores = self._scores.get()
            if scores.frame.stream not in self.streams:
                continue
            mask = self._mask(scores)
            if self._goes_on(scores.frame) and self._put(mask):
                stats = self.stats.of(mask.stream)
                stats.record(mask.stage_us, age_ns(scores.frame) // 1000)
                stats.published += 1
                self._pictures.offer(scores.frame)

    def _put_refined(self, refined: Refined) -> None:
        self._put(self._refined_mask(refined))

    def _put(self, mask: Mask) -> bool:
        """Leave a mask with the publisher; False when its stream has been removed."""
        with self._putting:
            if mask.stream not in self.streams:
                return False
            self._publisher.put(mask)
            return True

    def _goes_on(self, frame: Frame) -> bool:
        """Whether a frame's stream is still there, and it is not too old, which is counted."""
        config = self.streams.config_of(frame.stream)
        if config is None:
            self._board.forget(frame.stream)
            return False
        limit_ms = config.max_age_ms
        if limit_ms is None or age_ns(frame) <= limit_ms * 1e6:
            return True
        self.stats.of(frame.stream).drops["stale"] += 1
        return False

    def _mask(self, scores: Logits) -> Mask:
        begun = time.monotonic_ns()
        frame = scores.frame
        size = self._mask_size(scores)
        wants_confidence = self._publisher.wants("mask+confidence", frame.stream)
        labels, confidence, refined_seq = self.refinement.labels(scores, size, wants_confidence)
        stage_us = {**scores.stage_us, "fuse": (time.monotonic_ns() - begun) // 1000}
        return self._mask_of(scores, labels, stage_us, refined_seq=refined_seq, confidence=confidence)

    def _refined_mask(self, refined: Refined) -> Mask:
        """Revision 1 of a keyframe's mask; called in the refine stage."""
        assert refined.labels is not None
        scores = refined.scores
        stage_us = {**scores.stage_us, "refine": round(refined.took_s * 1e6)}
        return self._mask_of(scores, refined.labels, stage_us, revision=1, refined_seq=scores.frame.seq)

    def _mask_size(self, scores: Logits) -> Size:
        config = self.streams.config_of(scores.frame.stream)
        whole = config is None or config.mask_size == "frame"
        return scores.frame.size if whole else scores.geometry.input_size

    def _mask_of(
        self,
        scores: Logits,
        labels: U8,
        stage_us: dict[str, int],
        *,
        revision: Literal[0, 1] = 0,
        refined_seq: int | None = None,
        confidence: U8 | None = None,
    ) -> Mask:
        return Mask(
            scores.frame.stamp,
            labels,
            self.label_set.id,
            scores.engine,
            revision,
            refined_seq,
            confidence,
            stage_us,
        )

    def _streams_over(self) -> None:
        self._board.close()  # what lies there still goes through

    def _stage_ended(self, stage: Stage) -> None:
        """infer → fuse → over: each closes what the next one reads, and what it reads itself."""
        if stage.error is not None:
            self._failures.append(stage.error)
            self.streams.stop()
        self._board.close()
        self._turnstile.close()
        self._scores.close()
        if stage.name == "fuse":
            self._pictures.close()
            self.refinement.close()
            self.over.set()


def age_ns(frame: Frame) -> int:
    """Time since a frame was captured; where that means its arrival here, setting the clock does no harm."""
    if frame.clock == "arrival":
        return time.monotonic_ns() - frame.decoded_ns
    return time.time_ns() - frame.captured_unix_ns
