"""A sequence of images as one video: which pictures belong to it, in which order, and opening it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from streamseg.errors import SourceError
from streamseg.recorded.inputs import Input
from streamseg.sources import OpenSource, Target
from streamseg.sources.opening import with_first_picture


@contextmanager
def open_images(one: Input, fps: float, stop: threading.Event) -> Iterator[OpenSource]:
    """Open the images of an input, in their order, as a video of this rate. Raises SourceError.

    FFmpeg's own sequences end at a number that is missing, and its patterns sort as text. So it gets a folder
    of links, numbered without holes.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with tempfile.TemporaryDirectory(prefix="streamseg-") as made:
        suffix = one.images[0].suffix
        for i, image in enumerate(one.images):
            Path(made, f"{i:08d}{suffix}").symlink_to(image.absolute())
        options = {"pattern_type": "sequence", "start_number": "0", "framerate": str(rate)}
        try:
            container = av.open(f"{made}/%08d{suffix}", format="image2", options=options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{one.shown}: cannot be read as images ({reason})") from error
        with container:
            yield with_first_picture(_describe(one, container, rate), stop)


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
