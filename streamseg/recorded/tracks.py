"""The tracks of the result videos: how each is encoded, how packets become a file, and the source's sound.

Every segment is encoded by itself and begins with an intra frame, so a file is its segments' packets one
after the other: the same bytes whether the work was interrupted or not. Without B-frames, decoding order is
presentation order and no packet reaches over a segment's border.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamseg.recorded.inputs import Input
from streamseg.types import U8, Size

TrackName = Literal["labels", "confidence", "overlay"]

# Slices carry checksums, so that a damaged label video says so. One x264 thread, because their number changes
# its bytes and the machine must not. Its fastest preset and a constant quantiser, because on two cores what
# the overlay takes is taken from the network: 0.7 ms of CPU for a 480×360 picture; with rate control 0.9, at
# veryfast 3.0 for half the bytes.
_FFV1 = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "coder": "rice", "context": "0"}
_H264 = {"preset": "ultrafast", "qp": "25", "bf": "0", "g": "250"}

# What MP4 holds and players play. Anything else is left out: the overlay is for looking at.
MP4_CODECS = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})

_SMPTE170M = 6  # BT.601's matrix, which cv2 converts with (ITU-T H.273)
_LIMITED = 1


@dataclass(frozen=True, slots=True)
class Track:
    """A video track; times are ticks of time_base, a Fraction with numerator 1."""

    name: TrackName
    size: Size
    time_base: Fraction
    fps: Fraction

    @property
    def codec(self) -> str:
        return "libx264" if self.name == "overlay" else "ffv1"

    @property
    def pixel_format(self) -> str:
        return "yuv420p" if self.name == "overlay" else "gray"

    def configure(self, context: VideoCodecContext) -> None:
        context.height, context.width = self.size
        context.time_base = self.time_base
        context.framerate = self.fps
        context.pix_fmt = self.pixel_format
        context.thread_count = 1
        if self.name == "overlay":
            context.colorspace = _SMPTE170M
            context.color_range = _LIMITED
            context.options = dict(_H264)
        else:
            context.options = dict(_FFV1)


@dataclass(frozen=True, slots=True)
class Packet:
    """An encoded picture. ticks is its presentation time."""

    ticks: int
    intra: bool
    data: bytes


class Encoder:
    """Encodes one segment of a track. Belongs to one thread; releases the GIL while it computes."""

    def __init__(self, track: Track) -> None:
        self.track = track
        context = av.CodecContext.create(track.codec, "w")
        assert isinstance(context, VideoCodecContext)
        track.configure(context)
        # MP4 keeps the parameter sets outside the pictures.
        context.flags |= av.codec.context.Flags.global_header.value
        self._context = context

    def encode(self, picture: U8, ticks: int) -> list[Packet]:
        """Encode grey (H, W), or an overlay as I420; packets may come later than their picture."""
        frame = VideoFrame.from_ndarray(picture, format=self.track.pixel_format)
        frame.pts, frame.time_base = ticks, self.track.time_base
        return self._packets(frame)

    def flush(self) -> list[Packet]:
        """The packets that are still to come; nothing can be encoded afterwards."""
        return self._packets(None)

    def _packets(self, frame: VideoFrame | None) -> list[Packet]:
        made = []
        for packet in self._context.encode(frame):
            assert packet.pts is not None, "encoders keep the time stamps they were given"
            made.append(Packet(packet.pts, packet.is_keyframe, bytes(packet)))
        return made


def write_video(path: Path, track: Track, packets: Iterable[Packet], sound: Sound | None = None) -> int:
    """Mux packets, and sound with them, into an MP4 with exactly these time stamps → number of pictures.

    MP4, because it is the common container that keeps any time base of a source: Matroska rounds to ms as
    FFmpeg writes it. Both timescales are set: FFmpeg would multiply a small one, and round the first time
    stamp to the movie's.
    """
    scale = str(track.time_base.denominator)
    options = {
        "video_track_timescale": scale,
        "movie_timescale": scale,
        "fflags": "+bitexact",
        "movflags": "+faststart",
    }
    count = 0
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream(track.codec, rate=track.fps)
        assert isinstance(stream, VideoStream)
        track.configure(stream.codec_context)
        stream.time_base = track.time_base
        mux_sound = _sound_muxer(container, sound)
        for one in packets:
            mux_sound(one.ticks * track.time_base)
            packet: av.Packet[Any] = av.Packet(one.data)
            packet.stream = stream
            packet.pts = packet.dts = one.ticks
            packet.time_base = track.time_base
            packet.is_keyframe = one.intra
            container.mux_one(packet)
            count += 1
        mux_sound(None)
    return count


def read_labels(path: Path) -> Iterator[tuple[int, U8]]:
    """The (ticks, picture) of a grey video of ours, one by one."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        for frame in container.decode(video):
            assert frame.pts is not None, "our videos have time stamps"
            yield frame.pts, np.ascontiguousarray(frame.to_ndarray(format="gray"), np.uint8)


def _sound_muxer(container: OutputContainer, sound: Sound | None) -> Callable[[Fraction | None], None]:
    """Make a function that muxes the sound up to a time, or all that is left of it."""
    if sound is None:
        return lambda until: None
    stream = container.add_stream_from_template(sound.stream)
    packets = sound.packets()
    waiting: list[tuple[Fraction, av.Packet[Any]]] = []

    def mux(until: Fraction | None) -> None:
        waiting.extend(itertools.islice(packets, 1 - len(waiting)))
        while waiting:
            at, packet = waiting[0]
            if until is not None and at > until:
                return
            packet.stream = stream
            container.mux_one(packet)
            waiting[:] = itertools.islice(packets, 1)

    return mux


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
