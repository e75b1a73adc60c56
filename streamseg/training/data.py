"""Training batches: the whole data set in memory as uint8, crops prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.errors import TrainingError
from streamseg.evaluation.dataset import LabelledFolder, Sample
from streamseg.inference.scaling import fit_size
from streamseg.models.slim import SIZE_MULTIPLE
from streamseg.refinement.flow import standing_still
from streamseg.training import augment
from streamseg.training.census import Census
from streamseg.training.recipe import TrainRecipe
from streamseg.training.soft import on_grid, paste_soft, soft_size, warp_soft
from streamseg.types import F32, Size
from streamseg.types.picture import scale_picture

Image = npt.NDArray[np.uint8]


class Picture(NamedTuple):
    """What is learnt from: a picture or a crop of one."""

    rgb: Image  # (h, w, 3)
    labels: Image  # (h, w)
    soft: Image | None = None  # (h/4, w/4, planes) of training/soft.py, where there are teachers


class Batch(NamedTuple):
    """Crops of one step; the last m may be the first m once more, moved."""

    rgb: Image  # (N, h, w, 3)
    labels: Image  # (N, h, w)
    soft: Image | None  # (N, h/4, w/4, planes)
    where: F32 | None = None  # (m, h/4, w/4, 2): x, y of each cell of the first m in the last m, in cells


BATCHES_AHEAD = 3
PLACES_KEPT = 256  # pixels remembered for each image and rare class, to centre crops on


class TrainingImages:
    """All images of a folder in memory, unlabelled ones behind them, and the crops made of them.

    Crop i of epoch e depends on (seed, e, i) only: not on threads, nor on whether the run was interrupted.
    """

    def __init__(
        self,
        folder: LabelledFolder | None,
        recipe: TrainRecipe,
        soft: Callable[[Image, Size], Image] | None = None,
        unlabelled: Iterable[Picture] = (),
    ) -> None:
        """folder: None where all that is learnt from is unlabelled. soft: the teachers' soft labels of a
        picture. unlabelled: pictures that teachers labelled.
        """
        self._recipe = recipe
        self.threads = recipe.loader_threads or 1
        self._images: list[Picture] = []
        counts = np.zeros(256, np.int64)
        self.census = Census(Path("--unlabelled") if folder is None else folder.folder, recipe.class_names)
        for sample in folder or ():
            self.census.add(sample)
            size = fit_size(sample.labels.shape, recipe.input_size, SIZE_MULTIPLE)  # as an engine sees it
            rgb = scale_picture(sample.rgb, size)
            labels = sample.labels
            if labels.shape != size:
                labels = np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            counts += np.bincount(labels.ravel(), minlength=256)
            self._images.append(Picture(rgb, labels, None if soft is None else soft(sample.rgb, size)))
        self.labelled = len(self._images)
        for number, picture in enumerate(unlabelled):
            self._images.append(picture)
            if folder is None:
                self.census.add(Sample(f"picture {number}", picture.rgb, picture.labels))
                counts += np.bincount(picture.labels.ravel(), minlength=256)
        self._share()
        shares = counts[: len(recipe.classes)] / counts.sum()
        self.shares: npt.NDArray[np.float64] = shares
        self._rare = np.flatnonzero((shares < recipe.augment.rare_share) & (shares > 0))
        self._places = [self._find_places(i) for i in range(len(self._images))]
        donors = self.labelled or len(self._images)
        self._donors = np.array([i for i, places in enumerate(self._places[:donors]) if places], np.int64)

    def _share(self) -> None:
        """Set how many crops of a batch are of each kind, and the steps of an epoch."""
        size, unlabelled = self._recipe.drawn_crops, len(self._images) - self.labelled
        self._others = round(self._recipe.distil.unlabelled_share * size) if unlabelled else 0
        if not self.labelled:
            self._others = size
        own = size - self._others
        images = self.labelled if own else unlabelled
        self.steps = images // (own or size)
        """Batches in an epoch: it passes over the labelled images, or over the others where those are all."""
        if not self.steps:
            more = "" if own == size or not own else f" without the {self._others} unlabelled ones of a batch"
            moved = (
                ""
                if size == self._recipe.batch_size
                else f" without the {self._recipe.temporal_moved} moved ones"
            )
            raise TrainingError(
                f"{self.census.folder}: has {images} images, fewer than batch_size "
                f"({self._recipe.batch_size}){more or moved}"
            )

    def _order(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """For each step of an epoch the images of its batch, with how often they were used before."""
        own, others = self._recipe.drawn_crops - self._others, self._others
        order = np.random.default_rng([self._recipe.seed, epoch]).permutation(self.labelled)
        rng = np.random.default_rng([self._recipe.seed, epoch, 0, 1])
        count = len(self._images) - self.labelled
        rounds = -(-self.steps * others // count) if others else 0
        drawn: list[tuple[int, int]] = []
        for again in range(rounds):
            drawn += [(self.labelled + int(i), again) for i in rng.permutation(count)]
        for step in range(self.steps):
            mine = order[step * own : (step + 1) * own]
            yield [(int(i), 0) for i in mine] + drawn[step * others : (step + 1) * others]

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, prepared ahead by threads; they end with the iterator."""
        order = list(self._order(epoch))
        waiting: deque[list[Future[Picture]]] = deque()
        motions: deque[list[augment.Affine]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="crops") as pool:
            try:
                for step in range(self.steps + BATCHES_AHEAD):
                    if step < self.steps:
                        wanted = self._with_moved(epoch, step, order[step])
                        motions.append([motion for *_, motion in wanted if motion is not None])
                        waiting.append([pool.submit(self.crop, epoch, *which) for which in wanted])
                    if step >= BATCHES_AHEAD and waiting:
                        crops = [future.result() for future in waiting.popleft()]
                        yield _stacked(crops, self._where(motions.popleft()))
            finally:
                pool.shutdown(cancel_futures=True)

    def _with_moved(
        self, epoch: int, step: int, drawn: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int, augment.Affine | None]]:
        """Image, repetition and motion of each crop of a batch."""
        still = [(*which, None) for which in drawn]
        rng = np.random.default_rng([self._recipe.seed, epoch, step, 3])
        crop_size = self._recipe.augment.crop_size
        again = drawn[: self._recipe.temporal_moved]
        return [*still, *((*which, augment.random_motion(rng, crop_size)) for which in again)]

    def _where(self, motions: Sequence[augment.Affine]) -> F32 | None:
        """Where each cell of a crop is after its motion."""
        if not motions:
            return None
        cells = standing_still(soft_size(self._recipe.augment.crop_size))
        grids = [on_grid(motion) for motion in motions]
        return np.stack([cells @ g[:, :2].T + g[:, 2] for g in grids]).astype(np.float32)

    def crop(self, epoch: int, index: int, again: int = 0, motion: augment.Affine | None = None) -> Picture:
        """One augmented crop of image `index`; `again` counts those of an epoch before it.

        motion: the same crop, so moved, in another light.
        """
        recipe = self._recipe.augment
        rng = np.random.default_rng([self._recipe.seed, epoch, index, *([again] if again else [])])
        rgb, labels, soft = self._images[index]
        centre = None
        if self._places[index] and rng.random() < recipe.rare_crops:
            # First a class, then one of its pixels, so that small classes count as much as large ones.
            places = self._places[index][rng.integers(len(self._places[index]))]
            centre = tuple(places[rng.integers(len(places))])
        view = augment.after(motion, augment.random_view(rng, recipe, labels.shape, centre))
        rgb, labels = augment.warp(rgb, labels, view, recipe.crop_size)
        if soft is not None:
            soft = warp_soft(soft, view, recipe.crop_size)
        if len(self._donors) and rng.random() < recipe.paste:
            donor, donor_labels, donor_soft = self._images[int(rng.choice(self._donors))]
            wanted = np.zeros(256, np.bool_)
            wanted[self._rare] = rng.random(len(self._rare)) < 0.7
            view = augment.after(motion, augment.random_view(rng, recipe, donor_labels.shape, None))
            seen, truth = augment.warp(donor, donor_labels, view, recipe.crop_size)
            augment.paste(rgb, labels, seen, truth, wanted)
            if soft is not None and donor_soft is not None:
                paste_soft(soft, warp_soft(donor_soft, view, recipe.crop_size), wanted[truth])
        if motion is not None:
            rng = np.random.default_rng([self._recipe.seed, epoch, index, again, 4])
        return Picture(augment.change_light(rng, recipe, rgb), labels, soft)

    def _find_places(self, index: int) -> list[npt.NDArray[np.int64]]:
        labels = self._images[index].labels
        rng = np.random.default_rng([self._recipe.seed, index])
        found = (np.argwhere(labels == rare) for rare in self._rare)
        return [rng.permutation(f)[:PLACES_KEPT] for f in found if len(f)]


def _stacked(crops: list[Picture], where: F32 | None) -> Batch:
    soft = [crop.soft for crop in crops if crop.soft is not None]
    return Batch(
        np.stack([crop.rgb for crop in crops]),
        np.stack([crop.labels for crop in crops]),
        np.stack(soft) if soft else None,
        where,
    )
