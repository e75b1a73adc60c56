"""A short piece of each stream's source, and the CPU that is free: what capacity is measured from."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import av

from streamseg.bench.clips import ENCODERS, drawn_clip
from streamseg.bench.pieces import Piece, piece_of
from streamseg.config import StreamConfig
from streamseg.config.sharing import shared_with
from streamseg.errors import OutputError, SourceError
from streamseg.net.control_sockets import running
from streamseg.runtime.cpus import cpu_quota
from streamseg.runtime.stage import Stage
from streamseg.sources import open_source
from streamseg.types import Size

PIECE_S = 2.0  # of video that decoding is measured on
AT_ONCE = 16  # sources that are opened at the same time
BUSY = 0.25  # of the CPU in other hands, that is worth a line
LOOKED_S = 0.5


def pieces_of(streams: Mapping[str, StreamConfig]) -> tuple[dict[str, Piece], dict[str, str]]:
    """Open each source once; returns a piece of video for each stream, and for the others why there is none.

    For a source that sends no intra frame in time, the piece is a drawn clip of its size and codec. Several
    sources are opened at once. Streams that take another stream's frames are left out.
    """
    pieces: dict[str, Piece] = {}  # each thread writes keys of its own
    failed: dict[str, str] = {}
    by_source: dict[tuple[str, str], list[str]] = {}
    for name, config in streams.items():
        if not shared_with(config):
            by_source.setdefault((config.source, config.password_file), []).append(name)
    left = list(by_source.values())
    guard = threading.Lock()  # guards `left`

    def work() -> None:
        while True:
            with guard:
                if not left:
                    return
                names = left.pop()
            try:
                piece = _piece(streams[names[0]], names[0])
            except (SourceError, OutputError) as error:
                failed.update(dict.fromkeys(names, str(error)))
            else:
                pieces.update(dict.fromkeys(names, piece))

    stages = [Stage(f"probe-{i}", work, lambda _: None) for i in range(min(AT_ONCE, len(left)))]
    for stage in stages:
        stage.start()
    for stage in stages:
        stage.join()
        if stage.error is not None:
            raise stage.error
    return pieces, failed


def _piece(config: StreamConfig, name: str) -> Piece:
    with open_source(config, name) as source:
        try:
            found = piece_of(source, PIECE_S)
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{source.url}: cannot be read ({error})") from error
        size, codec, fps = source.size, source.codec, source.fps
        url = source.url
    if found is not None:
        try:
            next(found.decoded())
        except SourceError as error:
            raise SourceError(f"{url}: {error}") from None
        return found
    return drawn_piece(size, codec if codec in ENCODERS else "h264", None if fps is None else float(fps))


def drawn_piece(size: Size, codec: str, fps: float | None) -> Piece:
    """A piece of a drawn clip, taken to be of this rate; raises OutputError."""
    return replace(piece_from(str(drawn_clip(size, codec))), fps=fps)


def piece_from(clip: str) -> Piece:
    """A piece of a clip that is known to be whole; raises SourceError."""
    with open_source(StreamConfig(source=clip), "clip") as source:
        piece = piece_of(source, PIECE_S)
    assert piece is not None, "it begins with an intra frame"
    return piece


def free_cores() -> tuple[float, str]:
    """The cores that there are for more streams, and a line on what else runs, where that matters.

    While a daemon of ours runs they are what is left; what other programs take is only said.
    """
    daemons = sorted(running())
    cores = float(len(os.sched_getaffinity(0)))
    quota = cpu_quota()
    busy = _busy_share()
    if daemons:
        left = max(0.05, cores * (1 - busy))
        names = ", ".join(daemons[:3])
        line = f"a daemon runs ({names}): the figures are for what is left, {left:.1f} of {cores:g} cores"
        return min(left, quota or left), line
    line = f"other programs use {busy:.0%} of the CPU now; the figures are for without them"
    return min(cores, quota or cores), line if busy >= BUSY else ""


def _busy_share() -> float:
    """Of this process's cores, what is in use by others; looks for LOOKED_S."""
    before = _cpu_times()
    time.sleep(LOOKED_S)
    after = _cpu_times()
    whole = sum(after[core][0] - before[core][0] for core in after if core in before)
    idle = sum(after[core][1] - before[core][1] for core in after if core in before)
    return 1 - idle / whole if whole else 0.0


def _cpu_times() -> dict[int, tuple[int, int]]:
    """All and idle ticks of each core that this process may use; empty without /proc."""
    found = {}
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        head, *ticks = line.split()
        if head.startswith("cpu") and head[3:].isdecimal() and int(head[3:]) in os.sched_getaffinity(0):
            numbers = [int(tick) for tick in ticks[:8]]
            found[int(head[3:])] = sum(numbers), numbers[3] + numbers[4]
    return found
