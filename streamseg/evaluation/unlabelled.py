"""How good an engine is on a video, without labels: does it stay with itself, and with another engine?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from streamseg.config import CrfConfig, EngineConfig
from streamseg.errors import TrainingError
from streamseg.evaluation.dataset import IGNORE, video_pictures
from streamseg.evaluation.engines import picture_frame
from streamseg.evaluation.metrics import Matrix, confusion_matrix, percent, scores_of
from streamseg.evaluation.temporal import Where, agreement, flicker, motion
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of, numbers_of
from streamseg.refinement.crf_step import crf_setup, refine_picture
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fusion
from streamseg.types import F32, U8, Logits
from streamseg.types.picture import Picture

UNSURE = 0.5  # confidence below which a pixel is called unsure


class Steadiness(msgspec.Struct, frozen=True, kw_only=True):
    """One way of making masks, over time, in per cent; null where nothing moved on."""

    consistency: float | None  # mIoU of successive masks, along the motion
    flicker: float | None  # pixels whose label changed along the motion


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How often another engine says the same, in per cent, of the pixels where both see a class of both."""

    engine: str
    classes: tuple[str, ...]  # that both have
    pixels: float | None
    miou: float | None


class UnlabelledReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a video says of an engine; confidence at the engine's temperature."""

    engine: str
    frames: int
    raw: Steadiness
    fused: Steadiness | None  # by fusion, with the CRF on keyframes; null for an engine that gives class ids
    confidence: float | None  # its mean, in per cent
    unsure: float | None  # pixels with a confidence below one half, in per cent
    agreement: Agreement | None

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


def evaluate_video(
    config: EngineConfig,
    crf: CrfConfig,
    source: str,
    other: EngineConfig | None = None,
    every: int = 5,
    delay: int = 2,
    progress: Callable[[int, None], None] | None = None,
) -> UnlabelledReport:
    """Run a video's frames, in order; raises EngineError, SourceError, TrainingError.

    every, delay: a keyframe each so many frames, whose refinement fusion has so many frames later.
    """
    one_thread()  # so that flow, and with it every score, repeats
    engine = load_engine(config)
    second = None
    try:
        second = None if other is None else load_engine(other)
        run = _Video(engine, crf, every, delay, second)
        for index, picture in enumerate(video_pictures(source)):
            run.add(index, picture)
            if progress is not None:
                progress(index + 1, None)
        if run.frames < 2:
            count = "1 frame" if run.frames == 1 else f"{run.frames} frames"
            raise TrainingError(f"{source}: has {count}; two or more say something over time")
        return run.report()
    finally:
        engine.close()
        if second is not None:
            second.close()


@dataclass(slots=True)
class _Steady:
    """Successive masks of one kind."""

    classes: int
    before: U8 | None = None
    moved: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.moved = np.zeros((self.classes, self.classes), np.int64)

    def add(self, labels: U8, where: Where | None) -> None:
        if where is not None and self.before is not None:
            self.moved += agreement(labels, self.before, where, self.classes)
        self.before = labels

    def scores(self, names: Sequence[str]) -> Steadiness:
        changed = flicker(self.moved)
        return Steadiness(
            consistency=scores_of(self.moved, names, 0).miou,
            flicker=None if changed is None else round(changed, 2),
        )


class _Video:
    def __init__(self, engine: Engine, crf: CrfConfig, every: int, delay: int, second: Engine | None) -> None:
        spec = engine.info.spec
        self._engine, self._second, self._every, self._delay = engine, second, every, delay
        self._names = spec.labels.names
        self._raw, self._fused = _Steady(len(self._names)), _Steady(len(self._names))
        self._setup = crf_setup(crf, spec)
        self._fusion = None if spec.gives == "labels" else Fusion(self._setup.thin)
        self._answers: dict[int, F32] = {}
        self._rgb: U8 | None = None
        self._levels = np.zeros(256, np.int64)  # pixels of each confidence
        self._match = None if second is None else _Match(self._names, second.info.spec.labels.names)
        self.frames = 0

    def add(self, index: int, picture: Picture) -> None:
        rgb, size = picture.rgb(), picture.size
        if self._rgb is not None and self._rgb.shape != rgb.shape:
            self._rgb, self._raw.before, self._fused.before = None, None, None  # a new beginning
        where = None if self._rgb is None else motion(rgb, self._rgb)
        (answer,) = infer(self._engine, [picture_frame(picture, index)])
        labels, confidence = labels_of(answer, size, confidence=True)
        self._raw.add(labels, where)
        if confidence is not None:
            self._levels += np.bincount(confidence[labels != IGNORE], minlength=256)
        if self._fusion is not None:
            self._fused.add(self._fuse(self._fusion, index, answer), where)
        if self._second is not None and self._match is not None:
            (theirs,) = infer(self._second, [picture_frame(picture, index)])
            self._match.add(labels, labels_of(theirs, size)[0])
        self._rgb = rgb
        self.frames += 1

    def _fuse(self, fusion: Fusion, index: int, answer: Logits) -> U8:
        numbers, _ = numbers_of(answer)
        keyframe = index % self._every == 0
        if keyframe:
            seen = answer.frame.scaled(answer.geometry.input_size)
            refined = refine_picture(self._setup, numbers.array, seen).log_probabilities
            assert refined is not None
            self._answers[index] = refined
        for seq in [s for s in self._answers if s + self._delay <= index]:
            fusion.refine(0, seq, self._answers.pop(seq))
        return fusion.step(numbers, keyframe=keyframe).labels(answer.frame.size)[0]

    def report(self) -> UnlabelledReport:
        levels = self._levels
        total = int(levels.sum())
        mean = float((levels * np.arange(256)).sum()) / (255 * total) if total else None
        unsure = int(levels[: round(255 * UNSURE)].sum()) / total if total else None
        return UnlabelledReport(
            engine=self._engine.info.id,
            frames=self.frames,
            raw=self._raw.scores(self._names),
            fused=None if self._fusion is None else self._fused.scores(self._names),
            confidence=percent(mean),
            unsure=percent(unsure),
            agreement=None
            if self._match is None or self._second is None
            else self._match.scores(self._second.info.id),
        )


class _Match:
    """The labels of two engines, by the names that both have."""

    def __init__(self, ours: Sequence[str], theirs: Sequence[str]) -> None:
        plain = [[name.casefold() for name in names] for names in (ours, theirs)]
        self._common = [name for name in plain[0] if name in plain[1]]
        if len(self._common) < 2:
            raise TrainingError(
                f"--teacher: has {len(self._common)} classes of the engine's ({', '.join(ours[:6])}), among "
                f"its own ({', '.join(theirs[:6])}); two or more can agree"
            )
        self._shown = tuple(name for name in ours if name.casefold() in self._common)
        self._ours, self._theirs = (self._table(names) for names in plain)
        self._matrix: Matrix = np.zeros((len(self._common), len(self._common)), np.int64)

    def add(self, ours: U8, theirs: U8) -> None:
        mine, other = self._ours[ours], self._theirs[theirs]
        both = np.where(mine == IGNORE, mine, other)
        self._matrix += confusion_matrix(both, mine, len(self._common))

    def scores(self, engine: str) -> Agreement:
        scores = scores_of(self._matrix, self._shown, 0)
        return Agreement(engine=engine, classes=self._shown, pixels=scores.pixel_accuracy, miou=scores.miou)

    def _table(self, names: Sequence[str]) -> U8:
        table = np.full(256, IGNORE, np.uint8)
        for number, name in enumerate(names):
            if name in self._common:
                table[number] = self._common.index(name)
        return table
