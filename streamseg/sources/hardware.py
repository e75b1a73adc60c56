"""Decoding on a GPU's video decoder, where there is one."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging

from av.codec import Codec
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError

log = logging.getLogger(__name__)


def hardware_decoder(kind: str, stream: str) -> HWAccel | None:
    """What PyAV opens a source with to decode on such a device; None, logged once for a stream, without one.

    Pictures stay on the device where torch can use them, else they are copied to the host. A codec that the
    device does not decode is decoded on the CPU. Call it in the thread that opens the source.
    """
    problem = _problem(kind)
    if problem:
        _warn(kind, stream, problem)
        return None
    if why_not_on_gpu(kind):
        return HWAccel(kind, allow_software_fallback=True)
    _make_context_current()
    # The context of this thread, which is torch's. Asking for the primary one, the same, is refused where
    # torch was there first: FFmpeg wants other flags for it.
    shared: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    return HWAccel(kind, allow_software_fallback=True, is_hw_owned=True, options=shared)


def why_not_on_gpu(kind: str) -> str:
    """Why pictures of this device are copied to the host at once; empty where they can stay."""
    if problem := _problem(kind):
        return f"no {kind} decoder on this machine ({problem})"
    return _torch_problem()


LIBRARIES = {"cuda": "libnvcuvid.so.1"}  # FFmpeg opens them at the first picture only


@functools.cache
def _problem(kind: str) -> str:
    try:
        if kind in LIBRARIES:
            ctypes.CDLL(LIBRARIES[kind])
    except OSError:
        return (
            f"{LIBRARIES[kind]} is missing: install the NVIDIA driver's decoder library; "
            "a container needs NVIDIA_DRIVER_CAPABILITIES=compute,video"
        )
    try:
        HWAccel(kind).create(Codec("h264", "r"))
    except (FFmpegError, NotImplementedError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


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
def _warn(kind: str, stream: str, problem: str) -> None:
    log.warning("%s: no %s decoder on this machine (%s); decoding on the CPU", stream, kind, problem)
