"""The live edge: how far reading is behind a live source, and what is left out to come back to it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from streamseg.sources.events import Late, SourceEvent, Thin, Thinned
from streamseg.sources.jpeg import JpegDecoder

BEHIND_S = 1.0
"""Media that waits to be read: with more of it, pictures are left out until there is less than half of it."""

WAITED_S = 0.005
"""A read that took longer had to wait for its packet: nothing else lay ready."""

LATE_SEGMENT_S = 0.3
"""The same for sources that send a segment at a time: more than the request for it takes."""

JUMP_S = 10.0
"""A time stamp further ahead than this is a new clock, not a picture to wait for."""

TRY_S, CATCH_UP_S = 0.5, 2.0
"""After so long of decoding everything that waits, the rest must be done within CATCH_UP_S, or is skipped."""

SOON_S = 10.0
"""Falling behind again within this time is a decoder that is too slow, and not a hiccup."""

STEADY_S, MOST_STEADY_S = 5.0, 60.0
"""How long a thinned stream must keep up before more is decoded; doubled each time that was too much."""

HALF = 0.5
"""Below this share of the media being decoded in time, decoding goes down to intra frames."""

LONGEST_GOP_S = 4.0
"""Intra frames further apart are too rare to be all that is shown; others are decoded while in time."""

PROBE_S, MOST_PROBE_S = 3.0, 300.0
"""When the former delay is tried again after a segment came late; doubled each time that it cannot be had."""

COUNTED_FPS = 25
"""Rate by which pictures without time stamps are counted where the source has not said its own."""

HEAL_S = 30.0
"""After reading did little but wait for so long, what looks like delay is the source's clock."""

Doing = Literal["keep", "catch up", "skip"]


