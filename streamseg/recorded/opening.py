"""What an input is, and opening it: a file, an address of a file, or a sequence of images."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from streamseg.config import StreamConfig
from streamseg.inference.engine import Engine
from streamseg.inference.spec import EngineSpec
from streamseg.recorded.images import open_images
from streamseg.recorded.inputs import Input
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import Timeline
from streamseg.sources import OpenSource, open_source
from streamseg.types import Size


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a file when it was opened."""

    container: str
    codec: str
    pixel_format: str
    track: int
    size: Size  # of the first picture, upright
    fps: Fraction | None
    time_base: Fraction
    frames_hint: int | None
    duration_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One input, what it is, and what makes its masks. The steps of its route share it."""

    input: Input
    facts: Facts
    config: ProcessConfig
    engines: Sequence[Engine]  # equal ones; each is used by one thread
    stop: threading.Event

    @property
    def spec(self) -> EngineSpec:
        return self.engines[0].info.spec

    @property
    def mask_size(self) -> Size:
        """(height, width) of every mask."""
        height, width = self.facts.size
        return max(1, round(height * self.config.scale)), max(1, round(width * self.config.scale))

    @property
    def rate(self) -> Fraction:
        """Frames a second; 25 where the container does not say."""
        return self.facts.fps or Fraction(25)

    @property
    def tick(self) -> Fraction:
        """Seconds in a tick of the result videos."""
        return Fraction(1, self.facts.time_base.denominator)

    def timeline(self) -> Timeline:
        """Time stamps as the result videos have them, from the first frame on."""
        return Timeline(self.facts.time_base, self.facts.fps)

    def open(self) -> AbstractContextManager[OpenSource]:
        """The input from its beginning; see open_input."""
        return open_input(self.input, self.config, self.stop)


def probe(
    one: Input, config: ProcessConfig, engines: Sequence[Engine], stop: threading.Event | None = None
) -> Recording:
    """Open an input once to see what it is, and that it can be read. Raises SourceError."""
    stop = stop if stop is not None else threading.Event()
    with open_input(one, config, stop) as source:
        return Recording(one, _facts_of(source), config, engines, stop)


def _facts_of(source: OpenSource) -> Facts:
    video = source.video
    assert video.time_base is not None, "an opened video has a time base"
    return Facts(
        container=source.container.format.name,
        codec=source.codec,
        pixel_format=video.codec_context.pix_fmt or "",
        track=video.index,
        size=source.size,
        fps=source.fps,
        time_base=video.time_base,
        frames_hint=source.frames_hint,
        duration_s=source.duration_s,
    )


@contextmanager
def open_input(
    one: Input, config: ProcessConfig, stop: threading.Event | None = None
) -> Iterator[OpenSource]:
    """Open an input on the track that `config` names; use it in one thread. Raises SourceError."""
    stop = stop if stop is not None else threading.Event()
    if one.images:
        with open_images(one.images, config.image_fps, one.shown, stop) as source:
            yield source
        return
    with open_source(
        StreamConfig(source=one.opened), one.stem, stop, recorded=True, track=config.track, shown=one.shown
    ) as source:
        yield source
