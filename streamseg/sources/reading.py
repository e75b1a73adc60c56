"""Reading an opened container: packets to pictures, with what is damaged counted and what stalls noticed."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from streamseg.errors import SourceEnded, SourceError
from streamseg.sources.best_effort import BestEffort
from streamseg.sources.damage import Missing, missing
from streamseg.sources.edge import LiveEdge, LiveReading
from streamseg.sources.events import SourceEvent
from streamseg.sources.explain import reading_explained
from streamseg.sources.jpeg import JpegDecoder
from streamseg.sources.skipping import DecodeLess
from streamseg.sources.target import Target
from streamseg.sources.watch import Watch
from streamseg.types import Size

MAX_READ_ERRORS = 32
"""Errors in a row after which the rest of a damaged file is given up."""

BROKEN = (errno.EIO, errno.ECONNRESET, errno.ETIMEDOUT, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH)
"""Errors of a connection, and not of what came over it."""

CAMERA_POLL_S = 0.004
WITHOUT_PTS = ("avi", "asf")  # one time stamp for each packet, by decoding order; PTS are derived from it
HELD = 2  # packets in a demuxer
JOINED_S = 10.0  # a jump ahead by more is another recording, and no loss


@dataclass(slots=True, eq=False)
class OpenSource:
    """A source whose first picture has been decoded. Belongs to the thread that opened it.

    Made by open_source; only reading changes it: corrupt, damage, pending, reached and clock.

    live says that newest wins: a camera, an address, or a file played in real time. endless says that no end
    is expected, so that an end is a disconnect: a camera or a stream, but not a whole file behind http://.
    paced says that pictures come faster than their time and are held back until it: newest would win.
    corrupt counts packets and pictures that were damaged or left out; damage says, in one line, what is known
    to be missing once a file has ended (None while nothing is).
    """

    target: Target
    container: InputContainer
    video: VideoStream
    decoder: VideoCodecContext | JpegDecoder  # the container's own, a device's, or one that decodes less
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
    reached: Reached = field(default_factory=lambda: Reached())
    clock: BestEffort = field(default_factory=lambda: BestEffort())
    edge: LiveEdge | None = None  # of an endless source
    less: DecodeLess | None = None  # of a live stream: what max_fps does not need is left out
    over: bool = False  # it ended by itself, without an error
    report: Callable[[SourceEvent], None] = lambda event: None

    def seek(self, offset: int, stream: VideoStream | None = None) -> None:
        """Go to about `offset` (µs, or units of the stream's time base); the next picture tells where."""
        self.pending.clear()
        self.container.seek(offset, stream=stream, backward=True)
        self.reached, self.clock = Reached(), BestEffort()

    @property
    def by_device(self) -> bool:
        """Whether a GPU or a board decodes it."""
        return self.decoder is not self.video.codec_context or self.decoder.is_hwaccel

    @property
    def path(self) -> Path | None:
        """The file on this machine; None for what cannot be opened twice: addresses, pipes."""
        return self.target.path if self.target.kind == "file" and self.target.path.is_file() else None

    @property
    def url(self) -> str:
        """The source as it may be shown: without passwords."""
        return self.target.shown


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPicture:
    """A decoded picture as FFmpeg has it, and how long decoding took.

    Its image.pts is FFmpeg's best_effort_timestamp. time_s is that in seconds; one frame after the picture
    before, by the rate, where there is none.
    arrived_ns: monotonic, when its packet entered the machine; None where that is of no matter.
    whole_size: of a JPEG that was decoded smaller.
    """

    image: VideoFrame
    decode_ns: int
    time_s: Fraction
    arrived_ns: int | None = None
    whole_size: Size | None = None


@dataclass(slots=True)
class Reached:
    """How far reading a file has come. Streams are named by their index, times are in their time base."""

    pictures: int = 0
    packets: int = 0  # of the video, that were not empty
    empty: int = 0
    first_dts: int | None = None
    last_dts: int = 0
    reorders: bool = False  # a packet of the video had another PTS than DTS
    ends: dict[int, int] = field(default_factory=dict)  # of each stream, the latest end of a packet
    before: dict[int, int] = field(default_factory=dict)  # of each other video, our packets before its first
    marked: int = 0  # packets behind a mark that still tell whether it is harmless
    intra: bool = False  # the last packet

    def add(self, packet: av.Packet[Any], video: int) -> bool:
        """Count a packet → whether pictures are missing before it, by a mark of the demuxer.

        A mark alone is no damage: MPEG-TS has one where its counter jumps, also where recordings were joined:
        an intra frame follows, at once or behind one that a parser held, and no time is left out.
        """
        index, stamp = packet.stream_index, packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            end = stamp + (packet.duration or 0)
            self.ends[index] = max(self.ends.get(index, end), end)
        if not packet.size or index != video:
            self.empty += index == video and packet.dts is not None  # PyAV ends each stream with one without
            if packet.size and isinstance(packet.stream, VideoStream):
                self.before.setdefault(index, self.packets)
            return False
        self.packets += 1
        self.reorders = self.reorders or packet.pts != packet.dts
        self.first_dts = packet.dts if self.first_dts is None else self.first_dts
        inter = not packet.is_keyframe and not self.intra
        lost = self.marked > 0 and (self._skips(packet) or (self.marked == 1 and inter))
        self.marked = 2 if packet.is_corrupt else 0 if lost else max(0, self.marked - 1)
        self.intra = packet.is_keyframe
        self.last_dts = self.last_dts if packet.dts is None else packet.dts
        return lost

    @property
    def behind(self) -> list[int]:
        """Other videos that began where this one ended."""
        return [index for index, count in self.before.items() if self.packets - HELD <= count > HELD]

    def _skips(self, packet: av.Packet[Any]) -> bool:
        """Whether time is left out before a packet: more than a frame, less than between two recordings."""
        second = 1 / (packet.time_base or Fraction(1, 90_000))
        step = (packet.dts if packet.dts is not None else self.last_dts) - self.last_dts
        return 1.5 * (packet.duration or second / 25) < step < JOINED_S * second


def pictures(source: OpenSource, stop: threading.Event) -> Iterator[DecodedPicture]:
    """Yield every picture from where the source stands, the decoder's last ones at its end included.

    Ends at a file's end or when `stop` is set; raises SourceEnded when an endless source ends, goes silent,
    or repeats one time stamp for `timeout_s`.
    """
    with reading_explained(source.target, source.timeout_s):
        for picture in _read(source, stop):
            source.reached.pictures += 1
            yield picture
    if stop.is_set():
        return
    source.over = True
    if source.endless:
        raise SourceEnded(f"{source.url}: ended")
    note_damage(source)


def note_damage(source: OpenSource, *, ended: bool = True) -> None:
    """Say in source.damage what is known to be missing. ended: the file has been read up to its end."""
    if source.less is not None and source.less.skipping.left_out:
        source.reached.pictures = max(source.reached.pictures, source.reached.packets)
    whole = source.container, source.video, source.path, source.fps, source.reached
    found = missing(*whole) if ended else Missing()
    source.corrupt = max(source.corrupt, found.pictures)
    source.damage = found.told(source.url, source.reached.pictures, source.corrupt)


def first_picture(source: OpenSource, stop: threading.Event) -> DecodedPicture | None:
    """Decode up to the first picture, which the next reader gets too; None where there is none."""
    with reading_explained(source.target, source.timeout_s):
        for picture in _read(source, stop, first=True):
            source.pending.appendleft(picture)  # before those that the same packet gave
            return picture
    return None


def _read(source: OpenSource, stop: threading.Event, first: bool = False) -> Iterator[DecodedPicture]:
    if not stop.is_set():
        yield from _pending(source)
    watch = Watch(source, first=first) if source.endless else None
    edge = source.edge
    reading = None if edge is None else LiveReading(edge, source.decoder, source.fps, source.report)
    errors, packets, ogg = 0, _packets(source), source.container.format.name == "ogg"
    while not stop.is_set():
        if watch is not None:
            watch.check()
        asked = time.monotonic()
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # A camera, opened without blocking, has no picture yet; a file says it where MPEG-TS is zeros.
            if watch is not None and isinstance(error, BlockingIOError):
                packets = _packets(source)
                stop.wait(CAMERA_POLL_S)
                continue
            if watch is not None:
                raise TimeoutError if watch.silent(asked) else error from None
            if source.target.kind == "network" and getattr(error, "errno", None) in BROKEN:
                raise  # what is behind is not damaged; it comes when the server is asked again
            source.corrupt += 1
            errors += 1
            if errors > MAX_READ_ERRORS:
                break
            packets = _packets(source)
            continue
        if watch is not None and watch.silent(asked):
            raise TimeoutError
        errors = 0
        if watch is None and source.reached.add(packet, source.video.index):
            source.corrupt += 1
        # One without bytes says that the picture stays as it is; PyAV also ends each stream with one.
        if not packet.size or packet.stream_index != source.video.index:
            continue
        if ogg and bytes(packet).startswith(b"OVP80"):  # VP8's header, in a further link of a chain
            continue
        if packet.has_sidedata("encryption_info") or "enc_key_id" in source.video.metadata:
            raise SourceError(f"{source.url}: is encrypted (DRM); decrypt it, or record it without")
        if watch is not None:
            if packet.is_corrupt:
                source.corrupt += 1
                continue
            watch.sent()
        if _to_decode(source, packet, reading, watch):
            for picture in _decoded(source, packet, reading):
                source.pending.append(picture)
                if watch is not None:
                    watch.seen(picture.image.pts)
        handed_over = time.monotonic()
        yield from _pending(source)
        if watch is not None:
            watch.excuse(time.monotonic() - handed_over)
        if reading is not None:
            reading.resume()
    if not stop.is_set():
        source.corrupt, source.reached.marked = source.corrupt + (source.reached.marked > 0), 0
        source.pending.extend(_decoded(source, None, reading))
        yield from _pending(source)


def _to_decode(
    source: OpenSource, packet: av.Packet[Any], reading: LiveReading | None, watch: Watch | None
) -> bool:
    """Whether a packet is decoded, or left out to come back to the live edge, or because of max_fps."""
    near, less = reading is None or reading.takes(packet), source.less
    if less is None or less.takes(packet):
        return near
    if near:
        less.left_out()
        if watch is not None and less.skipping.patient:
            watch.seen(packet.pts)
    return False


def _pending(source: OpenSource) -> Iterator[DecodedPicture]:
    """Hand over what has been decoded; the rest stays for the next reader when this one is left."""
    while source.pending:
        yield source.pending.popleft()


def _packets(source: OpenSource) -> Iterator[av.Packet[Any]]:
    """All packets, also of sound: where the picture ends or stands still, it tells how far the source goes.

    Not those of MP4, which has an index instead: of a fragment that is cut more comes without other tracks.
    """
    if source.endless or not source.container.format.name.startswith("mov,"):
        return source.container.demux()
    for stream in source.container.streams:
        if stream is not source.video:
            stream.discard = Discard.all
    return source.container.demux(source.video)


def _decoded(
    source: OpenSource, packet: av.Packet[Any] | None, reading: LiveReading | None = None
) -> Iterator[DecodedPicture]:
    """Decode one packet (None: what the decoder still holds), without a live source's damaged pictures."""
    started = time.monotonic_ns()
    decode = source.decoder.decode if reading is None else reading.decode
    if source.less is not None:
        decode = partial(source.less.decode, decode)
    images: list[VideoFrame] = []
    for _ in range(MAX_READ_ERRORS):
        try:
            images = decode(packet)
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError, ValueError):
            source.corrupt += 1
            if packet is None:
                continue  # a damaged last picture must not take those behind it along
        break
    took = (time.monotonic_ns() - started) // max(1, len(images))
    has_pts = source.container.format.name not in WITHOUT_PTS
    for image in images:
        if image.time_base is None:  # PyAV leaves it out when it flushes without a packet
            image.time_base = source.video.time_base
        arrived_ns = None if reading is None else reading.arrived_ns(image)
        time_s = source.clock(image, source.fps, has_pts=has_pts)
        if image.is_corrupt:
            source.corrupt += 1
            if source.live:
                continue
        if reading is None or reading.shows():
            whole = source.decoder.whole_size if isinstance(source.decoder, JpegDecoder) else None
            yield DecodedPicture(image, took, time_s, arrived_ns, whole)
