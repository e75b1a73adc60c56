"""Opening a source, up to its first picture, in the thread that will read and close it."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from streamseg.config import StreamConfig
from streamseg.errors import SourceEnded, SourceError
from streamseg.sources.edge import BEHIND_S, LiveEdge
from streamseg.sources.events import SourceEvent
from streamseg.sources.explain import UNKNOWN, content_problem, fragmented, opening_explained
from streamseg.sources.frames import oriented_size, turn_of
from streamseg.sources.hardware import decoder_of, device_of, hardware_decoder
from streamseg.sources.interrupting import interruptible
from streamseg.sources.jpeg import JpegDecoder, Needed
from streamseg.sources.reading import OpenSource, first_picture
from streamseg.sources.surface import UPRIGHT
from streamseg.sources.target import Target, target_of
from streamseg.sources.threads import share_cores
from streamseg.sources.web_file import ANSWER_WITHIN_S, described

MAX_FPS = 1000
"""A higher rate is a guess from the time base, not the camera's."""

OPEN_EXTRA_S = 5.0
"""Beyond timeout_s, for a server that talks but whose first picture takes its time."""

SOUND_S = 2.0
"""For opening a camera's sound, to tell that it has no video."""

HLS_EXTRA_S = 15.0
"""Beyond timeout_s, because HLS brings a whole segment at once and then nothing for as long as that lasts."""

AVFMT_NOTIMESTAMPS = 0x80

LEAST_BEHIND_S = 0.3
"""Jitter of networks is less than this; see BEHIND_S."""

SOON = {"formatprobesize": "32768"}
"""Bytes that are enough to know a format; FFmpeg would wait for a megabyte of a slow camera's JPEGs."""

JPEGS = {"analyzeduration": "1", "fpsprobesize": "0"}

WITHOUT_END = ("hls", "dash", "mpjpeg", "image2", "rtsp", "sdp")
"""Formats whose Content-Length is that of a list, of one picture, or made up."""

TURNING = ("mov,", "matroska,")
"""Formats that may say how pictures are to be turned."""

WEB = ("http", "https")
RTSP = ("rtsp", "rtsps")

UNFIT = (av.error.HTTPOtherClientError, av.error.HTTPServerError)
"""What RTSP servers answer to PLAY where nothing has been set up: 454, 455, 500."""

TABLE_CHANGES = {"merge_pmt_versions": "1"}
"""MPEG-TS: where a programme's table changes, its picture goes on in the same stream, under a new PID."""


@contextmanager
def open_source(
    config: StreamConfig,
    stream: str,
    stop: threading.Event | None = None,
    *,
    recorded: bool = False,
    track: int | None = None,
    shown: str = "",
    endless: bool = False,
    streams: int = 0,
    needed: Needed | None = None,
    report: Callable[[SourceEvent], None] = lambda event: None,
    prompt: bool = False,
) -> Iterator[OpenSource]:
    """Open a stream's source and decode its first picture; close it on leaving.

    Blocks until the first picture, `stop`, or the timeouts of `config`. Use it in one thread from opening to
    closing. Raises SourceError, in one line that names the source (without its password) and the way out;
    SourceEnded when `stop` was set.

    recorded: each picture counts, so what is behind an address is read like a file, and what has no end is
    refused. track: which of several video tracks, from 0; None takes the one that a player would. shown: what
    messages call the source, if not by its address. endless: it was a live stream when it was opened before;
    as a recording, which begins with what was shown already, it is refused. streams: how many are decoded in
    this process, which share its cores; 0 leaves the number of threads to FFmpeg. needed: how small JPEGs
    may be decoded. report: is told, in this thread, what happens while the source is opened and read.
    prompt: `stop` is noticed within 0.1 s while it is read, too; FFmpeg takes the GIL at every read for it.
    """
    stop = stop if stop is not None else threading.Event()
    target = target_of(config, stream)
    if target.kind == "stream":
        raise SourceError(f"{target.shown}: is another stream's source; only a daemon that has it knows it")
    target = replace(target, shown=shown or target.shown, prompt=prompt)
    with interruptible(stop):
        device = device_of(config.hwaccel, stream)
        with opening_explained(target, config.timeout_s, stop):
            container = _open_container(target, config, hardware_decoder(device))
        with container:
            source = _describe(target, config, container, recorded, track)
            source.report = report
            source.decoder = decoder_of(source.video, device, stream)
            share_cores(source, streams, stream)
            if needed is not None and source.codec == "mjpeg" and not source.by_device:
                turns = container.format.name.startswith(TURNING)
                upright = (lambda image: turn_of(image) == UPRIGHT) if turns else None
                source.decoder = JpegDecoder(source.video.codec_context, needed, upright)
            if endless and not source.endless:
                raise SourceEnded(f"{source.url}: the live stream has ended; waiting until it begins anew")
            yield with_first_picture(source, stop)


