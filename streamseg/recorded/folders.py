"""What lies in a folder of recordings: every file, in order, and whether it is a video."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import av

VIDEO_SUFFIXES = frozenset(
    {".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avc", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv"}
    | {".gif", ".h264", ".h265", ".hevc", ".insv", ".ivf", ".lrv", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v"}
    | {".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut"}
    | {".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"}
)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# What FFmpeg's demuxers of these names find is no video of its own: text drawn as pictures, single images,
# lists of other files.
_NO_VIDEO = re.compile(r"tty|image2|.*_pipe|hls|concat|dash|sdp|webvtt|srt|ass|lrc|ico|rawvideo|txd|bin")


@dataclass(slots=True)
class Folder:
    """A folder and those below it, links to others followed. After files(): what it did not give, and why."""

    path: Path
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    denied: list[tuple[Path, OSError]] = field(default_factory=list)

    def files(self) -> list[Path]:
        """Every regular file that is not hidden, in order of their names, numbers by their value.

        One that several names lead to comes once, by its own name where that is in the folder.
        """
        unique: dict[str, Path] = {}
        for file in sorted(self._walk(), key=lambda file: (file.is_symlink(), natural(file))):
            unique.setdefault(os.path.realpath(file), file)
        return sorted(unique.values(), key=natural)

    def _walk(self) -> Iterator[Path]:
        """Each folder once, by its own name where that is in the folder: links come last."""
        seen: set[str] = set()
        waiting = [self.path]

        def denied(error: OSError) -> None:
            self.denied.append((Path(error.filename), error))

        while waiting:
            for at, folders, names in os.walk(waiting.pop(0), onerror=denied):
                folder, real = Path(at), os.path.realpath(at)
                if real in seen:
                    folders.clear()
                    continue
                seen.add(real)
                for name in sorted(folders):
                    if name.startswith(".") and not name.endswith(".segments"):
                        self.left_out.append((folder / name, "hidden"))
                    elif not name.startswith(".") and (folder / name).is_symlink():
                        waiting.append(folder / name)
                folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
                yield from self._files_of(folder, names)

    def _files_of(self, folder: Path, names: Iterable[str]) -> Iterator[Path]:
        for name in names:
            file = folder / name
            if name.startswith("."):
                if file.suffix.lower() in VIDEO_SUFFIXES:
                    self.left_out.append((file, "hidden"))
            elif _is_file(file):
                yield file
            else:
                why = "a link to nothing" if file.is_symlink() else "not a regular file"
                self.left_out.append((file, why))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # it may not be looked at
        return False


def natural(path: Path) -> tuple[tuple[tuple[str | int, ...], str], ...]:
    """A key that puts f2 before f10, and f before f2, folder by folder."""
    return tuple((_parts(PurePath(name).stem), PurePath(name).suffix) for name in path.parts)


def _parts(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name)))


def is_video(path: Path) -> bool:
    """By its suffix, or because FFmpeg finds a video in it."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    if suffix in IMAGE_SUFFIXES:
        return False
    try:
        options = {"protocol_whitelist": "file", "probesize": "1000000", "analyzeduration": "1000000"}
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            if _NO_VIDEO.fullmatch(container.format.name):
                return False
            return any(
                not video.disposition & av.stream.Disposition.attached_pic and video.width
                for video in container.streams.video
                if video.codec_context is not None
            )
    except (av.error.FFmpegError, OSError, ValueError):
        return False
