"""One file: from its frames to committed segments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import av

from streamseg.outputs.overlay import Overlay
from streamseg.recorded.route import MaskedFrame, Route, SegmentEnd
from streamseg.recorded.segments import FrameRecord, SegmentWriter, count_pixels
from streamseg.recorded.timeline import Timeline
from streamseg.recorded.tracks import Encoder, Packet, Track, TrackName
from streamseg.runtime.ordered import Prefetcher
from streamseg.types import U8


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A mask with its time and the packets that the overlay's encoder had ready."""

    masked: MaskedFrame
    ticks: int
    overlay: list[Packet]


@dataclass(frozen=True, slots=True, eq=False)
class DrawnEnd:
    """The end of a segment and the rest of its overlay."""

    end: SegmentEnd
    overlay: list[Packet]


@dataclass(slots=True, eq=False)
class SegmentMaker:
    """Makes the segments of one file. `route` runs in threads of its own until run() returns."""

    route: Route
    folder: Path
    timeline: Timeline  # as the segments before leave it; the draw thread's from run() on
    on_frame: Callable[[], None]
    on_segment: Callable[[int], None] = lambda index: None  # a segment has been committed
    _encoders: dict[TrackName, Encoder] = field(default_factory=dict)

    def run(self) -> int:
        """Make every segment from route.skip_segments on → number of segments. Raises what a step raised.

        Returns early, with the segments committed so far, when the recording's `stop` was set.
        """
        route = self.route
        with (
            closing(Prefetcher("decode", route.frames())) as frames,
            closing(Prefetcher("infer", route.scores(iter(frames)))) as scores,
            closing(Prefetcher("fuse", route.masks(iter(scores)))) as masks,
            closing(Prefetcher("draw", self._draw(iter(masks)))) as drawn,
        ):
            try:
                return self._write(iter(drawn))
            except BaseException:
                route.recording.stop.set()
                raise

    def _draw(self, items: Iterator[MaskedFrame | SegmentEnd]) -> Iterator[Drawn | DrawnEnd]:
        """Overlay pictures, encoded. Runs in the draw thread, which owns the overlay's encoder."""
        recording = self.route.recording
        overlay: Overlay | None = None
        encoder: OverlayEncoder | None = None
        for item in items:
            if isinstance(item, SegmentEnd):
                yield DrawnEnd(item, encoder.flush() if encoder else [])
                encoder = None
                continue
            mask = item.mask
            ticks = self.timeline(mask.pts)
            packets: list[Packet] = []
            if recording.config.overlay:
                overlay = overlay or Overlay(recording.label_set, mask.size, recording.config.overlay_opacity)
                encoder = encoder or OverlayEncoder(recording.track("overlay", overlay.shape))
                packets = encoder.encode(overlay(item.frame.rgb, mask.labels), ticks)
            yield Drawn(item, ticks, packets)

    def _write(self, items: Iterator[Drawn | DrawnEnd]) -> int:
        """Label pictures, encoded; everything into segment files. Runs in the calling thread."""
        segments = self.route.skip_segments
        writer: SegmentWriter | None = None
        try:
            for item in items:
                writer = writer or SegmentWriter(self.folder, segments)
                for packet in item.overlay:
                    writer.packet("overlay", packet)
                if isinstance(item, DrawnEnd):
                    for name, encoder in self._encoders.items():
                        for packet in encoder.flush():
                            writer.packet(name, packet)
                    self._encoders = {}
                    writer.commit(item.end.account)
                    self.on_segment(segments)
                    writer, segments = None, segments + 1
                    continue
                self._write_frame(writer, item)
                self.on_frame()
        finally:
            if writer is not None:
                writer.discard()
        return segments

    def _write_frame(self, writer: SegmentWriter, item: Drawn) -> None:
        mask = item.masked.mask
        pictures: list[tuple[TrackName, U8]] = [("labels", mask.labels)]
        if mask.confidence is not None:
            pictures.append(("confidence", mask.confidence))
        for name, picture in pictures:
            if name not in self._encoders:
                self._encoders[name] = Encoder(self.route.recording.track(name, mask.size))
            for packet in self._encoders[name].encode(picture, item.ticks):
                writer.packet(name, packet)
        writer.frame(
            FrameRecord(
                seq=mask.seq,
                pts=mask.pts,
                ticks=item.ticks,
                resized=item.masked.frame.size != self.route.recording.facts.size,
                pixels=count_pixels(mask.labels),
                digest=hashlib.sha256(mask.labels.data).digest(),
            )
        )


class OverlayEncoder:
    """Encodes one segment of the overlay; where that fails (H.264 has no pictures that wide) nothing more.

    An overlay is for looking at, and never decides over masks: the results say that there is none.
    """

    def __init__(self, track: Track) -> None:
        self._encoder = Encoder(track)
        self._failed = False

    def encode(self, picture: U8, ticks: int) -> list[Packet]:
        return self._tried(lambda: self._encoder.encode(picture, ticks))

    def flush(self) -> list[Packet]:
        return self._tried(self._encoder.flush)

    def _tried(self, step: Callable[[], list[Packet]]) -> list[Packet]:
        if not self._failed:
            try:
                return step()
            except (av.error.FFmpegError, ValueError):
                self._failed = True
        return []
