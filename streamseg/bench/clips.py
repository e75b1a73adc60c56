"""Clips of any size and codec, drawn from the demo clip and kept in the cache: for cameras not at hand."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from streamseg.errors import OutputError
from streamseg.runtime.files import replaced
from streamseg.runtime.folders import writable_cache
from streamseg.sources.target import DEMO_CLIP
from streamseg.types import U8, Size

log = logging.getLogger(__name__)

FOLDER = "clips"
VERSION = 1  # of how they are drawn
FPS = 30
ENCODERS = {"h264": "libx264", "hevc": "libx265", "mjpeg": "mjpeg"}
_BITS_A_PIXEL = {"h264": 0.07, "hevc": 0.045}  # of one frame: 4.4 and 2.8 Mbit/s at 1080p30, as cameras send
_OPTIONS = {
    "h264": {"preset": "veryfast", "bf": "0", "g": str(2 * FPS)},
    "hevc": {"preset": "ultrafast", "x265-params": f"keyint={2 * FPS}:bframes=0:log-level=none"},
}
_MOST_PIXELS = 250e6  # of all frames together: 4 s of 1080p
_TEXTURE = 10  # levels either side: what scaling up leaves out
_NOISE = 2  # levels either side, new in every picture: the sensor's


def drawn_clip(size: Size, codec: str = "h264") -> Path:
    """A clip of the demo's street at this size: its pictures scaled up, with texture and noise over them.

    30 frames/s, an intra frame every two seconds, no B-frames, as cameras send. It is encoded when it is
    first asked for, which takes seconds, and kept. Raises OutputError where it cannot be made.
    """
    height, width = size
    path = writable_cache(FOLDER) / f"{width}x{height}-{codec}-v{VERSION}.mp4"
    if path.is_file():
        return path
    if codec in _BITS_A_PIXEL and (height % 2 or width % 2):
        raise OutputError(f"a clip of {width}x{height} in {codec} cannot be made: its sides must be even")
    log.info("drawing a clip of %dx%d in %s", width, height, codec)
    try:
        with replaced(path) as beside:
            _encode(beside, size, codec)
    except (av.error.FFmpegError, ValueError) as error:
        raise OutputError(f"a clip of {width}x{height} in {codec} cannot be made: {error}") from error
    return path


def _encode(path: Path, size: Size, codec: str) -> None:
    height, width = size
    with av.open(str(path), "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(ENCODERS[codec], rate=FPS))
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = Fraction(1, FPS)
        stream.thread_count = len(os.sched_getaffinity(0))
        if codec in _BITS_A_PIXEL:
            stream.bit_rate = int(_BITS_A_PIXEL[codec] * height * width * FPS)
            stream.options = dict(_OPTIONS[codec])
        for i, picture in enumerate(_pictures(size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _pictures(size: Size) -> Iterator[U8]:
    height, width = size
    count = int(min(4 * FPS, max(FPS // 2, _MOST_PIXELS // (height * width))))
    rng = np.random.default_rng(1)
    coarse = rng.integers(-_TEXTURE, _TEXTURE + 1, (height // 2, width // 2 + 2 * FPS), np.int16)
    noise = rng.integers(-_NOISE, _NOISE + 1, (height, width + 64), np.int16)
    with av.open(f"file:{DEMO_CLIP}") as demo:
        for i, image in zip(range(count), demo.decode(video=0), strict=False):
            small = image.to_ndarray(format="rgb24")
            picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
            moving = np.ascontiguousarray(coarse[:, i % (2 * FPS) :][:, : width // 2])
            texture = cv2.resize(moving, (width, height), interpolation=cv2.INTER_LINEAR)
            texture += noise[:, (17 * i) % 64 :][:, :width]
            yield cv2.add(picture, cv2.merge([texture] * 3), dtype=cv2.CV_8U)  # type: ignore[misc]
