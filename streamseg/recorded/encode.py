"""One file: from its frames to committed parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from streamseg.outputs.overlay import Overlay
from streamseg.recorded.route import PartEnd, Route, Segmented
from streamseg.recorded.segments import FrameRecord, PartWriter, count_pixels
from streamseg.recorded.timeline import Timeline
from streamseg.recorded.tracks import Encoder, Packet, Track, TrackName
from streamseg.runtime.ordered import Prefetcher
from streamseg.types import U8, Size


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A mask with its place in time and what the overlay's encoder had ready when it came."""

    segmented: Segmented
    ticks: int
    overlay: list[Packet]


@dataclass(frozen=True, slots=True, eq=False)
class DrawnEnd:
    """The end of a part and the rest of its overlay."""

    end: PartEnd
    overlay: list[Packet]


@dataclass(slots=True, eq=False)
class Work:
    """Makes the parts of one file. `route` runs in threads of its own until run() returns."""

    route: Route
    folder: Path
    timeline: Callable[[Fraction, Fraction | None], Timeline]  # where the parts before have left it
    on_frame: Callable[[], None]
    on_part: Callable[[int], None] = lambda index: None  # a part has been committed
    _encoders: dict[TrackName, Encoder] = field(default_factory=dict)

    def run(self) -> int:
        """Make every part from route.skip_parts on → number of parts. Raises what a step raised.

        Returns early, with the parts committed so far, when route.stop was set.
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
                route.stop.set()
                raise

    def _draw(self, items: Iterator[Segmented | PartEnd]) -> Iterator[Drawn | DrawnEnd]:
        """Overlay pictures, encoded. Runs in the draw thread, which owns the overlay's encoder."""
        config, labels = self.route.config, self.route.engines[0].info.spec.labels
        timeline: Timeline | None = None
        overlay: Overlay | None = None
        encoder: Encoder | None = None
        for item in items:
            if isinstance(item, PartEnd):
                yield DrawnEnd(item, encoder.flush() if encoder else [])
                encoder = None
                continue
            mask = item.mask
            timeline = timeline or self.timeline(mask.time_base, self.route.facts.fps)
            ticks = timeline(mask.pts)
            packets: list[Packet] = []
            if config.overlay:
                overlay = overlay or Overlay(labels, mask.size, config.overlay_opacity)
                encoder = encoder or Encoder(self._track("overlay", overlay.shape, timeline.tick))
                packets = encoder.encode(overlay(item.frame.rgb, mask.labels), ticks)
            yield Drawn(item, ticks, packets)

    def _write(self, items: Iterator[Drawn | DrawnEnd]) -> int:
        """Label pictures, encoded; everything into part files. Runs in the calling thread."""
        parts = self.route.skip_parts
        writer: PartWriter | None = None
        try:
            for item in items:
                writer = writer or PartWriter(self.folder, parts)
                for packet in item.overlay:
                    writer.packet("overlay", packet)
                if isinstance(item, DrawnEnd):
                    for name, encoder in self._encoders.items():
                        for packet in encoder.flush():
                            writer.packet(name, packet)
                    self._encoders = {}
                    writer.commit(item.end.account)
                    self.on_part(parts)
                    writer, parts = None, parts + 1
                    continue
                self._write_frame(writer, item)
                self.on_frame()
        finally:
            if writer is not None:
                writer.discard()
        return parts

    def _write_frame(self, writer: PartWriter, item: Drawn) -> None:
        mask = item.segmented.mask
        tick = Fraction(1, mask.time_base.denominator)
        pictures: list[tuple[TrackName, U8]] = [("labels", mask.labels)]
        if mask.confidence is not None:
            pictures.append(("confidence", mask.confidence))
        for name, picture in pictures:
            if name not in self._encoders:
                self._encoders[name] = Encoder(self._track(name, mask.size, tick))
            for packet in self._encoders[name].encode(picture, item.ticks):
                writer.packet(name, packet)
        writer.frame(
            FrameRecord(
                seq=mask.seq,
                pts=mask.pts,
                ticks=item.ticks,
                resized=item.segmented.frame.size != self.route.facts.size,
                pixels=count_pixels(mask.labels),
                digest=hashlib.sha256(mask.labels.data).digest(),
            )
        )

    def _track(self, name: TrackName, size: Size, tick: Fraction) -> Track:
        return Track(name, size, tick, self.route.facts.fps or Fraction(25))
