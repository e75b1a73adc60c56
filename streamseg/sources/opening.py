"""Opening a source, up to its first picture, in the thread that will read and close it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from streamseg.config import StreamConfig
from streamseg.errors import SourceEnded, SourceError
from streamseg.sources.explain import camera_problem, content_problem, explain, file_problem
from streamseg.sources.hardware import hardware_decoder
from streamseg.sources.interrupt import interruptible
from streamseg.sources.names import host_problem
from streamseg.sources.orientation import oriented_size
from streamseg.sources.passwords import target_of
from streamseg.sources.reading import OpenSource, read
from streamseg.sources.target import Target

MAX_FPS = 1000
"""A higher rate is a guess from the time base, not the camera's."""

OPEN_EXTRA_S = 5.0
"""Beyond timeout_s, for a server that talks but whose first picture takes its time."""

HLS_EXTRA_S = 15.0
"""Beyond timeout_s, because HLS brings a whole segment at once and then nothing for as long as that lasts."""

WEB = ("http", "https")


@contextmanager
def open_source(
    config: StreamConfig, stream: str, stop: threading.Event | None = None
) -> Iterator[OpenSource]:
    """Open a stream's source and decode its first picture; close it on leaving.

    Blocks until the first picture, `stop`, or the timeouts of `config`. Use it in one thread from opening to
    closing. Raises SourceError, in one line that names the source (without its password) and the way out;
    SourceEnded when `stop` was set.
    """
    stop = stop if stop is not None else threading.Event()
    target = _ready(target_of(config, stream), stop)
    with interruptible(stop):
        hardware = None if config.hwaccel == "none" else hardware_decoder(config.hwaccel, stream)
        container = _open_container(target, config, stop, hardware)
        try:
            source = _first_picture(_describe(target, config, container), stop)
            yield source
        finally:
            container.close()


def _ready(target: Target, stop: threading.Event) -> Target:
    """Check what can be checked without FFmpeg."""
    problem: str | None = None
    if target.kind == "file":
        problem = file_problem(target.path)
    elif target.kind == "camera":
        problem = camera_problem(target.path)
    else:
        problem = host_problem(target, stop)
    if problem:
        raise SourceError(f"{target.shown}: {problem}")
    return target