def with_first_picture(source: OpenSource, stop: threading.Event) -> OpenSource:
    """The source with its first picture decoded, and the size of that. Raises SourceError without one."""
    try:
        first = first_picture(source, stop)
    except SourceEnded:
        if source.endless or (why := _cannot_seek(source)) is None:
            raise
        raise SourceError(f"{source.url}: {why}") from None
    if first is not None:
        return replace(source, size=first.whole_size or oriented_size(first.image))
    if stop.is_set():
        raise SourceEnded(f"{source.url}: stopped while opening")
    if source.endless:
        raise SourceEnded(f"{source.url}: ended before its first picture")
    raise SourceError(f"{source.url}: {_why_no_picture(source)}")


def _why_no_picture(source: OpenSource) -> str:
    if source.target.kind == "file":
        why = content_problem(source.target.path)
        if "cut off" in why or why != UNKNOWN:
            return why
    return _cannot_seek(source) or "holds no picture that can be decoded; it is damaged or was cut short"


def _cannot_seek(source: OpenSource) -> str | None:
    """Why a file behind an address cannot be read, where its server sends no parts of it."""
    if source.target.scheme not in WEB:
        return None
    file = described(source.target.name, source.timeout_s)
    if file is None or file.ranges or file.length is None:
        return None
    return (
        "its server sends no parts of files, and FFmpeg must go back and forth in this one; "
        "copy the file here, or make it with ffmpeg -movflags +faststart"
    )


def _open_container(target: Target, config: StreamConfig, hardware: HWAccel | None) -> InputContainer:
    if target.scheme in WEB:
        return _open_web(target, config, hardware)
    if target.scheme not in RTSP:
        return _opened(target, config, hardware)
    try:
        return _opened(target, config, hardware)
    except av.error.FFmpegError as error:
        if error.errno == errno.EPROTONOSUPPORT:  # 461 Unsupported Transport
            other = "udp" if config.rtsp_transport == "tcp" else "tcp"
            problem = f'sends no RTSP over {config.rtsp_transport.upper()}; set rtsp_transport = "{other}"'
        elif isinstance(error, UNFIT) and _has_sound(target, config):
            problem = "has no video in it, only audio; choose another stream"
        else:
            raise
    raise SourceError(f"{target.shown}: {problem}")


def _open_web(target: Target, config: StreamConfig, hardware: HWAccel | None) -> InputContainer:
    """Open an http(s) address, also of a camera that sends JPEGs in a way that FFmpeg does not know."""
    try:
        return _opened(target, config, hardware, SOON)
    except av.error.FFmpegError as error:
        invalid = isinstance(error, av.error.InvalidDataError)
        if not (invalid or isinstance(error, av.error.ExitError) or error.errno == errno.EIO):
            raise
        file = described(target.name, min(config.timeout_s, ANSWER_WITHIN_S))
        if file is not None and file.jpegs:
            return _opened(target, config, hardware, JPEGS, format="mjpeg")
        if file is not None and (problem := file.problem):
            raise SourceError(f"{target.shown}: {problem}") from None
        if not invalid:
            raise
    return _opened(target, config, hardware)


def _has_sound(target: Target, config: StreamConfig) -> bool:
    """Whether an RTSP server that refused to play, with no video to play, has sound."""
    try:
        _opened(target, config, None, {"allowed_media_types": "audio"}, SOUND_S).close()
    except av.error.FFmpegError as error:
        return not isinstance(error, UNFIT)  # it came further: there was something to set up
    return True


def _opened(
    target: Target,
    config: StreamConfig,
    hardware: HWAccel | None,
    more: dict[str, str] | None = None,
    limit_s: float | None = None,
    format: str | None = None,
) -> InputContainer:
    limit_s = config.timeout_s + OPEN_EXTRA_S if limit_s is None else limit_s
    # PyAV's own read timeout takes the GIL at every read. Only where FFmpeg's is not enough: RTMP has none,
    # and HLS goes on asking for new segments, inside one read, long after the last one.
    read_limit = None
    if target.scheme in ("rtmp", "rtmps"):
        read_limit = config.timeout_s
    elif target.scheme in WEB:
        read_limit = config.timeout_s + HLS_EXTRA_S
    elif target.prompt:
        read_limit = limit_s
    opened = partial(
        av.open,
        f"file:{target.name}" if target.kind == "file" else target.name,
        format="v4l2" if target.kind == "camera" else format,
        timeout=(limit_s, read_limit),
        metadata_errors="replace",
        hwaccel=hardware,
    )
    options = _options(target, config) | (more or {})
    try:
        return opened(options=options)
    except (av.error.InvalidDataError, av.error.EOFError):
        if target.kind != "file" or not fragmented(target.path):
            raise
        # FFmpeg reads the heads of all fragments first, and one that was cut ends that. So: as they come.
        return opened(options={**options, "fflags": "+ignidx"})


