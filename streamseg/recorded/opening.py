"""What an input is, and opening it: a file, an address of a file, or a sequence of images."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import msgspec

from streamseg.config import StreamConfig
from streamseg.errors import SourceError
from streamseg.inference.engine import Engine
from streamseg.inference.label_view import LabelView, LabelViews
from streamseg.inference.spec import EngineSpec
from streamseg.recorded.images import open_images
from streamseg.recorded.inputs import Input
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import Timeline
from streamseg.recorded.tracks import Track, TrackName
from streamseg.sources import OpenSource, open_source
from streamseg.sources.frames import turn_of
from streamseg.sources.reading import first_picture
from streamseg.types import LabelSet, Size

_VIEWS = LabelViews()

SOUGHT = frozenset({"mov", "matroska"})
"""Containers with an index of intra frames, as FFmpeg names them."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a file when it was opened."""

    container: str
    codec: str
    pixel_format: str
    track: int
    sound_tracks: int = 0
    size: Size  # of the first picture, upright
    pixel_aspect: Fraction | None = None  # width to height of its pixels; None: square, or not said
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
    def view(self) -> LabelView:
        """How the engine's labels are published; raises ConfigError where the settings do not fit it."""
        info = self.engines[0].info
        return _VIEWS.of(info.labels, self.config.engine.labels)

    @property
    def label_set(self) -> LabelSet:
        """The classes of the masks."""
        return self.view.label_set

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

    def track(self, name: TrackName, size: Size) -> Track:
        """How a result video of these pictures is encoded."""
        return Track(name, size, self.tick, self.rate, self.facts.pixel_aspect)

    def timeline(self) -> Timeline:
        """Time stamps as the result videos have them, from the first frame on."""
        return Timeline(self.facts.time_base, self.facts.fps)

    def open(self, *, at_start: bool = True) -> AbstractContextManager[OpenSource]:
        """The input at start_s, or from its beginning; see open_input."""
        return open_input(self.input, self.config, self.stop, at_start=at_start)


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
        sound_tracks=len(source.container.streams.audio),
        size=source.size,
        pixel_aspect=_pixel_aspect(source),
        fps=source.fps,
        time_base=video.time_base,
        frames_hint=source.frames_hint,
        duration_s=source.duration_s,
    )


def _pixel_aspect(source: OpenSource) -> Fraction | None:
    """Of upright pictures. What no camera has is not believed."""
    aspect = source.video.sample_aspect_ratio
    if not aspect or aspect == 1 or not Fraction(1, 16) <= aspect <= 16:
        return None
    if source.pending and turn_of(source.pending[0].image)[0]:
        aspect = 1 / aspect
    return Fraction(aspect).limit_denominator(1000)


@contextmanager
def open_input(
    one: Input, config: ProcessConfig, stop: threading.Event | None = None, *, at_start: bool = True
) -> Iterator[OpenSource]:
    """Open an input on the track that `config` names; use it in one thread. Raises SourceError.

    at_start: near start_s and not behind it, where the container has an index; else from the beginning.
    """
    stop = stop if stop is not None else threading.Event()
    if at_start and config.start_s > 0:
        with _opened(one, config, stop) as source:
            if goes_to(source, config.start_s, stop):
                yield source
                return
    with _opened(one, config, stop) as source:
        yield source


def goes_to(source: OpenSource, start_s: float, stop: threading.Event) -> bool:
    """Seek to the intra frame before start_s; False where the source would not be as if decoded on the way.

    A seek is tried in containers that list their intra frames by time. Elsewhere (MPEG-TS, MPEG-PS, bare
    streams, AVI) FFmpeg looks for a time stamp in the file, and time stamps may begin again there, or be
    wrong up to the one that tells so (see BestEffort). What counts is the first picture: it must be intra,
    so that all behind it are whole, and at or before start_s. When False, open the source again: one that
    has been sought cannot go back to its first picture.
    """
    if source.path is None or not SOUGHT & set(source.container.format.name.split(",")):
        return False
    first = source.pending[0] if source.pending else None
    if first is None or first.image.pts is None:
        return False
    if first.time_s > start_s:
        return True  # all of it is wanted
    try:
        source.seek(int(start_s * 1_000_000))
        first = first_picture(source, stop)
    except (av.error.FFmpegError, SourceError):
        return False
    trusted = source.reached.reorders or not source.video.codec_context.has_b_frames
    return first is not None and first.image.key_frame and first.time_s <= start_s and trusted


@contextmanager
def _opened(one: Input, config: ProcessConfig, stop: threading.Event) -> Iterator[OpenSource]:
    if one.images:
        with open_images(one.images, config.image_fps, one.shown, stop) as source:
            yield source
        return
    with open_source(
        StreamConfig(source=one.opened), one.stem, stop, recorded=True, track=config.track, shown=one.shown
    ) as source:
        yield source
