"""The route of a recorded frame: the same pure steps as live, as generators for a plain loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

import msgspec

from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.recorded.deinterlace import deinterlaced
from streamseg.recorded.inputs import Input
from streamseg.recorded.opening import open_input
from streamseg.recorded.selection import Account, picks
from streamseg.recorded.settings import ProcessConfig
from streamseg.refinement.fusion import labels_from_logits
from streamseg.refinement.streams import Labelled, recorded_refinement
from streamseg.runtime.ordered import map_ordered
from streamseg.sources import OpenSource
from streamseg.sources.frames import FrameMaker
from streamseg.sources.reading import DecodedPicture
from streamseg.types import Frame, Logits, Mask, Size


@dataclass(frozen=True, slots=True)
class PartEnd:
    """All frames of a part have come; account with the last part only."""

    index: int
    account: Account | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a file when it was opened."""

    container: str
    codec: str
    pixel_format: str
    track: int
    size: Size  # of the first picture, upright
    fps: Fraction | None
    time_base: Fraction
    frames_hint: int | None
    duration_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """A frame and its mask."""

    frame: Frame
    mask: Mask


@dataclass(slots=True, eq=False)
class Route:
    """What a run over one file shares between its steps."""

    input: Input
    config: ProcessConfig
    engines: Sequence[Engine]  # alike; each is used by one thread
    stop: threading.Event = field(default_factory=threading.Event)
    skip_parts: int = 0
    on_open: Callable[[Facts], None] = lambda facts: None
    _facts: Facts | None = None  # set by the decoding thread before its first frame

    @property
    def facts(self) -> Facts:
        """What the file is; only for who has got a frame of it."""
        assert self._facts is not None, "a frame has come"
        return self._facts

    def frames(self) -> Iterator[Frame | PartEnd]:
        """Decode; the first skip_parts parts are decoded as well, so that cuts and numbers stay the same."""
        with open_input(self.input, self.config, self.stop) as source:
            self._facts = facts_of(source)
            self.on_open(self._facts)
            maker = FrameMaker(source, self.input.stem, 0)
            account = Account()
            part = 0
            for pick in picks(source, self.config, account, self.stop):
                if pick.part != part:
                    if part >= self.skip_parts:
                        yield PartEnd(part)
                    part = pick.part
                if pick.part < self.skip_parts:
                    continue
                maker.seq = pick.seq
                yield maker.frame(self.whole(pick.picture))
            if not self.stop.is_set():
                yield PartEnd(part, account)

    def whole(self, picture: DecodedPicture) -> DecodedPicture:
        """The picture as the network sees it: without the comb of two fields, unless that is wanted."""
        return deinterlaced(picture) if self.config.deinterlace else picture

    def scores(self, frames: Iterator[Frame | PartEnd]) -> Iterator[Logits | PartEnd]:
        """Run the engines, each in a thread of its own, over groups of `batch` frames."""
        groups = self._groups(frames)
        with closing(
            map_ordered("infer", groups, [partial(_infer_group, engine) for engine in self.engines])
        ) as results:
            for made in results:
                if isinstance(made, PartEnd):
                    yield made
                else:
                    yield from made

    def _groups(self, frames: Iterator[Frame | PartEnd]) -> Iterator[list[Frame] | PartEnd]:
        """Frames to be run at once; a group ends where a part or a frame size does.

        How frames are grouped does not depend on timing: a network may round differently in another batch.
        """
        waiting: list[Frame] = []
        for item in frames:
            ends = isinstance(item, PartEnd) or bool(waiting and waiting[0].size != item.size)
            if waiting and (ends or len(waiting) == self.config.batch):
                yield waiting
                waiting = []
            if isinstance(item, PartEnd):
                yield item
            else:
                waiting.append(item)
        if waiting:
            yield waiting

    def masks(self, scores: Iterator[Logits | PartEnd]) -> Iterator[Segmented | PartEnd]:
        """Scale the logits to the result's size and take the best class of each pixel; refined if asked.

        Refinement begins anew with each part, so that a part made again by itself comes out the same.
        """
        config, info = self.config, self.engines[0].info
        refinement = recorded_refinement(config.refinement, info.spec) if config.refines else None
        for item in scores:
            size = result_size(self.facts.size, config.scale)
            begun = time.monotonic_ns()
            if isinstance(item, PartEnd):
                for rest in refinement.rest(size, config.confidence) if refinement is not None else ():
                    yield self._segmented(rest, begun)
                yield item
            elif refinement is None:
                labels, confidence = labels_from_logits(item.array, size, config.confidence)
                yield self._segmented(Labelled(item, labels, confidence, None), begun)
            else:
                for labelled in refinement.add(
                    item, size, config.confidence, refined_wanted=not config.refinement.fuses
                ):
                    yield self._segmented(labelled, begun)

    def _segmented(self, labelled: Labelled, begun: int) -> Segmented:
        info, frame = self.engines[0].info, labelled.logits.frame
        mask = Mask(
            replace(frame.stamp, n=frame.seq),
            labelled.labels,
            info.spec.label_set,
            info.id,
            revision=1 if labelled.refined_seq == frame.seq else 0,
            refined_seq=labelled.refined_seq,
            confidence=labelled.confidence,
            stage_us={**labelled.logits.stage_us, "fuse": (time.monotonic_ns() - begun) // 1000},
        )
        return Segmented(frame, mask)


def _infer_group(engine: Engine, group: list[Frame] | PartEnd) -> list[Logits] | PartEnd:
    return group if isinstance(group, PartEnd) else infer(engine, group)


def result_size(frame_size: Size, scale: float) -> Size:
    """(height, width) of the masks of frames of this size."""
    return max(1, round(frame_size[0] * scale)), max(1, round(frame_size[1] * scale))


def facts_of(source: OpenSource) -> Facts:
    video = source.video
    assert video.time_base is not None, "an opened video has a time base"
    return Facts(
        container=source.container.format.name,
        codec=source.codec,
        pixel_format=video.codec_context.pix_fmt or "",
        track=video.index,
        size=source.size,
        fps=source.fps,
        time_base=video.time_base,
        frames_hint=source.frames_hint,
        duration_s=source.duration_s,
    )
