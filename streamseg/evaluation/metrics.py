"""Mean intersection over union and pixel accuracy, from one confusion matrix over all images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.errors import UsageError
from streamseg.evaluation.dataset import IGNORE, LabelledFolder

Labels = npt.NDArray[np.uint8]
Predict = Callable[[npt.NDArray[np.uint8]], Labels]
Matrix = npt.NDArray[np.int64]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores in per cent, two decimals; null where there was nothing to score.

    A class that is neither there nor predicted has no IoU, and without a labelled pixel nothing has a score.
    """

    miou: float | None
    pixel_accuracy: float | None
    per_class: dict[str, float | None]
    images: int
    pixels: int

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


def confusion_matrix(truth: Labels, predicted: Labels, classes: int) -> Matrix:
    """Counts (classes, classes): rows are the truth, columns the prediction. Truth 255 is left out."""
    if truth.shape != predicted.shape:
        raise UsageError(f"labels of shape {predicted.shape} against ground truth of shape {truth.shape}")
    counted = truth != IGNORE
    t, p = truth[counted], predicted[counted]
    if t.size and max(int(t.max()), int(p.max())) >= classes:
        raise UsageError(f"label {max(int(t.max()), int(p.max()))} with {classes} classes")
    return np.bincount(t.astype(np.int64) * classes + p, minlength=classes * classes).reshape(
        classes, classes
    )


def scores_of(matrix: Matrix, names: Sequence[str], images: int) -> Scores:
    """Scores of a confusion matrix. mIoU is the mean over classes that are in the truth or the prediction."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    iou = [float(h / u) if u else None for h, u in zip(hits, union, strict=True)]
    pixels = int(matrix.sum())
    return Scores(
        miou=percent(mean([share for share in iou if share is not None])),
        pixel_accuracy=percent(float(hits.sum()) / pixels if pixels else None),
        per_class={name: percent(share) for name, share in zip(names, iou, strict=True)},
        images=images,
        pixels=pixels,
    )


def evaluate(
    predict: Predict,
    data: Path | LabelledFolder,
    names: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score `predict` (RGB (H, W, 3) uint8 to labels (H, W) uint8) on every image of the folder `data`.

    `progress(done, of)` is called after each image. Raises TrainingError when the folder cannot be used.
    """
    folder = data if isinstance(data, LabelledFolder) else LabelledFolder(data, len(names))
    matrix: Matrix = np.zeros((len(names), len(names)), np.int64)
    for done, sample in enumerate(folder, start=1):
        matrix += confusion_matrix(sample.labels, predict(sample.rgb), len(names))
        if progress is not None:
            progress(done, len(folder))
    return scores_of(matrix, names, len(folder))


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None where there is nothing to take it of: never a number for nothing."""
    return sum(values) / len(values) if values else None


def percent(share: float | None) -> float | None:
    """A share in per cent, two decimals."""
    return None if share is None else round(100 * share, 2)


def shown(score: float | None, width: int = 0) -> str:
    """A score for people: two decimals, or a dash."""
    return f"{'–' if score is None else f'{score:.2f}':>{width}}"
