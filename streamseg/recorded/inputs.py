"""The inputs of a job: what each name on the command line stands for."""

from __future__ import annotations

import errno
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TextIO
from urllib.parse import unquote, urlsplit

from streamseg.config.redact import redact, remember
from streamseg.errors import OutputError, SourceError, StreamsegError, UsageError
from streamseg.recorded.folders import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Folder,
    is_video,
    natural,
)
from streamseg.recorded.images import sequence_of
from streamseg.recorded.manifest import SUFFIX
from streamseg.recorded.names import Owned, local_path, name_inputs, number_pattern, printable
from streamseg.recorded.results import NAMES, ResultFolder
from streamseg.recorded.storage import Store, is_stored, local_copy
from streamseg.sources.target import DEMO, DEMO_CLIP, shown


@dataclass(frozen=True, slots=True)
class Input:
    """A file, an http(s) address or a sequence of images; `stem` begins the names of its results."""

    source: str
    stem: str
    images: tuple[Path, ...] = ()  # of a sequence: one kind, in the order of their numbers
    missing: tuple[str, ...] = ()  # images that the sequence should have
    copy: Path | None = None  # the local copy of one in other storage

    def __post_init__(self) -> None:
        remember(self.source)

    @property
    def path(self) -> Path | None:
        """The file; None for an address. For images, their folder or pattern."""
        if self.copy is not None:
            return self.copy
        return None if is_address(self.source) else local_path(self.source)

    @property
    def opened(self) -> str:
        """What FFmpeg opens."""
        if self.copy is None and "://" in self.source:
            return self.source
        return os.path.abspath(self.path or "")  # so that no name is taken for an option or a home

    @property
    def shown(self) -> str:
        return printable(shown(self.source))


@dataclass(slots=True)
class Found:
    """The inputs of a job, what its folders hold besides, and what could not be looked at."""

    inputs: list[Input] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # a line each
    unreadable: list[tuple[str, StreamsegError]] = field(default_factory=list)  # the name as shown, and why


def find_inputs(sources: Iterable[str], stdin: TextIO | None = None) -> list[Input]:
    """Files, folders, patterns, addresses, '-' for a list on standard input → inputs with names of their own.

    As look_for, but raises SourceError for a folder that cannot be read.
    """
    found = look_for(sources, stdin)
    if found.unreadable:
        raise found.unreadable[0][1]
    return found.inputs


def look_for(
    sources: Iterable[str],
    stdin: TextIO | None = None,
    owned: Owned = lambda stem, source: None,
) -> Found:
    """What is to be processed, with names of their own, and what is not.

    A folder or a pattern stands for the videos in it, in order of their names, numbers by their value; with
    images and no video in it, for one sequence of images. Links to folders are followed. A file that comes
    twice is done once, however it is spelled. A name is the stem; where two have one stem, as much more of
    the path as tells them apart. owned says which names have results of which input already: an input keeps
    its name, whatever other inputs come. Raises UsageError where nothing is to be processed at all.
    """
    found = Found()
    unique: dict[str, _Named] = {}
    for source in _lines(sources, stdin):
        try:
            for one in _expand(source, found):
                unique.setdefault(_real(one.source), one)
        except UsageError as error:  # one name that stands for nothing does not end the others
            found.unreadable.append((printable(shown(source)), error))
        except (OSError, ValueError) as error:  # too long, or with a zero byte
            name = printable(shown(source))
            reason = getattr(error, "strerror", None) or str(error)
            found.unreadable.append(
                (name, SourceError(f"{name}: cannot be a file's name ({reason.lower()})"))
            )
    errors = [error for _, error in found.unreadable]
    if errors and not unique and all(isinstance(error, UsageError) for error in errors):
        raise errors[0]
    names = name_inputs([one.source for one in unique.values()], owned)
    for one in unique.values():
        found.inputs.append(Input(one.source, names[one.source], one.images, one.missing))
    return found


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


@dataclass(frozen=True, slots=True)
class _Named:
    """A source as it was named or found."""

    source: str
    images: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()