def _options(target: Target, config: StreamConfig) -> dict[str, str]:
    """FFmpeg's options for this kind of source; use_wallclock_as_timestamps is never among them."""
    timeout_us = str(round(config.timeout_s * 1e6))
    if target.kind == "camera":
        return {"fflags": "nobuffer+nonblock"}  # without nonblock, a camera that stalls blocks without end
    if target.kind == "file":
        return TABLE_CHANGES
    options = {"rw_timeout": timeout_us}
    if target.scheme not in ("rtmp", "rtmps"):  # there, `timeout` means: wait for an incoming connection
        options["timeout"] = timeout_us
    if target.scheme in WEB:
        # May be a whole file, or HLS: FFmpeg's own probing is right for both. Segments are told by what is in
        # them and not by their names, which services make up; that files of this machine are not among them
        # is seen to by the protocols that FFmpeg allows below http.
        return options | TABLE_CHANGES | {"extension_picky": "0"}
    # Without fpsprobesize, a second of pictures is looked at for the rate, and thrown away: 0.8 s lost.
    options |= {"probesize": "1000000", "analyzeduration": "1000000", "fpsprobesize": "0"}
    if target.scheme in RTSP:
        # The SDP names the codec, so two pictures are looked at (1 µs) and kept. Left to itself FFmpeg looks
        # at seven, and with nobuffer throws them away: the intra frame that a camera begins with is among
        # them, and the next one is a GOP away (10 s: the first picture came after 10.1 s, and now after 0.2).
        options |= {"rtsp_transport": config.rtsp_transport, "allowed_media_types": "video"}
        return options | {"analyzeduration": "1"}
    options["fflags"] = "nobuffer"
    if target.scheme == "udp":
        options |= {"fifo_size": "50000", "overrun_nonfatal": "1"}
    return options


def _describe(
    target: Target, config: StreamConfig, container: InputContainer, recorded: bool, track: int | None
) -> OpenSource:
    video = _best_video(target, container) if track is None else _track(target, container, track)
    duration_s = container.duration / 1e6 if container.duration else None
    endless = target.kind == "camera" or (
        target.kind == "network"
        and (target.scheme not in WEB or (duration_s is None and not _is_whole(container)))
    )
    if endless and recorded:
        raise SourceError(f"{target.shown}: is a live stream without an end; use: streamseg run --source …")
    bursts = endless and container.format.name.startswith("hls")
    edge = None
    if endless:
        behind_s = min(BEHIND_S, max(LEAST_BEHIND_S, (config.max_age_ms or math.inf) / 2000))
        # Without time stamps FFmpeg only counts the pictures.
        timed = not container.format.flags & AVFMT_NOTIMESTAMPS
        edge = LiveEdge(paced=bursts, timed=timed, behind_s=behind_s)
    live = not recorded and (target.kind != "file" or config.realtime)
    return OpenSource(
        target=target,
        container=container,
        video=video,
        decoder=video.codec_context,
        live=live,
        endless=endless,
        paced=bursts or (live and not endless),
        timeout_s=config.timeout_s + (HLS_EXTRA_S if bursts else 0.0),
        size=(video.height, video.width),
        fps=_fps(video),
        frames_hint=video.frames or None,
        duration_s=duration_s,
        codec=video.codec_context.name,
        edge=edge,
    )


def _is_whole(container: InputContainer) -> bool:
    """Whether a web server says how long it is, so that it has an end also where FFmpeg cannot seek to it."""
    name = container.format.name
    return container.size > 0 and not name.startswith(WITHOUT_END) and not name.endswith("_pipe")


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


def _track(target: Target, container: InputContainer, track: int) -> VideoStream:
    tracks = container.streams.video
    if track >= len(tracks):
        last = len(tracks) - 1
        raise SourceError(f"{target.shown}: has no video track {track}; choose from 0 to {last}")
    return tracks[track]


def _fps(video: VideoStream) -> Fraction | None:
    for rate in (video.average_rate, video.guessed_rate):
        if rate and rate <= MAX_FPS:
            return Fraction(rate)
    return None
