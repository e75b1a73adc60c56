"""What the labels of a data set hold: pixels and images of every class, said before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamseg.errors import TrainingError
from streamseg.evaluation.dataset import IGNORE, LabelledFolder, Sample

MOST_NAMED = 3  # images in one line


class Census:
    """Counts over the images of one folder."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.names = names
        self.images = 0
        self.pixels: npt.NDArray[np.int64] = np.zeros(256, np.int64)  # of each label; IGNORE is unlabelled
        self.in_images: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        self.unlabelled: list[str] = []  # images without a labelled pixel
        self.pictures: dict[bytes, str] = {}  # names by what is in them
        self._hash = hashlib.sha256()

    @classmethod
    def of(cls, data: Path | LabelledFolder, names: tuple[str, ...]) -> Census:
        """Count a whole folder. Raises TrainingError when it cannot be used."""
        folder = data if isinstance(data, LabelledFolder) else LabelledFolder(data, len(names))
        census = cls(folder.folder, names)
        for sample in folder:
            census.add(sample)
        return census

    def add(self, sample: Sample) -> None:
        counts = np.bincount(sample.labels.ravel(), minlength=256)
        self.images += 1
        self.pixels += counts
        self.in_images += counts > 0
        if not counts[:IGNORE].any():
            self.unlabelled.append(sample.name)
        picture = hashlib.sha256(sample.rgb.tobytes()).digest()
        self.pictures.setdefault(picture, sample.name)
        self._hash.update(picture)
        self._hash.update(sample.labels.tobytes())

    @property
    def digest(self) -> str:
        """Changes with any picture or label of the folder."""
        return self._hash.hexdigest()

    @property
    def labelled(self) -> int:
        """Labelled pixels."""
        return int(self.pixels[:IGNORE].sum())

    @property
    def missing(self) -> list[str]:
        """The classes without a pixel."""
        return [name for name, count in zip(self.names, self.pixels, strict=False) if not count]

    def refuse_useless(self, what: str) -> None:
        """Raise TrainingError where nothing can be learnt from it, or chosen by it."""
        if not self.labelled:
            raise TrainingError(f"{self.folder}: every pixel is unlabelled ({IGNORE}){self._looks_like()}")
        if len(self.names) - len(self.missing) < 2:
            (only,) = set(self.names) - set(self.missing)
            raise TrainingError(
                f"{self.folder}: {what} has pixels of class {only!r} alone, none of "
                f"{_some([repr(n) for n in self.missing])}{self._looks_like()}"
            )

    def warnings(self, what: str) -> list[str]:
        """Lines about what is valid but probably unintended."""
        lines = []
        if self.missing:
            lines.append(
                f"{self.folder}: no pixel of {_some([repr(n) for n in self.missing])} in the {what} images"
                + self._looks_like()
            )
        if self.unlabelled:
            lines.append(
                f"{self.folder}: {len(self.unlabelled)} of {self.images} images have no labelled pixel "
                f"({_some(self.unlabelled)})"
            )
        return lines

    def _looks_like(self) -> str:
        """What the values look like, where they look like a common mistake."""
        seen = np.flatnonzero(self.pixels)
        if seen.tolist() == [0, IGNORE] and self.names:
            return (
                f"; the labels are 0 and {IGNORE} only: if these are binary masks, write {IGNORE} as 1, "
                f"because {IGNORE} means unlabelled"
            )
        if not self.pixels[0] and seen.size and seen[0] == 1:
            return "; labels begin at 0, and these begin at 1: are they one too high?"
        return ""


def class_table(train: Census, val: Census | None) -> list[str]:
    """Lines of a table: each class with its share of the labelled pixels and its images, in both folders."""
    parts = [("train", train)] + ([("val", val)] if val is not None else [])
    width = max(12, *(len(name) for name in train.names))
    lines = ["class".ljust(width) + "".join(f"  {name + ' pixels':>13}  {'images':>7}" for name, _ in parts)]
    for index, name in enumerate(train.names):
        line = name.ljust(width)
        for _, census in parts:
            share = 100 * int(census.pixels[index]) / max(census.labelled, 1)
            line += f"  {share:11.2f} %  {int(census.in_images[index]):7d}"
        lines.append(line)
    unlabelled = "unlabelled".ljust(width)
    for _, census in parts:
        share = 100 * int(census.pixels[IGNORE]) / max(int(census.pixels.sum()), 1)
        unlabelled += f"  {share:11.2f} %  {int(census.in_images[IGNORE]):7d}"
    return [*lines, unlabelled]


def shared_pictures(train: Census, val: Census) -> list[str]:
    """Warnings about validation images that are training images, too."""
    same = [name for picture, name in val.pictures.items() if picture in train.pictures]
    if not same:
        return []
    return [
        f"{val.folder}: {len(same)} of {val.images} validation images are training images, too "
        f"({_some(same)}): the score will flatter"
    ]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - MOST_NAMED
    return ", ".join(listed[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
