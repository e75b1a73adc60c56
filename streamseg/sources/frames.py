"""Container → Frame: every picture upright, with the container's own time stamps.

As the decoder left it: in host memory, or, of a GPU's decoder, in device memory.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

from streamseg.sources.events import ClockOff
from streamseg.sources.jpeg import SmallerPicture
from streamseg.sources.picture import ON_GPU, HostPicture, RgbConverter, to_host
from streamseg.sources.pixel_format import LUMA_OF_RED_AND_BLUE, colours_of, has_planes
from streamseg.sources.reading import DecodedPicture, OpenSource, pictures
from streamseg.sources.surface import UPRIGHT, Surface, Turn
from streamseg.types import DEFAULT_SETTINGS, Clock, Frame, FrameSettings, Size, Stamp
from streamseg.types.picture import Picture

_STAY = ("nv12", "p010le")  # of those, what is used on the device; 4:4:4 is copied to the host
# How far a camera's time may be before and behind the arrival of its picture: delay, and two good clocks.
_MOST_DELAY_NS, _MOST_AHEAD_NS = 5_000_000_000, 300_000_000
# How far it may move from where it was: a clock that steps, and one that drifts for hours.
_MOST_MOVED_NS = 1_000_000_000


def decode(
    source: OpenSource, stream: str, epoch: int = 0, stop: threading.Event | None = None
) -> Iterator[Frame]:
    """Yield every frame of an open source, the decoder's last ones included; to be called once per source.

    pts and time_base are the container's. Damaged packets are left out and counted in source.corrupt; a file
    that ends before its time says so in source.damage. Ends at a file's end or when `stop` is set; raises
    SourceEnded when a live source ends or goes silent.
    """
    maker = FrameMaker(source, stream, epoch)
    for picture in pictures(source, stop if stop is not None else threading.Event()):
        yield maker.frame(picture)


class FrameMaker:
    """Makes the Frames of one epoch, numbered as they come. One thread uses it."""

    def __init__(
        self,
        source: OpenSource,
        stream: str,
        epoch: int,
        settings: Callable[[], FrameSettings] = lambda: DEFAULT_SETTINGS,
    ) -> None:
        """settings: returns those that the next frame refers to."""
        self.source, self.stream, self.epoch, self.settings = source, stream, epoch, settings
        self.seq = 0
        self.to_rgb = RgbConverter()
        self.turning = Turning()
        self._kind = ("", 0, 0)  # of the picture before
        self._clock_believed = True
        self._least_delay_ns = _MOST_DELAY_NS

    def skip(self) -> None:
        """Leave out a decoded picture: its number is used up, nothing is converted."""
        self.seq += 1

    def frame(self, picture: DecodedPicture) -> Frame:
        started = time.monotonic_ns()
        image = picture.image
        made = self._picture(image, self.turning.of(image))
        if picture.whole_size is not None:
            made = SmallerPicture(made, picture.whole_size)
        seq, self.seq = self.seq, self.seq + 1
        arrived_ns = started if picture.arrived_ns is None else picture.arrived_ns
        captured_unix_ns, clock = self._captured(image, started - arrived_ns)
        time_base = image.time_base or self.source.video.time_base
        assert time_base is not None, "a decoded video frame has a time base"
        now = time.monotonic_ns()
        stamp = Stamp(self.stream, self.epoch, seq, image.pts, time_base, captured_unix_ns, clock)
        decode_us = (picture.decode_ns + now - started) // 1000
        return Frame(stamp, made, now, decode_us, self.settings(), arrived_ns)

    def _picture(self, image: VideoFrame, turn: Turn) -> Picture:
        if image.format.name != ON_GPU or image.sw_format is None:
            return self._on_host(image, turn)
        if image.sw_format.name not in _STAY:
            return self._on_host(to_host(image), turn)
        matrix, full = colours_of(image)
        luma, chroma = image.planes
        to_rgb = self.to_rgb  # without the source, which a picture that is kept must not keep
        return Surface(
            luma,
            chroma,
            (image.height, image.width),
            lambda: HostPicture(to_host(image), turn, to_rgb),
            turn=turn,
            luma_of_red_and_blue=LUMA_OF_RED_AND_BLUE[matrix],
            full_range=full,
        )

    def _on_host(self, image: VideoFrame, turn: Turn) -> HostPicture:
        """The picture; one of a new kind is converted at once: what cannot be is the source's failure."""
        made = HostPicture(image, turn, self.to_rgb)
        kind = image.format.name, image.width, image.height
        if kind != self._kind and not has_planes(image):
            made.rgb()
        self._kind = kind
        return made

    def _captured(self, image: VideoFrame, since_arrival_ns: int) -> tuple[int, Clock]:
        """When the camera took the picture (RTCP ties PTS 0 to its clock), else when its packet arrived.

        A camera whose clock cannot be right is not believed again for as long as it is connected.
        """
        arrived = time.time_ns() - since_arrival_ns
        start_us = self.source.container.start_time_realtime if self.source.endless else None
        if not self._clock_believed or start_us is None or start_us <= 0:
            return arrived, "arrival"
        if image.pts is None or image.time_base is None:
            return arrived, "arrival"
        captured = start_us * 1000 + round(image.pts * image.time_base * 1_000_000_000)
        delay_ns = arrived - captured
        self._least_delay_ns = min(self._least_delay_ns, delay_ns)
        moved_ns = delay_ns - self._least_delay_ns  # `arrived` leaves out what the network adds
        if -_MOST_AHEAD_NS <= delay_ns <= _MOST_DELAY_NS and moved_ns <= _MOST_MOVED_NS:
            return captured, "camera"
        self._clock_believed = False
        self.source.report(ClockOff(self.source.url, -delay_ns / 1e9))
        return arrived, "arrival"


