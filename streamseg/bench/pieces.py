"""A short piece of video in memory, and what it costs to decode it as a live stream does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import av
from av.video.frame import VideoFrame

from streamseg.bench.side_by_side import Spent, side_by_side
from streamseg.errors import SourceError
from streamseg.sources.events import SkipFrames
from streamseg.sources.live import Thinning
from streamseg.sources.reading import OpenSource
from streamseg.sources.referred import intra_only, reader_of
from streamseg.sources.skipping import GOPS, LOOKED_AT, Skipping
from streamseg.types import Size

USUAL_FPS = 25.0  # of a source that does not say
ROUNDS = 4  # of a piece, over which the pictures that max_fps takes come evenly


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Packets of some seconds of video, beginning with an intra frame, and what their decoder needs."""

    codec: str
    size: Size
    fps: float | None
    packets: tuple[bytes, ...]
    intra: tuple[bool, ...]
    extradata: bytes | None

    def decoded(self) -> Iterator[VideoFrame]:
        """Its pictures, again and again, without an end; raises SourceError where there is none."""
        for images in self.steps((True,) * len(self.packets)):
            yield from images

    def steps(self, taken: Sequence[bool]) -> Iterator[list[VideoFrame]]:
        """Offer its packets to a decoder, again and again; what each of them brings.

        taken: whether each of some rounds of packets is decoded, as taken() gives it. Damaged packets bring
        none, as in a live stream; raises SourceError where none of a round does.
        """
        while True:
            shown = 0
            context = av.CodecContext.create(self.codec, "r")
            assert isinstance(context, av.VideoCodecContext)
            if self.extradata:
                context.extradata = self.extradata
            context.thread_type, context.thread_count = "SLICE", 1  # as of one of many cameras
            for i, takes in enumerate(taken):
                if not takes:
                    yield []
                    continue
                if i and not taken[i - 1]:
                    context.flush_buffers()
                images = _decoded(context, av.Packet(self.packets[i % len(self.packets)]))
                shown += len(images)
                yield images
            rest = _decoded(context, None)
            if not shown and not rest and any(taken):
                raise SourceError("none of its pictures can be decoded")
            yield rest

    def taken(self, mode: SkipFrames, max_fps: float | None) -> tuple[bool, ...]:
        """Which packets a live stream with these settings decodes, once it knows its source."""
        count, fps = len(self.packets), self.fps or USUAL_FPS
        skipping = Skipping(lambda: (mode, max_fps), all_intra=intra_only(self.codec))
        thinning = Thinning(max_fps)
        reader, extradata = reader_of(self.codec), self.extradata or b""
        referred = [None if reader is None else reader(memoryview(p), extradata) for p in self.packets]
        before = max(GOPS + 2, -(-LOOKED_AT // count))  # rounds after which it knows it
        found = []
        for i in range((before + ROUNDS) * count):
            at_s = i / fps
            takes = skipping.takes(at_s, at_s, self.intra[i % count], referred[i % count])
            if takes:
                thinning.takes(at_s)
                if thinning.due_s is not None:
                    skipping.next_due(thinning.due_s)
            found.append(takes)
        return tuple(found[before * count :])


def _decoded(context: av.VideoCodecContext, packet: av.Packet[Any] | None) -> list[VideoFrame]:
    with contextlib.suppress(av.error.FFmpegError):
        return context.decode(packet)
    return []


def piece_of(source: OpenSource, seconds: float) -> Piece | None:
    """Read a piece of an open source; None where no intra frame came in time.

    Blocks for up to twice `seconds` with a camera.
    """
    packets: list[bytes] = []
    intra: list[bool] = []
    if source.path is not None:
        source.seek(0)
    most = max(2, round(seconds * float(source.fps or USUAL_FPS)))
    deadline_s = time.monotonic() + 2 * seconds
    for packet in source.container.demux(source.video):
        if source.live and time.monotonic() > deadline_s:
            break
        if packet.size and (packets or packet.is_keyframe):
            packets.append(bytes(packet))
            intra.append(packet.is_keyframe)
            if len(packets) >= most:
                break
    if not packets:
        return None
    fps = float(source.fps) if source.fps else None
    extradata = source.video.codec_context.extradata
    return Piece(source.codec, source.size, fps, tuple(packets), tuple(intra), extradata)


def decoding(
    piece: Piece, threads: int, seconds: float, mode: SkipFrames = "none", max_fps: float | None = None
) -> Spent:
    """The cost of one picture of a piece, decoded or left out for max_fps, with so many decoders at once."""
    taken = piece.taken(mode, max_fps)
    works = [partial(next, piece.steps(taken)) for _ in range(threads)]
    return side_by_side(works, seconds, least=len(piece.packets))
