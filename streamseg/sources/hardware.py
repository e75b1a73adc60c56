"""Decoding on a GPU's video decoder, where there is one."""

from __future__ import annotations

import functools
import logging

from av.codec import Codec
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError

log = logging.getLogger(__name__)


def hardware_decoder(kind: str, stream: str) -> HWAccel | None:
    """What PyAV opens a source with to decode on such a device; None, told once for a stream, without one.

    Pictures come back to memory. A codec that the device does not decode is decoded on the CPU.
    """
    problem = _problem(kind)
    if problem:
        _tell(kind, stream, problem)
        return None
    return HWAccel(kind, allow_software_fallback=True)


@functools.cache
def _problem(kind: str) -> str:
    try:
        HWAccel(kind).create(Codec("h264", "r"))
    except (FFmpegError, NotImplementedError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


@functools.cache
def _tell(kind: str, stream: str, problem: str) -> None:
    log.warning("%s: there is no %s decoder here (%s); decoding on the CPU", stream, kind, problem)