def _lines(sources: Iterable[str], stdin: TextIO | None) -> Iterator[str]:
    for source in sources:
        if source == "-":
            for line in stdin or map(os.fsdecode, sys.stdin.buffer):  # names may have any bytes
                name = line.rstrip("\r\n")
                if name.strip():
                    yield name if local_path(name).exists() else name.strip()
        elif not source.strip() and not Path(source).is_file():
            raise UsageError("an input has an empty name; is a variable of the command unset?")
        elif source.lower().startswith("file://"):
            yield unquote(source[len("file://") :]).removeprefix("localhost")
        else:
            yield source


def _real(source: str) -> str:
    """One name for each file, however it is spelled."""
    return source if "://" in source else os.path.realpath(local_path(source))


def _expand(source: str, found: Found) -> list[_Named]:
    """The inputs that a name stands for."""
    if source == DEMO:
        return [_Named(str(DEMO_CLIP))]
    if is_stored(source):
        return [_Named(one) for one in _expand_stored(source)]
    if "://" in source:
        return [_Named(source)]
    path = local_path(source)
    if path.is_dir():
        return _expand_folder(source, path, found)
    numbered = number_pattern(path.name)
    if (numbered is None and not glob.has_magic(source)) or os.path.lexists(path):
        return [_Named(source)]  # a file, or nothing: opening it says which
    if numbered is not None:
        images = [p for p in path.parent.glob("*") if numbered.fullmatch(p.name)]
    else:
        images = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    files = sorted(images, key=natural)
    if videos := [p for p in files if is_video(p) and not _is_result(p)]:
        found.left_out += [f"{printable(p)}: left out, an image beside videos" for p in files if _is_image(p)]
        return [_Named(str(p)) for p in videos]
    if images := [p for p in files if _is_image(p)]:
        return [_sequence(source, images, promised=numbered is not None)]
    raise UsageError(f"{printable(source)}: no video matches this pattern")


def _expand_folder(source: str, path: Path, found: Found) -> list[_Named]:
    folder = Folder(path)
    videos, images = [], []
    for file in folder.files():
        if _is_result(file):
            continue
        if _is_image(file):
            images.append(file)
        elif is_video(file):
            videos.append(file)
        elif not os.access(file, os.R_OK):
            folder.denied.append((file, PermissionError(errno.EACCES, "Permission denied")))
        else:
            found.left_out.append(f"{printable(file)}: left out, no video")
    found.left_out += [f"{printable(p)}: left out, {why}" for p, why in folder.left_out]
    for denied, error in folder.denied:
        name = printable(denied)
        found.unreadable.append(
            (name, SourceError(f"{name}: cannot be read ({error.strerror}); change its rights"))
        )
    if videos:
        found.left_out += [f"{printable(p)}: left out, an image beside videos" for p in images]
        return [_Named(str(p)) for p in videos]
    if images:
        return [_sequence(source, images, promised=False)]
    if found.unreadable:
        return []
    raise UsageError(f"{printable(source)}: no video in this folder")


def _expand_stored(source: str) -> list[str]:
    try:
        found = Store(source).find()
    except OutputError as error:
        raise UsageError(str(error)) from error
    if found == [source.rstrip("/")]:
        return [source]  # an object, or nothing: fetching it says which
    results = {one for one in found if one.endswith(SUFFIX)}
    videos = [
        one
        for one in found
        if (name := PurePosixPath(urlsplit(one).path)).suffix.lower() in VIDEO_SUFFIXES
        and f"{one.rpartition('/')[0]}/{name.stem.rpartition('.')[0]}{SUFFIX}" not in results
    ]
    if not videos:
        raise UsageError(f"{redact(source)}: no video at this address")
    return videos


def _sequence(source: str, images: list[Path], promised: bool) -> _Named:
    there, missing = sequence_of(source, images, promised)
    return _Named(source, images=there, missing=missing)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_result(path: Path) -> bool:
    """Whether this is a result of ours, or lies in one: its manifest, or its job's work, is beside it."""
    return path.name.endswith(SUFFIX) or any(
        one.name.endswith(f".{ending}") and (results.manifest.exists() or results.segments.exists())
        for one in (path, *path.parents)
        for ending in NAMES.values()
        for results in [ResultFolder(one.parent, one.name.removesuffix(f".{ending}"))]
    )
