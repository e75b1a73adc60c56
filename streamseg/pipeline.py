"""The live route, written once: sources → board → infer → fuse → publish, with refine and pictures beside it.

decode-<stream> threads own their container; infer owns the engine and batches over streams; fuse turns logits
into labels; refine owns the CRF's process; picture makes JPEGs for those who look; the publisher's thread
owns its sockets. Frames are dropped in one place only, the board, where a live stream's newest frame replaces
the one that waits. Behind it every hand-over is bounded and waits, so the age of a mask is bounded by the
speed of the slowest stage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from streamseg.board import Board
from streamseg.config import Config, StreamConfig
from streamseg.engine import Engine
from streamseg.infer import infer, input_size
from streamseg.mailbox import Mailbox
from streamseg.pictures import Pictures
from streamseg.player import frames
from streamseg.publish import Publisher
from streamseg.refinement import Refinement
from streamseg.sources import SourceEvent, is_live
from streamseg.stage import Stage
from streamseg.stats import Stats
from streamseg.types import U8, Frame, Mask, Refined, Scores, Size

log = logging.getLogger(__name__)


class Pipeline:
    """Runs the stages until every stream has ended, one inside fails, or it is stopped."""

    def __init__(self, config: Config, engine: Engine, publisher: Publisher) -> None:
        """The engine is used by the infer thread alone from start() until the pipeline is over."""
        self.stats = Stats()
        self.over = threading.Event()
        self.errors: list[BaseException] = []  # what ended it, first cause first
        self._config = config
        self._engine = engine
        self._publisher = publisher
        self._board: Board[Frame] = Board()
        self._scores: Mailbox[Scores] = Mailbox(2)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards _decoding, _running and errors
        self._decoding: dict[str, Stage] = {}
        self._running = set(config.streams)  # streams that have not ended
        self.refinement = Refinement(
            config,
            engine.info.spec,
            self.stats,
            wants_refined=lambda stream: publisher.wants("refined", stream),
            on_refined=lambda refined: publisher.put(self._refined_mask(refined)),
        )
        self._pictures = Pictures(lambda stream: publisher.wants("picture", stream), publisher.put)
        self._stages = [
            Stage("picture", self._pictures.run, self._stage_ended),
            Stage("refine", self.refinement.run, self._stage_ended),
            Stage("infer", self._infer, self._stage_ended),
            Stage("fuse", self._fuse, self._stage_ended),
        ]

    def start(self) -> None:
        for stage in self._stages:
            stage.start()
        with self._lock:
            for name, stream in self._config.streams.items():
                self._decoding[name] = Stage(
                    f"decode-{name}", self._decoder(name, stream), self._stream_ended
                )
            stages = list(self._decoding.values())
        for stage in stages:
            stage.start()

    def stop(self, timeout_s: float = 3.0) -> bool:
        """End every stage, leaving out what is still on its way; True when all threads ended in time."""
        self._stop.set()
        self._board.close()
        self._scores.close(discard=True)
        self._pictures.close()
        self.refinement.close()
        deadline = time.monotonic() + timeout_s
        with self._lock:
            stages = [*self._decoding.values(), *self._stages]
        for stage in stages:
            if stage.is_alive():
                stage.join(max(0.0, deadline - time.monotonic()))
        return not any(stage.is_alive() for stage in stages)

    def _decoder(self, name: str, stream: StreamConfig) -> Callable[[], None]:
        stats = self.stats.of(name)
        live = is_live(stream)

        def on_event(event: SourceEvent) -> None:
            event.count(stats)
            event.log(log, name)

        def work() -> None:
            for frame in frames(stream, name, self._stop, on_event):
                stats.decoded += 1
                stats.last_capture_unix_ns = frame.captured_unix_ns
                if not live:
                    self._board.put(frame)
                elif self._board.put_newest(frame) is not None:
                    stats.drops["slow engine"] += 1

        return work

    def _infer(self) -> None:
        engine = self._engine
        while True:
            taken = self._board.take(
                self._config.engine.max_batch, alike=lambda frame: input_size(engine, frame.size)
            )
            fresh = [frame for frame in taken if not self._stale(frame)]
            if fresh:
                for scores in infer(engine, fresh):
                    self._scores.put(scores)

    def _fuse(self) -> None:
        while True:
            mask = self._mask(scores := self._scores.get())
            if not self._stale(scores.frame):
                stats = self.stats.of(mask.stream)
                stats.record(mask.stage_us)
                stats.published += 1
                self._publisher.put(mask)
                self._pictures.offer(scores.frame)

    def _stale(self, frame: Frame) -> bool:
        """Whether a frame has grown too old to be published; it is counted then."""
        limit_ms = self._config.streams[frame.stream].max_age_ms
        if limit_ms is None or time.time_ns() - frame.captured_unix_ns <= limit_ms * 1e6:
            return False
        self.stats.of(frame.stream).drops["stale"] += 1
        return True

    def _mask(self, scores: Scores) -> Mask:
        begun = time.monotonic_ns()
        frame = scores.frame
        size = self._mask_size(scores)
        wants_confidence = self._publisher.wants("mask+confidence", frame.stream)
        labels, confidence, refined_seq = self.refinement.labels(scores, size, wants_confidence)
        stage_us = {**scores.stage_us, "fuse": (time.monotonic_ns() - begun) // 1000}
        return self._mask_of(frame, labels, stage_us, refined_seq=refined_seq, confidence=confidence)

    def _refined_mask(self, refined: Refined) -> Mask:
        """Revision 1 of a keyframe's mask; called in the refine stage."""
        assert refined.labels is not None
        scores = refined.scores
        stage_us = {**scores.stage_us, "refine": round(refined.took_s * 1e6)}
        return self._mask_of(scores.frame, refined.labels, stage_us, revision=1, refined_seq=scores.frame.seq)

    def _mask_size(self, scores: Scores) -> Size:
        whole = self._config.streams[scores.frame.stream].mask_size == "frame"
        return scores.frame.size if whole else scores.geometry.input_size

    def _mask_of(
        self,
        frame: Frame,
        labels: U8,
        stage_us: dict[str, int],
        *,
        revision: Literal[0, 1] = 0,
        refined_seq: int | None = None,
        confidence: U8 | None = None,
    ) -> Mask:
        info = self._engine.info
        return Mask(
            stream=frame.stream,
            epoch=frame.epoch,
            seq=frame.seq,
            n=0,  # counted by the publisher
            revision=revision,
            refined_seq=refined_seq,
            pts=frame.pts,
            time_base=frame.time_base,
            captured_unix_ns=frame.captured_unix_ns,
            clock=frame.clock,
            labels=labels,
            label_set=info.spec.label_set,
            engine=info.id,
            confidence=confidence,
            stage_us=stage_us,
        )

    def _stream_ended(self, stage: Stage) -> None:
        """A stream is over: by itself (a file), or because its source cannot be had."""
        name = stage.name.removeprefix("decode-")
        with self._lock:
            self._running.discard(name)
            last = not self._running
            if stage.error is not None:
                self.errors.append(stage.error)
        if stage.error is not None:
            self.stats.of(name).error = str(stage.error)
            if not last:  # else it is what the daemon ends with, and says
                log.error("%s: %s", name, stage.error)
        if last:
            self._board.close()  # what lies there still goes through

    def _stage_ended(self, stage: Stage) -> None:
        """infer → fuse → over: each closes what the next one reads, and what it reads itself."""
        if stage.error is not None:
            with self._lock:
                self.errors.append(stage.error)
            self._stop.set()
        self._board.close()
        self._scores.close()
        if stage.name == "fuse":
            self._pictures.close()
            self.refinement.close()
            self.over.set()
