"""Reading an opened container: packets to pictures, with what is damaged counted and what stalls noticed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamseg.errors import SourceEnded
from streamseg.sources.edge import LiveEdge, LiveReading
from streamseg.sources.events import SourceEvent, Waiting
from streamseg.sources.explain import reading_explained
from streamseg.sources.target import Target
from streamseg.types import Size

MAX_READ_ERRORS = 32
"""Errors in a row after which the rest of a damaged file is given up."""

CAMERA_POLL_S = 0.004

INTRA_S = 120.0
"""Longest wait for an intra frame while data comes."""


@dataclass(slots=True, eq=False)
class OpenSource:
    """A source whose first picture has been decoded. Belongs to the thread that opened it.

    Made by open_source; only reading changes it: corrupt, damage and pending.

    live says that newest wins: a camera, an address, or a file played in real time. endless says that no end
    is expected, so that an end is a disconnect: a camera or a stream, but not a whole file behind http://.
    paced says that pictures come faster than their time and are held back until it: newest would win.
    corrupt counts packets and pictures that were damaged and left out; damage says, in one line, that a file
    ended before its time (None while it has not).
    """

    target: Target
    container: InputContainer
    video: VideoStream
    live: bool
    endless: bool
    paced: bool
    timeout_s: float
    size: Size
    fps: Fraction | None
    frames_hint: int | None
    duration_s: float | None
    codec: str
    corrupt: int = 0
    damage: str | None = None
    pending: deque[DecodedPicture] = field(default_factory=deque)  # decoded, for the next reader
    edge: LiveEdge | None = None  # of an endless source
    over: bool = False  # it ended by itself, without an error
    report: Callable[[SourceEvent], None] = lambda event: None

    def seek(self, offset: int, stream: VideoStream | None = None) -> bool:
        """Go to the intra frame at or before `offset`: in µs, or in units of the stream's time base.

        False, and nothing is done, where the pictures have no time stamps: a try would lose its place.
        """
        if self.pending and self.pending[0].image.pts is None:
            return False
        self.pending.clear()
        self.container.seek(offset, stream=stream, backward=True)
        return True

    @property
    def url(self) -> str:
        """The source as it may be shown: without passwords."""
        return self.target.shown


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPicture:
    """A decoded picture as FFmpeg has it, and how long decoding took.

    arrived_ns: monotonic, when its packet entered the machine; None where that is of no matter.
    """

    image: VideoFrame
    decode_ns: int
    arrived_ns: int | None = None


def pictures(source: OpenSource, stop: threading.Event) -> Iterator[DecodedPicture]:
    """Yield every picture from where the source stands, the decoder's last ones at its end included.

    Ends at a file's end or when `stop` is set; raises SourceEnded when an endless source ends, goes silent,
    or repeats one time stamp for `timeout_s`.
    """
    count, last_s = 0, 0.0
    with reading_explained(source.target, source.timeout_s):
        for picture in _read(source, stop):
            count += 1
            if picture.image.time is not None:
                last_s = picture.image.time
            yield picture
    if stop.is_set():
        return
    source.over = True
    if source.endless:
        raise SourceEnded(f"{source.url}: ended")
    _note_damage(source, count, last_s)


def first_picture(source: OpenSource, stop: threading.Event) -> DecodedPicture | None:
    """Decode up to the first picture, which the next reader gets too; None where there is none."""
    with reading_explained(source.target, source.timeout_s):
        for picture in _read(source, stop, first=True):
            source.pending.appendleft(
                picture
            )  # before those that one packet, or the file's end, gave with it
            return picture
    return None


def _read(source: OpenSource, stop: threading.Event, first: bool = False) -> Iterator[DecodedPicture]:
    if not stop.is_set():
        yield from _pending(source)
    watch = Watch(source, first=first)
    edge = source.edge
    reading = None if edge is None else LiveReading(edge, source.video, source.fps, source.report)
    errors = 0
    packets = _packets(source)
    while not stop.is_set():
        watch.check()
        asked = time.monotonic()
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.BlockingIOError:  # a camera, opened without blocking, has no picture yet
            stop.wait(CAMERA_POLL_S)
            packets = _packets(source)
            continue
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if source.endless:
                raise TimeoutError if watch.silent(asked) else error from None
            source.corrupt += 1
            errors += 1
            if errors > MAX_READ_ERRORS:
                source.pending.extend(_decoded(source, None))
                yield from _pending(source)
                return
            packets = _packets(source)
            continue
        if watch.silent(asked):
            raise TimeoutError
        errors = 0
        # The empty packet that ends a file says 0, whichever stream it ends.
        if packet.size and packet.stream_index != source.video.index:
            continue
        if packet.is_corrupt:
            source.corrupt += 1
            if source.endless:
                continue
        watch.sent()
        if reading is None or reading.takes(packet):
            for picture in _decoded(source, packet, reading):
                watch.seen(picture.image.pts)
                source.pending.append(picture)
        handed_over = time.monotonic()
        yield from _pending(source)
        watch.excuse(time.monotonic() - handed_over)
        if reading is not None:
            reading.resume()


def _pending(source: OpenSource) -> Iterator[DecodedPicture]:
    """Hand over what has been decoded; the rest stays for the next reader when this one is left."""
    while source.pending:
        yield source.pending.popleft()


def _packets(source: OpenSource) -> Iterator[av.Packet[Any]]:
    # Endless sources are demuxed whole: sound that continues while the picture stands still must wake us too.
    return source.container.demux() if source.endless else source.container.demux(source.video)


def _decoded(
    source: OpenSource, packet: av.Packet[Any] | None, reading: LiveReading | None = None
) -> Iterator[DecodedPicture]:
    """Decode one packet (None: what the decoder still holds), without a live source's damaged pictures."""
    started = time.monotonic_ns()
    flush = packet is None or packet.size == 0
    context = source.video.codec_context
    decode = context.decode if reading is None else reading.decode
    images: list[VideoFrame] = []
    for _ in range(MAX_READ_ERRORS):
        try:
            images = decode(packet)
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError, ValueError):
            source.corrupt += 1
            if flush:
                continue  # a damaged last picture must not take those behind it along
        break
    took = (time.monotonic_ns() - started) // max(1, len(images))
    for image in images:
        if image.time_base is None:  # PyAV leaves it out when it flushes without a packet
            image.time_base = source.video.time_base
        if image.is_corrupt:
            source.corrupt += 1
            if source.live:
                continue
        if reading is None:
            yield DecodedPicture(image, took)
        elif reading.shows():
            yield DecodedPicture(image, took, reading.arrived_ns(image))


