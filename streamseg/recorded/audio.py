"""The source's sound, packet by packet, to be laid beside the overlay as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from streamseg.recorded.inputs import Input

# What MP4 holds and players play. Anything else is left out: the overlay is for looking at.
MP4_CODECS = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A source's best audio stream, opened; belongs to the thread that opened it."""

    container: InputContainer
    stream: AudioStream
    begin_s: Fraction
    end_s: Fraction

    def packets(self) -> Iterator[tuple[Fraction, av.Packet[Any]]]:
        """Yield (time in seconds, packet) between begin_s and end_s; ends early where the file is damaged."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            at = packet.pts * packet.time_base
            if at >= self.end_s:
                return
            if at >= self.begin_s:
                yield at, packet


@contextmanager
def open_sound(one: Input, begin_s: Fraction, end_s: Fraction) -> Iterator[Sound | None]:
    """Open a file's sound; None where it has none, or none that MP4 holds."""
    if one.path is None or one.images:
        yield None
        return
    with av.open(f"file:{one.path}", metadata_errors="replace") as container:
        best = container.streams.best("audio")
        fits = isinstance(best, AudioStream) and best.codec_context.name in MP4_CODECS
        yield Sound(container, best, begin_s, end_s) if isinstance(best, AudioStream) and fits else None
