"""The tracks of the result videos: how each is encoded, and how packets become a file.

Every segment is encoded by itself and begins with an intra frame, so a file is its segments' packets one
after the other: the same bytes whether the work was interrupted or not. Without B-frames, decoding order is
presentation order and no packet reaches over a segment's border.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamseg.recorded.audio import Sound
from streamseg.types import U8, Size

TrackName = Literal["labels", "confidence", "overlay"]

# Slices carry checksums, so that a damaged label video says so. One x264 thread, because their number changes
# its bytes and the machine must not. Its fastest preset and a constant quantiser, because on two cores what
# the overlay takes is taken from the network: 0.7 ms of CPU for a 480×360 picture; with rate control 0.9, at
# veryfast 3.0 for half the bytes.
_FFV1 = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1", "coder": "rice", "context": "0"}
_H264 = {"preset": "ultrafast", "qp": "25", "bf": "0", "g": "250"}

_SMPTE170M = 6  # BT.601's matrix, which cv2 converts with (ITU-T H.273)
_LIMITED = 1


@dataclass(frozen=True, slots=True)
class Track:
    """A video track; times are ticks of time_base, a Fraction with numerator 1.

    pixel_aspect is width to height of a pixel as it is to be shown; None: not said, so square.
    """

    name: TrackName
    size: Size
    time_base: Fraction
    fps: Fraction
    pixel_aspect: Fraction | None = None

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
        if self.pixel_aspect is not None:
            context.sample_aspect_ratio = self.pixel_aspect
        if self.name == "overlay":
            context.colorspace = _SMPTE170M
            context.color_range = _LIMITED
            context.options = dict(_H264)
        else:
            context.options = dict(_FFV1) if min(self.size) > 1 else {**_FFV1, "slices": "1"}


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
        if sound is not None:
            sound.begin(container)
        for one in packets:
            if sound is not None:
                sound.mux(container, one.ticks * track.time_base)
            packet: av.Packet[Any] = av.Packet(one.data)
            packet.stream = stream
            packet.pts = packet.dts = one.ticks
            packet.time_base = track.time_base
            packet.is_keyframe = one.intra
            container.mux_one(packet)
            count += 1
        if sound is not None:
            sound.mux(container, None)
    return count


def read_labels(path: Path) -> Iterator[tuple[int, U8]]:
    """The (ticks, picture) of a grey video of ours, one by one."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        for frame in container.decode(video):
            assert frame.pts is not None, "our videos have time stamps"
            yield frame.pts, np.ascontiguousarray(frame.to_ndarray(format="gray"), np.uint8)
