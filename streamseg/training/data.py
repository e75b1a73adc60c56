"""Training batches: the whole data set in memory as uint8, crops prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.errors import TrainingError
from streamseg.evaluation.dataset import LabelledFolder
from streamseg.inference.scaling import fit_size, scale_picture
from streamseg.models.slim import SIZE_MULTIPLE
from streamseg.training import augment
from streamseg.training.census import Census
from streamseg.training.recipe import TrainRecipe

Image = npt.NDArray[np.uint8]
Batch = tuple[Image, Image]  # RGB (N, h, w, 3) and labels (N, h, w)

BATCHES_AHEAD = 3
PLACES_KEPT = 256  # pixels remembered for each image and rare class, to centre crops on


class TrainingImages:
    """All images of a folder in memory, and the crops made of them.

    Crop i of epoch e depends on (seed, e, i) only: not on threads, nor on whether the run was interrupted.
    """

    def __init__(self, folder: Path, recipe: TrainRecipe) -> None:
        self._recipe = recipe
        self._images: list[tuple[Image, Image]] = []
        counts = np.zeros(256, np.int64)
        self.census = Census(folder, recipe.class_names)
        for sample in LabelledFolder(folder, len(recipe.classes)):
            self.census.add(sample)
            size = fit_size(sample.labels.shape, recipe.input_size, SIZE_MULTIPLE)  # as an engine sees it
            rgb = scale_picture(sample.rgb, size)
            labels = sample.labels
            if labels.shape != size:
                labels = np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            counts += np.bincount(labels.ravel(), minlength=256)
            self._images.append((rgb, labels))
        if len(self._images) < recipe.batch_size:
            raise TrainingError(
                f"{folder}: has {len(self._images)} images, fewer than batch_size ({recipe.batch_size})"
            )
        shares = counts[: len(recipe.classes)] / counts.sum()
        self.shares: npt.NDArray[np.float64] = shares
        self._rare = np.flatnonzero((shares < recipe.augment.rare_share) & (shares > 0))
        self._places = [self._find_places(i) for i in range(len(self._images))]
        self._donors = np.array([i for i, places in enumerate(self._places) if places], np.int64)

    @property
    def steps(self) -> int:
        """Batches in an epoch; a rest that does not fill a batch is left out."""
        return len(self._images) // self._recipe.batch_size

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, prepared ahead by threads; they end with the iterator."""
        size = self._recipe.batch_size
        order = np.random.default_rng([self._recipe.seed, epoch]).permutation(len(self._images))
        waiting: deque[list[Future[tuple[Image, Image]]]] = deque()
        with ThreadPoolExecutor(self._recipe.loader_threads, thread_name_prefix="crops") as pool:
            try:
                for step in range(self.steps + BATCHES_AHEAD):
                    if step < self.steps:
                        some = order[step * size : (step + 1) * size]
                        waiting.append([pool.submit(self.crop, epoch, int(index)) for index in some])
                    if step >= BATCHES_AHEAD and waiting:
                        crops = [future.result() for future in waiting.popleft()]
                        yield np.stack([c[0] for c in crops]), np.stack([c[1] for c in crops])
            finally:
                pool.shutdown(cancel_futures=True)

    def crop(self, epoch: int, index: int) -> tuple[Image, Image]:
        """One augmented crop of image `index`."""
        recipe = self._recipe.augment
        rng = np.random.default_rng([self._recipe.seed, epoch, index])
        rgb, labels = self._images[index]
        centre = None
        if self._places[index] and rng.random() < recipe.rare_crops:
            # First a class, then one of its pixels, so that small classes count as much as large ones.
            places = self._places[index][rng.integers(len(self._places[index]))]
            centre = tuple(places[rng.integers(len(places))])
        view = augment.random_view(rng, recipe, labels.shape, centre)
        rgb, labels = augment.warp(rgb, labels, view, recipe.crop_size)
        if len(self._donors) and rng.random() < recipe.paste:
            donor, donor_labels = self._images[int(rng.choice(self._donors))]
            wanted = np.zeros(256, np.bool_)
            wanted[self._rare] = rng.random(len(self._rare)) < 0.7
            view = augment.random_view(rng, recipe, donor_labels.shape, None)
            augment.paste(rgb, labels, *augment.warp(donor, donor_labels, view, recipe.crop_size), wanted)
        return augment.change_light(rng, recipe, rgb), labels

    def _find_places(self, index: int) -> list[npt.NDArray[np.int64]]:
        labels = self._images[index][1]
        rng = np.random.default_rng([self._recipe.seed, index])
        found = (np.argwhere(labels == rare) for rare in self._rare)
        return [rng.permutation(f)[:PLACES_KEPT] for f in found if len(f)]
