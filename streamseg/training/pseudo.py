"""What teachers say of pictures, computed once: soft labels, and of unlabelled pictures and videos labels.

Labels of unlabelled pictures are the teachers' after the CRF, in a video after fusion and smoothing, which
know the frames before and behind. Where teachers are not sure, there is no label. What they said is kept in
the cache, under everything it depends on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import cv2
import msgspec
import numpy as np

from streamseg.config.reading import sha256_of
from streamseg.crf import CrfParams
from streamseg.errors import TrainingError, UsageError
from streamseg.evaluation.dataset import IGNORE, picture_files, read_picture, video_frames
from streamseg.inference.scaling import fit_size
from streamseg.models.slim import SIZE_MULTIPLE
from streamseg.refinement.crf_step import CrfSetup, need_crf, refine_picture
from streamseg.refinement.fusion import Fused, Fusion
from streamseg.refinement.keyframes import KeyframeSelector
from streamseg.refinement.smoothing import AHEAD, Smoothing
from streamseg.runtime.files import make_folder, written
from streamseg.runtime.folders import cache_folder
from streamseg.training.data import Picture
from streamseg.training.recipe import TrainRecipe
from streamseg.training.soft import encode, soft_size
from streamseg.training.teachers import Group
from streamseg.types import F32, U8, Frame, Geometry, Logits, Size, Stamp
from streamseg.types.picture import scale_picture

logger = logging.getLogger(__name__)

FORMAT = 1  # of what is cached
TOLD_EVERY_S = 15
SURE_OF_CLASSES = 0.5  # share of a pixel that has to be of the classes the teachers share with the recipe

_NOTHING: U8 = np.zeros((0, 0), np.uint8)

T = TypeVar("T")


class Lessons:
    """Asks teachers, or the cache what they said before."""

    def __init__(self, groups: Sequence[Group], recipe: TrainRecipe) -> None:
        self._groups, self._recipe = groups, recipe
        cache = cache_folder("soft-labels")
        self._plain = make_folder(cache / self._key(refined=False))
        self._refined = cache / self._key(refined=True)
        self._hash = hashlib.sha256()
        self._asked, self._told_s = 0, time.monotonic()

    @property
    def seen(self) -> str:
        """A digest of all unlabelled pictures so far."""
        return self._hash.hexdigest()

    def soft(self, rgb: U8, size: Size) -> U8:
        """The soft labels of a picture (H, W, 3) that is learnt from at `size`."""
        path = (
            self._plain
            / f"{hashlib.sha256(repr((rgb.shape, size)).encode() + rgb.tobytes()).hexdigest()}.npz"
        )
        kept = _load(path)
        if kept is not None and kept.soft is not None:
            return kept.soft
        self._asked += 1
        if time.monotonic() - self._told_s > TOLD_EVERY_S:
            self._told_s = time.monotonic()
            logger.info("teachers: asked about %d labelled pictures", self._asked)
        grid = soft_size(size)
        soft = np.concatenate(
            [encode(g.probabilities(rgb, grid, self._recipe)) for g in self._groups], axis=2
        )
        _save(path, Picture(_NOTHING, _NOTHING, soft))
        return soft

    def unlabelled(self, sources: Iterable[str]) -> Iterator[Picture]:
        """The pictures of folders and videos, at the size they are learnt from; raises StreamsegError."""
        for source in sources:
            make_folder(self._refined)
            found = self._folder(Path(source)) if Path(source).is_dir() else self._video(source)
            pictures = 0
            for picture in found:
                pictures += 1
                self._hash.update(picture.rgb.tobytes())
                yield picture
            if not pictures:
                raise TrainingError(f"--unlabelled {source}: holds no picture")
            logger.info("--unlabelled %s: %d pictures", source, pictures)

    def _folder(self, folder: Path) -> Iterator[Picture]:
        for file in _told(picture_files(folder), f"teachers: {folder}"):
            rgb = read_picture(file)
            path = self._refined / f"{hashlib.sha256(rgb.tobytes()).hexdigest()}.npz"
            picture = _load(path)
            if picture is None:
                (picture,) = _sequence([rgb], self._groups, self._recipe)
                _save(path, picture)
            yield picture

    def _video(self, source: str) -> Iterator[Picture]:
        if not Path(source).is_file():
            raise UsageError(f"--unlabelled {source}: no such file or folder")
        folder = self._refined / sha256_of(source)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=self._refined) as made:
                inside = make_folder(Path(made) / "pictures")
                frames = _told(video_frames(source), f"teachers: {source}")
                for number, picture in enumerate(_sequence(frames, self._groups, self._recipe)):
                    _save(inside / f"{number:06}.npz", picture)
                if not folder.exists():
                    os.replace(inside, folder)
        for path in sorted(folder.iterdir()):
            kept = _load(path)
            if kept is None:
                raise TrainingError(f"{path}: is damaged; remove the folder {folder}, it is made again")
            yield kept

    def _key(self, refined: bool) -> str:
        recipe, distil = self._recipe, self._recipe.distil
        parts: list[object] = [
            FORMAT,
            [(g.known.classes, g.known.weight, [t.identity for t in g.teachers]) for g in self._groups],
            [(entry.name, entry.thin) for entry in recipe.classes],
            (recipe.input_size, distil.scales, distil.mirrored, distil.classes),
        ]
        if refined:
            parts += [
                distil.every,
                distil.sure,
                [msgspec.to_builtins(g.teachers[0].crf) for g in self._groups],
            ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]


def _sequence(frames: Iterable[U8], groups: Sequence[Group], recipe: TrainRecipe) -> Iterator[Picture]:
    """Every so many of successive frames (H, W, 3), with what the teachers make of the sequence."""
    selector = KeyframeSelector(recipe.distil.every)
    memories = [_Memory(group, recipe) for group in groups]
    waiting: deque[tuple[U8, bool]] = deque()  # pictures, and whether they are learnt from
    finished: list[deque[tuple[Fused, F32]]] = [deque() for _ in groups]

    def ready() -> Iterator[Picture]:
        while all(finished):
            (picture, wanted), fused = waiting.popleft(), [queue.popleft() for queue in finished]
            if wanted:
                yield _picture(picture, fused, groups, recipe)

    for index, rgb in enumerate(frames):
        size = fit_size((rgb.shape[0], rgb.shape[1]), recipe.input_size, SIZE_MULTIPLE)
        picture, wanted = scale_picture(rgb, size), index % recipe.distil.every == 0
        waiting.append((picture, wanted))
        cut = False
        for number, memory in enumerate(memories):
            logits, known = memory.look(index, rgb, picture)
            cut = cut if number else selector.observe(logits).cut
            finished[number] += memory.add(logits, known, wanted, cut)
        yield from ready()
    for queue, memory in zip(finished, memories, strict=True):
        queue += memory.rest()
    yield from ready()


@dataclass(slots=True, init=False)
class _Memory:
    """What a group of teachers knows of a sequence so far."""

    group: Group
    recipe: TrainRecipe
    setup: CrfSetup
    fusion: Fusion
    smoothing: Smoothing
    waiting: deque[F32]  # how much of each frame's pixels the group knows

    def __init__(self, group: Group, recipe: TrainRecipe) -> None:
        thin = tuple(recipe.classes[known].thin for known in group.known.classes)
        self.group, self.recipe = group, recipe
        self.setup = CrfSetup(_fitting(group, recipe), "balanced", max(1, recipe.threads), "native", thin)
        need_crf(self.setup)
        self.fusion, self.smoothing, self.waiting = Fusion(thin), Smoothing(AHEAD), deque()

    def look(self, index: int, rgb: U8, picture: U8) -> tuple[Logits, F32]:
        size = (picture.shape[0], picture.shape[1])
        seen = self.group.probabilities(rgb, soft_size(size), self.recipe)
        frame = Frame(Stamp("teachers", 0, index, None, Fraction(1), 0, "arrival"), picture, 0)
        logs = np.log(np.maximum(seen, np.float32(1e-12)))
        return Logits(frame, logs, Geometry(size, size)), seen.sum(0)

    def add(self, logits: Logits, known: F32, refine: bool, cut: bool) -> list[tuple[Fused, F32]]:
        refined = (
            refine_picture(self.setup, logits.array, logits.frame.rgb).log_probabilities if refine else None
        )
        self.waiting.append(known)
        fused = self.fusion.step(logits, cut=cut, refined=refined)
        return self._with_known(self.smoothing.add(fused, cut))

    def rest(self) -> list[tuple[Fused, F32]]:
        return self._with_known(self.smoothing.flush())

    def _with_known(self, finished: list[Fused]) -> list[tuple[Fused, F32]]:
        return [(fused, self.waiting.popleft()) for fused in finished]


def _fitting(group: Group, recipe: TrainRecipe) -> CrfParams:
    """The first teacher's own parameters, without a compatibility between its classes where these differ."""
    crf = group.teachers[0].crf
    same = group.teachers[0].classes == tuple(recipe.class_names[known] for known in group.known.classes)
    return crf if same else msgspec.structs.replace(crf, compatibility=None)


