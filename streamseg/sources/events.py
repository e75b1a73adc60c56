"""What a stream's source reports besides its frames: for the log and the counters."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from streamseg.runtime.counters import State
from streamseg.types import Size


class Counters(Protocol):
    """The numbers of a stream that events change; streamseg.runtime.counters.StreamStats has them."""

    connects: int
    drops: Counter[str]
    state: State
    error: str
    size: Size | None
    source_fps: float | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Connected:
    """The source is open and its first picture decoded."""

    url: str  # without passwords, as in all events
    size: Size
    fps: Fraction | None
    codec: str
    live: bool
    epoch: int

    def count(self, stats: Counters) -> None:
        stats.connects += 1
        stats.state, stats.error = "playing", ""
        stats.size, stats.source_fps = self.size, float(self.fps) if self.fps else None
        stats.epoch = self.epoch

    def log(self, log: logging.Logger, stream: str) -> None:
        height, width = self.size
        rate = f" at {float(self.fps):.4g} fps" if self.fps else ""
        log.info("%s: decoding %s, %dx%d%s, %s", stream, self.url, width, height, rate, self.codec)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A live source could not be opened, ended or went silent; it is tried again after retry_in_s."""

    reason: str
    retry_in_s: float

    def count(self, stats: Counters) -> None:
        stats.drops["disconnected"] += 1
        stats.state, stats.error = "reconnecting", self.reason

    def log(self, log: logging.Logger, stream: str) -> None:
        log.warning("%s: %s; trying again in %.1f s", stream, self.reason, self.retry_in_s)


@dataclass(frozen=True, slots=True)
class Ended:
    """A file was played to its end; damage says in one line what was missing in it, if anything was."""

    damage: str | None

    def count(self, stats: Counters) -> None:
        if self.damage:
            stats.error = self.damage

    def log(self, log: logging.Logger, stream: str) -> None:
        if self.damage:
            log.warning("%s: %s", stream, self.damage)
        else:
            log.info("%s: the file has ended", stream)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Pictures left out because of max_fps. Can happen at every frame: counted, not logged."""

    pictures: int = 1

    def count(self, stats: Counters) -> None:
        stats.drops["skipped"] += self.pictures

    def log(self, log: logging.Logger, stream: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Packets or pictures left out because they were damaged. Can happen often: counted, not logged."""

    pictures: int = 1

    def count(self, stats: Counters) -> None:
        stats.drops["corrupt"] += self.pictures

    def log(self, log: logging.Logger, stream: str) -> None:
        pass


SourceEvent = Connected | Disconnected | Ended | Skipped | Corrupt