def _open_container(
    target: Target, config: StreamConfig, stop: threading.Event, hardware: HWAccel | None
) -> InputContainer:
    started = time.monotonic()
    limit_s = config.timeout_s + OPEN_EXTRA_S
    # PyAV's own read timeout takes the GIL at every read. Only where FFmpeg's is not enough: RTMP has none,
    # and HLS goes on asking for new segments, inside one read, long after the last one.
    read_limit = None
    if target.scheme in ("rtmp", "rtmps"):
        read_limit = config.timeout_s
    elif target.scheme in WEB:
        read_limit = config.timeout_s + HLS_EXTRA_S
    try:
        return av.open(
            f"file:{target.name}" if target.kind == "file" else target.name,
            format="v4l2" if target.kind == "camera" else None,
            options=_options(target, config),
            timeout=(limit_s, read_limit),
            metadata_errors="replace",
            hwaccel=hardware,
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if stop.is_set():
            raise SourceEnded(f"{target.shown}: stopped while opening") from None
        waited = time.monotonic() - started
        # A silent server makes FFmpeg say "invalid data"; the clock knows better.
        silent = target.kind == "network" and waited >= 0.95 * config.timeout_s
        cause: BaseException = TimeoutError() if silent else error
        # Not chained: FFmpeg's error text holds the address with its password.
        raise SourceError(explain(target, cause, config.timeout_s)) from None


def _options(target: Target, config: StreamConfig) -> dict[str, str]:
    """FFmpeg's options for this kind of source; use_wallclock_as_timestamps is never among them."""
    timeout_us = str(round(config.timeout_s * 1e6))
    if target.kind == "camera":
        return {"fflags": "nobuffer+nonblock"}  # without nonblock, a camera that stalls blocks for ever
    if target.kind == "file":
        return {}
    options = {"rw_timeout": timeout_us}
    if target.scheme not in ("rtmp", "rtmps"):  # there, `timeout` means: wait for somebody to call us
        options["timeout"] = timeout_us
    if target.scheme in WEB:
        return options  # may be a whole file, or HLS: FFmpeg's own probing is right for both
    # Without fpsprobesize, a second of pictures is looked at for the rate, and thrown away: 0.8 s lost.
    options |= {"probesize": "1000000", "analyzeduration": "1000000", "fpsprobesize": "0"}
    if target.scheme in ("rtsp", "rtsps"):
        # The SDP tells the codec, so two pictures are looked at (1 µs) and kept. Left to itself FFmpeg looks
        # at seven, and with nobuffer throws them away: the intra frame that a camera begins with is among
        # them, and the next one is a GOP away (10 s: the first picture came after 10.1 s, and now after 0.2).
        options |= {"rtsp_transport": config.rtsp_transport, "allowed_media_types": "video"}
        return options | {"analyzeduration": "1"}
    options["fflags"] = "nobuffer"
    if target.scheme == "udp":
        options |= {"fifo_size": "50000", "overrun_nonfatal": "1"}
    return options


def _describe(target: Target, config: StreamConfig, container: InputContainer) -> OpenSource:
    video = _best_video(target, container)
    duration_s = container.duration / 1e6 if container.duration else None
    endless = target.kind == "camera" or (
        target.kind == "network" and (duration_s is None or target.scheme not in WEB)
    )
    bursts = endless and container.format.name.startswith("hls")
    live = target.kind != "file" or config.realtime
    # Frame threads hold pictures back, and of a GPU's decoder each takes one of the 32 surfaces that it has.
    video.thread_type = "SLICE" if endless or video.codec_context.is_hwaccel else "AUTO"
    return OpenSource(
        target=target,
        container=container,
        video=video,
        live=live,
        endless=endless,
        paced=bursts or (live and not endless),
        timeout_s=config.timeout_s + (HLS_EXTRA_S if bursts else 0.0),
        size=(video.height, video.width),
        fps=_fps(video),
        frames_hint=video.frames or None,
        duration_s=duration_s,
        codec=video.codec_context.name,
    )


def _best_video(target: Target, container: InputContainer) -> VideoStream:
    others = sorted({s.type for s in container.streams if s.type != "video"})
    usable = [v for v in container.streams.video if v.codec_context is not None]
    pictures = [v for v in usable if not v.disposition & av.stream.Disposition.attached_pic]
    best = container.streams.best("video")
    if isinstance(best, VideoStream) and best in pictures:
        return best
    if pictures:
        return pictures[0]
    if container.streams.video and not usable:
        raise SourceError(
            f"{target.shown}: this build of FFmpeg has no decoder for its video codec; convert it to H.264"
        )
    only = f", only {' and '.join(others)}" if others else ""
    raise SourceError(f"{target.shown}: has no video in it{only}; choose another file or stream")


def _fps(video: VideoStream) -> Fraction | None:
    for rate in (video.average_rate, video.guessed_rate):
        if rate and rate <= MAX_FPS:
            return Fraction(rate)
    return None


def _first_picture(source: OpenSource, stop: threading.Event) -> OpenSource:
    """Decode up to the first picture and keep it for the reader: only now is the size known for certain."""
    for picture in read(source, stop):
        source.pending.appendleft(picture)  # before those that one packet, or the file's end, gave with it
        source.size = oriented_size(picture.image)
        return source
    if stop.is_set():
        raise SourceEnded(f"{source.url}: stopped while opening")
    if source.endless:
        raise SourceEnded(f"{source.url}: ended before its first picture")
    why = content_problem(source.target.path) if source.target.kind == "file" else ""
    reason = (
        why if "cut off" in why else "holds no picture that can be decoded; it is damaged or was cut short"
    )
    raise SourceError(f"{source.url}: {reason}")
