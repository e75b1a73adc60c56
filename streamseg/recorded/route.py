"""The route of a recorded frame: the same pure steps as live, as generators for a plain loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import av

from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.inference.scaling import labels_of
from streamseg.recorded.opening import Recording
from streamseg.recorded.selection import Account, picks
from streamseg.refinement.streams import Labelled, recorded_refinement
from streamseg.runtime.ordered import map_ordered
from streamseg.sources.frames import FrameMaker
from streamseg.sources.reading import DecodedPicture
from streamseg.types import Frame, Logits, Mask


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """All frames of a segment have come; account with the last segment only."""

    index: int
    account: Account | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MaskedFrame:
    """A frame and its mask."""

    frame: Frame
    mask: Mask


@dataclass(slots=True, eq=False)
class Route:
    """The steps of one file's frames, for a thread each."""

    recording: Recording
    skip_segments: int = 0

    def frames(self) -> Iterator[Frame | SegmentEnd]:
        """Decode; skipped segments are decoded as well, so that cuts and numbers stay the same."""
        recording = self.recording
        with recording.open() as source:
            maker = FrameMaker(source, recording.input.stem, 0)
            account = Account()
            segment = 0
            for pick in picks(source, recording.config, account, recording.stop):
                if pick.segment != segment:
                    if segment >= self.skip_segments:
                        yield SegmentEnd(segment)
                    segment = pick.segment
                if pick.segment < self.skip_segments:
                    continue
                maker.seq = pick.seq
                yield maker.frame(self.whole(pick.picture))
            if not recording.stop.is_set():
                yield SegmentEnd(segment, account)

    def whole(self, picture: DecodedPicture) -> DecodedPicture:
        """The picture as the network sees it: without the comb of two fields, unless that is wanted."""
        return deinterlaced(picture) if self.recording.config.deinterlace else picture

    def scores(self, frames: Iterator[Frame | SegmentEnd]) -> Iterator[Logits | SegmentEnd]:
        """Run the engines, each in a thread of its own, over groups of `batch` frames."""
        groups = self._groups(frames)
        with closing(
            map_ordered("infer", groups, [partial(_infer_group, engine) for engine in self.recording.engines])
        ) as results:
            for made in results:
                if isinstance(made, SegmentEnd):
                    yield made
                else:
                    yield from made

    def _groups(self, frames: Iterator[Frame | SegmentEnd]) -> Iterator[list[Frame] | SegmentEnd]:
        """Frames to be run at once; a group ends where a segment or a frame size does.

        How frames are grouped does not depend on timing: a network may round differently in another batch.
        """
        waiting: list[Frame] = []
        for item in frames:
            ends = isinstance(item, SegmentEnd) or bool(waiting and waiting[0].size != item.size)
            if waiting and (ends or len(waiting) == self.recording.config.batch):
                yield waiting
                waiting = []
            if isinstance(item, SegmentEnd):
                yield item
            else:
                waiting.append(item)
        if waiting:
            yield waiting

    def masks(self, scores: Iterator[Logits | SegmentEnd]) -> Iterator[MaskedFrame | SegmentEnd]:
        """Scale the logits to the result's size and take the best class of each pixel; refined if asked.

        Refinement starts again with each segment, so that one made by itself has the same bytes.
        """
        config, info = self.recording.config, self.recording.engines[0].info
        refinement = recorded_refinement(config.refinement, info.spec) if config.refines else None
        size, view = self.recording.mask_size, self.recording.view
        for item in scores:
            begun = time.monotonic_ns()
            if isinstance(item, SegmentEnd):
                for rest in refinement.rest(size, config.confidence, view) if refinement is not None else ():
                    yield self._masked(rest, begun)
                yield item
            elif refinement is None:
                labels, confidence = labels_of(item, size, config.confidence, view)
                yield self._masked(Labelled(item, labels, confidence, None), begun)
            else:
                for labelled in refinement.add(
                    item, size, config.confidence, view, refined_wanted=not config.refinement.fuses
                ):
                    yield self._masked(labelled, begun)

    def _masked(self, labelled: Labelled, begun: int) -> MaskedFrame:
        info, frame = self.recording.engines[0].info, labelled.logits.frame
        mask = Mask(
            replace(frame.stamp, n=frame.seq),
            labelled.labels,
            self.recording.label_set.id,
            info.id,
            revision=1 if labelled.refined_seq == frame.seq else 0,
            refined_seq=labelled.refined_seq,
            confidence=labelled.confidence,
            stage_us={**labelled.logits.stage_us, "fuse": (time.monotonic_ns() - begun) // 1000},
        )
        return MaskedFrame(frame, mask)


def _infer_group(engine: Engine, group: list[Frame] | SegmentEnd) -> list[Logits] | SegmentEnd:
    return group if isinstance(group, SegmentEnd) else infer(engine, group)


def deinterlaced(picture: DecodedPicture) -> DecodedPicture:
    """Interpolate every other line of an interlaced picture along its edges; any other comes back as it is.

    FFmpeg's estdif: bwdif and yadif also look at the pictures before and behind, so that a segment made by
    itself would begin with another picture than in one go.
    """
    image = picture.image
    if not image.interlaced_frame:
        return picture
    graph = av.filter.Graph()
    assert image.time_base is not None, "a decoded video frame has a time base"
    source = graph.add_buffer(
        width=image.width, height=image.height, format=image.format, time_base=image.time_base
    )
    graph.link_nodes(source, graph.add("estdif", "mode=frame"), graph.add("buffersink")).configure()
    graph.push(image)
    graph.push(None)
    made = graph.pull()
    assert isinstance(made, av.VideoFrame), "video in, video out"
    made.pts, made.time_base = image.pts, image.time_base
    return replace(picture, image=made)
