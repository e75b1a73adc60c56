"""One segment of a file by itself: where it begins, and proof that the right pictures were decoded for it.

What a decoder gives after a seek need not be what it gives when it decodes from the beginning (open groups of
pictures, edit lists, transport streams). So the file is decoded once from its beginning, without the network:
that finds the cuts, and takes a checksum of the pictures of each segment. The worker that makes a segment
seeks to it, compares, and decodes from the beginning where the pictures differ.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from streamseg.errors import SourceError
from streamseg.recorded.encode import SegmentMaker
from streamseg.recorded.opening import Recording
from streamseg.recorded.route import Route, SegmentEnd
from streamseg.recorded.segments import segment_path
from streamseg.recorded.selection import Account, picks
from streamseg.recorded.timeline import Timeline
from streamseg.sources import OpenSource
from streamseg.sources.frames import FrameMaker
from streamseg.sources.reading import DecodedPicture, pictures
from streamseg.types import Frame


@dataclass(slots=True, eq=False)
class PlannedSegment:
    """All that is needed to make segment `index` elsewhere."""

    index: int
    timeline: Timeline  # as the segments before leave it
    seqs: list[int] = field(default_factory=list)
    stamps: list[int | None] = field(default_factory=list)
    checksum: int = 0  # over the decoded pictures
    account: Account | None = None  # with the last segment only


class OtherPictures(SourceError):
    """Decoding gave other pictures than the first time."""


def plan_segments(recording: Recording) -> Iterator[PlannedSegment]:
    """Decode a file from its beginning and yield its segments, each when it is complete.

    Ends early when the recording's `stop` is set. Raises SourceError.
    """
    with recording.open() as source:
        line = recording.timeline()
        account = Account()
        planned = PlannedSegment(0, copy.copy(line))
        for pick in picks(source, recording.config, account, recording.stop):
            if pick.segment != planned.index:
                yield planned
                planned = PlannedSegment(pick.segment, copy.copy(line))
            image = pick.picture.image
            line(image.pts)
            planned.seqs.append(pick.seq)
            planned.stamps.append(image.pts)
            planned.checksum = picture_checksum(image, planned.checksum)
        if not recording.stop.is_set():
            planned.account = account
            yield planned


def make_segment(recording: Recording, planned: PlannedSegment) -> bytes:
    """Make one segment, the same bytes as in a run over the whole file. Raises SourceError, EngineError."""
    with tempfile.TemporaryDirectory(prefix="streamseg-") as made:
        folder = Path(made)
        for seeks in (True, False):
            one_try = replace(recording, stop=threading.Event())  # which a try that fails sets
            route = SegmentRoute(one_try, planned.index, planned=planned, seeks=seeks)
            work = SegmentMaker(route, folder, copy.copy(planned.timeline), lambda: None)
            try:
                work.run()
            except OtherPictures:
                if not seeks:
                    raise
                continue
            return segment_path(folder, planned.index).read_bytes()
    raise AssertionError("the second try returns or raises")


@dataclass(slots=True, eq=False, kw_only=True)
class SegmentRoute(Route):
    """The route of one planned segment's frames."""

    planned: PlannedSegment
    seeks: bool

    def frames(self) -> Iterator[Frame | SegmentEnd]:
        """Decode the segment; raises OtherPictures where they are not those it was cut from."""
        planned, recording = self.planned, self.recording
        sought = self.seeks and bool(planned.index) and planned.stamps[0] is not None
        with recording.open(at_start=not sought) as source:
            maker = FrameMaker(source, recording.input.stem, 0)
            wanted = iter(zip(planned.seqs, planned.stamps, strict=True))
            want = next(wanted, None)
            checksum = 0
            numbered = enumerate(pictures(source, recording.stop))
            for seq, picture in self._sought(source) if sought else numbered:
                if want is None or seq > want[0]:
                    break
                if seq < want[0]:
                    continue
                if picture.image.pts != want[1]:
                    break
                checksum = picture_checksum(picture.image, checksum)
                maker.seq = seq
                yield maker.frame(self.whole(picture))
                want = next(wanted, None)
                if want is None:
                    break
            if recording.stop.is_set():
                return
            if want is not None or checksum != planned.checksum:
                raise OtherPictures(
                    f"{recording.input.shown}: decodes to other pictures than when it was cut into segments; "
                    "is it the same file, read by the same version?"
                )
            yield SegmentEnd(planned.index, planned.account)

    def _sought(self, source: OpenSource) -> Iterator[tuple[int, DecodedPicture]]:
        """Pictures with their numbers in the file, from the one that bears the segment's first time stamp."""
        first, begin = self.planned.seqs[0], self.planned.stamps[0]
        assert begin is not None, "only what has time stamps is sought"
        with contextlib.suppress(av.error.FFmpegError):  # no pictures, then
            source.seek(begin, source.video)
            found = pictures(source, self.recording.stop)
            for picture in found:
                if picture.image.pts == begin:
                    yield first, picture
                    yield from enumerate(found, first + 1)
                    return


def picture_checksum(image: VideoFrame, before: int = 0) -> int:
    """CRC-32 of the first plane (luma, or everything where it is packed), continued from `before`."""
    plane = image.planes[0]
    form = image.format
    packed = len(image.planes) == 1
    bits = form.padded_bits_per_pixel if packed else (16 if form.components[0].bits > 8 else 8)
    rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size].reshape(
        plane.height, -1
    )
    return zlib.crc32(np.ascontiguousarray(rows[:, : (image.width * bits + 7) // 8]).data, before)
