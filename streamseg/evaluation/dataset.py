"""A folder of images and labels: `images/NAME.{jpg,png,webp}` goes with `labels/NAME.png` by its stem."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, cast

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.config import StreamConfig
from streamseg.errors import TrainingError
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types.picture import Picture

IGNORE = 255
FRAMES_APART = 5  # of a video
PALETTE = 3  # a PNG's colour type
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

Image = npt.NDArray[np.uint8]


class Sample(NamedTuple):
    """One image with its ground truth."""

    name: str
    rgb: Image  # (H, W, 3)
    labels: Image  # (H, W), IGNORE where unlabelled


class LabelledFolder:
    """The pairs of one folder, in the order of their names. Files are read when asked for, and checked then.

    Raises TrainingError, here when a file of a pair is missing, and on reading when a picture is damaged, its
    labels have another size, or a label is neither below `classes` nor 255.
    """

    def __init__(self, folder: Path, classes: int) -> None:
        self.folder = folder
        self.classes = classes
        images = _by_stem(folder / "images")
        labels = _by_stem(folder / "labels")
        for stem in sorted(images.keys() ^ labels.keys()):
            there, lacks = ("images", "labels") if stem in images else ("labels", "images")
            name = (images.get(stem) or labels[stem]).name
            raise TrainingError(f"{folder}: {there}/{name} has no matching file in {lacks}/")
        if not images:
            raise TrainingError(f"{folder}: images/ holds no {', '.join(sorted(SUFFIXES))} file")
        self._pairs = [(images[stem], labels[stem]) for stem in sorted(images)]

    def split(self, prefix: str) -> tuple[Self, Self]:
        """The pairs whose name does not begin with `prefix`, and those whose name does.

        Raises TrainingError where either would be empty.
        """
        parts: tuple[Self, Self] = copy.copy(self), copy.copy(self)
        for part, inside in zip(parts, (False, True), strict=True):
            part._pairs = [p for p in self._pairs if p[0].stem.startswith(prefix) == inside]
        if not parts[0] or not parts[1]:
            starts = sorted({p[0].stem.partition("_")[0] for p in self._pairs})
            raise TrainingError(
                f"{self.folder}: {'no' if not parts[1] else 'every'} image has a name that begins with "
                f"{prefix!r}; names begin with {', '.join(starts[:8])}{', …' if len(starts) > 8 else ''}"
            )
        return parts

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self._pairs[index]
        rgb = read_picture(image_path)
        labels = _read_labels(label_path)
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise TrainingError(
                f"{label_path}: labels must have one channel of 8 bits, this has shape {labels.shape} "
                f"and type {labels.dtype}"
            )
        if labels.shape != rgb.shape[:2]:
            raise TrainingError(
                f"{label_path}: is {labels.shape[1]}x{labels.shape[0]}, but its image "
                f"{image_path.name} is {rgb.shape[1]}x{rgb.shape[0]}"
            )
        wrong = labels[(labels >= self.classes) & (labels != IGNORE)]
        if wrong.size:
            raise TrainingError(
                f"{label_path}: label {wrong[0]} at {wrong.size} pixels; with {self.classes} classes labels "
                f"are 0 to {self.classes - 1}, or {IGNORE} for unlabelled"
                + ("; are they numbered from 1?" if wrong.max() == self.classes and labels.min() else "")
            )
        return Sample(image_path.stem, rgb, labels)


def pictures_of(data: str, most: int) -> list[Image]:
    """At most `most` RGB pictures (H, W, 3): of a folder or its images/, evenly by name, or of a video.

    Raises TrainingError or SourceError.
    """
    if not Path(data).is_dir():
        return list(islice(video_frames(data), 0, most * FRAMES_APART, FRAMES_APART))
    paths = picture_files(Path(data))
    chosen = sorted({len(paths) * i // most for i in range(most)}) if paths else []
    return [read_picture(paths[i]) for i in chosen]


def video_frames(source: str) -> Iterator[Image]:
    """The frames of a video, RGB (H, W, 3), in order; raises SourceError."""
    for picture in video_pictures(source):
        yield picture.rgb()


def video_pictures(source: str) -> Iterator[Picture]:
    """The same as they were decoded, so that they are scaled as those of a stream are."""
    with open_source(StreamConfig(source=source), "pictures") as opened:
        for frame in decode(opened, "pictures"):
            yield cast(Picture, frame.picture)


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, or in its images/ where it has one, by name; raises TrainingError."""
    images = folder / "images"
    return list(_by_stem(images if images.is_dir() else folder).values())


def read_picture(path: Path) -> Image:
    """One picture as RGB (H, W, 3); raises TrainingError."""
    return np.asarray(cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; a data set has images/ and labels/ in it")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise TrainingError(f"{folder}: has {found[path.stem].name} and {path.name}; remove one")
            found[path.stem] = path
    return found


def _read_labels(path: Path) -> Image:
    """The numbers in a label file; those of grey PNGs of 1, 2 or 4 bits, which OpenCV spreads, as written."""
    labels = _read(path, cv2.IMREAD_UNCHANGED)
    with path.open("rb") as file:
        header = file.read(26)
    if header[12:16] != b"IHDR":
        return labels
    bits, colour_type = header[24], header[25]
    if colour_type == PALETTE:
        raise TrainingError(
            f"{path}: is a PNG with a palette; write its class numbers as a grey PNG of 8 bits "
            "(docs/training.md, 1)"
        )
    return labels // np.uint8(255 // (2**bits - 1)) if bits < 8 else labels


def _read(path: Path, mode: int) -> Image:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), mode) if path.stat().st_size else None
    if image is None:
        raise TrainingError(f"{path}: cannot be read as a picture")
    return np.asarray(image)