class Watch:
    """Notices an endless source that sends bytes but no new picture, or one whose clock stands still.

    While its packets come, an intra frame is waited for up to INTRA_S where connecting again would not bring
    one sooner: before the `first` picture, where no connection is, and where we skip to one ourselves.
    """

    def __init__(
        self, source: OpenSource, clock: Callable[[], float] = time.monotonic, first: bool = False
    ) -> None:
        self.source, self.clock, self.first = source, clock, first
        self.last_picture = self.last_change = self.last_packet = clock()
        self.pts: int | None = None
        self.told = False

    def sent(self) -> None:
        """A packet of the video has come."""
        self.last_packet = self.clock()

    def seen(self, pts: int | None) -> None:
        self.last_picture = self.clock()
        if pts is None or pts != self.pts:
            self.pts, self.last_change = pts, self.last_picture

    def excuse(self, seconds: float) -> None:
        """Leave out the time that the reader of the pictures took."""
        self.last_picture += seconds
        self.last_change += seconds
        self.last_packet += seconds

    def silent(self, asked: float) -> bool:
        """Whether the read begun at `asked` took as long as FFmpeg waits for data.

        FFmpeg has as many errors for silence as it has protocols, and none at first when it still held a
        packet: that comes out late instead, and only the next read, after waiting once more, fails.
        """
        return self.source.endless and self.clock() - asked >= 0.95 * self.source.timeout_s

    def check(self) -> None:
        if not self.source.endless:
            return
        now, limit = self.clock(), self.source.timeout_s
        silent_s = now - self.last_picture
        if limit < silent_s <= INTRA_S and now - self.last_packet <= limit and self._awaits_intra():
            if not self.told:
                self.told = True
                self.source.report(Waiting(self.source.url, limit, INTRA_S))
            return
        if silent_s > limit:
            raise SourceEnded(f"{self.source.url}: sent no picture for {limit:g} s")
        if now - self.last_change > limit:
            raise SourceEnded(f"{self.source.url}: its clock has stood still for {limit:g} s")

    def _awaits_intra(self) -> bool:
        edge = self.source.edge
        skips = edge is not None and (edge.doing == "skip" or edge.thin == "intra")
        return self.first or skips or self.source.target.scheme == "udp"


def _note_damage(source: OpenSource, count: int, last_s: float) -> None:
    """Say in source.damage that pictures of a file are missing, in it or behind the last one that came."""
    promised_s = _promised_s(source)
    spacing_s = float(1 / source.fps) if source.fps else 0.1
    cut = promised_s is not None and last_s + 2.5 * spacing_s < promised_s
    if not cut and not source.corrupt:
        return
    lost = (
        source.frames_hint or 0
    ) - count  # an edit list hides pictures too, so the index alone proves nothing
    source.corrupt = max(source.corrupt, lost, 1)
    source.damage = (
        f"{source.url}: damaged; {count} pictures could be decoded, {source.corrupt} could not"
        + (f"; it ends at {last_s:.2f} s of {promised_s:.2f} s" if cut else "")
    )


def _promised_s(source: OpenSource) -> float | None:
    """When the video ends by its index; None when only other streams could have set the duration."""
    video = source.video
    if video.duration is not None and video.time_base is not None:
        return float((video.duration + (video.start_time or 0)) * video.time_base)
    return source.duration_s if len(source.container.streams) == 1 else None
