"""What the CRF and fusion do to an engine's masks, on labelled images or on a labelled sequence of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import numpy as np

from streamseg.config import CrfConfig, EngineConfig, StreamConfig
from streamseg.errors import TrainingError, UsageError
from streamseg.evaluation.boundaries import WIDTHS, boundary_distance, boundary_f
from streamseg.evaluation.dataset import LabelledFolder, Sample
from streamseg.evaluation.engines import need_logits, picture_frame
from streamseg.evaluation.metrics import Matrix, Scores, confusion_matrix, mean, percent, scores_of
from streamseg.evaluation.temporal import Where, agreement, flicker, motion
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of, numbers_of
from streamseg.refinement.crf_step import crf_setup, refine_picture
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fused, Fusion
from streamseg.refinement.smoothing import AHEAD, Smoothing
from streamseg.sources.live import frames
from streamseg.types import F32, IGNORE, U8

Progress = Callable[[int, int], None]


class VariantScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one way of making masks, in per cent; the last two only of a sequence."""

    miou: float | None  # null: there was nothing to score, here and below
    pixel_accuracy: float | None
    per_class: dict[str, float | None]
    trimap: dict[str, float | None]  # mIoU in a band of so many pixels round true boundaries
    boundary_f: float | None  # within 3 pixels
    consistency: float | None = None  # mIoU of successive masks, along the motion
    flicker: float | None = None  # pixels whose label changed along the motion
    frames: int


class RefinementReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every variant's scores, by part: all, and of a sequence its two halves."""

    engine: str
    crf: dict[str, Any]
    every: int | None = None  # a keyframe each so many frames; these are not scored
    delay: int | None = None  # frames after which its refinement is there
    parts: dict[str, dict[str, VariantScores]]

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(slots=True)
class Tally:
    """Counts of one variant over some frames; two can be added."""

    names: Sequence[str]
    frames: int = 0
    contours: list[float] = field(default_factory=list)
    bands: dict[int, Matrix] = field(default_factory=dict)  # 0 is the whole picture
    moved: Matrix | None = None

    def add(self, truth: U8, distance: F32, labels: U8, moved: Matrix | None) -> None:
        """Count a mask: its pixels' distance to a true boundary, and its agreement with the mask before."""
        classes = len(self.names)
        self.frames += 1
        score = boundary_f(truth, labels, classes)
        if score is not None:
            self.contours.append(score)
        for width in (0, *WIDTHS):
            inside = truth if not width else np.where(distance < width, truth, np.uint8(IGNORE))
            self._count(width, confusion_matrix(inside, labels, classes))
        if moved is not None:
            self.moved = moved if self.moved is None else self.moved + moved

    def __add__(self, other: Tally) -> Tally:
        total = Tally(self.names, self.frames + other.frames, self.contours + other.contours)
        for one in (self, other):
            for width, matrix in one.bands.items():
                total._count(width, matrix)
            if one.moved is not None:
                total.moved = one.moved if total.moved is None else total.moved + one.moved
        return total

    def scores(self) -> VariantScores:
        whole = self._scores(self.bands.get(0))
        changed = None if self.moved is None else flicker(self.moved)
        return VariantScores(
            miou=whole.miou,
            pixel_accuracy=whole.pixel_accuracy,
            per_class=whole.per_class,
            trimap={str(w): self._scores(self.bands.get(w)).miou for w in WIDTHS},
            boundary_f=percent(mean(self.contours)),
            consistency=self._scores(self.moved).miou,
            flicker=None if changed is None else round(changed, 2),
            frames=self.frames,
        )

    def _scores(self, matrix: Matrix | None) -> Scores:
        nothing: Matrix = np.zeros((len(self.names), len(self.names)), np.int64)
        return scores_of(nothing if matrix is None else matrix, self.names, self.frames)

    def _count(self, width: int, matrix: Matrix) -> None:
        self.bands[width] = self.bands[width] + matrix if width in self.bands else matrix


@dataclass(frozen=True, slots=True)
class SequenceOptions:
    """How a folder is read as a sequence of frames."""

    every: int = 5
    delay: int = 2
    video: Path | None = None  # its frames instead of the folder's images, in the order of their names


