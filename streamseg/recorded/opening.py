"""What an input is, and opening it: a file, an address of a file, or a sequence of images."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import msgspec
from av.container import InputContainer

from streamseg.config import StreamConfig
from streamseg.errors import SourceError
from streamseg.inference.engine import Engine
from streamseg.inference.spec import EngineSpec
from streamseg.recorded.inputs import Input, number_pattern
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import Timeline
from streamseg.sources import OpenSource, Target, open_source
from streamseg.sources.explain import file_problem
from streamseg.sources.opening import with_first_picture
from streamseg.types import Size

ADDRESS_TIMEOUT_S = 10.0


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
        with _open_images(one, config, stop) as source:
            yield source
        return
    with open_source(
        StreamConfig(source=one.opened), one.stem, stop, recorded=True, track=config.track, shown=one.shown
    ) as source:
        yield source


def content_digest(one: Input) -> tuple[str, int]:
    """SHA-256 and bytes of an input's content; raises SourceError.

    Of images, over the SHA-256 of each. An address is not read twice: its own text and what its server says
    about the file (length, ETag, date) stand for it.
    """
    try:
        if one.images:
            total = hashlib.sha256()
            for image in one.images:
                total.update(hashlib.sha256(image.read_bytes()).digest())
            return total.hexdigest(), sum(image.stat().st_size for image in one.images)
        if one.path is None:
            return _address_digest(one)
        with one.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), one.path.stat().st_size
    except OSError as error:
        reason = (file_problem(one.path) if one.path else None) or error.strerror or str(error)
        raise SourceError(f"{one.shown}: {reason}") from error


def _address_digest(one: Input) -> tuple[str, int]:
    request = urllib.request.Request(one.source, method="HEAD")
    with urllib.request.urlopen(request, timeout=ADDRESS_TIMEOUT_S) as answer:
        headers = {key: answer.headers.get(key, "") for key in ("Content-Length", "ETag", "Last-Modified")}
    text = "\n".join([one.source, *headers.values()])
    return hashlib.sha256(text.encode()).hexdigest(), int(headers["Content-Length"] or 0)


@contextmanager
def _open_images(one: Input, config: ProcessConfig, stop: threading.Event) -> Iterator[OpenSource]:
    rate = Fraction(config.image_fps).limit_denominator(1001)
    pattern, options = _image_pattern(one)
    try:
        container = av.open(pattern, format="image2", options={**options, "framerate": str(rate)})
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(f"{one.shown}: cannot be read as images ({error.strerror})") from error
    with container:
        yield with_first_picture(_describe(one, container, rate), stop)


def _image_pattern(one: Input) -> tuple[str, dict[str, str]]:
    """The images as FFmpeg's image2 names them, and its options for that."""
    path = Path(one.source).expanduser()
    numbered = number_pattern(path.name)
    if numbered is not None and not path.exists():
        first = numbered.fullmatch(one.images[0].name)
        assert first is not None, "the images were found with it"
        return str(path), {"pattern_type": "sequence", "start_number": str(int(first[1]))}
    if path.is_dir():
        path = Path(_escape(one.images[0].parent), "*" + one.images[0].suffix)
    return str(path), {"pattern_type": "glob"}


def _describe(one: Input, container: InputContainer, rate: Fraction) -> OpenSource:
    video = container.streams.video[0]
    video.thread_type = "AUTO"
    return OpenSource(
        target=Target("file", str(one.images[0]), one.shown),
        container=container,
        video=video,
        live=False,
        endless=False,
        paced=False,
        timeout_s=0.0,
        size=(video.height, video.width),
        fps=rate,
        frames_hint=len(one.images),
        duration_s=float(len(one.images) / rate),
        codec=video.codec_context.name,
    )


def _escape(folder: Path) -> str:
    """A folder's name as glob(3) takes it literally."""
    return "".join("\\" + c if c in "*?[]{}\\" else c for c in str(folder))