class LiveEdge:
    """Measures a live source's delay by the arrival of its packets, and decides what to leave out.

    Data that nobody reads queues up in sockets, in FFmpeg's buffers, at the server. All that is one number:
    how much later than the promptest packet, by its time stamp, a packet is read. Where that is more than
    `behind_s` and packets lie ready, everything is decoded and not shown as long as that catches up; else
    all is skipped up to an intra frame at the edge. Pure arithmetic; one thread uses it.

    paced: pictures come by the segment and are held back until due_s(); delay counts from the first one's.
    timed: the source has time stamps; else they are counted by the frame rate, and say nothing once reading
    has had to wait.
    """

    def __init__(
        self,
        *,
        paced: bool = False,
        timed: bool = True,
        behind_s: float = BEHIND_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paced, self.timed, self.behind_s, self.clock = paced, timed, behind_s, clock
        self.lag_s = 0.0
        self.doing: Doing = "keep"
        self.thin: Thin = "all"
        self._arrivals: OrderedDict[int, float] = OrderedDict()  # by PTS, of packets not yet seen as pictures
        self.base_s: float | None = None  # clock() - media time of the promptest packet
        self._media_s = 0.0
        self._read_s = clock()
        self._window = [0.0, 0.0, float("inf")]  # seconds, of which waited, least offset
        self._since_s = self._lag_then_s = self._waited_s = 0.0
        self._back_s = float("-inf")  # when the edge was reached last
        self._leap_s = 0.0  # the most by which the delay grew from one packet to the next
        self._steady_s = STEADY_S
        self._changed_s, self._tried = (
            float("-inf"),
            False,
        )  # `thin`; whether to more, to see if that is available
        self._intra_s: float | None = None
        self._gop_s = 0.0
        self._first_base_s: float | None = None
        self._waited_late = False
        self._probe_s, self._probe_at_s = PROBE_S, float("inf")

    def takes(self, media_s: float, pts: int | None, intra: bool, waited_s: float) -> bool:
        """Note a packet that was read now, after waiting for waited_s; False: it is not to be decoded."""
        now = self.clock()
        self._measure(media_s, now, waited_s)
        if pts is not None:
            self._arrivals[pts] = now - self.lag_s
            if len(self._arrivals) > 64:
                self._arrivals.popitem(last=False)
        if intra:
            if self._intra_s is not None:
                self._gop_s = max(0.0, media_s - self._intra_s)
            self._intra_s = media_s
        self._decide(now, intra, waited_s)
        return self.doing != "skip" and (intra or self.thin != "intra")

    @property
    def shows(self) -> bool:
        """Whether pictures decoded now are to be shown: not those that newer ones lie ready behind."""
        return self.doing == "keep"

    @property
    def leaves_unreferenced(self) -> bool:
        """Whether pictures that no other refers to need not be decoded."""
        return self.thin != "all" or self.doing == "catch up"

    def arrived_s(self, pts: int | None, media_s: float | None) -> float:
        """When the packet of a picture entered the machine, by clock(), or would have without queueing.

        Of a paced source: when the picture was due by the schedule that its first one began.
        """
        found = None if pts is None else self._arrivals.pop(pts, None)
        arrived_s = self.clock() - self.lag_s if found is None else found
        if self.paced and media_s is not None and self._first_base_s is not None:
            due_s = media_s + self._first_base_s
            if due_s - self.clock() <= JUMP_S:
                return due_s
        return arrived_s

    def due_s(self, media_s: float) -> float:
        """When a picture of a paced source is due, by clock(); one of a former clock, at once."""
        now = self.clock()
        due_s = now if self.base_s is None else media_s + self.base_s
        return due_s if due_s - now <= JUMP_S else now

    def _measure(self, media_s: float, now: float, waited_s: float) -> None:
        offset_s = now - media_s
        step_s = media_s - self._media_s
        self._media_s = media_s
        if self.base_s is None:
            self.base_s = self._first_base_s = offset_s
        elif step_s < -0.5 or offset_s < self.base_s - (JUMP_S if self.paced else float("inf")):
            # Another clock: the delay stays what it was.
            moved_s = offset_s - self.lag_s - self.base_s
            self.base_s += moved_s
            assert self._first_base_s is not None
            self._first_base_s += moved_s
            self._window[:] = 0.0, 0.0, float("inf")
            self._intra_s = None
        elif not self.paced:
            self.base_s = min(self.base_s, offset_s)
            self._heal(offset_s, now, waited_s)
        before_s, self.lag_s = self.lag_s, max(0.0, offset_s - self.base_s)
        self._leap_s = max(self._leap_s, self.lag_s - before_s)
        if self.paced:
            self._late_segment(offset_s, now, waited_s)
        self._read_s = now

    def _heal(self, offset_s: float, now: float, waited_s: float) -> None:
        if not self.timed:
            if waited_s > 0.5 * (now - self._read_s):
                self.base_s = offset_s
            return
        window = self._window
        window[0] += min(now - self._read_s, 1.0)
        window[1] += waited_s if waited_s < 1.0 else 0.0  # stalled, or stopped: proves nothing
        window[2] = min(window[2], offset_s)
        if window[0] >= HEAL_S:
            if window[1] > 0.5 * window[0]:
                self.base_s = window[2]
            window[:] = 0.0, 0.0, float("inf")

    def _late_segment(self, offset_s: float, now: float, waited_s: float) -> None:
        """A source that is late for good gets a later schedule; the former one is tried again and again."""
        assert self._first_base_s is not None
        if self.lag_s <= self.behind_s:
            self._waited_late = False
            if self._first_base_s < self.base_s - LATE_SEGMENT_S and now > self._probe_at_s:  # type: ignore[operator]
                self._probe_at_s = float("inf")
                self.base_s = self._first_base_s
                self.lag_s = max(0.0, offset_s - self.base_s)
            return
        if waited_s < LATE_SEGMENT_S:
            return
        if self._waited_late:  # all that lay ready was read, and it is still late
            self.base_s, self.lag_s = offset_s, 0.0
            self._waited_late = False
            self._probe_at_s = now + self._probe_s
            self._probe_s = min(MOST_PROBE_S, 2 * self._probe_s)
        else:
            self._waited_late = True

    def _decide(self, now: float, intra: bool, waited_s: float) -> None:
        waited = waited_s >= WAITED_S
        near = self.lag_s <= self.behind_s / 2 and (self.timed or waited)
        if self.doing == "keep":
            if self.lag_s > self.behind_s and not waited:
                self.doing = "catch up"
                if (
                    self.thin == "all" and self._leap_s < self.lag_s / 2
                ):  # it came bit by bit: decoding is slow
                    self._thin_more(now, 1.0)
                self._since_s, self._lag_then_s, self._waited_s = now, self.lag_s, 0.0
            elif self.thin != "all" and now - max(self._changed_s, self._back_s) > self._steady_s:
                self._thin_less(now, intra)
            return
        self._waited_s += min(waited_s, 1.0)
        took_s = now - self._since_s
        if self.doing == "skip":
            if intra and (near or waited):
                self._back(now)
        elif near or self._waited_s > 0.5 * max(took_s, TRY_S):  # or it is not our reading that is late
            self._back(now)
        elif took_s >= TRY_S:
            gained_s = self._lag_then_s - self.lag_s
            if gained_s <= 0 or self.lag_s / gained_s * took_s > CATCH_UP_S:
                self.doing = "skip"
                if now - self._back_s <= SOON_S:  # the first time may be a hiccup
                    self._thin_more(now, 1 + gained_s / took_s)
            else:
                self._since_s, self._lag_then_s, self._waited_s = now, self.lag_s, 0.0

    def _thin_more(self, now: float, speed: float) -> None:
        """Decode less; what did not help is tried later next time. speed: media decoded in its time."""
        if now - self._changed_s > MOST_STEADY_S:
            self._steady_s = STEADY_S
        elif self._tried and now - self._changed_s <= SOON_S:
            self._steady_s = min(MOST_STEADY_S, 2 * self._steady_s)
        enough = speed > HALF or self._gop_s > LONGEST_GOP_S
        self.thin = "reference" if self.thin == "all" or enough else "intra"
        self._changed_s, self._tried = now, False

    def _back(self, now: float) -> None:
        self.doing, self._back_s, self._leap_s = "keep", now, 0.0

    def _thin_less(self, now: float, intra: bool) -> None:
        if self.thin == "intra" and not intra:
            return  # what refers to a picture that was left out cannot be decoded
        self.thin = "reference" if self.thin == "intra" else "all"
        self._changed_s, self._tried = now, True


class LiveReading:
    """Leaves out packets and pictures of an endless source as its edge says, and counts them."""

    def __init__(
        self,
        edge: LiveEdge,
        decoder: VideoCodecContext | JpegDecoder,
        fps: Fraction | None,
        report: Callable[[SourceEvent], None],
    ) -> None:
        self.edge, self.decoder, self.report = edge, decoder, report
        self._period_s = float(1 / (fps or COUNTED_FPS))
        self._counted_s = 0.0  # media, where packets have no time stamps
        self._resumed_s = time.monotonic()
        self._gap = False  # packets were left out before the next one
        self._thin = edge.thin

    def resume(self) -> None:
        """The last packet is done with; the next one is waited for from now on."""
        self._resumed_s = time.monotonic()

    def takes(self, packet: av.Packet[Any]) -> bool:
        """Whether a packet is to be decoded; one that is not is counted."""
        stamp = packet.pts if packet.dts is None else packet.dts
        if not packet.size or (self.edge.timed and (stamp is None or packet.time_base is None)):
            return True  # the end; or RTSP's first packet, which FFmpeg gives no time stamp
        self._counted_s += self._period_s
        media_s = float(stamp * packet.time_base) if self.edge.timed else self._counted_s  # type: ignore[operator]
        waited_s = time.monotonic() - self._resumed_s
        taken = self.edge.takes(media_s, packet.pts, packet.is_keyframe, waited_s)
        if self.edge.thin != self._thin:
            self._thin = self.edge.thin
            self.report(Thinned(self._thin))
        if not taken:
            self._gap = True
            self.report(Late())
        return taken

    def decode(self, packet: av.Packet[Any] | None) -> list[VideoFrame]:
        """The pictures of a packet, without those that decoding can leave out."""
        context = self.decoder
        if self._gap:
            context.flush_buffers()
            self._gap = False
        skip = "NONREF" if self.edge.leaves_unreferenced else "DEFAULT"
        if context.skip_frame != skip:
            context.skip_frame = skip
        images = context.decode(packet)
        if self.edge.thin == "intra" and packet is not None and packet.size:
            images += context.decode(None)  # else it is held back until those come that are left out
            self._gap = True
        return images

    def shows(self) -> bool:
        """Whether a picture decoded now is shown; one that is not is counted."""
        if not self.edge.shows:
            self.report(Late())
        return self.edge.shows

    def arrived_ns(self, image: VideoFrame) -> int:
        """When a picture's packet entered the machine, monotonic."""
        return round(self.edge.arrived_s(image.pts, image.time) * 1e9)