def _picture(
    rgb: U8, fused: Sequence[tuple[Fused, F32]], groups: Sequence[Group], recipe: TrainRecipe
) -> Picture:
    size = (rgb.shape[0], rgb.shape[1])
    grid = soft_size(size)
    labels = np.full(size, IGNORE, np.uint8)
    soft = []
    for group, (frame, known) in zip(groups, fused, strict=True):
        logs = frame.log_probabilities
        posterior = np.exp(logs - logs.max(0))
        posterior /= posterior.sum(0)
        small = np.stack([cv2.resize(p, grid[::-1], interpolation=cv2.INTER_AREA) for p in posterior])
        soft.append(encode(small * known))
        if len(group.known.classes) == len(recipe.classes) and (labels == IGNORE).all():
            found, confidence = frame.labels(size, confidence=True)
            assert confidence is not None
            of_these = cv2.resize(known, size[::-1], interpolation=cv2.INTER_LINEAR) >= SURE_OF_CLASSES
            sure = of_these & (confidence >= round(255 * recipe.distil.sure))
            labels[sure] = found[sure]
    return Picture(rgb, labels, np.concatenate(soft, axis=2))


def _told(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, with a line of the log now and then."""
    last = time.monotonic()
    for count, item in enumerate(items):
        if time.monotonic() - last > TOLD_EVERY_S:
            last = time.monotonic()
            logger.info("%s: %d pictures done", what, count)
        yield item


def _save(path: Path, picture: Picture) -> None:
    arrays = {name: array for name, array in picture._asdict().items() if array is not None}
    with written(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _load(path: Path) -> Picture | None:
    """What was kept; None where nothing was, or where it is damaged."""
    try:
        with np.load(path) as kept:
            return Picture(kept["rgb"], kept["labels"], kept["soft"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
