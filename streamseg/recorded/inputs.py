"""The inputs of a job, and the names of each input's results."""

from __future__ import annotations

import glob
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TextIO
from urllib.parse import urlsplit

from streamseg.config.redact import HIDDEN, redact, remember
from streamseg.errors import OutputError, UsageError
from streamseg.recorded.manifest import SUFFIX
from streamseg.recorded.storage import Store, is_stored, local_copy
from streamseg.sources.target import DEMO, DEMO_CLIP, shown

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv"}
    | {".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogv", ".ts", ".webm", ".wmv"}
    | {".y4m"}
)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_PRINTF = re.compile(r"%0?\d*d")


@dataclass(frozen=True, slots=True)
class Input:
    """A file, an http(s) address or a sequence of images; `stem` begins the names of its results."""

    source: str
    stem: str
    images: tuple[Path, ...] = ()  # of a sequence: one suffix, in the order of their names
    copy: Path | None = None  # the local copy of one in other storage

    def __post_init__(self) -> None:
        remember(self.source)

    @property
    def path(self) -> Path | None:
        """The file; None for an address. For images, their folder or pattern."""
        if self.copy is not None:
            return self.copy
        return None if is_address(self.source) else Path(self.source).expanduser()

    @property
    def opened(self) -> str:
        """What FFmpeg opens."""
        return self.source if self.copy is None else str(self.copy)

    @property
    def shown(self) -> str:
        return shown(self.source)


def find_inputs(sources: Iterable[str], stdin: TextIO | None = None) -> list[Input]:
    """Files, folders, patterns, addresses, '-' for a list on standard input → inputs with names of their own.

    A folder or a pattern stands for the videos in it, in order of their names; with images and no video in
    it, for one sequence of images. A name is the stem; with suffix where two have one stem, then with folder.
    One that comes twice is done once. Raises UsageError for what stands for nothing.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for source in _lines(sources, stdin or sys.stdin):
        found.update(_expand(source))
    naming: Callable[[str], str]
    for naming in (_stem, _full_name, _with_folder):
        names = {source: naming(source) for source in found}
        if len(set(names.values())) == len(found):
            return [Input(source, names[source], images) for source, images in found.items()]
    twice = next(n for n, count in Counter(names.values()).items() if count > 1)
    raise UsageError(f"several inputs would be called {twice}; process them into different folders")


@contextmanager
def fetched(one: Input) -> Iterator[Input]:
    """An input from other storage with its local copy; any other as it is. Raises SourceError."""
    if not is_stored(one.source) or one.copy is not None:
        yield one
        return
    with local_copy(one.source) as path:
        yield replace(one, copy=path)


def is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def number_pattern(name: str) -> re.Pattern[str] | None:
    """What a name like frame%04d.png fits, with the number as its group; None for other names."""
    before, *after = _PRINTF.split(name)
    if len(after) != 1:
        return None
    return re.compile(f"{re.escape(before)}([0-9]+){re.escape(after[0])}")


def _lines(sources: Iterable[str], stdin: TextIO) -> Iterator[str]:
    for source in sources:
        if source == "-":
            yield from (line.strip() for line in stdin if line.strip())
        else:
            yield source


def _expand(source: str) -> dict[str, tuple[Path, ...]]:
    """Sources, each with its images where it is a sequence."""
    if source == DEMO:
        return {str(DEMO_CLIP): ()}
    if is_stored(source):
        return _expand_stored(source)
    if "://" in source:
        return {source: ()}
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
    elif (numbered := number_pattern(path.name)) is not None and not path.exists():
        matches = [(m, p) for p in path.parent.glob("*") if (m := numbered.fullmatch(p.name))]
        files = [p for _, p in sorted(matches, key=lambda pair: int(pair[0][1]))]
    elif glob.has_magic(source) and not path.exists():
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    else:
        return {source: ()}  # a file, or nothing: opening it says which
    if videos := [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES and not _is_result(p)]:
        return {str(p): () for p in videos}
    if images := [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]:
        return {source: _sequence(source, images)}
    what = "in this folder" if path.is_dir() else "matches this pattern"
    raise UsageError(f"{source}: no video {what}")


def _expand_stored(source: str) -> dict[str, tuple[Path, ...]]:
    try:
        found = Store(source).find()
    except OutputError as error:
        raise UsageError(str(error)) from error
    if found == [source.rstrip("/")]:
        return {source: ()}  # an object, or nothing: fetching it says which
    results = {one for one in found if one.endswith(SUFFIX)}
    videos = [
        one
        for one in found
        if (name := PurePosixPath(urlsplit(one).path)).suffix.lower() in VIDEO_SUFFIXES
        and f"{one.rpartition('/')[0]}/{name.stem.rpartition('.')[0]}{SUFFIX}" not in results
    ]
    if not videos:
        raise UsageError(f"{redact(source)}: no video at this address")
    return dict.fromkeys(videos, ())


def _sequence(source: str, images: list[Path]) -> tuple[Path, ...]:
    kinds = sorted({(str(p.parent), p.suffix) for p in images})
    if len(kinds) > 1:
        folder, suffix = kinds[0]
        raise UsageError(
            f"{source}: holds images of several kinds or folders; name one sequence, "
            f"such as {folder}/*{suffix}"
        )
    return tuple(images)


def _is_result(path: Path) -> bool:
    """Whether this is a result of ours: its manifest is in the same folder."""
    stem, dot, _ = path.stem.rpartition(".")
    return bool(dot) and (path.parent / (stem + SUFFIX)).exists()


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _pure(source: str) -> PurePosixPath:
    # The name of a result is seen by many: no secret of the address is in it.
    path = PurePosixPath(
        (urlsplit(redact(source).replace(HIDDEN, "-")).path or "/") if "://" in source else source
    )
    # A pattern's results are named after the folder of its images.
    magic = glob.has_magic(path.name) or number_pattern(path.name)
    return path.parent if magic and not Path(source).exists() else path


def _stem(source: str) -> str:
    path = _pure(source)
    return (path.name if Path(source).is_dir() else path.stem) or "video"


def _full_name(source: str) -> str:
    return _pure(source).name or "video"


def _with_folder(source: str) -> str:
    path = _pure(source)
    return f"{path.parent.name}-{path.name}".strip("-") or "video"