def turn_of(image: VideoFrame) -> Turn:
    """How this picture has to be turned: the display matrix, as the nearest of its eight right-angled cases.

    FFmpeg's matrix takes (x, y) to (a·x + c·y, b·x + d·y), with y downwards (libavutil/display.h).
    """
    matrix = display_matrix(image)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("<5i", matrix[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def display_matrix(image: VideoFrame) -> bytes | None:
    """The nine int32 of a picture's display matrix; None where it has none."""
    for data in cast("Iterable[SideData]", image.side_data):  # its stub says dict; it is a sequence
        if data.type == Type.DISPLAYMATRIX:
            return bytes(data)
    return None


def _unknown_side_data(kind: type[Type], value: int) -> Type:
    """A member for side data that this PyAV has no name for: UNKNOWN_<value>, as PyAV 19 has it.

    PyAV 18 raises for it as soon as any side data of the picture is asked for, and what a newer FFmpeg adds
    (31: EXIF, 28: LCEVC, 29 and 30: views of spatial video) is no reason to stop.
    """
    member = object.__new__(kind)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value  # type: ignore[assignment]
    return member


if "_missing_" not in vars(Type):
    Type._missing_ = classmethod(_unknown_side_data)  # type: ignore[method-assign,assignment]


class Turning:
    """How the pictures of one connection have to be turned, one after the other.

    Asking PyAV for a picture's side data ties both together in a cycle, so that its pixels stay in memory
    until Python collects cycles: 3 MB for each picture of 1080p, by the hundred. So it is asked again only
    when the angle changes, which PyAV reports without that.
    """

    def __init__(self) -> None:
        self._angle: int | None = None
        self._turn = UPRIGHT

    def of(self, image: VideoFrame) -> Turn:
        """turn_of() of this picture. A mirroring that begins midway without a new angle is not seen."""
        angle = image.rotation
        if angle != self._angle:
            self._angle, self._turn = angle, turn_of(image)
        return self._turn


def oriented_size(image: VideoFrame) -> Size:
    """(height, width) of the picture once turned."""
    return (image.width, image.height) if turn_of(image)[0] else (image.height, image.width)
