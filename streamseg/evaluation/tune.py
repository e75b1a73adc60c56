"""Search for an engine's CRF parameters on training images, coarse to fine, as the DeepLab papers do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from streamseg.config import CrfConfig, EngineConfig
from streamseg.config.text_file import read_text
from streamseg.crf import CrfParams, Quality
from streamseg.crf.params import KERNEL_KEYS
from streamseg.errors import EngineError, TrainingError
from streamseg.evaluation.boundaries import boundary_distance
from streamseg.evaluation.dataset import LabelledFolder
from streamseg.evaluation.engines import need_logits, picture_frame
from streamseg.evaluation.metrics import Matrix, confusion_matrix, scores_of
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits, numbers_of
from streamseg.inference.spec import parse_spec, read_spec
from streamseg.refinement.crf_step import CrfSetup, crf_setup, refine_picture
from streamseg.runtime.files import write_file
from streamseg.types import F32, IGNORE, U8
from streamseg.types.picture import scale_picture

BAND = 2  # pixels round true boundaries, whose mIoU counts as much as that of the whole picture
RARE = 0.02  # share of pixels below which a class may be thin: no other is narrower than the kernels
ROUNDS = 2  # over all axes: coarse, then between the best value and its neighbours

AXES: dict[str, tuple[float, ...]] = {
    "appearance_sigma_xy": (10, 20, 40, 80),
    "appearance_sigma_rgb": (2, 3, 5, 9),
    "appearance_weight": (1, 2, 4, 7),
    "smoothness_weight": (1, 3, 6),
    "smoothness_sigma": (0.7, 1, 2),
}

START = CrfParams()
NONE = CrfParams(smoothness_weight=0, appearance_weight=0, iterations=0)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the search, in per cent."""

    params: CrfParams
    miou: float | None
    trimap: float | None
    per_class: dict[str, float | None]

    @property
    def merit(self) -> float:
        assert self.miou is not None
        assert self.trimap is not None, "pictures without a boundary are refused"
        return self.miou + self.trimap


class TuneReport(msgspec.Struct, frozen=True, kw_only=True):
    """The search: without the CRF, with the best parameters, then with thin classes kept; and every trial."""

    images: list[str]
    raw: Trial
    best: Trial
    kept: Trial
    thin: list[str]  # rare classes whose IoU the best parameters lower: they stay as the network saw them
    trials: list[Trial]

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """A training image, and what does not change from trial to trial."""

    logits: F32
    rgb: U8  # of the network's input size
    truth: U8
    near: U8  # the truth in the band, IGNORE elsewhere


def tune_crf(
    config: EngineConfig,
    data: Path,
    images: int = 40,
    quality: Quality = "balanced",
    progress: Callable[[int, int], None] | None = None,
) -> TuneReport:
    """Choose CRF parameters that serve mIoU and the band at boundaries on `images` of the folder `data`.

    The images are spread evenly over the folder in the order of names, so over its drives: parameters tuned
    on a stretch of one drive do not hold elsewhere. Each axis in turn takes its best value, twice, the second
    time between the neighbours. Raises EngineError, TrainingError.
    """
    engine = load_engine(config)
    try:
        names = engine.info.spec.labels.names
        folder = LabelledFolder(data, len(names))
        chosen = np.linspace(0, len(folder) - 1, min(images, len(folder))).round().astype(int)
        samples = [folder[int(i)] for i in chosen]
        need_logits(engine.info.spec)
        setup = crf_setup(CrfConfig(quality=quality), engine.info.spec)
        pictures = []
        for sample in samples:
            (answer,) = infer(engine, [picture_frame(sample.rgb)])
            picture = scale_picture(sample.rgb, answer.geometry.input_size)
            near = np.where(boundary_distance(sample.labels) < BAND, sample.labels, np.uint8(IGNORE))
            pictures.append(_Picture(numbers_of(answer)[0].array, picture, sample.labels, near))
    finally:
        engine.close()
    if not any((picture.near != IGNORE).any() for picture in pictures):
        raise TrainingError(
            f"{data}: no two classes meet in the images tried, so there is nothing to tune by"
        )
    search = _Search(replace(setup, thin=(False,) * len(names)), pictures, names, progress)
    raw = search.trial(None)
    best = search.trial(START)
    for finer in range(ROUNDS):
        for axis, values in AXES.items():
            best = search.along(axis, values if not finer else between(values, best.params, axis), best)
    rare = _rare(pictures, names)
    thin = [n for n in rare if (best.per_class[n] or 0) < (raw.per_class[n] or 0)]
    kept = search.trial(best.params, thin) if thin else best
    if kept.merit < best.merit:
        thin, kept = [], best
    return TuneReport(
        images=[s.name for s in samples], raw=raw, best=best, kept=kept, thin=thin, trials=search.trials
    )


