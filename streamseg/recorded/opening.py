"""Opening an input of a recorded job: a file, an address of a file, or a sequence of images."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from streamseg.config import StreamConfig
from streamseg.errors import SourceError
from streamseg.recorded.inputs import Input, number_pattern
from streamseg.recorded.settings import ProcessConfig
from streamseg.sources import OpenSource, Target, open_source
from streamseg.sources.explain import file_problem
from streamseg.sources.opening import with_first_picture

ADDRESS_TIMEOUT_S = 10.0


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
