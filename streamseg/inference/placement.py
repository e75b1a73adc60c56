"""Where the pictures of a stream lie that asks for a GPU's decoder, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable

from streamseg.config import StreamConfig
from streamseg.inference.backends.protocol import Engine
from streamseg.inference.infer import accepts_device_frames
from streamseg.sources.hardware import why_not_on_gpu
from streamseg.sources.surface import Surface
from streamseg.types import Frame

log = logging.getLogger(__name__)


class FramePlacement:
    """Brings pictures here that will be wanted here, and says where those of a stream lie when that changes.

    apply() is called in a stream's own thread: so it is there that a picture is fetched and converted, and
    not in a thread that the network works in; in stage_us it counts as `wait`. The engine's info is read
    there while it may change: a stale answer costs one copy.
    """

    def __init__(self, engine: Engine, needed_on_host: Callable[[str], bool]) -> None:
        """needed_on_host: whether the CRF or fusion has a stream's pictures."""
        self._engine = engine
        self._needed_on_host = needed_on_host
        self._told: dict[str, str] = {}  # by stream; each is written in its stream's thread only

    def apply(self, frame: Frame, config: StreamConfig) -> None:
        """Take a look at a stream's next frame."""
        if config.hwaccel == "none":
            return
        why_here = self._why_here(frame, config.hwaccel)
        if why_here:
            _ = frame.rgb
        if self._told.get(frame.stream) == why_here:
            return
        self._told[frame.stream] = why_here
        if why_here:
            log.info("%s: pictures come to memory: %s", frame.stream, why_here)
        else:
            log.info("%s: pictures stay on the GPU", frame.stream)

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        self._told.pop(stream, None)

    def _why_here(self, frame: Frame, kind: str) -> str:
        if not isinstance(frame.picture, Surface):
            return why_not_on_gpu(kind) or f"{kind} does not decode this stream, or not to 4:2:0"
        if not accepts_device_frames(self._engine, frame):
            return f"{self._engine.info.id} takes them there"
        if self._needed_on_host(frame.stream):
            return "the CRF or fusion wants them there"
        return ""
