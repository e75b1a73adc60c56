"""A sequence of images as one video: which pictures belong to it, in which order, and opening it."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from streamseg.errors import SourceError, UsageError
from streamseg.recorded.folders import natural
from streamseg.recorded.names import local_path, number_pattern, numbered_name, printable
from streamseg.sources import OpenSource, Target
from streamseg.sources.opening import with_first_picture

MOST_HOLES = 1000
"""Numbers that are listed as missing."""

_SAME_KIND = {".jpeg": ".jpg", ".tiff": ".tif"}


def sequence_of(
    source: str, images: Sequence[Path], promised: bool
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Images of a folder or pattern → those of one sequence, by their numbers, and what is missing of it.

    promised: `source` is a pattern with a number, so every number from the first to the last is expected. An
    empty image (a recorder that lost its power) is missing in any case. Raises UsageError for several kinds.
    """
    kinds = sorted({(str(p.parent), _kind(p)) for p in images})
    if len(kinds) > 1:
        folder, suffix = kinds[0]
        raise UsageError(
            f"{printable(source)}: holds images of several kinds or folders; name one sequence, "
            f"such as {printable(folder)}/*{suffix}"
        )
    numbered = number_pattern(local_path(source).name) if promised else None
    if numbered is not None:
        numbers = {p: int(m[1]) for p in images if (m := numbered.fullmatch(p.name))}
        images = sorted(images, key=lambda p: (numbers[p], p.name))
        name = local_path(source).name
        holes = [printable(numbered_name(name, n)) for n in _holes(sorted(set(numbers.values())))]
    else:
        images, holes = sorted(images, key=natural), []
    empty = [p for p in images if p.stat().st_size == 0]
    if len(empty) == len(images):
        raise UsageError(f"{printable(source)}: every image is empty (0 bytes)")
    names = [*holes, *(f"{printable(p.name)} (empty)" for p in empty)]
    return tuple(p for p in images if p not in set(empty)), tuple(names)


def _holes(numbers: list[int]) -> list[int]:
    """What is missing between numbers that rise by a step of their own."""
    steps = Counter(b - a for a, b in itertools.pairwise(numbers))
    step = steps.most_common(1)[0][0] if steps else 1
    holes = (n for a, b in itertools.pairwise(numbers) for n in range(a + step, b, step))
    return list(itertools.islice(holes, MOST_HOLES))


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return _SAME_KIND.get(suffix, suffix)


@contextmanager
def open_images(
    images: Sequence[Path], fps: float, shown: str, stop: threading.Event
) -> Iterator[OpenSource]:
    """Open images, in their order, as a video of this rate. Raises SourceError.

    FFmpeg's own sequences end at a number that is missing, and its patterns sort as text. So it gets a folder
    of links, numbered without holes.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with tempfile.TemporaryDirectory(prefix="streamseg-") as made:
        suffix = images[0].suffix
        for i, image in enumerate(images):
            Path(made, f"{i:08d}{suffix}").symlink_to(image.absolute())
        options = {"pattern_type": "sequence", "start_number": "0", "framerate": str(rate)}
        try:
            container = av.open(f"{made}/%08d{suffix}", format="image2", options=options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{shown}: cannot be read as images ({reason})") from error
        with container:
            yield with_first_picture(_describe(images, container, rate, shown), stop)


def _describe(images: Sequence[Path], container: InputContainer, rate: Fraction, shown: str) -> OpenSource:
    video = container.streams.video[0]
    video.thread_type = "AUTO"
    return OpenSource(
        target=Target("file", str(images[0]), shown),
        container=container,
        video=video,
        decoder=video.codec_context,
        live=False,
        endless=False,
        paced=False,
        timeout_s=0.0,
        size=(video.height, video.width),
        fps=rate,
        frames_hint=len(images),
        duration_s=float(len(images) / rate),
        codec=video.codec_context.name,
    )
