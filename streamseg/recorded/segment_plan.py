"""One part of a file by itself: where it begins, and the proof that the right pictures were decoded for it.

What a decoder gives after a seek need not be what it gives on the way there (open groups of pictures, edit
lists, transport streams). So the file is decoded once from its beginning, without the network: that finds
the cuts, and takes a checksum of the pictures of each part. Whoever makes a part seeks to it, compares, and
decodes from the beginning where the pictures are others.
"""

from __future__ import annotations

import copy
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from streamseg.errors import SourceError
from streamseg.inference.engine import Engine
from streamseg.recorded.encode import Work
from streamseg.recorded.inputs import Input
from streamseg.recorded.opening import open_input
from streamseg.recorded.route import PartEnd, Route, facts_of
from streamseg.recorded.segments import part_path
from streamseg.recorded.selection import Account, go_to_start, picks
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.timeline import Timeline
from streamseg.sources import OpenSource
from streamseg.sources.frames import FrameMaker
from streamseg.sources.reading import DecodedPicture, pictures
from streamseg.types import Frame


@dataclass(slots=True, eq=False)
class Stretch:
    """All that is needed to make part `index` elsewhere."""

    index: int
    timeline: Timeline  # as the parts before leave it
    seqs: list[int] = field(default_factory=list)
    stamps: list[int | None] = field(default_factory=list)
    checksum: int = 0  # over the decoded pictures
    account: Account | None = None  # with the last part only


class OtherPictures(SourceError):
    """Decoding gave other pictures than the first time."""


def stretches(one: Input, config: ProcessConfig, stop: threading.Event) -> Iterator[Stretch]:
    """Decode a file from its beginning and yield its stretches, each when it is complete.

    Ends early when `stop` is set. Raises SourceError.
    """
    with open_input(one, config, stop) as source:
        assert source.video.time_base is not None, "an opened video has a time base"
        line = Timeline(source.video.time_base, source.fps)
        account = Account()
        stretch = Stretch(0, copy.copy(line))
        for pick in picks(source, config, account, stop):
            if pick.part != stretch.index:
                yield stretch
                stretch = Stretch(pick.part, copy.copy(line))
            image = pick.picture.image
            line(image.pts)
            stretch.seqs.append(pick.seq)
            stretch.stamps.append(image.pts)
            stretch.checksum = picture_checksum(image, stretch.checksum)
        if not stop.is_set():
            stretch.account = account
            yield stretch


def make_part(one: Input, config: ProcessConfig, stretch: Stretch, engines: Sequence[Engine]) -> bytes:
    """Make one part, the same bytes as in a run over the whole file. Raises SourceError, EngineError."""
    with tempfile.TemporaryDirectory(prefix="streamseg-") as made:
        folder = Path(made)
        for seeks in (True, False):
            route = StretchRoute(one, config, engines, skip_parts=stretch.index, stretch=stretch, seeks=seeks)
            work = Work(route, folder, lambda base, fps: copy.copy(stretch.timeline), lambda: None)
            try:
                work.run()
            except OtherPictures:
                if not seeks:
                    raise
                continue
            return part_path(folder, stretch.index).read_bytes()
    raise AssertionError("the second try returns or raises")


@dataclass(slots=True, eq=False, kw_only=True)
class StretchRoute(Route):
    """The route of one stretch's frames."""

    stretch: Stretch
    seeks: bool

    def frames(self) -> Iterator[Frame | PartEnd]:
        """Decode the stretch; raises OtherPictures where they are not those it was cut from."""
        stretch = self.stretch
        with open_input(self.input, self.config, self.stop) as source:
            self._facts = facts_of(source)
            maker = FrameMaker(source, self.input.stem, 0)
            wanted = iter(zip(stretch.seqs, stretch.stamps, strict=True))
            want = next(wanted, None)
            checksum = 0
            for seq, picture in self._numbered(source):
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
            if self.stop.is_set():
                return
            if want is not None or checksum != stretch.checksum:
                raise OtherPictures(
                    f"{self.input.shown}: decodes to other pictures here than where it was cut into parts; "
                    "is it the same file, read by the same version?"
                )
            yield PartEnd(stretch.index, stretch.account)

    def _numbered(self, source: OpenSource) -> Iterator[tuple[int, DecodedPicture]]:
        """Pictures with their numbers in the file, from the stretch's first one or from before it."""
        first, begin = self.stretch.seqs[0], self.stretch.stamps[0]
        if not self.seeks or begin is None or not self.stretch.index:
            go_to_start(source, self.config.start_s)
            yield from enumerate(pictures(source, self.stop))
            return
        source.seek(begin, source.video)
        found = pictures(source, self.stop)
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
