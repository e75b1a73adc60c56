"""Decoding no more than max_fps asks for: which packets are left out before the decoder."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import av
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from streamseg.sources.events import Decoding, SkipFrames, Skipped, SourceEvent, Thin, Unskippable
from streamseg.sources.jpeg import JpegDecoder
from streamseg.sources.referred import Referred, intra_only, reader_of

LOOKED_AT = 50
"""Packets from which the rate of what others refer to is measured."""

GOPS, MOST_GOPS = 3, 48
"""Equal distances of intra frames before the next one is foreseen; doubled each time that it did not come."""

EVEN = 1.2
"""Distances of intra frames that differ by no more than this are equal."""

SLACK = 0.1
"""Share of a period that a picture may come later, where that is an intra frame which is decoded anyway."""

LATE_S = 1.0
"""An intra frame that is later than foreseen by more than this is waited for as any that is missing."""

LONGEST_S = 120.0
"""Media time for which "nokey" waits for an intra frame."""


class Skipping:
    """Decides, packet by packet of one connection, what is decoded. Pure arithmetic; one thread uses it.

    Times are those of the media, in seconds. What the decoder gets is always decodable: once a picture that
    others refer to was left out, so is all up to the next intra frame, and what is shown before that but
    comes behind it. `gap` then says that the decoder has to be flushed first.
    """

    def __init__(
        self, wanted: Callable[[], tuple[SkipFrames, float | None]], *, all_intra: bool = False
    ) -> None:
        """wanted: the settings skip_frames and max_fps, which may change from packet to packet.

        all_intra: of a codec in which each picture stands alone.
        """
        self.wanted, self.all_intra = wanted, all_intra
        self.left_out = 0
        self.gap = False
        self.plan: Thin = "all"
        self._due_s = float("-inf")  # the next picture that max_fps takes
        self._seen: deque[tuple[float, bool]] = deque(maxlen=LOOKED_AT)  # (DTS, referred to)
        self._layer = 0
        self._gops: deque[float] = deque(maxlen=MOST_GOPS)
        self._gops_needed = GOPS
        self._intra_s: float | None = None
        self._now_s = 0.0
        self._broken = False  # what is decoded next must be an intra frame
        self._from_s = float("-inf")

    def takes(self, pts_s: float, dts_s: float, intra: bool, referred: Referred | None = None) -> bool:
        """Whether the decoder gets a packet. referred: None where that is not known."""
        if dts_s < self._now_s - 1.0:  # another clock
            self._due_s = self._from_s = float("-inf")
            self._seen.clear()
            self._intra_s = None
        self._now_s = dts_s
        self.all_intra &= intra  # FFV1 is said to be, and refers to pictures before where its GOP is longer
        mode, max_fps = self.wanted()
        period_s = 1 / max_fps if max_fps else 0.0
        droppable = referred is not None and not referred.by_others and referred.layer >= self._layer
        self._layer = max(self._layer, 0 if referred is None else referred.layer)
        self._seen.append((dts_s, not droppable))
        if intra:
            self._note_intra(pts_s)
        self.plan = self._planned(mode, period_s)
        taken = self._takes(pts_s, intra, droppable, mode, period_s)
        self.left_out += not taken
        return taken

    def next_due(self, media_s: float) -> None:
        """Note when the next picture is due by max_fps."""
        self._due_s = media_s

    @property
    def alone(self) -> bool:
        """Whether nothing that follows the packet just taken will refer to it: its picture is had at once."""
        return self.plan == "intra"

    def drained(self) -> None:
        """The decoder has given all that it held: it goes on with an intra frame only."""
        self.gap = self._broken = True

    @property
    def patient(self) -> bool:
        """Whether that no picture comes is as foreseen."""
        since_s = self._now_s - (self._now_s if self._intra_s is None else self._intra_s)
        if self.plan == "intra" and self.wanted()[0] == "nokey":
            return since_s <= LONGEST_S
        return since_s <= max(self._gops, default=0.0) + LATE_S

    def _takes(self, pts_s: float, intra: bool, droppable: bool, mode: SkipFrames, period_s: float) -> bool:
        if intra:
            if self.plan == "intra" and pts_s < self._due_s - 1e-6:
                self._broken = self.gap = True  # nothing refers to it: all that follow are left out
                return False
            if self._broken:
                self.gap, self._from_s = True, pts_s
            self._broken = False
            return True
        if self._broken or pts_s < self._from_s:
            return False
        if self.plan == "intra":
            self._broken = self.gap = True
            return False
        next_s = self._next_intra_s()
        if mode == "auto" and period_s and next_s is not None and next_s <= self._due_s + SLACK * period_s:
            self._broken = self.gap = self._broken or not droppable
            return False
        return not (self.plan == "reference" and droppable)

    def _planned(self, mode: SkipFrames, period_s: float) -> Thin:
        if self.all_intra:
            return "intra" if period_s and mode != "none" else "all"
        if mode == "nokey":
            return "intra"
        if mode == "nonref":
            return "reference"
        if mode == "none" or not period_s:
            return "all"
        gop_s = self._gop_s()
        if gop_s is not None and gop_s <= 1.02 * period_s:
            return "intra"
        if len(self._seen) < LOOKED_AT or all(referred for _, referred in self._seen):
            return "all"
        kept = [at_s for at_s, referred in self._seen if referred]
        return (
            "reference" if max((b - a for a, b in pairwise(kept)), default=LONGEST_S) <= period_s else "all"
        )

    def _note_intra(self, pts_s: float) -> None:
        if self._intra_s is not None and pts_s > self._intra_s:
            distance_s, foreseen_s = pts_s - self._intra_s, self._gop_s()
            if foreseen_s is not None and distance_s > EVEN * foreseen_s + 1e-3:
                self._gops.clear()
                self._gops_needed = min(MOST_GOPS, 2 * self._gops_needed)
            self._gops.append(distance_s)
        self._intra_s = pts_s

    def _gop_s(self) -> float | None:
        """How far apart intra frames are; None while they are not evenly so."""
        latest = list(self._gops)[-self._gops_needed :]
        even = len(latest) == self._gops_needed and max(latest) <= EVEN * min(latest) + 1e-3
        return max(latest) if even else None

    def _next_intra_s(self) -> float | None:
        gop_s = self._gop_s()
        return None if gop_s is None or self._intra_s is None else self._intra_s + gop_s


class DecodeLess:
    """Leaves out packets of an open source as its Skipping says, and counts and reports them."""

    def __init__(
        self,
        context: VideoCodecContext | JpegDecoder,
        codec: str,
        wanted: Callable[[], tuple[SkipFrames, float | None]],
        report: Callable[[SourceEvent], None],
        url: str,
        *,
        timed: bool = True,
        held: int = 0,
    ) -> None:
        """codec: by FFmpeg's name. timed: packets have time stamps; else they count when they come.

        held: pictures that the decoder has not given yet.
        """
        self.context, self.codec, self.report, self.url, self.timed = context, codec, report, url, timed
        self.skipping = Skipping(wanted, all_intra=intra_only(codec))
        self._reader = reader_of(codec)
        self._told: tuple[object, ...] = ()
        self._held = held  # pictures that the decoder has not given yet

    def takes(self, packet: av.Packet[Any]) -> bool:
        """Whether a packet is to be decoded."""
        pts, base = packet.pts if packet.pts is not None else packet.dts, packet.time_base
        if not packet.size or (self.timed and (pts is None or base is None)):
            return True
        if self.timed:
            assert pts is not None
            assert base is not None
            pts_s, dts_s = float(pts * base), float((pts if packet.dts is None else packet.dts) * base)
        else:
            pts_s = dts_s = time.monotonic()
        extradata = self.context.extradata or b""
        referred = None if self._reader is None else self._reader(memoryview(packet), extradata)
        taken = self.skipping.takes(pts_s, dts_s, packet.is_keyframe, referred)
        self._tell()
        return taken

    def decode(
        self, decode: Callable[[av.Packet[Any] | None], list[VideoFrame]], packet: av.Packet[Any] | None
    ) -> list[VideoFrame]:
        """The pictures of a packet; of one that stands alone at once, and not when others have come."""
        if self.skipping.gap:
            self.context.flush_buffers()
            self.skipping.gap = False
            if self._held > 0:
                self.report(Skipped(self._held))
            self._held = 0
        images = decode(packet)
        # Where each picture stands alone it has come already, unless the decoder's threads hold it back.
        held_back = self.skipping.alone and not (self.skipping.all_intra and images and self._held <= 0)
        if held_back and packet is not None and packet.size:
            with contextlib.suppress(av.error.EOFError):  # it has given all already
                images += decode(None)
            self.skipping.drained()
        self._held += (packet is not None and packet.size > 0) - len(images)
        return images

    def left_out(self) -> None:
        """Count a packet that was not decoded."""
        self.report(Skipped())

    def next_due(self, now_s: float, media_s: float, due_s: float | None) -> None:
        """Note, at a picture, when the next one is due by max_fps; now_s and due_s by the same clock."""
        self.skipping.next_due(
            float("-inf") if due_s is None else (media_s if self.timed else now_s) + due_s - now_s
        )

    def _tell(self) -> None:
        mode = self.skipping.wanted()[0]
        cannot = mode in ("nonref", "nokey") and (
            self.skipping.all_intra or (mode == "nonref" and self._reader is None)
        )
        now = ("cannot", mode) if cannot else ("plan", self.skipping.plan)
        if now == self._told or (now == ("plan", "all") and not self._told):
            return
        self._told = now
        self.report(
            Unskippable(self.url, mode, self.codec, self.skipping.all_intra)
            if cannot
            else Decoding(self.skipping.plan, mode, self.skipping.wanted()[1])
        )
