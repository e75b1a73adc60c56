"""Detailed pictures of streams: each by a connection of its own to the camera's large stream, then closed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait

from streamseg.config import StreamConfig
from streamseg.config.sharing import shared_with
from streamseg.errors import ControlError, SourceError, one_line
from streamseg.outputs.previews import jpeg_of
from streamseg.sources import open_source
from streamseg.sources.frames import FrameMaker
from streamseg.sources.opening import OPEN_EXTRA_S
from streamseg.sources.target import detail_of
from streamseg.types import Frame
from streamseg.wire.control import MAX_JPEG, DetailPicture

log = logging.getLogger(__name__)

JPEG_QUALITY = 90


class Details:
    """Opens detail sources, in the threads that ask. Any thread may call.

    Who asks for a picture of a stream while one is on its way gets that one: a camera has few connections.
    """

    def __init__(self, configs: Callable[[], Mapping[str, StreamConfig]]) -> None:
        """configs: the settings of all streams."""
        self._configs = configs
        self._lock = threading.Lock()  # guards all below; not held while anything waits
        self._openings: set[_Opening] = set()
        self._closed = False

    def names(self) -> list[str]:
        """The streams that have a detail source."""
        configs = self._configs()
        return [name for name in configs if _leader(configs, name)[1].detail_source]

    def picture(self, stream: str) -> DetailPicture:
        """Open a stream's detail source for a picture, or wait for one on its way; raises ControlError."""
        with self._lock:
            if self._closed:
                raise _stopping()
            configs = self._configs()
            if stream not in configs:
                names = ", ".join(configs) or "none"
                raise ControlError("unknown stream", f"{stream}: unknown stream (streams: {names})")
            name, config = _leader(configs, stream)
            if not config.detail_source:
                way = "set it to the address of the camera's large stream, or of its snapshots"
                raise ControlError("bad state", f"{name}: has no detail_source; {way}")
            known = [one for one in self._openings if (one.stream, one.config) == (name, config)]
            opening = known[0] if known else _Opening(name, config)
            self._openings.add(opening)
        if not known:
            self._run(opening, len(configs))
        return opening.made.result()

    def forget(self, stream: str) -> None:
        """Break off what is opened for a removed stream."""
        with self._lock:
            openings = [one for one in self._openings if one.stream == stream]
        for one in openings:
            one.end(ControlError("unknown stream", f"{stream}: was removed meanwhile"))

    def close(self) -> None:
        """Break off everything, and open nothing more; returns at once."""
        with self._lock:
            self._closed = True
            openings = list(self._openings)
        for one in openings:
            one.end(_stopping())

    def join(self, deadline_s: float) -> bool:
        """Wait until that monotonic time for what was broken off; True when nothing is open."""
        with self._lock:
            made = [one.made for one in self._openings]
        return not wait(made, max(0.0, deadline_s - time.monotonic())).not_done

    def _run(self, opening: _Opening, streams: int) -> None:
        try:
            opening.made.set_result(opening.picture(streams))
        except BaseException as error:
            opening.made.set_exception(error)  # for those who wait for it, too
            raise
        finally:
            with self._lock:
                self._openings.discard(opening)


class _Opening:
    """One picture on its way. Its source belongs to the thread that calls picture()."""

    def __init__(self, stream: str, config: StreamConfig) -> None:
        self.stream, self.config = stream, config
        self.limit_s = 2 * config.timeout_s + OPEN_EXTRA_S  # to open it, and for its first intra frame
        self.stop = _Deadline(self.limit_s)
        self.made: Future[DetailPicture] = Future()
        self._ended: ControlError | None = None  # why it was broken off

    def end(self, why: ControlError) -> None:
        """Break off, from any thread."""
        self._ended = why
        self.stop.set()

    def picture(self, streams: int) -> DetailPicture:
        """Open, decode up to the first picture, close; raises ControlError."""
        begun_s = time.monotonic()
        try:
            frame = self._first(streams)
            jpeg = jpeg_of(frame.rgb, JPEG_QUALITY)
        except Exception as error:  # of any kind it is the source's failure, as of a stream
            log.debug("%s: no detailed picture", self.stream, exc_info=error)
            if self._ended is not None:
                raise self._ended from None
            problem = f"its detail_source failed inside: {type(error).__name__}: {one_line(error)}"
            if isinstance(error, SourceError):
                problem = str(error)
            if self.stop.is_set():
                problem = f"its detail_source has given no picture in {self.limit_s:g} s"
            raise ControlError("failed", f"{self.stream}: {problem}") from None
        height, width = frame.size
        took_s = time.monotonic() - begun_s
        log.info("%s: a detailed picture, %dx%d, in %.1f s", self.stream, width, height, took_s)
        if len(jpeg) > MAX_JPEG:
            raise ControlError(
                "failed", f"{self.stream}: a picture of {width}x{height} is too large to be sent"
            )
        return DetailPicture(
            jpeg=jpeg, size=frame.size, captured_unix_ns=frame.captured_unix_ns, clock=frame.clock
        )

    def _first(self, streams: int) -> Frame:
        wanted = detail_of(self.config)
        assert wanted is not None, "asked only where it has one"
        with open_source(wanted, self.stream, self.stop, streams=streams + 1, prompt=True) as source:
            return FrameMaker(source, self.stream, 0).frame(source.pending[0])


class _Deadline(threading.Event):
    """An event that is set by itself after a time."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._over_s = time.monotonic() + limit_s

    def is_set(self) -> bool:
        return super().is_set() or time.monotonic() >= self._over_s


def _leader(configs: Mapping[str, StreamConfig], name: str) -> tuple[str, StreamConfig]:
    """The stream whose source a stream's frames come from, and its settings."""
    of = shared_with(configs[name])
    return (of, configs[of]) if of in configs else (name, configs[name])


def _stopping() -> ControlError:
    return ControlError("stopping", "picture: the daemon is stopping")
