"""Decoding on a video decoder of a GPU or a board, where there is one.

| kind | what decodes | where pictures are then |
|---|---|---|
| cuda | NVDEC, of FFmpeg's own decoders | on the GPU where torch can use them, else in host memory |
| qsv | Intel's, by FFmpeg's `…_qsv` decoders | in host memory |
| drm | a board's, by V4L2 (`…_v4l2m2m` decoders) | in host memory |
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib.util
import logging
from typing import Literal, cast

from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

log = logging.getLogger(__name__)

Device = Literal["cuda", "qsv", "drm"]

DEVICES: tuple[Device, ...] = ("cuda", "qsv", "drm")
"""In the order in which "auto" looks for them."""

DECODERS = {"qsv": "{}_qsv", "drm": "{}_v4l2m2m"}
"""FFmpeg's names of decoders that are not its own ones with a device."""

LIBRARIES = {"cuda": "libnvcuvid.so.1"}  # FFmpeg opens them at the first picture only


def device_of(hwaccel: str, stream: str) -> Device | None:
    """The device that a stream is decoded on by its setting; None for the CPU.

    What was asked for and is missing is logged once for a stream, what "auto" found once for all. Call it in
    the thread that opens the source.
    """
    if hwaccel == "auto":
        return _found()
    if hwaccel == "none":
        return None
    device = cast(Device, hwaccel)
    if problem := _problem(device):
        line = f"{stream}: no {device} decoder on this machine ({problem}); decoding on the CPU"
        _tell(logging.WARNING, line)
        return None
    return device


def hardware_decoder(device: Device | None) -> HWAccel | None:
    """What PyAV opens a source with to decode on this device; None where a decoder of its own does.

    A codec that the device does not decode is decoded on the CPU.
    """
    if device != "cuda":
        return None
    if why_not_on_gpu(device):
        return HWAccel(device, allow_software_fallback=True)
    _make_context_current()
    # The context of this thread, which is torch's. Asking for the primary one, the same, is refused where
    # torch was there first: FFmpeg wants other flags for it.
    shared: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    return HWAccel(device, allow_software_fallback=True, is_hw_owned=True, options=shared)


def decoder_of(video: VideoStream, device: Device | None, stream: str) -> VideoCodecContext:
    """What decodes a video: the container's own decoder, or that of a device, opened."""
    own = video.codec_context
    if device not in DECODERS:
        if device is not None and not own.is_hwaccel:
            _tell(logging.WARNING, f"{stream}: {device} does not decode {own.name}; decoding on the CPU")
        return own
    try:
        decoder = _opened(DECODERS[device].format(own.name), device, own)
    except UnknownCodecError:
        _tell(logging.WARNING, f"{stream}: {device} does not decode {own.name}; decoding on the CPU")
    except (FFmpegError, NotImplementedError, ValueError) as error:
        what = f"this {own.name} ({_in_words(error, device)})"
        _tell(logging.WARNING, f"{stream}: {device} does not decode {what}; decoding on the CPU")
    else:
        _tell(logging.INFO, f"{stream}: decoded by {decoder.name}")
        return decoder
    return own


def why_not_on_gpu(kind: Device) -> str:
    """Why pictures of this device are copied to the host at once; empty where they can stay."""
    if problem := _problem(kind):
        return f"no {kind} decoder on this machine ({problem})"
    return _torch_problem()


def _opened(name: str, device: Device, like: VideoCodecContext) -> VideoCodecContext:
    """A decoder of that name for what another one would decode."""
    accelerated = HWAccel(device) if Codec(name, "r").hardware_configs else None
    decoder = cast(VideoCodecContext, CodecContext.create(name, "r", accelerated))
    decoder.extradata = like.extradata
    decoder.width, decoder.height = like.width, like.height
    decoder.open()
    return decoder


@functools.cache
def _found() -> Device | None:
    problems = {}
    for device in DEVICES:
        problem = _problem(device)
        if not problem:
            log.info('hwaccel = "auto": decoding on %s', device)
            return device
        problems[device] = problem
    told = "; ".join(f"{device}: {problem.partition('; ')[0]}" for device, problem in problems.items())
    log.info('hwaccel = "auto": no decoder but the CPU\'s on this machine (%s)', told)
    return None


@functools.cache
def _problem(kind: Device) -> str:
    """Why nothing can be decoded on this device; empty where H.264 can."""
    try:
        if kind in LIBRARIES:
            ctypes.CDLL(LIBRARIES[kind])
    except OSError:
        return (
            f"{LIBRARIES[kind]} is missing: install the NVIDIA driver's decoder library; "
            "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,video"
        )
    name = DECODERS.get(kind, "{}").format("h264")
    try:
        codec = Codec(name, "r")
        if kind == "drm":
            trial = cast(VideoCodecContext, CodecContext.create(name, "r"))
            trial.width, trial.height = 640, 480
            trial.open()
        else:
            HWAccel(kind).create(codec)
    except UnknownCodecError:
        return f"this build of FFmpeg has no {name}"
    except (FFmpegError, NotImplementedError, ValueError) as error:
        return _in_words(error, kind)
    return ""


def _in_words(error: Exception, device: Device) -> str:
    if device == "drm":
        return "no V4L2 device decodes it"
    if device == "qsv" and getattr(error, "errno", None) == errno.ENOSYS:
        return "FFmpeg was built without VAAPI, as in PyAV's wheels; build PyAV against the system's FFmpeg"
    return str(error).rpartition("last error log: ")[2] or type(error).__name__


@functools.cache
def _torch_problem() -> str:
    if importlib.util.find_spec("torch") is None:
        return "torch, which would use them on the device, is not installed"
    import torch

    return "" if torch.cuda.is_available() else "the torch that is installed has no CUDA"


def _make_context_current() -> None:
    """Have CUDA's runtime make its context, which is torch's, that of this thread; any call of it does."""
    import torch

    torch.cuda.mem_get_info()


@functools.cache
def _tell(level: int, line: str) -> None:
    """Log it once: a camera of snapshots is opened for each picture."""
    log.log(level, "%s", line)
