"""Small clips that tests draw themselves, as real files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


def picture(size: tuple[int, int], share: float, colour: tuple[int, int, int] = RED) -> npt.NDArray[np.uint8]:
    """Grey, with the left `share` of it in a colour that the tiny engine knows."""
    rgb = np.empty((*size, 3), np.uint8)
    rgb[:] = GREY
    rgb[:, : round(size[1] * share)] = colour
    return rgb


def draw_clip(
    path: Path, frames: int = 20, size: tuple[int, int] = (48, 64), fps: int = 25, codec: str = "libx264"
) -> Path:
    """Write a clip whose i-th frame is red from the left up to (i + 1) / frames of its width."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(size, (i + 1) / frames), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_video(
    path: Path | str,
    pictures: Sequence[npt.NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    time_base: Fraction = Fraction(1, 25),
    pts: Sequence[int] | None = None,
    rotation: float = 0,
    mirrored: bool = False,
    container_format: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    setup: Callable[[av.VideoStream], None] | None = None,
    pace: Callable[[int], None] | None = None,
) -> None:
    """Encode RGB pictures of one size with the given time stamps; `pace` is called before each is written."""
    height, width = pictures[0].shape[:2]
    with (
        same_priority(),
        av.open(str(path), "w", format=container_format, options=container_options or {}) as container,
    ):
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        if setup:
            setup(stream)
        for i, rgb in enumerate(pictures):
            if pace:
                pace(i)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = pts[i] if pts else i, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@contextmanager
def same_priority() -> Iterator[None]:
    """Take back the real-time priority that SVT-AV1 gives the thread which opens it, where root runs it."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def write_audio(path: Path, seconds: float = 0.5) -> None:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for i in range(int(seconds * 44100 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def with_sound(
    path: Path,
    *codecs: str,
    rate: int = 48000,
    layout: str = "mono",
    seconds: float = 2.0,
    parts: Sequence[tuple[float, float]] = ((0.0, 1e9),),
) -> Path:
    """25 grey pictures a second and, in these parts of the time, a tone in each of these codecs."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        tracks = [container.add_stream(codec, rate=rate, layout=layout) for codec in codecs]
        samples = rate // 25
        for i in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
            if not any(begin <= i / 25 < end for begin, end in parts):
                continue
            tone = 0.3 * np.sin(2 * np.pi * 440 / rate * np.arange(i * samples, (i + 1) * samples))
            for track in tracks:
                channels = track.codec_context.channels
                wave = np.repeat(tone[None].astype(np.float32), channels, axis=0)
                sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
                sound.sample_rate, sound.pts, sound.time_base = rate, i * samples, Fraction(1, rate)
                container.mux(track.encode(sound))
        container.mux(video.encode())
        for track in tracks:
            container.mux(track.encode())
    return path


def corners(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture whose four quarters are red, green / blue, white: it tells every turn and mirror apart."""
    h, w = size
    rgb = np.zeros((h, w, 3), np.uint8)
    rgb[: h // 2, : w // 2] = (220, 30, 30)
    rgb[: h // 2, w // 2 :] = (30, 220, 30)
    rgb[h // 2 :, : w // 2] = (30, 30, 220)
    rgb[h // 2 :, w // 2 :] = (230, 230, 230)
    return rgb
