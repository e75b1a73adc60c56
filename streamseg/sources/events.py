"""What a stream's source reports besides its frames: for the log and the counters."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from streamseg.runtime.counters import State
from streamseg.types import Size

Thin = Literal["all", "reference", "intra"]
"""What is decoded: every picture, those that others refer to, or intra frames."""

SkipFrames = Literal["none", "auto", "nonref", "nokey"]
"""The setting skip_frames."""


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
    """Pictures left out because of max_fps or skip_frames. Can happen at every frame: counted, not logged."""

    pictures: int = 1

    def count(self, stats: Counters) -> None:
        stats.drops["skipped"] += self.pictures

    def log(self, log: logging.Logger, stream: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Decoding:
    """What of a source is decoded now, because of max_fps and skip_frames."""

    thin: Thin
    mode: SkipFrames
    max_fps: float | None

    def count(self, stats: Counters) -> None:
        pass

    def log(self, log: logging.Logger, stream: str) -> None:
        why = f'skip_frames = "{self.mode}"'
        if self.mode == "auto":
            why = f"enough for max_fps = {self.max_fps:g}" if self.max_fps else "max_fps is unset"
        match self.thin:
            case "all":
                log.info("%s: decoding all pictures", stream)
            case "reference":
                log.info("%s: only what others refer to is decoded: %s", stream, why)
            case "intra":
                log.info("%s: only intra frames are decoded: %s", stream, why)


@dataclass(frozen=True, slots=True)
class Unskippable:
    """skip_frames asks for what cannot be told, or left out, in this source's codec."""

    url: str
    mode: SkipFrames
    codec: str
    all_intra: bool

    def count(self, stats: Counters) -> None:
        pass

    def log(self, log: logging.Logger, stream: str) -> None:
        why = (
            "has intra frames alone, so max_fps says how many are decoded"
            if self.all_intra
            else 'does not tell which pictures others refer to; use "auto" or "nokey"'
        )
        log.warning(
            '%s: %s: skip_frames = "%s" leaves nothing out: %s %s',
            stream,
            self.url,
            self.mode,
            self.codec,
            why,
        )


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Packets or pictures left out because they were damaged. Can happen often: counted, not logged."""

    pictures: int = 1

    def count(self, stats: Counters) -> None:
        stats.drops["corrupt"] += self.pictures

    def log(self, log: logging.Logger, stream: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Late:
    """Pictures left out to come back to the live edge. Can happen at every frame: counted, not logged."""

    pictures: int = 1

    def count(self, stats: Counters) -> None:
        stats.drops["behind"] += self.pictures

    def log(self, log: logging.Logger, stream: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Thinned:
    """Decoding does not keep up with the source, or does again: what of it is decoded now."""

    thin: Thin

    def count(self, stats: Counters) -> None:
        pass

    def log(self, log: logging.Logger, stream: str) -> None:
        match self.thin:
            case "all":
                log.info("%s: decoding all pictures again", stream)
            case "reference":
                log.warning("%s: decoding does not keep up; only what others refer to is decoded", stream)
            case "intra":
                log.warning("%s: decoding does not keep up; only intra frames are decoded", stream)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A source sends data, but nothing that decoding can begin with."""

    url: str
    since_s: float
    most_s: float

    def _text(self) -> str:
        return (
            f"{self.url}: has sent data but no intra frame for {self.since_s:g} s; "
            f"waiting for one, for {self.most_s:g} s at most"
        )

    def count(self, stats: Counters) -> None:
        if stats.state != "playing":
            stats.error = self._text()

    def log(self, log: logging.Logger, stream: str) -> None:
        log.warning("%s: %s", stream, self._text())


@dataclass(frozen=True, slots=True)
class ClockOff:
    """A camera's clock and the arrival of its pictures disagree by more than they could be under way."""

    url: str
    ahead_s: float

    def count(self, stats: Counters) -> None:
        pass

    def log(self, log: logging.Logger, stream: str) -> None:
        direction = "ahead of" if self.ahead_s > 0 else "behind"
        log.warning(
            "%s: %s: its clock is %.1f s %s this machine's, so ages count from arrival; set its time",
            stream, self.url, abs(self.ahead_s), direction,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Polled:
    """A source gives one picture for each connection, and is asked again every so often."""

    url: str
    every_s: float

    def count(self, stats: Counters) -> None:
        pass

    def log(self, log: logging.Logger, stream: str) -> None:
        log.info("%s: %s: gives one picture at a time; asking every %.3g s", stream, self.url, self.every_s)


SourceEvent = (
    Connected
    | Disconnected
    | Ended
    | Skipped
    | Decoding
    | Unskippable
    | Corrupt
    | Late
    | Thinned
    | Waiting
    | ClockOff
    | Polled
)