def _rare(pictures: Sequence[_Picture], names: Sequence[str]) -> list[str]:
    """Classes with less than RARE of the labelled pixels."""
    counts = np.bincount(np.concatenate([p.truth.ravel() for p in pictures]), minlength=256)[: len(names)]
    return [name for name, count in zip(names, counts, strict=True) if count < RARE * np.sum(counts)]


def between(values: Sequence[float], params: CrfParams, axis: str) -> tuple[float, ...]:
    """Halfway (as a ratio) from the value `params` has to its neighbours among `values`."""
    own = float(getattr(params, axis))
    below = max((v for v in values if v < own), default=own / 2)
    above = min((v for v in values if v > own), default=own * 2)
    return tuple(float(f"{(own * other) ** 0.5:.2g}") for other in (below, above))


class _Search:
    """Runs trials and remembers them."""

    def __init__(
        self,
        setup: CrfSetup,
        pictures: list[_Picture],
        names: Sequence[str],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.trials: list[Trial] = []
        self._setup = setup
        self._pictures = pictures
        self._names = names
        self._progress = progress
        self._most = 2 + sum(len(values) + 1 for values in AXES.values())  # about

    def along(self, axis: str, values: Sequence[float], best: Trial) -> Trial:
        """The best trial when one parameter takes each of `values` and the others stay."""
        tried = [
            self.trial(msgspec.structs.replace(best.params, **{axis: value}))
            for value in values
            if value != getattr(best.params, axis)
        ]
        return max([best, *tried], key=lambda trial: trial.merit)

    def trial(self, params: CrfParams | None, thin: Sequence[str] = ()) -> Trial:
        """Score the parameters on all pictures; None is without the CRF. thin: kept from the network."""
        classes = len(self._names)
        whole: Matrix = np.zeros((classes, classes), np.int64)
        near: Matrix = np.zeros((classes, classes), np.int64)
        for picture in self._pictures:
            labels = self._labels(picture, params, thin)
            whole += confusion_matrix(picture.truth, labels, classes)
            near += confusion_matrix(picture.near, labels, classes)
        count = len(self._pictures)
        total = scores_of(whole, self._names, count)
        trial = Trial(
            params=params or NONE,
            miou=total.miou,
            trimap=scores_of(near, self._names, count).miou,
            per_class=total.per_class,
        )
        self.trials.append(trial)
        if self._progress is not None:
            self._progress(len(self.trials), max(self._most, len(self.trials)))
        return trial

    def _labels(self, picture: _Picture, params: CrfParams | None, thin: Sequence[str]) -> U8:
        size = (picture.truth.shape[0], picture.truth.shape[1])
        if params is None:
            return labels_from_logits(picture.logits, size)[0]
        setup = replace(self._setup, params=params, thin=tuple(n in thin for n in self._names))
        labels = refine_picture(setup, picture.logits, picture.rgb, size).labels
        assert labels is not None
        return labels


def write_crf(folder: Path, params: CrfParams, thin: Sequence[str]) -> None:
    """Put parameters and thin classes into FOLDER/engine.toml, leaving the rest as it is.

    Raises EngineError when the file would not say what it should, and OutputError when it cannot be written;
    it is then left as it was.
    """
    path = folder / "engine.toml"
    read_spec(folder)  # says in one line what is wrong with it
    tables = re.split(r"(?m)^(?=\[)", read_text(path))
    kept = [_with_thin(table, thin) for table in tables if not re.match(r"\[crf\]", table)]
    values = [f"{key} = {getattr(params, key):g}" for key in KERNEL_KEYS]
    crf = "\n".join(["[crf]  # chosen by: streamseg eval --tune-crf", *values])
    after = "".join(kept).rstrip() + f"\n\n{crf}\n"
    if not _says(after, folder, params, thin):
        raise EngineError(f"{path}: is not laid out so that [crf] and thin can be written into it")
    write_file(path, after)


def _says(text: str, folder: Path, params: CrfParams, thin: Sequence[str]) -> bool:
    """Whether an engine.toml can be read, and has these parameters and thin classes."""
    try:
        spec = parse_spec(text, folder)
    except EngineError:
        return False
    right = {c.name for c in spec.classes if c.thin} == set(thin)
    return right and all(getattr(spec.crf, key) == getattr(params, key) for key in KERNEL_KEYS)


def _with_thin(table: str, thin: Sequence[str]) -> str:
    """The text of a [[classes]] table with `thin` set as it should be; of another one as it is."""
    name = re.search(r'(?m)^name = "(.*)"$', table)
    if not table.startswith("[[classes]]") or name is None:
        return table
    bare = re.sub(r"(?m)^thin = .*\n", "", table)
    end = len(bare.rstrip())
    return bare[:end] + "\nthin = true" + bare[end:] if name[1] in thin else bare
