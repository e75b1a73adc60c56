"""One live stream: its settings, what it is at, and what its frames refer to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

from streamseg.config import LabelsConfig, StreamConfig
from streamseg.errors import SourceError
from streamseg.runtime.counters import StreamStats
from streamseg.sources import is_live
from streamseg.sources.live import Thinning
from streamseg.types import EngineKey, Frame, FrameSettings, Size

log = logging.getLogger(__name__)

LIVE_SETTINGS = frozenset(
    (
        "max_fps", "skip_frames", "max_age_ms", "mask_size", "engine", "labels", "zones", "events",
        "gate", "gate_min_s", "gate_max_s", "detail_source",
    )
)  # fmt: skip
"""Taken by the next frame; for others the source is reopened."""


EngineOf = Callable[[str], tuple[EngineKey, LabelsConfig]]
"""The engine that serves for a stream's setting `engine`, and how its labels are published."""

NeededOf = Callable[[str, FrameSettings, Size], Size | None]
"""The least size of which a stream's picture of a size is wanted now; None: the whole."""


@dataclass(slots=True, eq=False)
class Playback:
    """One decode thread of a stream, from when its source is opened until it ends or is reopened."""

    stop: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(
        default_factory=threading.Event
    )  # cleared: a paused file holds its place

    def end(self) -> None:
        self.stop.set()
        self.running.set()


@dataclass(slots=True, eq=False)
class LiveStream:
    """A stream, which Streams guards."""

    name: str
    config: StreamConfig
    settings: FrameSettings  # replaced as a whole, so its decode thread reads it without the lock
    stats: StreamStats
    paused: bool = False
    ended: bool = False  # by itself: its file came to its end, or its source failed
    playback: Playback = field(default_factory=Playback)
    followers: tuple[LiveStream, ...] = ()  # that take its frames; replaced as a whole
    # Of a stream that takes another one's frames; read and written in the thread that decodes them.
    ahead: int | None = None  # by how much its epochs are; None before its first frame
    thinning: Thinning = field(default_factory=lambda: Thinning(None))

    def count(self, frame: Frame) -> None:
        """Count a frame that was decoded for this stream."""
        self.stats.epoch = frame.epoch
        self.stats.decoded += 1

    def needed(self, of: NeededOf, size: Size) -> Size | None:
        """The least size of a picture that is enough for this stream and those that take its frames."""
        most = (0, 0)
        for one in (self, *self.followers):
            needed = of(one.name, one.settings, size)
            if needed is None:
                return None
            most = max(most[0], needed[0]), max(most[1], needed[1])
        return most

    def follow(self, leader: LiveStream) -> None:
        """Begin to take another stream's frames."""
        self.ended, self.stats.state, self.stats.error = leader.ended, leader.stats.state, ""
        self.stats.size, self.stats.source_fps = leader.stats.size, leader.stats.source_fps
        self.ahead = None
        log.info("%s: takes the decoded frames of %s", self.name, leader.name)

    def taken(self, frame: Frame, next_epoch: int) -> Frame | None:
        """A frame of the stream that it follows as its own, the picture not copied; None for one too many.

        next_epoch: the first one that it has not had, below which its first frame's is not.
        """
        if self.ahead is None:
            self.ahead = max(0, next_epoch - frame.epoch)
            self.thinning = Thinning(None)
        self.thinning.take(self.config.max_fps)
        stats, epoch = self.stats, frame.epoch + self.ahead
        stats.epoch = epoch
        live_s, media_s = frame.captured_unix_ns / 1e9, (frame.pts_ns or 0) / 1e9
        if not self.thinning.takes(live_s if frame.settings.live else media_s):
            stats.drops["skipped"] += 1
            return None
        stats.decoded += 1
        return replace(frame.stamped(stream=self.name, epoch=epoch), settings=self.settings)

    def settings_for(
        self, source: StreamConfig, engine: EngineKey, engine_labels: LabelsConfig
    ) -> FrameSettings:
        """What its frames refer to by its config; source: the settings of the stream that decodes them."""
        config = self.config
        try:
            live = is_live(source)
        except SourceError:  # an address that cannot work: the stream's own thread reports it
            live = True
        return FrameSettings(
            live,
            config.max_age_ms,
            config.mask_size
            if isinstance(config.mask_size, str)
            else (config.mask_size[0], config.mask_size[1]),
            source.hwaccel,
            config.zones,
            config.events,
            engine,
            self.settings.removed,
            config.labels.over(engine_labels).or_none(),
            config.gate if live else "none",
            config.gate_min_s,
            config.gate_max_s,
        )

    def has(self, settings: FrameSettings) -> bool:
        return all(
            getattr(self.settings, one.name) == getattr(settings, one.name) for one in fields(settings)
        )