def evaluate_refinement(
    config: EngineConfig,
    crf: CrfConfig,
    data: Path,
    sequence: SequenceOptions | None = None,
    progress: Progress | None = None,
) -> RefinementReport:
    """Score masks of the network alone, with the CRF and, on a sequence, with fusion.

    The CRF runs on every frame, thin classes kept from the network. Fusion has keyframes each `every` frames
    and their refinement `delay` frames later, and no keyframe is scored. A sequence is scored in halves, too,
    and with the ground truth itself for comparison. Raises EngineError, ConfigError, TrainingError,
    SourceError.
    """
    one_thread()
    engine = load_engine(config)
    try:
        names = engine.info.spec.labels.names
        folder = LabelledFolder(data, len(names))
        samples: Iterable[Sample] = folder
        if sequence is not None:
            samples = _in_sequence(folder, sequence)
        run = _Run(engine, crf, sequence)
        parts = ("all",) if sequence is None else ("first half", "second half")
        tallies = {part: {v: Tally(names) for v in run.variants} for part in parts}
        for index, sample in enumerate(samples):
            part = parts[len(parts) * index // len(folder)]
            run.score(index, sample, tallies[part])
            if index + 1 == len(folder):
                run.finish()
            if progress is not None:
                progress(index + 1, len(folder))
        if sequence is not None:
            first, second = (tallies[part] for part in parts)
            tallies = {"all": {v: first[v] + second[v] for v in run.variants}, **tallies}
        return RefinementReport(
            engine=engine.info.id,
            crf={"quality": crf.quality, "backend": crf.backend, **msgspec.structs.asdict(run.setup.params)},
            every=None if sequence is None else sequence.every,
            delay=None if sequence is None else sequence.delay,
            parts={part: {v: t.scores() for v, t in by.items()} for part, by in tallies.items()},
        )
    finally:
        engine.close()


class _Run:
    """Makes the masks of every variant, frame by frame."""

    def __init__(self, engine: Engine, crf: CrfConfig, sequence: SequenceOptions | None) -> None:
        need_logits(engine.info.spec)
        self.engine = engine
        self.setup = crf_setup(crf, engine.info.spec)
        self.sequence = sequence
        self.variants: tuple[str, ...] = ("raw", "crf")
        if sequence is not None:
            self.variants = ("truth", "raw", "crf", "recursion", "fused", "smoothed")
        self._fusion = Fusion(self.setup.thin)
        self._recursion = Fusion(self.setup.thin)
        self._answers: dict[int, F32] = {}  # of keyframes that are still on their way
        self._smoothing = Smoothing(AHEAD)
        self._waiting: deque[tuple[int, Sample, dict[str, U8], dict[str, Tally]]] = deque()
        self._before: tuple[U8, dict[str, U8]] | None = None

    def score(self, index: int, sample: Sample, tallies: dict[str, Tally]) -> None:
        """Make the masks of one frame and count them; those of a sequence when the smoothed one is there."""
        masks, fused = self._masks(index, sample)
        if fused is None:
            self._count(index, sample, masks, tallies)
            return
        self._waiting.append((index, sample, masks, tallies))
        self._smoothed(self._smoothing.add(fused))

    def finish(self) -> None:
        """Count what waits for frames that do not come."""
        self._smoothed(self._smoothing.flush())

    def _smoothed(self, finished: list[Fused]) -> None:
        for smoothed in finished:
            index, sample, masks, tallies = self._waiting.popleft()
            labels, _ = smoothed.labels((sample.rgb.shape[0], sample.rgb.shape[1]))
            self._count(index, sample, {**masks, "smoothed": labels}, tallies)

    def _count(self, index: int, sample: Sample, masks: dict[str, U8], tallies: dict[str, Tally]) -> None:
        where = None
        if self.sequence is not None and self._before is not None:
            where = motion(sample.rgb, self._before[0])
        if self.sequence is None or index % self.sequence.every:
            distance = boundary_distance(sample.labels)
            for variant, labels in masks.items():
                moved = self._moved(variant, labels, where, len(tallies[variant].names))
                tallies[variant].add(sample.labels, distance, labels, moved)
        self._before = (sample.rgb, masks)

    def _masks(self, index: int, sample: Sample) -> tuple[dict[str, U8], Fused | None]:
        size = (sample.rgb.shape[0], sample.rgb.shape[1])
        (answer,) = infer(self.engine, [picture_frame(sample.rgb, index)])
        scores, _ = numbers_of(answer)
        picture = scores.frame.scaled(scores.geometry.input_size)
        refined = refine_picture(self.setup, scores.array, picture, size)
        assert refined.labels is not None
        assert refined.log_probabilities is not None
        masks = {"raw": labels_of(answer, size)[0], "crf": refined.labels}
        if self.sequence is None:
            return masks, None
        keyframe = index % self.sequence.every == 0
        if keyframe:
            self._answers[index] = refined.log_probabilities
        for seq in [s for s in self._answers if s + self.sequence.delay <= index]:
            self._fusion.refine(0, seq, self._answers.pop(seq))
        fused = self._fusion.step(scores, keyframe=keyframe)
        recursion = self._recursion.step(scores)
        masks["fused"], _ = fused.labels(size)
        masks["recursion"], _ = recursion.labels(size)
        return {"truth": sample.labels, **masks}, fused

    def _moved(self, variant: str, labels: U8, where: Where | None, classes: int) -> Matrix | None:
        if where is None or self._before is None:
            return None
        return agreement(labels, self._before[1][variant], where, classes)


def _in_sequence(folder: LabelledFolder, sequence: SequenceOptions) -> Iterator[Sample]:
    """The frames of a sequence, all of one size; refuses one of which no frame would be scored."""
    if sequence.every < 2:
        raise UsageError("--every: must be 2 or more: keyframes are not scored, and with 1 each frame is one")
    if len(folder) < 2:
        raise TrainingError(f"{folder.folder}: a sequence has two frames or more; this has {len(folder)}")
    samples: Iterable[Sample] = folder
    if sequence.video is not None:
        samples = _with_video(folder, sequence.video)
    first: Sample | None = None
    for sample in samples:
        first = first or sample
        if sample.labels.shape != first.labels.shape:
            raise TrainingError(
                f"{folder.folder}: the frames of a sequence have one size; {first.name} is "
                f"{_wide_high(first)}, {sample.name} {_wide_high(sample)}"
            )
        yield sample


def _wide_high(sample: Sample) -> str:
    return f"{sample.labels.shape[1]}x{sample.labels.shape[0]}"


def _with_video(folder: LabelledFolder, video: Path) -> Iterator[Sample]:
    """The video's frames with the folder's labels, by their numbers; UsageError where the counts differ."""
    config = StreamConfig(source=str(video))
    index = -1
    for index, frame in enumerate(frames(config, "eval", Event(), lambda event: None)):
        if index >= len(folder):
            raise UsageError(f"{video}: has more frames than the {len(folder)} labelled images")
        truth = folder[index]
        if frame.size != truth.labels.shape:
            raise UsageError(f"{video}: frames of {frame.size}, labels of {truth.labels.shape}")
        yield Sample(truth.name, frame.rgb, truth.labels)
    if index + 1 != len(folder):
        raise UsageError(f"{video}: has {index + 1} frames for {len(folder)} labelled images")
